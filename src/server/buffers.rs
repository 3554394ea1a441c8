//! All bytes that requests and answers are kept in, as one piece of zeroed memory.
//!
//! Knows no connection. In front is the pair of buffers that all connections share, one for what was
//! read and one for what is to be sent; behind it every connection has a pair of its own, for the
//! half a head or the untaken answer that is left when its turn ends.
//!
//! It is one allocation because the allocator hands out large ones as fresh pages of the system's,
//! which are zero without being touched: what is never used is never resident.

use core::ops::Range;
use std::vec;

use super::memory::Managed;

/// See the module.
pub(super) struct Buffers<'a> {
    memory: Managed<'a, [u8]>,
    head_bytes: usize,
    response_bytes: usize,
}

impl Buffers<'static> {
    /// Buffers of their own for so many connections, for heads and answers of at most so many bytes.
    pub(super) fn new(connections: usize, head_bytes: usize, response_bytes: usize) -> Self {
        let memory = vec![0; Buffers::bytes(connections, head_bytes, response_bytes)];
        Buffers::in_memory(Managed::Own(memory.into()), head_bytes, response_bytes)
    }
}

impl<'a> Buffers<'a> {
    /// Buffers in `memory`, which has room for [`bytes`](Buffers::bytes).
    pub(super) fn in_memory(
        memory: Managed<'a, [u8]>,
        head_bytes: usize,
        response_bytes: usize,
    ) -> Self {
        Buffers {
            memory,
            head_bytes,
            response_bytes,
        }
    }

    /// Bytes that buffers for so many connections take. Saturates: it is asked about numbers that
    /// nobody has looked at yet.
    pub(super) fn bytes(connections: usize, head_bytes: usize, response_bytes: usize) -> usize {
        let pairs = connections.saturating_add(1);
        pairs.saturating_mul(head_bytes.saturating_add(response_bytes))
    }

    /// What is read into, and what is answered into.
    #[inline]
    pub(super) fn shared(&mut self) -> (&mut [u8], &mut [u8]) {
        let pair = self.memory.split_at_mut_checked(self.head_bytes);
        let (rx, rest) = pair.unwrap_or_default();
        (rx, rest.get_mut(..self.response_bytes).unwrap_or_default())
    }

    /// Moves `rest` of what was read to the front.
    pub(super) fn compact(&mut self, rest: Range<usize>) {
        if rest.start > 0 && rest.end <= self.head_bytes && !rest.is_empty() {
            self.memory.copy_within(rest, 0);
        }
    }

    /// Keeps for connection `index` the first `received` bytes that were read and the `unsent` ones
    /// of what was answered.
    pub(super) fn keep(&mut self, index: u16, received: usize, unsent: Range<usize>) {
        let head = self.own_head(index);
        debug_assert!(received <= self.head_bytes, "a head is dropped");
        debug_assert!(unsent.end <= self.response_bytes, "an answer is dropped");
        if received > 0 && received <= self.head_bytes {
            self.memory.copy_within(..received, head);
        }
        if !unsent.is_empty() && unsent.end <= self.response_bytes {
            let shared = self.head_bytes + unsent.start..self.head_bytes + unsent.end;
            self.memory.copy_within(shared, head + self.head_bytes);
        }
    }

    /// Brings back what was received and kept for connection `index`, to be read on behind it.
    pub(super) fn restore(&mut self, index: u16, received: usize) {
        let head = self.own_head(index);
        if received > 0 && received <= self.head_bytes {
            self.memory.copy_within(head..head + received, 0);
        }
    }

    /// What was kept unsent for connection `index`.
    pub(super) fn unsent(&self, index: u16, unsent: Range<usize>) -> &[u8] {
        let start = self.own_head(index) + self.head_bytes;
        let unsent = start + unsent.start..start + unsent.end;
        self.memory.get(unsent).unwrap_or_default()
    }

    fn own_head(&self, index: u16) -> usize {
        (1 + usize::from(index)) * (self.head_bytes + self.response_bytes)
    }
}

/// What only a simulation looks at.
#[cfg(test)]
impl Buffers<'_> {
    /// One connection's state says that so much is kept: all of it has room, in memory that is as long
    /// as it was made.
    pub(super) fn assert_room(&self, connections: usize, received: usize, unsent: usize) {
        let bytes = Buffers::bytes(connections, self.head_bytes, self.response_bytes);
        assert_eq!(self.memory.len(), bytes, "the memory has changed");
        assert!(received <= self.head_bytes, "a head without room");
        assert!(unsent <= self.response_bytes, "an answer without room");
    }

    pub(super) fn head_bytes(&self) -> usize {
        self.head_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "a head is dropped")]
    #[cfg(debug_assertions)]
    fn a_head_that_is_too_long_is_not_dropped_in_silence() {
        Buffers::new(1, 4, 8).keep(0, 5, 0..0);
    }

    #[test]
    #[should_panic(expected = "an answer is dropped")]
    #[cfg(debug_assertions)]
    fn an_answer_that_is_too_long_is_not_dropped_in_silence() {
        Buffers::new(1, 4, 8).keep(0, 4, 3..9);
    }

    #[test]
    fn what_is_kept_comes_back_and_neighbours_are_left_alone() {
        let mut buffers = Buffers::new(3, 4, 8);
        for index in 0..3u8 {
            let (rx, tx) = buffers.shared();
            rx.copy_from_slice(&[b'a' + index; 4]);
            tx.copy_from_slice(&[b'A' + index; 8]);
            buffers.keep(index.into(), 4, 3..8);
        }
        for index in 0..3u8 {
            buffers.shared().0.fill(0);
            buffers.restore(index.into(), 4);
            assert_eq!(buffers.shared().0, [b'a' + index; 4]);
            assert_eq!(buffers.unsent(index.into(), 0..5), [b'A' + index; 5]);
        }
        buffers.shared().0.copy_from_slice(b"wxyz");
        buffers.compact(1..3);
        assert_eq!(buffers.shared().0, b"xyyz");
    }
}
