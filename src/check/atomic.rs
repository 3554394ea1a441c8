//! Selects the crate whose atomic integers the core uses. No other file of the core takes them from a crate.
//!
//! - `core`: on processors with atomic integers of 64 bits.
//! - `portable_atomic` (feature `portable-atomic`): the same types on all processors. Where the processor has atomic
//!   integers of 64 bits, they are those of `core`. Where it has not, `portable_atomic` takes a lock or stops
//!   interrupts; `docs/embed.md` says which.
//! - `loom` (`--cfg loom`): tests try every interleaving of the accesses.

#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(not(loom))]
pub(super) use plain::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// Not loom's, also under loom: for integers through which no other memory is published.
pub(super) mod plain {
    #[cfg(not(feature = "portable-atomic"))]
    pub(in crate::check) use core::sync::atomic::*;
    #[cfg(feature = "portable-atomic")]
    pub(in crate::check) use portable_atomic::*;
}
