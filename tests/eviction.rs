//! Who has to go when there is no room, and who must not: who has asked, and who is in the middle of it
//! when the server stops.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/harness.rs"]
mod harness;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use harness::{ENDPOINTS, GET, Harness, LAST, answer, listening, rest};
use healthz::server::{Address, Config};
use healthz::{Limits, Responder};
use mio::Token;

const HALF: &[u8] = b"GET /healthz HTTP/1.1\r\nHos";
const OTHER_HALF: &[u8] = b"t: a\r\n\r\n";

/// A server on a Unix socket, where a connection can be accepted before it has said anything.
fn on_unix(name: &str, connections: usize) -> (Harness, PathBuf) {
    let path = std::env::temp_dir().join(format!("healthz-{name}-{}.sock", std::process::id()));
    let listeners = listening(&Address::Unix(path.clone()));
    let config = Config {
        connections,
        ..Config::default()
    };
    let responder = Responder::new(&ENDPOINTS);
    (Harness::on(responder, listeners, config), path)
}

/// A connection that the server has in its table, between two requests.
fn idle(harness: &mut Harness, path: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(GET).unwrap();
    harness.work();
    answer(&mut stream);
    stream
}

/// It was, if the newcomer's event came before its own: its request was there, and was reset.
#[test]
fn the_longest_idle_is_passed_over_if_it_has_just_asked() {
    let (mut harness, path) = on_unix("asking", 4);
    let mut idle = [0; 4].map(|_| idle(&mut harness, &path));
    let mut newcomer = UnixStream::connect(&path).unwrap();
    newcomer.write_all(GET).unwrap();
    let [oldest, second, ..] = &mut idle;
    oldest.write_all(GET).unwrap();
    let events = harness.events(8);
    // The listener's before all others.
    let (first, others): (Vec<_>, Vec<_>) = events.iter().partition(|e| e.token() == Token(7));
    assert_eq!((first.len(), others.len()), (1, 1));
    let events = first.into_iter().chain(others);
    events.for_each(|event| harness.handle(event));
    harness.work();
    for stream in [&mut newcomer, oldest] {
        assert!(answer(stream).starts_with("HTTP/1.1 200 OK\r\n"));
    }
    assert_eq!(rest(second), "");
    assert_eq!(harness.server.counters().evicted, 1);
}

/// All of them have asked, and one goes all the same: the longest idle.
#[test]
fn the_longest_idle_goes_if_everybody_has_just_asked() {
    let (mut harness, path) = on_unix("all-asking", 12);
    let mut idle = [0; 12].map(|_| idle(&mut harness, &path));
    let mut newcomer = UnixStream::connect(&path).unwrap();
    newcomer.write_all(GET).unwrap();
    for stream in &mut idle {
        stream.write_all(GET).unwrap();
    }
    for event in &harness.events(1) {
        assert_eq!(event.token(), Token(7));
        harness.handle(event);
    }
    assert_eq!(harness.server.counters().evicted, 1);
    harness.work();
    answer(&mut newcomer);
    let [oldest, others @ ..] = &mut idle;
    others.iter_mut().for_each(|stream| drop(answer(stream)));
    assert!(oldest.read(&mut [0]).is_err(), "who is reset has asked");
}

/// As many of the oldest have asked: the first of the others goes, if it is one of eight, and else the
/// oldest, because nobody looks further.
#[test]
fn eight_of_the_idle_are_looked_at_before_one_goes() {
    for (asking, goes) in [(7, 7), (8, 0)] {
        let (mut harness, path) = on_unix("looks", 24);
        let mut idle = [0; 24].map(|_| idle(&mut harness, &path));
        let mut newcomer = UnixStream::connect(&path).unwrap();
        newcomer.write_all(GET).unwrap();
        for stream in idle.iter_mut().take(asking) {
            stream.write_all(GET).unwrap();
        }
        for event in &harness.events(1) {
            assert_eq!(event.token(), Token(7));
            harness.handle(event);
        }
        harness.work();
        answer(&mut newcomer);
        for (index, stream) in idle.iter_mut().enumerate() {
            stream.set_nonblocking(true).unwrap();
            let result = stream.read(&mut [0; 4096]);
            let is_open = match &result {
                Ok(size) => *size > 0,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            };
            assert_eq!(is_open, index != goes, "{index} of {asking}: {result:?}");
            assert_eq!(result.is_ok_and(|size| size > 0), index < asking && is_open);
        }
    }
}

