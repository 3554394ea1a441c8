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

    fn attempt_in(&self, system: System<'_>) -> Outcome {
        let list = system.proc.join("self/mountinfo");
        // The last mount at a path hides the others.
        let mut is_writable = None;
        let read = lines(&list, |line| {
            match procfs::mount(line) {
                Some(mount) if Path::new(OsStr::from_bytes(&mount.point)) == self.path => {
                    is_writable = Some(mount.is_writable);
                }
                _ => {}
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::testing::{Directory, in_own_process, reason};
    use super::*;

    fn mount(path: &str, mounted: bool, rw: bool) -> Mount {
        Mount {
            path: path.into(),
            mounted,
            rw,
        }
    }

    const LIST: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
30 22 0:26 / /data rw - tmpfs tmpfs rw
31 30 8:17 / /data ro,relatime shared:3 master:4 - ext4 /dev/sdb1 rw
32 22 8:18 / /media/my\\040disk rw,nosuid - vfat /dev/sdc1 ro,uid=0
garbage
";

    #[test]
    fn the_last_mount_at_a_path_counts() {
        let directory = Directory::new();
        directory.write("self/mountinfo", LIST);
        let attempt = |path, mounted, rw| mount(path, mounted, rw).attempt_in(directory.system());
        assert_eq!(attempt("/", true, true), Outcome::Pass);
        assert_eq!(attempt("/data", true, false), Outcome::Pass);
        // A slash at the end does not matter.
        assert_eq!(attempt("/data/", true, false), Outcome::Pass);
        let text = reason(attempt("/data", true, true));
        assert_eq!(text, "/data: mounted read-only, must be writable");
        // The mount is writable, its file system is not.
        let text = reason(attempt("/media/my disk", true, true));
        assert_eq!(text, "/media/my disk: mounted read-only, must be writable");
        let text = reason(attempt("/", true, false));
        assert_eq!(text, "/: mounted writable, must be read-only");
        assert_eq!(reason(attempt("/dat", true, true)), "/dat: not mounted");
        assert_eq!(attempt("/dat", false, true), Outcome::Pass);
        let text = reason(attempt("/data", false, true));
        assert_eq!(text, "/data: mounted, must not be");
    }

    #[test]
    fn a_list_that_is_missing_is_a_reason() {
        let directory = Directory::new();
        let text = reason(mount("/", true, true).attempt_in(directory.system()));
        assert!(text.ends_with("self/mountinfo: does not exist"), "{text}");
    }

    #[test]
    fn a_mount_comes_changes_and_goes() {
        let test = "mount::tests::a_mount_comes_changes_and_goes";
        let unshare = ["unshare", "--mount", "--propagation", "private"];
        if !in_own_process(test, &unshare) {
            return;
        }
        use nix::mount::{MsFlags, mount as mount_at, umount};
        let directory = Directory::new();
        let root = directory.at("a b\\c");
        fs::create_dir(&root).unwrap();
        let path = root.to_str().unwrap();
        let text = reason(mount(path, true, true).attempt());
        assert_eq!(text, format!("{path}: not mounted"));
        let none = None::<&str>;
        mount_at(Some("x"), &root, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        assert_eq!(mount(path, true, true).attempt(), Outcome::Pass);
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount_at(none, &root, none, read_only, none).unwrap();
        assert_eq!(mount(path, true, false).attempt(), Outcome::Pass);
        // Above it, another one.
        mount_at(Some("y"), &root, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        assert_eq!(mount(path, true, true).attempt(), Outcome::Pass);
        umount(&root).unwrap();
        assert_eq!(mount(path, true, false).attempt(), Outcome::Pass);
        umount(&root).unwrap();
        assert_eq!(mount(path, false, true).attempt(), Outcome::Pass);
    }
}
