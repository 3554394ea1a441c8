//! The daemon as a program: start, usage errors, addresses, signals, draining and exit codes.
#![cfg(feature = "daemon")]
#![cfg(test)]

#[path = "support/daemon.rs"]
mod daemon;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use daemon::{
    Daemon, TIMEOUT, end_of, error_line, eventually, get, get_unix, metric, run, shell, temp_path,
    try_get, untried,
};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;

const VERBOSE: &str = "[+]ping ok\n[+]log ok\n[+]syncloop ok\n";

#[test]
fn the_daemon_logs_its_addresses_and_serves_there() {
    let daemon = Daemon::start(&[]);
    let address = daemon.address();
    let line = daemon.lines().wait("serving");
    let what = "INFO  healthz: serving /healthz, /livez and /readyz with checks ping, log and syncloop on http://127.0.0.1:";
    assert!(line.contains(what), "{line}");
    for path in [
        "/healthz",
        "/livez",
        "/readyz",
        "/healthz/ping",
        "/livez/log",
        "/readyz/syncloop",
    ] {
        assert_eq!(get(address, path), (200, "ok".to_owned()), "{path}");
    }
    for name in ["healthz", "livez", "readyz"] {
        let expected = format!("{VERBOSE}{name} check passed\n");
        assert_eq!(get(address, &format!("/{name}?verbose")), (200, expected));
    }
    assert_eq!(
        get(address, "/readyz/shutdown").0,
        404,
        "not listed while it passes"
    );
    assert_eq!(
        daemon.lines().all().len(),
        1,
        "one line at start, and none for a request"
    );
}

#[test]
fn localhost_is_both_loopback_addresses() {
    let mut command = daemon::healthz(&["--listen", "localhost:0"]);
    command.env("RUST_LOG", "info");
    let daemon = Daemon::start_as(command);
    let v4 = daemon.address();
    assert_eq!(get(v4, "/healthz").0, 200);
    let line = daemon.lines().wait("serving");
    if TcpListener::bind("[::1]:0").is_ok() {
        let v6 = format!("[::1]:{}", v4.port());
        assert!(line.ends_with(&format!(" and http://{v6}")), "{line}");
        assert_eq!(get(v6.parse().unwrap(), "/healthz").0, 200);
    } else {
        daemon
            .lines()
            .wait("this machine has no ::1, serving without it");
    }
}

/// A program inherits the signals that its parent has blocked.
#[test]
fn a_stop_signal_that_the_parent_has_blocked_still_stops_the_daemon() {
    use nix::sys::signal::{SigSet, SigmaskHow};
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut blocked = SigSet::empty();
        blocked.add(signal);
        let before = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap();
        let mut daemon = Daemon::start(&[]);
        before.thread_set_mask().unwrap();
        daemon.address();
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0), "{signal}");
    }
}

#[test]
fn a_host_that_is_not_allowed_is_refused() {
    let daemon = Daemon::start(&["--allow-host", "node.example"]);
    assert_eq!(daemon.get("/healthz").0, 421);
    let daemon = Daemon::start(&["--allow-host", "node.example", "--allow-host", "localhost"]);
    assert_eq!(daemon.get("/healthz").0, 200);
}

#[test]
fn an_address_with_paths_serves_only_these() {
    let mut command = daemon::healthz(&[
        "--listen",
        "127.0.0.1:0",
        "--listen",
        "127.0.0.1:0,paths=/livez+/readyz/ping",
    ]);
    command.env("RUST_LOG", "info");
    let daemon = Daemon::start_as(command);
    let line = daemon.lines().wait("serving").clone();
    let addresses = line.split("http://").skip(1);
    let addresses = addresses.map(|text| text.split(' ').next().unwrap().parse().unwrap());
    let [all, some]: [std::net::SocketAddr; 2] = addresses.collect::<Vec<_>>().try_into().unwrap();
    let get = |address| {
        [
            "/healthz",
            "/livez",
            "/livez/log",
            "/readyz",
            "/readyz/ping",
        ]
        .map(|path| get(address, path).0)
    };
    assert_eq!(get(all), [200; 5]);
    assert_eq!(get(some), [404, 200, 200, 404, 200]);
    let output = run(&["--listen", "127.0.0.1:0,paths=metrics"]);
    assert_eq!(output.status.code(), Some(2));
    let text = error_line(&output);
    assert!(
        text.contains("--listen 127.0.0.1:0,paths=metrics: the path \"metrics\" cannot be served"),
        "{text}"
    );
}

