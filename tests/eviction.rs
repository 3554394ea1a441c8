//! Which connection is evicted from a full table, while the server serves and while it stops.
#![cfg(feature = "server")]
#![cfg(test)]

#[path = "support/harness.rs"]
mod harness;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use harness::{BASE, ENDPOINTS, GET, Harness, LAST, answer, listening, rest};
use healthz::server::{Address, Config};
use healthz::{Limits, Responder};

const HALF: &[u8] = b"GET /healthz HTTP/1.1\r\nHos";
const OTHER_HALF: &[u8] = b"t: a\r\n\r\n";

/// A server on a Unix socket, where a connection can be accepted before it has sent anything.
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

/// A connection in the server's table that has no open request.
fn idle(harness: &mut Harness, path: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(GET).unwrap();
    harness.work();
    answer(&mut stream);
    stream
}

/// Regression: the longest idle connection was evicted although its request had arrived, if the event of
/// the listener came before the event of the connection.
#[test]
fn the_longest_idle_connection_is_not_evicted_if_it_has_just_sent_a_request() {
    let (mut harness, path) = on_unix("requesting", 4);
    let mut idle = [0; 4].map(|_| idle(&mut harness, &path));
    let mut new_client = UnixStream::connect(&path).unwrap();
    new_client.write_all(GET).unwrap();
    let [oldest, second, ..] = &mut idle;
    oldest.write_all(GET).unwrap();
    let events = harness.events(8);
    // Handle the event of the listener before all others.
    let (first, others): (Vec<_>, Vec<_>) = events.iter().partition(|e| e.token() == BASE);
    assert_eq!((first.len(), others.len()), (1, 1));
    let events = first.into_iter().chain(others);
    events.for_each(|event| harness.handle(event));
    harness.work();
    for stream in [&mut new_client, oldest] {
        assert!(answer(stream).starts_with("HTTP/1.1 200 OK\r\n"));
    }
    assert_eq!(rest(second), "");
    assert_eq!(harness.server.counters().evicted, 1);
}

/// The end of the client's sending side is no request.
#[test]
fn the_longest_idle_connection_is_evicted_if_its_client_has_just_ended() {
    let (mut harness, path) = on_unix("ended", 4);
    let mut idle = [0; 4].map(|_| idle(&mut harness, &path));
    let mut new_client = UnixStream::connect(&path).unwrap();
    new_client.write_all(GET).unwrap();
    let [oldest, others @ ..] = &mut idle;
    oldest.shutdown(std::net::Shutdown::Write).unwrap();
    let events = harness.events(8);
    let listener = events.iter().find(|event| event.token() == BASE);
    harness.handle(listener.unwrap());
    assert_eq!(harness.server.counters().evicted, 1);
    harness.work();
    assert_eq!(rest(oldest), "");
    for stream in others {
        stream.write_all(GET).unwrap();
        harness.work();
        answer(stream);
    }
}

#[test]
fn the_longest_idle_connection_is_evicted_if_every_connection_has_just_sent_a_request() {
    let (mut harness, path) = on_unix("all-requesting", 12);
    let mut idle = [0; 12].map(|_| idle(&mut harness, &path));
    let mut new_client = UnixStream::connect(&path).unwrap();
    new_client.write_all(GET).unwrap();
    for stream in &mut idle {
        stream.write_all(GET).unwrap();
    }
    for event in &harness.events(1) {
        assert_eq!(event.token(), BASE);
        harness.handle(event);
    }
    assert_eq!(harness.server.counters().evicted, 1);
    harness.work();
    answer(&mut new_client);
    let [oldest, others @ ..] = &mut idle;
    others.iter_mut().for_each(|stream| drop(answer(stream)));
    assert!(
        oldest.read(&mut [0]).is_err(),
        "evicted with an unread request, so reset"
    );
}

/// `requesting` of the oldest connections have sent a request. The first of the others is evicted if it is
/// among the eight oldest. Otherwise the oldest is evicted, because the search stops after eight.
#[test]
fn the_search_for_an_idle_connection_to_evict_reads_the_eight_oldest() {
    for (requesting, evicted) in [(7, 7), (8, 0)] {
        let (mut harness, path) = on_unix("searched", 24);
        let mut idle = [0; 24].map(|_| idle(&mut harness, &path));
        let mut new_client = UnixStream::connect(&path).unwrap();
        new_client.write_all(GET).unwrap();
        for stream in idle.iter_mut().take(requesting) {
            stream.write_all(GET).unwrap();
        }
        for event in &harness.events(1) {
            assert_eq!(event.token(), BASE);
            harness.handle(event);
        }
        harness.work();
        answer(&mut new_client);
        for (index, stream) in idle.iter_mut().enumerate() {
            stream.set_nonblocking(true).unwrap();
            let result = stream.read(&mut [0; 4096]);
            let is_open = match &result {
                Ok(size) => *size > 0,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            };
            assert_eq!(
                is_open,
                index != evicted,
                "{index} of {requesting}: {result:?}"
            );
            assert_eq!(
                result.is_ok_and(|size| size > 0),
                index < requesting && is_open
            );
        }
    }
}

