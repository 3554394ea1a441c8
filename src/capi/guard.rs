//! Argument checks and panic handling for the functions of the C API.
//!
//! Pointers may be null and strings may contain any bytes; neither causes undefined behaviour. Panics are
//! caught here, so that they do not unwind into C. The functions of `capi` call this module; it knows nothing
//! about what each of them does.

use core::ffi::{CStr, c_char};
use core::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use super::HealthzResult::{self, HEALTHZ_BROKEN, HEALTHZ_INVALID, HEALTHZ_OK};
use super::block::{Healthz, Settings};
use super::error::CallError;
use super::{HealthzCheck, HealthzOptions};
use crate::check::Check;

/// Creates a server with `make` and stores it in `*server`.
///
/// # Safety
/// `options` is null or valid, `server` is null or can be written to.
pub(super) unsafe fn create(
    options: *const HealthzOptions,
    server: *mut *mut Healthz,
    make: impl FnOnce(Settings) -> Result<*mut Healthz, HealthzResult>,
) -> HealthzResult {
    // SAFETY: as our caller promises.
    let (options, server) = unsafe { (options.as_ref(), server.as_mut()) };
    let Some(server) = server else {
        return HEALTHZ_INVALID;
    };
    *server = ptr::null_mut();
    let made = catch_unwind(AssertUnwindSafe(|| {
        make(Settings::of(options).ok_or(HEALTHZ_INVALID)?)
    }));
    match made {
        Ok(Ok(made)) => {
            *server = made;
            HEALTHZ_OK
        }
        Ok(Err(result)) => result,
        Err(_) => HEALTHZ_BROKEN,
    }
}

/// Calls `act` with the server, unless it is null or broken, and stores an error for healthz_error().
///
/// # Safety
/// `server` is null, or a server that exists and that no other thread uses now.
pub(super) unsafe fn with_server(
    server: *mut Healthz,
    act: impl FnOnce(&mut Healthz) -> Result<(), CallError>,
) -> HealthzResult {
    if !server.is_aligned() {
        return HEALTHZ_INVALID;
    }
    // SAFETY: as our caller promises.
    let Some(server) = (unsafe { server.as_mut() }) else {
        return HEALTHZ_INVALID;
    };
    if server.is_broken() {
        return HEALTHZ_BROKEN;
    }
    match catch_unwind(AssertUnwindSafe(|| act(&mut *server))) {
        Ok(Ok(())) => HEALTHZ_OK,
        Ok(Err(error)) => server.record(error),
        Err(_) => server.mark_broken(),
    }
}

/// Adds the check that `make` returns for the name.
///
/// # Safety
/// As [`with_server`]; `name` is null or a string, `check` is null or can be written to.
pub(super) unsafe fn add_check(
    server: *mut Healthz,
    name: *const c_char,
    flags: u32,
    check: *mut *const HealthzCheck,
    make: impl FnOnce(&str) -> Result<Check, CallError>,
) -> HealthzResult {
    // SAFETY: as our caller promises.
    unsafe {
        with_server(server, |server| {
            let check = out_pointer(check, "check")?;
            let name = str_from_c(name, "name")?;
            *check = server.add(flags, || match Check::is_name(name) {
                true => make(name),
                false => Err(CallError::invalid(format_args!(
                    "{name:?} is not a valid check name; use 1 to 127 bytes of A-Z a-z 0-9 . _ / -"
                ))),
            })?;
            Ok(())
        })
    }
}

/// A pointer to write a result to; an error if it is null.
///
/// # Safety
/// Null, or valid for writing a `T` and used by nothing else.
pub(super) unsafe fn out_pointer<'a, T>(
    pointer: *mut T,
    what: &str,
) -> Result<&'a mut T, CallError> {
    // SAFETY: as our caller promises.
    unsafe { pointer.as_mut() }.ok_or_else(|| CallError::invalid(format_args!("{what} is NULL")))
}

/// A C string as a `str`; an error if it is null or not UTF-8.
///
/// # Safety
/// Null, or a string that ends with a NUL and does not change while the result is used.
pub(super) unsafe fn str_from_c<'a>(text: *const c_char, what: &str) -> Result<&'a str, CallError> {
    if text.is_null() {
        return Err(CallError::invalid(format_args!("{what} is NULL")));
    }
    // SAFETY: as our caller promises.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str()
        .map_err(|_| CallError::invalid(format_args!("{what} is not UTF-8")))
}

/// The bytes of a string before its NUL, at most `max`. Reads nothing beyond the NUL.
///
/// # Safety
/// A string that ends with a NUL or is at least `max` long, and does not change.
pub(super) unsafe fn bytes_until_nul<'a>(text: *const c_char, max: usize) -> &'a [u8] {
    let mut count = 0;
    // SAFETY: no byte before this one was the NUL, and it is within `max`.
    while count < max && unsafe { *text.add(count) } != 0 {
        count += 1;
    }
    // SAFETY: the loop above has read all of these bytes.
    unsafe { core::slice::from_raw_parts(text.cast(), count) }
}

/// Formats bytes as text, with a question mark for each invalid UTF-8 sequence. Allocates nothing.
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
