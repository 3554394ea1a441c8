//! What the fuzz target `checks` runs: arbitrary updates, times and requests against a model that
//! keeps what was said in an `enum` and puts answers together from strings.
//!
//! Called by `fuzz/` with bytes that nobody chose, and by `cargo test` with those that are kept.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "what is found is told by a panic"
)]

mod model;
mod request;

use core::time::Duration;
use std::string::String;
use std::vec;

use super::Responder;
use crate::check::{Check, Endpoint};
use crate::http::fuzz::Source;
use crate::http::{Connection, Context, Next};
use crate::limits::{Limits, RESPONSE_HEAD_BYTES_MAX};
use crate::time::Instant;
use model::Model;

/// Clocks that a machine can show: not the first milliseconds and not the end of time.
const NOW_MIN: u64 = 3;
const NOW_MAX: u64 = u64::MAX / 2;

/// - A check is what was last said, at any time after; its reason is all of the text that fits, cut
///   between characters.
/// - An answer is what Kubernetes' handler makes of the same checks, to the byte, and has room in a
///   buffer of the size that was promised to be enough.
pub fn checks(data: &[u8]) {
    let mut source = Source(data);
    let config = source.byte();
    let limit = u64::from(source.word());
    let hosts: &[&str] = if config.is_multiple_of(4) {
        &["localhost", "[::1]"]
    } else {
        &[]
    };
    let checks = [
        Check::ping(),
        Check::heartbeat("log", Duration::from_millis(limit)).overdue("logging blocked"),
        Check::heartbeat("syncloop", Duration::from_millis(16 * limit)).initially_failing(),
        Check::manual("disk").group("storage"),
        Check::gate("poststarthook/start-a").group("hooks"),
        Check::gate("poststarthook/start-b")
            .group("hooks")
            .initially_passing(),
        Check::shutdown().unlisted_while_passing(),
    ];
    let all: [&Check; 7] = checks.each_ref();
    let endpoints = [
        Endpoint::new("/healthz", &all[..6]),
        Endpoint::new("/livez", &all[..2]),
        Endpoint::new("/readyz", &all),
    ];
    let responder = Responder::new(&endpoints).allow_hosts(hosts);
    let mut model = Model::new(limit, hosts);
    let mut now = NOW_MIN + u64::from(source.word());
    while !source.is_empty() {
        let what = source.byte();
        let check = &checks[usize::from(what >> 4) % checks.len()];
        match what % 16 {
            0..=6 => update(check, &mut model, what % 16, now, &mut source),
            7 => now += u64::from(source.byte()),
            8 => now = (now + (u64::from(source.word()) << 8)).min(NOW_MAX),
            9 => now = NOW_MAX - u64::from(source.byte()),
            _ => ask(&responder, &model, now, &mut source),
        }
        let at = Instant::from_millis(now);
        for check in &checks {
            let state = model.state(check.name());
            assert_eq!(check.passes(at), state.passes(now), "{}", check.name());
            assert_eq!(check.health(at), state.health(now), "{}", check.name());
            let reason = check.reason(at);
            assert_eq!(
                reason.as_ref().map(|text| text.as_str()),
                state.reason(now).as_deref()
            );
            assert_eq!(check.is_listed(at), state.is_listed(now));
        }
    }
}

fn update(check: &Check, model: &mut Model, what: u8, now: u64, source: &mut Source<'_>) {
    let mut text = || {
        let size = usize::from(source.byte());
        String::from_utf8_lossy(source.bytes(size)).into_owned()
    };
    let state = model.state_mut(check.name());
    match what {
        0 => {
            check.pass();
            state.pass();
        }
        1 => {
            let text = text();
            check.fail(&text);
            state.fail(&text);
        }
        2 => {
            // In parts: what no longer fits ends it, even if a later part would fit.
            let (first, second) = (text(), text());
            check.fail_fmt(format_args!("{first}: {now} {second}x"));
            state.fail(&std::format!("{first}: {now} {second}x"));
        }
        3 | 4 => {
            check.beat(Instant::from_millis(now));
            state.beat(now);
        }
        5 => {
            check.open();
            state.pass();
        }
        _ => {
            check.begin_shutdown();
            state.fail("process is shutting down");
        }
    }
}

fn ask(responder: &Responder<'_>, model: &Model, now: u64, source: &mut Source<'_>) {
    let asked = request::Asked::new(source);
    let head = asked.head();
    let limits = Limits {
        request_head_bytes: head.len(),
        ..Limits::DEFAULT
    };
    let context = Context {
        now: Instant::from_millis(now),
        date: None,
        limits: &limits,
        is_last: false,
    };
    // Exactly what is promised to be enough.
    let mut tx = vec![0; responder.response_bytes_max(&limits)];
    assert!(tx.len() > RESPONSE_HEAD_BYTES_MAX);
    let mut connection = Connection::new(context.now);
    let progress = connection.receive(
        &context,
        head.as_bytes(),
        &mut tx,
        &mut |request, writer| responder.respond(context.now, request, writer),
    );
    assert_eq!(
        (progress.consumed, progress.answered),
        (head.len(), 1),
        "{head:?}"
    );
    assert_eq!(
        (progress.refused, progress.next),
        (0, Next::Read),
        "{head:?}"
    );
    let answer = str::from_utf8(&tx[..progress.written]).unwrap();
    let (fields, body) = answer.split_once("\r\n\r\n").unwrap();
    let want = model.answer(&asked, now);
    assert_eq!(&fields["HTTP/1.1 ".len()..][..3], want.status, "{head:?}");
    let field = |name: &str| {
        let line = fields.split("\r\n").find(|line| line.starts_with(name));
        line.map(|line| line[name.len()..].trim_start_matches([':', ' ']))
    };
    assert_eq!(field("Location"), want.location.as_deref(), "{head:?}");
    assert_eq!(field("Allow").is_some(), want.status == "405");
    let length: usize = field("Content-Length").unwrap().parse().unwrap();
    if let Some(text) = want.body {
        assert_eq!(length, text.len(), "{head:?}");
        assert_eq!(
            body,
            if asked.method == "HEAD" { "" } else { &text },
            "{head:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn kept_updates_and_questions_are_answered_as_the_model_does() {
        crate::http::fuzz::kept("checks", super::checks);
    }
}
