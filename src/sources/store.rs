//! The text of the last valid check file, kept in memory that the supervisor and each worker share.
//!
//! A worker that is started again must use the text that was in effect. The file may have changed since, and may be
//! half edited. The memory is a memfd(2). It begins with a header that has the place of the text. A new text is
//! written to the other place first, so that the old one stays if the worker is killed meanwhile.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use super::config::FILE_BYTES_MAX;

/// Where the two places for a text begin.
const PLACES: [u64; 2] = [64, 64 + FILE_BYTES_MAX as u64];
const HEADER_BYTES: usize = 16;

/// The text that is in effect, and the number of its set of checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub generation: u32,
    /// `None`: there is no check file.
    pub text: Option<Vec<u8>>,
}

/// The shared memory.
#[derive(Debug)]
pub struct Store(File);

impl Store {
    /// Empty memory.
    ///
    /// # Errors
    /// If the system has none.
    pub fn new() -> io::Result<Store> {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let memory = memfd_create(c"healthz-checks", MFdFlags::MFD_CLOEXEC)?;
        Ok(Store(File::from(memory)))
    }

    /// The memory that another process has made.
    pub fn from_inherited(fd: OwnedFd) -> Store {
        Store(File::from(fd))
    }

    /// The descriptor, for a process that is started.
    pub fn into_fd(self) -> OwnedFd {
        self.0.into()
    }

    /// Stores a text of at most [`FILE_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// If the text is too long, or the system has no memory.
    pub fn write(&self, stored: &Stored) -> io::Result<()> {
        let text = stored.text.as_deref().unwrap_or_default();
        if text.len() > FILE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let [_, place, ..] = self.header()?;
        let place = match u64::from(place) == 0 {
            true => 1,
            false => 0,
        };
        let at = PLACES.get(place as usize).copied().unwrap_or_default();
        self.0.write_all_at(text, at)?;
        let has_text = u32::from(stored.text.is_some());
        let header = [stored.generation, place, has_text, text.len() as u32];
        let mut bytes = [0; HEADER_BYTES];
        for (to, from) in bytes.chunks_exact_mut(4).zip(header) {
            to.copy_from_slice(&from.to_ne_bytes());
        }
        self.0.write_all_at(&bytes, 0)
    }

    /// The text that was stored last.
    ///
    /// # Errors
    /// If the memory cannot be read.
    pub fn read(&self) -> io::Result<Stored> {
        let [generation, place, has_text, length] = self.header()?;
        let at = PLACES.get(place as usize).copied().unwrap_or_default();
        let mut text = vec![0; (length as usize).min(FILE_BYTES_MAX)];
        self.0.read_exact_at(&mut text, at)?;
        Ok(Stored {
            generation,
            text: (has_text == 1).then_some(text),
        })
    }

    /// Generation, place, whether there is a text, and its length. All zero in empty memory.
    fn header(&self) -> io::Result<[u32; 4]> {
        let mut bytes = [0; HEADER_BYTES];
        if self.0.metadata()?.len() > 0 {
            self.0.read_exact_at(&mut bytes, 0)?;
        }
        let mut header = [0; 4];
        for (to, from) in header.iter_mut().zip(bytes.chunks_exact(4)) {
            *to = u32::from_ne_bytes(from.try_into().unwrap_or_default());
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_last_is_read() {
        let store = Store::new().unwrap();
        assert_eq!(store.read().unwrap(), Stored::default());
        let texts = [
            Some("a = 1"),
            None,
            Some(""),
            Some("[check.a]\ntcp = \"127.0.0.1:1\""),
        ];
        for (text, generation) in texts.into_iter().cycle().take(9).zip(0..) {
            let stored = Stored {
                generation,
                text: text.map(|text| text.as_bytes().to_vec()),
            };
            store.write(&stored).unwrap();
            let other = Store(store.0.try_clone().unwrap());
            assert_eq!(other.read().unwrap(), stored);
        }
    }

    #[test]
    fn a_new_text_leaves_the_one_before_in_its_place() {
        let store = Store::new().unwrap();
        let mut places = Vec::new();
        for generation in 1..=3 {
            let text = Some(b"text".to_vec());
            store.write(&Stored { generation, text }).unwrap();
            places.push(store.header().unwrap()[1]);
        }
        assert_eq!(places, [1, 0, 1]);
    }

    /// A worker that was killed after it wrote a text and before it wrote the header.
    #[test]
    fn a_text_without_its_header_leaves_the_old_one() {
        let store = Store::new().unwrap();
        let stored = Stored {
            generation: 1,
            text: Some(b"old".to_vec()),
        };
        store.write(&stored).unwrap();
        let [_, place, ..] = store.header().unwrap();
        let other = PLACES[1 - place as usize];
        store.0.write_all_at(b"new", other).unwrap();
        assert_eq!(store.read().unwrap(), stored);
    }

    #[test]
    fn a_text_that_is_too_long_is_refused() {
        let store = Store::new().unwrap();
        let text = |length| Stored {
            generation: 1,
            text: Some(vec![b'#'; length]),
        };
        store.write(&text(FILE_BYTES_MAX)).unwrap();
        assert!(store.write(&text(FILE_BYTES_MAX + 1)).is_err());
        assert_eq!(store.read().unwrap(), text(FILE_BYTES_MAX));
    }
}
