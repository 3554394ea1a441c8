//! What an embedder gets besides healthz: mio, httparse, socket2, log, and nothing that those do not
//! bring. Asks cargo, which answers from the lock file.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::process::Command;

/// What the crate asks for when it is built with `server` alone. libc is what mio and socket2 bring.
const SERVER: [&str; 5] = ["httparse", "libc", "log", "mio", "socket2"];
/// And without any feature.
const CORE: [&str; 1] = ["httparse"];

/// Names of the crates in a normal build for this machine, healthz itself aside; `depth` 1 is those it
/// asks for.
fn crates(features: &str, depth: &str) -> BTreeSet<String> {
    let arguments = "tree --offline --locked --no-default-features --edges normal --prefix none";
    let output = Command::new(env!("CARGO"))
        .args(arguments.split(' '))
        .args(["--features", features, "--depth", depth])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{err}");
    let names = out.lines().filter_map(|line| line.split(' ').next());
    let mut names: BTreeSet<String> = names.map(ToOwned::to_owned).collect();
    assert!(names.remove("healthz"), "{out}");
    names
}

#[test]
fn an_embedder_gets_the_crates_that_were_promised_and_no_other() {
    let want = SERVER.map(ToOwned::to_owned).into();
    assert_eq!(crates("server", "1"), want);
    // mio, socket2 and log bring nothing on this machine that is not in the list already.
    if cfg!(target_os = "linux") {
        assert_eq!(crates("server", "99"), want);
    }
}

#[test]
fn the_core_needs_a_parser_and_nothing_else() {
    assert_eq!(crates("", "99"), CORE.map(ToOwned::to_owned).into());
}

#[test]
fn what_the_program_needs_besides_is_seen() {
    // The canary: had cargo nothing to say, the lists above would not hold either.
    let all = crates("daemon", "1");
    assert!(
        all.contains("lexopt") && all.contains("env_logger"),
        "{all:?}"
    );
}
