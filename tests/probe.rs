//! `healthz probe`: exit codes, output and time limits, against healthz and against servers that answer anything.
//!
//! The contracts of Docker, Kubernetes, Nagios, node-problem-detector, runit and s6 are exit codes and lengths of the
//! output. tests/managers.py and tests/probe.py run the real programs of some of them.
#![cfg(feature = "client")]
#![cfg(test)]

#[path = "support/daemon.rs"]
mod daemon;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use daemon::{Daemon, TIMEOUT, end_of, eventually, healthz, run, temp_path, untried};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const FAILING: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 82\r\n\r\n\
    [+]ping ok\n[-]disk failed: /var: 3.1% free, needs 10%\n[-]etcd failed\ncheck failed\n";

/// Runs `healthz probe` with `args`. If they have no timeout, it is one that a busy machine does not reach.
fn probe(args: &[&str]) -> Output {
    run(&[&["probe", "--timeout", "10s"], args].concat())
}

/// Exit code, standard output and standard error.
fn result(output: &Output) -> (i32, &str, &str) {
    (
        output.status.code().unwrap(),
        std::str::from_utf8(&output.stdout).unwrap(),
        std::str::from_utf8(&output.stderr).unwrap(),
    )
}

/// A server that answers each connection with `answer` as soon as it has a request. Returns its URL.
fn server(answer: impl Into<Vec<u8>>) -> String {
    let answer = answer.into();
    serve(move |mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(&answer);
    })
}

/// A server that calls `handle` with each connection, one after the other. Returns its URL.
fn serve(mut handle: impl FnMut(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            handle(stream.unwrap());
        }
    });
    format!("http://{address}/healthz")
}

fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            break;
        }
        request.extend(byte);
    }
    String::from_utf8(request).unwrap()
}

/// The URL of a port on which no process listens.
fn closed_port() -> (u16, String) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (port, format!("http://127.0.0.1:{port}/healthz"))
}

#[test]
fn a_healthy_daemon_is_silent_and_verbose_prints_the_body() {
    let daemon = Daemon::start(&[]);
    let url = format!("http://{}/healthz?verbose", daemon.address());
    assert_eq!(result(&probe(&[&url])), (0, "", ""));
    let body = "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n";
    assert_eq!(result(&probe(&["-v", &url])), (0, body, ""));
    // A body without a line end gets one.
    let url = format!("http://{}", daemon.address());
    assert_eq!(result(&probe(&["--verbose", &url])), (0, "ok\n", ""));
}

#[test]
fn a_unix_socket_has_a_path_after_a_colon() {
    let path = temp_path();
    let socket = format!("unix:{}", path.display());
    let daemon = Daemon::start(&["--listen", &socket]);
    daemon.lines().wait("serving ");
    assert_eq!(result(&probe(&[&socket])), (0, "", ""));
    let readyz = format!("{socket}:/readyz?verbose");
    let output = probe(&["-v", &readyz]);
    let (code, stdout, _) = result(&output);
    assert_eq!(code, 0);
    assert!(stdout.contains("readyz check passed"), "{stdout}");
    assert_eq!(result(&probe(&[&format!("{socket}:/frob")])).0, 4);
    drop(daemon);
    // The file may be left.
    let output = probe(&[&socket]);
    let (code, stdout, stderr) = result(&output);
    assert_eq!((code, stdout), (3, ""));
    let named = format!(" on {socket}; is healthz running?");
    assert!(stderr.contains(&named), "{stderr}");
}

