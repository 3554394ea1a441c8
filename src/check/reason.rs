//! A fixed-size text that one writer replaces while any number of readers copy it, without locks.
//!
//! Knows nothing of checks. [`Check`](super::Check) keeps one for why it fails.
//!
//! Two slots and a version. A writer fills the slot that readers are not sent to and then moves
//! the version on, which sends them there. So a writer that is stopped halfway (by a signal, or for
//! good) never keeps a reader waiting: readers go on with the old text. A reader that was overtaken
//! by two whole replacements sees that the version moved, drops what it copied and starts again; it
//! does so a bounded number of times, because the request path must not spin at a writer's mercy.
//!
//! One writer at a time, decided by a try-lock: waiting is not possible in a signal handler that
//! interrupted the very writer it would wait for. Who loses is told so by [`Reason::replace`].

#[cfg(not(loom))]
use crate::limits::REASON_BYTES_MAX;

use core::fmt::{self, Write};
#[cfg(not(loom))]
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// Words a slot has: the length in the first byte, then the text. Loom explores every interleaving
/// of every word, so there it gets just enough words to be torn between.
#[cfg(not(loom))]
const WORDS: usize = (1 + REASON_BYTES_MAX).div_ceil(8);
#[cfg(loom)]
const WORDS: usize = 2;

/// Bytes of text that fit in a slot.
#[cfg(not(loom))]
pub(crate) const TEXT_BYTES_MAX: usize = WORDS * 8 - 1;
#[cfg(not(loom))]
const _: () = assert!(TEXT_BYTES_MAX == REASON_BYTES_MAX);

/// Copies tried before giving up. Each failed one means two whole replacements during one copy of
/// 256 bytes, so eight in a row is a writer that does nothing else.
const READ_ATTEMPTS_MAX: usize = 8;

struct Slot([AtomicU64; WORDS]);

/// See the module.
pub(crate) struct Reason {
    /// Replacements finished; the lowest bit is the slot that holds the newest text.
    version: AtomicU32,
    writing: AtomicBool,
    slots: [Slot; 2],
}

/// A copy of a reason, for as long as it is needed.
#[derive(Clone, Copy)]
pub struct ReasonText {
    bytes: [u8; WORDS * 8],
}

/// Another writer was in the middle of replacing the text; this one was not kept.
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

    /// Replaces the text, cut to [`TEXT_BYTES_MAX`] at a character boundary.
    pub(crate) fn replace(&self, text: &str) -> Result<(), Busy> {
        if self.writing.swap(true, Ordering::Acquire) {
            return Err(Busy);
        }
        let copy = ReasonText::new(text);
        let next = self.version.load(Ordering::Relaxed).wrapping_add(1);
        // Whoever reads one of the words below must also see that the version had moved on to the
        // other slot: a reader still copying this one then finds its version gone.
        fence(Ordering::Release);
        for (word, bytes) in self.slot(next).0.iter().zip(copy.bytes.chunks_exact(8)) {
            let mut value = [0; 8];
            value.copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(value), Ordering::Relaxed);
        }
        self.version.store(next, Ordering::Release);
        self.writing.store(false, Ordering::Release);
        Ok(())
    }

    /// The newest text; `None` if it was replaced faster than it could be copied.
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
            // Pairs with the fence in `replace`.
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

    /// `text`, cut to what fits at a character boundary.
    pub(crate) fn new(text: &str) -> Self {
        let mut copy = ReasonText::EMPTY;
        // What does not fit is not kept.
        let _ = copy.write_str(text);
        copy
    }

    /// What `text` says once formatted, cut likewise.
    pub(crate) fn from_fmt(text: fmt::Arguments<'_>) -> Self {
        let mut whole = ReasonText::EMPTY;
        // An error of a `Display` in it ends the text early. So does what no longer fits.
        let _ = fmt::write(&mut whole, text);
        whole
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        let Some((length, rest)) = self.bytes.split_first() else {
            return "";
        };
        let text = rest.get(..usize::from(*length)).unwrap_or(rest);
        debug_assert!(core::str::from_utf8(text).is_ok(), "a reason was torn");
        core::str::from_utf8(text).unwrap_or("")
    }
}

/// Appends as much as fits; an error says that this was not all.
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
    fn a_formatted_reason_is_cut_where_the_whole_text_would_be() {
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

    /// Each text spans both words, so a torn one is none of these.
    const TEXTS: [&str; 3] = ["aaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbb", "ccccccccccccccc"];

    #[test]
    fn loom_no_torn_reason_is_read_while_it_is_replaced_twice() {
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
    fn loom_two_writers_leave_one_whole_text_and_the_loser_knows() {
        loom::model(|| {
            let reason = Arc::new(Reason::new());
            let writer = thread::spawn({
                let reason = reason.clone();
                move || reason.replace(TEXTS[0])
            });
            let mine = reason.replace(TEXTS[1]);
            let theirs = writer.join().unwrap();
            assert!(mine.is_ok() || theirs.is_ok());
            let text = reason.read().unwrap();
            match (mine, theirs) {
                (Ok(()), Err(Busy)) => assert_eq!(text.as_str(), TEXTS[1]),
                (Err(Busy), Ok(())) => assert_eq!(text.as_str(), TEXTS[0]),
                _ => assert!(TEXTS.contains(&text.as_str())),
            }
        });
    }
}
