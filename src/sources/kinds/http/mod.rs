//! An HTTP service that must answer a GET.
//!
//! One request for each connection, without TLS, redirects or name resolution. [`response`] reads the answer.

#[cfg(test)]
mod fuzz;
mod response;

use mio::{Registry, Token};

use self::response::Response;
use super::stream::{Exchange, Protocol};
use crate::sources::attempt::Started;
use crate::sources::spec::Http;

/// Sends a GET, and compares the answer with the options `status` and `contains`.
pub fn start(spec: &Http, registry: &Registry, base: Token) -> Started {
    let contains = spec.contains.clone().map(String::into_bytes);
    let get = Get {
        request: request(spec).into_bytes(),
        response: Response::new(spec.status.clone(), contains),
    };
    let addresses = spec.host.addresses(spec.port);
    Exchange::start(spec.url.clone(), addresses, get, registry, base)
}

/// The request. A field from the option `header` replaces ours.
fn request(spec: &Http) -> String {
    let mut text = format!("GET {} HTTP/1.1\r\n", spec.target);
    let agent = concat!("healthz/", env!("CARGO_PKG_VERSION"));
    let ours = [
        ("Host", spec.host_field.as_str()),
        ("User-Agent", agent),
        ("Connection", "close"),
    ];
    let is_given = |name: &str| {
        let mut names = spec.headers.iter().map(|(name, _)| name);
        names.any(|given| given.eq_ignore_ascii_case(name))
    };
    let ours = ours.into_iter().filter(|(name, _)| !is_given(name));
    let given = spec
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in ours.chain(given) {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str("\r\n");
    text
}

struct Get {
    request: Vec<u8>,
    response: Response,
}

impl Protocol for Get {
    fn request(&self) -> &[u8] {
        &self.request
    }

    fn sent(&mut self) -> Option<Result<(), String>> {
        None
    }

    fn receive(&mut self, bytes: &[u8]) -> Option<Result<(), String>> {
        self.response.receive(bytes)
    }

    fn end(&mut self) -> Result<(), String> {
        self.response.end()
    }

    fn awaited(&self) -> String {
        self.response.awaited()
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
    use crate::sources::spec::{Host, Outcome};

    fn spec(port: u16, contains: Option<&str>) -> Http {
        Http {
            url: format!("http://127.0.0.1:{port}/ready?a=b"),
            host: Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port,
            target: "/ready?a=b".into(),
            host_field: format!("127.0.0.1:{port}"),
            headers: vec![("X-Probe".into(), "1".into())],
            status: vec![(200, 399)],
            contains: contains.map(String::from),
        }
    }

    struct Case {
        poll: Poll,
        attempt: Box<dyn Attempt>,
        peer: TcpStream,
        url: String,
    }

    /// An attempt, and the peer's side of its connection.
    fn case(contains: Option<&str>) -> Case {
        let poll = Poll::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let spec = spec(listener.local_addr().unwrap().port(), contains);
        let attempt = waiting(start(&spec, poll.registry(), BASE));
        Case {
            poll,
            attempt,
            peer: listener.accept().unwrap().0,
            url: spec.url,
        }
    }

    impl Case {
        fn read_request(&mut self) -> String {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                self.peer.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            String::from_utf8(request).unwrap()
        }

        /// The outcome after the peer has sent `response`.
        fn answer(&mut self, response: &str) -> Outcome {
            self.peer.write_all(response.as_bytes()).unwrap();
            finish(self.attempt.as_mut(), &mut self.poll)
        }
    }

    #[test]
    fn the_request_is_a_get_that_asks_to_close() {
        let mut case = case(None);
        let host = case.url.split('/').nth(2).unwrap().to_string();
        let version = env!("CARGO_PKG_VERSION");
        let want = format!(
            "GET /ready?a=b HTTP/1.1\r\nHost: {host}\r\nUser-Agent: healthz/{version}\r\n\
             Connection: close\r\nX-Probe: 1\r\n\r\n"
        );
        assert_eq!(case.read_request(), want);
        assert_eq!(
            case.attempt.waits_for(),
            "connected, waiting for the response head"
        );
        assert_eq!(case.answer("HTTP/1.1 200 OK\r\n\r\n"), Outcome::Pass);
        // Not reset, though the body is not read.
        case.peer.write_all(&[b'x'; 9000]).unwrap();
        drop(case.attempt);
        assert_eq!(case.peer.read(&mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn given_fields_replace_ours() {
        let mut spec = spec(1, None);
        spec.headers = vec![("user-agent".into(), "me".into())];
        let request = request(&spec);
        assert_eq!(
            request.to_ascii_lowercase().matches("user-agent").count(),
            1
        );
        assert!(request.contains("user-agent: me\r\n"), "{request}");
    }

    #[test]
    fn reasons_begin_with_the_url() {
        let mut busy = case(None);
        let outcome = busy.answer("HTTP/1.1 503 Busy\r\n\r\n");
        assert_eq!(
            outcome,
            failed(format!("{}: 503, expected 200-399", busy.url))
        );

        let mut other = case(Some("\"up\""));
        let response = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n\"down\"";
        let want = format!("{}: no \"\\\"up\\\"\" in the body", other.url);
        assert_eq!(other.answer(response), failed(want));

        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let spec = spec(port, None);
        let mut poll = Poll::new().unwrap();
        let started = start(&spec, poll.registry(), BASE);
        let want = format!("{}: connection refused", spec.url);
        assert_eq!(
            super::super::stream::testing::outcome(started, &mut poll),
            failed(want)
        );
    }

    #[test]
    fn a_body_in_pieces_is_searched_until_the_peer_closes() {
        let mut case = case(Some("ready"));
        case.peer.write_all(b"HTTP/1.1 200 OK\r\n\r\nrea").unwrap();
        assert_eq!(one_event(case.attempt.as_mut(), &mut case.poll), None);
        assert_eq!(
            case.attempt.waits_for(),
            "connected, waiting for \"ready\" in the body"
        );
        assert_eq!(case.answer("dy"), Outcome::Pass);
    }

    #[test]
    fn a_peer_that_closes_without_an_answer_fails() {
        for sent in ["", "HTTP/1.1 200 O"] {
            let mut case = case(None);
            case.read_request();
            case.peer.write_all(sent.as_bytes()).unwrap();
            case.peer.shutdown(std::net::Shutdown::Write).unwrap();
            let Outcome::Fail(text) = finish(case.attempt.as_mut(), &mut case.poll) else {
                panic!("{sent:?}");
            };
            assert!(
                text.starts_with(&format!("{}: closed ", case.url)),
                "{text}"
            );
        }
    }

    #[test]
    fn the_answer_of_a_peer_that_closes_without_reading_is_received() {
        let mut case = case(None);
        let response = b"HTTP/1.1 408 Late\r\n\r\n";
        case.peer.write_all(response).unwrap();
        case.peer.shutdown(std::net::Shutdown::Write).unwrap();
        let outcome = finish(case.attempt.as_mut(), &mut case.poll);
        assert_eq!(
            outcome,
            failed(format!("{}: 408, expected 200-399", case.url))
        );
    }

    #[test]
    fn an_empty_text_is_refused() {
        use crate::sources::config;
        let parse = |text: &str| {
            let check = format!("a=http:http://127.0.0.1/,contains={text}");
            config::parse(&[check.into()], None)
        };
        assert!(parse("x").is_ok());
        let mistakes = parse("").unwrap_err();
        let want = "--check a: contains \"\": expected a text of 1 to 1024 bytes";
        assert_eq!(mistakes[0].to_string(), want);
    }
}
