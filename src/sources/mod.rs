//! Checks of real things: files, services, programs, the kernel's own figures.
//!
//! They run in processes of their own, because they open files, connect and start programs, which the server's
//! process must not be able to do. The server starts a *supervisor* before its sandbox, by executing the same
//! program; the supervisor starts the *worker*, which runs the checks, and starts it again if it ends. The worker
//! sends each result to the server as one datagram ([`link`]).
//!
//! Knows no HTTP and nothing of the server. Called by `main` and by the daemon.

pub mod attempt;
pub mod kinds;
pub mod spec;
mod sys;

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the hidden command `healthz sources exec`; `None` if `args` is another command.
pub fn command(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.into_iter();
    let is_exec = args.next()? == "sources" && args.next()? == "exec";
    is_exec.then(|| kinds::exec::launch(args))
}
