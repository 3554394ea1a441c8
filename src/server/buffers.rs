//! The memory for the bytes of requests and answers: one zeroed block.
//!
//! First come the two buffers that all connections share: `rx` for received bytes and `tx` for answers. Then come
//! [`LONG_BUFFERS`] for answers that are too long for `tx`. Then each connection has two of its own: for received bytes
//! that are not processed yet, and for an unsent answer. Knows no connection but its index. Used by [`super::driver`]
//! and [`super::table`].
//!
//! A long answer stays in its buffer until the client has read it. Until then the buffer has an owner.
//!
//! It is one allocation, because allocators take large ones from the kernel as fresh pages. These are zero without
//! being written to, so buffers that are never used are never resident.

use core::ops::Range;
use std::vec;

use super::memory::Managed;

/// Buffers for long answers. There are two, so that a scraper that reads slowly is not evicted for every other one.
pub(super) const LONG_BUFFERS: usize = 2;

/// A buffer for a long answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LongBuffer(u8);

/// See the module.
pub(super) struct Buffers<'a> {
    memory: Managed<'a, [u8]>,
    head_bytes: usize,
    response_bytes: usize,
    /// Size of each buffer for a long answer; 0 if there is no long answer.
    long_bytes: usize,
    /// The connection whose unsent answer is in each of them.
    owners: [Option<u16>; LONG_BUFFERS],
}

impl Buffers<'static> {
    /// Buffers on the heap, for this many connections, and for heads, answers and long answers of at most this many
    /// bytes.
    pub(super) fn new(
        connections: usize,
        head_bytes: usize,
        response_bytes: usize,
        long_bytes: usize,
    ) -> Self {
        let memory = vec![0; Buffers::bytes(connections, head_bytes, response_bytes, long_bytes)];
        let memory = Managed::Own(memory.into());
        Buffers::in_memory(memory, head_bytes, response_bytes, long_bytes)
    }
}

impl<'a> Buffers<'a> {
    /// Buffers in `memory`, which has at least [`bytes`](Buffers::bytes) bytes.
    pub(super) fn in_memory(
        memory: Managed<'a, [u8]>,
        head_bytes: usize,
        response_bytes: usize,
        long_bytes: usize,
    ) -> Self {
        Buffers {
            memory,
            head_bytes,
            response_bytes,
            long_bytes,
            owners: [None; LONG_BUFFERS],
        }
    }

    /// Size of the buffers for this many connections in bytes. Saturates, because the arguments may be unchecked
    /// settings.
    pub(super) fn bytes(
        connections: usize,
        head_bytes: usize,
        response_bytes: usize,
        long_bytes: usize,
    ) -> usize {
        let pairs = connections.saturating_add(1);
        let pairs = pairs.saturating_mul(head_bytes.saturating_add(response_bytes));
        pairs.saturating_add(long_bytes.saturating_mul(LONG_BUFFERS))
    }

    /// Room for an answer, in bytes.
    pub(super) fn response_bytes(&self) -> usize {
        self.response_bytes
    }

    /// Room for a long answer, in bytes.
    #[inline]
    pub(super) fn long_bytes(&self) -> usize {
        self.long_bytes
    }

    /// A buffer for a long answer that has no owner.
    pub(super) fn free_long(&self) -> Option<LongBuffer> {
        let free = self.owners.iter().position(Option::is_none)?;
        Some(LongBuffer(free as u8))
    }

    /// The connections that own a buffer for a long answer.
    pub(super) fn owners(&self) -> impl Iterator<Item = u16> {
        self.owners.into_iter().flatten()
    }

    /// From now on, the unsent bytes of connection `index` are in `buffer`.
    pub(super) fn own(&mut self, buffer: LongBuffer, index: u16) {
        debug_assert!(
            self.owned_by(index).is_none(),
            "a second buffer for one answer"
        );
        if let Some(owner) = self.owners.get_mut(usize::from(buffer.0)) {
            debug_assert!(owner.is_none(), "a buffer has an owner");
            *owner = Some(index);
        }
    }

    /// Connection `index` has no unsent bytes any more, or has ended.
    pub(super) fn release(&mut self, index: u16) {
        for owner in self
            .owners
            .iter_mut()
            .filter(|owner| **owner == Some(index))
        {
            *owner = None;
        }
    }

    fn owned_by(&self, index: u16) -> Option<LongBuffer> {
        let owned = self.owners.iter().position(|owner| *owner == Some(index))?;
        Some(LongBuffer(owned as u8))
    }

