//! Many probes at fixed times, as ping(8): a line for each, and a summary at the end.
//!
//! A probe is due at a multiple of the interval after the first one, whatever the probes before it do. Its time counts
//! from when it was due. So a server that stalls is seen as slow by every probe that was due in that time, and not
//! only by the one that waited ("coordinated omission"). Several can wait for their answers at once. One thread.

use std::io;
use std::time::{Duration, Instant};

use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::options::{Form, Options, Series};
use super::outcome::{Outcome, Verdict};
use super::summary::Tally;
use super::{push_body, unix_seconds};
use crate::client::exchange::{Exchange, Failure};
use crate::client::output::{self, Colour, LINE_BYTES_MAX, coloured, line, milliseconds};
use crate::client::target::Target;
use crate::units::Shown;

/// Most probes that wait for their answers. A further one waits until one of them has ended; that counts as its time.
const IN_FLIGHT_MAX: usize = 64;
/// The token of signals; those of probes are smaller.
const SIGNALS: Token = Token(IN_FLIGHT_MAX);
/// In this time before a probe is due, the loop reads the clock instead of sleeping. A thread that sleeps can wake up
/// this much later, which would count as the server's time.
#[cfg(target_os = "linux")]
const WAKE_DURATION: Duration = Duration::from_micros(200);

/// Sends probes until all have ended, a signal comes, or standard output is closed. Returns the exit code.
pub fn run(options: &Options, series: Series) -> u8 {
    let mut tally = Tally::new();
    let printer = Printer::new(options);
    let result = printer
        .begin(series)
        .and_then(|()| send_all(options, series, &printer, &mut tally));
    let result = result.and_then(|()| printer.end(&tally));
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            crate::client::print_error(&format_args!("probing was ended by an error: {error}"));
            Verdict::Lost.exit_code(options.is_flat)
        }
        _ => tally.verdict().exit_code(options.is_flat),
    }
}

/// A probe that waits for its answer.
struct Probe<'a> {
    sequence: u64,
    due: Instant,
    exchange: Exchange<'a>,
}

fn send_all(
    options: &Options,
    series: Series,
    printer: &Printer,
    tally: &mut Tally,
) -> io::Result<()> {
    let Options {
        target, timeout, ..
    } = options;
    let request = target.request("");
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(IN_FLIGHT_MAX + 1);
    // Held until the end.
    let _signals = Signals::new(&poll)?;
    let mut probes: Vec<Option<Probe>> = (0..IN_FLIGHT_MAX).map(|_| None).collect();
    let mut schedule = Schedule::new(series, Instant::now());
    let mut finish = |sequence, due: Instant, result| {
        let time = due.elapsed();
        let outcome = Outcome::new(target, result);
        tally.record(outcome.verdict, time);
        printer.probe(sequence, &outcome, time)
    };
    loop {
        let now = Instant::now();
        for slot in &mut probes {
            if let Some(probe) = slot.take_if(|probe| probe.due + *timeout <= now) {
                let failure = probe.exchange.timed_out(*timeout);
                finish(probe.sequence, probe.due, Err(failure))?;
            }
        }
        while let Some((token, slot)) = free_slot(&mut probes) {
            let Some((sequence, due)) = schedule.take_due(now) else {
                break;
            };
            if due + *timeout <= now {
                finish(sequence, due, Err(never_sent()))?;
                continue;
            }
            let mut exchange = Exchange::new(target, &request);
            match exchange.advance(poll.registry(), token) {
                Some(result) => finish(sequence, due, result)?,
                None => {
                    *slot = Some(Probe {
                        sequence,
                        due,
                        exchange,
                    })
                }
            }
        }
        let in_flight = || probes.iter().flatten();
        if schedule.has_ended() && in_flight().next().is_none() {
            return Ok(());
        }
        let is_full = in_flight().count() == IN_FLIGHT_MAX;
        let start = schedule.next_due().filter(|_| !is_full);
        let deadlines = in_flight().map(|probe| {
            let retry = probe.exchange.retry_after().map(|retry| now + retry);
            let deadline = probe.due + *timeout;
            retry.map_or(deadline, |retry| retry.min(deadline))
        });
        wait(&mut poll, &mut events, deadlines.min(), start)?;
        for (index, slot) in probes.iter_mut().enumerate() {
            let Some(probe) = slot else { continue };
            let token = Token(index);
            let has_event = events.iter().any(|event| event.token() == token);
            if !has_event && probe.exchange.retry_after().is_none() {
                continue;
            }
            if let Some(result) = probe.exchange.advance(poll.registry(), token) {
                finish(probe.sequence, probe.due, result)?;
                *slot = None;
            }
        }
        // After the answers that came before it.
        if events.iter().any(|event| event.token() == SIGNALS) {
            tally.record_unanswered(probes.iter().flatten().count());
            return Ok(());
        }
    }
}

