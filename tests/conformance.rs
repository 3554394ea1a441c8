//! Every row of `tests/conformance` through a `Connection` alone, without sockets: in one piece, split at
//! every byte, and byte by byte.
#![cfg(test)]

#[path = "support/http/mod.rs"]
mod http;

use std::collections::BTreeMap;
use std::io::Write;

use healthz::http::HeadCache;
use healthz::{Limits, Responder};
use http::judge::{answers, judge, methods};
use http::rows::{self, End, FILES, Row, Segment};
use http::wire::{Outcome, Wire};
use http::{profile, rows::Expect};

/// Longer rows are not split: their extra bytes repeat, so more splits would test nothing new.
const CUT_BYTES_MAX: usize = 500;

/// Room for every answer of a pipelined row.
const TX_LARGE: usize = 1 << 20;

struct State {
    responder: Responder<'static>,
    tx_small: usize,
    /// Shared by all connections, as in a server.
    cache: HeadCache,
}

/// One state for each distinct set of checks.
#[derive(Default)]
struct States(BTreeMap<(String, BTreeMap<String, String>), State>);

impl States {
    fn of(&mut self, row: &Row) -> &mut State {
        let key = (row.profile.clone(), row.failing.clone());
        self.0.entry(key).or_insert_with(|| {
            let responder = profile::responder(&row.profile, &row.failing).unwrap();
            State {
                responder,
                tx_small: responder.response_bytes_max(&Limits::DEFAULT),
                cache: HeadCache::new(),
            }
        })
    }
}

impl State {
    fn whole(&self, segments: &[Segment]) -> Outcome {
        Wire::new(&self.responder, None, TX_LARGE)
            .run(segments)
            .outcome()
    }

    /// Like a server: with the smallest response buffer and with the head cache.
    fn served(&mut self, segments: &[Segment]) -> Outcome {
        Wire::new(&self.responder, Some(&mut self.cache), self.tx_small)
            .run(segments)
            .outcome()
    }
}

/// The number of rows, and the failures among them.
#[derive(Default)]
struct Verdict {
    rows: usize,
    wrong: Vec<String>,
}

impl Verdict {
    fn note(&mut self, name: &str, result: Result<(), String>) {
        self.rows += 1;
        if let Err(why) = result {
            self.wrong.push(format!("{name}: {why}"));
        }
    }

    /// Asserts that no row failed. Prints to standard error, because libtest hides the output of passing
    /// tests.
    fn report(&self, what: &str) {
        let met = self.rows - self.wrong.len();
        let _ = writeln!(std::io::stderr(), "{what}: {met} of {} met", self.rows);
        assert!(self.rows > 0 && self.wrong.is_empty(), "{:#?}", self.wrong);
    }
}

#[test]
fn every_row_gets_the_answer_that_it_expects() {
    let mut states = States::default();
    for file in FILES {
        let mut verdict = Verdict::default();
        for row in rows::read(file) {
            let state = states.of(&row);
            let whole = state.whole(&row.segments);
            verdict.note(&row.name, judge_outcome(&row, &whole));
        }
        verdict.report(file);
    }
}

fn judge_outcome(row: &Row, outcome: &Outcome) -> Result<(), String> {
    judge(row, &outcome.sent, outcome.end)?;
    let answers = answers(&row.request, &outcome.sent)?;
    if answers.len() != outcome.answered {
        return Err(format!(
            "{} answers, the connection reported {}",
            answers.len(),
            outcome.answered
        ));
    }
    let last = answers.last();
    let is_refused = last.is_some_and(|answer| answer.status >= 400);
    let expect = &row.expect;
    let has_sequence = expect.statuses.is_some()
        || expect.statuses_prefix_of.is_some()
        || expect.responses.is_some()
        || row.name.starts_with("pipeline/");
    let most = match methods(&row.request).len() {
        _ if has_sequence => usize::MAX,
        // If a row expects one answer, every other request line is part of a body.
        _ if expect.status.is_some() => 1,
        // One more answer can only be the refusal of bytes that are no request line.
        requests => requests + usize::from(is_refused),
    };
    if answers.len() > most {
        return Err(format!("{} answers, {most} at most", answers.len()));
    }
    let is_last = last.and_then(|answer| answer.field("connection")) == Some("close");
    if is_last && outcome.end == End::Open {
        return Err("sent Connection: close, and stayed open".into());
    }
    Ok(())
}

/// A judge that accepts every answer would pass every row too.
#[test]
fn the_judge_rejects_a_wrong_answer_to_every_row() {
    let mut states = States::default();
    let mut seen = 0;
    for row in FILES.into_iter().flat_map(rows::read) {
        let expect = &row.expect;
        if expect.anything_valid {
            continue;
        }
        let Outcome { sent, end, .. } = states.of(&row).whole(&row.segments);
        let mut wrong = |what: &str, sent: &[u8], end| {
            let verdict = judge(&row, sent, end);
            assert!(verdict.is_err(), "{}: accepted: {what}", row.name);
            seen += 1;
        };
        let other_end = match end {
            End::Open => End::Closed,
            End::Closed => End::Open,
        };
        if expect.after.is_some() && !sent.is_empty() {
            wrong("the other end", &sent, other_end);
        }
        if !sent.is_empty() {
            wrong("no answer", b"", End::Open);
        }
        if let Some(cut) = sent.len().checked_sub(1) {
            wrong("half an answer", &sent[..cut], end);
            let teapot = [b"HTTP/1.1 418", &sent["HTTP/1.1 200".len()..]].concat();
            wrong("another status", &teapot, end);
        }
        let is_counted = expect.responses.is_some() || expect.statuses.is_some();
        if is_counted && !sent.is_empty() {
            wrong("every answer twice", &[&sent[..], &sent].concat(), end);
        }
        if expect.body.is_some() && sent.ends_with(b"ok") {
            let no = [&sent[..sent.len() - 2], b"no"].concat();
            wrong("another body", &no, end);
        }
    }
    assert!(seen > 5000, "{seen}");
}