/// Regression: a stopping server evicted connections with a started request and kept idle ones, which it
/// closed right after.
#[test]
fn a_stopping_server_evicts_idle_connections_before_started_requests() {
    let (mut harness, path) = on_unix("stopping", 2);
    let [mut old, mut idle, mut new_client] = [0; 3].map(|_| UnixStream::connect(&path).unwrap());
    old.write_all(HALF).unwrap();
    idle.write_all(GET).unwrap();
    // The server accepts two connections, one for each call.
    harness.advance();
    harness.advance();
    answer(&mut idle);
    assert_eq!(harness.server.counters().accepted, 2);
    new_client.write_all(HALF).unwrap();
    harness.server.stop(harness.poll.registry(), harness.now);
    assert_eq!(harness.server.counters().accepted, 3);
    for stream in [&mut old, &mut new_client] {
        stream.write_all(OTHER_HALF).unwrap();
        harness.work();
        assert!(rest(stream).ends_with("\r\n\r\nok"));
    }
    assert_eq!(rest(&mut idle), "");
    assert!(harness.server.is_finished());
}

/// The path to which [`flood`] connects. Set only in the child process.
const FLOODED: &str = "HEALTHZ_TEST_FLOODED";
/// Many times the capacity of the server's table.
const FLOOD: usize = 300;

/// Runs in a child process: opens connections and sends nothing.
fn flood(path: &str) {
    let held: Vec<_> = (0..FLOOD)
        .map(|_| UnixStream::connect(path).unwrap())
        .collect();
    println!("connected");
    // Keep the connections open until the test closes standard input.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(held);
}

/// Regression: a client that paused between connect(2) and its request was evicted as soon as another
/// process had opened as many connections as the table holds.
#[cfg(target_os = "linux")]
#[test]
fn connections_of_another_process_do_not_evict_a_client_before_its_request() {
    use std::process::{Command, Stdio};
    if let Some(path) = std::env::var_os(FLOODED) {
        return flood(&path.to_string_lossy());
    }
    let (mut harness, path) = on_unix("flooded", 16);
    let mut client = UnixStream::connect(&path).unwrap();
    let name = "connections_of_another_process_do_not_evict_a_client_before_its_request";
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
            assert_eq!(
                output.read(&mut byte).unwrap(),
                1,
                "the child process ended early"
            );
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

/// Regression: an empty line after a request body got a 408 at the head deadline, and kept a stopping
/// server from finishing.
#[test]
fn empty_lines_after_a_body_do_not_start_a_request() {
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
    // A request may still follow the empty lines.
    stream.write_all(LAST).unwrap();
    harness.work();
    assert!(rest(&mut stream).ends_with("\r\n\r\nok"));

    let mut stream = harness.send(post);
    answer(&mut stream);
    harness.server.stop(harness.poll.registry(), harness.now);
    assert!(harness.server.is_finished());
    assert_eq!(rest(&mut stream), "");
}

/// Regression: a stopping server evicted an idle connection for a new one, although the idle connection
/// had sent a request. The request was reset unread.
#[test]
fn a_stopping_server_answers_an_idle_connection_that_has_just_sent_a_request() {
    let (mut harness, path) = on_unix("request-at-stop", 1);
    let mut idle = UnixStream::connect(&path).unwrap();
    harness.work();
    assert_eq!(harness.server.counters().open, 1);
    let mut new_client = UnixStream::connect(&path).unwrap();
    idle.write_all(GET).unwrap();
    new_client.write_all(HALF).unwrap();
    harness.server.stop(harness.poll.registry(), harness.now);
    new_client.write_all(OTHER_HALF).unwrap();
    harness.work();
    for stream in [&mut idle, &mut new_client] {
        assert!(rest(stream).ends_with("\r\n\r\nok"));
    }
    assert!(harness.server.is_finished());
    assert_eq!(harness.server.counters().evicted, 0);
}
