//! `healthz beat`: messages to the real daemon, programs that it runs, errors and exit codes.
#![cfg(all(feature = "client", feature = "sources", target_os = "linux"))]
#![cfg(test)]

#[path = "support/daemon.rs"]
mod support;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use support::{
    Daemon, TempPath, end_of, error_line, eventually, get, healthz, run, shell, temp_path,
};

/// A daemon with a heartbeat check named `worker`, and the path of its socket.
fn daemon(options: &str) -> (Daemon, SocketAddr, TempPath) {
    let socket = temp_path();
    let check = format!("worker=heartbeat,socket={}{options}", socket.display());
    let daemon = Daemon::start(&["--check", &check]);
    let address = daemon.address();
    (daemon, address, socket)
}

fn beat(socket: &Path, args: &[&str]) -> Output {
    let socket = socket.to_str().unwrap();
    run(&[&["beat", "worker", "--socket", socket], args].concat())
}

#[track_caller]
fn beats(socket: &Path, args: &[&str]) {
    let output = beat(socket, args);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
}

#[track_caller]
fn wait_for(address: SocketAddr, body: &str) {
    let mut last = String::new();
    let what = format!("the answer {body:?}");
    eventually(&what, || {
        last = get(address, "/healthz/worker").1;
        (last == body).then_some(())
    });
}

#[track_caller]
fn wait_for_reason(address: SocketAddr, reason: &str) {
    wait_for(address, &format!("internal server error: {reason}\n"));
}

#[track_caller]
fn fails(output: &Output, code: i32, error: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(error_line(output), error);
    assert!(output.stdout.is_empty());
}

#[test]
fn a_beat_makes_the_check_pass_and_a_failure_ends_it_with_its_reason() {
    let (_daemon, address, socket) = daemon(",limit=1h");
    wait_for_reason(address, "not ready yet");
    beats(&socket, &[]);
    wait_for(address, "ok");
    beats(&socket, &["--fail", "no space: \u{e9} 99% = full"]);
    wait_for_reason(address, "watchdog triggered: no space: \u{e9} 99% = full");
    // The next beat ends the failure and its reason.
    beats(&socket, &[]);
    wait_for(address, "ok");
    beats(&socket, &["--fail="]);
    wait_for_reason(address, "watchdog triggered");
    beats(&socket, &["--status", "serving"]);
    wait_for(address, "ok");
}

#[test]
fn a_failure_shows_no_error_number_and_no_fields_of_an_earlier_message() {
    let (_daemon, address, socket) = daemon(",limit=1h,period=1s");
    let program = UnixDatagram::unbound().unwrap();
    program
        .send_to(b"READY=1\nSTATUS=old\nERRNO=5", &*socket)
        .unwrap();
    wait_for(address, "ok");
    // Lines would be fields, and a reason is one line.
    let reason = "  first\nREADY=1\r\tlast\u{7} \n";
    beats(&socket, &["--fail", reason]);
    wait_for_reason(address, "watchdog triggered: first READY=1  last");
    let long = "\u{20ac}".repeat(5000);
    beats(&socket, &["--fail", &long]);
    // As much as the receiver keeps of a status.
    let kept = "\u{20ac}".repeat(53);
    wait_for_reason(address, &format!("watchdog triggered: {kept}"));
}

#[test]
fn a_status_is_in_the_reason_when_no_other_beat_comes() {
    let (_daemon, address, socket) = daemon(",limit=100ms,period=1s");
    beats(&socket, &["--status", "row 7 of 9"]);
    let reason = eventually("the check to fail", || {
        let (status, body) = get(address, "/healthz/worker");
        (status == 500 && body.contains("no heartbeat")).then_some(body)
    });
    assert!(reason.ends_with(", limit 100 ms: row 7 of 9\n"), "{reason}");
}

