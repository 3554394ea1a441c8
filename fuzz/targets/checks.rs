#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| healthz::answer::fuzz::checks(data));