#[test]
fn metrics_are_answered_unless_they_are_switched_off() {
    let daemon = Daemon::start(&[]);
    assert_eq!(daemon.get("/metrics/slis").0, 200);
    let address = daemon.address();
    let version = concat!(
        "healthz_build_info{version=\"",
        env!("CARGO_PKG_VERSION"),
        "\"}"
    );
    for (sample, value) in [
        (version, 1.0),
        ("healthz_log_records_dropped_total", 0.0),
        ("healthz_config_reloads_total{result=\"failure\"}", 0.0),
        ("healthz_config_reloads_total{result=\"success\"}", 0.0),
        ("healthz_config_last_reload_success", 1.0),
        ("kubernetes_healthcheck{name=\"ping\",type=\"readyz\"}", 1.0),
    ] {
        assert_eq!(metric(address, sample), Some(value), "{sample}");
    }
    let daemon = Daemon::start(&["--no-metrics"]);
    for path in ["/metrics", "/metrics/slis"] {
        let body = "404 page not found\n".to_owned();
        assert_eq!(daemon.get(path), (404, body), "{path}");
    }
    assert_eq!(daemon.get("/healthz"), (200, "ok".to_owned()));
}

#[test]
fn help_and_version_are_printed_to_standard_output() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(help.stderr.is_empty());
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(
        text.starts_with("healthz ") && text.lines().count() < 24,
        "{text}"
    );
    let kib = |args: &[&str]| {
        let text = String::from_utf8(run(args).stdout).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        let unit = words
            .iter()
            .position(|word| word.trim_end_matches('.') == "KiB")
            .unwrap();
        words[unit - 1].parse::<u64>().unwrap()
    };
    let (default, double) = (kib(&["-h"]), kib(&["-h", "--connections", "128"]));
    assert!(
        default * 3 / 2 < double && double < default * 2,
        "{default} {double}"
    );

    let version = run(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(
        version.stdout,
        concat!("healthz ", env!("CARGO_PKG_VERSION"), "\n").as_bytes()
    );
}

#[test]
fn help_written_to_a_closed_pipe_is_no_error() {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    drop(reader);
    let mut command = daemon::healthz(&["--help"]);
    command.stdout(writer);
    assert!(command.status().unwrap().success());
}

#[test]
fn help_that_cannot_be_written_exits_1() {
    let full = std::fs::File::options().write(true).open("/dev/full");
    let mut command = daemon::healthz(&["--help"]);
    command.stdout(full.unwrap());
    assert_eq!(command.status().unwrap().code(), Some(1));
}

