//! One datagram of sd_notify(3), and the control data that the kernel adds to it.
//!
//! Pure functions: bytes in, values out. Called by [`super::socket`] and [`super`].
//!
//! As in systemd: lines of `NAME=VALUE`; text after a NUL is ignored; the last of READY, RELOADING and STOPPING counts,
//! and the first of every other field; unknown fields and invalid values are ignored. A message with `BARRIER=1` and
//! anything else is ignored.

use std::time::Duration;

/// Most bytes of a message, as in systemd (`NOTIFY_BUFFER_MAX`).
pub const MESSAGE_BYTES_MAX: usize = 4096;
/// Most bytes of a status that are kept. A reason of a check has at most 255.
pub const STATUS_BYTES_MAX: usize = 160;
/// The largest error number of the kernel (`ERRNO_MAX`).
const ERRNO_MAX: i32 = 4095;

/// The fields of one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub phase: Option<Phase>,
    pub watchdog: Option<Watchdog>,
    /// `WATCHDOG_USEC`: a new limit. `Some(None)`: none at all (0 or the largest number).
    pub limit: Option<Option<Duration>>,
    /// `EXTEND_TIMEOUT_USEC`.
    pub extend: Option<Duration>,
    /// Cut to [`STATUS_BYTES_MAX`]. Empty: the status is removed.
    pub status: Option<String>,
    /// 0: the error is removed.
    pub errno: Option<i32>,
    pub main_pid: Option<u32>,
    /// `MONOTONIC_USEC`: when reloading began.
    pub monotonic: Option<Duration>,
    pub is_barrier: bool,
    /// Whether descriptors are for the store of a service manager.
    pub stores_fds: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Ready,
    Reloading,
    Stopping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watchdog {
    /// `WATCHDOG=1`
    Beat,
    /// `WATCHDOG=trigger`
    Trigger,
}

impl Message {
    /// Reads a datagram. `None` if it is empty, or not allowed.
    pub fn parse(datagram: &[u8]) -> Option<Message> {
        let text = datagram.split(|byte| *byte == 0).next()?;
        let mut message = Message::default();
        let lines = text.split(|byte| matches!(byte, b'\n' | b'\r'));
        let mut count = 0;
        for line in lines.filter(|line| !line.is_empty()) {
            count += 1;
            let mut parts = line.splitn(2, |byte| *byte == b'=');
            if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                message.set(name, value);
            }
        }
        let is_allowed = count > 0 && (!message.is_barrier || count == 1);
        is_allowed.then_some(message)
    }

    fn set(&mut self, name: &[u8], value: &[u8]) {
        let usec = || number(value).map(Duration::from_micros);
        match (name, value) {
            (b"READY", b"1") => self.phase = Some(Phase::Ready),
            (b"RELOADING", b"1") => self.phase = Some(Phase::Reloading),
            (b"STOPPING", b"1") => self.phase = Some(Phase::Stopping),
            (b"WATCHDOG", b"1") => keep_first(&mut self.watchdog, Some(Watchdog::Beat)),
            (b"WATCHDOG", b"trigger") => keep_first(&mut self.watchdog, Some(Watchdog::Trigger)),
            (b"WATCHDOG_USEC", _) => keep_first(&mut self.limit, limit(value)),
            (b"EXTEND_TIMEOUT_USEC", _) => keep_first(&mut self.extend, usec()),
            (b"STATUS", _) => keep_first(&mut self.status, status(value)),
            (b"ERRNO", _) => {
                let number = number(value).and_then(|number| i32::try_from(number).ok());
                keep_first(
                    &mut self.errno,
                    number.filter(|number| *number <= ERRNO_MAX),
                );
            }
            (b"MAINPID", _) => {
                let number = number(value).and_then(|number| u32::try_from(number).ok());
                keep_first(&mut self.main_pid, number.filter(|number| *number > 0));
            }
            (b"MONOTONIC_USEC", _) => keep_first(&mut self.monotonic, usec()),
            (b"BARRIER", b"1") => self.is_barrier = true,
            (b"FDSTORE", b"1") => self.stores_fds = true,
            _ => {}
        }
    }
}

fn keep_first<T>(field: &mut Option<T>, value: Option<T>) {
    if field.is_none() {
        *field = value;
    }
}

