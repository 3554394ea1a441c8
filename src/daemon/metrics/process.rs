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
    statm: Option<File>,
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
        statm: File::open("/proc/self/statm").ok(),
        fds: File::open("/proc/self/fd").ok(),
        page_bytes: sysconf(SysconfVar::PAGE_SIZE)
            .ok()
            .flatten()
            .and_then(|bytes| u64::try_from(bytes).ok()),
        #[allow(
            clippy::useless_conversion,
            reason = "it has 32 bits where the processor has"
        )]
        fds_max: getrlimit(Resource::RLIMIT_NOFILE)
            .ok()
            .map(|(soft, _)| soft.into()),
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
        let pages = process.statm.as_ref().and_then(memory_pages);
        let bytes = |pages: u64| pages.checked_mul(process.page_bytes?);
        Values {
            cpu_nanoseconds: time(ClockId::CLOCK_PROCESS_CPUTIME_ID)
                .and_then(|time| u64::try_from(time.as_nanos()).ok()),
            fds_max: process.fds_max,
            fds_open: process.fds.as_ref().and_then(open_fds),
            resident_bytes: pages.and_then(|[_, resident]| bytes(resident)),
            start_millis: process.start.as_ref().and_then(Start::unix_millis),
            virtual_bytes: pages.and_then(|[size, _]| bytes(size)),
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

/// The virtual and the resident memory in pages. (/proc/self/stat has them too, but the kernel does not add up all
/// counters for it, and a few hundred KiB can be missing.)
fn memory_pages(statm: &File) -> Option<[u64; 2]> {
    // Seven numbers.
    let mut buffer = [0; 160];
    let length = statm.read_at(&mut buffer, 0).ok()?;
    parse(buffer.get(..length)?)
}

/// The first two numbers of /proc/self/statm (proc_pid_statm(5)).
fn parse(statm: &[u8]) -> Option<[u64; 2]> {
    let mut fields = statm.split(|byte| *byte == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let pages = [number()?, number()?];
    // The second number was not cut.
    fields.next().map(|_| pages)
}

#[cfg(test)]
mod tests {
    use super::super::METRICS;
    use super::super::tests::body;
    use super::*;

    #[test]
    fn what_is_cut_or_has_no_number_is_unknown() {
        let text = b"34945 889 788 778 0 605 0\n";
        for end in 0..text.len() {
            let expected = ("34945 889 ".len() <= end).then_some([34945, 889]);
            assert_eq!(parse(&text[..end]), expected, "{end}");
        }
        for wrong in [
            &b"-1 2 3"[..],
            b"x 2 3",
            b" 2 3",
            b"1 18446744073709551616 3",
            &[0xff; 160],
        ] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
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