fn free_slot<'s, 'a>(
    probes: &'s mut [Option<Probe<'a>>],
) -> Option<(Token, &'s mut Option<Probe<'a>>)> {
    let mut slots = probes.iter_mut().enumerate();
    let (index, slot) = slots.find(|(_, slot)| slot.is_none())?;
    Some((Token(index), slot))
}

/// The failure of a probe that could not be sent within its timeout.
fn never_sent() -> Failure {
    Failure::Lost {
        tried: "not sent in time, because too many others wait, or this program did not run".into(),
        advice: "",
    }
}

/// Which probe is due when.
struct Schedule {
    start: Instant,
    interval: Duration,
    count: Option<u64>,
    /// Starts with 0.
    next: u64,
}

impl Schedule {
    /// The first probe is due at `start`.
    fn new(series: Series, start: Instant) -> Self {
        Schedule {
            start,
            interval: series.interval,
            count: series.count,
            next: 0,
        }
    }

    fn has_ended(&self) -> bool {
        self.count.is_some_and(|count| self.next >= count)
    }

    /// When the next one is due; `None` after the last.
    fn next_due(&self) -> Option<Instant> {
        let interval = u64::try_from(self.interval.as_nanos()).ok()?;
        let after = Duration::from_nanos(interval.checked_mul(self.next)?);
        let due = self.start.checked_add(after)?;
        (!self.has_ended()).then_some(due)
    }

    /// Takes the next one if it is due at `now`. Returns its number, which starts with 1, and when it was due.
    fn take_due(&mut self, now: Instant) -> Option<(u64, Instant)> {
        let due = self.next_due().filter(|due| *due <= now)?;
        self.next += 1;
        Some((self.next, due))
    }
}

