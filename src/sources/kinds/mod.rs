//! One file for each kind of check: how one attempt is made, and what its reasons say.
//!
//! Knows no schedule and no server. Called by the worker, for a [`Spec`](super::spec::Spec) each.

pub mod heartbeat;
pub mod http;
pub mod pressure;
mod stream;
pub mod tcp;
mod text;
pub mod unix;
