//! Simulated clients: what each sends, and a check of every answer that it receives.
//!
//! Knows the requests and the answers as bytes; knows no socket and no table. Called by the episode
//! (`mod.rs`) to send, and by [`world`](super::world) to deliver answers.

use core::cmp::Ordering;
use std::collections::VecDeque;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use fastrand::Rng;

use super::super::policy::WaitReason;
use crate::answer::{MetricType, MetricsWriter};

/// The kind of a request, which decides its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestKind {
    /// `/healthz`, which depends on a check.
    Health,
    /// The same without a body.
    Head,
    /// `/livez`, which always passes.
    Live,
    Missing,
    /// `/metrics`, which is longer than the shared buffer for answers.
    Long,
    /// Invalid: answered with 400.
    Malformed,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientKind {
    /// Sends one whole request at once, reads, closes. Must be answered whatever other clients do.
    Probe,
    /// As `Probe`, and shuts down its sending side at once.
    HalfClosed,
    /// As `Probe`, but accepted before it sends, as on Unix sockets or with SYN cookies. Then the
    /// whole request arrives at once.
    Late,
    /// As `Probe`, but its head arrives in two pieces: the first before accept(2), the second soon after.
    Halved,
    /// Several requests, whole or in arbitrary pieces.
    KeepAlive,
    /// Sends many requests at once and reads little or nothing.
    Pipeliner,
    /// Sends single bytes.
    Slow,
    /// Sends nothing.
    Silent,
    /// Sends random bytes, no HTTP.
    Garbage,
}

impl ClientKind {
    /// True if the client sends one request and waits: it must receive its answer.
    pub(super) fn is_well_behaved(self) -> bool {
        matches!(
            self,
            ClientKind::Probe | ClientKind::HalfClosed | ClientKind::Late | ClientKind::Halved
        )
    }
}

/// The facts that an answer must agree with, apart from its request.
#[derive(Clone, Copy)]
pub(super) struct Expected {
    /// `/healthz` passed during the advance in which the answer was written.
    pub(super) passes: bool,
    /// The server had unread input from the client at that time.
    pub(super) has_unread: bool,
    /// Mutation: read 200 as 500 and 500 as 200.
    pub(super) is_status_inverted: bool,
}

/// One client's end of a connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) kind: ClientKind,
    /// Bytes not yet sent, and the offset after which each request must be answered.
    script: VecDeque<u8>,
    head_ends: VecDeque<(u64, RequestKind)>,
    /// The offsets at which the head and the body of each request end.
    requests: Vec<(u64, u64)>,
    pub(super) sent: u64,
    /// Requests sent and not yet answered, in order.
    unanswered: VecDeque<RequestKind>,
    /// Received bytes of an incomplete answer.
    partial: Vec<u8>,
    pub(super) answers: usize,
    /// Its listener answers 404 to all but `/livez`.
    pub(super) gets_only_live: bool,
    /// Received a 408.
    pub(super) is_timed_out: bool,
    /// Received `Connection: close`: no further answer may arrive.
    is_last: bool,
}

/// The end of the answer to [`RequestKind::Long`], whose text is written by [`long_text`].
const LONG_ANSWER_END: &[u8] = b"# TYPE end gauge\nend 1\n";
/// More than [`long_text`] writes, and more than any answer that the shared buffer has room for.
pub(super) const LONG_TEXT_BYTES_MAX: usize = 20_000;

/// Makes `/metrics` too long for the shared buffer.
pub(super) fn long_text(text: &mut MetricsWriter<'_, '_>) {
    let help = "x".repeat(LONG_TEXT_BYTES_MAX - 200);
    text.family("filler", MetricType::Gauge, &help);
    text.family("end", MetricType::Gauge, "The last one.");
    text.sample("end", &[], 1);
}

/// Content of request bodies: a request that must not be answered.
const BODY_REQUEST: &str = "GET /bait HTTP/1.1\r\nHost: a\r\n\r\n";

