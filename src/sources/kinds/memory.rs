//! The kind `memory`: memory that is available on the machine or in a control group.
//!
//! On the machine it is MemAvailable of /proc/meminfo. In a control group it is
//! `memory.max - (memory.current - inactive_file)`, as the kubelet counts: pages of files that were not used of
//! late can be dropped. Each group above counts too, and so does the machine, because their limits hold as well.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::figures::{self, Unit, Words, shortage};
use super::procfs;
use super::system::{FILE_BYTES_MAX, System, below, failed, parse, read};
use crate::sources::spec::{Memory, Outcome, Scope};

impl Memory {
    /// Checks the memory once.
    pub fn attempt(&self) -> Outcome {
        self.attempt_in(System::new())
    }

    /// Why no state of the memory could fail this.
    pub fn never_fails(&self) -> Option<&'static str> {
        figures::is_zero(self.min).then_some("min is 0")
    }

    fn attempt_in(&self, system: System<'_>) -> Outcome {
        let group = match &self.scope {
            Scope::Node => None,
            Scope::Cgroup => match system.parse("self/cgroup", |text| {
                procfs::cgroup(text).map(|path| PathBuf::from(OsStr::from_bytes(path)))
            }) {
                Ok(path) => Some(path),
                Err(reason) => return Outcome::Unsupported(reason),
            },
            Scope::CgroupAt(path) => Some(path.clone()),
        };
        let outcome = match group {
            None => Ok(None),
            Some(path) => self.group_fault(system, &path),
        };
        match outcome.and_then(|fault| match fault {
            None => self.node_fault(system),
            fault => Ok(fault),
        }) {
            Ok(None) => Outcome::Pass,
            Ok(Some(reason)) => Outcome::Fail(format!("memory: {reason}")),
            Err(outcome) => outcome,
        }
    }

    fn node_fault(&self, system: System<'_>) -> Result<Option<String>, Outcome> {
        let (whole, available) = system
            .parse("meminfo", procfs::meminfo)
            .map_err(Outcome::Unsupported)?;
        Ok(self.fault(available, whole, ""))
    }

    /// The first fault of the group at `path` and of the groups above it.
    fn group_fault(&self, system: System<'_>, path: &Path) -> Result<Option<String>, Outcome> {
        let root = system.cgroup;
        if let Err(error) = parse(&root.join("cgroup.controllers"), has_memory).and_then(|has| {
            has.then_some(())
                .ok_or_else(|| format!("{}: has no controller memory", root.display()))
        }) {
            return Err(Outcome::Unsupported(match root.join("memory").is_dir() {
                true => "memory of control groups of version 1".to_owned(),
                false => error,
            }));
        }
        let group = below(root, path);
        if !group.is_dir() {
            return Err(Outcome::Fail(format!(
                "{}: does not exist",
                group.display()
            )));
        }
        for group in group
            .ancestors()
            .take_while(|group| group.starts_with(root))
        {
            let Some((available, limit)) = available(group).map_err(Outcome::Fail)? else {
                continue;
            };
            let name = group.strip_prefix(root).unwrap_or(group).display();
            let fault = self.fault(available, limit, &format!(" in control group /{name}"));
            if fault.is_some() {
                return Ok(fault);
            }
        }
        Ok(None)
    }

    fn fault(&self, available: u64, whole: u64, place: &str) -> Option<String> {
        let state = &format!("available{place}");
        let words = Words {
            unit: Unit::Bytes,
            of: "",
            things: "",
            state,
        };
        shortage(available, whole, self.min, words)
    }
}

fn has_memory(controllers: &[u8]) -> Option<bool> {
    let mut names = controllers.split(u8::is_ascii_whitespace);
    Some(names.any(|name| name == b"memory"))
}

/// What is available in a group, and its limit; `None` if it has no limit.
fn available(group: &Path) -> Result<Option<(u64, u64)>, String> {
    // The root has no limit, nor has a group without the controller.
    let path = group.join("memory.max");
    let limit = match read(&path, FILE_BYTES_MAX) {
        Ok(text) => procfs::limit(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&path, &error)),
    };
    let Some(limit) = limit.ok_or_else(|| format!("{}: not understood", path.display()))? else {
        return Ok(None);
    };
    let current = parse(&group.join("memory.current"), procfs::number)?;
    let inactive = parse(&group.join("memory.stat"), |text| {
        procfs::named(text, b"inactive_file")
    })?;
    let used = current.saturating_sub(inactive);
    Ok(Some((limit.saturating_sub(used), limit)))
}
