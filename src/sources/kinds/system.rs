//! Bounded reads of /proc, /sys and other files, and the errors of such reads in words.
//!
//! The roots are arguments, so that tests can use a directory of their own. Used by the kinds.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::procfs::{self, Stat};

/// Most bytes that are read of a small file. /proc/PID/stat, the longest lists of limits and memory.stat are
/// shorter.
pub const FILE_BYTES_MAX: usize = 64 * 1024;

/// The first buffer of a read.
const READ_BYTES: usize = 4096;

/// Most bytes that are read of a file with a line for each mount, user or group.
const LINES_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Where the kernel shows its figures.
#[derive(Clone, Copy, Debug)]
pub struct System<'a> {
    pub proc: &'a Path,
    pub cgroup: &'a Path,
    pub thermal: &'a Path,
}

impl System<'static> {
    /// The usual places.
    pub fn new() -> Self {
        System {
            proc: Path::new("/proc"),
            cgroup: Path::new("/sys/fs/cgroup"),
            thermal: Path::new("/sys/class/thermal"),
        }
    }
}

impl System<'_> {
    /// Reads a file of /proc, at most [`FILE_BYTES_MAX`].
    pub fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        read(&self.proc.join(name), FILE_BYTES_MAX)
    }

    /// Reads a file of /proc and parses it; the error is a reason.
    pub fn parse<T>(
        &self,
        name: &str,
        parser: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<T, String> {
        parse(&self.proc.join(name), parser)
    }

    /// Calls `each` for the number of every process until it breaks.
    ///
    /// # Errors
    /// If the list of processes cannot be read.
    pub fn processes(&self, each: &mut dyn FnMut(i32) -> ControlFlow<()>) -> io::Result<()> {
        for entry in fs::read_dir(self.proc)? {
            let pid = procfs::pid(entry?.file_name().as_encoded_bytes());
            if pid.is_some_and(|pid| each(pid).is_break()) {
                break;
            }
        }
        Ok(())
    }

    /// Calls `act` with the state of process `pid`; `None` if there is no such process.
    pub fn process<T>(&self, pid: i32, act: impl FnOnce(&Stat<'_>) -> T) -> Option<T> {
        let text = self.read(&format!("{pid}/stat")).ok()?;
        procfs::stat(&text).map(|stat| act(&stat))
    }
}

/// Reads a file and parses it; the error is a reason that begins with the path.
pub fn parse<T>(path: &Path, parser: impl FnOnce(&[u8]) -> Option<T>) -> Result<T, String> {
    let text = read(path, FILE_BYTES_MAX).map_err(|error| failed(path, &error))?;
    parser(&text).ok_or_else(|| format!("{}: not understood", path.display()))
}

/// Reads the first bytes of a file. A FIFO or a device does not block the open.
#[inline(never)]
pub fn read(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    read_start(&open(path)?, bytes_max)
}

/// Reads the first bytes of an open file.
pub fn read_start(file: &File, bytes_max: usize) -> io::Result<Vec<u8>> {
    // Most files of /proc fit, so one call reads them as they were at one moment.
    let mut text = Vec::with_capacity(bytes_max.min(READ_BYTES));
    file.take(bytes_max as u64).read_to_end(&mut text)?;
    Ok(text)
}

/// Opens for reading. The open of a FIFO does not wait for a writer, and a terminal is not taken over.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

/// Calls `each` with every line of a file, without its line feed, until it breaks.
pub fn lines(path: &Path, mut each: impl FnMut(&[u8]) -> ControlFlow<()>) -> io::Result<()> {
    let mut file = BufReader::new(open(path)?.take(LINES_BYTES_MAX));
    let mut line = Vec::new();
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if each(line.strip_suffix(b"\n").unwrap_or(&line)).is_break() {
            return Ok(());
        }
    }
}

/// The reason for an error at `path`: `/run/x: does not exist`.
// Most checks call this and `read`, only once a period or for an error: copies of both take 5 KiB.
#[inline(never)]
pub fn failed(path: &Path, error: &io::Error) -> String {
    format!("{}: {}", path.display(), words(error))
}

/// An error in words, without its number.
pub fn words(error: &io::Error) -> String {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::NotFound, _) => "does not exist".to_owned(),
        (io::ErrorKind::PermissionDenied, _) => "permission denied".to_owned(),
        (_, Some(code)) => Errno::from_raw(code).desc().to_owned(),
        (_, None) => error.to_string(),
    }
}

/// `path` below `root`, also if it begins with a slash. Parts that lead out of `root` are left out.
pub fn below(root: &Path, path: &Path) -> PathBuf {
    use std::path::Component;
    let mut joined = root.to_path_buf();
    for part in path.components() {
        if let Component::Normal(name) = part {
            joined.push(name);
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::super::testing::Directory;
    use super::*;

    #[test]
    fn reads_are_bounded() {
        let directory = Directory::new();
        let path = directory.write("x", [b'1'; 100]);
        assert_eq!(read(&path, 10).unwrap(), [b'1'; 10]);
        assert_eq!(read(&path, 1000).unwrap(), [b'1'; 100]);
        assert_eq!(read(Path::new("/dev/zero"), 5000).unwrap(), [0; 5000]);
    }

    #[test]
    fn lines_come_one_by_one_until_a_break() {
        let directory = Directory::new();
        let path = directory.write("x", "a\n\nbc");
        let collect = |max| {
            let mut found = Vec::new();
            let each = |line: &[u8]| {
                found.push(String::from_utf8(line.to_vec()).unwrap());
                match found.len() < max {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            };
            lines(&path, each).unwrap();
            found
        };
        assert_eq!(collect(10), ["a", "", "bc"]);
        assert_eq!(collect(1), ["a"]);
    }

    #[test]
    fn this_process_is_in_the_list() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut is_found = false;
        let mut each = |pid| {
            is_found |= pid == own;
            ControlFlow::Continue(())
        };
        System::new().processes(&mut each).unwrap();
        assert!(is_found);
        let parent = System::new().process(own, |stat| stat.parent).unwrap();
        assert_eq!(parent, nix::unistd::getppid().as_raw());
        assert_eq!(System::new().process(i32::MAX, |_| ()), None);
    }

    #[test]
    fn a_path_stays_below_its_root() {
        let root = Path::new("/sys/fs/cgroup");
        assert_eq!(below(root, Path::new("/../a/./b/..")), root.join("a/b"));
        assert_eq!(below(root, Path::new("/")), root);
    }

    #[test]
    fn errors_are_words() {
        let words = |code| words(&io::Error::from_raw_os_error(code));
        assert_eq!(words(libc::ENOENT), "does not exist");
        assert_eq!(words(libc::EACCES), "permission denied");
        assert_eq!(words(libc::EIO), "I/O error");
    }
}
