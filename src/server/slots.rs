//! A fixed number of slots for connections, in lists by what they wait for.
//!
//! Knows no socket: a slot holds what the caller puts there. Every occupied slot is in one list, ordered by
//! when it entered the list. All members of a list have the same time to live, so the front of a list has its next
//! deadline, and nothing here searches. A connection to evict is chosen among the first ones of a list
//! ([`super::policy`]). Slots with more work than one quantum are also in the run queue, each at most once. Used by
//! [`super::table`].

use std::boxed::Box;
use std::fmt;

use super::conn::Conn;
use super::memory::Managed;
use super::policy::WaitReason;
use super::socket::Stream;
use crate::limits::CONNECTIONS_MAX;
use crate::time::Instant;

/// The index that means no slot.
const NONE: u16 = u16::MAX;

/// Room for one connection in memory that an embedder provides; see [`Memory`](super::Memory). Its content is
/// private to the server.
pub struct Slot(Node<Conn<Stream>>);

impl Slot {
    /// An empty slot.
    pub const fn new() -> Self {
        Slot(Node::new())
    }
}

impl Default for Slot {
    fn default() -> Self {
        Slot::new()
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}

/// The memory of one slot. [`Slot`] wraps a [`Node`], so that the public API has no private type.
pub(super) trait SlotMemory {
    /// What the slot holds.
    type Content;

    fn from_node(node: Node<Self::Content>) -> Self;
    fn node(&self) -> &Node<Self::Content>;
    fn node_mut(&mut self) -> &mut Node<Self::Content>;
}

impl SlotMemory for Slot {
    type Content = Conn<Stream>;

    fn from_node(node: Node<Self::Content>) -> Self {
        Slot(node)
    }

    #[inline]
    fn node(&self) -> &Node<Self::Content> {
        &self.0
    }

    #[inline]
    fn node_mut(&mut self) -> &mut Node<Self::Content> {
        &mut self.0
    }
}

/// What is in the memory of a slot: the content, and the slot's places in the lists.
pub(super) struct Node<T> {
    content: Option<T>,
    /// How many contents this slot has had, so that events of an earlier one are recognized.
    generation: u32,
    /// When the slot entered its list.
    since: Instant,
    /// The list that it is in.
    queue: WaitReason,
    /// It is in the run queue.
    is_in_run_queue: bool,
    /// It is in the run queue because of this content, not of an earlier one.
    is_runnable: bool,
    /// Neighbours in the list; `next` also links free slots.
    previous: u16,
    next: u16,
    next_runnable: u16,
}

impl<T> Node<T> {
    /// A free slot.
    const fn new() -> Self {
        Node {
            content: None,
            generation: 0,
            since: Instant::ZERO,
            queue: WaitReason::Idle,
            is_in_run_queue: false,
            is_runnable: false,
            previous: NONE,
            next: NONE,
            next_runnable: NONE,
        }
    }
}

#[derive(Clone, Copy)]
struct List {
    front: u16,
    back: u16,
    count: usize,
}

impl List {
    const EMPTY: List = List {
        front: NONE,
        back: NONE,
        count: 0,
    };
}

/// See the module.
pub(super) struct Slots<'a, M: SlotMemory> {
    slots: Managed<'a, [M]>,
    queues: [List; WaitReason::ALL.len()],
    free: u16,
    occupied: usize,
    runnable: List,
    runnable_count: usize,
}

impl<M: SlotMemory> Slots<'static, M> {
    /// `count` slots on the heap.
    ///
    /// # Panics
    /// If `count` is not from 1 to 65,535.
    pub(super) fn new(count: usize) -> Self {
        let slots: Box<[_]> = (0..count).map(|_| M::from_node(Node::new())).collect();
        Slots::in_memory(Managed::Own(slots))
    }
}

impl<'a, M: SlotMemory> Slots<'a, M> {
    /// Slots in the memory of `slots`, which is emptied.
    ///
    /// # Panics
    /// If there are not 1 to 65,535 slots.
    pub(super) fn in_memory(mut slots: Managed<'a, [M]>) -> Self {
        let count = slots.len();
        assert!(
            (1..=CONNECTIONS_MAX).contains(&count),
            "a server holds 1 to 65,535 connections"
        );
        for (index, slot) in slots.iter_mut().enumerate() {
            *slot = M::from_node(Node {
                next: if index + 1 < count {
                    index as u16 + 1
                } else {
                    NONE
                },
                ..Node::new()
            });
        }
        Slots {
            slots,
            queues: [List::EMPTY; WaitReason::ALL.len()],
            free: 0,
            occupied: 0,
            runnable: List::EMPTY,
            runnable_count: 0,
        }
    }

