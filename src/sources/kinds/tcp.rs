//! A TCP port that must accept connections, and may have to answer.
//!
//! [`Conversation`] is also used by [`super::unix`].

use mio::{Registry, Token};

use super::stream::{Exchange, Protocol};
use super::text::{append_and_find, quoted};
use crate::sources::attempt::Started;
use crate::sources::spec::{Dialogue, Host, Tcp};

/// Most bytes of an answer in which the expected text may be.
const ANSWER_BYTES_MAX: usize = 10 * 1024;

/// Connects, and exchanges what the options `send` and `expect` say.
pub fn start(spec: &Tcp, registry: &Registry, base: Token) -> Started {
    let addresses = spec.host.addresses(spec.port);
    let target = match (&spec.host, addresses.first()) {
        (Host::Ip(_), Some(address)) => address.to_string(),
        _ => format!("localhost:{}", spec.port),
    };
    let conversation = Conversation::new(&spec.dialogue);
    Exchange::start(target, addresses, conversation, registry, base)
}

/// Sends a text and waits for another.
pub struct Conversation {
    send: Vec<u8>,
    expect: Option<Vec<u8>>,
    received: Vec<u8>,
}

impl Conversation {
    pub fn new(dialogue: &Dialogue) -> Self {
        Conversation {
            send: dialogue.send.clone().unwrap_or_default(),
            expect: dialogue.expect.clone(),
            received: Vec::new(),
        }
    }
}

impl Protocol for Conversation {
    fn request(&self) -> &[u8] {
        &self.send
    }

    fn sent(&mut self) -> Option<Result<(), String>> {
        self.expect.is_none().then_some(Ok(()))
    }

    fn receive(&mut self, bytes: &[u8]) -> Option<Result<(), String>> {
        // Without it, what arrives while sending is ignored.
        let expect = self.expect.as_ref()?;
        let bytes = bytes
            .get(..ANSWER_BYTES_MAX - self.received.len())
            .unwrap_or(bytes);
        if append_and_find(&mut self.received, bytes, expect) {
            return Some(Ok(()));
        }
        (self.received.len() >= ANSWER_BYTES_MAX).then(|| {
            Err(format!(
                "no {} in the first 10 KiB of the answer",
                quoted(expect)
            ))
        })
    }

    fn end(&mut self) -> Result<(), String> {
        Err(match &self.expect {
            Some(expect) => format!("closed before sending {}", quoted(expect)),
            None => "closed before everything was sent".into(),
        })
    }

    fn awaited(&self) -> String {
        self.expect
            .as_ref()
            .map_or_else(String::new, |expect| quoted(expect))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};

    use mio::Poll;

    use super::super::stream::testing::*;
    use super::*;
    use crate::sources::attempt::Attempt;
    use crate::sources::spec::Outcome;

