//! The kind `pids`: process IDs in use, of the machine or of one process (its threads).
//!
//! A thread uses a number too. The numbers are limited by `kernel.pid_max` and `kernel.threads-max`, and by
//! `pids.max` of the control group and the groups above it (version 2 only).

use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::process::hidden_others;
use super::procfs;
use super::system::{System, below, parse};
use super::usage::Count;
use crate::sources::spec::{Outcome, ProcessTarget, Usage};

impl Usage {
    /// Checks the process IDs once.
    pub fn attempt_pids(&self) -> Outcome {
        self.attempt_pids_in(System::new())
    }

    fn attempt_pids_in(&self, system: System<'_>) -> Outcome {
        let fault = match &self.process {
            None => self.machine_fault(system),
            Some(target) => self.threads_fault(system, target),
        };
        match fault {
            Ok(None) => Outcome::Pass,
            Ok(Some(reason)) | Err(reason) => Outcome::Fail(format!("pids: {reason}")),
        }
    }

    fn machine_fault(&self, system: System<'_>) -> Result<Option<String>, String> {
        let threads = system.parse("loadavg", procfs::thread_count)?;
        let mut counts = machine_limits(system, threads)?;
        counts.extend(group_counts(system, "self")?);
        Ok(counts.iter().find_map(|count| self.fault(count)))
    }

    fn threads_fault(
        &self,
        system: System<'_>,
        target: &ProcessTarget,
    ) -> Result<Option<String>, String> {
        let mut fault = Ok(None);
        let count = target.each(system, &mut |stat| {
            let (pid, threads) = (stat.pid, stat.threads);
            fault = machine_limits(system, threads).and_then(|mut counts| {
                let groups = group_counts(system, &pid.to_string())?;
                counts.extend(groups.into_iter().map(|group| Count {
                    used: threads,
                    ..group
                }));
                Ok(counts.iter().find_map(|count| self.fault(count)))
            });
            match &mut fault {
                Ok(None) => ControlFlow::Continue(()),
                Ok(Some(text)) | Err(text) => {
                    text.insert_str(0, &format!("process {pid}: "));
                    ControlFlow::Break(())
                }
            }
        })?;
        match count {
            0 => Err(format!(
                "{}: does not run{}",
                target.name(),
                hidden_others(system)
            )),
            _ => fault,
        }
    }
}

fn machine_limits(system: System<'_>, used: u64) -> Result<Vec<Count>, String> {
    [
        ("kernel.pid_max", "sys/kernel/pid_max"),
        ("kernel.threads-max", "sys/kernel/threads-max"),
    ]
    .into_iter()
    .map(|(name, path)| {
        Ok(Count {
            used,
            limit: system.parse(path, procfs::number)?,
            name: name.to_owned(),
        })
    })
    .collect()
}

/// The groups of a process that have a limit.
fn group_counts(system: System<'_>, process: &str) -> Result<Vec<Count>, String> {
    // Not there if the kernel has no control groups, and no line of version 2 if only version 1 is in use.
    let text = system
        .read(&format!("{process}/cgroup"))
        .unwrap_or_default();
    let Some(path) = procfs::cgroup(&text) else {
        return Ok(Vec::new());
    };
    let root = system.cgroup;
    let group = below(root, Path::new(OsStr::from_bytes(path)));
    let groups = group
        .ancestors()
        .take_while(|group| group.starts_with(root));
    let counts = groups.map(|group| group_count(root, group));
    counts.filter_map(Result::transpose).collect()
}

