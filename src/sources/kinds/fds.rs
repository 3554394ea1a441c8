//! The kind `fds`: file descriptors in use, of the machine or of a process.

use std::fs;
use std::ops::ControlFlow;

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
            0 => Err(format!("{}: does not run", target.name())),
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
