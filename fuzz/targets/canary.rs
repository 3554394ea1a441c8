//! A target that must fail, to show that the others could: a fuzzer that does not find this bug, or a
//! build in which it is none, finds nothing else either.
//!
//! It is planted behind the parser, and only an overflow check sees it.
#![no_main]

use healthz::http::{Connection, Context, Fields, Request, StatusCode, Writer};
use healthz::{Instant, Limits};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let context = Context {
        now: Instant::ZERO,
        date: None,
        limits: &Limits::DEFAULT,
        is_last: false,
    };
    let mut answer = |request: &Request<'_>, writer: Writer<'_>| {
        // A sum that forgets that it is small: three letters behind the slash are too many.
        let sum = request
            .target()
            .path()
            .iter()
            .fold(0_u8, |sum, byte| sum + byte);
        writer.fixed(StatusCode::OK, Fields::Text, &[sum])
    };
    let mut tx = [0; 1024];
    let _ = Connection::new(Instant::ZERO).receive(&context, data, &mut tx, &mut answer);
});
