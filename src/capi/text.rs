//! What went wrong, in words for people who may have no heap left.

use core::ffi::CStr;
use core::fmt::{self, Write};

use super::HealthzResult::{self, HEALTHZ_INVALID, HEALTHZ_SYSTEM};

/// What went wrong, as a code and in words.
pub(super) struct Problem {
    pub(super) result: HealthzResult,
    pub(super) text: Text,
}

impl Problem {
    pub(super) fn invalid(text: fmt::Arguments<'_>) -> Self {
        Problem {
            result: HEALTHZ_INVALID,
            text: Text::new(text),
        }
    }

    pub(super) fn system(text: fmt::Arguments<'_>) -> Self {
        Problem {
            result: HEALTHZ_SYSTEM,
            text: Text::new(text),
        }
    }
}

/// A text for C, cut where it does not fit.
pub(super) struct Text {
    /// Zero from `count` on, and there is at least one of them.
    bytes: [u8; 320],
    count: usize,
}

impl Text {
    pub(super) fn new(text: fmt::Arguments<'_>) -> Self {
        let mut made = Text {
            bytes: [0; 320],
            count: 0,
        };
        // It fails only where it is cut.
        let _ = made.write_fmt(text);
        made
    }

    pub(super) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let last = self.bytes.len() - 1;
            let room = self.bytes.get_mut(self.count..last).unwrap_or_default();
            let room = room.get_mut(..character.len_utf8()).ok_or(fmt::Error)?;
            character.encode_utf8(room);
            self.count += character.len_utf8();
        }
        Ok(())
    }
}
