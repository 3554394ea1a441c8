//! Fuzzes the parser of `--check` and of the check file. The daemon is a program, so this crate cannot depend
//! on it; the modules are compiled here instead.
#![no_main]

#[path = "../../src/nearest.rs"]
mod nearest;

#[path = "../../src/units.rs"]
#[allow(dead_code, reason = "the callers in the daemon are not compiled here")]
mod units;

#[path = "../../src/url.rs"]
#[allow(dead_code, reason = "the callers in the daemon are not compiled here")]
mod url;

#[path = "../../src/sources"]
#[allow(dead_code, reason = "the callers in the daemon are not compiled here")]
mod sources {
    pub mod config;
    pub mod spec;
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| sources::config::fuzz::checkfile(data));
