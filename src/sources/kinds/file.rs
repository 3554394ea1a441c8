//! The kind `file`: a file must exist. With options, it must also have been modified recently, have a least size, or
//! contain a text.
//!
//! Without the option `contains` the file is not opened.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::figures::{bytes, exact_bytes, exact_time, time};
use super::system::{failed, open, read_start};
use crate::sources::spec::{File, Outcome};

/// Bytes that `contains` searches.
const CONTENT_BYTES_MAX: usize = 64 * 1024;

/// A file that was modified so far in the future fails `max-age`: it would count as new until then. Less is
/// normal between machines that share a file system.
const FUTURE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

impl File {
    /// Checks the file once. Can block as long as its file system does.
    pub fn attempt(&self) -> Outcome {
        match self.fault(SystemTime::now()) {
            None => Outcome::Pass,
            Some(reason) => Outcome::Fail(reason),
        }
    }

    fn fault(&self, now: SystemTime) -> Option<String> {
        let metadata = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) => return Some(failed(&self.path, &error)),
        };
        let path = self.path.display();
        let age = self.max_age.zip(metadata.modified().ok());
        if let Some(reason) = age.and_then(|(limit, modified)| age_fault(now, modified, limit)) {
            return Some(format!("{path}: {reason}"));
        }
        if self.min_size.is_none() && self.contains.is_none() {
            return None;
        }
        if !metadata.is_file() {
            return Some(format!("{path}: not a regular file"));
        }
        if let Some(min) = self.min_size.filter(|min| metadata.len() < *min) {
            let (size, min) = (bytes(metadata.len()), exact_bytes(min));
            return Some(format!("{path}: {size}, needs {min}"));
        }
        content_fault(&self.path, self.contains.as_deref()?)
    }
}

fn age_fault(now: SystemTime, modified: SystemTime, limit: Duration) -> Option<String> {
    match now.duration_since(modified) {
        Ok(age) => (age > limit).then(|| {
            let (age, limit) = (time(age), exact_time(limit));
            format!("modified {age} ago, limit {limit}")
        }),
        Err(error) => {
            let ahead = error.duration();
            (ahead > FUTURE_MAX).then(|| format!("modified {} in the future", time(ahead)))
        }
    }
}

fn content_fault(path: &Path, wanted: &str) -> Option<String> {
    // The file may be another one than a moment ago, so its type is looked at again.
    let content = open(path).and_then(|file| match file.metadata()?.is_file() {
        true => read_start(&file, CONTENT_BYTES_MAX).map(Some),
        false => Ok(None),
    });
    let display = path.display();
    match content {
        Err(error) => Some(failed(path, &error)),
        Ok(None) => Some(format!("{display}: not a regular file")),
        Ok(Some(content)) if contains(&content, wanted.as_bytes()) => None,
        Ok(Some(_)) => Some(format!("{display}: does not contain {wanted:?}")),
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::testing::{Directory, reason};
    use super::*;

    fn file(path: &Path) -> File {
        File {
            path: path.into(),
            max_age: None,
            contains: None,
            min_size: None,
        }
    }

    #[test]
    fn a_file_must_exist() {
        let directory = Directory::new();
        let path = directory.at("x");
        let missing = format!("{}: does not exist", path.display());
        assert_eq!(reason(file(&path).attempt()), missing);
        // A symbolic link without a target counts as missing.
        std::os::unix::fs::symlink(directory.at("y"), &path).unwrap();
        assert_eq!(reason(file(&path).attempt()), missing);
        directory.write("y", "");
        assert_eq!(file(&path).attempt(), Outcome::Pass);
        let below = path.join("z");
        let reason = reason(file(&below).attempt());
        assert_eq!(reason, format!("{}: Not a directory", below.display()));
    }

    #[test]
    fn an_old_file_fails() {
        let directory = Directory::new();
        let path = directory.write("x", "");
        let open = fs::File::options().write(true).open(&path).unwrap();
        let spec = File {
            max_age: Some(Duration::from_secs(26 * 3_600)),
            ..file(&path)
        };
        assert_eq!(spec.attempt(), Outcome::Pass);
        let hours = |hours: u64| Duration::from_secs(hours * 3_600);
        open.set_modified(SystemTime::now() - hours(27)).unwrap();
        let text = reason(spec.attempt());
        let end = ": modified 27 h 1 min ago, limit 26 h";
        assert!(text.ends_with(end), "{text}");
        // A clock that is a little ahead is normal; a time far ahead hides that nothing is written.
        open.set_modified(SystemTime::now() + hours(23)).unwrap();
        assert_eq!(spec.attempt(), Outcome::Pass);
        open.set_modified(SystemTime::now() + hours(72)).unwrap();
        let text = reason(spec.attempt());
        assert!(text.ends_with(": modified 3 d in the future"), "{text}");
        assert_eq!(file(&path).attempt(), Outcome::Pass);
    }

    #[test]
    fn an_age_equal_to_the_limit_passes() {
        let (now, limit) = (SystemTime::UNIX_EPOCH + FUTURE_MAX, Duration::from_secs(10));
        assert_eq!(age_fault(now, now - limit, limit), None);
        let text = age_fault(now, now - limit - Duration::from_nanos(1), limit);
        assert_eq!(text.unwrap(), "modified 11 s ago, limit 10 s");
        assert_eq!(age_fault(now, now + FUTURE_MAX, limit), None);
        assert!(age_fault(now, now + FUTURE_MAX + limit, limit).is_some());
    }

    #[test]
    fn a_short_file_fails() {
        let directory = Directory::new();
        let path = directory.write("x", "12345");
        let spec = |min| File {
            min_size: Some(min),
            ..file(&path)
        };
        assert_eq!(spec(5).attempt(), Outcome::Pass);
        let text = reason(spec(2048).attempt());
        assert_eq!(text, format!("{}: 5 B, needs 2 KiB", path.display()));
    }

    #[test]
    fn the_text_must_be_in_the_first_64_kib() {
        let directory = Directory::new();
        let padding = "-".repeat(CONTENT_BYTES_MAX - 4);
        let path = directory.write("x", format!("{padding}good"));
        let spec = File {
            contains: Some("good".to_owned()),
            ..file(&path)
        };
        assert_eq!(spec.attempt(), Outcome::Pass);
        directory.write("x", format!("{padding}-good"));
        let text = reason(spec.attempt());
        assert_eq!(
            text,
            format!("{}: does not contain \"good\"", path.display())
        );
        directory.write("x", "");
        assert_ne!(spec.attempt(), Outcome::Pass);
        directory.write("x", b"\xff good \xff");
        assert_eq!(spec.attempt(), Outcome::Pass);
    }

    #[test]
    fn a_fifo_without_a_writer_does_not_block() {
        let directory = Directory::new();
        let path = directory.at("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let spec = File {
            contains: Some("x".to_owned()),
            ..file(&path)
        };
        let wanted = format!("{}: not a regular file", path.display());
        assert_eq!(reason(spec.attempt()), wanted);
        // If the type changes between the two looks, the open does not block either.
        assert_eq!(content_fault(&path, "x"), Some(wanted));
        // It exists, and no option needs more.
        assert_eq!(file(&path).attempt(), Outcome::Pass);
        let spec = File {
            min_size: Some(1),
            ..file(Path::new("/"))
        };
        assert_eq!(reason(spec.attempt()), "/: not a regular file");
    }
}
