//! Gives up the rights of the sources processes that no configured check needs.
//!
//! No new privileges, no core dumps, and only the capabilities below. The supervisor calls it first; the worker and the
//! programs that checks run inherit the result. A capability that was given up cannot be regained, so checks that are
//! added later, when the check file is read again, may lack one. The server raises its own limit of open files and changes
//! its adjustment for the OOM killer; the supervisor gets both back as they were.
//!
//! | capability | kept if there is a check of | because |
//! |---|---|---|
//! | DAC_READ_SEARCH | any kind | files that only their owner can read |
//! | DAC_OVERRIDE | unix | connecting to a socket is writing to its file |
//! | SYS_PTRACE | process; fds of a process; pids of `exe:` | executables and descriptors of other users' processes |
//! | SYS_RESOURCE | pressure | triggers with any window |
//! | SYS_ADMIN, SETUID, SETGID | heartbeat with `forward` | the sender's credentials |
//! | all | exec | the program may need them; with `user` on every such check only SETUID, SETGID and KILL |

use std::ffi::{OsStr, OsString};
use std::fs;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::spec::{Kind, ProcessTarget, Spec};
use super::sys;

const DAC_OVERRIDE: u64 = 1 << 1;
const DAC_READ_SEARCH: u64 = 1 << 2;
const KILL: u64 = 1 << 5;
const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_RESOURCE: u64 = 1 << 24;
const ALL: u64 = u64::MAX;

const SCORE_FILE: &str = "/proc/self/oom_score_adj";

/// For [`restrict`] in another process: the capabilities that `specs` need, and what this process has now and changes
/// for itself before it starts that one: the limit of open files and, if `has_score`, the adjustment for the OOM
/// killer.
pub fn needed(specs: &[Spec], has_score: bool) -> OsString {
    let files = getrlimit(Resource::RLIMIT_NOFILE);
    let files = files.map_or(String::new(), |(soft, _)| soft.to_string());
    let score = match has_score {
        true => fs::read_to_string(SCORE_FILE).unwrap_or_default(),
        false => String::new(),
    };
    format!("{:x},{files},{}", capabilities(specs), score.trim_end()).into()
}

/// Restricts this process to what [`needed`] has returned. Errors of the system are ignored, because the checks must
/// run even without these restrictions.
pub fn restrict(needed: &OsStr) {
    let mut parts = needed.to_str().unwrap_or_default().split(',');
    let kept = parts
        .next()
        .and_then(|bits| u64::from_str_radix(bits, 16).ok());
    if let Some(files) = parts.next().and_then(|files| files.parse().ok()) {
        let _ = getrlimit(Resource::RLIMIT_NOFILE)
            .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, files, hard));
    }
    if let Some(score) = parts.next().filter(|score| !score.is_empty()) {
        let _ = fs::write(SCORE_FILE, score);
    }
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let _ = prctl::set_no_new_privs();
    let _ = sys::keep_capabilities(kept.unwrap_or(ALL));
}

/// The capabilities that `specs` need, as bits.
fn capabilities(specs: &[Spec]) -> u64 {
    specs
        .iter()
        .fold(DAC_READ_SEARCH, |bits, spec| bits | needs(&spec.kind))
}

fn needs(kind: &Kind) -> u64 {
    match kind {
        Kind::Unix(_) => DAC_OVERRIDE,
        Kind::Process(_) => SYS_PTRACE,
        Kind::Fds(usage) if usage.process.is_some() => SYS_PTRACE,
        Kind::Pids(usage) if matches!(usage.process, Some(ProcessTarget::Exe(_))) => SYS_PTRACE,
        Kind::Pressure(_) => SYS_RESOURCE,
        Kind::Heartbeat(heartbeat) if heartbeat.forward.is_some() => SYS_ADMIN | SETUID | SETGID,
        Kind::Exec(exec) if exec.user.is_some() => SETUID | SETGID | KILL,
        Kind::Exec(_) => ALL,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::config;

    #[test]
    fn only_what_a_check_needs_is_kept() {
        let of = |checks: &[&str]| {
            let checks: Vec<OsString> = checks.iter().map(OsString::from).collect();
            capabilities(&config::parse(&checks, None).unwrap())
        };
        assert_eq!(of(&[]), DAC_READ_SEARCH);
        assert_eq!(of(&["a=disk:/", "b=tcp:127.0.0.1:1"]), DAC_READ_SEARCH);
        assert_eq!(of(&["a=heartbeat", "b=fds"]), DAC_READ_SEARCH);
        for (check, more) in [
            ("a=unix:/a", DAC_OVERRIDE),
            ("a=process:exe:a", SYS_PTRACE),
            ("a=fds:exe:a", SYS_PTRACE),
            ("a=pids:exe:a", SYS_PTRACE),
            ("a=pids", 0),
            ("a=pressure:io", SYS_RESOURCE),
        ] {
            assert_eq!(of(&[check, "b=clock"]), DAC_READ_SEARCH | more, "{check}");
        }
        let forwarding = of(&["a=heartbeat,forward=/run/systemd/notify"]);
        assert_eq!(forwarding, DAC_READ_SEARCH | SYS_ADMIN | SETUID | SETGID);
        assert_eq!(
            of(&["a=exec:/bin/true,user=nobody"]),
            DAC_READ_SEARCH | SETUID | SETGID | KILL
        );
        assert_eq!(
            of(&["a=exec:/bin/true,user=nobody", "b=exec:/bin/true"]),
            ALL
        );
    }
}
