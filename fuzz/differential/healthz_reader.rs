//! The requests that healthz finds in a stream.

use std::ops::Range;

use healthz::http::{Connection, Context, Fields, Method, Phase, Request, StatusCode, Writer};
use healthz::{Instant, Limits};

/// The parts of a request that both parsers report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSummary {
    /// `another` for a method that healthz does not know.
    pub method: &'static str,
    pub authority: Option<String>,
    pub path: String,
    pub query: Option<String>,
}

#[derive(Debug)]
pub struct AcceptedRequest {
    pub summary: RequestSummary,
    /// The place of its head in the stream, including empty lines before it.
    pub head: Range<usize>,
}

/// Why there are no more requests.
#[derive(Debug)]
pub enum End {
    /// The last request is not complete.
    Incomplete,
    /// The head that begins at `at` was refused.
    Refused { at: usize, status: String },
    /// The connection was closed after the last response.
    Closed,
}

pub struct HealthzReading {
    pub requests: Vec<AcceptedRequest>,
    pub end: End,
}

impl HealthzReading {
    /// Reads the stream one byte at a time, so that the number of consumed bytes tells where a head ends.
    pub fn read(stream: &[u8]) -> Self {
        let context = Context {
            now: Instant::ZERO,
            date: None,
            limits: &Limits::DEFAULT,
            is_last: false,
            tx_bytes_max: 0,
        };
        let mut connection = Connection::new(Instant::ZERO);
        let mut requests: Vec<AcceptedRequest> = Vec::new();
        // Where the current head begins, and how many bytes are consumed.
        let (mut head, mut consumed) = (0, 0);
        let mut tx = [0; 1024];
        for end in 1..=stream.len() {
            let mut summary = None;
            let mut answer = |request: &Request<'_>, writer: Writer<'_>| {
                summary = Some(RequestSummary::new(request));
                writer.fixed(StatusCode::OK, Fields::None, b"")
            };
            let was = connection.phase();
            let rx = &stream[consumed..end];
            let progress = connection.receive(&context, rx, &mut tx, &mut answer);
            if was == Phase::Body && connection.phase() != Phase::Body {
                head = consumed + progress.consumed;
            }
            consumed += progress.consumed;
            if let Some(summary) = summary {
                requests.push(AcceptedRequest {
                    summary,
                    head: head..consumed,
                });
                head = consumed;
            }
            if connection.phase() == Phase::Closing {
                let end = progress.refusal.map_or(End::Closed, |status| End::Refused {
                    at: head,
                    status: status.code().to_string(),
                });
                return HealthzReading { requests, end };
            }
        }
        HealthzReading {
            requests,
            end: End::Incomplete,
        }
    }
}

impl RequestSummary {
    fn new(request: &Request<'_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let target = request.target();
        RequestSummary {
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
