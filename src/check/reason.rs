//! A fixed-size text that one writer replaces while any number of readers copy it, without locks.
//!
//! Knows nothing of checks. [`Check`](super::Check) has one for the reason of its failure.
//!
//! There are two slots and a version, whose lowest bit selects the slot to read. A writer fills the
//! other slot and then increments the version. If a writer is interrupted halfway, readers continue
//! with the old text and never wait. If a replacement finishes during a copy, the reader sees that the
//! version has changed, and copies again: the next replacement fills the slot that it was reading. The
//! number of attempts is bounded, because a request must not wait for a writer.
//!
//! A try-lock admits one writer at a time. A second writer cannot wait: it may be a signal handler that
//! has interrupted the first one. [`Reason::replace`] returns [`Busy`] to it.

#[cfg(not(loom))]
use crate::limits::REASON_BYTES_MAX;

use core::fmt::{self, Write};

use super::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// Atomic integers in a slot: the first byte is the length, the text follows. Loom explores every
/// interleaving of every access, so under loom there are only two, enough for a torn text.
#[cfg(not(loom))]
const WORDS: usize = (1 + REASON_BYTES_MAX).div_ceil(8);
#[cfg(loom)]
const WORDS: usize = 2;

#[cfg(not(loom))]
const _: () = assert!(WORDS * 8 - 1 == REASON_BYTES_MAX);

/// Attempts to copy before giving up. An attempt fails if a replacement finishes during the copy of 256
/// bytes, so eight failures in a row mean a writer that does nothing else.
const READ_ATTEMPTS_MAX: usize = 8;

/// Digits of the largest number of seconds.
const SECONDS_DIGITS_MAX: usize = u64::MAX.ilog10() as usize + 1;

struct Slot([AtomicU64; WORDS]);

/// The reason of a check's failure; see the [module](self).
pub(crate) struct Reason {
    /// Number of finished replacements; the lowest bit is the slot with the newest text.
    version: AtomicU32,
    writing: AtomicBool,
    slots: [Slot; 2],
}

/// A copy of the reason of a check's failure.
#[derive(Clone, Copy)]
pub struct ReasonText {
    bytes: [u8; WORDS * 8],
}

/// Another writer was replacing the text; the new text was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy;

impl Reason {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Reason {
            version: AtomicU32::new(0),
            writing: AtomicBool::new(false),
            slots: [const { Slot([const { AtomicU64::new(0) }; WORDS]) }; 2],
        }
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        let slot = || Slot(core::array::from_fn(|_| AtomicU64::new(0)));
        Reason {
            version: AtomicU32::new(0),
            writing: AtomicBool::new(false),
            slots: [slot(), slot()],
        }
    }

    /// Replaces the text, cut to `REASON_BYTES_MAX` bytes at a character boundary.
    pub(crate) fn replace(&self, text: &str) -> Result<(), Busy> {
        // Acquire: pairs with the release at the end, so that this writer sees the version and the
        // slots of the last one.
        if self.writing.swap(true, Ordering::Acquire) {
            return Err(Busy);
        }
        let copy = ReasonText::new(text);
        let next = self.version.load(Ordering::Relaxed).wrapping_add(1);
        // The stores below must not become visible before the version that the last writer stored. A
        // reader that is still copying this slot, and sees one of the stores, then also sees that the
        // version is no longer the one it began with.
        fence(Ordering::Release);
        for (word, bytes) in self.slot(next).0.iter().zip(copy.bytes.chunks_exact(8)) {
            // Relaxed is enough: the version below publishes the stores.
            let mut value = [0; 8];
            value.copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(value), Ordering::Relaxed);
        }
        self.version.store(next, Ordering::Release);
        self.writing.store(false, Ordering::Release);
        Ok(())
    }

    /// The newest text; `None` if it was replaced during each attempt to copy it.
    pub(crate) fn read(&self) -> Option<ReasonText> {
        for _ in 0..READ_ATTEMPTS_MAX {
            let version = self.version.load(Ordering::Acquire);
            let mut copy = ReasonText::EMPTY;
            for (word, bytes) in self
                .slot(version)
                .0
                .iter()
                .zip(copy.bytes.chunks_exact_mut(8))
            {
                bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
            }
            // Pairs with the fence in `replace`: if one of the loads above saw a newer store, the load
            // below sees the newer version.
            fence(Ordering::Acquire);
            if self.version.load(Ordering::Relaxed) == version {
                return Some(copy);
            }
        }
        None
    }

    fn slot(&self, version: u32) -> &Slot {
        let [even, odd] = &self.slots;
        if version & 1 == 0 { even } else { odd }
    }
}

impl ReasonText {
    const EMPTY: ReasonText = ReasonText {
        bytes: [0; WORDS * 8],
    };

    /// `text`, cut at a character boundary if it is too long.
    pub(crate) fn new(text: &str) -> Self {
        let mut copy = ReasonText::EMPTY;
        // An error means only that the text was cut.
        let _ = copy.write_str(text);
        copy
    }

    /// `text` formatted, cut in the same way.
    pub(crate) fn from_fmt(text: fmt::Arguments<'_>) -> Self {
        let mut whole = ReasonText::EMPTY;
        // An error of a `Display` value ends the text early, as a piece that does not fit does.
        let _ = fmt::write(&mut whole, text);
        whole
    }