    /// Puts `content` into a free slot at the back of a list. Returns it if no slot is free.
    pub(super) fn insert(
        &mut self,
        content: M::Content,
        queue: WaitReason,
        now: Instant,
    ) -> Result<u16, M::Content> {
        let index = self.free;
        let Some(slot) = self.slot_mut(index) else {
            return Err(content);
        };
        debug_assert!(slot.content.is_none(), "a free slot is occupied");
        slot.content = Some(content);
        slot.is_runnable = false;
        slot.generation = slot.generation.wrapping_add(1);
        let next = slot.next;
        self.free = next;
        self.occupied += 1;
        self.push_back(index, queue, now);
        Ok(index)
    }

    /// Empties the slot.
    pub(super) fn remove(&mut self, index: u16) -> Option<M::Content> {
        let content = self.slot_mut(index)?.content.take()?;
        self.unlink(index);
        let free = self.free;
        if let Some(slot) = self.slot_mut(index) {
            slot.next = free;
        }
        self.free = index;
        self.occupied -= 1;
        Some(content)
    }

    /// Moves the slot to the back of a list, even if it is in that list. If `since` is earlier than that of the
    /// last slot there, the later time counts: the order makes the front the next deadline.
    #[inline]
    pub(super) fn move_to(&mut self, index: u16, queue: WaitReason, since: Instant) {
        let back = self.list(queue).back;
        if back == index {
            if let Some(slot) = self.slot_mut(index) {
                slot.since = since.max(slot.since);
            }
            return;
        }
        let last = self.slot(back).map_or(Instant::ZERO, |slot| slot.since);
        self.unlink(index);
        self.push_back(index, queue, since.max(last));
    }

    /// Puts the slot into the run queue, if it is not there. If the slot has a new connection by
    /// then, that one is served, which does no harm.
    pub(super) fn push_run_queue(&mut self, index: u16) {
        let last = self.runnable.back;
        let Some(slot) = self.slot_mut(index) else {
            return;
        };
        slot.is_runnable = true;
        if core::mem::replace(&mut slot.is_in_run_queue, true) {
            return;
        }
        slot.next_runnable = NONE;
        match self.slot_mut(last) {
            Some(slot) => slot.next_runnable = index,
            None => self.runnable.front = index,
        }
        self.runnable.back = index;
        self.runnable_count += 1;
    }

    /// Takes the first slot from the run queue.
    pub(super) fn pop_run_queue(&mut self) -> Option<u16> {
        let index = self.runnable.front;
        let slot = self.slot_mut(index)?;
        slot.is_in_run_queue = false;
        slot.is_runnable = false;
        let next = slot.next_runnable;
        self.runnable.front = next;
        if next == NONE {
            self.runnable.back = NONE;
        }
        self.runnable_count -= 1;
        Some(index)
    }

    /// Whether the content of the slot is in the run queue.
    #[inline]
    pub(super) fn is_runnable(&self, index: u16) -> bool {
        self.slot(index).is_some_and(|slot| slot.is_runnable)
    }

    /// Length of the run queue.
    #[inline]
    pub(super) fn runnable_count(&self) -> usize {
        self.runnable_count
    }

    /// The front of a list, and when it entered.
    pub(super) fn front(&self, queue: WaitReason) -> Option<(u16, Instant)> {
        let index = self.list(queue).front;
        self.slot(index).map(|slot| (index, slot.since))
    }

    /// Length of a list.
    pub(super) fn count_in(&self, queue: WaitReason) -> usize {
        self.list(queue).count
    }

    /// The members of a list from the front, and when each entered.
    pub(super) fn queued(
        &self,
        queue: WaitReason,
    ) -> impl Iterator<Item = (u16, &M::Content, Instant)> {
        let at = |index| self.slot(index).map(|slot| (index, slot));
        core::iter::successors(at(self.list(queue).front), move |(_, slot)| at(slot.next))
            .filter_map(|(index, slot)| Some((index, slot.content.as_ref()?, slot.since)))
    }

