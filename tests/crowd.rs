//! Who waits beside a crowd does not wait for the crowd: what one turn of the server does for the
//! greedy, and how many newcomers it takes in.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/harness.rs"]
mod harness;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use harness::{ENDPOINTS, GET, Harness, LAST, TIMEOUT, listening, rest};
use healthz::Responder;
use healthz::server::{Address, Config};

/// Adds what is there to be read. Returns how many answers that is in all.
fn answers(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> usize {
    stream.set_nonblocking(true).unwrap();
    let result = stream.read_to_end(bytes);
    assert!(result.is_ok() || result.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
    String::from_utf8_lossy(bytes).matches("\r\n\r\nok").count()
}

/// Requests that the buffer holds; their answers fit into the other.
const BUFFERFUL: u64 = 8192 / GET.len() as u64;

/// Found with 10,000 clients that pipelined and never read: every one of them got four bufferfuls
/// answered in a turn, 64 of them in every turn, and probes waited for four seconds.
#[test]
fn whoever_asks_for_much_gets_one_bufferful_of_answers_a_turn() {
    const ASKED: usize = 4000;
    let mut door = Harness::new(4);
    let mut greedy = door.connect();
    greedy.write_all(&GET.repeat(ASKED)).unwrap();
    let mut last = 0;
    let (mut read, mut seen) = (Vec::new(), 0);
    let mut most = 0;
    // Bounded, and far more than it takes.
    for _ in 0..10_000 {
        door.turn();
        let answered = door.server.counters().answered;
        most = most.max(answered - last);
        last = answered;
        seen = answers(&mut greedy, &mut read);
        if seen == ASKED {
            break;
        }
    }
    assert_eq!(seen, ASKED, "and nothing is lost for it");
    // Neither when it is accepted nor when it is reported does it get another share.
    assert!(most <= BUFFERFUL, "{most} answers in one turn");
}

/// With the same clients, all of whom want another turn, a probe comes when one has just begun: that one
/// serves four of them, or one in a full table, and the next begins with the probe.
#[test]
fn a_newcomer_waits_for_a_few_bufferfuls_however_many_are_greedy() {
    const GREEDY: usize = 64;
    for (connections, bufferfuls) in [(GREEDY, 1), (2 * GREEDY, 4)] {
        let mut door = Harness::new(connections);
        let greedy: Vec<TcpStream> = (0..GREEDY)
            .map(|_| {
                let mut stream = door.connect();
                stream.write_all(&GET.repeat(2000)).unwrap();
                stream
            })
            .collect();
        while door.server.counters().accepted < GREEDY as u64 {
            door.turn();
        }
        let events = door.events(256);
        let mut probe = door.connect();
        probe.write_all(LAST).unwrap();
        let before = door.server.counters().answered;
        events.iter().for_each(|event| door.handle(event));
        door.server.advance(door.poll.registry(), door.now);
        for event in &door.events(256) {
            door.handle(event);
        }
        assert_eq!(answers(&mut probe, &mut Vec::new()), 1, "of {connections}");
        let answered = door.server.counters().answered - before;
        assert!(
            answered <= bufferfuls * BUFFERFUL + 1,
            "{answered} answers before it of {connections}"
        );
        let evicted = door.server.counters().evicted;
        assert_eq!((evicted, greedy.len()), (0, GREEDY), "nobody had to go");
    }
}

/// Found with the same clients: where every turn is long, one connection accepted a turn leaves a
/// probe behind a thousand others.
#[test]
fn a_full_table_takes_in_several_newcomers_a_turn() {
    let mut door = Harness::new(32);
    let connect = |door: &Harness, bytes: &[u8]| {
        let mut stream = door.connect();
        stream.write_all(bytes).unwrap();
        stream
    };
    let held: Vec<TcpStream> = (0..32).map(|_| connect(&door, GET)).collect();
    door.work();
    assert_eq!(door.server.counters().open, held.len() as u64);
    let mut probes: Vec<TcpStream> = (0..12).map(|_| connect(&door, LAST)).collect();
    let mut turns = 0;
    while door.server.counters().accepted < 32 + 12 {
        door.turn();
        turns += 1;
    }
    assert!(turns <= 4, "{turns} turns for 12 newcomers");
    assert!(
        probes
            .iter_mut()
            .all(|probe| answers(probe, &mut Vec::new()) == 1)
    );
    assert_eq!(door.server.counters().evicted, 0, "nobody had to go");
}

/// Found with 10,000 clients that said a byte a second: they held all places but one, and whoever was
/// accepted before its request came lost that one to the next.
#[test]
fn a_newcomer_keeps_its_place_while_others_sit_in_their_heads() {
    let path = std::env::temp_dir().join(format!("healthz-crowd-{}", std::process::id()));
    // A Unix socket, because there a connection is accepted before it has said anything.
    let listeners = listening(&Address::Unix(path.clone()));
    let config = Config {
        connections: 16,
        ..Config::default()
    };
    let mut door = Harness::on(Responder::new(&ENDPOINTS), listeners, config);
    let connect = || UnixStream::connect(&path).unwrap();
    let half = |mut stream: UnixStream| {
        stream.write_all(b"GET /he").unwrap();
        stream
    };
    let _held: Vec<UnixStream> = (0..16).map(|_| half(connect())).collect();
    door.work();
    let mut newcomer = connect();
    door.work();
    let _more: Vec<UnixStream> = (0..7)
        .map(|_| {
            let stream = connect();
            door.work();
            stream
        })
        .collect();
    newcomer.write_all(LAST).unwrap();
    door.work();
    newcomer.set_read_timeout(Some(TIMEOUT)).unwrap();
    let text = rest(&mut newcomer);
    assert!(text.ends_with("\r\n\r\nok"), "{text:?}");
}
