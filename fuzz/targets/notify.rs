//! Fuzzes the messages of sd_notify(3) and what is concluded from them; compiled as for the target `response`.
#![no_main]

#[path = "../../src/sources/kinds"]
#[allow(dead_code, reason = "the callers are not compiled here")]
mod kinds {
    pub mod heartbeat {
        pub mod fuzz;
        mod message;
        mod state;
    }
    mod text;
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| kinds::heartbeat::fuzz::notify(data));
