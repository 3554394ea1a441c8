//! At `trace`, the daemon logs each request, with its path cut.
#![cfg(feature = "daemon")]
#![cfg(test)]

#[path = "support/daemon.rs"]
mod daemon;

use daemon::Daemon;

#[test]
fn each_request_is_logged_at_trace_with_its_path_cut() {
    let daemon = Daemon::start(&["--log-level", "trace"]);
    daemon.get("/healthz?verbose");
    daemon.lines().wait("request: Get /healthz");
    let long = "x".repeat(150);
    daemon.get(&format!("/%0a{long}"));
    let line = daemon.lines().wait("request: Get /%0ax");
    assert!(
        line.ends_with(&"x".repeat(96)) && !line.contains(&"x".repeat(97)),
        "{line}"
    );
}
