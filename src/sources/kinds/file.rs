//! The kind `file`: a file must exist, and be young, long enough or contain a text.
//!
//! Without the option `contains` the file is not opened.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::figures::{bytes, exact_bytes, exact_time, time};
use super::system::{failed, open, read_start};
use crate::sources::spec::{File, Outcome};

/// `contains` looks at so many bytes.
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

    /// A file can always be missing.
    pub fn never_fails(&self) -> Option<&'static str> {
        None
    }

    fn fault(&self, now: SystemTime) -> Option<String> {
        let metadata = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) => return Some(failed(&self.path, &error)),
        };
        let path = self.path.display();
        if let Some(limit) = self.max_age
            && let Ok(modified) = metadata.modified()
            && let Some(reason) = age_fault(now, modified, limit)
        {
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