    /// The content of the slot, if it is occupied.
    pub(super) fn content(&self, index: u16) -> Option<&M::Content> {
        self.slot(index)?.content.as_ref()
    }

    #[inline]
    pub(super) fn content_mut(&mut self, index: u16) -> Option<&mut M::Content> {
        self.slot_mut(index)?.content.as_mut()
    }

    /// The list that the slot is in, and when it entered.
    #[inline]
    pub(super) fn place(&self, index: u16) -> Option<(WaitReason, Instant)> {
        self.slot(index).map(|slot| (slot.queue, slot.since))
    }

    /// How many contents the slot has had.
    #[inline]
    pub(super) fn generation(&self, index: u16) -> u32 {
        self.slot(index).map_or(0, |slot| slot.generation)
    }

    pub(super) fn is_full(&self) -> bool {
        self.free == NONE
    }

    pub(super) fn occupied(&self) -> usize {
        self.occupied
    }

    pub(super) fn count(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    fn slot(&self, index: u16) -> Option<&Node<M::Content>> {
        self.slots.get(usize::from(index)).map(M::node)
    }

    #[inline]
    fn slot_mut(&mut self, index: u16) -> Option<&mut Node<M::Content>> {
        self.slots.get_mut(usize::from(index)).map(M::node_mut)
    }

    #[inline]
    fn list(&self, queue: WaitReason) -> &List {
        // The lists have the order of `WaitReason`. An index costs less than a match; it is never out of range.
        let [first, ..] = &self.queues;
        self.queues.get(queue as usize).unwrap_or(first)
    }

    fn list_mut(&mut self, queue: WaitReason) -> &mut List {
        let [idle, drain, head, write] = &mut self.queues;
        match queue {
            WaitReason::Idle => idle,
            WaitReason::Drain => drain,
            WaitReason::Head => head,
            WaitReason::Write => write,
        }
    }

    fn push_back(&mut self, index: u16, queue: WaitReason, now: Instant) {
        let previous = self.list(queue).back;
        if let Some(slot) = self.slot_mut(index) {
            slot.queue = queue;
            slot.since = now;
            slot.previous = previous;
            slot.next = NONE;
        }
        match self.slot_mut(previous) {
            Some(slot) => slot.next = index,
            None => self.list_mut(queue).front = index,
        }
        let list = self.list_mut(queue);
        list.back = index;
        list.count += 1;
    }

    fn unlink(&mut self, index: u16) {
        let Some(slot) = self.slot(index) else { return };
        let (queue, previous, next) = (slot.queue, slot.previous, slot.next);
        self.list_mut(queue).count -= 1;
        match self.slot_mut(previous) {
            Some(slot) => slot.next = next,
            None => self.list_mut(queue).front = next,
        }
        match self.slot_mut(next) {
            Some(slot) => slot.previous = previous,
            None => self.list_mut(queue).back = previous,
        }
    }
}

impl<M: SlotMemory> Drop for Slots<'_, M> {
    /// An embedder gets its memory back with empty slots.
    fn drop(&mut self) {
        for slot in self.slots.iter_mut() {
            slot.node_mut().content = None;
        }
    }
}

/// For tests only.
#[cfg(test)]
impl<T> SlotMemory for Node<T> {
    type Content = T;

    fn from_node(node: Node<T>) -> Self {
        node
    }

    fn node(&self) -> &Node<T> {
        self
    }

    fn node_mut(&mut self) -> &mut Node<T> {
        self
    }
}

