//! The kind `disk`: space and inodes that users may still take on a file system.
//!
//! What is reserved for root counts neither as free nor as a part of the whole, as in df(1).

use nix::sys::statvfs::{Statvfs, statvfs};

use super::figures::{self, Unit, Words, shortage};
use super::system::failed;
use crate::sources::spec::{Disk, Outcome};

impl Disk {
    /// Checks the file system once. Can block as long as it does.
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

    /// Why no state of the disk could fail this.
    pub fn never_fails(&self) -> Option<&'static str> {
        let is_zero = figures::is_zero(self.min) && figures::is_zero(self.min_inodes);
        is_zero.then_some("min and min-inodes are 0")
    }
}

/// Bytes that users may still take, and those together with the used ones.
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
    let free = u64::from(figures.files_available());
    let whole = u64::from(figures.files());
    let used = whole.saturating_sub(figures.files_free().into());
    (whole > 0).then(|| (free, free.saturating_add(used)))
}
