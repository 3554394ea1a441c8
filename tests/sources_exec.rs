//! The hidden command `healthz sources exec`, which starts the programs of checks.
#![cfg(all(feature = "sources", target_os = "linux"))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/daemon.rs"]
mod daemon;

use std::os::unix::process::ExitStatusExt;
use std::process::Output;

use daemon::{end_of, healthz, untried};

/// Runs the command with nothing in the environment.
fn exec(args: &[&str]) -> Output {
    let mut command = healthz(&["sources", "exec"]);
    command.args(args).env_clear();
    end_of(command)
}

/// The exit code, and everything that was printed.
fn result(args: &[&str]) -> (Option<i32>, String) {
    let output = exec(args);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn the_command_becomes_the_program() {
    let shell = |script| ["--", "/bin/sh", "-c", script];
    assert_eq!(result(&shell("exit 3")), (Some(3), String::new()));
    assert_eq!(result(&shell("kill -9 $$")).0, None);
    assert_eq!(result(&shell("pwd")), (Some(0), "/\n".to_owned()));
    let echo = ["--", "/bin/echo", "--user", "x", "--"];
    assert_eq!(result(&echo), (Some(0), "--user x --\n".to_owned()));
    // Nothing is added to the environment.
    assert_eq!(result(&["--", "/usr/bin/env"]), (Some(0), String::new()));
}

#[test]
fn signals_are_as_at_the_start_of_a_program() {
    // A Rust program ignores SIGPIPE, and its children inherit that.
    let output = exec(&["--", "/bin/sh", "-c", "kill -PIPE $$"]);
    assert_eq!(output.status.signal(), Some(13));
    let blocked = ["--", "/bin/grep", "^SigBlk", "/proc/self/status"];
    assert_eq!(result(&blocked).1, "SigBlk:\t0000000000000000\n");
}

#[test]
fn a_program_that_cannot_be_started_is_named() {
    let missing = ["--", "/missing/program"];
    let text = "/missing/program: does not exist\n".to_owned();
    assert_eq!(result(&missing), (Some(127), text));
    let denied = ["--", "/etc/passwd"];
    let text = "/etc/passwd: permission denied\n".to_owned();
    assert_eq!(result(&denied), (Some(127), text));
    assert_eq!(result(&[]).0, Some(127));
}

#[test]
fn the_command_becomes_the_user() {
    if !nix::unistd::geteuid().is_root() {
        untried("only root can become another user");
        return;
    }
    let id = ["--user", "nobody", "--", "/usr/bin/id"];
    let expected = "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)\n";
    assert_eq!(result(&id), (Some(0), expected.to_owned()));
    // All user and group numbers of the process, capabilities and groups.
    let status = [
        "--user",
        "54321",
        "--",
        "/bin/grep",
        "-E",
        "^(Uid|Gid|Groups|CapEff|CapPrm)",
        "/proc/self/status",
    ];
    let ids = "54321\t54321\t54321\t54321";
    let none = "0000000000000000";
    let expected =
        format!("Uid:\t{ids}\nGid:\t{ids}\nGroups:\t54321 \nCapPrm:\t{none}\nCapEff:\t{none}\n");
    assert_eq!(result(&status), (Some(0), expected));
    let unknown = ["--user", "no-such-user", "--", "/bin/true"];
    let text = "user no-such-user: not in /etc/passwd\n".to_owned();
    assert_eq!(result(&unknown), (Some(127), text));
}

#[test]
fn only_root_can_run_a_program_as_another_user() {
    if !nix::unistd::geteuid().is_root() {
        untried("only root can become another user");
        return;
    }
    let own = ["--user", "root", "--", "/bin/true"];
    assert_eq!(result(&own), (Some(0), String::new()));
    // Run by the user `nobody`, the program starts itself once more.
    let path = env!("CARGO_BIN_EXE_healthz");
    let again = [
        "--user",
        "nobody",
        "--",
        path,
        "sources",
        "exec",
        "--user",
        "root",
        "--",
        "/bin/true",
    ];
    let (code, text) = result(&again);
    if text.contains(path) {
        untried("the program is where other users cannot run it");
        return;
    }
    assert_eq!(
        (code, text.as_str()),
        (Some(127), "user root: permission denied\n")
    );
}
