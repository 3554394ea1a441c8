//! The kubelet's health door as a part: `/healthz`, `/livez` and `/readyz`, answered from atomics,
//! without allocation, from your own event loop, from a thread of their own, or without sockets at all.
//!
//! ```text
//!  your code, other threads, signal handlers                   probes: kubelet, curl, HAProxy, monit
//!         | pass / fail(reason) / beat                                  | TCP on loopback, Unix sockets
//!         v                                                             v
//!   check::Check (one atomic word) --load--> answer <--Request-- http::Connection <--bytes, time-- server
//!                                              '-----Response--->'            '---bytes, deadline--->'
//! ```
//!
//! Writers store, readers load: nobody waits for anybody. A request never runs a check, takes a lock
//! or allocates. The text is that of Kubernetes' own handler; what is answered to which request is a
//! table in [`answer`], what is refused are tables in [`http::Connection`] and its neighbours.
//!
//! # Five lines
//!
#![cfg_attr(feature = "server", doc = "```no_run")]
#![cfg_attr(not(feature = "server"), doc = "```ignore")]
//! use healthz::server::{Address, Config, Listeners, Server, now, spawn};
//! use healthz::{Check, Endpoint, Responder};
//! use std::time::Duration;
//!
//! static PING: Check = Check::ping();
//! static WORK: Check = Check::heartbeat("work", Duration::from_secs(30));
//! static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING, &WORK]);
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let door = spawn(Server::bind(Responder::new(&ENDPOINTS), &Address::DEFAULT)?)?;
//! loop {
//!     WORK.beat(now()); // from any thread, as often as you like
//!     # break;
//! }
//! # door.stop();
//! # Ok(())
//! # }
//! ```
//!
//! # Where it lives
//!
//! | you have | use |
//! |---|---|
//! | a thread to spare | [`server::spawn`]: a busy or blocked runtime cannot starve it |
//! | nothing else to do | [`server::Runner::run`] |
//! | a mio loop | [`server::Server`] with your `Registry`, tokens and time |
//! | any other loop | [`server::Runner::turn`] when the descriptor of its `AsFd` is readable |
//! | no operating system | [`http::Connection`] and [`Responder`] over your own bytes; `examples/smoltcp` |
//!
//! Each is a short program in `examples/`; the README says how many lines, descriptors and bytes of
//! memory it adds. [`server::Server::with_memory`] takes the bytes from statics, and checks are updated
//! from signal handlers too, see [`check`].
//!
//! # What it does not do
//!
//! TLS, authentication, HTTP/2, routing, request bodies (they are thrown away), running checks: a check
//! is what your code last said, and a probe costs the same however slow the thing is that it is about.
//!
//! The library never exits, touches signals, reads the environment, writes to a standard stream or
//! starts a thread that it was not asked for. Nothing that arrives from outside makes it panic; the
//! panics there are, each under a `# Panics`, are about arguments given at construction.
//!
//! # Features
//!
//! - none: checks, HTTP and answers. `no_std` without `alloc`; needs 64-bit atomics.
//! - `server`: sockets and the event loop on mio.
//! - `capi`: the functions of `capi/healthz.h`, for C and whoever speaks it; see `capi/README.md`.
//! - `daemon` (default): what the `healthz` program needs on top. Embedders turn it off:
//!   `healthz = { version = "0.1", default-features = false, features = ["server"] }`.
#![no_std]
#![warn(missing_docs)]

#[cfg(not(target_has_atomic = "64"))]
compile_error!(
    "healthz needs 64-bit atomics: a check's verdict is one word that holds a time in milliseconds"
);

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
pub use check::{Check, Endpoint, Health};
pub use limits::Limits;
pub use time::Instant;
