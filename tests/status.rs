//! `healthz status`, and the JSON answers that it requests: the real daemon, other servers, output and exit codes.
#![cfg(all(feature = "client", feature = "sources", target_os = "linux"))]
#![cfg(test)]

#[path = "support/daemon.rs"]
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::{Daemon, TIMEOUT, end_of, error_line, eventually, get, healthz, run, temp_path};

const JSON: &str = "Accept: application/health+json\r\n";

/// Head and body of the answer to a request with these fields.
fn exchange(mut stream: impl Read + Write, request: &str, fields: &str) -> (String, String) {
    let text =
        format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn ask(address: SocketAddr, request: &str, fields: &str) -> (String, String) {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    exchange(stream, request, fields)
}

fn json_of(address: SocketAddr, path: &str) -> (String, Value) {
    let (head, body) = ask(address, &format!("GET {path}"), JSON);
    assert!(
        head.contains("\r\nContent-Type: application/health+json\r\n"),
        "{head}"
    );
    (head, serde_json::from_str(&body).unwrap())
}

/// The head without the line of the time.
fn without_date(head: &str) -> String {
    head.lines()
        .filter(|line| !line.starts_with("Date: "))
        .collect()
}

fn status(args: &[&str]) -> (Output, String) {
    let output = run(&[&["status"], args].concat());
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (output, text)
}

#[track_caller]
fn wait_for(address: SocketAddr, path: &str, body: &str) {
    eventually(body, || get(address, path).1.contains(body).then_some(()));
}

/// A daemon with a heartbeat that was beaten, a file that does not exist, and one of severity warning.
fn busy_daemon(options: &[&str]) -> Daemon {
    let socket = temp_path();
    let worker = format!("worker=heartbeat,limit=1h,socket={}", socket.display());
    let checks = [
        "--check",
        &worker,
        "--check",
        "gone=file:/nonexistent/file,failure-threshold=1,group=files",
        "--check",
        "old=file:/nonexistent/old,failure-threshold=1,severity=warning,endpoints=livez",
    ];
    let daemon = Daemon::start(&[&checks, options].concat());
    let address = daemon.address();
    UnixDatagram::unbound()
        .unwrap()
        .send_to(b"READY=1", &*socket)
        .unwrap();
    wait_for(address, "/healthz/worker", "ok");
    wait_for(
        address,
        "/healthz/gone",
        "/nonexistent/file: does not exist",
    );
    wait_for(address, "/livez?verbose", "[!]old");
    daemon
}

#[test]
fn json_has_the_fields_of_the_text_and_more() {
    let daemon = busy_daemon(&[]);
    let address = daemon.address();
    let (head, value) = json_of(address, "/healthz");
    assert!(head.starts_with("HTTP/1.1 500 "));
    assert!(head.contains("\r\nVary: Accept\r\n"));
    assert_eq!(value["status"], "fail");
    assert_eq!(value["releaseId"], env!("CARGO_PKG_VERSION"));
    assert_eq!(value["description"], "/healthz");
    assert_eq!(value["listeners"], json!([format!("http://{address}")]));
    let checks = value["checks"].as_object().unwrap();
    let gone = &checks["gone"][0];
    assert_eq!(gone["status"], "fail");
    assert_eq!(gone["group"], "files");
    assert_eq!(gone["output"], "/nonexistent/file: does not exist");
    assert_eq!(checks["ping"][0]["status"], "pass");
    assert_eq!(checks["ping"][0]["output"], Value::Null);
    for check in checks.values() {
        let time = check[0]["time"].as_str().unwrap();
        assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
    }
    // The other endpoints have their own checks.
    let (head, value) = json_of(address, "/livez");
    assert!(head.starts_with("HTTP/1.1 200 "));
    assert_eq!(value["status"], "warn");
    assert_eq!(value["checks"]["old"][0]["severity"], "warning");
    assert_eq!(value["checks"]["gone"], Value::Null);
    let (_, value) = json_of(address, "/healthz/gone");
    assert_eq!(value["checks"].as_object().unwrap().len(), 1);
    let (head, value) = json_of(address, "/healthz?exclude=files");
    assert!(head.starts_with("HTTP/1.1 200 "));
    assert_eq!(value["checks"]["gone"][0]["excluded"], true);
    let (head, body) = ask(address, "HEAD /healthz", JSON);
    assert!(head.contains("health+json") && body.is_empty());
    let (_, body) = ask(address, "POST /livez", JSON);
    assert!(body.starts_with("{\"status\":\"warn\""));
    for (request, status) in [
        ("GET /healthz/nope", 404),
        ("PUT /healthz", 405),
        ("GET //healthz", 307),
    ] {
        let (head, _) = ask(address, request, JSON);
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")) && !head.contains("json"),
            "{head}"
        );
    }
}

