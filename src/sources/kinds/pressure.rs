//! Pressure stall information: how long tasks waited for memory, a CPU or I/O (Documentation/accounting/psi.rst).
//!
//! The kernel measures it. A *trigger* makes it remember that tasks waited for `stall` within a `window`, even
//! between two attempts, so that no attempt has to be at the right moment. Each attempt also compares the total of all
//! stalls with that of the last attempt. Where a trigger is refused, this is all, and a short stall in a long period is
//! not seen.
//!
//! Each attempt polls the trigger with poll(2) and a timeout of 0. The trigger keeps its event until then, so it is not
//! registered with the event loop, and pressure does not wake up the worker.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use healthz::Instant;
use mio::{Registry, Token};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::stream::error_text;
use super::text::seconds;
use crate::sources::attempt::Listener;
use crate::sources::spec::{Outcome, Pressure, Resource, Scope};

/// Where control groups are, version 2 alone or beside version 1.
const CGROUP_ROOTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// Opens the kernel's file. If that fails, each attempt tries again, and its outcome says why.
///
/// # Errors
/// None.
pub fn open(
    spec: &Pressure,
    _: &Registry,
    _: Token,
    now: Instant,
) -> io::Result<Box<dyn Listener>> {
    let mut watch = Watch {
        spec: spec.clone(),
        opened: None,
    };
    // The first attempt reports an error.
    watch.opened = watch.open(now).ok();
    Ok(Box::new(watch))
}

struct Watch {
    spec: Pressure,
    opened: Option<Opened>,
}

struct Opened {
    file: File,
    has_trigger: bool,
    /// The total at the last attempt, and its time.
    total: Duration,
    at: Instant,
}

impl Listener for Watch {
    fn ready(&mut self, _: &Registry, _: Token, _: Instant) -> io::Result<bool> {
        Ok(false)
    }

    /// The outcome of the time since the last call.
    fn outcome(&mut self, now: Instant) -> Outcome {
        let mut opened = match self.opened.take() {
            Some(opened) => opened,
            None => match self.open(now) {
                Ok(opened) => opened,
                Err(outcome) => return outcome,
            },
        };
        match self.attempt(&mut opened, now) {
            Ok(outcome) => {
                self.opened = Some(opened);
                outcome
            }
            // The control group was removed. The next attempt opens its file again.
            Err(error) => Outcome::Fail(format!("{}: {}", self.name(), error_text(&error))),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}

impl Watch {
    fn open(&self, now: Instant) -> Result<Opened, Outcome> {
        let path = self.path()?;
        let failed = |error| self.failed(&path, &error);
        let (file, has_trigger) = match self.open_with_trigger(&path) {
            Ok(file) => (file, true),
            // Not allowed, not known, or not this window: by kernel version, rights and virtual machine.
            Err(_) => (File::open(&path).map_err(failed)?, false),
        };
        let total = self.read(&file).map_err(failed)?;
        let total = total.ok_or_else(|| self.unsupported())?;
        Ok(Opened {
            file,
            has_trigger,
            total,
            at: now,
        })
    }

    fn open_with_trigger(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true);
        let mut file = options.custom_flags(libc::O_NONBLOCK).open(path)?;
        let (stall, window) = (self.spec.stall.as_micros(), self.spec.window.as_micros());
        // One call: each write(2) is a trigger.
        let text = format!("{} {stall} {window}\0", self.some_or_full());
        match file.write(text.as_bytes())? == text.len() {
            true => Ok(file),
            false => Err(ErrorKind::WriteZero.into()),
        }
    }

    /// The outcome of the time since the last attempt.
    fn attempt(&self, opened: &mut Opened, now: Instant) -> io::Result<Outcome> {
        let has_fired = opened.has_trigger && has_fired(&opened.file)?;
        let total = self.read(&opened.file)?.ok_or(ErrorKind::InvalidData)?;
        let stalled = total.saturating_sub(opened.total);
        let elapsed = now.saturating_since(opened.at);
        (opened.total, opened.at) = (total, now);
        let Pressure { stall, window, .. } = self.spec;
        if !has_fired && !is_over(stalled, elapsed, stall, window) {
            return Ok(Outcome::Pass);
        }
        Ok(Outcome::Fail(format!(
            "{} tasks waited for {} for {} of the last {}, limit {} within {}",
            if self.spec.full { "all" } else { "some" },
            self.resource(),
            seconds(stalled),
            seconds(elapsed),
            seconds(stall),
            seconds(window),
        )))
    }

    /// The file of the resource and the scope.
    fn path(&self) -> Result<PathBuf, Outcome> {
        let group = match &self.spec.scope {
            Scope::Node => return Ok(Path::new("/proc/pressure").join(self.resource())),
            Scope::CgroupAt(path) => path.clone(),
            Scope::Cgroup => {
                let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
                own_cgroup(&text).ok_or_else(|| self.unsupported())?.into()
            }
        };
        // Names only: the path stays below the root.
        let names = group
            .components()
            .filter(|part| matches!(part, Component::Normal(_)));
        let group: PathBuf = names.collect();
        let directories = CGROUP_ROOTS.map(|root| Path::new(root).join(&group));
        let name = format!("{}.pressure", self.resource());
        let mut files = directories.iter().map(|directory| directory.join(&name));
        match files.find(|file| file.exists()) {
            Some(file) => Ok(file),
            None if directories.iter().any(|directory| directory.exists()) => {
                Err(self.unsupported())
            }
            None => {
                let [directory, _] = directories;
                Err(Outcome::Fail(format!(
                    "{}: does not exist",
                    directory.display()
                )))
            }
        }
    }

    /// The total of the line that counts; `None` if the kernel has no such line.
    fn read(&self, file: &File) -> io::Result<Option<Duration>> {
        // Two lines of at most 80 bytes.
        let mut buffer = [0; 512];
        let count = file.read_at(&mut buffer, 0)?;
        let text = buffer.get(..count).unwrap_or_default();
        Ok(total(&String::from_utf8_lossy(text), self.some_or_full()))
    }

    fn failed(&self, path: &Path, error: &io::Error) -> Outcome {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::Unsupported => self.unsupported(),
            // Not `Unsupported` in Rust 1.85.
            _ if error.raw_os_error() == Some(libc::EOPNOTSUPP) => self.unsupported(),
            _ => Outcome::Fail(format!("{}: {}", path.display(), error_text(error))),
        }
    }

