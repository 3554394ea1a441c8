//! The code from received bytes to a response, and nothing else. `.ci/panics` compiles it and searches the
//! result for panics; running it has no purpose.
//!
//! All arguments pass through `black_box`, so that the compiler cannot remove branches because of their
//! values here.

use std::hint::black_box;
use std::time::Duration;

use healthz::http::{Connection, Context, Date, HeadCache, Next, Progress, Request, Writer};
use healthz::{Check, Endpoint, Instant, Limits, Responder};

#[inline(never)]
fn receive(
    connection: &mut Connection,
    context: &Context<'_>,
    cache: Option<&mut HeadCache>,
    rx: &[u8],
    tx: &mut [u8],
    responder: &Responder<'_>,
) -> (Progress, Instant) {
    let now = context.now;
    let mut answer =
        |request: &Request<'_>, writer: Writer<'_>| responder.respond(now, request, writer);
    let mut progress = match cache {
        Some(cache) => connection.receive_cached(context, cache, rx, tx, &mut answer),
        None => connection.receive(context, rx, tx, &mut answer),
    };
    if progress.next == Next::Read {
        let rest = rx.get(progress.consumed..).unwrap_or_default();
        progress = connection.expire(context, rest, tx);
    }
    if progress.next == Next::Read {
        progress = connection.receive_end(context, rx, tx);
    }
    (progress, connection.deadline(context.limits))
}

/// The Date header, formatted once a second.
#[inline(never)]
fn date(seconds: u64) -> Date {
    Date::from_unix_seconds(seconds)
}

/// Updates of a check by the program.
#[inline(never)]
fn update(check: &Check, now: Instant, reason: &str) {
    check.pass();
    check.fail(reason);
    check.beat(now);
    check.open();
    check.begin_shutdown();
}

/// A panic that `.ci/panics` must find, which proves that the search works.
#[inline(never)]
fn canary(bytes: &[u8], at: usize) -> u8 {
    #[expect(clippy::indexing_slicing, reason = "the panic is planted")]
    bytes[at]
}

static PING: Check = Check::ping();
static WORK: Check = Check::heartbeat("work", Duration::from_secs(1)).group("group");
static CHECKS: [&Check; 2] = [&PING, &WORK];
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&CHECKS);

fn main() {
    let now = black_box(Instant::ZERO);
    let date = date(black_box(0));
    let limits = Limits::DEFAULT;
    let context = Context {
        now,
        date: black_box(Some(&date)),
        limits: black_box(&limits),
        is_last: black_box(false),
        tx_bytes_max: 0,
    };
    let responder = Responder::new(black_box(&ENDPOINTS)).allow_hosts(black_box(&["host"]));
    update(black_box(&WORK), now, black_box("reason"));
    let (mut cache, mut tx) = (HeadCache::new(), [0; 4096]);
    let rx = black_box(&b"GET /healthz HTTP/1.1\r\nHost: host\r\n\r\n"[..]);
    for cache in [None, Some(black_box(&mut cache))] {
        let mut connection = black_box(Connection::new(now));
        let context = black_box(&context);
        let tx = black_box(&mut tx[..]);
        let _ = black_box(receive(
            &mut connection,
            context,
            cache,
            rx,
            tx,
            black_box(&responder),
        ));
    }
    black_box(canary(rx, black_box(0)));
}