#[test]
fn wrong_usage_prints_one_line_and_exits_2() {
    for (args, expected) in [
        (
            &["--lissten", "x"][..],
            "healthz: unknown option --lissten; did you mean --listen?",
        ),
        (
            &["--frob"],
            "healthz: unknown option --frob; see healthz help serve",
        ),
        (
            &["--connections", "70000"],
            "healthz: --connections 70000: expected a whole number from 1 to 65535",
        ),
        (
            &["--listen", "0.0.0.0:0"],
            "healthz: 0.0.0.0:0 is reachable from outside this machine; pass --allow-remote if that is intended",
        ),
        (
            &["--listen", "[::]:0"],
            "healthz: [::]:0 is reachable from outside this machine; pass --allow-remote if that is intended",
        ),
        (
            &["--ready-fd", "77"],
            "healthz: --ready-fd 77: Bad file descriptor (os error 9)",
        ),
    ] {
        let output = run(args);
        assert_eq!(error_line(&output), expected);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}

/// Regression: the daemon panicked and exited with 101 if it could not write its error message.
#[test]
fn wrong_usage_exits_2_if_stderr_cannot_be_written() {
    for args in ["--frob", "--ready-fd 77"] {
        let command = shell(&format!("exec \"$HEALTHZ\" {args} 2>/dev/full"));
        assert_eq!(Daemon::of(command).wait().code(), Some(2), "{args}");
    }
}

/// Regression: the log library wrote a wrong RUST_LOG to stderr itself, so the daemon blocked or panicked
/// before it served.
#[test]
fn a_wrong_rust_log_is_logged_as_a_warning() {
    let mut command = daemon::healthz(&["--listen", "127.0.0.1:0"]);
    command.env("RUST_LOG", "healthz=debug=info");
    let daemon = Daemon::start_as(command);
    let line = daemon.lines().wait("RUST_LOG: ");
    assert!(line.contains(" WARN  healthz: RUST_LOG: "), "{line}");
    assert!(line.ends_with("; logging at info"), "{line}");
    assert_eq!(daemon.get("/healthz").0, 200);

    let path = temp_path();
    let script = format!(
        "RUST_LOG=a/b/c exec \"$HEALTHZ\" --listen unix:{} 2>/dev/full",
        path.display()
    );
    let mut daemon = Daemon::of(shell(&script));
    eventually("the socket file", || path.exists().then_some(()));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn rust_log_is_ignored_if_the_command_line_has_a_level() {
    for filters in ["error", "a/b/c"] {
        let mut command = daemon::healthz(&["--listen", "127.0.0.1:0", "--log-level", "info"]);
        command.env("RUST_LOG", filters);
        let mut daemon = Daemon::start_as(command);
        daemon.lines().wait("serving");
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0));
        let lines = daemon.lines().all();
        assert!(!lines.iter().any(|line| line.contains("RUST_LOG")));
    }
}

/// Regression: the main thread waited for a full pipe of `--ready-fd`, so the daemon could not be stopped.
#[test]
fn a_ready_fd_that_cannot_be_written_is_refused() {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    let writer = std::fs::File::from(writer);
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while (&writer).write(&[b'.'; 4096]).is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let unwritable: [OwnedFd; 2] = [writer.into(), reader];
    for fd in unwritable.each_ref() {
        let mut command = shell("exec \"$HEALTHZ\" --listen 127.0.0.1:0 --ready-fd 3 3<&0");
        command.stdin(fd.try_clone().unwrap());
        let output = end_of(command);
        assert_eq!(
            error_line(&output),
            "healthz: --ready-fd 3: nothing can be written there now; expected the writing end of a pipe"
        );
        assert_eq!(output.status.code(), Some(2));
    }
}

/// Regression: silent connections that used all descriptors kept all others out, because the table was not
/// full and so none was evicted.
#[test]
fn a_probe_is_answered_if_there_are_fewer_descriptors_than_connections() {
    for (limit, is_raised) in [("-S -n 60", true), ("-n 60", false)] {
        let path = temp_path();
        let listen = path.display();
        let mut daemon = Daemon::start_as(shell(&format!(
            "ulimit {limit}; exec \"$HEALTHZ\" --listen unix:{listen} --connections 100"
        )));
        daemon.lines().wait("serving");
        let connect = || UnixStream::connect(&path).unwrap();
        let silent: Vec<_> = std::iter::repeat_with(connect).take(150).collect();
        let (code, body) = get_unix(&path, "/healthz");
        assert_eq!((code, body.as_str()), (200, "ok"), "{limit}");
        drop(silent);
        let lines = daemon.lines().all();
        let is_logged =
            |line: &String| line.contains("RLIMIT_NOFILE is 60: enough for 25 connections");
        assert_eq!(lines.iter().any(is_logged), !is_raised, "{lines:?}");
        // A limit that could be raised far enough is not logged.
        let is_mentioned = lines.iter().any(|line| line.contains("RLIMIT_NOFILE"));
        assert_eq!(is_mentioned, !is_raised, "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains("cannot accept")));
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0));
    }
}

/// A lack of descriptors must not look like an address that is not on this machine.
#[test]
fn a_start_without_free_descriptors_fails_with_that_error() {
    // The dynamic linker needs a descriptor too, and this test may have inherited some that are open.
    let close: String = (3..=9).map(|fd| format!(" {fd}>&-")).collect();
    for limit in 5..=11 {
        let script =
            format!("exec{close}; ulimit -n {limit}; exec \"$HEALTHZ\" --listen localhost:0");
        let output = end_of(shell(&script));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("(os error 24)"), "{limit}: {text}");
        assert!(
            !text.contains("until its interface is up"),
            "{limit}: {text}"
        );
        assert_eq!(output.status.code(), Some(1), "{limit}: {text}");
    }
}

