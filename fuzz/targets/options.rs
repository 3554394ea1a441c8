//! The daemon is a program, which no crate can depend on: what reads text in it is compiled in here.
#![no_main]

#[path = "../../src/daemon"]
#[allow(dead_code, reason = "the rest of the daemon is not here to use it")]
mod daemon {
    mod duration;
    pub mod fuzz;
    mod holder;
    mod notify;
    mod options;
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| daemon::fuzz::options(data));
