//! The memory for the bytes of requests and answers: one piece, zeroed.
//!
//! First come the two buffers that all connections share: `rx` for received bytes and `tx` for answers. Then each
//! connection has two of its own, for an unfinished head and an unsent answer. Knows no connection. Used by
//! [`super::driver`] and [`super::table`].
//!
//! It is one allocation, because allocators take large ones from the kernel as fresh pages. These are zero without
//! being written to, so buffers that are never used are never resident.

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
    /// Buffers on the heap, for this many connections, and for heads and answers of at most this many bytes.
    pub(super) fn new(connections: usize, head_bytes: usize, response_bytes: usize) -> Self {
        let memory = vec![0; Buffers::bytes(connections, head_bytes, response_bytes)];
        Buffers::in_memory(Managed::Own(memory.into()), head_bytes, response_bytes)
    }
}

impl<'a> Buffers<'a> {
    /// Buffers in `memory`, which has at least [`bytes`](Buffers::bytes) bytes.
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

    /// Size of the buffers for this many connections in bytes. Saturates, because the arguments may be unchecked
    /// settings.
    pub(super) fn bytes(connections: usize, head_bytes: usize, response_bytes: usize) -> usize {
        let pairs = connections.saturating_add(1);
        pairs.saturating_mul(head_bytes.saturating_add(response_bytes))
    }

    /// Room for an answer, in bytes.
    pub(super) fn response_bytes(&self) -> usize {
        self.response_bytes
    }

    /// The shared buffers `rx` and `tx`.
    #[inline]
    pub(super) fn shared(&mut self) -> (&mut [u8], &mut [u8]) {
        let pair = self.memory.split_at_mut_checked(self.head_bytes);
        let (rx, rest) = pair.unwrap_or_default();
        (rx, rest.get_mut(..self.response_bytes).unwrap_or_default())
    }

    /// Moves `rest` of `rx` to its start.
    pub(super) fn compact(&mut self, rest: Range<usize>) {
        if rest.start > 0 && rest.end <= self.head_bytes && !rest.is_empty() {
            self.memory.copy_within(rest, 0);
        }
    }

    /// Copies the first `received` bytes of `rx`, and the bytes `unsent` of `tx`, to the buffers of connection
    /// `index`.
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

    /// Copies the received bytes of connection `index` back to the start of `rx`.
    pub(super) fn restore(&mut self, index: u16, received: usize) {
        let head = self.own_head(index);
        if received > 0 && received <= self.head_bytes {
            self.memory.copy_within(head..head + received, 0);
        }
    }

    /// The unsent bytes of connection `index`.
    pub(super) fn unsent(&self, index: u16, unsent: Range<usize>) -> &[u8] {
        let start = self.own_head(index) + self.head_bytes;
        let unsent = start + unsent.start..start + unsent.end;
        self.memory.get(unsent).unwrap_or_default()
    }

    fn own_head(&self, index: u16) -> usize {
        (1 + usize::from(index)) * (self.head_bytes + self.response_bytes)
    }
}

/// For the simulation only.
#[cfg(test)]
impl Buffers<'_> {
    /// Panics unless so many bytes of one connection have room in its buffers, and the memory has its first size.
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