    /// Appends ` for N s`; nothing if that does not fit whole. Without core's formatting, which can panic
    /// as far as the compiler knows, and takes more code.
    pub(crate) fn append_seconds(&mut self, mut seconds: u64) {
        let mut digits = [0; SECONDS_DIGITS_MAX];
        let mut count = 0;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (seconds % 10) as u8;
            seconds /= 10;
            count += 1;
            if seconds == 0 {
                break;
            }
        }
        let digits = digits.get(SECONDS_DIGITS_MAX - count..).unwrap_or_default();
        let digits = core::str::from_utf8(digits).unwrap_or_default();
        let before = *self;
        for part in [" for ", digits, " s"] {
            if self.write_str(part).is_err() {
                *self = before;
                return;
            }
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        let Some((length, rest)) = self.bytes.split_first() else {
            return "";
        };
        let text = rest.get(..usize::from(*length)).unwrap_or(rest);
        // A copy is only returned if it is whole, and `cut` keeps it UTF-8.
        debug_assert!(core::str::from_utf8(text).is_ok(), "a reason was torn");
        core::str::from_utf8(text).unwrap_or("")
    }
}

/// Appends as much as fits; an error means that the rest was dropped.
impl fmt::Write for ReasonText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some((length, rest)) = self.bytes.split_first_mut() else {
            return Err(fmt::Error);
        };
        let free = rest.get_mut(usize::from(*length)..).unwrap_or_default();
        let fitting = cut(text, free.len());
        for (to, from) in free.iter_mut().zip(fitting.as_bytes()) {
            *to = *from;
        }
        *length += fitting.len() as u8;
        if fitting.len() < text.len() {
            return Err(fmt::Error);
        }
        Ok(())
    }
}

impl fmt::Debug for ReasonText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// At most `bytes_max` bytes of `text`, up to a character boundary.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    // At most three steps: a character has at most four bytes. Index 0 is a boundary.
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or("")
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_reason_reads_back_as_written() {
        let reason = Reason::new();
        assert_eq!(reason.read().unwrap().as_str(), "");
        for text in ["a", "", "disk full", "\u{2603} \0 \r\n"] {
            assert_eq!(reason.replace(text), Ok(()));
            assert_eq!(reason.read().unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character_boundary() {
        let reason = Reason::new();
        for length in REASON_BYTES_MAX - 4..REASON_BYTES_MAX + 4 {
            let text = "x".repeat(length) + "\u{1f4a9}\u{1f4a9}";
            reason.replace(&text).unwrap();
            let read = reason.read().unwrap();
            assert!(text.starts_with(read.as_str()));
            assert!(read.as_str().len() <= REASON_BYTES_MAX);
            assert!(read.as_str().len() > REASON_BYTES_MAX - 4);
        }
    }

    #[test]
    fn a_formatted_reason_is_cut_where_the_formatted_string_would_be() {
        let signs = "\u{1f4a9}".repeat(70);
        for length in 0..8 {
            let pad = "x".repeat(length);
            let whole = std::format!("{pad}{signs}{}", "end");
            let formatted = ReasonText::from_fmt(format_args!("{pad}{signs}{}", "end"));
            assert_eq!(formatted.as_str(), ReasonText::new(&whole).as_str());
            assert!(whole.starts_with(formatted.as_str()));
        }
        let short = ReasonText::from_fmt(format_args!("{} of {}", 1, 2));
        assert_eq!(short.as_str(), "1 of 2");
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test --release --lib loom`
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// Each text fills both integers of a slot, so a torn text is none of these.
    const TEXTS: [&str; 3] = ["aaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbb", "ccccccccccccccc"];

    #[test]
    fn loom_no_torn_reason_is_read_during_two_replacements() {
        loom::model(|| {
            let reason = Arc::new(Reason::new());
            reason.replace(TEXTS[0]).unwrap();
            let writer = thread::spawn({
                let reason = reason.clone();
                move || {
                    reason.replace(TEXTS[1]).unwrap();
                    reason.replace(TEXTS[2]).unwrap();
                }
            });
            if let Some(text) = reason.read() {
                assert!(TEXTS.contains(&text.as_str()), "torn: {text:?}");
            }
            writer.join().unwrap();
            assert_eq!(reason.read().unwrap().as_str(), TEXTS[2]);
        });
    }

    #[test]
    fn loom_two_writers_leave_one_whole_text_and_the_other_gets_busy() {
        loom::model(|| {
            let reason = Arc::new(Reason::new());
            let writer = thread::spawn({
                let reason = reason.clone();
                move || reason.replace(TEXTS[0])
            });
            let here = reason.replace(TEXTS[1]);
            let there = writer.join().unwrap();
            assert!(here.is_ok() || there.is_ok());
            let text = reason.read().unwrap();
            match (here, there) {
                (Ok(()), Err(Busy)) => assert_eq!(text.as_str(), TEXTS[1]),
                (Err(Busy), Ok(())) => assert_eq!(text.as_str(), TEXTS[0]),
                _ => assert!(TEXTS.contains(&text.as_str())),
            }
        });
    }
}