#[test]
fn any_other_accept_gets_the_text_of_kubernetes() {
    let daemon = busy_daemon(&[]);
    let address = daemon.address();
    for path in ["/healthz", "/livez", "/healthz/gone", "/livez?verbose"] {
        let request = format!("GET {path}");
        let (head, body) = ask(address, &request, "");
        for fields in [
            "Accept: */*\r\n",
            "Accept: application/json\r\n",
            "Accept: application/health+json;q=1\r\n",
            "Accept: application/health+json, */*\r\n",
            "Accept: application/health+json\r\nAccept: application/health+json\r\n",
            "Accept: text/plain\r\n",
            "Accept:\r\n",
        ] {
            let (other_head, other_body) = ask(address, &request, fields);
            assert_eq!(without_date(&other_head), without_date(&head), "{fields}");
            assert_eq!(other_body, body, "{fields}");
        }
    }
}

#[test]
fn a_unix_client_gets_json_and_a_client_of_the_network_does_not() {
    let path = temp_path();
    let listen = format!("unix:{}", path.display());
    let daemon = busy_daemon(&[
        "--listen",
        &listen,
        "--listen",
        "0.0.0.0:0",
        "--allow-remote",
    ]);
    let unix = || UnixStream::connect(&*path).unwrap();
    let (head, body) = exchange(unix(), "GET /healthz", JSON);
    assert!(head.contains("health+json"), "{head}");
    let value: Value = serde_json::from_str(&body).unwrap();
    let listeners: Vec<_> = value["listeners"].as_array().unwrap().iter().collect();
    assert_eq!(listeners.len(), 3);
    assert_eq!(listeners[1], &json!(listen));
    let open = listeners[2].as_str().unwrap();
    let port: u16 = open.rsplit_once(':').unwrap().1.parse().unwrap();
    // The source address of packets to another machine. No packet is sent.
    let route = UdpSocket::bind("0.0.0.0:0").unwrap();
    let own = route
        .connect("192.0.2.1:9")
        .and_then(|()| route.local_addr());
    let Ok(own) = own.map(|own| own.ip()).as_ref().copied() else {
        return support::untried("needs a network interface besides loopback");
    };
    let from_network = || TcpStream::connect((own, port)).unwrap();
    let (head, body) = exchange(from_network(), "GET /healthz", JSON);
    assert!(
        head.contains("\r\nContent-Type: text/plain; charset=utf-8\r\n"),
        "{head}"
    );
    assert!(body.contains("[-]gone failed: reason withheld\n"), "{body}");
    // The same listener answers a client on loopback.
    let local = SocketAddr::from(([127, 0, 0, 1], port));
    assert!(ask(local, "GET /healthz", JSON).0.contains("health+json"));
    drop(daemon);
}

