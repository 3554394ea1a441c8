//! HTTP/1.1 and HTTP/1.0 without sockets: bytes and a time in, bytes and a deadline out.
//!
//! Knows no check, no socket and no clock, and does not allocate. [`crate::answer`] supplies the function
//! from request to response; [`crate::server`], or a loop of your own, reads and sends the bytes.
//!
//! Start at [`Connection`]. The tables in [`request`], [`target`] and [`connection`] list each input, the
//! reaction and its source.

mod body;
pub mod cache;
pub mod connection;
#[cfg(any(all(test, not(loom)), fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod request;
pub mod response;
pub mod target;

pub use cache::HeadCache;
pub use connection::{Connection, Context, Next, Phase, Progress};
pub use request::{Method, Request};
pub use response::{Answer, BodyWriter, BufferFull, Date, Fields, StatusCode, Writer};
pub use target::{Decoded, Form, Pairs, Target};

pub(crate) use response::{Padded, TIME_BYTES};
pub(crate) use target::{is_host_without_port, strip_prefix, without_port};
