//! What the server does when the process is out of descriptors. Each test runs in a child process,
//! because the descriptor limit applies to the whole process.
#![cfg(feature = "server")]
#![cfg(test)]

#[path = "support/harness.rs"]
mod harness;

use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;

use harness::{ENDPOINTS, GET, Harness, answer, is_closed, listening, rest};
use healthz::server::{ACCEPT_PAUSE, Address, Config};
use healthz::{Instant, Responder};

const CHILD: &str = "HEALTHZ_TEST_SHORTAGE_CHILD";

fn send_request(stream: &mut TcpStream) {
    stream.write_all(GET).unwrap();
}

/// Runs in the child, with 32 descriptors.
fn out_of_descriptors() {
    let mut harness = Harness::with(Config::default());
    // One descriptor is left, and the client takes it.
    let mut held_files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    drop(held_files.pop());
    let mut client = harness.connect();
    send_request(&mut client);
    for round in 0..20 {
        let event_count = harness.work();
        assert!(
            event_count <= 2,
            "{event_count} events in round {round}: the server does not sleep"
        );
        assert!(harness.server.deadline().unwrap() <= harness.now.saturating_add(ACCEPT_PAUSE));
        harness.now = harness.now.saturating_add(ACCEPT_PAUSE);
    }
    let counters = harness.server.counters();
    assert_eq!(counters.accept_pauses, 1, "one shortage is counted once");
    assert_eq!((counters.accepted, counters.evicted), (0, 0));

    drop(held_files.pop());
    harness.pass(ACCEPT_PAUSE);
    answer(&mut client);

    // Now an idle connection holds the last descriptor.
    drop(held_files.pop());
    let mut next = harness.connect();
    send_request(&mut next);
    harness.work();
    send_request(&mut client);
    harness.work();
    answer(&mut client);
    assert_eq!(
        harness.server.counters().evicted,
        0,
        "evicted before the pause is over"
    );
    harness.pass(ACCEPT_PAUSE);
    answer(&mut next);
    assert!(is_closed(&mut client));
    let counters = harness.server.counters();
    assert_eq!((counters.accepted, counters.evicted), (2, 1));

    drop(held_files);
    drop(client);
    for _ in 0..3 {
        harness.assert_probe_is_answered();
    }
    send_request(&mut next);
    harness.work();
    answer(&mut next);
    assert_eq!(
        harness.server.counters().evicted,
        1,
        "evicted although descriptors are free"
    );
    println!("the server recovered");
}

/// Runs in the child: the server is stopped while idle connections are open and others wait in the backlog.
fn stopped_out_of_descriptors() {
    let path = std::env::temp_dir().join(format!("healthz-short-{}.sock", std::process::id()));
    let listeners = listening(&Address::Unix(path.clone()));
    let mut harness = Harness::on(Responder::new(&ENDPOINTS), listeners, Config::default());
    let mut connect = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    let mut idle = [GET; 4].map(&mut connect);
    harness.work();
    idle.iter_mut().for_each(|stream| drop(answer(stream)));
    // Some clients in the backlog send a request and some send nothing. Idle connections are closed to
    // free descriptors for both.
    let waiting = [GET, b"", GET, b"", GET, GET].map(&mut connect);
    let held_files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    harness.server.stop(harness.poll.registry(), harness.now);
    for (mut stream, has_request) in waiting
        .into_iter()
        .zip([true, false, true, false, true, true])
    {
        let text = rest(&mut stream);
        assert_eq!(text.ends_with("\r\n\r\nok"), has_request, "{text:?}");
    }
    assert!(harness.server.is_finished());
    assert_eq!(
        harness.server.counters().accept_pauses,
        0,
        "paused after stop"
    );
    drop(held_files);
    println!("the server recovered");
}

/// Runs in the child: the backlog is empty and one open connection has an unread request.
fn stopped_out_of_descriptors_with_an_unread_request() {
    let path = std::env::temp_dir().join(format!("healthz-unread-{}.sock", std::process::id()));
    let listeners = listening(&Address::Unix(path.clone()));
    let mut harness = Harness::on(Responder::new(&ENDPOINTS), listeners, Config::default());
    let mut idle = [0; 2].map(|_| UnixStream::connect(&path).unwrap());
    harness.work();
    assert_eq!(harness.server.counters().open, 2);
    let [with_request, silent] = &mut idle;
    with_request.write_all(GET).unwrap();
    let held_files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    harness.server.stop(harness.poll.registry(), harness.now);
    assert!(rest(with_request).ends_with("\r\n\r\nok"));
    assert_eq!(rest(silent), "");
    assert!(harness.server.is_finished());
    assert_eq!(harness.server.counters().evicted, 0);
    drop(held_files);
    println!("the server recovered");
}