    fn unsupported(&self) -> Outcome {
        Outcome::Unsupported(format!("the kernel does not measure {}", self.name()))
    }

    fn name(&self) -> String {
        format!("{} pressure ({})", self.resource(), self.some_or_full())
    }

    fn resource(&self) -> &'static str {
        match self.spec.resource {
            Resource::Memory => "memory",
            Resource::Cpu => "cpu",
            Resource::Io => "io",
        }
    }

    fn some_or_full(&self) -> &'static str {
        if self.spec.full { "full" } else { "some" }
    }
}

/// Whether the trigger of `file` has fired since the last call.
fn has_fired(file: &File) -> io::Result<bool> {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
    poll(&mut fds, PollTimeout::ZERO)?;
    let [fd] = fds;
    let events = fd.revents().unwrap_or(PollFlags::empty());
    match events.contains(PollFlags::POLLERR) {
        true => Err(ErrorKind::NotFound.into()),
        false => Ok(events.contains(PollFlags::POLLPRI)),
    }
}

/// Whether `stalled` is at least the share of `elapsed` that `stall` is of `window`. If less than a window has elapsed,
/// a whole window counts instead.
fn is_over(stalled: Duration, elapsed: Duration, stall: Duration, window: Duration) -> bool {
    let elapsed = elapsed.max(window);
    stalled.as_micros() * window.as_micros() >= stall.as_micros() * elapsed.as_micros()
}

