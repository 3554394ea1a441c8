//! What the server does when the process is out of descriptors. In a process of its own: the limit
//! is everybody's.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

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

fn ask(stream: &mut TcpStream) {
    stream.write_all(GET).unwrap();
}

/// Runs in the child, with 32 descriptors.
fn out_of_descriptors() {
    let mut door = Harness::with(Config::default());
    // One descriptor is left, and the client takes it.
    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    drop(hoard.pop());
    let mut late = door.connect();
    ask(&mut late);
    for round in 0..20 {
        let reports = door.work();
        assert!(
            reports <= 2,
            "{reports} reports in round {round}: the server is kept awake"
        );
        assert!(door.server.deadline().unwrap() <= door.now.saturating_add(ACCEPT_PAUSE));
        door.now = door.now.saturating_add(ACCEPT_PAUSE);
    }
    let counters = door.server.counters();
    assert_eq!(counters.accept_pauses, 1, "one spell is told once");
    assert_eq!((counters.accepted, counters.evicted), (0, 0));

    drop(hoard.pop());
    door.pass(ACCEPT_PAUSE);
    answer(&mut late);

    // Now the last descriptor is held by somebody who sits.
    drop(hoard.pop());
    let mut next = door.connect();
    ask(&mut next);
    door.work();
    ask(&mut late);
    door.work();
    answer(&mut late);
    assert_eq!(door.server.counters().evicted, 0, "it may soon be over");
    door.pass(ACCEPT_PAUSE);
    answer(&mut next);
    assert!(is_closed(&mut late));
    let counters = door.server.counters();
    assert_eq!((counters.accepted, counters.evicted), (2, 1));

    drop(hoard);
    drop(late);
    for _ in 0..3 {
        door.assert_probe_is_answered();
    }
    ask(&mut next);
    door.work();
    answer(&mut next);
    assert_eq!(door.server.counters().evicted, 1, "there is room");
    println!("the door came back");
}

/// As well; and then the server is stopped.
fn stopped_out_of_descriptors() {
    let path = std::env::temp_dir().join(format!("healthz-short-{}.sock", std::process::id()));
    let listeners = listening(&Address::Unix(path.clone()));
    let mut door = Harness::on(Responder::new(&ENDPOINTS), listeners, Config::default());
    let mut connect = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    let mut idle = [GET; 4].map(&mut connect);
    door.work();
    idle.iter_mut().for_each(|stream| drop(answer(stream)));
    // Behind those who ask there are some who say nothing, and take what their like has given up.
    let waiting = [GET, b"", GET, b"", GET, GET].map(&mut connect);
    let hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    door.server.stop(door.poll.registry(), door.now);
    for (mut stream, is_asking) in waiting
        .into_iter()
        .zip([true, false, true, false, true, true])
    {
        let said = rest(&mut stream);
        assert_eq!(said.ends_with("\r\n\r\nok"), is_asking, "{said:?}");
    }
    assert!(door.server.is_finished());
    assert_eq!(door.server.counters().accept_pauses, 0, "there is no later");
    drop(hoard);
    println!("the door came back");
}

/// As well, with no connection that waits, and a request that was not read yet.
fn stopped_out_of_descriptors_behind_a_request() {
    let path = std::env::temp_dir().join(format!("healthz-asked-{}.sock", std::process::id()));
    let listeners = listening(&Address::Unix(path.clone()));
    let mut door = Harness::on(Responder::new(&ENDPOINTS), listeners, Config::default());
    let mut idle = [0; 2].map(|_| UnixStream::connect(&path).unwrap());
    door.work();
    assert_eq!(door.server.counters().open, 2);
    let [asking, silent] = &mut idle;
    asking.write_all(GET).unwrap();
    let hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    door.server.stop(door.poll.registry(), door.now);
    assert!(rest(asking).ends_with("\r\n\r\nok"));
    assert_eq!(rest(silent), "");
    assert!(door.server.is_finished());
    assert_eq!(door.server.counters().evicted, 0);
    drop(hoard);
    println!("the door came back");
}

/// As well, with nobody who waits.
fn stopped_out_of_descriptors_in_the_middle_of_a_request() {
    let (start, end) = GET.split_at(9);
    let mut door = Harness::with(Config::default());
    let mut busy = [0; 2].map(|_| door.send(start));
    let hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    door.server.stop(door.poll.registry(), door.now);
    for stream in &mut busy {
        stream.write_all(end).unwrap();
        door.work();
        answer(stream);
    }
    assert_eq!(door.server.counters().evicted, 0);
    drop(hoard);
    println!("the door came back");
}

/// As well, while the host's clock goes back.
fn out_of_descriptors_with_a_clock_that_goes_back() {
    let mut door = Harness::with(Config::default());
    door.now = Instant::from_millis(3_600_000);
    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    drop(hoard.pop());
    let mut late = door.connect();
    ask(&mut late);
    door.work();
    assert_eq!(door.server.counters().accepted, 0);
    drop(hoard);
    door.now = Instant::ZERO;
    door.work();
    answer(&mut late);
    println!("the door came back");
}

/// It did: a pause that was to end at a time kept the door closed until that time had come again.
#[test]
fn a_clock_that_goes_back_does_not_prolong_a_pause_in_accepting() {
    in_a_process_of_its_own(
        "a_clock_that_goes_back_does_not_prolong_a_pause_in_accepting",
        out_of_descriptors_with_a_clock_that_goes_back,
    );
}

/// One was: without a descriptor accept(2) does not say that nobody waits.
#[test]
fn nobody_is_evicted_in_the_middle_of_a_request_when_a_server_stops_out_of_descriptors() {
    in_a_process_of_its_own(
        "nobody_is_evicted_in_the_middle_of_a_request_when_a_server_stops_out_of_descriptors",
        stopped_out_of_descriptors_in_the_middle_of_a_request,
    );
}

/// Regression: the longest idle connection was evicted though it had sent a request, for a connection that
/// might have been waiting to be accepted.
#[test]
fn a_server_that_stops_out_of_descriptors_reads_the_idle_before_it_evicts_any() {
    in_a_process_of_its_own(
        "a_server_that_stops_out_of_descriptors_reads_the_idle_before_it_evicts_any",
        stopped_out_of_descriptors_behind_a_request,
    );
}

/// It paused, for a time that it did not have: who had asked was reset, though the idle could go.
#[test]
fn a_server_that_stops_out_of_descriptors_answers_who_has_asked() {
    in_a_process_of_its_own(
        "a_server_that_stops_out_of_descriptors_answers_who_has_asked",
        stopped_out_of_descriptors,
    );
}

#[test]
fn a_process_out_of_descriptors_answers_all_the_same_if_it_has_one_to_give_up() {
    in_a_process_of_its_own(
        "a_process_out_of_descriptors_answers_all_the_same_if_it_has_one_to_give_up",
        out_of_descriptors,
    );
}

fn in_a_process_of_its_own(name: &str, test: fn()) {
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
        output.status.success() && text.contains("the door came back"),
        "{text}"
    );
}
