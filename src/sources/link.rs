//! The datagrams between the server's process and the sources processes.
//!
//! A `SOCK_SEQPACKET` socket pair keeps the borders of messages, and each side sees when the other has closed it. Every
//! message fits into [`MESSAGE_BYTES_MAX`]. The sender reads files and runs programs, so the server does not trust it:
//! [`decode`] accepts only complete messages within their bounds, and never panics.
//!
//! Numbers are in the byte order of the machine: both ends run the same program.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use healthz::Check;
use healthz::limits::{CHECK_NAME_BYTES_MAX, REASON_BYTES_MAX};
use log::Level;
use socket2::{Domain, Socket, Type};

use super::runs::{RUNS_MAX, Runs};
use super::spec::{Endpoints, SPECS_MAX, Severity, Spec};

/// Most bytes of a message.
pub const MESSAGE_BYTES_MAX: usize = 1024;
/// Most bytes of the text in a message; longer ones are cut.
pub const TEXT_BYTES_MAX: usize = 768;

/// How long a verdict may be late before its check fails by itself: the time that the worker and the server may
/// get no CPU.
const SLACK: Duration = Duration::from_secs(2);

/// A message of the sources processes to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// The worker has opened the sockets of its checks. The first message after the start.
    Opened,
    Verdict(Verdict<'a>),
    /// The definitions of a set of this many checks follow.
    Begin {
        generation: u32,
        count: u16,
    },
    /// The check at `index` of the set that has begun.
    Define {
        index: u16,
        definition: Definition<'a>,
    },
    /// The set is complete: the server uses it from now on. The text is for the log.
    Commit {
        generation: u32,
        text: &'a str,
    },
    /// The check file was not used, and why. One message for each line.
    Refused(&'a str),
    /// The last line of a refusal was sent.
    RefusedEnd,
    /// A record for the log.
    Log(Level, &'a str),
    /// The worker has ended, and how. It is started again.
    WorkerEnded(&'a str),
    /// The worker starts another one on its own, and why. Verdicts hold meanwhile.
    Restarting(&'a str),
}

/// The state of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// The set of checks that `index` belongs to.
    pub generation: u32,
    pub index: u16,
    /// Milliseconds since it was measured.
    pub age_ms: u32,
    /// `None` if the check passes.
    pub failure: Option<&'a str>,
    /// Of a heartbeat.
    pub beat: Option<Beat>,
    /// Attempts that have ended since the previous verdict.
    pub runs: Runs,
}

/// The last beat of a program, for a worker that is started again and for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    pub age_ms: u32,
    /// The limit that the program has set for itself; 0 if it has set none.
    pub limit_ms: u32,
    /// When it was sent, in seconds since 1970. Computed from `age_ms`, it would change from verdict to verdict.
    pub unix_seconds: u64,
}

/// What the server needs to know of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition<'a> {
    pub name: &'a str,
    pub group: Option<&'a str>,
    pub endpoints: Endpoints,
    pub severity: Severity,
    /// Milliseconds for which a verdict holds.
    pub holds_ms: u32,
    /// Same spec as the check of this name in the previous set: it keeps its state.
    pub is_kept: bool,
}

impl<'a> Definition<'a> {
    /// The definition of a check that is new.
    pub fn new(spec: &'a Spec) -> Self {
        let timing = &spec.timing;
        let holds = timing
            .period
            .saturating_add(timing.timeout)
            .saturating_add(SLACK);
        Definition {
            name: &spec.name,
            group: spec.group.as_deref(),
            endpoints: spec.endpoints,
            severity: spec.severity,
            holds_ms: u32::try_from(holds.as_millis()).unwrap_or(u32::MAX),
            is_kept: false,
        }
    }
}

const VERDICT: u8 = 1;
const BEGIN: u8 = 2;
const DEFINE: u8 = 3;
const COMMIT: u8 = 4;
const REFUSED: u8 = 5;
const REFUSED_END: u8 = 6;
const LOG: u8 = 7;
const WORKER_ENDED: u8 = 8;
const RESTARTING: u8 = 9;
const OPENED: u8 = 10;

/// A message to the worker: read the check file again.
pub const RELOAD: &[u8] = b"R";
/// The first byte of the other message to the worker.
const BEAT: u8 = b'B';
/// A message to a worker that was started again: the last beat of a check that passed when the worker before it ended.
pub fn encode_beat(generation: u32, index: u16, beat: Beat) -> Vec<u8> {
    let mut bytes = vec![BEAT];
    bytes.extend_from_slice(&generation.to_ne_bytes());
    bytes.extend_from_slice(&index.to_ne_bytes());
    put_beat(&mut bytes, beat);
    bytes
}

fn put_beat(bytes: &mut Vec<u8>, beat: Beat) {
    bytes.extend_from_slice(&beat.age_ms.to_ne_bytes());
    bytes.extend_from_slice(&beat.limit_ms.to_ne_bytes());
    bytes.extend_from_slice(&beat.unix_seconds.to_ne_bytes());
}

/// The generation, the number of the check and the beat; `None` if it is not that message.
pub fn decode_beat(bytes: &[u8]) -> Option<(u32, u16, Beat)> {
    let mut reader = Reader(bytes.strip_prefix(&[BEAT])?);
    let (generation, index) = (reader.u32()?, reader.index()?);
    let beat = reader.beat()?;
    reader.0.is_empty().then_some((generation, index, beat))
}

/// The bytes of `message`. Texts that are too long are cut.
pub fn encode(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    match message {
        Message::Opened => bytes.push(OPENED),
        Message::Verdict(verdict) => {
            bytes.push(VERDICT);
            bytes.extend_from_slice(&verdict.generation.to_ne_bytes());
            bytes.extend_from_slice(&verdict.index.to_ne_bytes());
            bytes.extend_from_slice(&verdict.age_ms.to_ne_bytes());
            let has_beat = u8::from(verdict.beat.is_some());
            let has_runs = u8::from(!verdict.runs.is_empty());
            bytes.push(u8::from(verdict.failure.is_some()) | has_beat << 1 | has_runs << 2);
            if let Some(beat) = verdict.beat {
                put_beat(&mut bytes, beat);
            }
            if !verdict.runs.is_empty() {
                for count in verdict.runs.counts() {
                    bytes.extend_from_slice(&count.to_ne_bytes());
                }
                bytes.extend_from_slice(&verdict.runs.last_micros.to_ne_bytes());
            }
            bytes.extend_from_slice(cut(verdict.failure.unwrap_or_default()).as_bytes());
        }
        Message::Begin { generation, count } => {
            bytes.push(BEGIN);
            bytes.extend_from_slice(&generation.to_ne_bytes());
            bytes.extend_from_slice(&count.to_ne_bytes());
        }
        Message::Define { index, definition } => {
            bytes.push(DEFINE);
            bytes.extend_from_slice(&index.to_ne_bytes());
            define(&mut bytes, definition);
        }
        Message::Commit { generation, text } => {
            bytes.push(COMMIT);
            bytes.extend_from_slice(&generation.to_ne_bytes());
            bytes.extend_from_slice(cut(text).as_bytes());
        }
        Message::Refused(text) => {
            bytes.push(REFUSED);
            bytes.extend_from_slice(cut(text).as_bytes());
        }
        Message::RefusedEnd => bytes.push(REFUSED_END),
        Message::Log(level, text) => {
            bytes.push(LOG);
            bytes.push(*level as u8);
            bytes.extend_from_slice(cut(text).as_bytes());
        }
        Message::WorkerEnded(text) => {
            bytes.push(WORKER_ENDED);
            bytes.extend_from_slice(cut(text).as_bytes());
        }
        Message::Restarting(text) => {
            bytes.push(RESTARTING);
            bytes.extend_from_slice(cut(text).as_bytes());
        }
    }
    bytes
}

fn define(bytes: &mut Vec<u8>, definition: &Definition<'_>) {
    let Endpoints {
        healthz,
        livez,
        readyz,
    } = definition.endpoints;
    let is_warning = definition.severity == Severity::Warning;
    let flags = [healthz, livez, readyz, is_warning, definition.is_kept];
    let flags = flags
        .iter()
        .rev()
        .fold(0, |bits, flag| bits << 1 | u8::from(*flag));
    bytes.push(flags);
    bytes.extend_from_slice(&definition.holds_ms.to_ne_bytes());
    for text in [definition.name, definition.group.unwrap_or_default()] {
        bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        bytes.extend(text.bytes());
    }
}

/// At most [`TEXT_BYTES_MAX`] bytes of `text`, up to a character boundary.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    // At most three steps: a character has at most four bytes.
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// Decodes a message; `None` if it is not one that [`encode`] makes.
pub fn decode(bytes: &[u8]) -> Option<Message<'_>> {
    let mut reader = Reader(bytes);
    let message = match reader.byte()? {
        VERDICT => Message::Verdict(reader.verdict()?),
        BEGIN => Message::Begin {
            generation: reader.u32()?,
            count: reader
                .u16()
                .filter(|count| usize::from(*count) <= SPECS_MAX)?,
        },
        DEFINE => Message::Define {
            index: reader.index()?,
            definition: reader.definition()?,
        },
        COMMIT => Message::Commit {
            generation: reader.u32()?,
            text: reader.text()?,
        },
        REFUSED => Message::Refused(reader.text()?),
        REFUSED_END => Message::RefusedEnd,
        LOG => {
            let level = reader.byte()?;
            let level = Level::iter().find(|known| *known as u8 == level)?;
            Message::Log(level, reader.text()?)
        }
        WORKER_ENDED => Message::WorkerEnded(reader.text()?),
        RESTARTING => Message::Restarting(reader.text()?),
        OPENED => Message::Opened,
        _ => return None,
    };
    reader.0.is_empty().then_some(message)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_ne_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_ne_bytes(self.take(8)?.try_into().ok()?))
    }

    fn index(&mut self) -> Option<u16> {
        self.u16().filter(|index| usize::from(*index) < SPECS_MAX)
    }

    /// All that is left.
    fn text(&mut self) -> Option<&'a str> {
        let bytes = self.take(self.0.len())?;
        std::str::from_utf8(bytes)
            .ok()
            .filter(|text| text.len() <= TEXT_BYTES_MAX)
    }

    /// A text after its length.
    fn short_text(&mut self) -> Option<&'a str> {
        let length = usize::from(self.byte()?);
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        (text.len() <= CHECK_NAME_BYTES_MAX).then_some(text)
    }

    fn verdict(&mut self) -> Option<Verdict<'a>> {
        let (generation, index, age_ms) = (self.u32()?, self.index()?, self.u32()?);
        let flags = self.byte().filter(|flags| *flags < 8)?;
        let beat = match flags & 2 {
            0 => None,
            _ => Some(self.beat()?),
        };
        let runs = match flags & 4 {
            0 => Runs::default(),
            _ => self.runs()?,
        };
        let failure = match (flags & 1, self.text()?) {
            (0, "") => None,
            (1, reason) => Some(reason),
            _ => return None,
        };
        Some(Verdict {
            generation,
            index,
            age_ms,
            failure,
            beat,
            runs,
        })
    }

    fn beat(&mut self) -> Option<Beat> {
        Some(Beat {
            age_ms: self.u32()?,
            limit_ms: self.u32()?,
            unix_seconds: self.u64()?,
        })
    }

    fn runs(&mut self) -> Option<Runs> {
        let runs = Runs {
            success: self.u32()?,
            failure: self.u32()?,
            timeout: self.u32()?,
            last_micros: self.u64()?,
        };
        let is_bounded = runs.counts().iter().all(|count| *count <= RUNS_MAX);
        (is_bounded && !runs.is_empty()).then_some(runs)
    }

    fn definition(&mut self) -> Option<Definition<'a>> {
        let flags = self.byte().filter(|flags| *flags < 1 << 5)?;
        let is_set = |bit: u8| flags >> bit & 1 == 1;
        Some(Definition {
            endpoints: Endpoints {
                healthz: is_set(0),
                livez: is_set(1),
                readyz: is_set(2),
            },
            severity: match is_set(3) {
                true => Severity::Warning,
                false => Severity::Error,
            },
            is_kept: is_set(4),
            holds_ms: self.u32()?,
            name: self.short_text().filter(|name| Check::is_name(name))?,
            group: Some(self.short_text()?).filter(|group| !group.is_empty()),
        })
    }
}