fn group_count(root: &Path, group: &Path) -> Result<Option<Count>, String> {
    let path = group.join("pids.max");
    // The root has no limit, nor has a group without the controller.
    match std::fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        _ => {}
    }
    let Some(limit) = parse(&path, procfs::limit)? else {
        return Ok(None);
    };
    let name = group.strip_prefix(root).unwrap_or(group).display();
    Ok(Some(Count {
        used: parse(&group.join("pids.current"), procfs::number)?,
        limit,
        name: format!("control group /{name}"),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Directory, reason};
    use super::*;
    use crate::sources::spec::Amount;

    fn usage(min: Amount, max: Amount, process: Option<ProcessTarget>) -> Usage {
        Usage { process, min, max }
    }

    const TENTH: Amount = Amount::Share(100);
    const ALL: Amount = Amount::Share(1000);

    /// 900 threads; numbers for 1,000 and limits for 5,000; in a group with 100 of 200.
    fn machine() -> Directory {
        let directory = Directory::new();
        directory.write("loadavg", "0.10 0.20 0.30 2/900 4711\n");
        directory.write("sys/kernel/pid_max", "1000\n");
        directory.write("sys/kernel/threads-max", "5000\n");
        directory.write("self/cgroup", "0::/a/b\n");
        directory.write("a/pids.max", "200\n");
        directory.write("a/pids.current", "100\n");
        directory.write("a/b/pids.max", "max\n");
        directory
    }

    #[test]
    fn the_lowest_limit_holds() {
        let machine = machine();
        let attempt = |min, max| usage(min, max, None).attempt_pids_in(machine.system());
        assert_eq!(attempt(TENTH, Amount::Share(900)), Outcome::Pass);
        let text = reason(attempt(TENTH, Amount::Share(899)));
        assert_eq!(
            text,
            "pids: 90.0% of 1000 (kernel.pid_max) used, limit 89.9%"
        );
        let text = reason(attempt(Amount::Absolute(101), ALL));
        assert_eq!(text, "pids: 100 of 1000 (kernel.pid_max) free, needs 101");
        machine.write("a/pids.current", "195");
        let text = reason(attempt(TENTH, ALL));
        assert_eq!(text, "pids: 2.5% of 200 (control group /a) free, needs 10%");
        machine.write("a/pids.max", "max");
        assert_eq!(attempt(TENTH, ALL), Outcome::Pass);
        machine.write("sys/kernel/threads-max", "901");
        let text = reason(attempt(TENTH, ALL));
        assert_eq!(
            text,
            "pids: 0.1% of 901 (kernel.threads-max) free, needs 10%"
        );
    }

    #[test]
    fn without_control_groups_the_machine_counts() {
        let machine = machine();
        machine.write("self/cgroup", "8:pids:/x\n");
        let attempt = || usage(TENTH, ALL, None).attempt_pids_in(machine.system());
        assert_eq!(attempt(), Outcome::Pass);
        std::fs::remove_file(machine.at("self/cgroup")).unwrap();
        assert_eq!(attempt(), Outcome::Pass);
        machine.write("loadavg", "0.10 0.20");
        assert!(reason(attempt()).ends_with("loadavg: not understood"));
    }

    #[test]
    fn threads_of_a_process_are_compared_with_the_limit_of_its_group() {
        let machine = machine();
        let stat = "7 (a) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 3 0 1 0 0";
        machine.write("7/stat", stat);
        machine.write("7/cgroup", "0::/a\n");
        let target = Some(ProcessTarget::PidFile(machine.write("pid", "7")));
        let attempt = |max| usage(Amount::Absolute(0), max, target.clone());
        let one = attempt(Amount::Share(10)).attempt_pids_in(machine.system());
        let text = "pids: process 7: 1.5% of 200 (control group /a) used, limit 1%";
        assert_eq!(reason(one), text);
        let two = attempt(Amount::Share(15)).attempt_pids_in(machine.system());
        assert_eq!(two, Outcome::Pass);
    }

    #[test]
    fn a_group_that_cannot_be_read_is_a_failure() {
        let machine = machine();
        machine.write("self/cgroup", "0::/loadavg\n");
        let text = reason(usage(TENTH, ALL, None).attempt_pids_in(machine.system()));
        assert!(
            text.ends_with("/loadavg/pids.max: Not a directory"),
            "{text}"
        );
    }

    #[test]
    fn this_machine_has_process_numbers() {
        let attempt = |min| usage(min, ALL, None).attempt_pids();
        assert_eq!(attempt(Amount::Absolute(1)), Outcome::Pass);
        assert!(reason(attempt(ALL)).ends_with("free, needs 100%"));
    }

    #[test]
    fn threads_of_a_process_are_counted() {
        let directory = Directory::new();
        let path = directory.write("pid", std::process::id().to_string());
        let target = ProcessTarget::PidFile(path);
        let attempt = |max| usage(Amount::Absolute(0), max, Some(target.clone())).attempt_pids();
        assert_eq!(attempt(Amount::Absolute(10_000)), Outcome::Pass);
        let text = reason(attempt(Amount::Absolute(0)));
        let start = format!("pids: process {}: ", std::process::id());
        assert!(
            text.starts_with(&start) && text.ends_with("used, limit 0"),
            "{text}"
        );
        let gone = Some(ProcessTarget::Exe("no-such-program".into()));
        let text = reason(usage(TENTH, ALL, gone).attempt_pids());
        assert_eq!(text, "pids: exe:no-such-program: does not run");
    }
}
