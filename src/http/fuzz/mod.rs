//! What the fuzz targets of `fuzz/` run, beside the code that it is about: bytes in, and a panic if
//! something that must hold does not.
//!
//! Called by the targets with bytes that nobody chose, and by `cargo test` with those that are kept.
//! Each body has its second opinion with it: a slow and obvious reading of the same bytes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "what is found is told by a panic"
)]

mod connection;
mod framing;
mod request;
mod target;

pub use connection::connection;
pub use request::request;
pub(crate) use target::parse_query;
pub use target::target;

/// Reads numbers off the start of what a fuzzer made up; zeros once it is used up.
#[derive(Clone, Copy, Debug)]
pub struct Source<'d>(pub &'d [u8]);

impl<'d> Source<'d> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// The next two bytes as a number.
    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// The next `count` bytes, or as many as there are.
    pub fn bytes(&mut self, count: usize) -> &'d [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Runs `body` over the inputs that are kept for `target`.
#[cfg(test)]
pub(crate) fn kept(target: &str, body: fn(&[u8])) {
    let directory = std::format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        // Shown if the body fails.
        std::println!("{}", path.display());
        body(&std::fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 50, "only {count} inputs in {directory}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_heads_are_read_as_they_should_be() {
        kept("request", request);
    }

    #[test]
    fn kept_connections_keep_their_promises() {
        kept("connection", connection);
    }

    #[test]
    fn kept_targets_are_what_the_model_says() {
        kept("target", target);
    }
}
