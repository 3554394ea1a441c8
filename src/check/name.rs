//! The name of a check or a group, stored in the check itself.
//!
//! So a name can come from a file without the heap, and needs no memory that outlives the check. Knows nothing of
//! checks. Used by [`Check`](super::Check) and [`Endpoint`](super::Endpoint).

use crate::limits::CHECK_NAME_BYTES_MAX;

/// A copy of a name; empty if there is none.
#[derive(Clone, Copy)]
pub(super) struct Name {
    length: u8,
    bytes: [u8; CHECK_NAME_BYTES_MAX],
}

impl Name {
    pub(super) const NONE: Name = Name {
        length: 0,
        bytes: [0; CHECK_NAME_BYTES_MAX],
    };

    /// Copies `name`, for which [`is_name`] is true.
    #[expect(
        clippy::indexing_slicing,
        reason = "const fn has no iterators; `at` stays below both lengths"
    )]
    pub(super) const fn new(name: &str) -> Self {
        let from = name.as_bytes();
        let mut bytes = [0; CHECK_NAME_BYTES_MAX];
        let mut at = 0;
        while at < from.len() && at < CHECK_NAME_BYTES_MAX {
            bytes[at] = from[at];
            at += 1;
        }
        Name {
            length: at as u8,
            bytes,
        }
    }

    #[inline]
    pub(super) const fn bytes(&self) -> &[u8] {
        match self.bytes.split_at_checked(self.length as usize) {
            Some((name, _)) => name,
            None => &self.bytes,
        }
    }

    /// Validates the bytes again, because a `str` without that needs `unsafe`. Requests use
    /// [`bytes`](Name::bytes).
    pub(super) const fn as_str(&self) -> &str {
        match core::str::from_utf8(self.bytes()) {
            Ok(name) => name,
            Err(_) => "",
        }
    }
}

/// True if `name` can be the name of a check, a group or (after a slash) an endpoint.
pub(super) const fn is_name(name: &str) -> bool {
    is_name_bytes(name.as_bytes(), 0)
}

#[expect(
    clippy::indexing_slicing,
    reason = "const fn has no iterators; `at` stays below the length"
)]
pub(super) const fn is_name_bytes(bytes: &[u8], start: usize) -> bool {
    if bytes.len() <= start || bytes.len() - start > CHECK_NAME_BYTES_MAX {
        return false;
    }
    let mut at = start;
    let mut segment = start;
    while at <= bytes.len() {
        if at == bytes.len() || bytes[at] == b'/' {
            // A client or the redirect to a clean path would remove such a segment.
            let is_removed = match at - segment {
                0 => true,
                1 => bytes[segment] == b'.',
                2 => bytes[segment] == b'.' && bytes[segment + 1] == b'.',
                _ => false,
            };
            if is_removed {
                return false;
            }
            segment = at + 1;
        } else if !matches!(bytes[at], b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')
        {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_a_request_can_use() {
        for good in [
            "a",
            "poststarthook/start-apiextensions",
            "A.b_c-9",
            "...",
            "x/...",
            ".a",
            "a.",
            "a./x",
            "a/..b",
        ] {
            assert!(is_name(good), "{good}");
        }
        let long = "x".repeat(CHECK_NAME_BYTES_MAX + 1);
        for bad in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/./b", "a/..", "./a", "../a", "a/../b",
            "a b", "a%", "\u{e4}", &long,
        ] {
            assert!(!is_name(bad), "{bad}");
        }
        assert!(is_name(&"x".repeat(CHECK_NAME_BYTES_MAX)));
    }

    #[test]
    fn a_name_of_any_length_reads_back_as_copied() {
        for length in 0..=CHECK_NAME_BYTES_MAX {
            let text: std::string::String = "ab/c".chars().cycle().take(length).collect();
            let name = Name::new(&text);
            assert_eq!(name.as_str(), text);
            assert_eq!(name.bytes(), text.as_bytes());
        }
        assert_eq!(Name::NONE.as_str(), "");
    }
}
