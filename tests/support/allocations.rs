//! The system's allocator, which tells a function of the test's about every call.
#![allow(
    unsafe_code,
    reason = "a global allocator is unsafe to implement; this one only counts"
)]

use std::alloc::{GlobalAlloc, Layout, System};

/// What is to be called with the bytes that are added or, below zero, given back. It must not
/// allocate.
pub struct Counting(pub fn(i64));

impl Counting {
    fn count(&self, added: usize, given_back: usize) {
        (self.0)(added as i64 - given_back as i64);
    }
}

// SAFETY: every call goes to `System` as it came; counting touches neither memory nor layout.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.count(layout.size(), 0);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.count(layout.size(), 0);
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.count(size, layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.count(0, layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}
