//! The kind `fds`: open files of the machine (/proc/sys/fs/file-nr), or file descriptors of a process.

use std::fs;
use std::ops::ControlFlow;

use super::process::hidden_others;
use super::procfs;
use super::system::{System, failed};
use super::usage::Count;
use crate::sources::spec::{Outcome, ProcessTarget, Usage};

impl Usage {
    /// Checks the descriptors once.
    pub fn attempt_fds(&self) -> Outcome {
        self.attempt_fds_in(System::new())
    }

    fn attempt_fds_in(&self, system: System<'_>) -> Outcome {
        let fault = match &self.process {
            None => system
                .parse("sys/fs/file-nr", procfs::file_nr)
                .map(|(used, limit)| {
                    self.fault(&Count {
                        used,
                        limit,
                        name: "fs.file-max".to_owned(),
                    })
                }),
            Some(target) => self.process_fault(system, target),
        };
        match fault {
            Ok(None) => Outcome::Pass,
            Ok(Some(reason)) | Err(reason) => Outcome::Fail(format!("fds: {reason}")),
        }
    }

    fn process_fault(
        &self,
        system: System<'_>,
        target: &ProcessTarget,
    ) -> Result<Option<String>, String> {
        let mut fault = Ok(None);
        let count = target.each(system, &mut |stat| {
            fault = count(system, stat.pid).map(|count| {
                let reason = self.fault(&count?)?;
                Some(format!("process {}: {reason}", stat.pid))
            });
            match fault {
                Ok(None) => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
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

/// The descriptors of a process; `None` if it has no limit.
fn count(system: System<'_>, pid: i32) -> Result<Option<Count>, String> {
    let Some(limit) = system.parse(&format!("{pid}/limits"), procfs::open_files_limit)? else {
        return Ok(None);
    };
    let directory = system.proc.join(format!("{pid}/fd"));
    let failed = |error| failed(&directory, &error);
    // Since Linux 6.2 the size is the number of descriptors, also of processes of other users.
    let used = match fs::metadata(&directory).map_err(failed)?.len() {
        0 => fs::read_dir(&directory).map_err(failed)?.count() as u64,
        used => used,
    };
    Ok(Some(Count {
        used,
        limit,
        name: "RLIMIT_NOFILE".to_owned(),
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

    const ALL: Amount = Amount::Share(1000);

    #[test]
    fn descriptors_of_the_machine_are_compared() {
        let directory = Directory::new();
        directory.write("sys/fs/file-nr", "950\t0\t1000\n");
        let attempt = |min, max| usage(min, max, None).attempt_fds_in(directory.system());
        assert_eq!(attempt(Amount::Share(50), ALL), Outcome::Pass);
        let text = reason(attempt(Amount::Share(100), ALL));
        assert_eq!(text, "fds: 5.0% of 1000 (fs.file-max) free, needs 10%");
        let text = reason(attempt(Amount::Absolute(0), Amount::Absolute(900)));
        assert_eq!(text, "fds: 950 of 1000 (fs.file-max) used, limit 900");
        directory.write("sys/fs/file-nr", "950\n");
        assert!(reason(attempt(ALL, ALL)).ends_with("file-nr: not understood"));
        let real = usage(Amount::Absolute(1), ALL, None);
        assert_eq!(real.attempt_fds(), Outcome::Pass);
    }

    #[test]
    fn descriptors_of_a_process_are_compared() {
        let directory = Directory::new();
        let path = directory.write("pid", std::process::id().to_string());
        let target = Some(ProcessTarget::PidFile(path));
        let attempt = |max| usage(Amount::Absolute(0), max, target.clone()).attempt_fds();
        assert_eq!(attempt(Amount::Absolute(100_000)), Outcome::Pass);
        // At least the standard streams.
        let text = reason(attempt(Amount::Absolute(2)));
        let start = format!("fds: process {}: ", std::process::id());
        let end = "(RLIMIT_NOFILE) used, limit 2";
        assert!(text.starts_with(&start) && text.ends_with(end), "{text}");
    }

    #[test]
    fn every_process_of_a_program_counts() {
        for (first, second) in [(1_000_000, 1), (1, 1_000_000)] {
            let directory = Directory::new();
            for (pid, limit) in [(7, first), (8, second)] {
                let stat = format!("{pid} (a) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 1 0 0");
                directory.write(&format!("{pid}/stat"), stat);
                let limits = format!("Max open files  {limit}  {limit}  files\n");
                directory.write(&format!("{pid}/limits"), limits);
                directory.write(&format!("{pid}/fd/0"), "");
                std::os::unix::fs::symlink("/bin/a", directory.at(&format!("{pid}/exe"))).unwrap();
            }
            let target = Some(ProcessTarget::Exe("a".into()));
            let usage = usage(Amount::Absolute(1), Amount::Absolute(1_000_000), target);
            let text = reason(usage.attempt_fds_in(directory.system()));
            let end = " of 1 (RLIMIT_NOFILE) free, needs 1";
            assert!(text.ends_with(end), "{text}");
        }
    }

    #[test]
    fn old_kernels_have_a_list_of_descriptors() {
        let directory = Directory::new();
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files  10  20  files\n";
        directory.write("7/limits", limits);
        for number in 0..3 {
            directory.write(&format!("7/fd/{number}"), "");
        }
        let counted = count(directory.system(), 7).unwrap().unwrap();
        assert_eq!(counted.limit, 10);
        // Directories of other file systems can have a size with another meaning.
        assert!(counted.used >= 3);
        directory.write("7/limits", "Max open files  unlimited  unlimited  files\n");
        assert_eq!(count(directory.system(), 7), Ok(None));
        assert!(count(directory.system(), 8).is_err());
    }

    #[test]
    fn a_process_that_does_not_run_is_a_failure() {
        let gone = Some(ProcessTarget::Exe("no-such-program".into()));
        let text = reason(usage(ALL, ALL, gone).attempt_fds());
        assert_eq!(text, "fds: exe:no-such-program: does not run");
    }
}
