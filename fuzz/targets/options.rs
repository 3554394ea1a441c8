//! Fuzzes the text parsers of the daemon. The daemon is a program, so this crate cannot depend on it; the
//! modules are compiled here instead.
#![no_main]

#[path = "../../src/nearest.rs"]
mod nearest;

#[path = "../../src/units.rs"]
#[allow(dead_code, reason = "the callers in the daemon are not compiled here")]
mod units;

#[path = "../../src/usage.rs"]
#[allow(dead_code, reason = "the callers in the program are not compiled here")]
mod usage;

#[path = "../../src/daemon"]
#[allow(dead_code, reason = "the callers in the daemon are not compiled here")]
mod daemon {
    pub mod fuzz;
    mod port_owner;
    mod notify;
    mod outage;
    mod options;
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| daemon::fuzz::options(data));