/// The fuzz target `link`. Asserts, for any bytes: a message that is accepted has the bytes that it is encoded as, and
/// its texts and numbers are within their bounds.
#[cfg(any(test, fuzzing))]
pub fn fuzz(bytes: &[u8]) {
    let Some(message) = decode(bytes) else { return };
    assert!(bytes.len() <= MESSAGE_BYTES_MAX);
    assert_eq!(encode(&message), bytes, "{message:?}");
    match message {
        Message::Verdict(verdict) => {
            assert!(usize::from(verdict.index) < SPECS_MAX);
            let counts = verdict.runs.counts();
            assert!(counts.iter().all(|count| *count <= RUNS_MAX));
        }
        Message::Begin { count, .. } => assert!(usize::from(count) <= SPECS_MAX),
        Message::Define { index, definition } => {
            assert!(usize::from(index) < SPECS_MAX);
            assert!(Check::is_name(definition.name));
            let group = definition.group.unwrap_or("group");
            assert!((1..=CHECK_NAME_BYTES_MAX).contains(&group.len()));
        }
        Message::Commit { text, .. }
        | Message::Refused(text)
        | Message::Log(_, text)
        | Message::Restarting(text)
        | Message::WorkerEnded(text) => assert!(text.len() <= TEXT_BYTES_MAX),
        Message::Opened | Message::RefusedEnd => {}
    }
}

