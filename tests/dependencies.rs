//! The crates that an embedder gets with healthz: mio, httparse, socket2, log, and their own dependencies.
//! The list comes from `cargo tree`, which reads the lock file.
#![cfg(test)]

use std::collections::BTreeSet;
use std::process::Command;

/// Direct dependencies with the feature `server` alone. mio and socket2 depend on libc too.
const SERVER: [&str; 5] = ["httparse", "libc", "log", "mio", "socket2"];
/// Direct dependencies without any feature.
const CORE: [&str; 1] = ["httparse"];
/// The core on a processor without atomic integers of 64 bits.
const SMALL: [&str; 2] = ["httparse", "portable-atomic"];

/// Names of the crates in a normal build for this machine. A `depth` of 1 lists the direct dependencies.
fn crates(features: &str, depth: &str) -> BTreeSet<String> {
    crates_with(features, &["--depth", depth])
}

/// Names of the crates in a normal build, without healthz itself. `more` are further options of `cargo tree`.
fn crates_with(features: &str, more: &[&str]) -> BTreeSet<String> {
    let arguments = "tree --offline --locked --no-default-features --edges normal --prefix none";
    let output = Command::new(env!("CARGO"))
        .args(arguments.split(' '))
        .args(["--features", features])
        .args(more)
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
fn the_server_feature_brings_only_the_listed_crates() {
    let expected = SERVER.map(ToOwned::to_owned).into();
    assert_eq!(crates("server", "1"), expected);
    // On Linux, mio, socket2 and log depend on no crate that is not in the list.
    if cfg!(target_os = "linux") {
        assert_eq!(crates("server", "99"), expected);
    }
}

#[test]
fn without_features_httparse_is_the_only_dependency() {
    assert_eq!(crates("", "99"), CORE.map(ToOwned::to_owned).into());
}

/// The targets are a Cortex-M4 and a Cortex-M0. cargo resolves for them without their standard library.
#[test]
fn on_a_small_processor_portable_atomic_is_the_only_other_dependency() {
    let expected: BTreeSet<_> = SMALL.map(ToOwned::to_owned).into();
    for target in ["thumbv7em-none-eabihf", "thumbv6m-none-eabi"] {
        let more = ["--target", target];
        assert_eq!(crates_with("portable-atomic", &more), expected, "{target}");
    }
}

#[test]
fn the_dependencies_of_the_program_are_found() {
    // Asserts that the output of `cargo tree` is read at all.
    let all = crates("daemon", "1");
    assert!(
        all.contains("lexopt") && all.contains("env_logger"),
        "{all:?}"
    );
}
