//! What a server in its caller's loop logs: one record when a state changes, and none while the state lasts.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/harness.rs"]
mod harness;
#[path = "support/records.rs"]
mod records;

use std::fs::File;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use harness::{ENDPOINTS, GET, Harness, answer};
use healthz::Responder;
use healthz::server::{ACCEPT_PAUSE, Config, Listeners};
use log::Level;
use records::{begin, records};
use socket2::Socket;

#[test]
fn a_request_is_logged_at_trace_with_at_most_100_bytes_of_its_path() {
    begin();
    let mut harness = Harness::new(4);
    drop(harness.idle());
    assert_eq!(records(Level::Trace), ["request: Get /healthz"]);
    let path = "x".repeat(150);
    drop(harness.send(format!("GET /%0a{path} HTTP/1.0\r\n\r\n").as_bytes()));
    let logged = format!("request: Get /%0a{}", "x".repeat(96));
    assert_eq!(records(Level::Trace), [logged]);
}

#[test]
fn a_listener_that_was_shut_down_is_logged_once() {
    begin();
    let listener = Socket::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut listeners = Listeners::new();
    listeners.add(listener.try_clone().unwrap()).unwrap();
    let mut harness = Harness::on(Responder::new(&ENDPOINTS), listeners, Config::default());
    listener.shutdown(std::net::Shutdown::Both).unwrap();
    harness.work();
    harness.work();
    let expected = format!("{address} was shut down externally; no longer listening there");
    assert_eq!(records(Level::Error), [expected]);
}

const CHILD: &str = "HEALTHZ_TEST_LOG_CHILD";

/// Runs in the child, with 32 descriptors.
fn out_of_descriptors() {
    begin();
    let mut harness = Harness::with(Config::default());
    let mut held_files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    drop(held_files.pop());
    let mut client = harness.connect();
    std::io::Write::write_all(&mut client, GET).unwrap();
    for _ in 0..20 {
        harness.work();
        harness.now = harness.now.saturating_add(ACCEPT_PAUSE);
    }
    let warnings = records(Level::Warn);
    let [warning] = warnings.as_slice() else {
        panic!("{warnings:?}");
    };
    assert!(
        warning.starts_with("cannot accept connections: this process has reached its limit")
            && warning.contains("(EMFILE) (error 24); trying again every 100 ms"),
        "{warning}"
    );
    drop(held_files.pop());
    harness.pass(ACCEPT_PAUSE);
    answer(&mut client);
    assert_eq!(records(Level::Warn), [""; 0]);
    // That connection has taken the free descriptor, so the next one begins a shortage. It is logged, because the last
    // one ended more than a second ago.
    harness.pass(Duration::from_secs(2));
    drop(held_files.pop());
    let _second = harness.send_only(GET);
    harness.work();
    assert_eq!(records(Level::Warn).len(), 1);
    println!("one warning for each shortage");
}

#[test]
fn each_shortage_of_descriptors_is_logged_once_with_its_cause() {
    let name = "each_shortage_of_descriptors_is_logged_once_with_its_cause";
    if std::env::var_os(CHILD).is_some() {
        return out_of_descriptors();
    }
    let script = "ulimit -n 32 && exec \"$0\" --exact --nocapture --test-threads=1 \"$1\"";
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("one warning for each shortage"),
        "{text}"
    );
}