impl Client {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let kinds = [
            ClientKind::Probe,
            ClientKind::Probe,
            ClientKind::HalfClosed,
            ClientKind::Late,
            ClientKind::Halved,
            ClientKind::KeepAlive,
            ClientKind::KeepAlive,
            ClientKind::Pipeliner,
            ClientKind::Slow,
            ClientKind::Silent,
            ClientKind::Garbage,
        ];
        let mut client = Client {
            kind: rng.choice(kinds).unwrap_or(ClientKind::Probe),
            script: VecDeque::new(),
            head_ends: VecDeque::new(),
            requests: Vec::new(),
            sent: 0,
            unanswered: VecDeque::new(),
            partial: Vec::new(),
            answers: 0,
            gets_only_live: false,
            is_timed_out: false,
            is_last: false,
        };
        let count = match client.kind {
            ClientKind::Probe
            | ClientKind::HalfClosed
            | ClientKind::Late
            | ClientKind::Halved
            | ClientKind::Slow => 1,
            ClientKind::KeepAlive => rng.usize(1..6),
            ClientKind::Pipeliner => rng.usize(10..200),
            ClientKind::Silent => 0,
            ClientKind::Garbage => {
                let size = rng.usize(1..800);
                client.script.extend((0..size).map(|_| rng.u8(..)));
                0
            }
        };
        for _ in 0..count {
            client.add_request(rng);
        }
        client
    }

    fn add_request(&mut self, rng: &mut Rng) {
        let is_probe = self.kind.is_well_behaved();
        let choices = [
            RequestKind::Health,
            RequestKind::Head,
            RequestKind::Live,
            RequestKind::Missing,
        ];
        let mut request = rng.choice(choices).unwrap_or(RequestKind::Health);
        // It may be evicted before its client has read all of it.
        if !is_probe && rng.u8(..16) == 0 {
            request = RequestKind::Long;
        }
        let target = match request {
            RequestKind::Health | RequestKind::Head => "/healthz",
            RequestKind::Live => "/livez",
            RequestKind::Long => "/metrics",
            RequestKind::Missing | RequestKind::Malformed => "/nowhere",
        };
        let method = if request == RequestKind::Head {
            "HEAD"
        } else {
            "GET"
        };
        let connection = if is_probe {
            "Connection: close\r\n"
        } else {
            ""
        };
        let (mut host, mut body) = ("Host: a\r\n", String::new());
        match rng.u8(..32) {
            // No Host. Not for HEAD, whose answer has no body even then.
            0 if !is_probe && request != RequestKind::Head => {
                (host, request) = ("", RequestKind::Malformed)
            }
            1 | 2 => body = BODY_REQUEST.repeat(rng.usize(1..20)),
            _ => {}
        }
        let length = match body.len() {
            0 => String::new(),
            size => format!("Content-Length: {size}\r\n"),
        };
        let head = format!("{method} {target} HTTP/1.1\r\n{host}{connection}{length}\r\n");
        self.script.extend(head.bytes());
        let end = self.script.len() as u64;
        self.head_ends.push_back((end, request));
        self.script.extend(body.bytes());
        self.requests.push((end, self.script.len() as u64));
    }

    /// Takes the next bytes to send, at most `count`.
    pub(super) fn send(&mut self, count: usize) -> Vec<u8> {
        let count = count.min(self.script.len());
        let bytes: Vec<u8> = self.script.drain(..count).collect();
        self.sent += count as u64;
        while let Some((end, request)) = self.head_ends.front().copied() {
            if end > self.sent {
                break;
            }
            self.head_ends.pop_front();
            self.unanswered.push_back(request);
        }
        bytes
    }

    /// Unsent bytes of the next request.
    pub(super) fn size_of_request(&self) -> usize {
        let sent = self.requests.partition_point(|(_, end)| *end <= self.sent);
        let next = self.requests.get(sent);
        next.map_or(0, |(_, end)| (end - self.sent) as usize)
    }

    /// A random size that is less than the first head.
    pub(super) fn size_of_piece(&self, rng: &mut Rng) -> usize {
        let head = self.requests.first().map_or(0, |(head, _)| *head);
        rng.usize(1..head as usize)
    }

    /// The wait reason of a connection of which `read` bytes were read. `None` if it cannot be known
    /// from outside, because answers may be outstanding.
    pub(super) fn place(&self, read: u64) -> Option<WaitReason> {
        if self.is_last {
            return Some(WaitReason::Drain);
        }
        let asked = self.requests.partition_point(|(head, _)| *head <= read);
        if self.answers != asked {
            return None;
        }
        Some(match read.cmp(&self.start(read)) {
            Ordering::Less => WaitReason::Drain,
            Ordering::Equal => WaitReason::Idle,
            Ordering::Greater => WaitReason::Head,
        })
    }

    /// The end of the last request whose head lies within the first `read` bytes.
    pub(super) fn start(&self, read: u64) -> u64 {
        let asked = self.requests.partition_point(|(head, _)| *head <= read);
        let last = asked.checked_sub(1).and_then(|at| self.requests.get(at));
        last.map_or(0, |(_, end)| *end)
    }

    /// How many requests it has sent or will send.
    pub(super) fn requests(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn has_sent_all(&self) -> bool {
        self.script.is_empty()
    }

    /// True if every request that was sent has its answer, or the connection was closed by an answer.
    pub(super) fn has_all_answers(&self) -> bool {
        self.partial.is_empty() && (self.unanswered.is_empty() || self.is_last)
    }

    /// Receives bytes; each answer must match the oldest unanswered request.
    pub(super) fn receive(&mut self, bytes: &[u8], expected: Expected) {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = find(&self.partial, b"\r\n\r\n") {
            let head = std::str::from_utf8(&self.partial[..end])
                .unwrap()
                .to_string();
            let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
            let is_head = self.unanswered.front() == Some(&RequestKind::Head);
            let length = head.split("Content-Length: ").nth(1).unwrap();
            let length: usize = length.split('\r').next().unwrap().parse().unwrap();
            let body_size = match status {
                // A 408 to HEAD has a body only if the method was not read yet; nothing follows it.
                408 => length.min(self.partial.len() - (end + 4)),
                _ if is_head => 0,
                _ => length,
            };
            let Some(body) = self.partial.get(end + 4..end + 4 + body_size) else {
                return;
            };
            let is_ok = match self.unanswered.front() {
                Some(RequestKind::Long) => body.ends_with(LONG_ANSWER_END),
                _ => body == b"ok" || (is_head && status == 200),
            };
            let status = match status {
                200 if expected.is_status_inverted => 500,
                500 if expected.is_status_inverted => 200,
                status => status,
            };
            self.check_answer(
                status,
                is_ok || expected.is_status_inverted,
                &head,
                expected,
            );
            self.partial.drain(..end + 4 + body_size);
        }
    }

    fn check_answer(&mut self, status: u16, is_ok: bool, head: &str, expected: Expected) {
        assert!(!self.is_last, "an answer after `Connection: close`: {head}");
        self.answers += 1;
        self.is_last = head.contains("Connection: close");
        self.is_timed_out |= status == 408;
        let Some(request) = self.unanswered.pop_front() else {
            let is_refusal = matches!(status, 400..=499 | 501 | 505);
            assert!(
                is_refusal
                    && self.is_last
                    && (self.kind == ClientKind::Garbage || status == 408 || status == 400),
                "an answer without a request: {head}"
            );
            return;
        };
        let passes = expected.passes;
        let is_served = !self.gets_only_live || request == RequestKind::Live;
        match (request, status) {
            (_, 404) if !is_served => {}
            (_, 200 | 500) if !is_served => {
                panic!("a wrong path is served: {head}")
            }
            (RequestKind::Health | RequestKind::Head, 200) => {
                assert!(is_ok && passes, "a wrong ok: {head}")
            }
            (RequestKind::Health | RequestKind::Head, 500) => {
                assert!(!passes, "a wrong failure: {head}")
            }
            (RequestKind::Live | RequestKind::Long, 200) => assert!(is_ok, "a wrong body: {head}"),
            (RequestKind::Missing, 404) => {}
            (RequestKind::Malformed, 400) => assert!(self.is_last),
            // The rest of the head had arrived, but was not read before the timeout.
            (_, 408) => assert!(expected.has_unread && self.is_last, "a wrong 408"),
            _ => panic!("a wrong answer to {request:?}: {head}"),
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
