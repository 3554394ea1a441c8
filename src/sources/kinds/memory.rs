//! The kind `memory`: memory that is available on the machine or in a control group.
//!
//! On the machine it is MemAvailable of /proc/meminfo. In a control group it is
//! `memory.max - (memory.current - inactive_file)`, as the kubelet counts: pages of files that were not used
//! recently can be dropped. Each group above counts too, and so does the machine, because their limits hold as well.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::figures::{Unit, Words, shortage};
use super::procfs;
use super::system::{FILE_BYTES_MAX, System, below, failed, parse, read};
use crate::sources::spec::{Memory, Outcome, Scope};

impl Memory {
    /// Checks the memory once.
    pub fn attempt(&self) -> Outcome {
        self.attempt_in(System::new())
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
                true => "memory: control groups of version 1 are not supported".to_owned(),
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

#[cfg(test)]
mod tests {
    use super::super::testing::{Directory, reason};
    use super::*;
    use crate::sources::spec::Amount;

    fn memory(min: Amount, scope: Scope) -> Memory {
        Memory { min, scope }
    }

    const MIB: u64 = 1 << 20;

    /// A machine with 1,000 MiB, of which 300 are available, and a group with 200 MiB, of which 60 are.
    fn machine() -> Directory {
        let directory = Directory::new();
        let text = "MemTotal:  1024000 kB\nMemFree: 1 kB\nMemAvailable:  307200 kB\n";
        directory.write("meminfo", text);
        directory.write("self/cgroup", "0::/a.slice/b.service\n");
        directory.write("cgroup.controllers", "cpu memory pids\n");
        directory.write("a.slice/memory.max", (200 * MIB).to_string());
        directory.write("a.slice/memory.current", (150 * MIB).to_string());
        let text = format!("anon 1\ninactive_file {}\n", 10 * MIB);
        directory.write("a.slice/memory.stat", text);
        directory.write("a.slice/b.service/memory.max", "max\n");
        directory
    }

    #[test]
    fn the_machine_has_memory() {
        let node = |min| memory(min, Scope::Node).attempt();
        assert_eq!(node(Amount::Absolute(1)), Outcome::Pass);
        let text = reason(node(Amount::Share(1000)));
        let (start, end) = ("memory: ", "% available, needs 100%");
        assert!(text.starts_with(start) && text.ends_with(end), "{text}");
    }

    #[test]
    fn available_memory_of_the_machine_is_compared() {
        let machine = machine();
        let node = |min| memory(min, Scope::Node).attempt_in(machine.system());
        assert_eq!(node(Amount::Absolute(300 * MIB)), Outcome::Pass);
        assert_eq!(node(Amount::Share(300)), Outcome::Pass);
        let text = reason(node(Amount::Absolute(512 * MIB)));
        assert_eq!(text, "memory: 300 MiB available, needs 512 MiB");
        let text = reason(node(Amount::Share(400)));
        assert_eq!(text, "memory: 30.0% available, needs 40%");
    }

    #[test]
    fn the_limits_of_the_groups_above_count() {
        let machine = machine();
        let group = |min| memory(min, Scope::Cgroup).attempt_in(machine.system());
        assert_eq!(group(Amount::Absolute(60 * MIB)), Outcome::Pass);
        assert_eq!(group(Amount::Share(300)), Outcome::Pass);
        let text = reason(group(Amount::Absolute(100 * MIB)));
        assert_eq!(
            text,
            "memory: 60 MiB available in control group /a.slice, needs 100 MiB"
        );
        let text = reason(group(Amount::Share(310)));
        assert_eq!(
            text,
            "memory: 30.0% available in control group /a.slice, needs 31%"
        );
        // The nearest group that has too little is named.
        for (name, text) in [("max", 40 * MIB), ("current", 30 * MIB)] {
            machine.write(
                &format!("a.slice/b.service/memory.{name}"),
                text.to_string(),
            );
        }
        machine.write("a.slice/b.service/memory.stat", "inactive_file 0\n");
        let text = reason(group(Amount::Share(300)));
        let place = "in control group /a.slice/b.service";
        assert_eq!(text, format!("memory: 25.0% available {place}, needs 30%"));
    }

    #[test]
    fn without_a_limit_the_machine_counts() {
        let machine = machine();
        machine.write("a.slice/memory.max", "max");
        let group = |min| memory(min, Scope::Cgroup).attempt_in(machine.system());
        assert_eq!(group(Amount::Absolute(300 * MIB)), Outcome::Pass);
        let text = reason(group(Amount::Absolute(301 * MIB)));
        assert_eq!(text, "memory: 300 MiB available, needs 301 MiB");
    }

    #[test]
    fn a_group_can_be_named() {
        let machine = machine();
        let at = |path: &str| {
            let scope = Scope::CgroupAt(path.into());
            memory(Amount::Absolute(61 * MIB), scope).attempt_in(machine.system())
        };
        let text = reason(at("a.slice"));
        assert!(text.contains("60 MiB available in control group /a.slice"));
        assert_eq!(reason(at("/a.slice")), text);
        assert_eq!(reason(at("/../../a.slice")), text);
        let missing = reason(at("/none"));
        assert!(missing.ends_with("/none: does not exist"), "{missing}");
    }

    #[test]
    fn what_the_kernel_lacks_is_unsupported() {
        let unsupported = |machine: &Directory, scope, text: &str| {
            let outcome = memory(Amount::Share(1), scope).attempt_in(machine.system());
            match outcome {
                Outcome::Unsupported(reason) => assert!(reason.ends_with(text), "{reason}"),
                other => panic!("{other:?}"),
            }
        };
        let machine = machine();
        machine.write("cgroup.controllers", "cpu pids\n");
        unsupported(&machine, Scope::Cgroup, ": has no controller memory");
        std::fs::remove_file(machine.at("cgroup.controllers")).unwrap();
        unsupported(
            &machine,
            Scope::Cgroup,
            "cgroup.controllers: does not exist",
        );
        machine.write("memory/tasks", "");
        let version = "memory: control groups of version 1 are not supported";
        unsupported(&machine, Scope::Cgroup, version);
        machine.write("self/cgroup", "4:memory:/x\n");
        unsupported(&machine, Scope::Cgroup, "self/cgroup: not understood");
        machine.write("meminfo", "MemTotal: 1 kB\n");
        unsupported(&machine, Scope::Node, "meminfo: not understood");
    }

    #[test]
    fn a_figure_that_is_not_understood_is_a_failure() {
        let machine = machine();
        machine.write("a.slice/memory.stat", "anon 1\n");
        let outcome = memory(Amount::Share(1), Scope::Cgroup).attempt_in(machine.system());
        assert!(reason(outcome).ends_with("a.slice/memory.stat: not understood"));
        std::fs::remove_file(machine.at("a.slice/memory.max")).unwrap();
        std::fs::create_dir(machine.at("a.slice/memory.max")).unwrap();
        let outcome = memory(Amount::Share(1), Scope::Cgroup).attempt_in(machine.system());
        assert!(reason(outcome).ends_with("a.slice/memory.max: Is a directory"));
    }
}
