//! The system's allocator, with a function of the test called for each allocation and each free.
#![allow(
    unsafe_code,
    reason = "a global allocator is unsafe to implement; this one only counts"
)]

use std::alloc::{GlobalAlloc, Layout, System};

/// The function that is called with the number of bytes allocated; negative for bytes freed. It must
/// not allocate.
pub struct Counting(pub fn(i64));

impl Counting {
    fn count(&self, allocated: usize, freed: usize) {
        (self.0)(allocated as i64 - freed as i64);
    }
}

// SAFETY: every call is passed to `System` unchanged; counting touches neither memory nor layout.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.count(layout.size(), 0);
        // SAFETY: the caller keeps this function's contract, and `System` has the same one.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.count(layout.size(), 0);
        // SAFETY: the caller keeps this function's contract, and `System` has the same one.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.count(size, layout.size());
        // SAFETY: the caller keeps this function's contract, and `System` has the same one.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.count(0, layout.size());
        // SAFETY: the caller keeps this function's contract, and `System` has the same one.
        unsafe { System.dealloc(pointer, layout) }
    }
}