/// Waits for events, at most until `deadline` or `start`, when a probe is due.
#[cfg(target_os = "linux")]
fn wait(
    poll: &mut Poll,
    events: &mut Events,
    deadline: Option<Instant>,
    start: Option<Instant>,
) -> io::Result<()> {
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, ppoll};
    use nix::sys::time::TimeSpec;

    let until = [
        deadline,
        start.and_then(|due| due.checked_sub(WAKE_DURATION)),
    ];
    let until = until.into_iter().flatten().min();
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    if left.is_none_or(|left| !left.is_zero()) {
        // epoll_wait(2) counts milliseconds, which is too coarse.
        let mut epoll = [PollFd::new(poll.registry().as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut epoll, left.map(TimeSpec::from_duration), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    poll_once(poll, events, Some(Duration::ZERO))
}

/// Elsewhere a probe is sent up to 1 ms late.
#[cfg(not(target_os = "linux"))]
fn wait(
    poll: &mut Poll,
    events: &mut Events,
    deadline: Option<Instant>,
    start: Option<Instant>,
) -> io::Result<()> {
    let until = [deadline, start].into_iter().flatten().min();
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    poll_once(poll, events, left)
}

fn poll_once(poll: &mut Poll, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
    match poll.poll(events, timeout) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// SIGINT (Ctrl-C) and SIGTERM become an event for [`SIGNALS`].
struct Signals {
    /// Readable after a signal.
    _receiver: UnixStream,
}

impl Signals {
    fn new(poll: &Poll) -> io::Result<Self> {
        let (receiver, sender) = std::os::unix::net::UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        let mut receiver = UnixStream::from_std(receiver);
        poll.registry()
            .register(&mut receiver, SIGNALS, Interest::READABLE)?;
        for signal in [SIGINT, SIGTERM] {
            signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        Ok(Signals {
            _receiver: receiver,
        })
    }
}

/// Prints a line for each probe, at once, as text or JSON.
struct Printer<'a> {
    options: &'a Options,
    has_colours: bool,
}

impl<'a> Printer<'a> {
    fn new(options: &'a Options) -> Self {
        Printer {
            options,
            has_colours: output::has_colours(),
        }
    }

    fn target(&self) -> &Target {
        &self.options.target
    }

    fn is_json(&self) -> bool {
        self.options.form == Form::Json
    }

    fn begin(&self, series: Series) -> io::Result<()> {
        if self.is_json() {
            return Ok(());
        }
        let (interval, timeout) = (Shown(series.interval), Shown(self.options.timeout));
        let url = line(&self.target().url, 40);
        output::print(&format!(
            "{url}: a probe every {interval}, timeout {timeout}\n"
        ))
    }

    /// `time` counts from when the probe was due.
    fn probe(&self, sequence: u64, outcome: &Outcome, time: Duration) -> io::Result<()> {
        if self.is_json() {
            let keys = outcome.json(self.target(), time, self.options.is_verbose);
            let now = unix_seconds();
            return output::print(&format!("{{\"seq\":{sequence},\"time\":{now},{keys}}}\n"));
        }
        let mut text = self.probe_line(sequence, outcome, time);
        text.push('\n');
        if self.options.is_verbose {
            push_body(&mut text, &outcome.body);
        }
        output::print(&text)
    }

    /// `200 from 127.0.0.1:10248: seq=1 time=0.123 ms`
    fn probe_line(&self, sequence: u64, outcome: &Outcome, time: Duration) -> String {
        let time = milliseconds(time);
        let (word, rest) = match (outcome.status, &outcome.address) {
            (Some(status), Some(address)) => {
                let text = format!(" from {address}: seq={sequence} time={time} ms");
                let why = match outcome.verdict {
                    Verdict::Healthy => "",
                    Verdict::Unhealthy => &outcome.message,
                    _ => "not a health endpoint",
                };
                let space = if why.is_empty() { "" } else { " " };
                (status.to_string(), format!("{text}{space}{why}"))
            }
            _ => {
                let word = outcome.verdict.name();
                (word.into(), format!(": seq={sequence} {}", outcome.message))
            }
        };
        let colour = match outcome.verdict {
            Verdict::Healthy => Colour::Green,
            Verdict::Unhealthy => Colour::Red,
            Verdict::Lost | Verdict::Invalid => Colour::Yellow,
        };
        let rest = line(&rest, LINE_BYTES_MAX - word.len());
        coloured(&word, colour, self.has_colours) + &rest
    }

    fn end(&self, tally: &Tally) -> io::Result<()> {
        let url = &self.target().url;
        output::print(&if self.is_json() {
            tally.json(url) + "\n"
        } else {
            tally.text(url, bar())
        })
    }
}

/// A column of a bar: a block if the terminal's encoding has one (setlocale(3)).
fn bar() -> char {
    let mut names = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter();
    let locale = names.find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    let locale = locale.unwrap_or_default().to_ascii_lowercase();
    match locale.ends_with("utf-8") || locale.ends_with("utf8") {
        true => '\u{2588}',
        false => '#',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_probe_does_not_shift_the_others() {
        let interval = Duration::from_millis(10);
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let count = Some(4);
        let mut schedule = Schedule::new(Series { count, interval }, start);
        assert_eq!(schedule.take_due(at(0)), Some((1, at(0))));
        assert_eq!(schedule.take_due(at(0)), None);
        assert_eq!(schedule.next_due(), Some(at(10)));
        // Nothing was sent for a while.
        assert_eq!(schedule.take_due(at(25)), Some((2, at(10))));
        assert_eq!(schedule.take_due(at(25)), Some((3, at(20))));
        assert_eq!(schedule.take_due(at(25)), None);
        assert!(!schedule.has_ended());
        assert_eq!(schedule.take_due(at(99)), Some((4, at(30))));
        assert!(schedule.has_ended());
        assert_eq!(
            (schedule.next_due(), schedule.take_due(at(99))),
            (None, None)
        );
    }
}
