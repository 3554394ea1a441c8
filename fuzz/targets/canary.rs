//! A target with a planted bug, to prove that the fuzzer works: if it does not find this bug, the results of
//! the other targets mean nothing.
//!
//! The bug is reached only by a valid request, and only an overflow check detects it.
#![no_main]

use healthz::http::{Connection, Context, Fields, Request, StatusCode, Writer};
use healthz::{Instant, Limits};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let context = Context {
        now: Instant::ZERO,
        date: None,
        limits: &Limits::DEFAULT,
        is_last: false,
        tx_bytes_max: 0,
    };
    let mut answer = |request: &Request<'_>, writer: Writer<'_>| {
        // The bug: the sum of the bytes overflows `u8` if three lower-case letters follow the slash.
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
