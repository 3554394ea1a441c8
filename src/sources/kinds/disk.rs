//! The kind `disk`: free space and free inodes of a file system, for users other than root.
//!
//! The part that is reserved for root counts neither as free nor as a part of the whole, as in df(1).

use nix::sys::statvfs::{Statvfs, statvfs};

use super::figures::{Unit, Words, shortage};
use super::system::failed;
use crate::sources::spec::{Disk, Outcome};

impl Disk {
    /// Checks the file system once. Blocks as long as the file system does not answer.
    pub fn attempt(&self) -> Outcome {
        let figures = match statvfs(&self.path) {
            Ok(figures) => figures,
            Err(error) => return Outcome::Fail(failed(&self.path, &error.into())),
        };
        let path = self.path.display();
        let (free, whole) = space(&figures);
        if whole == 0 {
            return Outcome::Unsupported(format!("{path}: its file system has no size"));
        }
        let bytes = Words {
            unit: Unit::Bytes,
            of: "",
            things: "",
            state: "free",
        };
        let inodes = Words {
            unit: Unit::Count,
            of: " of inodes",
            things: " inodes",
            state: "free",
        };
        let fault = shortage(free, whole, self.min, bytes).or_else(|| {
            let (free, whole) = self::inodes(&figures)?;
            shortage(free, whole, self.min_inodes, inodes)
        });
        match fault {
            None => Outcome::Pass,
            Some(reason) => Outcome::Fail(format!("{path}: {reason}")),
        }
    }
}

/// The bytes that are free for users, and the sum of these and the used ones.
#[allow(clippy::useless_conversion, reason = "32 bits wide on some systems")]
fn space(figures: &Statvfs) -> (u64, u64) {
    let block = u64::from(figures.fragment_size());
    let free = u64::from(figures.blocks_available());
    let used = u64::from(figures.blocks()).saturating_sub(figures.blocks_free().into());
    let bytes = |blocks: u64| blocks.saturating_mul(block);
    (bytes(free), bytes(free.saturating_add(used)))
}

/// The same in inodes; `None` if the file system does not count them (btrfs, vfat).
#[allow(clippy::useless_conversion, reason = "32 bits wide on some systems")]
fn inodes(figures: &Statvfs) -> Option<(u64, u64)> {
    let [whole, unused, free] = [
        u64::from(figures.files()),
        u64::from(figures.files_free()),
        u64::from(figures.files_available()),
    ];
    counted(whole, unused, free)
}

fn counted(whole: u64, unused: u64, free: u64) -> Option<(u64, u64)> {
    let used = whole.saturating_sub(unused);
    (whole > 0).then(|| (free, free.saturating_add(used)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::{env, fs};

    use super::super::testing::{Directory, in_own_process, reason};
    use super::*;
    use crate::sources::spec::Amount;

    fn disk(path: impl AsRef<Path>, min: Amount, min_inodes: Amount) -> Disk {
        Disk {
            path: path.as_ref().into(),
            min,
            min_inodes,
        }
    }

    const NONE: Amount = Amount::Share(0);

    #[test]
    fn a_file_system_has_a_size_and_a_path_exists() {
        let path = env::temp_dir();
        let zero = Amount::Absolute(0);
        assert_eq!(disk(&path, zero, zero).attempt(), Outcome::Pass);
        let all = Amount::Absolute(u64::MAX);
        let text = reason(disk(&path, all, zero).attempt());
        let (start, end) = (
            format!("{}: ", path.display()),
            " free, needs 18446744073709551615 B",
        );
        assert!(text.starts_with(&start) && text.ends_with(end), "{text}");
        let text = reason(disk("/missing/x", zero, zero).attempt());
        assert_eq!(text, "/missing/x: does not exist");
        let outcome = disk("/proc", Amount::Share(100), zero).attempt();
        let none = "/proc: its file system has no size".to_owned();
        assert_eq!(outcome, Outcome::Unsupported(none));
    }

    #[test]
    fn inodes_for_root_are_no_part_of_the_whole() {
        assert_eq!(counted(100, 30, 20), Some((20, 90)));
        assert_eq!(counted(0, 0, 0), None);
    }

    #[test]
    fn a_full_file_system_fails() {
        let test = "disk::tests::a_full_file_system_fails";
        let unshare = ["unshare", "--mount", "--propagation", "private"];
        if !in_own_process(test, &unshare) {
            return;
        }
        let directory = Directory::new();
        let root = directory.at("small");
        fs::create_dir(&root).unwrap();
        let mount = || {
            let options = Some("size=1m,nr_inodes=100");
            let flags = nix::mount::MsFlags::empty();
            nix::mount::mount(Some("tmpfs"), &root, Some("tmpfs"), flags, options).unwrap();
        };
        mount();
        let path = root.display();
        let (share, size) = (Amount::Share(100), Amount::Absolute(512 << 10));
        assert_eq!(disk(&root, share, share).attempt(), Outcome::Pass);
        assert_eq!(disk(&root, size, NONE).attempt(), Outcome::Pass);
        fs::write(root.join("big"), vec![1; 1000 << 10]).unwrap();
        let text = reason(disk(&root, share, share).attempt());
        assert_eq!(text, format!("{path}: 2.3% free, needs 10%"));
        let text = reason(disk(&root, size, NONE).attempt());
        assert_eq!(text, format!("{path}: 24 KiB free, needs 512 KiB"));
        fs::remove_file(root.join("big")).unwrap();
        assert_eq!(disk(&root, share, share).attempt(), Outcome::Pass);
        for number in 0..98 {
            fs::write(root.join(number.to_string()), "").unwrap();
        }
        let text = reason(disk(&root, share, Amount::Share(50)).attempt());
        assert_eq!(text, format!("{path}: 1.0% of inodes free, needs 5%"));
        let text = reason(disk(&root, share, Amount::Absolute(2)).attempt());
        assert_eq!(text, format!("{path}: 1 inodes free, needs 2"));
        assert_eq!(
            disk(&root, share, Amount::Absolute(1)).attempt(),
            Outcome::Pass
        );
        assert_eq!(disk(&root, share, NONE).attempt(), Outcome::Pass);
        nix::mount::umount(&root).unwrap();
    }
}
