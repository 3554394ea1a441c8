//! Configured checks (`--check` and the check file): of files, services, programs and figures of the kernel.
//!
//! They run in processes of their own, because they open files, connect and start programs, which the server's
//! process must not be able to do. Its main thread starts a *supervisor* before its sandbox, by executing the same
//! program; the supervisor starts the *worker*, which runs the checks, and starts it again if it ends. The worker
//! sends each result to the server as one datagram ([`link`]).
//!
//! Knows nothing of the server and its HTTP. Called by `main` and by the daemon.

pub mod attempt;
mod clock;
pub mod command;
pub mod config;
mod descendants;
mod engine;
mod jobs;
mod kinds;
pub mod link;
pub mod rights;
pub mod runs;
mod schedule;
#[cfg(test)]
mod simulation;
mod spawn;
pub mod spec;
mod store;
mod supervisor;
pub mod sys;
mod threshold;
pub mod worker;