    /// The shared buffer `rx`, and `buffer` as `tx`.
    pub(super) fn with_long(&mut self, buffer: LongBuffer) -> (&mut [u8], &mut [u8]) {
        let start = self.long_start(buffer) - self.head_bytes;
        let pair = self.memory.split_at_mut_checked(self.head_bytes);
        let (rx, rest) = pair.unwrap_or_default();
        let long = rest.get_mut(start..).unwrap_or_default();
        (rx, long.get_mut(..self.long_bytes).unwrap_or_default())
    }

    fn long_start(&self, buffer: LongBuffer) -> usize {
        self.head_bytes + self.response_bytes + usize::from(buffer.0) * self.long_bytes
    }

    /// The shared buffers `rx` and `tx`.
    #[inline]
    pub(super) fn shared(&mut self) -> (&mut [u8], &mut [u8]) {
        let pair = self.memory.split_at_mut_checked(self.head_bytes);
        let (rx, rest) = pair.unwrap_or_default();
        (rx, rest.get_mut(..self.response_bytes).unwrap_or_default())
    }

    /// Moves `rest` of `rx` to its start.
    #[inline]
    pub(super) fn compact(&mut self, rest: Range<usize>) {
        if rest.start > 0 && rest.end <= self.head_bytes && !rest.is_empty() {
            self.memory.copy_within(rest, 0);
        }
    }

    /// Copies the first `received` bytes of `rx`, and the bytes `unsent` of `tx`, to the buffers of connection
    /// `index`.
    #[inline]
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
    #[inline]
    pub(super) fn restore(&mut self, index: u16, received: usize) {
        let head = self.own_head(index);
        if received > 0 && received <= self.head_bytes {
            self.memory.copy_within(head..head + received, 0);
        }
    }

    /// The unsent bytes of connection `index`: in the buffer for long answers that it owns, or in its own.
    pub(super) fn unsent(&self, index: u16, unsent: Range<usize>) -> &[u8] {
        let start = match self.owned_by(index) {
            Some(buffer) => self.long_start(buffer),
            None => self.own_head(index) + self.head_bytes,
        };
        let unsent = start + unsent.start..start + unsent.end;
        self.memory.get(unsent).unwrap_or_default()
    }

    fn own_head(&self, index: u16) -> usize {
        let pair = self.head_bytes + self.response_bytes;
        (1 + usize::from(index)) * pair + LONG_BUFFERS * self.long_bytes
    }
}

/// For the simulation only.
#[cfg(test)]
impl Buffers<'_> {
    /// Panics unless this many bytes of connection `index` have room in its buffers, and the memory has its first size.
    pub(super) fn assert_room(
        &self,
        connections: usize,
        index: u16,
        received: usize,
        unsent: usize,
    ) {
        let Buffers {
            head_bytes,
            response_bytes,
            long_bytes,
            ..
        } = *self;
        let bytes = Buffers::bytes(connections, head_bytes, response_bytes, long_bytes);
        assert_eq!(self.memory.len(), bytes, "the memory has changed");
        assert!(received <= head_bytes, "a head without room");
        let room = match self.owned_by(index) {
            Some(_) => long_bytes,
            None => response_bytes,
        };
        assert!(unsent <= room, "an answer without room");
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
        Buffers::new(1, 4, 8, 0).keep(0, 5, 0..0);
    }

    #[test]
    #[should_panic(expected = "an answer is dropped")]
    #[cfg(debug_assertions)]
    fn an_answer_that_is_too_long_is_not_dropped_in_silence() {
        Buffers::new(1, 4, 8, 0).keep(0, 4, 3..9);
    }

    #[test]
    fn what_is_kept_comes_back_and_neighbours_are_left_alone() {
        let mut buffers = Buffers::new(3, 4, 8, 16);
        let long = [0, 1].map(LongBuffer);
        for (buffer, fill) in long.into_iter().zip(*b"yz") {
            buffers.with_long(buffer).1.copy_from_slice(&[fill; 16]);
        }
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
        // A long answer is not copied: its connection owns the buffer.
        for (buffer, (index, fill)) in long.into_iter().zip([(2, b'y'), (0, b'z')]) {
            assert_eq!(buffers.free_long(), Some(buffer));
            buffers.own(buffer, index);
            assert_eq!(buffers.unsent(index, 3..16), [fill; 13]);
        }
        assert_eq!(buffers.free_long(), None);
        assert_eq!(buffers.owners().collect::<vec::Vec<_>>(), [2, 0]);
        for index in [1, 2] {
            buffers.release(index);
        }
        assert_eq!(buffers.free_long(), Some(LongBuffer(0)));
        assert_eq!(buffers.unsent(2, 0..5), *b"CCCCC");
        buffers.shared().0.copy_from_slice(b"wxyz");
        buffers.compact(1..3);
        assert_eq!(buffers.shared().0, b"xyyz");
    }
}