#[test]
fn exit_codes_differ_for_unhealthy_no_answer_and_other_answers() {
    let (port, refused) = closed_port();
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok";
    for (url, code, stdout, stderr) in [
        (server(OK), 0, "", ""),
        (
            server("HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n"),
            0,
            "",
            "",
        ),
        (server("HTTP/1.0 204 No Content\r\n\r\n"), 0, "", ""),
        (
            server("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
            0,
            "",
            "",
        ),
        (
            server(FAILING),
            1,
            "[-]disk failed: /var: 3.1% free, needs 10%\n",
            "",
        ),
        (
            server(
                "HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nover \r\n7\r\nloaded\n\r\n0\r\n\r\n",
            ),
            1,
            "over loaded\n",
            "",
        ),
        (
            server("HTTP/1.1 503\r\n\r\n"),
            1,
            "503 without a text\n",
            "",
        ),
        (
            server("HTTP/1.1 404 Not Found\r\n\r\n"),
            4,
            "",
            ": 404 for /healthz from 127.0.0.1:",
        ),
        (
            server("HTTP/1.1 405 No\r\n\r\n"),
            4,
            "",
            ": 405 for /healthz from 127.0.0.1:",
        ),
        (
            server("SSH-2.0-OpenSSH_9.2\r\n"),
            4,
            "",
            "not an HTTP/1 response; is this the URL of",
        ),
        (
            server(cut),
            4,
            "",
            "closed after 2 of 9 bytes of the body; is this",
        ),
        (server(""), 3, "", "closed without a response"),
        (
            refused,
            3,
            "",
            &format!(
                "healthz: connection refused on 127.0.0.1:{port}; is healthz running? pass the URL if"
            ),
        ),
    ] {
        let output = probe(&[&url]);
        let (found, out, err) = result(&output);
        assert_eq!((found, out), (code, stdout), "{stderr} {err}");
        assert!(
            err.contains(stderr) && err.is_empty() == stderr.is_empty(),
            "{err}"
        );
        assert!(err.lines().count() <= 1, "{err}");
        let flat = probe(&["--flat", &url]);
        let (found, out, err) = result(&flat);
        assert_eq!((found, err), (i32::from(code != 0), ""));
        assert!(out.len() <= 80 && out.is_empty() == (code == 0), "{out}");
    }
}

#[test]
fn wrong_usage_is_2_with_the_nearest_name() {
    for (args, expected) in [
        (
            &["probe", "--tiemout", "1s"][..],
            "unknown option --tiemout; did you mean --timeout?",
        ),
        (&["prboe"], "unknown command prboe; did you mean probe?"),
        (
            &["probe", "localhost:1"],
            "URL localhost:1: expected a URL such as http://localhost:10248/readyz",
        ),
        (
            &["probe", "http://db.example/"],
            "names are not resolved; expected an IP address or localhost",
        ),
    ] {
        let output = run(args);
        let (code, stdout, stderr) = result(&output);
        assert_eq!((code, stdout), (2, ""));
        assert!(
            stderr.starts_with("healthz: ") && stderr.contains(expected),
            "{stderr}"
        );
    }
    let help = probe(&["--help"]);
    assert_eq!(result(&help), result(&run(&["help", "probe"])));
    let (code, stdout, _) = result(&help);
    assert!(code == 0 && stdout.lines().count() < 24, "{stdout}");
    let named = [
        "--timeout",
        "--count",
        "--interval",
        "--json",
        "--flat",
        "--nagios",
    ];
    assert!(
        named.iter().all(|option| stdout.contains(option)),
        "{stdout}"
    );
}

#[test]
fn localhost_is_both_addresses() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        return untried("no IPv6");
    };
    let port = listener.local_addr().unwrap().port();
    let url = format!("http://localhost:{port}/");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let request = read_request(&mut stream);
        stream.write_all(OK.as_bytes()).unwrap();
        request
    });
    let output = probe(&["--json", &url]);
    let request = server.join().unwrap();
    assert!(request.starts_with("GET / HTTP/1.1\r\n"), "{request}");
    assert!(
        request.contains(&format!("\r\nHost: localhost:{port}\r\n")),
        "{request}"
    );
    assert!(request.contains("\r\nConnection: close\r\n"), "{request}");
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["address"], format!("[::1]:{port}"));
    // No process listens on the port now.
    let output = probe(&[&url]);
    let refused = format!(
        "healthz: connection refused on 127.0.0.1:{port} and [::1]:{port}; \
         is healthz running? pass the URL if it listens elsewhere\n"
    );
    assert_eq!(result(&output), (3, "", refused.as_str()));
}

