#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| healthz_fuzz::differential(data));
