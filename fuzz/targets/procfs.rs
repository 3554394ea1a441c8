//! Fuzzes the parsers of /proc and /sys. The sources process is a program, so this crate cannot depend on it;
//! the modules are compiled here instead.
#![no_main]

#[path = "../../src/sources/kinds"]
#[allow(dead_code, reason = "the callers in the program are not compiled here")]
mod kinds {
    pub mod fuzz;
    mod procfs;
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| kinds::fuzz::procfs(data));