#[test]
fn each_failure_to_connect_has_its_own_advice() {
    let file = temp_path();
    std::fs::write(&file, "").unwrap();
    let url = format!("unix:{}", file.display());
    let output = probe(&[&url]);
    let (code, stdout, stderr) = result(&output);
    assert_eq!((code, stdout), (3, ""), "{stderr}");
    let expected = format!(
        " on {url}; this is not a socket; pass the path of the one on which the server listens\n"
    );
    assert!(stderr.ends_with(&expected), "{stderr}");
    // The fourth descriptor is that of epoll, and none is left for the connection.
    let mut shell = std::process::Command::new("/bin/sh");
    let program = env!("CARGO_BIN_EXE_healthz");
    let line = format!("ulimit -n 4; exec {program} probe {}", server(OK));
    shell.args(["-c", &line]);
    let output = end_of(shell);
    let (code, stdout, stderr) = result(&output);
    assert_eq!((code, stdout), (3, ""), "{stderr}");
    assert!(
        stderr.contains("files on 127.0.0.1:")
            || stderr.contains("descriptors available on 127.0.0.1:"),
        "{stderr}"
    );
    assert!(
        stderr.ends_with("; see the limit of open files (ulimit -n)\n"),
        "{stderr}"
    );
}

/// Asserts that a probe ends soon after its timeout, with 3 and `text`.
#[track_caller]
fn times_out(url: &str, text: &str) {
    let start = Instant::now();
    let output = probe(&["--timeout", "100ms", url]);
    let time = start.elapsed();
    let (code, stdout, stderr) = result(&output);
    assert_eq!((code, stdout), (3, ""), "{stderr}");
    assert!(stderr.contains(text), "{stderr}");
    assert!(
        time >= Duration::from_millis(100) && time < TIMEOUT / 2,
        "{time:?}"
    );
}

#[test]
fn the_timeout_holds_against_a_server_that_sends_one_byte_at_a_time() {
    for (head, text) in [
        (
            "HTTP/1.1 200 OK\r\nA: ",
            " did not finish its answer within 100ms; see what the server does, or raise --timeout",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n",
            " did not finish its answer within 100ms; see what",
        ),
    ] {
        let url = serve(move |mut stream| {
            read_request(&mut stream);
            let _ = stream.set_nodelay(true);
            let _ = stream.write_all(head.as_bytes());
            // The loop ends when the client closes the connection, at its timeout.
            while stream.write_all(b"x").is_ok() {
                thread::park_timeout(Duration::from_millis(5));
            }
        });
        times_out(&url, text);
    }
}

#[test]
fn the_timeout_holds_against_a_server_that_never_answers_or_accepts() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = silent.local_addr().unwrap();
    let text = format!("{address} accepted, but sent no answer within 100ms; see what");
    times_out(&format!("http://{address}"), &text);

    // The queue of this one is full.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&SockAddr::from(std::net::SocketAddr::from((
        [127, 0, 0, 1],
        0,
    ))))
    .unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let waiting = Duration::from_millis(50);
    let held: Vec<_> = std::iter::from_fn(|| TcpStream::connect_timeout(&address, waiting).ok())
        .take(100)
        .collect();
    assert!(held.len() < 100);
    let text = format!("{address} did not accept a connection within 100ms; look whether");
    times_out(&format!("http://{address}"), &text);

    let path = temp_path();
    let full = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    full.bind(&SockAddr::unix(&*path).unwrap()).unwrap();
    full.listen(0).unwrap();
    let held: Vec<_> = std::iter::from_fn(|| {
        let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        let connected = client.connect(&SockAddr::unix(&*path).unwrap());
        connected.map(|()| client).ok()
    })
    .take(100)
    .collect();
    assert!(held.len() < 100);
    let url = format!("unix:{}", path.display());
    times_out(
        &url,
        &format!("{url} did not accept a connection within 100ms"),
    );
}

