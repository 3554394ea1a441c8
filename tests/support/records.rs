//! A global logger that keeps the records of each thread apart, so that a test sees only those of its own server.
#![allow(dead_code, reason = "each test file uses a part")]

use std::cell::RefCell;
use std::sync::Once;

use log::{Level, LevelFilter, Log, Metadata, Record};

thread_local! {
    static RECORDS: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let record = (record.level(), record.args().to_string());
        RECORDS.with_borrow_mut(|records| records.push(record));
    }

    fn flush(&self) {}
}

/// Logs from here on, at all levels.
pub fn begin() {
    static LOGGER: Once = Once::new();
    LOGGER.call_once(|| {
        log::set_logger(&Logger).unwrap();
        log::set_max_level(LevelFilter::Trace);
    });
}

/// Takes all records of this thread, and returns those at `level`.
pub fn records(level: Level) -> Vec<String> {
    let records = RECORDS.take().into_iter();
    let at_level = records.filter(|(at, _)| *at == level);
    at_level.map(|(_, text)| text).collect()
}