/// The total of the line `kind` (`some` or `full`) of a file with pressure stall information.
fn total(text: &str, kind: &str) -> Option<Duration> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
    let total = line
        .split(' ')
        .find_map(|word| word.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

/// The path of this process in the hierarchy of version 2, from the text of /proc/self/cgroup.
fn own_cgroup(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);
    const MEMORY: &str = "some avg10=0.00 avg60=0.12 avg300=0.00 total=2494214\n\
                          full avg10=0.00 avg60=0.00 avg300=0.00 total=1670802\n";

    fn spec() -> Pressure {
        Pressure {
            resource: Resource::Memory,
            full: false,
            stall: 200 * MILLISECOND,
            window: 2000 * MILLISECOND,
            scope: Scope::Node,
        }
    }

    fn watch(spec: Pressure) -> Watch {
        Watch { spec, opened: None }
    }

    #[test]
    fn the_total_of_the_line_is_read() {
        assert_eq!(
            total(MEMORY, "some"),
            Some(Duration::from_micros(2_494_214))
        );
        assert_eq!(
            total(MEMORY, "full"),
            Some(Duration::from_micros(1_670_802))
        );
        for text in [
            "",
            "some",
            "some total=",
            "some total=x",
            "something total=1",
            "full total=-1",
        ] {
            assert_eq!(total(text, "some"), None, "{text}");
        }
    }

    #[test]
    fn the_share_of_the_time_is_compared() {
        for (stalled, elapsed, want) in [
            (999, 10_000, false),
            (1000, 10_000, true),
            // Less than a window: the stall has to be as long as in a whole one.
            (199, 100, false),
            (200, 100, true),
            (0, 0, false),
            (199, 2000, false),
            (200, 2000, true),
        ] {
            let found = is_over(
                stalled * MILLISECOND,
                elapsed * MILLISECOND,
                200 * MILLISECOND,
                2000 * MILLISECOND,
            );
            assert_eq!(found, want, "{stalled} of {elapsed}");
        }
        let longest = is_over(
            Duration::MAX,
            Duration::ZERO,
            Duration::ZERO,
            10 * MILLISECOND,
        );
        assert!(longest);
    }

    #[test]
    fn the_own_group_is_that_of_version_2() {
        let text = "12:memory:/old\n1:name=systemd:/x\n0::/system.slice/healthz.service\n";
        assert_eq!(own_cgroup(text), Some("/system.slice/healthz.service"));
        assert_eq!(own_cgroup("12:memory:/old\n"), None);
    }

    #[test]
    fn a_group_that_does_not_exist_fails_and_its_path_stays_below_the_root() {
        let mut group = spec();
        group.scope = Scope::CgroupAt("/../../no-such-group".into());
        let want = "/sys/fs/cgroup/no-such-group: does not exist";
        let outcome = watch(group).outcome(Instant::ZERO);
        assert_eq!(outcome, Outcome::Fail(want.into()));
        let mut root = spec();
        root.scope = Scope::CgroupAt("/".into());
        let is_measured = |root| Path::new(root).join("memory.pressure").exists();
        if Path::new("/sys/fs/cgroup").exists() && !CGROUP_ROOTS.iter().any(is_measured) {
            let outcome = watch(root).outcome(Instant::ZERO);
            assert!(matches!(outcome, Outcome::Unsupported(_)), "{outcome:?}");
        }
    }

    #[test]
    fn a_kernel_that_does_not_measure_is_told_from_other_errors() {
        let watch = watch(spec());
        let failed = |number| {
            let error = io::Error::from_raw_os_error(number);
            watch.failed(Path::new("/x"), &error)
        };
        let text = "the kernel does not measure memory pressure (some)";
        for number in [libc::ENOENT, libc::ENOSYS, libc::EOPNOTSUPP] {
            assert_eq!(failed(number), Outcome::Unsupported(text.into()));
        }
        let outcome = Outcome::Fail("/x: permission denied".into());
        assert_eq!(failed(libc::EACCES), outcome);
        assert_eq!(watch.deadline(), None);
        assert!(!watch.is_lost());
    }

    #[test]
    fn the_reason_says_what_was_measured_and_the_limit() {
        let directory = std::env::temp_dir();
        let path = directory.join(format!("healthz-pressure-{}", std::process::id()));
        let write = |total: u64| {
            std::fs::write(&path, format!("some avg10=0.00 total={total}\n")).unwrap();
        };
        write(1_000_000);
        let watch = watch(spec());
        let mut opened = Opened {
            file: File::open(&path).unwrap(),
            has_trigger: false,
            total: Duration::from_secs(1),
            at: Instant::ZERO,
        };
        let mut attempt = |seconds: u64| {
            let now = Instant::from_millis(seconds * 1000);
            watch.attempt(&mut opened, now).unwrap()
        };
        assert_eq!(attempt(10), Outcome::Pass);
        write(2_300_000);
        let want =
            "some tasks waited for memory for 1.3 s of the last 10 s, limit 200 ms within 2 s";
        assert_eq!(attempt(20), Outcome::Fail(want.into()));
        assert_eq!(attempt(30), Outcome::Pass);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_kernel_of_this_machine_is_read_or_named() {
        let poll = mio::Poll::new().unwrap();
        for scope in [Scope::Node, Scope::Cgroup] {
            let mut spec = spec();
            spec.scope = scope;
            let mut listener = open(&spec, poll.registry(), Token(0), Instant::ZERO).unwrap();
            let outcome = listener.outcome(Instant::ZERO);
            let text = "the kernel does not measure memory pressure (some)";
            let is_there = Path::new("/proc/pressure/memory").exists();
            match spec.scope {
                Scope::Node if is_there => assert_eq!(outcome, Outcome::Pass),
                _ if outcome == Outcome::Pass => {}
                _ => assert_eq!(outcome, Outcome::Unsupported(text.into())),
            }
        }
    }

    /// If the kernel accepts no triggers, the test prints that and passes.
    #[test]
    fn a_trigger_fires_while_more_threads_run_than_cpus() {
        use std::sync::atomic::{AtomicBool, Ordering};

        let mut spec = spec();
        spec.resource = Resource::Cpu;
        // The window stays 2 s: since Linux 6.5, one that is no multiple of 2 s needs CAP_SYS_RESOURCE.
        spec.stall = 50 * MILLISECOND;
        let watch = watch(spec);
        let Ok(opened) = watch.open(Instant::ZERO) else {
            println!("no pressure stall information here");
            return;
        };
        if !opened.has_trigger {
            println!("this kernel refuses triggers");
            return;
        }
        println!("this kernel accepts triggers");
        let is_over = AtomicBool::new(false);
        let began = std::time::Instant::now();
        let cpus = std::thread::available_parallelism().unwrap().get();
        std::thread::scope(|scope| {
            for _ in 0..2 * cpus {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let mut fired = false;
            while !fired && began.elapsed() < Duration::from_secs(30) {
                fired = has_fired(&opened.file).unwrap_or(true);
                std::thread::yield_now();
            }
            is_over.store(true, Ordering::Relaxed);
            assert!(fired, "no event within 30 s");
        });
        // An event is reported once. (The kernel reports at most one for each window.)
        assert!(!has_fired(&opened.file).unwrap());
    }
}