#[test]
fn a_full_queue_of_a_unix_socket_is_tried_again() {
    let path = temp_path();
    let listener = UnixListener::bind(&*path).unwrap();
    // As small as it can be: from now on there is room for one.
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let held = UnixStream::connect(&*path).unwrap();
    let url = format!("unix:{}", path.display());
    let mut command = healthz(&["probe", "--timeout", "10s", &url]);
    let mut child = command.spawn().unwrap();
    // The probe sleeps before each of its attempts. The start of a program takes fewer switches than this.
    eventually("the probe to try again", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let mut lines = status.lines();
        let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        (count?.trim().parse::<u32>().unwrap() >= 20).then_some(())
    });
    drop(held);
    let (mut stream, _) = listener.accept().unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(OK.as_bytes()).unwrap();
    let status = eventually("the probe to end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn an_endless_answer_is_cut() {
    let endless = |head: &'static str, piece: &'static str| {
        serve(move |mut stream| {
            read_request(&mut stream);
            let _ = stream.write_all(head.as_bytes());
            let piece = piece.repeat(1000);
            while stream.write_all(piece.as_bytes()).is_ok() {}
        })
    };
    let output = probe(&["-v", &endless("HTTP/1.1 200 OK\r\n\r\n", "abcdefg\n")]);
    let (code, stdout, _) = result(&output);
    assert_eq!((code, stdout.len()), (0, 64 * 1024));
    let output = probe(&[&endless("HTTP/1.1 500 No\r\n\r\n", "x")]);
    let (code, stdout, _) = result(&output);
    assert_eq!((code, stdout.len()), (1, 80));
    assert!(stdout.ends_with("x...\n"), "{stdout}");
    let output = probe(&[&endless("HTTP/1.1 200 OK\r\nA: ", "x")]);
    let (code, _, stderr) = result(&output);
    assert_eq!(code, 4);
    assert!(
        stderr.contains("response head of more than 16 KiB"),
        "{stderr}"
    );
}

#[test]
fn control_characters_of_the_server_are_escaped() {
    let url = server("HTTP/1.1 500 x\r\n\r\n\x1b]0;title\x07\x1b[31m|red\nnext");
    let escaped = "\\u{1b}]0;title\\u{7}\\u{1b}[31m";
    let line = format!("{escaped}|red\n");
    assert_eq!(result(&probe(&[&url])), (1, line.as_str(), ""));
    let body = format!("{escaped}|red\nnext\n");
    assert_eq!(result(&probe(&["-v", &url])), (1, body.as_str(), ""));
    let output = probe(&["--nagios", &url]);
    // Only one bar: it begins the performance data.
    let start = format!("HEALTHZ CRITICAL - {escaped}\\u{{7c}}red | time=");
    let stdout = result(&output).1;
    assert!(
        stdout.starts_with(&start) && stdout.matches('|').count() == 1,
        "{stdout}"
    );
}

/// Monitoring Plugins Development Guidelines: 0, 1, 2 or 3, one line on standard output, performance data after a bar
/// as `label=value[unit];warn;crit;min;max`.
#[test]
fn a_nagios_plugin_prints_one_line_with_performance_data() {
    let (_, refused) = closed_port();
    for (args, code, start) in [
        (vec![server(OK)], 0, "HEALTHZ OK - 200 | "),
        (
            vec![server(FAILING)],
            2,
            "HEALTHZ CRITICAL - [-]disk failed: /var: 3.1% free, needs 10% | ",
        ),
        (
            vec![refused],
            2,
            "HEALTHZ CRITICAL - connection refused on 127.0.0.1:",
        ),
        (
            vec![server("HTTP/1.1 404 No\r\n\r\n")],
            3,
            "HEALTHZ UNKNOWN - 404 for /healthz from 127.0.0.1:",
        ),
        (
            vec!["--frob".into()],
            3,
            "HEALTHZ UNKNOWN - unknown option --frob; see healthz help probe\n",
        ),
    ] {
        let is_usage = args[0] == "--frob";
        let mut all = vec!["--nagios", "--timeout", "2s"];
        all.extend(args.iter().map(String::as_str));
        let output = probe(&all);
        let (found, stdout, stderr) = result(&output);
        assert_eq!((found, stderr), (code, ""), "{stdout}");
        assert!(
            stdout.starts_with(start) && stdout.lines().count() == 1,
            "{stdout}"
        );
        let data = stdout
            .trim_end()
            .split_once(" | time=")
            .map(|(_, data)| data);
        let Some(fields) = data.map(|data| data.split(';').collect::<Vec<_>>()) else {
            assert!(is_usage, "{stdout}");
            continue;
        };
        assert!(fields[0].strip_suffix('s').unwrap().parse::<f64>().unwrap() < 2.0);
        assert_eq!(fields[1..], ["", "", "0", "2.000000"]);
    }
}

