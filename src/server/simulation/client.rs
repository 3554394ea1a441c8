//! What clients send, what they are owed for it, and whether they get it.

use core::cmp::Ordering;
use std::collections::VecDeque;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use fastrand::Rng;

use super::super::slots::WaitReason;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// `/healthz`, which depends on a check.
    Health,
    /// The same without a body.
    Head,
    /// `/livez`, which passes always.
    Live,
    Missing,
    /// Cannot be understood.
    Malformed,
}

/// Who this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Sends one whole request at once, reads, closes. Must be answered whatever happens to others.
    Probe,
    /// The same, and ends its side at once.
    HalfClosed,
    /// The same as a probe, but it is accepted before it speaks, as on Unix sockets or behind SYN
    /// cookies: then all of it comes at once.
    Late,
    /// As a probe, but its head comes in two pieces: the first before it is accepted, the second soon.
    Halved,
    /// Request after request, whole or in whatever pieces.
    KeepAlive,
    /// Many requests at once; reads little or nothing.
    Pipeliner,
    /// A byte now and then.
    Slow,
    /// Nothing at all.
    Silent,
    /// No HTTP.
    Garbage,
}

impl Manner {
    /// Whether this is one that asks once and waits for its answer: it must have it.
    pub(super) fn is_honest(self) -> bool {
        matches!(
            self,
            Manner::Probe | Manner::HalfClosed | Manner::Late | Manner::Halved
        )
    }
}

/// What bytes of answers have to say, apart from what was asked.
#[derive(Clone, Copy)]
pub(super) struct Truth {
    /// `/healthz` passed at the time of the turn in which they were written.
    pub(super) passes: bool,
    /// Something that the client had sent was not read then.
    pub(super) has_unread: bool,
    /// They are taken for the contrary.
    pub(super) is_lying: bool,
}

/// One client's side.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) manner: Manner,
    /// Bytes to be sent, and behind which of them an answer is owed.
    script: VecDeque<u8>,
    ends: VecDeque<(u64, Ask)>,
    /// Where the head of each request ends, and where its body does.
    requests: Vec<(u64, u64)>,
    pub(super) sent: u64,
    /// In the order of the requests.
    owed: VecDeque<Ask>,
    /// Of an answer that has not come whole.
    partial: Vec<u8>,
    pub(super) answers: usize,
    /// Was told that it took too long.
    pub(super) is_timed_out: bool,
    /// Told of a mistake, or that this is the last: nothing may come any more.
    is_last: bool,
}

const BAIT: &str = "GET /bait HTTP/1.1\r\nHost: a\r\n\r\n";