#[test]
fn beat_becomes_the_program_with_the_socket_and_the_watchdog_time_in_its_environment() {
    let (_daemon, address, socket) = daemon(",limit=1h");
    let path = socket.to_str().unwrap();
    // The shell cannot send messages itself, so a child sends them.
    let script = "echo \"$NOTIFY_SOCKET $WATCHDOG_USEC $((WATCHDOG_PID - $$)) $*\"
        \"$HEALTHZ\" beat any --socket \"$NOTIFY_SOCKET\" --status 'from the program'
        exit 7";
    let mut command = shell("exec \"$HEALTHZ\" beat worker \"$@\"");
    command.args([
        "sh", "--socket", path, "--limit", "1m30s", "--", "sh", "-c", script,
    ]);
    command.args(["sh", "--", "--help", "a b"]);
    // Values for another program, which are replaced.
    command
        .env("NOTIFY_SOCKET", "/nowhere")
        .env("WATCHDOG_PID", "1");
    let output = end_of(command);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed, format!("{path} 90000000 0 -- --help a b\n"));
    assert_eq!(output.status.code(), Some(7));
    assert!(output.stderr.is_empty());
    wait_for(address, "ok");
}

#[test]
fn a_program_gets_a_relative_socket_as_an_absolute_path() {
    let directory = temp_path();
    fs::create_dir(&directory).unwrap();
    let mut command = healthz(&[
        "beat",
        "a",
        "--socket",
        "./b/a.sock",
        "--",
        "sh",
        "-c",
        "echo $NOTIFY_SOCKET",
    ]);
    command.current_dir(&directory);
    let output = end_of(command);
    let printed = String::from_utf8(output.stdout).unwrap();
    let directory = fs::canonicalize(&directory).unwrap();
    assert_eq!(printed, format!("{}/b/a.sock\n", directory.display()));
}