/// Docker takes 0 and 1, and reserves 2. It keeps 4096 bytes of the output.
#[test]
fn a_docker_health_check_exits_with_0_or_1() {
    let (_, refused) = closed_port();
    let shell = |url: &str| {
        let mut command = std::process::Command::new("/bin/sh");
        let line = format!("{} probe --flat {url}", env!("CARGO_BIN_EXE_healthz"));
        end_of({
            command.args(["-c", &line]);
            command
        })
    };
    assert_eq!(shell(&server(OK)).status.code(), Some(0));
    for url in [
        server(FAILING),
        server("x"),
        server("HTTP/1.1 404 No\r\n\r\n"),
        refused,
    ] {
        let output = shell(&url);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.len() + output.stderr.len() <= 80);
    }
}

/// The kubelet runs the program without a shell, takes 0 as success, and keeps 10 KiB of both streams together.
#[test]
fn a_kubernetes_exec_probe_has_a_short_output() {
    let long = format!("HTTP/1.1 500 No\r\n\r\n[-]{}", "long ".repeat(10_000));
    for (answer, code) in [(OK, 0), (long.as_str(), 1), ("HTTP/1.1 404 No\r\n\r\n", 4)] {
        let output = probe(&[&server(answer)]);
        assert_eq!(output.status.code(), Some(code));
        assert!(output.stdout.len() + output.stderr.len() <= 256);
        assert_eq!(
            output.stdout.is_empty() && output.stderr.is_empty(),
            code == 0
        );
    }
}

/// node-problem-detector takes 0 as no problem, 1 as a problem and others as unknown, and keeps 80 bytes of standard
/// output. It shows them as the message of the condition, so they must say what fails.
#[test]
fn a_node_problem_detector_plugin_says_the_problem_in_80_bytes() {
    let (port, refused) = closed_port();
    for (url, code, stdout) in [
        (server(OK), 0, String::new()),
        (
            server(FAILING),
            1,
            "[-]disk failed: /var: 3.1% free, needs 10%\n".into(),
        ),
        (
            refused,
            1,
            format!("connection refused on 127.0.0.1:{port}\n"),
        ),
    ] {
        let output = probe(&["--flat", &url]);
        assert_eq!(result(&output), (code, stdout.as_str(), ""));
        assert!(stdout.len() <= 80);
    }
}

#[test]
fn one_probe_in_json_is_one_object() {
    let (port, refused) = closed_port();
    let healthy = server(OK);
    let output = probe(&["--json", "-v", &healthy]);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(object["url"], healthy);
    assert_eq!(object["result"], "healthy");
    assert_eq!(object["status"], 200);
    assert_eq!(object["body"], "ok");
    assert!((0.0..10.0).contains(&object["seconds"].as_f64().unwrap()));
    assert!(object["time"].as_f64().unwrap() > 1.7e9);
    assert_eq!(object.get("message"), None);

    let output = probe(&["--json", &server(FAILING)]);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(object["result"], "unhealthy");
    assert_eq!(
        object["message"],
        "[-]disk failed: /var: 3.1% free, needs 10%"
    );

    let output = probe(&["--json", &refused]);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(3), 0));
    assert_eq!(object["result"], "lost");
    assert_eq!(
        object["message"],
        format!("connection refused on 127.0.0.1:{port}")
    );
    assert_eq!(object.get("status"), None);
}