    const LOCAL: Host = Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST));

    fn spec(host: Host, port: u16, send: &str, expect: &str) -> Tcp {
        let text = |text: &str| (!text.is_empty()).then(|| text.as_bytes().to_vec());
        Tcp {
            host,
            port,
            dialogue: Dialogue {
                send: text(send),
                expect: text(expect),
            },
        }
    }

    fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    /// A port of which both families refuse.
    fn closed_port() -> u16 {
        listener().1
    }

    /// An attempt that waits for `expect`, and the peer's side of its connection.
    fn conversation(send: &str, expect: &str) -> (Poll, Box<dyn Attempt>, TcpStream, String) {
        let poll = Poll::new().unwrap();
        let (listener, port) = listener();
        let spec = spec(LOCAL, port, send, expect);
        let attempt = waiting(start(&spec, poll.registry(), BASE));
        let (peer, _) = listener.accept().unwrap();
        (poll, attempt, peer, format!("127.0.0.1:{port}"))
    }

    #[test]
    fn a_port_that_listens_passes_and_one_that_does_not_fails() {
        let mut poll = Poll::new().unwrap();
        let (_listener, port) = listener();
        let open = start(&spec(LOCAL, port, "", ""), poll.registry(), BASE);
        assert_eq!(outcome(open, &mut poll), Outcome::Pass);
        let port = closed_port();
        let closed = start(&spec(LOCAL, port, "", ""), poll.registry(), BASE);
        let want = failed(format!("127.0.0.1:{port}: connection refused"));
        assert_eq!(outcome(closed, &mut poll), want);
        let closed = start(&spec(Host::Localhost, port, "", ""), poll.registry(), BASE);
        let want = failed(format!("localhost:{port}: connection refused"));
        assert_eq!(outcome(closed, &mut poll), want);
    }

    #[test]
    fn localhost_is_also_ipv6() {
        let mut poll = Poll::new().unwrap();
        let Ok(listener) = TcpListener::bind("[::1]:0") else {
            println!("no IPv6 here");
            return;
        };
        let port = listener.local_addr().unwrap().port();
        let started = start(&spec(Host::Localhost, port, "", "x"), poll.registry(), BASE);
        let mut attempt = waiting(started);
        while attempt.waits_for().starts_with("connecting") {
            assert_eq!(one_event(attempt.as_mut(), &mut poll), None);
        }
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(b"x").unwrap();
        assert_eq!(finish(attempt.as_mut(), &mut poll), Outcome::Pass);
    }

    #[test]
    fn the_answer_may_come_in_pieces() {
        let (mut poll, mut attempt, mut peer, _) = conversation("PING\r\n", "+PONG");
        let mut asked = [0; 6];
        peer.read_exact(&mut asked).unwrap();
        assert_eq!(&asked, b"PING\r\n");
        let want = "connected, waiting for \"+PONG\"";
        assert_eq!(attempt.waits_for(), want);
        peer.write_all(b"-LOADING +PO").unwrap();
        assert_eq!(one_event(attempt.as_mut(), &mut poll), None);
        peer.write_all(b"NG\r\n").unwrap();
        assert_eq!(finish(attempt.as_mut(), &mut poll), Outcome::Pass);
        // An attempt that has ended stays ended.
        assert_eq!(attempt.ready(poll.registry(), BASE), None);
    }

    #[test]
    fn an_answer_without_the_expected_text_fails() {
        let (mut poll, mut attempt, peer, target) = conversation("PING\r\n", "+PONG");
        drop(peer);
        // The peer had not read the request, so this was a reset.
        let want = format!("{target}: connection reset while waiting for \"+PONG\"");
        assert_eq!(finish(attempt.as_mut(), &mut poll), failed(want));

        let (mut poll, mut attempt, mut peer, target) = conversation("", "+PONG");
        peer.write_all(b"-ERR").unwrap();
        drop(peer);
        let want = format!("{target}: closed before sending \"+PONG\"");
        assert_eq!(finish(attempt.as_mut(), &mut poll), failed(want));

        let (mut poll, mut attempt, mut peer, target) = conversation("", "+PONG");
        peer.write_all(&[b' '; ANSWER_BYTES_MAX - 4]).unwrap();
        peer.write_all(b"+PONG").unwrap();
        let want = format!("{target}: no \"+PONG\" in the first 10 KiB of the answer");
        assert_eq!(finish(attempt.as_mut(), &mut poll), failed(want));
    }

    #[test]
    fn the_last_bytes_of_the_first_10_kib_count() {
        let (mut poll, mut attempt, mut peer, _) = conversation("", "+PONG");
        peer.write_all(&[b' '; ANSWER_BYTES_MAX - 5]).unwrap();
        peer.write_all(b"+PONG").unwrap();
        assert_eq!(finish(attempt.as_mut(), &mut poll), Outcome::Pass);
    }

    #[test]
    fn a_peer_that_has_sent_more_is_not_reset() {
        let (mut poll, mut attempt, mut peer, _) = conversation("", "220");
        peer.write_all(&[b"220 ".as_slice(), &[b'x'; 30_000]].concat())
            .unwrap();
        assert_eq!(finish(attempt.as_mut(), &mut poll), Outcome::Pass);
        drop(attempt);
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
        assert!(peer.take_error().unwrap().is_none());
    }

    #[test]
    fn a_peer_that_greets_after_the_attempt_has_ended_is_not_reset() {
        let mut poll = Poll::new().unwrap();
        let (listener, port) = listener();
        let spec = spec(LOCAL, port, "", "");
        let mut attempt = |base| {
            let started = start(&spec, poll.registry(), base);
            assert_eq!(outcome(started, &mut poll), Outcome::Pass);
        };
        attempt(BASE);
        let (mut peer, _) = listener.accept().unwrap();
        for _ in 0..3 {
            peer.write_all(b"220 hello\r\n").unwrap();
            // Another check closes only its own connection.
            attempt(mio::Token(BASE.0 + 8));
        }
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
        assert!(peer.take_error().unwrap().is_none());
        // The next attempt of the same check closes the connection. (The first write after that gets a reset.)
        attempt(BASE);
        let is_reset = (0..1000).any(|_| {
            std::thread::yield_now();
            peer.write_all(b"220 hello\r\n").is_err()
        });
        assert!(is_reset, "the connection is still open");
    }

    #[test]
    fn a_connection_that_is_not_accepted_is_waited_for() {
        let poll = Poll::new().unwrap();
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        // A queue for one connection.
        socket.listen(0).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        let _first = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let attempt = waiting(start(&spec(LOCAL, port, "", ""), poll.registry(), BASE));
        assert_eq!(attempt.waits_for(), "connecting");
        assert_eq!(attempt.target(), format!("127.0.0.1:{port}"));
        let local = start(&spec(Host::Localhost, port, "", ""), poll.registry(), BASE);
        let want = format!("connecting to 127.0.0.1:{port}");
        assert_eq!(waiting(local).waits_for(), want);
    }
}
