//! The figures of the daemon's own process, with the names and help texts that Prometheus' client libraries use.
//!
//! A figure that this kernel does not give is left out.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use healthz::answer::{MetricType, MetricsWriter};
use nix::sys::resource::{Resource, getrlimit};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use super::super::sys;

static PROCESS: OnceLock<Process> = OnceLock::new();

/// What is open and known from the start.
struct Process {
    stat: Option<File>,
    /// The directory of the descriptors.
    fds: Option<File>,
    page_bytes: Option<u64>,
    fds_max: Option<u64>,
    start: Option<Start>,
}

/// When the program was started.
struct Start {
    /// On a clock that counts suspend, as the wall clock does.
    boot_time: Duration,
    /// In milliseconds since 1970; 0 before the first scrape.
    unix_millis: AtomicU64,
}

/// See [`super::prepare`].
pub fn prepare() {
    PROCESS.get_or_init(|| Process {
        stat: File::open("/proc/self/stat").ok(),
        fds: File::open("/proc/self/fd").ok(),
        page_bytes: sysconf(SysconfVar::PAGE_SIZE)
            .ok()
            .flatten()
            .and_then(|bytes| u64::try_from(bytes).ok()),
        fds_max: getrlimit(Resource::RLIMIT_NOFILE)
            .ok()
            .map(|(soft, _)| soft),
        start: time(ClockId::CLOCK_BOOTTIME).map(|boot_time| Start {
            boot_time,
            unix_millis: AtomicU64::new(0),
        }),
    });
}

/// The figures at a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub struct Values {
    cpu_nanoseconds: Option<u64>,
    fds_max: Option<u64>,
    fds_open: Option<u64>,
    resident_bytes: Option<u64>,
    start_millis: Option<u64>,
    virtual_bytes: Option<u64>,
}

impl Values {
    #[cfg(test)]
    pub const LARGEST: Values = Values {
        cpu_nanoseconds: Some(u64::MAX),
        fds_max: Some(u64::MAX),
        fds_open: Some(u64::MAX),
        resident_bytes: Some(u64::MAX),
        start_millis: Some(u64::MAX / 1_000_000),
        virtual_bytes: Some(u64::MAX),
    };

    /// Reads the figures: two system calls on descriptors that are open, and clocks.
    pub fn read() -> Self {
        let Some(process) = PROCESS.get() else {
            return Values::default();
        };
        let memory = process.stat.as_ref().and_then(memory);
        let resident_pages = memory.map(|memory| memory.resident_pages);
        Values {
            cpu_nanoseconds: time(ClockId::CLOCK_PROCESS_CPUTIME_ID)
                .and_then(|time| u64::try_from(time.as_nanos()).ok()),
            fds_max: process.fds_max,
            fds_open: process.fds.as_ref().and_then(open_fds),
            resident_bytes: resident_pages
                .zip(process.page_bytes)
                .and_then(|(pages, bytes)| pages.checked_mul(bytes)),
            start_millis: process.start.as_ref().and_then(Start::unix_millis),
            virtual_bytes: memory.map(|memory| memory.virtual_bytes),
        }
    }

    /// Writes the figures that are known.
    pub fn write(&self, text: &mut MetricsWriter<'_, '_>) {
        const CPU: &str = "process_cpu_seconds_total";
        const START: &str = "process_start_time_seconds";
        if let Some(nanoseconds) = self.cpu_nanoseconds {
            let help = "Total user and system CPU time spent in seconds.";
            text.family(CPU, MetricType::Counter, help);
            text.sample_seconds(CPU, &[], nanoseconds);
        }
        for (value, name, help) in [
            (
                self.fds_max,
                "process_max_fds",
                "Maximum number of open file descriptors.",
            ),
            (
                self.fds_open,
                "process_open_fds",
                "Number of open file descriptors.",
            ),
            (
                self.resident_bytes,
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
            ),
            (
                self.virtual_bytes,
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes.",
            ),
        ] {
            if let Some(value) = value {
                text.family(name, MetricType::Gauge, help);
                text.sample(name, &[], value);
            }
        }
        if let Some(nanoseconds) = self.start_millis.and_then(|ms| ms.checked_mul(1_000_000)) {
            let help = "Start time of the process since unix epoch in seconds.";
            text.family(START, MetricType::Gauge, help);
            text.sample_seconds(START, &[], nanoseconds);
        }
    }
}

fn time(clock: ClockId) -> Option<Duration> {
    clock_gettime(clock).ok().map(Duration::from)
}

impl Start {
    fn unix_millis(&self) -> Option<u64> {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let age = time(ClockId::CLOCK_BOOTTIME)?.saturating_sub(self.boot_time);
        let millis = u64::try_from(unix.checked_sub(age)?.as_millis()).ok()?;
        Some(self.settle(millis))
    }

    /// The start as it was computed before, unless the wall clock was set since. The two clocks are not read at the same
    /// moment, and a start time that moves by a millisecond would look like a restart.
    fn settle(&self, millis: u64) -> u64 {
        const STEP_MILLIS_MIN: u64 = 1000;
        let known = self.unix_millis.load(Ordering::Relaxed);
        if known.abs_diff(millis) < STEP_MILLIS_MIN {
            return known;
        }
        self.unix_millis.store(millis, Ordering::Relaxed);
        millis
    }
}