/// Decimal digits only.
fn number(value: &[u8]) -> Option<u64> {
    if !value.first()?.is_ascii_digit() {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// 0 and the largest number turn a watchdog off (`USEC_INFINITY`).
fn limit(value: &[u8]) -> Option<Option<Duration>> {
    Some(match number(value)? {
        0 | u64::MAX => None,
        usec => Some(Duration::from_micros(usec)),
    })
}

fn status(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    let ends = (0..=STATUS_BYTES_MAX.min(text.len())).rev();
    let cut = ends.into_iter().find_map(|end| text.get(..end));
    cut.map(String::from)
}

/// What the kernel adds to a datagram (cmsg(3), unix(7)).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// The sender: process, user and group.
    pub sender: Option<Sender>,
    /// When it was sent, since the epoch of the wall clock.
    pub sent: Option<Duration>,
    /// Received descriptors, which are open.
    pub fds: Vec<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

/// Bytes of the header of each piece of control data: length, level, type.
const HEADER_BYTES: usize = size_of::<usize>() + 2 * size_of::<i32>();

/// Bytes of a buffer that holds a sender and a time, each rounded up. The kernel writes them first.
pub const CONTROL_BYTES_WITHOUT_FDS: usize = (HEADER_BYTES + 16) + (HEADER_BYTES + 16);

/// Bytes of a buffer that holds everything that [`Control`] has: also as many descriptors as Linux passes
/// (`SCM_MAX_FD`).
pub const CONTROL_BYTES_MAX: usize = CONTROL_BYTES_WITHOUT_FDS + HEADER_BYTES + 254 * 4;

impl Control {
    /// Reads a buffer that recvmsg(2) has filled, and that was zero before.
    ///
    /// The functions of nix do not return a list that was cut, as it is when this process has too many descriptors;
    /// then the received ones would stay open.
    pub fn parse(mut buffer: &[u8]) -> Control {
        let mut control = Control::default();
        while let Some((level, kind, data, rest)) = next_control(buffer) {
            if level == libc::SOL_SOCKET {
                match kind {
                    libc::SCM_RIGHTS => control.fds.extend(words(data).map(i32::from_ne_bytes)),
                    libc::SCM_CREDENTIALS => control.sender = sender(data),
                    libc::SCM_TIMESTAMPNS => control.sent = time(data),
                    _ => {}
                }
            }
            buffer = rest;
        }
        control
    }
}

/// Level, type and data of the first piece, and the bytes behind it.
fn next_control(buffer: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let (length, rest) = buffer.split_first_chunk()?;
    let (level, rest) = rest.split_first_chunk()?;
    let (kind, _) = rest.split_first_chunk()?;
    // The rest of the buffer is zero.
    let length = usize::from_ne_bytes(*length);
    let data = buffer.get(HEADER_BYTES..length)?;
    let aligned = length.checked_next_multiple_of(size_of::<usize>())?;
    let rest = buffer.get(aligned..).unwrap_or_default();
    Some((
        i32::from_ne_bytes(*level),
        i32::from_ne_bytes(*kind),
        data,
        rest,
    ))
}

fn words(mut data: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    std::iter::from_fn(move || {
        let (word, rest) = data.split_first_chunk()?;
        data = rest;
        Some(*word)
    })
}

/// `struct ucred`
fn sender(data: &[u8]) -> Option<Sender> {
    let mut words = words(data);
    Some(Sender {
        pid: i32::from_ne_bytes(words.next()?),
        uid: u32::from_ne_bytes(words.next()?),
        gid: u32::from_ne_bytes(words.next()?),
    })
}

/// `struct timespec`
fn time(data: &[u8]) -> Option<Duration> {
    let (seconds, data) = data.split_first_chunk()?;
    let (nanos, _) = data.split_first_chunk()?;
    let seconds = u64::try_from(isize::from_ne_bytes(*seconds)).ok()?;
    let nanos = u32::try_from(isize::from_ne_bytes(*nanos)).ok()?;
    (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Message {
        Message::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn fields_are_read() {
        let message = parse(
            "READY=1\nSTATUS=Serving: a=b\nMAINPID=4711\nWATCHDOG=1\nWATCHDOG_USEC=5000000\n\
             EXTEND_TIMEOUT_USEC=1500\nERRNO=5\nMONOTONIC_USEC=7\nFDSTORE=1\nFDNAME=x\nX_OWN=1",
        );
        let want = Message {
            phase: Some(Phase::Ready),
            watchdog: Some(Watchdog::Beat),
            limit: Some(Some(Duration::from_secs(5))),
            extend: Some(Duration::from_micros(1500)),
            status: Some("Serving: a=b".into()),
            errno: Some(5),
            main_pid: Some(4711),
            monotonic: Some(Duration::from_micros(7)),
            is_barrier: false,
            stores_fds: true,
        };
        assert_eq!(message, want);
    }

    #[test]
    fn the_last_phase_and_the_first_of_every_other_field_count() {
        let message = parse("STOPPING=1\nREADY=1\nSTATUS=a\nSTATUS=b\nERRNO=x\nERRNO=2\n");
        assert_eq!(message.phase, Some(Phase::Ready));
        assert_eq!(message.status.as_deref(), Some("a"));
        assert_eq!(message.errno, Some(2));
    }

    #[test]
    fn invalid_values_and_unknown_fields_are_ignored() {
        for text in [
            "READY=0",
            "READY",
            "READY=",
            "ready=1",
            " READY=1",
            "READY=1 ",
            "WATCHDOG=2",
            "ERRNO=-1",
            "ERRNO=4096",
            "MAINPID=0",
            "MAINPID=99999999999",
            "WATCHDOG_USEC=1s",
            "WATCHDOG_USEC=+1",
            "EXTEND_TIMEOUT_USEC=",
            "=1",
            "BUSERROR=x",
            "BARRIER=2",
        ] {
            assert_eq!(parse(text), Message::default(), "{text:?}");
        }
        let message = Message::parse(b"STATUS=\xff\nREADY=1").unwrap();
        assert_eq!((message.status, message.phase), (None, Some(Phase::Ready)));
        // Text after a NUL is ignored.
        assert_eq!(Message::parse(b"X=1\0\nREADY=1"), Some(Message::default()));
        for empty in ["", "\n", "\0READY=1"] {
            assert_eq!(Message::parse(empty.as_bytes()), None);
        }
    }

    #[test]
    fn no_limit_is_0_or_the_largest_number() {
        assert_eq!(parse("WATCHDOG_USEC=0").limit, Some(None));
        assert_eq!(
            parse("WATCHDOG_USEC=18446744073709551615").limit,
            Some(None)
        );
        let most = Duration::from_micros(u64::MAX - 1);
        assert_eq!(
            parse("WATCHDOG_USEC=18446744073709551614").limit,
            Some(Some(most))
        );
        assert_eq!(parse("WATCHDOG_USEC=18446744073709551616").limit, None);
    }

    #[test]
    fn a_barrier_is_alone() {
        assert!(parse("BARRIER=1").is_barrier);
        assert!(parse("BARRIER=1\n").is_barrier);
        assert_eq!(Message::parse(b"BARRIER=1\nREADY=1"), None);
    }

    #[test]
    fn a_status_is_cut_between_characters() {
        let long = format!("STATUS={}\u{fc}", "a".repeat(STATUS_BYTES_MAX - 1));
        assert_eq!(parse(&long).status.unwrap().len(), STATUS_BYTES_MAX - 1);
        assert_eq!(parse("STATUS=").status.as_deref(), Some(""));
    }

    /// One piece of control data, as the kernel writes it.
    fn piece(kind: i32, data: &[u8]) -> Vec<u8> {
        let length = HEADER_BYTES + data.len();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(libc::SOL_SOCKET.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(length.next_multiple_of(size_of::<usize>()), 0);
        bytes
    }

    #[test]
    fn control_data_is_read() {
        let words =
            |words: &[i32]| -> Vec<u8> { words.iter().flat_map(|n| n.to_ne_bytes()).collect() };
        let mut time = 100_isize.to_ne_bytes().to_vec();
        time.extend(5_isize.to_ne_bytes());
        let mut buffer = [
            piece(libc::SCM_TIMESTAMPNS, &time),
            piece(77, b"unknown"),
            piece(libc::SCM_CREDENTIALS, &words(&[4711, -1, 0])),
            piece(libc::SCM_RIGHTS, &words(&[7, 8, 9])),
        ]
        .concat();
        buffer.resize(CONTROL_BYTES_MAX, 0);
        let sender = Sender {
            pid: 4711,
            uid: u32::MAX,
            gid: 0,
        };
        let want = Control {
            sender: Some(sender),
            sent: Some(Duration::new(100, 5)),
            fds: vec![7, 8, 9],
        };
        assert_eq!(Control::parse(&buffer), want);
        assert_eq!(Control::parse(&[]), Control::default());
        // Lengths that lead outside.
        for length in [0, 1, HEADER_BYTES - 1, 1000, usize::MAX] {
            let mut buffer = piece(libc::SCM_RIGHTS, &[0; 4]);
            buffer[..size_of::<usize>()].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(Control::parse(&buffer), Control::default(), "{length}");
        }
    }
}