#[test]
fn a_series_prints_a_line_a_probe_and_a_summary() {
    let mut answers = [OK, FAILING, OK].into_iter().cycle();
    let url = serve(move |mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(answers.next().unwrap().as_bytes());
    });
    let output = probe(&["--count", "3", "--interval", "1ms", &url]);
    let (code, stdout, stderr) = result(&output);
    assert_eq!((code, stderr), (1, ""));
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines[0], format!("{url}: a probe every 1ms, timeout 10s"));
    let address = url.split('/').nth(2).unwrap();
    for sequence in 1..=3 {
        let line = |status| format!("{status} from {address}: seq={sequence} time=");
        let found = lines[1..4]
            .iter()
            .find(|text| text.starts_with(&line(200)) || text.starts_with(&line(500)));
        assert!(found.is_some(), "{stdout}");
    }
    assert!(
        lines[1..4]
            .iter()
            .any(|line| line.contains(" ms [-]disk failed: ")),
        "{stdout}"
    );
    assert_eq!(lines[4..6], ["".to_owned(), format!("--- {url} ---")]);
    assert_eq!(lines[6], "3 sent, 2 healthy, 1 unhealthy, 0 lost");
    assert!(
        lines[7].starts_with("min ") && lines[7].contains(" ms, p99 "),
        "{stdout}"
    );
    let drawn: u64 = lines[8..]
        .iter()
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(drawn, 3);
    assert!(
        lines.iter().all(|line| line.chars().count() < 80),
        "{stdout}"
    );
    // Not a terminal.
    assert!(!stdout.contains('\x1b'));
}

#[test]
fn a_series_in_json_ends_with_a_summary() {
    let (_, refused) = closed_port();
    let output = probe(&["--json", "--count", "4", "--interval", "1ms", &refused]);
    let (code, stdout, _) = result(&output);
    assert_eq!(code, 3);
    let objects: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(objects.len(), 5);
    for (object, sequence) in objects.iter().zip(1..=4) {
        assert_eq!(
            (&object["seq"], &object["result"]),
            (&sequence.into(), &"lost".into())
        );
    }
    let summary = &objects[4]["summary"];
    assert_eq!((&summary["sent"], &summary["lost"]), (&4.into(), &4.into()));
    assert_eq!(summary.get("minSeconds"), None);
}

/// The server answers no probe before it has all of them, and then the last one first. So each probe must be sent
/// when it is due, and its time counts from then.
#[test]
fn a_stall_of_the_server_is_in_the_time_of_every_probe_that_was_due() {
    const COUNT: usize = 8;
    const INTERVAL: f64 = 0.02;
    let mut streams = Vec::new();
    let url = serve(move |stream| {
        streams.push(stream);
        if streams.len() == COUNT {
            for mut stream in streams.drain(..).rev() {
                read_request(&mut stream);
                stream.write_all(OK.as_bytes()).unwrap();
            }
        }
    });
    let count = COUNT.to_string();
    let output = probe(&[
        "--json",
        "--timeout",
        "10s",
        "--count",
        &count,
        "--interval",
        "20ms",
        &url,
    ]);
    let (code, stdout, _) = result(&output);
    assert_eq!(code, 0, "{stdout}");
    let objects: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for object in &objects[..COUNT] {
        let sequence = object["seq"].as_f64().unwrap();
        // The last one was sent so much later.
        let least = (COUNT as f64 - sequence) * INTERVAL;
        assert!(object["seconds"].as_f64().unwrap() >= least, "{object}");
    }
    assert_eq!(objects[COUNT]["summary"]["healthy"], COUNT);
}

#[test]
fn a_series_counts_lost_probes_and_continues() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    // More than can wait for answers at once.
    let output = probe(&[
        "--count",
        "100",
        "--interval",
        "1ms",
        "--timeout",
        "150ms",
        &url,
    ]);
    let (code, stdout, _) = result(&output);
    assert_eq!(code, 3);
    assert!(
        stdout.contains("\n100 sent, 0 healthy, 0 unhealthy, 100 lost\n"),
        "{stdout}"
    );
    assert!(stdout.contains("\nlost: seq=1 127.0.0.1:"), "{stdout}");
}

