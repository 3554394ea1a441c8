//! Fuzzes what the checks of HTTP services parse. They are part of a program, so this crate cannot depend on them;
//! the modules are compiled here instead.
#![no_main]

#[path = "../../src/response.rs"]
#[allow(dead_code, reason = "the callers are not compiled here")]
mod response;

#[path = "../../src/sources/kinds"]
#[allow(dead_code, reason = "the callers are not compiled here")]
mod kinds {
    pub mod http {
        pub mod fuzz;
        mod response;
    }
    mod text;
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| kinds::http::fuzz::response(data));