impl Client {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let manners = [
            Manner::Probe,
            Manner::Probe,
            Manner::HalfClosed,
            Manner::Late,
            Manner::Halved,
            Manner::KeepAlive,
            Manner::KeepAlive,
            Manner::Pipeliner,
            Manner::Slow,
            Manner::Silent,
            Manner::Garbage,
        ];
        let mut client = Client {
            manner: rng.choice(manners).unwrap_or(Manner::Probe),
            script: VecDeque::new(),
            ends: VecDeque::new(),
            requests: Vec::new(),
            sent: 0,
            owed: VecDeque::new(),
            partial: Vec::new(),
            answers: 0,
            is_timed_out: false,
            is_last: false,
        };
        let count = match client.manner {
            Manner::Probe | Manner::HalfClosed | Manner::Late | Manner::Halved | Manner::Slow => 1,
            Manner::KeepAlive => rng.usize(1..6),
            Manner::Pipeliner => rng.usize(10..200),
            Manner::Silent => 0,
            Manner::Garbage => {
                let size = rng.usize(1..800);
                client.script.extend((0..size).map(|_| rng.u8(..)));
                0
            }
        };
        for _ in 0..count {
            client.ask(rng);
        }
        client
    }

    fn ask(&mut self, rng: &mut Rng) {
        let is_probe = self.manner.is_honest();
        let asks = [Ask::Health, Ask::Head, Ask::Live, Ask::Missing];
        let mut ask = rng.choice(asks).unwrap_or(Ask::Health);
        let target = match ask {
            Ask::Health | Ask::Head => "/healthz",
            Ask::Live => "/livez",
            Ask::Missing | Ask::Malformed => "/nowhere",
        };
        let method = if ask == Ask::Head { "HEAD" } else { "GET" };
        let connection = if is_probe {
            "Connection: close\r\n"
        } else {
            ""
        };
        let (mut host, mut body) = ("Host: a\r\n", String::new());
        match rng.u8(..32) {
            // Host is missing. (To HEAD even that answer has no body.)
            0 if !is_probe && ask != Ask::Head => (host, ask) = ("", Ask::Malformed),
            1 | 2 => body = BAIT.repeat(rng.usize(1..20)),
            _ => {}
        }
        let length = match body.len() {
            0 => String::new(),
            size => format!("Content-Length: {size}\r\n"),
        };
        let head = format!("{method} {target} HTTP/1.1\r\n{host}{connection}{length}\r\n");
        self.script.extend(head.bytes());
        let end = self.script.len() as u64;
        self.ends.push_back((end, ask));
        self.script.extend(body.bytes());
        self.requests.push((end, self.script.len() as u64));
    }

    /// Takes the next bytes to send, at most `count`.
    pub(super) fn send(&mut self, count: usize) -> Vec<u8> {
        let count = count.min(self.script.len());
        let bytes: Vec<u8> = self.script.drain(..count).collect();
        self.sent += count as u64;
        while let Some((end, ask)) = self.ends.front().copied()
            && end <= self.sent
        {
            self.ends.pop_front();
            self.owed.push_back(ask);
        }
        bytes
    }

    /// What is left of the request that it is about to say.
    pub(super) fn size_of_request(&self) -> usize {
        let said = self.requests.partition_point(|(_, end)| *end <= self.sent);
        let next = self.requests.get(said);
        next.map_or(0, |(_, end)| (end - self.sent) as usize)
    }

    /// A part of the first head, and not all of it.
    pub(super) fn size_of_piece(&self, rng: &mut Rng) -> usize {
        let head = self.requests.first().map_or(0, |(head, _)| *head);
        rng.usize(1..head as usize)
    }

    /// What a server waits for that has read so many bytes, as far as that can be known out here: it
    /// may have more to answer.
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

    /// Where the request behind the last one starts whose head is among the first `read` bytes.
    pub(super) fn start(&self, read: u64) -> u64 {
        let asked = self.requests.partition_point(|(head, _)| *head <= read);
        let last = asked.checked_sub(1).and_then(|at| self.requests.get(at));
        last.map_or(0, |(_, end)| *end)
    }

    pub(super) fn has_said_all(&self) -> bool {
        self.script.is_empty()
    }

    /// Whether every request that was sent has its answer, as far as answers are to be expected.
    pub(super) fn has_all(&self) -> bool {
        self.partial.is_empty() && (self.owed.is_empty() || self.is_last)
    }

    /// Bytes of answers arrive; each answer must be the one that is owed.
    pub(super) fn is_told(&mut self, bytes: &[u8], truth: Truth) {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = find(&self.partial, b"\r\n\r\n") {
            let head = std::str::from_utf8(&self.partial[..end])
                .unwrap()
                .to_string();
            let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
            let is_head = self.owed.front() == Some(&Ask::Head);
            let length = head.split("Content-Length: ").nth(1).unwrap();
            let length: usize = length.split('\r').next().unwrap().parse().unwrap();
            let body_size = match status {
                // Who asked for a head has no body, if so much of it was read; and nothing follows.
                408 => length.min(self.partial.len() - (end + 4)),
                _ if is_head => 0,
                _ => length,
            };
            let Some(body) = self.partial.get(end + 4..end + 4 + body_size) else {
                return;
            };
            let is_ok = body == b"ok" || (is_head && status == 200);
            let status = match status {
                200 if truth.is_lying => 500,
                500 if truth.is_lying => 200,
                status => status,
            };
            self.judge(status, is_ok || truth.is_lying, &head, truth);
            self.partial.drain(..end + 4 + body_size);
        }
    }

    fn judge(&mut self, status: u16, is_ok: bool, head: &str, truth: Truth) {
        assert!(!self.is_last, "an answer behind the last: {head}");
        self.answers += 1;
        self.is_last = head.contains("Connection: close");
        self.is_timed_out |= status == 408;
        let Some(ask) = self.owed.pop_front() else {
            let is_refusal = matches!(status, 400..=499 | 501 | 505);
            assert!(
                is_refusal
                    && self.is_last
                    && (self.manner == Manner::Garbage || status == 408 || status == 400),
                "an answer to no request: {head}"
            );
            return;
        };
        let passes = truth.passes;
        match (ask, status) {
            (Ask::Health | Ask::Head, 200) => assert!(is_ok && passes, "a wrong ok: {head}"),
            (Ask::Health | Ask::Head, 500) => assert!(!passes, "a wrong failure: {head}"),
            (Ask::Live, 200) => assert!(is_ok),
            (Ask::Missing, 404) => {}
            (Ask::Malformed, 400) => assert!(self.is_last),
            // Its end had come, but not been read when its time was over.
            (_, 408) => assert!(truth.has_unread && self.is_last, "a wrong 408"),
            _ => panic!("a wrong answer to {ask:?}: {head}"),
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