/// One end of the link. Never blocks.
#[derive(Debug)]
pub struct Link(Socket);

impl Link {
    /// Both ends.
    ///
    /// # Errors
    /// If the system has no descriptors for it.
    pub fn pair() -> io::Result<(Link, OwnedFd)> {
        let (near, far) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None)?;
        near.set_nonblocking(true)?;
        Ok((Link(near), far.into()))
    }

    /// An end that was inherited.
    ///
    /// # Errors
    /// If it is not a socket of this kind.
    pub fn from_inherited(fd: OwnedFd) -> io::Result<Link> {
        let socket = Socket::from(fd);
        if socket.r#type()? != Type::SEQPACKET {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        socket.set_nonblocking(true)?;
        Ok(Link(socket))
    }

    /// Receives one message into `buffer`. `Ok(None)` if the other end is closed.
    ///
    /// # Errors
    /// `WouldBlock` if there is none.
    pub fn receive<'b>(
        &self,
        buffer: &'b mut [u8; MESSAGE_BYTES_MAX],
    ) -> io::Result<Option<&'b [u8]>> {
        let length = loop {
            match io::Read::read(&mut &self.0, buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        Ok((length > 0).then_some(buffer.get(..length).unwrap_or_default()))
    }

    /// Sends one message.
    ///
    /// # Errors
    /// `WouldBlock` if the other end has not received many others yet.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        loop {
            match self.0.send_with_flags(message, libc::MSG_NOSIGNAL) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(|_| ()),
            }
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Link {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

// A definition and a verdict fit.
const _: () = assert!(7 + 2 * (1 + CHECK_NAME_BYTES_MAX) < MESSAGE_BYTES_MAX);
const _: () = assert!(12 + 16 + 20 + TEXT_BYTES_MAX <= MESSAGE_BYTES_MAX);
const _: () = assert!(REASON_BYTES_MAX <= TEXT_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_link_has_no_finding() {
        crate::sources::kinds::run_corpus("link", fuzz);
    }

    fn examples() -> Vec<Message<'static>> {
        let definition = Definition {
            name: "var",
            group: None,
            endpoints: Endpoints {
                healthz: true,
                livez: false,
                readyz: true,
            },
            severity: Severity::Error,
            holds_ms: 13_000,
            is_kept: false,
        };
        let verdict = Verdict {
            generation: 3,
            index: 255,
            age_ms: 7,
            failure: None,
            beat: None,
            runs: Runs::default(),
        };
        let beat = Beat {
            age_ms: 1,
            limit_ms: 2000,
            unix_seconds: u64::MAX,
        };
        let runs = Runs {
            success: RUNS_MAX,
            failure: 1,
            timeout: 0,
            last_micros: u64::MAX,
        };
        vec![
            Message::Verdict(verdict),
            Message::Verdict(Verdict {
                failure: Some("/var: 3.1% free, needs 10%"),
                ..verdict
            }),
            Message::Verdict(Verdict {
                failure: Some(""),
                ..verdict
            }),
            Message::Verdict(Verdict {
                beat: Some(beat),
                ..verdict
            }),
            Message::Verdict(Verdict { runs, ..verdict }),
            Message::Verdict(Verdict {
                failure: Some("late"),
                beat: Some(beat),
                runs,
                ..verdict
            }),
            Message::Begin {
                generation: u32::MAX,
                count: 256,
            },
            Message::Define {
                index: 0,
                definition: definition.clone(),
            },
            Message::Define {
                index: 1,
                definition: Definition {
                    group: Some("disks"),
                    severity: Severity::Warning,
                    is_kept: true,
                    ..definition
                },
            },
            Message::Commit {
                generation: 4,
                text: "",
            },
            Message::Refused("a.toml:1:1: unknown key"),
            Message::RefusedEnd,
            Message::Opened,
            Message::Log(Level::Warn, "\u{2603}"),
            Message::WorkerEnded("killed by signal 9"),
            Message::Restarting("the supervisor has ended"),
        ]
    }

    #[test]
    fn a_decoded_message_is_the_one_that_was_encoded() {
        for message in examples() {
            let bytes = encode(&message);
            assert!(bytes.len() <= MESSAGE_BYTES_MAX);
            assert_eq!(decode(&bytes), Some(message));
        }
    }

    #[test]
    fn a_message_that_is_cut_or_longer_is_refused_or_another_valid_one() {
        for message in examples() {
            let bytes = encode(&message);
            for end in 0..bytes.len() {
                if let Some(other) = decode(&bytes[..end]) {
                    assert_eq!(encode(&other), &bytes[..end]);
                }
            }
        }
        assert_eq!(decode(&[REFUSED_END, 0]), None);
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&[0]), None);
    }

    /// The server adds runs one by one, so a number without a bound would occupy its main thread.
    #[test]
    fn runs_without_a_count_or_with_a_larger_one_than_allowed_are_refused() {
        let encoded = |runs| {
            let verdict = Verdict {
                generation: 0,
                index: 0,
                age_ms: 0,
                failure: None,
                beat: None,
                runs,
            };
            encode(&Message::Verdict(verdict))
        };
        let one = Runs {
            timeout: 1,
            ..Runs::default()
        };
        let mut bytes = encoded(one);
        assert!(decode(&bytes).is_some());
        let counts = 12..24;
        bytes[counts.clone()].fill(0);
        assert_eq!(decode(&bytes), None);
        for at in counts.step_by(4) {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&(RUNS_MAX + 1).to_ne_bytes());
            assert_eq!(decode(&bytes), None);
        }
    }

    #[test]
    fn a_definition_with_an_invalid_name_or_index_is_refused() {
        for message in examples() {
            let Message::Define { definition, .. } = message else {
                continue;
            };
            let name = "a b".to_owned();
            let bad = Definition {
                name: &name,
                ..definition.clone()
            };
            let encoded = encode(&Message::Define {
                index: 0,
                definition: bad,
            });
            assert_eq!(decode(&encoded), None);
            let encoded = encode(&Message::Define {
                index: 256,
                definition,
            });
            assert_eq!(decode(&encoded), None);
        }
    }

    #[test]
    fn unknown_flags_are_refused() {
        for message in examples() {
            let (at, unknown) = match message {
                Message::Verdict(_) => (11, 1 << 3),
                Message::Define { .. } => (3, 1 << 5),
                _ => continue,
            };
            let mut bytes = encode(&message);
            bytes[at] |= unknown;
            assert_eq!(decode(&bytes), None, "{message:?}");
            // Alone, in what is otherwise valid.
            bytes[at] = unknown;
            assert_eq!(decode(&bytes), None, "{message:?}");
        }
    }

    #[test]
    fn the_last_beat_is_sent_to_the_next_worker() {
        let beat = Beat {
            age_ms: 41_000,
            limit_ms: 0,
            unix_seconds: 1_800_000_000,
        };
        let bytes = encode_beat(7, 255, beat);
        assert_eq!(decode_beat(&bytes), Some((7, 255, beat)));
        assert_eq!(decode_beat(&encode_beat(7, 256, beat)), None);
        assert_eq!(decode_beat(RELOAD), None);
        assert_eq!(decode_beat(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn long_texts_are_cut_at_a_character_boundary() {
        for start in ["", "x", "xx"] {
            let long = start.to_owned() + &"\u{2603}".repeat(TEXT_BYTES_MAX);
            let bytes = encode(&Message::Refused(&long));
            let Some(Message::Refused(text)) = decode(&bytes) else {
                panic!("refused");
            };
            assert!(long.starts_with(text) && TEXT_BYTES_MAX - text.len() < 3);
        }
    }

    #[test]
    fn a_closed_end_is_seen_and_a_full_link_does_not_block() {
        let (near, far) = Link::pair().unwrap();
        let far = Link::from_inherited(far).unwrap();
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        let kind = |error: io::Error| error.kind();
        assert_eq!(
            near.receive(&mut buffer).map_err(kind),
            Err(io::ErrorKind::WouldBlock)
        );
        far.send(b"one").unwrap();
        far.send(b"two").unwrap();
        assert_eq!(near.receive(&mut buffer).unwrap(), Some(&b"one"[..]));
        assert_eq!(near.receive(&mut buffer).unwrap(), Some(&b"two"[..]));
        let full = (0..1_000_000).find_map(|_| near.send(b"R").err());
        assert_eq!(full.unwrap().kind(), io::ErrorKind::WouldBlock);
        let (near, far) = Link::pair().unwrap();
        drop(far);
        assert_eq!(near.receive(&mut buffer).unwrap(), None);
    }
}