/// Otherwise a failed allocation aborts, or std panics in the new thread.
#[test]
fn a_start_without_enough_memory_fails_and_says_how_much_is_needed() {
    let start = |kib: u32| {
        let script = format!("ulimit -v {kib}; exec \"$HEALTHZ\" --listen 127.0.0.1:0");
        let mut daemon = Daemon::start_as(shell(&script));
        let status = eventually("healthz to serve or to exit", || {
            let lines = daemon.lines().all();
            let serves = lines.iter().any(|line| line.contains(" serving "));
            let status = daemon.child.try_wait().unwrap();
            (serves || status.is_some()).then_some(status)
        });
        status.map(|status| (status, daemon.lines().clone()))
    };
    // First there is too little for the system to start a program, then for the server's buffers, and then
    // for the threads.
    let limits = (2048..=65536).step_by(256);
    let failures: Vec<_> = limits.map_while(start).collect();
    let is_logged = |lines: &daemon::Lines| {
        let lines = lines.all();
        lines.iter().any(|line| line.contains(" connections need;"))
    };
    let server = failures.iter().rfind(|(_, lines)| is_logged(lines));
    for ((status, lines), expected) in [
        (server.unwrap(), " KiB that 64 connections need;"),
        (failures.last().unwrap(), " 364 KiB that threads need;"),
    ] {
        lines.wait(expected);
        assert_eq!(status.code(), Some(1));
    }
}

/// Runs healthz in a network namespace of its own, after `setup`. `None` if that is not possible here.
#[cfg(target_os = "linux")]
fn in_namespace(setup: &str, args: &str) -> Option<Daemon> {
    let inside = |script: &str| {
        let mut command = shell("exec unshare --map-root-user --net --mount sh -ec \"$SCRIPT\"");
        command.env("SCRIPT", format!("mount -t sysfs none /sys; {script}"));
        command
    };
    let tried = end_of(inside("ip link set lo up"));
    if !tried.status.success() {
        untried(&format!("no network namespace: {tried:?}"));
        return None;
    }
    let script = format!("{setup}; exec \"$HEALTHZ\" {args}");
    let daemon = Daemon::start_as(inside(&script));
    daemon.lines().wait("serving");
    Some(daemon)
}

#[test]
#[cfg(target_os = "linux")]
fn an_address_of_an_interface_that_is_down_is_logged_as_unreachable() {
    let down = "ip link set lo up; ip link set lo down";
    for (setup, args, expected) in [
        // A loopback interface that was never up has no route.
        (":", "--listen 127.0.0.1:0", 1),
        // One that was up keeps its route.
        (down, "--listen 127.0.0.1:0", 1),
        (down, "--listen 0.0.0.0:0 --allow-remote", 1),
        ("ip link set lo up", "--listen 127.0.0.1:0", 0),
    ] {
        let Some(daemon) = in_namespace(setup, args) else {
            return;
        };
        let mut lines = daemon.lines().all();
        lines.retain(|line| line.contains(" WARN "));
        assert_eq!(lines.len(), expected, "{setup}: {lines:?}");
        for line in lines {
            let start = " healthz: no client can reach 127.0.0.1:";
            assert!(line.contains(start), "{setup}: {line}");
            assert!(line.contains(" until its interface is up: "), "{line}");
        }
    }
}