#[test]
fn ctrl_c_prints_the_summary() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut command = healthz(&[
            "probe",
            "--timeout",
            "10s",
            "--count",
            "0",
            "--interval",
            "1h",
            &server(OK),
        ]);
        command.stdout(Stdio::piped());
        let mut daemon = Daemon::of(command);
        let mut lines = BufReader::new(daemon.child.stdout.take().unwrap()).lines();
        // The heading and the first probe; the next is sent an hour later.
        for _ in 0..2 {
            lines.next().unwrap().unwrap();
        }
        daemon.signal(signal);
        let rest: Vec<String> = lines.map(Result::unwrap).collect();
        assert_eq!(daemon.wait().code(), Some(0));
        let summary = rest.iter().find(|line| line.contains(" sent, ")).unwrap();
        assert_eq!(summary, "1 sent, 1 healthy, 0 unhealthy, 0 lost");
    }
}

#[test]
fn ctrl_c_counts_the_probes_that_still_wait() {
    for json in [false, true] {
        let (sender, receiver) = mpsc::channel();
        let mut streams = Vec::new();
        // The first probe is answered, the others are not.
        let url = serve(move |mut stream| {
            read_request(&mut stream);
            if streams.is_empty() {
                let _ = stream.write_all(OK.as_bytes());
            }
            streams.push(stream);
            let _ = sender.send(());
        });
        let mut args = vec!["probe", "--interval", "1ms", "--timeout", "1h", &url];
        args.extend(json.then_some("--json"));
        let mut command = healthz(&args);
        command.stdout(Stdio::piped());
        let mut daemon = Daemon::of(command);
        let lines = BufReader::new(daemon.child.stdout.take().unwrap()).lines();
        for _ in 0..3 {
            receiver.recv().unwrap();
        }
        daemon.signal(Signal::SIGINT);
        let lines: Vec<String> = lines.map(Result::unwrap).collect();
        assert_eq!(daemon.wait().code(), Some(0), "{lines:?}");
        let (sent, waiting): (u64, u64) = if json {
            let summary: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
            let number = |name: &str| summary["summary"][name].as_u64().unwrap();
            assert_eq!((number("healthy"), number("lost")), (1, 0));
            (number("sent"), number("unanswered"))
        } else {
            let summary = lines.iter().find(|line| line.contains(" sent, ")).unwrap();
            let numbers: Vec<u64> = summary
                .split(' ')
                .filter_map(|word| word.parse().ok())
                .collect();
            let [sent, 1, 0, 0, waiting] = numbers[..] else {
                panic!("{summary}")
            };
            assert!(
                summary.ends_with(&format!(" lost, {waiting} not answered yet")),
                "{summary}"
            );
            (sent, waiting)
        };
        assert!(waiting >= 2 && sent == waiting + 1, "{lines:?}");
    }
}

#[test]
fn a_closed_pipe_ends_a_series() {
    let mut command = healthz(&["probe", "--interval", "1ms", &server(OK)]);
    command.stdout(Stdio::piped());
    let mut daemon = Daemon::of(command);
    let (sender, receiver) = mpsc::channel();
    let stdout = daemon.child.stdout.take().unwrap();
    thread::spawn(move || {
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        sender.send(line).unwrap();
    });
    receiver.recv().unwrap();
    assert_eq!(daemon.wait().code(), Some(0));
}

/// The exit code is the result, even if there is nowhere to print.
#[test]
fn the_exit_code_does_not_depend_on_the_output() {
    for (url, code) in [(server(OK), 0), (server(FAILING), 1), (closed_port().1, 3)] {
        let full = || {
            std::fs::File::options()
                .write(true)
                .open("/dev/full")
                .unwrap()
        };
        let mut command = healthz(&["probe", "-v", &url]);
        command.stdout(full()).stderr(full());
        assert_eq!(command.status().unwrap().code(), Some(code));
        let mut command = healthz(&["probe", "-v", &url]);
        let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(reader);
        command.stdout(std::os::fd::OwnedFd::from(writer));
        assert_eq!(command.status().unwrap().code(), Some(code));
    }
}
