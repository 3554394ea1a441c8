//! HTTP/1.1 and 1.0 without sockets: bytes and a time in, bytes and a deadline out.
//!
//! Knows no check, no socket, no clock, and allocates nothing. [`crate::answer`] gives it the
//! function from request to response; [`crate::server`] or your own loop moves the bytes.
//!
//! Start at [`Connection`]. What is seen and what is done about it stands as tables in [`request`],
//! [`target`] and [`connection`].

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
pub use response::{Date, Fields, Full, StatusCode, Text, Writer};
pub use target::{Decoded, Form, Pairs, Target};

pub(crate) use target::{strip_prefix, without_port};
