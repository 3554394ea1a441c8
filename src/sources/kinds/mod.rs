//! One file for each kind of check: how one attempt is made, and what its reasons say.
//!
//! Knows no schedule and no server. Called by the worker, for a [`Spec`](super::spec::Spec) each. The types of
//! `spec` get two functions here:
//! - `attempt`: one attempt of a blocking kind, on a thread that may block. Without state. (exec, which
//!   does not block, has `start`.)
//! - `never_fails`: why a check with these options could never fail, which is refused at the start.

mod clock;
mod disk;
pub mod exec;
mod fds;
mod figures;
mod file;
#[cfg(test)]
mod fuzz;
mod memory;
mod mount;
pub mod orphans;
mod pids;
mod process;
mod procfs;
mod system;
mod temperature;
#[cfg(test)]
mod testing;
mod usage;