#[test]
fn a_small_response_buffer_and_the_head_cache_change_no_answer() {
    let mut states = States::default();
    for file in FILES {
        let mut verdict = Verdict::default();
        let rows = rows::read(file);
        // In the second round, every cacheable head is in the cache.
        for row in rows.iter().chain(&rows) {
            let state = states.of(row);
            let whole = state.whole(&row.segments);
            verdict.note(&row.name, same(&state.served(&row.segments), &whole));
        }
        verdict.report(&format!("{file}, small buffer and cache"));
    }
}

#[test]
fn every_row_split_at_any_byte_gets_the_same_answers() {
    let mut states = States::default();
    for file in FILES {
        let mut verdict = Verdict::default();
        for row in rows::read(file) {
            if row.request.len() < CUT_BYTES_MAX {
                let state = states.of(&row);
                let is_shut = row.segments.contains(&Segment::Shut);
                verdict.note(&row.name, cut(state, &row.request, is_shut));
            }
        }
        verdict.report(&format!("{file}, cut"));
    }
}

/// Runs `request` in one piece, in two pieces for every place to split it, and in single bytes.
fn cut(state: &mut State, request: &[u8], is_shut: bool) -> Result<(), String> {
    let segments = |pieces: &[&[u8]]| -> Vec<Segment> {
        let pieces = pieces.iter().map(|piece| Segment::Bytes(piece.to_vec()));
        pieces.chain(is_shut.then_some(Segment::Shut)).collect()
    };
    let whole = state.whole(&segments(&[request]));
    for at in 1..request.len() {
        let (left, right) = request.split_at(at);
        let outcome = state.served(&segments(&[left, right]));
        same(&outcome, &whole).map_err(|why| format!("cut at {at}: {why}"))?;
    }
    let bytes: Vec<&[u8]> = request.chunks(1).collect();
    for _ in 0..2 {
        let outcome = state.served(&segments(&bytes));
        same(&outcome, &whole).map_err(|why| format!("byte by byte: {why}"))?;
    }
    let outcome = state.whole(&segments(&bytes));
    same(&outcome, &whole).map_err(|why| format!("byte by byte, without cache: {why}"))
}

fn same(outcome: &Outcome, whole: &Outcome) -> Result<(), String> {
    if outcome == whole {
        return Ok(());
    }
    let show = |outcome: &Outcome| {
        let (end, phase, kept) = (outcome.end, outcome.phase, outcome.kept.len());
        let sent = String::from_utf8_lossy(&outcome.sent);
        format!("{end:?} {phase:?}, {kept} bytes kept, {sent:?}")
    };
    Err(format!(
        "{}\n  in one piece: {}",
        show(outcome),
        show(whole)
    ))
}

#[test]
fn every_connection_is_closed_at_its_deadline_and_answers_nothing_afterwards() {
    let mut states = States::default();
    for file in FILES {
        for row in rows::read(file) {
            let state = states.of(&row);
            let mut wire = Wire::new(&state.responder, None, TX_LARGE).run(&row.segments);
            if wire.end() == End::Open {
                let left = wire.time_left();
                wire.pass(left.saturating_sub(std::time::Duration::from_millis(1)));
                assert_eq!(wire.end(), End::Open, "{}", row.name);
                wire.pass(std::time::Duration::from_millis(1));
            }
            assert_eq!(wire.end(), End::Closed, "{}", row.name);
            // From here on, `Wire` asserts that the connection sends nothing.
            wire.receive(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
            wire.pass(std::time::Duration::from_secs(3600));
            wire.shut();
            let outcome = wire.outcome();
            let late = answers(&row.request, &outcome.sent);
            assert!(late.is_ok(), "{}: {late:?}", row.name);
        }
    }
}

/// Requests recorded from real clients get one answer each. Bytes that are not HTTP/1 get one refusal.
#[test]
fn every_recorded_request_is_answered_however_it_is_split() {
    let mut states = States::default();
    let mut verdict = Verdict::default();
    for (name, request) in rows::clients() {
        let row = Row {
            name,
            profile: "kubelet".into(),
            failing: BTreeMap::new(),
            segments: vec![Segment::Bytes(request.clone())],
            request,
            expect: Expect::default(),
        };
        let state = states.of(&row);
        let whole = state.whole(&row.segments);
        let result = answers(&row.request, &whole.sent).and_then(|answers| {
            let requests = methods(&row.request).len();
            let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
            let is_refused = statuses.last().is_some_and(|status| *status >= 400);
            if statuses.len() == requests || (statuses.len() == 1 && is_refused) {
                cut(state, &row.request, false)
            } else {
                Err(format!("{statuses:?} to {requests} requests"))
            }
        });
        verdict.note(&row.name, result);
    }
    verdict.report("clients.jsonl");
}