/// They were: requests were cut off for the sake of connections that were closed a moment later.
#[test]
fn who_is_in_the_middle_of_a_request_does_not_go_for_the_idle_of_a_server_that_stops() {
    let (mut harness, path) = on_unix("stopping", 2);
    let [mut old, mut idle, mut newcomer] = [0; 3].map(|_| UnixStream::connect(&path).unwrap());
    old.write_all(HALF).unwrap();
    idle.write_all(GET).unwrap();
    // Two are accepted, one a turn.
    harness.turn();
    harness.turn();
    answer(&mut idle);
    assert_eq!(harness.server.counters().accepted, 2);
    newcomer.write_all(HALF).unwrap();
    harness.server.stop(harness.poll.registry(), harness.now);
    assert_eq!(harness.server.counters().accepted, 3);
    for stream in [&mut old, &mut newcomer] {
        stream.write_all(OTHER_HALF).unwrap();
        harness.work();
        assert!(rest(stream).ends_with("\r\n\r\nok"));
    }
    assert_eq!(rest(&mut idle), "");
    assert!(harness.server.is_finished());
}

/// Where [`flood`] is to connect to; only its process has it.
const FLOODED: &str = "HEALTHZ_TEST_FLOODED";
/// Many times more than the server has places.
const FLOOD: usize = 300;

/// Runs in a process of its own: connects again and again, and says nothing.
fn flood(path: &str) {
    let held: Vec<_> = (0..FLOOD)
        .map(|_| UnixStream::connect(path).unwrap())
        .collect();
    println!("connected");
    // Until the test has looked.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(held);
}

/// Regression: a client that paused between connect(2) and its request was evicted once another process had
/// connected as often as the table has places.
#[cfg(target_os = "linux")]
#[test]
fn a_client_that_has_not_asked_yet_is_not_evicted_by_another_process_that_floods() {
    use std::process::{Command, Stdio};
    if let Some(path) = std::env::var_os(FLOODED) {
        return flood(&path.to_string_lossy());
    }
    let (mut harness, path) = on_unix("flooded", 16);
    let mut client = UnixStream::connect(&path).unwrap();
    let name = "a_client_that_has_not_asked_yet_is_not_evicted_by_another_process_that_floods";
    let mut flooders = [0; 3].map(|_| {
        let mut flooder = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--test-threads=1", name])
            .env(FLOODED, &path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = flooder.stdout.take().unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"connected\n") {
            let mut byte = [0];
            assert_eq!(output.read(&mut byte).unwrap(), 1, "no flood");
            text.extend_from_slice(&byte);
        }
        harness.work();
        (flooder, output)
    });
    let counters = harness.server.counters();
    let accepted = 1 + 3 * FLOOD as u64;
    assert_eq!(
        (counters.accepted, counters.evicted),
        (accepted, accepted - 16)
    );
    client.write_all(GET).unwrap();
    harness.work();
    answer(&mut client);
    for (flooder, _) in &mut flooders {
        drop(flooder.stdin.take());
        assert!(flooder.wait().unwrap().success());
    }
}

/// It was told of a head that was late, and kept a server that stops from its end.
#[test]
fn empty_lines_behind_a_body_are_no_request() {
    let post = b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody\r\n".as_slice();
    let mut harness = Harness::new(4);
    let mut stream = harness.send(post);
    answer(&mut stream);
    harness.pass(Limits::DEFAULT.head_duration);
    assert_eq!(rest(&mut stream), "");
    let counters = harness.server.counters();
    assert_eq!(
        (counters.answered, counters.refused, counters.expired),
        (1, 0, 1)
    );

    let mut stream = harness.send(post);
    answer(&mut stream);
    // A request may follow them, though.
    stream.write_all(LAST).unwrap();
    harness.work();
    assert!(rest(&mut stream).ends_with("\r\n\r\nok"));

    let mut stream = harness.send(post);
    answer(&mut stream);
    harness.server.stop(harness.poll.registry(), harness.now);
    assert!(harness.server.is_finished());
    assert_eq!(rest(&mut stream), "");
}

/// Regression: the idle connection was evicted for the newcomer, and its request was reset unread.
#[test]
fn a_server_that_stops_answers_an_idle_connection_that_has_just_asked() {
    let (mut harness, path) = on_unix("asking-at-stop", 1);
    let mut idle = UnixStream::connect(&path).unwrap();
    harness.work();
    assert_eq!(harness.server.counters().open, 1);
    let mut newcomer = UnixStream::connect(&path).unwrap();
    idle.write_all(GET).unwrap();
    newcomer.write_all(HALF).unwrap();
    harness.server.stop(harness.poll.registry(), harness.now);
    newcomer.write_all(OTHER_HALF).unwrap();
    harness.work();
    for stream in [&mut idle, &mut newcomer] {
        assert!(rest(stream).ends_with("\r\n\r\nok"));
    }
    assert!(harness.server.is_finished());
    assert_eq!(harness.server.counters().evicted, 0);
}