/// Regression: each failed watchdog beat was logged.
#[test]
fn a_manager_that_cannot_be_notified_is_logged_once_until_it_can_be_again() {
    let path = temp_path();
    let mut command = daemon::healthz(&["--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", &path);
    command.env("WATCHDOG_USEC", "200000");
    let daemon = Daemon::start_as(command);
    daemon.lines().wait("cannot send READY=1");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut message = [0; 64];
    // The manager still has to get watchdog beats and READY=1.
    for expected in ["READY=1\n", "WATCHDOG=1"] {
        while {
            let length = manager.recv(&mut message).unwrap();
            !message[..length].starts_with(expected.as_bytes())
        } {}
    }
    daemon
        .lines()
        .wait("the service manager can be notified again");
    drop(manager);
    eventually("the second failure to be logged", || {
        let lines = daemon.lines().all();
        let complaints = lines.iter().filter(|line| line.contains("cannot send"));
        (complaints.count() == 2).then_some(())
    });
    assert_eq!(daemon.lines().all().len(), 4, "{:?}", daemon.lines().all());
    std::fs::remove_file(path).unwrap();
}

#[test]
fn allow_remote_serves_addresses_that_are_not_loopback() {
    let daemon = Daemon::start_as(daemon::healthz(&[
        "--listen",
        "0.0.0.0:0",
        "--allow-remote",
    ]));
    let port = daemon.address().port();
    assert_eq!(get(([127, 0, 0, 1], port).into(), "/healthz").0, 200);
}

#[test]
fn the_error_for_an_address_in_use_names_the_process_and_exits_1() {
    // The test process holds the address. Its name in /proc is that of its main thread.
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let holder = format!("{} (pid {})", name.trim_end(), std::process::id());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = temp_path();
    let _unix = UnixListener::bind(&path).unwrap();
    let addresses = [
        tcp.local_addr().unwrap().to_string(),
        format!("unix:{}", path.display()),
    ];
    for address in addresses {
        let output = run(&["--listen", &address]);
        let expected =
            format!("healthz: {address} is in use by {holder}; stop it or pass --listen");
        assert_eq!(error_line(&output), expected);
        assert_eq!(output.status.code(), Some(1));
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_localhost_port_in_use_in_one_family_is_an_error() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let output = run(&["--listen", &format!("localhost:{port}")]);
    assert!(error_line(&output).starts_with(&format!("healthz: 127.0.0.1:{port} is in use by ")));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_stale_unix_socket_is_replaced_and_without_a_sandbox_removed_at_the_end() {
    let path = temp_path();
    drop(UnixListener::bind(&path).unwrap());
    let address = format!("unix:{}", path.display());
    let args = ["--listen", &address, "--no-sandbox"];
    let mut daemon = Daemon::start_as(daemon::healthz(&args));
    let line = daemon.lines().wait("serving");
    assert!(line.ends_with(&format!(" on {address}")), "{line}");
    assert_eq!(get_unix(&path, "/healthz"), (200, "ok".to_owned()));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(!path.exists());
}

/// Connections of the previous run stay in TIME_WAIT for a minute, because the server closes first.
#[test]
fn a_restart_binds_its_port_while_old_connections_are_in_time_wait() {
    let mut first = Daemon::start(&[]);
    let address = first.address();
    assert_eq!(first.get("/healthz"), (200, "ok".to_owned()));
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait().code(), Some(0));
    // A socket without SO_REUSEADDR does not get the port.
    let plain = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let bound = plain.bind(&address.into()).map_err(|error| error.kind());
    assert_eq!(bound, Err(std::io::ErrorKind::AddrInUse));
    let listen = address.to_string();
    let second = Daemon::start_as(daemon::healthz(&["--listen", &listen]));
    let line = second.lines().wait("healthz: ");
    assert!(line.contains(" serving "), "{line}");
    assert_eq!(get(address, "/healthz"), (200, "ok".to_owned()));
}

/// /proc/net/unix lists a socket with the path to which it was bound.
#[test]
fn another_healthz_on_a_unix_socket_is_named() {
    let path = temp_path();
    let address = format!("unix:{}", path.display());
    let daemon = Daemon::start_as(daemon::healthz(&["--listen", &address]));
    daemon.lines().wait("serving");
    let output = run(&["--listen", &address]);
    let holder = format!("is in use by healthz (pid {});", daemon.pid());
    assert!(error_line(&output).contains(&holder), "{output:?}");
    assert_eq!(output.status.code(), Some(1));
    drop(daemon);
    std::fs::remove_file(path).unwrap();
}

/// Regression: the error named the first process with a socket of that relative path, in any directory.
#[test]
fn the_holder_of_a_relative_path_is_the_one_in_the_same_directory() {
    let folders = [temp_path(), temp_path()];
    let [there, here] = &folders;
    let at = |folder: &std::path::Path| {
        let mut command = daemon::healthz(&["--listen", "unix:h.sock"]);
        command.current_dir(folder);
        command
    };
    for folder in &folders {
        std::fs::create_dir(folder).unwrap();
    }
    let mut elsewhere = Daemon::start_as(at(there));
    elsewhere.lines().wait("serving");
    // Bound under another name, so the table has no entry with this path.
    let holder = UnixListener::bind(here.join("h.sock")).unwrap();
    let unknown = end_of(at(here));
    drop(holder);
    let mut owner = Daemon::start_as(at(here));
    owner.lines().wait("serving");
    let known = end_of(at(here));
    for daemon in [&mut elsewhere, &mut owner] {
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0));
    }
    for folder in &folders {
        std::fs::remove_dir_all(folder).unwrap();
    }
    let line = error_line(&unknown);
    assert!(line.contains(" is in use by another process;"), "{line}");
    let line = error_line(&known);
    let name = format!(" is in use by healthz (pid {});", owner.pid());
    assert!(line.contains(&name), "{line}");
}

