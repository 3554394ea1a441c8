//! Health endpoints as the kubelet has them: `/healthz`, `/livez` and `/readyz`.
//!
//! Your code reports what it knows with atomic stores. The server answers each request from these
//! atomics. It runs on a thread of its own or in your event loop, and does not allocate per request.
//! Without the server, the core works on bytes alone and needs no operating system.
//!
//! ```text
//!  your code, other threads, signal handlers                   probes: kubelet, curl, HAProxy, monit
//!         | pass / fail(reason) / beat                                  | TCP on loopback, Unix sockets
//!         v                                                             v
//!   check::Check (atomics) ----------load--> answer <--Request-- http::Connection <--bytes, time-- server
//!                                              '-----Response--->'            '---bytes, deadline--->'
//! ```
//!
//! Updates store and requests load, and neither waits for the other. A request never runs a check, takes
//! a lock or allocates. The text of answers is that of Kubernetes. The table in [`answer`] lists the
//! answer to each request; the tables in [`http::connection`], [`http::request`] and [`http::target`]
//! list what is refused.
//!
//! # Quick start
//!
#![cfg_attr(feature = "server", doc = "```no_run")]
#![cfg_attr(not(feature = "server"), doc = "```ignore")]
//! use healthz::server::{Address, Server, now, spawn};
//! use healthz::{Check, Endpoint, Responder};
//! use std::time::Duration;
//!
//! static PING: Check = Check::ping();
//! static WORK: Check = Check::heartbeat("work", Duration::from_secs(30));
//! static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING, &WORK]);
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let thread = spawn(Server::bind(Responder::new(&ENDPOINTS), &Address::DEFAULT)?)?;
//! loop {
//!     WORK.beat(now()); // from any thread, as often as you like
//!     # break;
//! }
//! # thread.stop();
//! # Ok(())
//! # }
//! ```
//!
//! # Ways to run it
//!
//! | you have | use |
//! |---|---|
//! | any program | [`server::spawn`]: a thread that a busy or blocked runtime cannot delay |
//! | a thread with nothing else to do | [`server::Runner::run`] |
//! | a mio loop | [`server::Server`] with your `Registry`, tokens and time |
//! | any other loop | [`server::Runner::poll_once`] when the descriptor of its `AsFd` is readable |
//! | no operating system | [`http::Connection`] and [`Responder`] over your own bytes; `examples/smoltcp` |
//!
//! Each is a short program in `examples/`. [`server::Server::with_memory`] takes all memory from its
//! caller, for example from statics. Checks can be updated from signal handlers; see [`check`].
//!
//! # What it does not do
//!
//! It has no TLS, no authentication, no HTTP/2 and no routing, and it discards request bodies. It runs no
//! checks: a check has the state that your code reported last, so a probe takes the same time however
//! slow the checked thing is.
//!
//! The library never exits, changes signal handlers, reads the environment, writes to a standard stream
//! or starts a thread, unless its caller asks for that. No input from outside makes it panic. Functions
//! that panic on invalid arguments have a section `# Panics`; a server calls none of them for a request.
//!
//! # Features
//!
//! - none: checks, HTTP and answers. `no_std` without `alloc`; needs 64-bit atomics.
//! - `portable-atomic`: these atomics for processors that have none; see `docs/embed.md`.
//! - `server`: sockets and the event loop on mio.
//! - `capi`: the functions of `capi/healthz.h` for C; see `capi/README.md`.
//! - `daemon`, `sources`, `client` (default): the `healthz` program, its configured checks, and its commands such
//!   as `healthz probe`. Embedders turn them off:
//!   `healthz = { version = "0.1", default-features = false, features = ["server"] }`.
#![no_std]
#![warn(missing_docs)]

#[cfg(not(any(target_has_atomic = "64", feature = "portable-atomic")))]
compile_error!(
    "healthz needs 64-bit atomics: the state of a check is one integer that holds a time in milliseconds; \
    the feature `portable-atomic` brings them to this processor"
);
#[cfg(all(feature = "server", not(target_has_atomic = "64")))]
compile_error!("the feature `server` of healthz needs a processor with 64-bit atomics");

#[cfg(any(feature = "server", test, fuzzing))]
extern crate std;

pub mod answer;
#[cfg(feature = "capi")]
pub mod capi;
pub mod check;
pub mod http;
pub mod limits;
#[cfg(feature = "server")]
pub mod server;
pub mod time;

pub use answer::Responder;
pub use check::{Check, Endpoint, Health, Severity};
#[cfg(feature = "server")]
pub use check::{EndpointSet, EndpointSetError};
pub use limits::Limits;
pub use time::Instant;