/// How many descriptors are open: since Linux 6.2, the size of their directory. Before that its size is 0.
fn open_fds(directory: &File) -> Option<u64> {
    sys::file_size(directory).ok().filter(|count| *count > 0)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Memory {
    virtual_bytes: u64,
    resident_pages: u64,
}

fn memory(stat: &File) -> Option<Memory> {
    // Its first 24 fields have at most 500 bytes.
    let mut buffer = [0; 1024];
    let length = stat.read_at(&mut buffer, 0).ok()?;
    parse(buffer.get(..length)?)
}

/// Reads `vsize` and `rss`, the fields 23 and 24 of proc_pid_stat(5).
fn parse(stat: &[u8]) -> Option<Memory> {
    // The name in the second field can have parentheses and spaces, and what follows has none.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = stat.get(end..)?.split(|byte| *byte == b' ').skip(21);
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let memory = Memory {
        virtual_bytes: number()?,
        resident_pages: number()?,
    };
    // The number was not cut.
    fields.next().map(|_| memory)
}

#[cfg(test)]
mod tests {
    use super::super::METRICS;
    use super::super::tests::body;
    use super::*;

    const STAT: &str = "4711 (healthz) S 1 4711 4711 0 -1 4194560 213 0 1 0 2 3 0 0 20 -10 3 0 8814 5218304 283 \
                        18446744073709551615 1 1 0 0 0 0 0 4096 17475 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";
    const MEMORY: Memory = Memory {
        virtual_bytes: 5_218_304,
        resident_pages: 283,
    };

    #[test]
    fn a_process_can_have_any_name() {
        for name in ["healthz", "a) S 1 (b", ") ", "", "((", " 1 2 3 4 5 6 7 8"] {
            let stat = STAT.replacen("healthz", name, 1);
            assert_eq!(parse(stat.as_bytes()), Some(MEMORY), "{name}");
        }
    }

    #[test]
    fn what_is_cut_or_has_no_number_is_unknown() {
        let needed = STAT.find(" 1844").unwrap() + 1;
        for end in 0..STAT.len() {
            let expected = (needed <= end).then_some(MEMORY);
            assert_eq!(parse(&STAT.as_bytes()[..end]), expected, "{end}");
        }
        for wrong in ["-1", "x", "", "18446744073709551616"] {
            let stat = STAT.replacen("5218304", wrong, 1);
            assert_eq!(parse(stat.as_bytes()), None, "{wrong}");
        }
        assert_eq!(parse(&[0xff; 1024]), None);
    }

    #[test]
    fn a_start_moves_only_if_the_wall_clock_was_set() {
        let start = Start {
            boot_time: Duration::ZERO,
            unix_millis: AtomicU64::new(0),
        };
        assert_eq!(start.settle(5_000_000), 5_000_000);
        assert_eq!(start.settle(5_000_001), 5_000_000);
        assert_eq!(start.settle(4_999_001), 5_000_000);
        assert_eq!(start.settle(1_795_000_000_000), 1_795_000_000_000);
    }

    #[test]
    fn unknown_figures_are_left_out() {
        let none = healthz::answer::Metrics::new().and(|text| Values::default().write(text), 0);
        assert!(!body(none).contains("process_"));
    }

    /// Compared with what the system says in other files.
    #[test]
    fn the_figures_are_those_of_this_process() {
        prepare();
        let value = |name: &str, body: &str| -> f64 {
            let line = body.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name}: {body}"))
                .trim()
                .parse()
                .unwrap()
        };
        let before = body(METRICS);
        let busy = std::time::Instant::now();
        while busy.elapsed() < Duration::from_millis(20) {
            std::hint::black_box(0);
        }
        let after = body(METRICS);
        let cpu = |body| value("process_cpu_seconds_total ", body);
        assert!(cpu(&before) > 0.0 && cpu(&before) + 0.001 < cpu(&after));
        let start = value("process_start_time_seconds ", &before);
        assert_eq!(start, value("process_start_time_seconds ", &after));
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!((start - unix.as_secs_f64()).abs() < 600.0, "{start}");
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let mut statm = statm.split(' ').map(|pages| pages.parse::<f64>().unwrap());
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE).unwrap().unwrap() as f64;
        for name in [
            "process_virtual_memory_bytes ",
            "process_resident_memory_bytes ",
        ] {
            let expected = statm.next().unwrap() * page_bytes;
            // Other tests allocate meanwhile.
            let share = value(name, &after) / expected;
            assert!((0.5..2.0).contains(&share), "{name}{share}");
        }
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let files = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let soft = files.unwrap().split_whitespace().nth(3).unwrap();
        assert_eq!(
            value("process_max_fds ", &after),
            soft.parse::<f64>().unwrap()
        );
    }

    /// Other threads of this test open and close descriptors, so one directory is compared with itself.
    #[test]
    fn the_size_of_a_directory_of_descriptors_is_their_number_or_unknown() {
        let directory = File::open("/proc/self/fd").unwrap();
        let Some(count) = open_fds(&directory) else {
            let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
            let mut version = text.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
            let version = (version.next().unwrap(), version.next().unwrap());
            assert!(version < (6, 2), "{text}");
            return;
        };
        let more: Vec<File> = (0..200).map(|_| File::open("/dev/null").unwrap()).collect();
        let with_more = open_fds(&directory).unwrap();
        assert!(with_more.abs_diff(count + 200) < 100, "{count} {with_more}");
        drop(more);
    }
}