/// Otherwise clients could not reach the new daemon.
#[test]
fn a_daemon_that_stops_does_not_remove_the_socket_of_its_successor() {
    let path = temp_path();
    let listen = format!("unix:{}", path.display());
    let args = ["--listen", &listen, "--no-sandbox"];
    let mut first = Daemon::start_as(daemon::healthz(&args));
    first.lines().wait("serving");
    std::fs::remove_file(&path).unwrap();
    let mut second = Daemon::start_as(daemon::healthz(&["--listen", &listen]));
    second.lines().wait("serving");
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait().code(), Some(0));
    assert_eq!(get_unix(&path, "/healthz").0, 200);
    second.signal(Signal::SIGTERM);
    assert_eq!(second.wait().code(), Some(0));
}

#[test]
fn a_file_that_is_not_a_socket_is_not_replaced() {
    let path = temp_path();
    std::fs::write(&path, "precious").unwrap();
    let output = run(&["--listen", &format!("unix:{}", path.display())]);
    assert!(error_line(&output).starts_with("healthz: cannot listen on unix:"));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_stopped_daemon_exits_0_and_logs_its_counters() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start(&[]);
        assert_eq!(daemon.get("/healthz").0, 200);
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0));
        daemon
            .lines()
            .wait("stopped: 1 requests answered on 1 connections");
    }
}

/// The nice values of all threads of a process.
fn nice_values(pid: impl std::fmt::Display) -> BTreeSet<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stats = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat")));
    // proc_pid_stat(5): the nice value is field 19, and the second field ends in a parenthesis.
    let nice = |stat: String| stat.rsplit(')').next()?.split(' ').nth(17)?.parse().ok();
    stats.map(|stat| nice(stat.unwrap()).unwrap()).collect()
}

#[test]
#[cfg(target_os = "linux")]
fn all_threads_run_at_nice_minus_10_unless_another_nice_value_was_chosen() {
    let start = |prefix: &str| {
        let command = format!("exec {prefix} \"$HEALTHZ\" --listen 127.0.0.1:0 --log-level debug");
        let daemon = Daemon::start_as(shell(&command));
        daemon.address();
        daemon
    };
    let [own] = Vec::from_iter(nice_values("self"))[..] else {
        panic!("the threads of this test have different nice values");
    };
    // The daemon sets -10 only if its nice value is 0.
    let lowered = shell("test \"$(nice -n -39 nice)\" -lt 0").status();
    if lowered.unwrap().success() {
        let daemon = start(&format!("nice -n {}", -own));
        assert_eq!(nice_values(daemon.pid()), BTreeSet::from([-10]));
        let lines = daemon.lines().all();
        let is_refused = |line: &String| line.contains("cannot set the nice value");
        assert!(!lines.iter().any(is_refused), "{lines:?}");
    } else {
        untried("no right to lower the nice value");
    }
    // 19 is the largest nice value.
    let chosen = BTreeSet::from([(own + 5).min(19)]);
    assert_eq!(nice_values(start("nice -n 5").pid()), chosen);
}