#[test]
fn the_longest_answers_are_whole() {
    let mut options = Vec::new();
    for number in 0..60 {
        options.push("--check".to_owned());
        let long = "x".repeat(100);
        options.push(format!(
            "c{number}-{long}=file:/nonexistent/{long}{long},failure-threshold=1"
        ));
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let daemon = Daemon::start(&options);
    let address = daemon.address();
    let value = eventually("all checks to fail", || {
        let (_, value) = json_of(address, "/healthz");
        let checks = value["checks"].as_object().unwrap();
        let failing = checks
            .values()
            .filter(|check| check[0]["output"].to_string().contains("does not exist"));
        (failing.count() == 60).then_some(value.clone())
    });
    assert!(value.to_string().len() > 20_000);
    let (output, text) = status(&[&format!("http://{address}")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.contains("/healthz  fail  63 checks, 60 failing\n"),
        "{text}"
    );
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
}

#[test]
fn the_table_has_failing_checks_first_with_their_reasons() {
    let daemon = busy_daemon(&[]);
    let url = format!("http://{}", daemon.address());
    let (output, text) = status(&[&url]);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(output.stderr.is_empty());
    let lines: Vec<&str> = text.lines().collect();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(lines[0], format!("{url} (healthz {version})"));
    assert_eq!(lines[1], format!("listens on {url}"));
    assert_eq!(lines[2], "");
    assert_eq!(lines[3], "/healthz  fail  5 checks, 1 failing");
    assert_eq!(lines[4], "/livez    warn  4 checks, 1 with a warning");
    assert_eq!(lines[5], "/readyz   fail  5 checks, 1 failing");
    assert_eq!(lines[6], "");
    let words = |line: &str| {
        line.split_whitespace()
            .map(String::from)
            .collect::<Vec<_>>()
    };
    assert_eq!(words(lines[7])[..3], ["CHECK", "STATE", "SEVERITY"]);
    assert_eq!(words(lines[8])[..3], ["gone", "fail", "error"]);
    assert_eq!(lines[9], "    /nonexistent/file: does not exist");
    assert_eq!(words(lines[10])[..3], ["old", "warn", "warning"]);
    assert_eq!(lines[11], "    /nonexistent/old: does not exist");
    let passing: Vec<_> = lines[12..]
        .iter()
        .map(|line| words(line)[..3].join(" "))
        .collect();
    let all = [
        "ping pass error",
        "log pass error",
        "syncloop pass error",
        "worker pass error",
    ];
    assert_eq!(passing, all);
    // Neither a pipe nor a file gets colours.
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn a_server_that_passes_has_exit_code_0_and_one_endpoint_can_be_selected() {
    let daemon = Daemon::start(&[
        "--check",
        "old=file:/nonexistent/old,failure-threshold=1,severity=warning",
    ]);
    let address = daemon.address();
    wait_for(address, "/healthz?verbose", "[!]old");
    let (output, text) = status(&[&format!("http://{address}/")]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "a warning is no failure: {text}"
    );
    assert!(text.contains("\n/livez "));
    let (output, text) = status(&[&format!("http://{address}/healthz")]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        text.contains("\n/healthz  warn  ") && !text.contains("\n/livez "),
        "{text}"
    );
    let (output, text) = status(&[&format!("http://{address}/readyz?exclude=old")]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        text.contains("/readyz?exclude=old  pass  4 checks, 1 excluded\n"),
        "{text}"
    );
    assert!(!text.contains("/livez"));
    assert!(text.contains("\nold       warn   excluded"), "{text}");
}

#[test]
fn json_has_the_answers_of_all_endpoints() {
    let path = temp_path();
    let listen = format!("unix:{}", path.display());
    let daemon = busy_daemon(&["--listen", &listen]);
    let (output, text) = status(&[&listen, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(text.lines().count(), 1);
    assert_eq!(value["url"], listen.as_str());
    assert_eq!(value["address"], listen.as_str());
    assert_eq!(value["status"], "fail");
    for (path, status) in [
        ("/healthz", "fail"),
        ("/livez", "warn"),
        ("/readyz", "fail"),
    ] {
        assert_eq!(value["endpoints"][path]["status"], status);
        assert_eq!(value["endpoints"][path]["description"], path);
    }
    let reason = &value["endpoints"]["/readyz"]["checks"]["gone"][0]["output"];
    assert_eq!(reason, "/nonexistent/file: does not exist");
    drop(daemon);
}

#[test]
fn metrics_are_printed_or_put_into_a_file_without_those_of_the_process() {
    let url = server(&[(
        "/metrics",
        200,
        "text/plain; version=0.0.4; charset=utf-8",
        METRICS,
    )]);
    let expected = "# HELP a A.\n# TYPE a gauge\na{b=\"process_c\"} 1\n";
    let (output, text) = status(&[&url, "--prometheus"]);
    assert_eq!(
        (output.status.code(), text.as_str()),
        (Some(0), expected),
        "{output:?}"
    );
    let directory = temp_path();
    fs::create_dir(&directory).unwrap();
    let file = directory.join("healthz.prom");
    fs::write(&file, "old").unwrap();
    let args = [&url, "--prometheus", "--output", file.to_str().unwrap()];
    let (output, text) = status(&args);
    assert_eq!(
        (output.status.code(), text.as_str()),
        (Some(0), ""),
        "{output:?}"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), expected);
    // No other file is left.
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    let missing = directory.join("none/healthz.prom");
    let (output, _) = status(&[&url, "--prometheus", "--output", missing.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let error = format!(
        "healthz: cannot write {}: no such file or directory",
        missing.display()
    );
    assert_eq!(error_line(&output), error);
}

const METRICS: &str = "# HELP a A.\n# TYPE a gauge\na{b=\"process_c\"} 1\n# HELP process_d D.\n# TYPE process_d gauge\n\
                       process_d 2\n";

#[test]
fn a_link_at_the_temporary_name_of_the_output_is_not_followed() {
    let url = server(&[("/metrics", 200, TEXT, METRICS)]);
    let directory = temp_path();
    fs::create_dir(&directory).unwrap();
    let victim = directory.join("victim");
    fs::write(&victim, "kept").unwrap();
    // The shell's process ID becomes that of the program.
    let mut shell = Command::new("/bin/sh");
    let line = "ln -s victim file.$$.tmp && exec \"$0\" status --prometheus --output file \"$1\"";
    shell.args(["-c", line, env!("CARGO_BIN_EXE_healthz"), &url]);
    shell.current_dir(&directory);
    let output = end_of(shell);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
    let file = directory.join("file");
    assert!(fs::symlink_metadata(&file).unwrap().is_file());
    assert!(
        fs::read_to_string(&file)
            .unwrap()
            .starts_with("# HELP a A.")
    );
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
}

#[test]
fn metrics_of_the_daemon_are_about_its_checks() {
    let daemon = Daemon::start(&[]);
    let address = daemon.address();
    let (output, text) = status(&[&format!("http://{address}"), "--prometheus"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text.contains("\nkubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1\n"));
    let (_, scraped) = get(address, "/metrics");
    let is_about_process = |line: &str| line.split(' ').any(|word| word.starts_with("process_"));
    assert!(scraped.lines().any(is_about_process));
    assert!(!text.lines().any(is_about_process));
    assert!(text.lines().count() > 50);
}

#[test]
fn a_server_without_metrics_keeps_the_file() {
    let file = temp_path();
    fs::write(&file, "old").unwrap();
    for answers in [
        &[][..],
        &[("/metrics", 200, "text/html", "<html>")],
        &[("/metrics", 500, TEXT, "x")],
    ] {
        let url = server(answers);
        let (output, text) = status(&[&url, "--prometheus", "--output", file.to_str().unwrap()]);
        assert_eq!((output.status.code(), text.as_str()), (Some(4), ""));
        assert!(
            error_line(&output)
                .ends_with("to /metrics, not metrics; was healthz started with --no-metrics?")
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
    }
}

/// A server that answers `path` with a status, a media type and a body, and all others with 404.
fn server(answers: &'static [(&str, u16, &str, &str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                request.extend(byte);
            }
            let request = String::from_utf8(request).unwrap();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let found = answers.iter().find(|answer| answer.0 == path);
            let (_, status, media_type, body) =
                found.unwrap_or(&("", 404, "text/plain", "404 page not found\n"));
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status} X\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    format!("http://{address}")
}

const TEXT: &str = "text/plain; charset=utf-8";

#[test]
fn a_plain_endpoint_of_kubernetes_shows_the_content_of_its_text() {
    let url = server(&[
        ("/healthz", 200, TEXT, "ok"),
        (
            "/healthz?verbose",
            200,
            TEXT,
            "[+]ping ok\n[+]syncloop ok\nhealthz check passed\n",
        ),
        (
            "/readyz",
            500,
            TEXT,
            "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n",
        ),
        (
            "/readyz?verbose",
            500,
            TEXT,
            "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n",
        ),
    ]);
    let (output, text) = status(&[&url]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let expected = format!(
        "{url}\n\n/healthz  pass  2 checks\n/readyz   fail  2 checks, 1 failing\n\nCHECK     STATE\n\
         etcd      fail\n    failed: reason withheld\nping      pass\nsyncloop  pass\n"
    );
    assert_eq!(text, expected);
    let (_, text) = status(&[&url, "--json"]);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        value["endpoints"]["/readyz"]["checks"]["etcd"][0]["status"],
        "fail"
    );
    assert_eq!(value["endpoints"]["/livez"], Value::Null);
    // A server with one endpoint, which ignores the query.
    let url = server(&[
        ("/up", 200, TEXT, "fine\n"),
        ("/up?verbose", 200, TEXT, "fine\n"),
    ]);
    let (output, text) = status(&[&format!("{url}/up")]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text, format!("{url}/up\n\n/up  pass  fine\n"));
}

#[test]
fn a_plain_answer_counts_if_the_verbose_one_is_refused() {
    for refusal in [(400, TEXT), (404, TEXT), (200, "text/html")] {
        let answers = [
            ("/up", 200, TEXT, "fine\n"),
            ("/up?verbose", refusal.0, refusal.1, "what is verbose?\n"),
        ];
        let url = server(Vec::leak(answers.into()));
        let (output, text) = status(&[&format!("{url}/up")]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(text, format!("{url}/up\n\n/up  pass  fine\n"));
    }
}

#[test]
fn json_of_any_server_is_one_line_without_control_characters() {
    const BODY: &str = "{\r\n \"status\" :\t\"pass\",\n \"checks\": {\"a\\\" b\u{7f}\u{85}\": [ {\"status\":\"pass\"} ]}\n}\n";
    let url = server(&[
        ("/healthz", 200, "application/health+json", BODY),
        ("/livez", 500, TEXT, "[-]c\u{7f}\u{9b}31m failed\n"),
        ("/livez?verbose", 500, TEXT, "[-]c\u{7f}\u{9b}31m failed\n"),
    ]);
    let (_, text) = status(&[&url, "--json"]);
    let line = text.strip_suffix('\n').unwrap();
    assert!(!line.contains(char::is_control), "{line:?}");
    let value: Value = serde_json::from_str(line).unwrap();
    let endpoints = &value["endpoints"];
    assert_eq!(
        endpoints["/healthz"],
        serde_json::from_str::<Value>(BODY).unwrap()
    );
    assert_eq!(
        endpoints["/livez"]["checks"]["c\u{7f}\u{9b}31m"][0]["status"],
        "fail"
    );
}

#[test]
fn no_byte_from_a_server_controls_the_terminal() {
    let url = server(&[
        ("/healthz", 500, TEXT, "[-]\u{1b}[2Ja failed: \u{7}\r\n"),
        (
            "/healthz?verbose",
            500,
            TEXT,
            "[-]\u{1b}[2Ja failed: \u{7}\r\n",
        ),
        (
            "/livez",
            200,
            "application/health+json",
            r#"{"status":"pass","releaseId":"\u001b[2J","checks":{}}"#,
        ),
    ]);
    let (_, text) = status(&[&url]);
    assert!(
        text.chars().all(|c| c == '\n' || !c.is_control()),
        "{text:?}"
    );
}

#[test]
fn other_servers_are_not_health_endpoints() {
    for answers in [
        &[][..],
        &[("/healthz", 200, "text/html", "<html>")],
        &[("/healthz", 200, "application/health+json", "{\"status\":")],
        &[("/healthz", 401, TEXT, "who are you?\n")],
    ] {
        let url = server(answers);
        let (output, text) = status(&[&url]);
        assert_eq!(output.status.code(), Some(4), "{output:?}");
        assert!(text.is_empty());
        assert!(
            error_line(&output).ends_with(", which is not a health endpoint; pass the URL of one")
        );
    }
    // Not HTTP.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"SSH-2.0-x\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let (output, _) = status(&[&url]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    error_line(&output);
    thread.join().unwrap();
}

#[test]
fn a_failing_status_code_counts_although_the_json_passes() {
    const PASS: &str = r#"{"status":"pass","checks":{}}"#;
    for (answer, code) in [
        (&[("/x", 404, "application/health+json", PASS)], 4),
        (&[("/x", 500, "application/health+json", PASS)], 1),
        (&[("/x", 200, "application/health+json", PASS)], 0),
    ] {
        let (output, _) = status(&[&format!("{}/x", server(answer))]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }
}

/// A shell that becomes `healthz status URL` with `redirection`.
fn redirected(url: &str, redirection: &str) -> Output {
    let mut shell = Command::new("/bin/sh");
    let program = env!("CARGO_BIN_EXE_healthz");
    shell.args(["-c", &format!("exec {program} status {url} {redirection}")]);
    end_of(shell)
}

#[test]
fn output_that_cannot_be_written_is_an_error_with_a_text() {
    let url = server(&[
        ("/healthz", 200, TEXT, "ok"),
        ("/metrics", 200, TEXT, METRICS),
    ]);
    for redirection in [
        "> /dev/full",
        "--json > /dev/full",
        "--prometheus > /dev/full",
    ] {
        let output = redirected(&url, redirection);
        assert_eq!(output.status.code(), Some(1), "{redirection}");
        let expected = "healthz: cannot write to standard output: no space left on device";
        assert_eq!(error_line(&output), expected, "{redirection}");
    }
}

/// The test would wait longer than [`TIMEOUT`] if the time grew with the square of the number of checks, or of the
/// length of a word.
#[test]
fn an_answer_with_many_checks_or_a_long_word_is_printed_in_time() {
    let file = temp_path();
    let into_file = format!("> {}", file.display());
    let lines: String = (0..50_000).map(|n| format!("[+]{n} ok\n")).collect();
    let lines: &str = Box::leak(lines.into_boxed_str());
    let paths = ["/healthz", "/healthz?verbose", "/livez", "/livez?verbose"];
    let url = server(Vec::leak(paths.map(|path| (path, 200, TEXT, lines)).into()));
    let output = redirected(&url, &into_file);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("/healthz  pass  50000 checks\n"));
    assert_eq!(text.lines().count(), 6 + 50_000);

    let line = format!("[-]a {}\n", "x".repeat(1_000_000));
    let line: &str = Box::leak(line.into_boxed_str());
    let paths = ["/healthz", "/healthz?verbose"];
    let url = server(Vec::leak(paths.map(|path| (path, 500, TEXT, line)).into()));
    let output = redirected(&url, &into_file);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches('x').count(), 1_000_000);
}

#[test]
fn a_server_that_is_not_there_has_exit_code_3() {
    // A port that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for format in [&[][..], &["--json"], &["--prometheus"]] {
        let url = format!("http://{address}");
        let (output, text) = status(&[&[url.as_str()], format].concat());
        assert_eq!((output.status.code(), text.as_str()), (Some(3), ""));
        let expected = format!(
            "healthz: connection refused on {address}; is healthz running? pass the URL if it listens elsewhere"
        );
        assert_eq!(error_line(&output), expected);
    }
}

#[test]
fn status_runs_as_a_user_without_rights() {
    if !nix::unistd::geteuid().is_root() {
        // All other tests run as such a user then.
        return;
    }
    let daemon = Daemon::start(&[]);
    let program = temp_path();
    // By another process: a child that another test starts would inherit the descriptor, and a program that is open for
    // writing cannot be run (ETXTBSY).
    let copied = Command::new("cp")
        .args([env!("CARGO_BIN_EXE_healthz").as_ref(), program.as_os_str()])
        .status();
    assert!(copied.unwrap().success());
    let mut command = healthz(&[]);
    command = {
        let mut other = Command::new(&*program);
        other.args(["status", &format!("http://{}", daemon.address())]);
        other.envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        other
    };
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    assert_eq!(end_of(command).status.code(), Some(0));
}

#[test]
fn wrong_usage_has_exit_code_2_and_says_what_is_wrong() {
    for (args, error) in [
        (
            &["localhost"][..],
            "status localhost: expected a URL such as ",
        ),
        (
            &["http://a.example/"],
            "status http://a.example/: names are not resolved",
        ),
        (
            &["http://[::1]:1", "x"],
            "unexpected argument x; see healthz help status",
        ),
        (&["--jsn"], "unknown option --jsn; did you mean --json?"),
        (&["-x"], "unknown option -x; see healthz help status"),
        (
            &["--json", "--prometheus"],
            "--json and --prometheus exclude each other",
        ),
        (&["--output", "x"], "--output is only for --prometheus"),
    ] {
        let (output, text) = status(args);
        assert_eq!(
            (output.status.code(), text.as_str()),
            (Some(2), ""),
            "{args:?}"
        );
        assert!(
            error_line(&output).starts_with(&format!("healthz: {error}")),
            "{output:?}"
        );
    }
    let (output, text) = status(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        text.starts_with("healthz status [OPTION]... [URL]: "),
        "{text}"
    );
}
