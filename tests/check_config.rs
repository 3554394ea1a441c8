//! `healthz check-config`: what it prints, where it writes mistakes, and its exit codes.
#![cfg(all(feature = "sources", target_os = "linux"))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/daemon.rs"]
mod daemon;

use std::process::Output;

use daemon::{run, temp_path};

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[track_caller]
fn assert_output(output: &Output, code: i32, out: &str, err: &str) {
    assert_eq!(text(&output.stderr), err);
    assert_eq!(text(&output.stdout), out);
    assert_eq!(output.status.code(), Some(code));
}

const CLOCK: &str = "\
[check.c]
clock = true
max-error = \"1s\"
initial-delay = \"0s\"
period = \"10s\"
timeout = \"1s\"
success-threshold = 1
failure-threshold = 3
endpoints = [\"healthz\", \"readyz\"]
severity = \"error\"
unsupported = \"fail\"
";

#[test]
fn it_prints_arguments_and_the_file_with_all_defaults_and_accepts_what_it_printed() {
    let arguments = ["check-config", "--check", "c=clock,max-error=1s"];
    assert_output(&run(&arguments), 0, CLOCK, "");

    let path = temp_path();
    std::fs::write(&path, CLOCK).unwrap();
    let name = path.to_str().unwrap();
    assert_output(&run(&["check-config", name]), 0, CLOCK, "");
    assert_output(&run(&["--config", name, "check-config"]), 0, CLOCK, "");
    let both = run(&["check-config", name, "--check", "d=memory"]);
    assert!(both.status.success());
    let printed = text(&both.stdout);
    assert!(printed.starts_with("[check.d]\nmemory = true\n") && printed.ends_with(CLOCK));
}

#[test]
fn it_prints_every_mistake_with_its_place_and_exits_with_2() {
    let path = temp_path();
    std::fs::write(
        &path,
        "[check.a]\ndisk = \"/\"\nperod = \"5s\"\n[check.log]\nclock = 1\n",
    )
    .unwrap();
    let name = path.to_str().unwrap();
    let expected = format!(
        "--check b: unknown kind tmp; did you mean tcp?\n\
         {name}:3:1: unknown option perod of a disk check; did you mean period?\n\
         {name}:4:8: log: the daemon has a check of this name\n\
         {name}:5:9: a clock check has no argument: expected true\n"
    );
    let output = run(&["check-config", name, "--check", "b=tmp"]);
    assert_output(&output, 2, "", &expected);
}

/// Regression: all mistakes were in one line, with `\n` between them.
#[test]
fn at_a_start_every_mistake_is_a_line() {
    let path = temp_path();
    std::fs::write(&path, "[check.a]\nclock = 1\n[check.b]\nclock = 2\n").unwrap();
    let name = path.to_str().unwrap();
    let output = run(&["--config", name, "--listen", "127.0.0.1:0"]);
    let expected = format!(
        "healthz: {name}:2:9: a clock check has no argument: expected true\n\
         healthz: {name}:4:9: a clock check has no argument: expected true\n"
    );
    assert_output(&output, 2, "", &expected);
}

#[test]
fn help_with_the_option_for_the_version_prints_it() {
    let version = run(&["--version"]);
    for arguments in [["help", "-V"], ["help", "--version"]] {
        assert_eq!(run(&arguments).stdout, version.stdout);
    }
    assert!(version.stdout.starts_with(b"healthz "));
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_the_exit_code_is_2() {
    let missing = "/nonexistent/checks.toml";
    let expected = format!("{missing}: No such file or directory (os error 2)\n");
    assert_output(&run(&["check-config", missing]), 2, "", &expected);
    let directory = run(&["check-config", "/"]);
    assert_output(&directory, 2, "", "/: not a regular file\n");
}
