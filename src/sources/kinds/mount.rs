//! The kind `mount`: a mount point must be mounted, writable or read-only.
//!
//! Reads the list of mounts only, so a file system that does not answer does not block it. The path is
//! compared with the list as it is; symbolic links are not followed.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::procfs;
use super::system::{System, failed, lines};
use crate::sources::spec::{Mount, Outcome};

impl Mount {
    /// Checks the list of mounts once.
    pub fn attempt(&self) -> Outcome {
        self.attempt_in(System::new())
    }

    /// What is mounted can always be unmounted, and what is not can be mounted.
    pub fn never_fails(&self) -> Option<&'static str> {
        None
    }

    fn attempt_in(&self, system: System<'_>) -> Outcome {
        let list = system.proc.join("self/mountinfo");
        // The last mount at a path hides the others.
        let mut is_writable = None;
        let read = lines(&list, |line| {
            if let Some(mount) = procfs::mount(line)
                && Path::new(OsStr::from_bytes(&mount.point)) == self.path
            {
                is_writable = Some(mount.is_writable);
            }
            ControlFlow::Continue(())
        });
        if let Err(error) = read {
            return Outcome::Fail(failed(&list, &error));
        }
        let fault = match (self.mounted, is_writable, self.rw) {
            (true, None, _) => "not mounted",
            (false, Some(_), _) => "mounted, must not be",
            (true, Some(false), true) => "mounted read-only, must be writable",
            (true, Some(true), false) => "mounted writable, must be read-only",
            _ => return Outcome::Pass,
        };
        Outcome::Fail(format!("{}: {fault}", self.path.display()))
    }
}