/// Regression: SIGHUP ended the daemon without draining.
#[test]
fn sighup_is_logged_and_changes_nothing() {
    let mut daemon = Daemon::start(&[]);
    let address = daemon.address();
    daemon.signal(Signal::SIGHUP);
    daemon
        .lines()
        .wait("received SIGHUP: there is no configuration to read again");
    assert_eq!(get(address, "/healthz"), (200, "ok".to_owned()));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn draining_fails_readyz_while_the_listeners_stay_open() {
    let mut daemon = Daemon::start(&["--shutdown-delay", "1h"]);
    let address = daemon.address();
    daemon.signal(Signal::SIGTERM);
    eventually("readyz to fail", || {
        (get(address, "/readyz").0 == 500).then_some(())
    });
    let failing = format!("{VERBOSE}[-]shutdown failed: reason withheld\nreadyz check failed\n");
    assert_eq!(get(address, "/readyz"), (500, failing));
    let reason = "internal server error: process is shutting down\n";
    assert_eq!(get(address, "/readyz/shutdown"), (500, reason.to_owned()));
    assert_eq!(get(address, "/healthz"), (200, "ok".to_owned()));
    assert_eq!(
        get(address, "/livez?verbose").1,
        format!("{VERBOSE}livez check passed\n")
    );
    daemon
        .lines()
        .wait("stopping: /readyz fails, listeners close in 1h, then requests have 2s to finish");
    assert!(daemon.is_running());

    daemon.signal(Signal::SIGINT);
    assert_eq!(
        daemon.wait().code(),
        Some(0),
        "exit code after two stop signals"
    );
    daemon.lines().wait("second signal: exiting at once");
    assert!(try_get(address, "/healthz").is_err());
}

#[test]
fn the_shutdown_delay_ends_without_another_signal() {
    let mut daemon = Daemon::start(&["--shutdown-delay", "50ms"]);
    daemon.address();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    daemon.lines().wait("stopped: 0 requests");
}

#[test]
fn an_unfinished_request_is_answered_before_the_daemon_exits() {
    let mut daemon = Daemon::start(&["--drain-timeout", "1m"]);
    let address = daemon.address();
    let mut idle = TcpStream::connect(address).unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).unwrap();
    let mut begun = TcpStream::connect(address).unwrap();
    begun.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    // When the next connection has its answer, the server has read these bytes.
    assert_eq!(get(address, "/healthz").0, 200);

    daemon.signal(Signal::SIGTERM);
    daemon.lines().wait("stopping: ");
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).unwrap();
    eventually("the listener to close", || {
        try_get(address, "/healthz").err()
    });
    assert!(daemon.is_running());
    begun.write_all(b"Host: a\r\n\r\n").unwrap();
    let mut answer = String::new();
    begun.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("ok"),
        "{answer}"
    );
    assert_eq!(daemon.wait().code(), Some(0));
}

/// Regression: after SIGSTOP and SIGCONT both the server's drain time and the wait for the server were over,
/// and the daemon exited with an error.
#[test]
fn a_daemon_that_is_suspended_while_draining_still_exits_0() {
    let mut daemon = Daemon::start(&["--drain-timeout", "1s"]);
    let mut begun = TcpStream::connect(daemon.address()).unwrap();
    begun.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    assert_eq!(daemon.get("/healthz").0, 200);
    daemon.signal(Signal::SIGTERM);
    daemon.lines().wait("stopping: ");
    daemon.signal(Signal::SIGSTOP);
    // Longer than the drain timeout and the first second of grace. After these the daemon waits once more.
    std::thread::sleep(Duration::from_millis(2500));
    daemon.signal(Signal::SIGCONT);
    assert_eq!(daemon.wait().code(), Some(0));
    daemon.lines().wait("stopped: 1 requests");
}

#[test]
fn a_request_that_never_ends_does_not_prevent_the_exit() {
    let mut daemon = Daemon::start(&["--drain-timeout", "50ms"]);
    let mut begun = TcpStream::connect(daemon.address()).unwrap();
    begun.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    assert_eq!(daemon.get("/healthz").0, 200);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}