/// A service starts even if healthz does not run yet.
#[test]
fn a_program_runs_without_a_socket_and_standard_error_says_so() {
    let socket = temp_path();
    let path = socket.to_str().unwrap();
    let output = run(&["beat", "a", "--socket", path, "--", "sh", "-c", "echo ran"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"ran\n");
    let error = String::from_utf8(output.stderr).unwrap();
    let (first, second) = error.split_once('\n').unwrap();
    assert!(first.starts_with(&format!("healthz: no such check a: {path} does not exist")));
    assert_eq!(
        second,
        "healthz: running the command; its messages are lost until healthz can receive them\n"
    );
}

#[test]
fn a_program_that_cannot_be_run_has_the_exit_code_of_env() {
    let socket = temp_path();
    let _receiver = UnixDatagram::bind(&socket).unwrap();
    let program = temp_path();
    let output = beat(&socket, &["--", program.to_str().unwrap()]);
    let error = format!(
        "healthz: cannot run {}: no such file or directory",
        program.display()
    );
    fails(&output, 127, &error);
    fs::write(&program, "").unwrap();
    let output = beat(&socket, &["--", program.to_str().unwrap()]);
    let error = format!(
        "healthz: cannot run {}: permission denied",
        program.display()
    );
    fails(&output, 126, &error);
}

/// Regression: a slash in the name was one in the path, but the daemon makes it a hyphen.
#[test]
fn the_default_socket_has_the_name_of_the_check() {
    let output = run(&["beat", "no-such/check"]);
    let error = "healthz: no such check no-such/check: /run/healthz/no-such-check.sock does not exist; is there a check of \
                 kind heartbeat with this name, and does healthz run?";
    fails(&output, 3, error);
    // It is the socket of the daemon.
    #[cfg(feature = "sources")]
    {
        let output = run(&["check-config", "--check", "no-such/check=heartbeat"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains("\"/run/healthz/no-such-check.sock\""),
            "{text}"
        );
    }
}

#[test]
fn a_socket_that_cannot_be_used_is_an_error_that_says_why() {
    // No process listens.
    let socket = temp_path();
    drop(UnixDatagram::bind(&socket).unwrap());
    let path = socket.display();
    let error = format!(
        "healthz: check worker: no process receives on {path}; does healthz run, with a check of kind heartbeat with \
         this name?"
    );
    fails(&beat(&socket, &[]), 3, &error);
    // The queue is full, because its owner does not read.
    let full = temp_path();
    let receiver = UnixDatagram::bind(&full).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.set_nonblocking(true).unwrap();
    while sender.send_to(b"x", &*full).is_ok() {}
    let started = std::time::Instant::now();
    let error = format!(
        "healthz: check worker: the queue of {} was full for 1 s; healthz does not read it",
        full.display()
    );
    fails(&beat(&full, &[]), 3, &error);
    assert!(started.elapsed() >= Duration::from_secs(1));
    drop(receiver);
    // A stream socket.
    let stream = temp_path();
    let _listener = std::os::unix::net::UnixListener::bind(&stream).unwrap();
    let error = format!(
        "healthz: check worker: {}: protocol wrong type for socket",
        stream.display()
    );
    fails(&beat(&stream, &[]), 3, &error);
    // A path that no socket can have.
    let long = "/tmp/".to_owned() + &"a".repeat(200);
    let output = beat(Path::new(&long), &[]);
    assert_eq!(output.status.code(), Some(3));
    assert!(error_line(&output).starts_with(&format!("healthz: check worker: {long}: ")));
}

#[test]
fn a_user_without_the_right_to_send_gets_an_error_that_says_so() {
    if !nix::unistd::geteuid().is_root() {
        return support::untried("needs root, to be another user");
    }
    let (_daemon, _, socket) = daemon("");
    // The program must be in a directory that the other user can enter.
    let program = temp_path();
    // By another process: a child that another test starts would inherit the descriptor, and a program that is open for
    // writing cannot be run (ETXTBSY).
    let copied = Command::new("cp")
        .args([env!("CARGO_BIN_EXE_healthz").as_ref(), program.as_os_str()])
        .status();
    assert!(copied.unwrap().success());
    let mut command = Command::new(&*program);
    command.args(["beat", "worker", "--socket", socket.to_str().unwrap()]);
    command.stdin(Stdio::null());
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    let error = format!(
        "healthz: check worker: not permitted to send to {}; run this as the owner of the socket or as root, or give the \
         check the options mode and uid",
        socket.display()
    );
    fails(&end_of(command), 3, &error);
}

#[test]
fn an_abstract_socket_is_reached_and_passed_to_the_program() {
    let name = format!("@healthz-test-{}", std::process::id());
    let check = format!("worker=heartbeat,limit=1h,uid=0,socket={name}");
    let daemon = Daemon::start(&["--check", &check]);
    let address = daemon.address();
    let output = run(&["beat", "worker", "--socket", &name]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    wait_for(address, "ok");
    let output = run(&[
        "beat",
        "worker",
        "--socket",
        &name,
        "--",
        "sh",
        "-c",
        "echo $NOTIFY_SOCKET",
    ]);
    assert_eq!(output.stdout, format!("{name}\n").as_bytes());
}

#[test]
fn wrong_usage_has_exit_code_2_and_says_what_is_wrong() {
    for (args, error) in [
        (
            &[][..],
            "beat needs the name of a check of kind heartbeat; see healthz help beat",
        ),
        (
            &["--status", "x"],
            "beat needs the name of a check of kind heartbeat; see healthz help beat",
        ),
        (
            &["a b"],
            "beat \"a b\": expected the name of a check, of letters, digits and ._/-",
        ),
        (
            &["../a"],
            "beat ../a: expected the name of a check, of letters, digits and ._/-",
        ),
        (
            &["a", "true"],
            "unexpected argument true; write -- before a command to run",
        ),
        (&["a", "--"], "-- needs a command after it"),
        (
            &["a", "--stat", "x"],
            "unknown option --stat; did you mean --status?",
        ),
        (&["a", "-s"], "unknown option -s; see healthz help beat"),
        (
            &["a", "--fail"],
            "--fail needs a value; see healthz help beat",
        ),
        (
            &["a", "--fail", "x", "--status", "y"],
            "--status and --fail exclude each other: a failure has its own reason",
        ),
        (
            &["a", "--status", "y", "--", "true"],
            "--status and --fail cannot be used with a command, which sends its own messages",
        ),
        (
            &["a", "--limit", "3s"],
            "--limit is only for a command after --; the limit of the check is in its configuration",
        ),
        (
            &["a", "--limit", "3", "--", "true"],
            "--limit 3: expected 100ms to 1000d, written as 500ms, 10s, 2m or 1h",
        ),
        (
            &["a", "--socket="],
            "--socket \"\": cannot make an empty path absolute",
        ),
    ] {
        let output = run(&[&["beat"], args].concat());
        fails(&output, 2, &format!("healthz: {error}"));
    }
}

#[test]
fn help_is_printed_and_nothing_is_sent() {
    for args in [
        &["beat", "--help"][..],
        &["help", "beat"],
        &["beat", "a", "-h", "--", "true"],
    ] {
        let output = run(args);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.starts_with("healthz beat [OPTION]... NAME [-- COMMAND...]: "),
            "{text}"
        );
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stderr.is_empty());
    }
}
