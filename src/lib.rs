//! Health endpoints as the Kubernetes kubelet has them, for any loop. (crate docs to come)
#![no_std]
#![warn(missing_docs)]

#[cfg(any(feature = "server", test))]
extern crate std;

pub mod answer;
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
