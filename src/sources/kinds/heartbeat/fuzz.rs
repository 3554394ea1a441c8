//! The fuzz target `notify`: messages of sd_notify(3), and what is concluded from them.
//!
//! Called by `fuzz/` with random bytes, and by `cargo test` with the corpus. The fuzz target compiles this file,
//! [`super::message`] and [`super::state`] into itself, because a crate cannot depend on a program.

use std::time::Duration;

use healthz::Instant;

use super::message::{Control, MESSAGE_BYTES_MAX, Message, Phase, STATUS_BYTES_MAX, Watchdog};
use super::state::{Settings, State, sent_at};

/// Asserts, for an option byte and messages that 0xff separates, each with a byte for the time before it:
/// - A message has the fields that a slow parser finds, and the same ones when it is written again.
/// - The verdict changes at the deadline, not before, and never again without a message.
/// - A message counts as sent between the last and this reading of the queue, whatever the wall clock says.
/// - Control data of any bytes has no more descriptors than bytes.
pub fn notify(data: &[u8]) {
    control(data);
    let [option, rest @ ..] = data else {
        return;
    };
    let settings = Settings {
        limit: Duration::from_millis(500 * u64::from(option >> 1)),
        passes_until_ready: option & 1 == 1,
    };
    let mut now = Instant::from_millis(1000);
    let mut state = State::new(settings, now);
    for part in rest.split(|byte| *byte == 0xff) {
        let [step, datagram @ ..] = part else {
            continue;
        };
        let drained = now;
        now = now.saturating_add(Duration::from_millis(u64::from(*step) * u64::from(*step)));
        let message = Message::parse(datagram);
        assert_eq!(message, slow(datagram));
        let Some(message) = message else {
            continue;
        };
        if datagram.len() < MESSAGE_BYTES_MAX {
            let written = written(&message);
            assert_eq!(
                Message::parse(written.as_bytes()).as_ref(),
                Some(&message),
                "{written:?}"
            );
        }
        let stamp = message.monotonic.map(|time| time / 1000);
        let sent = sent_at(stamp, Duration::from_secs(1), now, drained);
        assert!((drained..=now).contains(&sent));
        state.handle(&message, sent, 0);
        deadline(&state, now);
    }
}

fn deadline(state: &State, now: Instant) {
    let is_passing = |millis| state.verdict(Instant::from_millis(millis)).is_ok();
    let at = now.as_millis();
    let year = at + 365 * 86_400_000;
    match (is_passing(at), state.deadline(now)) {
        (true, None) => assert!(is_passing(u64::MAX)),
        (true, Some(due)) => {
            let due = due.as_millis();
            assert!(due > at && is_passing(due - 1));
            assert!(
                !is_passing(due) && !is_passing(due.saturating_add(1)) && !is_passing(u64::MAX)
            );
        }
        (false, deadline) => {
            assert_eq!(deadline, None);
            assert!(!is_passing(at + 1) && !is_passing(year));
        }
    }
    for time in [now, Instant::from_millis(year), Instant::MAX] {
        if let Err(reason) = state.verdict(time) {
            assert!(!reason.is_empty() && reason.len() < STATUS_BYTES_MAX + 200);
        }
    }
}

fn control(data: &[u8]) {
    let control = Control::parse(data);
    assert!(control.fds.len() * 4 <= data.len());
}

/// A second parser, which makes a list of all lines first.
fn slow(datagram: &[u8]) -> Option<Message> {
    let end = datagram
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(datagram.len());
    let text: Vec<u8> = datagram[..end]
        .iter()
        .map(|b| if *b == b'\r' { b'\n' } else { *b })
        .collect();
    let lines: Vec<&[u8]> = text
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .collect();
    let has = |line: &str| lines.contains(&line.as_bytes());
    if lines.is_empty() || has("BARRIER=1") && lines.len() > 1 {
        return None;
    }
    let texts = |name: &str| -> Vec<&str> {
        let values = lines
            .iter()
            .filter_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        values
            .filter_map(|value| std::str::from_utf8(value).ok())
            .collect()
    };
    let numbers = |name: &str| -> Vec<u64> {
        let digits = texts(name)
            .into_iter()
            .filter(|text| text.chars().all(|c| c.is_ascii_digit()));
        digits.filter_map(|text| text.parse().ok()).collect()
    };
    let time = |name: &str| numbers(name).first().copied().map(Duration::from_micros);
    let mut message = Message {
        limit: time("WATCHDOG_USEC").map(|time| {
            (!time.is_zero() && time.as_micros() < u128::from(u64::MAX)).then_some(time)
        }),
        extend: time("EXTEND_TIMEOUT_USEC"),
        monotonic: time("MONOTONIC_USEC"),
        errno: numbers("ERRNO")
            .into_iter()
            .find(|n| *n < 4096)
            .map(|n| n as i32),
        main_pid: numbers("MAINPID")
            .into_iter()
            .find(|n| (1..=u64::from(u32::MAX)).contains(n))
            .map(|n| n as u32),
        is_barrier: has("BARRIER=1"),
        stores_fds: has("FDSTORE=1"),
        ..Message::default()
    };
    let watchdogs = texts("WATCHDOG");
    message.watchdog = watchdogs.into_iter().find_map(|text| match text {
        "1" => Some(Watchdog::Beat),
        "trigger" => Some(Watchdog::Trigger),
        _ => None,
    });
    message.phase = lines.iter().rev().find_map(|line| match *line {
        b"READY=1" => Some(Phase::Ready),
        b"RELOADING=1" => Some(Phase::Reloading),
        b"STOPPING=1" => Some(Phase::Stopping),
        _ => None,
    });
    message.status = texts("STATUS").first().map(|text| {
        let mut text = String::from(*text);
        while text.len() > STATUS_BYTES_MAX {
            text.pop();
        }
        text
    });
    Some(message)
}

/// A datagram with the same fields. A new field does not compile until it is added here.
fn written(message: &Message) -> String {
    let Message {
        phase,
        watchdog,
        limit,
        extend,
        status,
        errno,
        main_pid,
        monotonic,
        is_barrier,
        stores_fds,
    } = message;
    let mut text = String::from("\n\n");
    if *is_barrier {
        return "BARRIER=1".into();
    }
    let mut line = |name: &str, value: String| text.push_str(&format!("{name}={value}\n"));
    line("X_UNKNOWN", "1".into());
    if let Some(phase) = phase {
        let name = match phase {
            Phase::Ready => "READY",
            Phase::Reloading => "RELOADING",
            Phase::Stopping => "STOPPING",
        };
        line(name, "1".into());
    }
    match watchdog {
        Some(Watchdog::Beat) => line("WATCHDOG", "1".into()),
        Some(Watchdog::Trigger) => line("WATCHDOG", "trigger".into()),
        None => {}
    }
    let usec = |time: &Duration| time.as_micros().to_string();
    limit.iter().for_each(|limit| {
        line("WATCHDOG_USEC", limit.as_ref().map_or("0".into(), usec));
    });
    extend
        .iter()
        .for_each(|time| line("EXTEND_TIMEOUT_USEC", usec(time)));
    monotonic
        .iter()
        .for_each(|time| line("MONOTONIC_USEC", usec(time)));
    status.iter().for_each(|text| line("STATUS", text.clone()));
    errno
        .iter()
        .for_each(|number| line("ERRNO", number.to_string()));
    main_pid
        .iter()
        .for_each(|number| line("MAINPID", number.to_string()));
    if *stores_fds {
        line("FDSTORE", "1".into());
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpus_of_notify_has_no_finding() {
        crate::sources::kinds::text::run_corpus("notify", super::notify);
    }
}
