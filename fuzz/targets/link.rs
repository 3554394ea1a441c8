//! Fuzzes the messages that the server receives from the sources processes; compiled as for the target `checkfile`.
#![no_main]

#[path = "../../src/units.rs"]
#[allow(dead_code, reason = "the callers in the daemon are not compiled here")]
mod units;

#[path = "../../src/url.rs"]
#[allow(dead_code, reason = "the callers in the daemon are not compiled here")]
mod url;

#[path = "../../src/sources"]
#[allow(dead_code, reason = "the callers in the daemon are not compiled here")]
mod sources {
    pub mod link;
    pub mod runs;
    pub mod spec;
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| sources::link::fuzz(data));
