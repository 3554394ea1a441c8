//! Errors of the C API. Each carries its message in a fixed buffer, because the heap may be exhausted.
//!
//! Made in `block`, `guard` and the functions of `capi`; `healthz_error` returns the last message.

use core::ffi::CStr;
use core::fmt::{self, Write};

use super::HealthzResult::{self, HEALTHZ_INVALID, HEALTHZ_SYSTEM};

/// A failed call: the result code and the message for `healthz_error`.
pub(super) struct CallError {
    pub(super) result: HealthzResult,
    pub(super) text: ErrorText,
}

impl CallError {
    pub(super) fn invalid(text: fmt::Arguments<'_>) -> Self {
        CallError {
            result: HEALTHZ_INVALID,
            text: ErrorText::new(text),
        }
    }

    pub(super) fn system(text: fmt::Arguments<'_>) -> Self {
        CallError {
            result: HEALTHZ_SYSTEM,
            text: ErrorText::new(text),
        }
    }
}

/// A message as a C string. A message that is too long is cut.
pub(super) struct ErrorText {
    /// Zero from `count` on; the last byte is always zero.
    bytes: [u8; 320],
    count: usize,
}

impl ErrorText {
    pub(super) fn new(text: fmt::Arguments<'_>) -> Self {
        let mut made = ErrorText {
            bytes: [0; 320],
            count: 0,
        };
        // An error here only means that the message was cut.
        let _ = made.write_fmt(text);
        made
    }

    pub(super) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl Write for ErrorText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let last = self.bytes.len() - 1;
            let free = self.bytes.get_mut(self.count..last).unwrap_or_default();
            let target = free.get_mut(..character.len_utf8()).ok_or(fmt::Error)?;
            character.encode_utf8(target);
            self.count += character.len_utf8();
        }
        Ok(())
    }
}
