//! Logging that cannot block: env_logger formats records, a bounded queue holds them, and a thread writes
//! them to standard error.
//!
//! A thread that logs never waits for standard error. Each successful write beats the `log` check; if there
//! is nothing to write, [`verify`] tests whether a write would succeed.
//!
//! A record is one line, `2026-11-23T09:00:00.123Z INFO  healthz: text`. Control characters are escaped. Set up
//! by [`super::serve`].

mod queue;
mod writer;

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use healthz::Check;
use healthz::time::DateTime;
use log::LevelFilter;
use signal_hook::consts::SIGXFSZ;
use signal_hook::flag;

use super::start_latch::StartLatch;
use queue::{CHUNK_BYTES, Queue};
use writer::Sink;

/// Stack of the log's thread in bytes: several times its buffer and the calls of std.
pub const STACK_BYTES: usize = 64 * 1024;

/// Name of the thread that writes.
pub const THREAD: &str = "log";

static QUEUE: Queue = Queue::new();

/// Installs the queue as the logger of this process. Records are written only after [`start`]. `level` comes from
/// the command line; without it `RUST_LOG` decides, or else `info`.
///
/// # Errors
/// If a logger is already installed.
pub fn collect(level: Option<LevelFilter>) -> io::Result<()> {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level.unwrap_or(LevelFilter::Info));
    let filters = std::env::var("RUST_LOG").unwrap_or_default();
    let mut wrong = None;
    if level.is_none() && !filters.is_empty() {
        // env_logger would print parse errors to standard error, which can block.
        match env_filter::Builder::new().try_parse(&filters) {
            Ok(_) => drop(builder.parse_filters(&filters)),
            Err(error) => wrong = Some(error),
        }
    }
    builder
        .target(env_logger::Target::Pipe(Box::new(Records)))
        .format(|line, record| {
            // The crate's name, without its modules.
            let program = record.target().split("::").next().unwrap_or_default();
            let prefix = Prefix(record.level().as_str(), program);
            writeln!(line, "{prefix}{}", OneLine(*record.args()))
        })
        .try_init()
        .map_err(io::Error::other)?;
    if let Some(error) = wrong {
        log::warn!("RUST_LOG: {error}; logging at info");
    }
    Ok(())
}

/// Starts the writer on standard error. It beats `check`, and reports to `latch` that it has started.
///
/// # Errors
/// If the system has no thread or descriptor for it.
pub fn start(check: &'static Check, latch: StartLatch) -> io::Result<()> {
    // RLIMIT_FSIZE sends SIGXFSZ, which would end the process. With a handler, the write fails instead.
    flag::register(SIGXFSZ, Arc::default())?;
    let mut sink = Sink::new(&io::stderr())?;
    // In the heap, where only the pages that records have filled are resident. On the stack, all would be.
    let mut chunk = vec![0; CHUNK_BYTES];
    // The limit counts from now, also if standard error never accepts a byte.
    check.beat(healthz::server::now());
    let thread = std::thread::Builder::new()
        .name(THREAD.to_owned())
        .stack_size(STACK_BYTES);
    thread.spawn(move || {
        latch.report_started();
        writer::run(&QUEUE, &mut sink, &mut chunk, check)
    })?;
    Ok(())
}

/// Queues lines that are not log records: the error that ends the daemon, or several mistakes in the check file.
pub fn print_lines(text: &dyn fmt::Display) {
    for line in text.to_string().lines() {
        QUEUE.push(format!("healthz: {}\n", OneLine(format_args!("{line}"))).as_bytes());
    }
}

/// Makes the writer test whether standard error accepts writes; see [`writer`].
pub fn verify() {
    QUEUE.probe();
}

/// How many records were dropped since the start. Never waits.
pub fn dropped() -> u64 {
    QUEUE.dropped()
}

/// Waits until everything was written, for at most `timeout`.
pub fn flush(timeout: Duration) {
    QUEUE.flush(timeout);
}

/// The line that reports how many records were dropped before it.
fn dropped_report(count: u64) -> String {
    let prefix = Prefix("WARN", "healthz");
    let were = if count == 1 {
        "record was"
    } else {
        "records were"
    };
    format!("{prefix}{count} log {were} dropped while standard error was blocked or failed\n")
}

/// The target of env_logger: each write is one whole record.
struct Records;

impl Write for Records {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        QUEUE.push(record);
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The start of each record: time, level and crate.
struct Prefix<'a>(&'a str, &'a str);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Prefix(level, target) = self;
        // A wall clock before 1970 was never set.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let time = Utc(since.unwrap_or_default());
        write!(f, "{time} {level:<5} {target}: ")
    }
}

/// A time since 1970 in the format of RFC 3339.
struct Utc(Duration);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.subsec_millis();
        let DateTime {
            year,
            month,
            day,
            hour,
            minute,
            second,
            ..
        } = DateTime::from_unix_seconds(self.0.as_secs());
        write!(
            f,
            "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
        )
    }
}

/// Text with its control characters escaped.
struct OneLine<'a>(fmt::Arguments<'a>);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::write(&mut Escaping(f), self.0)
    }
}

struct Escaping<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(char::is_control) {
            match piece.char_indices().next_back() {
                Some((at, last)) if last.is_control() => {
                    self.0.write_str(piece.get(..at).unwrap_or_default())?;
                    write!(self.0, "{}", last.escape_default())?;
                }
                _ => self.0.write_str(piece)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        for (seconds, millis, expected) in [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (68_169_599, 999, "1972-02-28T23:59:59.999Z"),
            (68_169_600, 1, "1972-02-29T00:00:00.001Z"),
            (951_868_800, 0, "2000-03-01T00:00:00.000Z"),
            (1_795_424_523, 45, "2026-11-23T09:02:03.045Z"),
            (4_107_542_399, 0, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000Z"),
        ] {
            let time = Duration::from_millis(seconds * 1000 + millis);
            assert_eq!(Utc(time).to_string(), expected);
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        let text = OneLine(format_args!("a\nb\r\x1b[2J\u{9b}{}ü\t", "\u{7f}x")).to_string();
        assert_eq!(text, "a\\nb\\r\\u{1b}[2J\\u{9b}\\u{7f}xü\\t");
        assert_eq!(OneLine(format_args!("\"ü")).to_string(), "\"ü");
    }

    #[test]
    fn verify_requests_a_test_of_the_sink() {
        use super::queue::{Outcome, Task};
        verify();
        let (sender, task) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(QUEUE.next(&mut [0; CHUNK_BYTES])));
        let task = task.recv_timeout(Duration::from_secs(20));
        assert_eq!(task, Ok(Task::Probe));
        QUEUE.finish(Outcome::Done);
    }

    #[test]
    fn the_report_says_how_many_records_were_dropped() {
        assert!(dropped_report(1).ends_with(
            " WARN  healthz: 1 log record was dropped while standard error was blocked or failed\n"
        ));
        assert!(
            dropped_report(7).ends_with(
                " 7 log records were dropped while standard error was blocked or failed\n"
            )
        );
    }
}
