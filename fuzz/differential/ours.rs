//! What this crate takes for requests.

use std::ops::Range;

use healthz::http::{Connection, Context, Fields, Method, Phase, Request, StatusCode, Writer};
use healthz::{Instant, Limits};

/// What a request asks for, as far as both readers tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asks {
    /// Of a method that this crate does not know there is only that.
    pub method: &'static str,
    pub authority: Option<String>,
    pub path: String,
    pub query: Option<String>,
}

#[derive(Debug)]
pub struct Taken {
    pub asks: Asks,
    /// Where its head is in the stream, with the empty lines before it.
    pub head: Range<usize>,
}

/// Why there are no more requests.
#[derive(Debug)]
pub enum End {
    /// More bytes are waited for.
    Waits,
    /// What begins at `at` is none.
    Refuses { at: usize, status: String },
    /// The connection was closed without a word behind the last answer.
    Closes,
}

pub struct Ours {
    pub requests: Vec<Taken>,
    pub end: End,
}

impl Ours {
    /// Gives the connection byte after byte, so that where a head ends is what it has consumed.
    pub fn read(stream: &[u8]) -> Self {
        let context = Context {
            now: Instant::ZERO,
            date: None,
            limits: &Limits::DEFAULT,
            is_last: false,
        };
        let mut connection = Connection::new(Instant::ZERO);
        let mut requests: Vec<Taken> = Vec::new();
        // Where the head begins that is being read, and how far everything is done with.
        let (mut head, mut done) = (0, 0);
        let mut tx = [0; 1024];
        for end in 1..=stream.len() {
            let mut asks = None;
            let mut answer = |request: &Request<'_>, writer: Writer<'_>| {
                asks = Some(Asks::new(request));
                writer.fixed(StatusCode::OK, Fields::None, b"")
            };
            let was = connection.phase();
            let rx = &stream[done..end];
            let progress = connection.receive(&context, rx, &mut tx, &mut answer);
            if was == Phase::Body && connection.phase() != Phase::Body {
                head = done + progress.consumed;
            }
            done += progress.consumed;
            if let Some(asks) = asks {
                requests.push(Taken {
                    asks,
                    head: head..done,
                });
                head = done;
            }
            if connection.phase() == Phase::Closing {
                let end = refusal(&tx[..progress.written], progress.refused, head);
                return Ours { requests, end };
            }
        }
        Ours {
            requests,
            end: End::Waits,
        }
    }
}

fn refusal(answer: &[u8], refused: u32, at: usize) -> End {
    if refused == 0 {
        return End::Closes;
    }
    let status = &answer["HTTP/1.1 ".len()..][..3];
    let status = String::from_utf8_lossy(status).into_owned();
    End::Refuses { at, status }
}

impl Asks {
    fn new(request: &Request<'_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let target = request.target();
        Asks {
            method: match request.method() {
                Method::Get => "GET",
                Method::Head => "HEAD",
                Method::Options => "OPTIONS",
                Method::Post => "POST",
                Method::Other => "another",
            },
            authority: target.authority().map(text),
            path: text(target.path()),
            query: target.query().map(text),
        }
    }
}