/// For tests only.
#[cfg(test)]
impl<M: SlotMemory> Slots<'_, M> {
    pub(super) fn contents(&self) -> impl Iterator<Item = &M::Content> {
        let nodes = self.slots.iter().map(M::node);
        nodes.filter_map(|slot| slot.content.as_ref())
    }

    /// The run queue from the front. If it has no end, one more than there are slots.
    pub(super) fn run_queue(&self) -> impl Iterator<Item = u16> {
        let known = |index| (index != NONE).then_some(index);
        core::iter::successors(known(self.runnable.front), move |index| {
            known(self.slot(*index)?.next_runnable)
        })
        .take(self.count() + 1)
    }

    /// Panics unless every slot is either occupied or free, and the run queue is consistent.
    pub(super) fn assert_whole(&self) {
        let free = core::iter::successors(self.slot(self.free), |slot| self.slot(slot.next))
            .take(self.count() + 1)
            .inspect(|slot| assert!(slot.content.is_none(), "a free slot is occupied"))
            .count();
        assert_eq!(free + self.occupied, self.count(), "slots are lost");
        assert_eq!(self.contents().count(), self.occupied);
        let nodes = || self.slots.iter().map(M::node);
        let listed = nodes().filter(|slot| slot.is_in_run_queue).count();
        assert_eq!(
            listed, self.runnable_count,
            "the length of the run queue is wrong"
        );
        assert_eq!(self.run_queue().count(), listed, "the run queue is broken");
        let last = self.run_queue().last().unwrap_or(NONE);
        assert_eq!(
            self.runnable.back, last,
            "the back of the run queue is wrong"
        );
        for slot in nodes() {
            assert!(
                slot.is_in_run_queue || !slot.is_runnable,
                "a runnable slot is not in the run queue"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    fn queued<T>(slots: &Slots<'_, Node<T>>, queue: WaitReason) -> Vec<u16> {
        let mut members = Vec::new();
        let mut index = slots.list(queue).front;
        while let Some(slot) = slots.slot(index) {
            assert_eq!(slot.previous, members.last().copied().unwrap_or(NONE));
            members.push(index);
            index = slot.next;
        }
        assert_eq!(
            slots.list(queue).back,
            members.last().copied().unwrap_or(NONE)
        );
        assert_eq!(slots.list(queue).count, members.len());
        members
    }

    #[test]
    fn a_full_table_accepts_no_more_until_one_is_removed() {
        let mut slots = Slots::<Node<_>>::new(2);
        assert_eq!(slots.insert('a', WaitReason::Idle, at(0)), Ok(0));
        assert_eq!(slots.insert('b', WaitReason::Idle, at(0)), Ok(1));
        assert!(slots.is_full());
        assert_eq!(slots.insert('c', WaitReason::Idle, at(0)), Err('c'));
        assert_eq!(slots.remove(0), Some('a'));
        assert_eq!(slots.remove(0), None);
        let before = slots.generation(0);
        assert_eq!(slots.insert('c', WaitReason::Idle, at(0)), Ok(0));
        assert_ne!(slots.generation(0), before);
    }

    #[test]
    fn a_slot_with_an_earlier_time_keeps_its_list_in_order() {
        let mut slots = Slots::<Node<_>>::new(3);
        for (index, queue) in [
            (0, WaitReason::Write),
            (1, WaitReason::Head),
            (2, WaitReason::Head),
        ] {
            slots.insert((), queue, at(index)).unwrap();
        }
        slots.move_to(0, WaitReason::Head, at(1));
        let since: Vec<_> = slots
            .queued(WaitReason::Head)
            .map(|(.., since)| since)
            .collect();
        assert_eq!(since, [at(1), at(2), at(2)]);
        // The same move again changes nothing.
        slots.move_to(0, WaitReason::Head, at(1));
        assert_eq!(slots.place(0), Some((WaitReason::Head, at(2))));
    }

    #[test]
    fn the_run_queue_is_first_come_first_served_and_has_each_slot_once() {
        let mut slots = Slots::<Node<char>>::new(3);
        for index in [2, 0, 2, 1, 7] {
            slots.push_run_queue(index);
        }
        assert_eq!(slots.runnable_count(), 3);
        assert_eq!(slots.pop_run_queue(), Some(2));
        slots.push_run_queue(2);
        let rest = core::array::from_fn(|_| slots.pop_run_queue());
        assert_eq!(rest, [Some(0), Some(1), Some(2), None]);
        assert_eq!(slots.runnable_count(), 0);
        slots.push_run_queue(0);
        assert_eq!(slots.pop_run_queue(), Some(0));
    }

    /// Regression: a new connection waited for the quantum of the one that was evicted for it.
    #[test]
    fn new_content_in_a_slot_of_the_run_queue_is_not_runnable() {
        let mut slots = Slots::<Node<_>>::new(2);
        assert_eq!(slots.insert('a', WaitReason::Head, at(0)), Ok(0));
        slots.push_run_queue(0);
        assert!(slots.is_runnable(0));
        assert_eq!(slots.remove(0), Some('a'));
        assert_eq!(slots.insert('b', WaitReason::Idle, at(1)), Ok(0));
        assert!(!slots.is_runnable(0));
        // It is in the run queue once, also if the new content is runnable too.
        slots.push_run_queue(0);
        assert!(slots.is_runnable(0));
        assert_eq!(slots.runnable_count(), 1);
        assert_eq!(
            (slots.pop_run_queue(), slots.pop_run_queue()),
            (Some(0), None)
        );
        assert!(!slots.is_runnable(0));
    }

    /// Three slots with one content and one entry in the run queue.
    fn broken(damage: impl FnOnce(&mut Slots<'static, Node<char>>)) {
        let mut slots = Slots::<Node<_>>::new(3);
        slots.insert('a', WaitReason::Idle, at(0)).unwrap();
        slots.push_run_queue(0);
        slots.assert_whole();
        damage(&mut slots);
        slots.assert_whole();
    }

    #[test]
    #[should_panic(expected = "slots are lost")]
    fn a_lost_slot_is_detected() {
        broken(|slots| slots.free = 2);
    }

    #[test]
    #[should_panic(expected = "slots are lost")]
    fn a_free_list_without_end_is_detected() {
        broken(|slots| slots.slots[2].next = 1);
    }

    #[test]
    #[should_panic(expected = "a free slot is occupied")]
    fn a_slot_both_free_and_occupied_is_detected() {
        broken(|slots| slots.slots[2].next = 0);
    }

    #[test]
    #[should_panic(expected = "the run queue is broken")]
    fn a_run_queue_without_end_is_detected() {
        broken(|slots| slots.slots[0].next_runnable = 0);
    }

    #[test]
    #[should_panic(expected = "a runnable slot is not in the run queue")]
    fn a_runnable_slot_outside_the_run_queue_is_detected() {
        broken(|slots| slots.slots[1].is_runnable = true);
    }

    #[test]
    fn the_debug_text_of_a_slot_shows_nothing_of_its_content() {
        assert_eq!(std::format!("{:?}", Slot::default()), "Slot { .. }");
    }

    #[test]
    fn borrowed_slots_are_returned_empty() {
        let held = std::rc::Rc::new(());
        let mut memory = [const { Node::new() }; 2];
        for _ in 0..2 {
            let mut slots = Slots::in_memory(Managed::Borrowed(&mut memory[..]));
            slots.insert(held.clone(), WaitReason::Idle, at(0)).unwrap();
            assert_eq!(slots.count(), 2);
            drop(slots);
            assert_eq!(std::rc::Rc::strong_count(&held), 1);
        }
    }

    /// Runs every sequence of five insertions, moves and removals over three slots.
    #[test]
    fn lists_stay_consistent_in_every_sequence_of_operations() {
        const OPERATIONS: usize = 3 * 3;
        const STEPS: u32 = 5;
        for sequence in 0..OPERATIONS.pow(STEPS) {
            let mut slots = Slots::<Node<_>>::new(3);
            let mut model: Vec<(u16, WaitReason, u64)> = Vec::new();
            let mut rest = sequence;
            for step in 0..u64::from(STEPS) {
                let (operation, index) = (rest % OPERATIONS / 3, (rest % 3) as u16);
                rest /= OPERATIONS;
                let queue = if index == 0 {
                    WaitReason::Head
                } else {
                    WaitReason::Idle
                };
                let known = model.iter().position(|(member, ..)| *member == index);
                match (operation, known) {
                    (0, _) => {
                        if let Ok(index) = slots.insert((), queue, at(step)) {
                            model.push((index, queue, step));
                        }
                    }
                    (1, Some(place)) => {
                        model.remove(place);
                        model.push((index, queue, step));
                        slots.move_to(index, queue, at(step));
                    }
                    (2, Some(place)) => {
                        model.remove(place);
                        assert!(slots.remove(index).is_some());
                    }
                    _ => {}
                }
                for queue in WaitReason::ALL {
                    let want: Vec<u16> =
                        model.iter().filter(|m| m.1 == queue).map(|m| m.0).collect();
                    assert_eq!(
                        queued(&slots, queue),
                        want,
                        "sequence {sequence} step {step}"
                    );
                    let since = model.iter().find(|m| m.1 == queue).map(|m| (m.0, at(m.2)));
                    assert_eq!(slots.front(queue), since);
                }
                assert_eq!(slots.occupied(), model.len());
            }
        }
    }
}