/// Runs in the child: the backlog is empty and the open connections have started requests.
fn stopped_out_of_descriptors_in_the_middle_of_a_request() {
    let (start, end) = GET.split_at(9);
    let mut harness = Harness::with(Config::default());
    let mut busy = [0; 2].map(|_| harness.send(start));
    let held_files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    harness.server.stop(harness.poll.registry(), harness.now);
    for stream in &mut busy {
        stream.write_all(end).unwrap();
        harness.work();
        answer(stream);
    }
    assert_eq!(harness.server.counters().evicted, 0);
    drop(held_files);
    println!("the server recovered");
}

/// Runs in the child: the host's clock goes back during a pause in accepting.
fn out_of_descriptors_with_a_clock_that_goes_back() {
    let mut harness = Harness::with(Config::default());
    harness.now = Instant::from_millis(3_600_000);
    let mut held_files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    drop(held_files.pop());
    let mut client = harness.connect();
    send_request(&mut client);
    harness.work();
    assert_eq!(harness.server.counters().accepted, 0);
    drop(held_files);
    harness.now = Instant::ZERO;
    harness.work();
    answer(&mut client);
    println!("the server recovered");
}

/// Runs in the child: the host has closed its standard input, so that the next socket gets the number 0.
fn without_standard_input() {
    let path = std::env::temp_dir().join(format!("healthz-zero-{}.sock", std::process::id()));
    let listeners = listening(&Address::Unix(path.clone()));
    let mut harness = Harness::on(Responder::new(&ENDPOINTS), listeners, Config::default());
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(GET).unwrap();
    nix::unistd::close(0).unwrap();
    harness.work();
    answer(&mut client);
    println!("the server recovered");
}

#[test]
fn a_connection_with_the_descriptor_0_is_served() {
    in_a_child_process(
        "a_connection_with_the_descriptor_0_is_served",
        without_standard_input,
    );
}

/// Regression: after the clock went back, the server accepted nothing until the clock reached the end of
/// the pause again.
#[test]
fn a_clock_that_goes_back_does_not_prolong_a_pause_in_accepting() {
    in_a_child_process(
        "a_clock_that_goes_back_does_not_prolong_a_pause_in_accepting",
        out_of_descriptors_with_a_clock_that_goes_back,
    );
}

/// Regression: a stopping server without a free descriptor evicted a connection with a started request,
/// because accept(2) reports EMFILE even if the backlog is empty.
#[test]
fn a_server_that_stops_out_of_descriptors_evicts_no_started_request() {
    in_a_child_process(
        "a_server_that_stops_out_of_descriptors_evicts_no_started_request",
        stopped_out_of_descriptors_in_the_middle_of_a_request,
    );
}

/// Regression: a stopping server without a free descriptor evicted the longest idle connection although
/// that had sent a request.
#[test]
fn a_server_that_stops_out_of_descriptors_reads_idle_connections_before_it_evicts_one() {
    in_a_child_process(
        "a_server_that_stops_out_of_descriptors_reads_idle_connections_before_it_evicts_one",
        stopped_out_of_descriptors_with_an_unread_request,
    );
}

/// Regression: a stopping server without a free descriptor paused accepting instead of closing idle
/// connections. Clients in the backlog that had sent a request were reset.
#[test]
fn a_server_that_stops_out_of_descriptors_answers_requests_in_the_backlog() {
    in_a_child_process(
        "a_server_that_stops_out_of_descriptors_answers_requests_in_the_backlog",
        stopped_out_of_descriptors,
    );
}

#[test]
fn a_server_out_of_descriptors_evicts_an_idle_connection_and_answers_the_next() {
    in_a_child_process(
        "a_server_out_of_descriptors_evicts_an_idle_connection_and_answers_the_next",
        out_of_descriptors,
    );
}

fn in_a_child_process(name: &str, test: fn()) {
    if std::env::var_os(CHILD).is_some() {
        return test();
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
        output.status.success() && text.contains("the server recovered"),
        "{text}"
    );
}
