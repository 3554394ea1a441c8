//! Between C and Rust: pointers that may be null, texts that may be anything, and panics that end here.

use core::ffi::{CStr, c_char};
use core::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use super::HealthzResult::{self, HEALTHZ_BROKEN, HEALTHZ_INVALID, HEALTHZ_OK};
use super::block::{Door, Settings};
use super::text::Problem;
use super::{HealthzCheck, HealthzOptions};
use crate::check::Check;

/// # Safety
/// `options` is null or options, `door` null or a place for a pointer.
pub(super) unsafe fn create(
    options: *const HealthzOptions,
    door: *mut *mut Door,
    make: impl FnOnce(Settings) -> Result<*mut Door, HealthzResult>,
) -> HealthzResult {
    // SAFETY: as our caller promises.
    let (options, door) = unsafe { (options.as_ref(), door.as_mut()) };
    let Some(door) = door else {
        return HEALTHZ_INVALID;
    };
    *door = ptr::null_mut();
    let made = catch_unwind(AssertUnwindSafe(|| {
        make(Settings::of(options).ok_or(HEALTHZ_INVALID)?)
    }));
    match made {
        Ok(Ok(made)) => {
            *door = made;
            HEALTHZ_OK
        }
        Ok(Err(result)) => result,
        Err(_) => HEALTHZ_BROKEN,
    }
}

/// Runs `act` on a door that is fit for it, and keeps what went wrong for healthz_error().
///
/// # Safety
/// `door` is null, or a door that lives and that nobody else uses now.
pub(super) unsafe fn with(
    door: *mut Door,
    act: impl FnOnce(&mut Door) -> Result<(), Problem>,
) -> HealthzResult {
    if !door.is_aligned() {
        return HEALTHZ_INVALID;
    }
    // SAFETY: as our caller promises.
    let Some(door) = (unsafe { door.as_mut() }) else {
        return HEALTHZ_INVALID;
    };
    if door.is_broken() {
        return HEALTHZ_BROKEN;
    }
    match catch_unwind(AssertUnwindSafe(|| act(&mut *door))) {
        Ok(Ok(())) => HEALTHZ_OK,
        Ok(Err(problem)) => door.keep(problem),
        Err(_) => door.is_now_broken(),
    }
}

/// # Safety
/// As [`with`]; `name` is null or a text, `check` null or a place for a pointer.
pub(super) unsafe fn add(
    door: *mut Door,
    name: *const c_char,
    endpoints: u32,
    check: *mut *const HealthzCheck,
    make: impl FnOnce(&'static str) -> Result<Check, Problem>,
) -> HealthzResult {
    // SAFETY: as our caller promises.
    unsafe {
        with(door, |door| {
            let check = place(check, "check")?;
            let name = text_of(name, "name")?;
            *check = door.add(endpoints, |room| make(room.keep(name)?))?;
            Ok(())
        })
    }
}

/// # Safety
/// Null, or a place for a `T` that is the caller's alone.
pub(super) unsafe fn place<'a, T>(place: *mut T, what: &str) -> Result<&'a mut T, Problem> {
    // SAFETY: as our caller promises.
    unsafe { place.as_mut() }.ok_or_else(|| Problem::invalid(format_args!("{what} is NULL")))
}

/// # Safety
/// Null, or a text that ends with a 0 and stays as it is for as long as the result is used.
pub(super) unsafe fn text_of<'a>(text: *const c_char, what: &str) -> Result<&'a str, Problem> {
    if text.is_null() {
        return Err(Problem::invalid(format_args!("{what} is NULL")));
    }
    // SAFETY: as our caller promises.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str()
        .map_err(|_| Problem::invalid(format_args!("{what} is not UTF-8")))
}

/// The first bytes of a text, at most `max`; no byte after its end is touched.
///
/// # Safety
/// A text that ends with a 0, or is at least `max` long, and stays as it is.
pub(super) unsafe fn bytes_of<'a>(text: *const c_char, max: usize) -> &'a [u8] {
    let mut count = 0;
    // SAFETY: no byte before this one was the last.
    while count < max && unsafe { *text.add(count) } != 0 {
        count += 1;
    }
    // SAFETY: all of them were read just now.
    unsafe { core::slice::from_raw_parts(text.cast(), count) }
}

/// Text as far as it is UTF-8, and question marks. Without the heap.
pub(super) struct Lossy<'a>(pub(super) &'a [u8]);

impl fmt::Display for Lossy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_str("?")?;
            }
        }
        Ok(())
    }
}
