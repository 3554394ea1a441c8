//! Where this crate and hyper may differ, and why. Whatever is not here is a finding.

use std::net::Ipv6Addr;

use super::model::are_extensions;
use super::ours::{Asks, End, Taken};

/// The first place where they differ: one of them has a request there.
pub struct Case<'s> {
    pub stream: &'s [u8],
    /// The last request that both took.
    pub before: Option<&'s Taken>,
    pub ours: Option<&'s Taken>,
    pub theirs: Option<&'s Asks>,
    pub end: &'s End,
}

pub struct Row {
    #[expect(dead_code, reason = "for who reads the table")]
    what: &'static str,
    #[expect(dead_code, reason = "for who reads the table")]
    source: &'static str,
    here: Here,
    /// Of the head that only one of them takes, or of the last one before.
    is: fn(&Head<'_>) -> bool,
}

/// What this crate does.
enum Here {
    /// Refuses with this status the head that hyper takes.
    Refuses(&'static str),
    /// Closes behind the last request that both took; hyper goes on.
    Closes,
    /// Takes the head that hyper refuses.
    Takes,
    /// Goes on behind the last request that both took; hyper does not.
    GoesOn,
}

const fn row(
    what: &'static str,
    source: &'static str,
    here: Here,
    is: fn(&Head<'_>) -> bool,
) -> Row {
    Row {
        what,
        source,
        here,
        is,
    }
}

use Here::{Closes, GoesOn, Refuses, Takes};

pub const ROWS: &[Row] = &[
    row(
        "HTTP/1.1 without Host",
        "RFC 9112 3.2",
        Refuses("400"),
        |head| head.version != "HTTP/1.0" && head.all("host").is_empty(),
    ),
    row(
        "more than one Host",
        "RFC 9112 3.2",
        Refuses("400"),
        |head| head.all("host").len() > 1,
    ),
    row(
        "Host is no host and port",
        "RFC 9112 3.2, RFC 9110 7.2",
        Refuses("400"),
        |head| head.all("host").iter().any(|host| !is_authority(host, "%")),
    ),
    row(
        "some lines end in LF, some in CRLF",
        "stricter than RFC 9112 2.2",
        Refuses("400"),
        |head| head.lines_in_crlf != 0 && head.lines_in_crlf != head.lines,
    ),
    row(
        "more empty lines in front than a few",
        "stricter than RFC 9112 2.2",
        Refuses("400"),
        |head| head.empty_lines > 8,
    ),
    row(
        "Content-Length twice, even the same",
        "stricter than RFC 9112 6.3",
        Refuses("400"),
        |head| head.all("content-length").len() > 1,
    ),
    row(
        "Content-Length is no number below 2^63",
        "RFC 9112 6.3",
        Refuses("400"),
        |head| {
            let is_number = |text: &&str| {
                text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<i64>().is_ok()
            };
            !head.all("content-length").iter().all(is_number)
        },
    ),
    row(
        "a transfer coding but chunked, or chunked twice",
        "RFC 9112 6.1",
        Refuses("501"),
        |head| {
            let codings = head.all("transfer-encoding");
            codings.len() > 1
                || codings
                    .iter()
                    .any(|coding| !coding.eq_ignore_ascii_case("chunked"))
        },
    ),
    row(
        "an expectation that is not known",
        "RFC 9110 10.1.1",
        Refuses("417"),
        |head| {
            head.version != "HTTP/1.0"
                && head
                    .expectations()
                    .any(|member| !member.eq_ignore_ascii_case("100-continue"))
        },
    ),
    row("CONNECT", "RFC 9110 9.3.6", Refuses("501"), |head| {
        head.method == "CONNECT"
    }),
    row(
        "a target that is no path and no http URI",
        "RFC 9112 3.2, RFC 3986 3.3",
        Refuses("400"),
        |head| !is_target(head.method, head.target),
    ),
    row(
        "a body that was to be asked for",
        "RFC 9110 10.1.1",
        Closes,
        |head| {
            let lengths = head.all("content-length");
            let has_body = (!lengths.is_empty() && lengths != ["0"])
                || !head.all("transfer-encoding").is_empty();
            head.expectations().next().is_some() && has_body
        },
    ),
    row(
        "a chunked body against the grammar",
        "RFC 9112 7.1",
        Closes,
        |head| !head.all("transfer-encoding").is_empty() && chunks_are_wrong(head.behind),
    ),
    row(
        "close beside an option that is not ASCII: hyper passes over the whole field",
        "RFC 9110 7.6.1, 5.5",
        Closes,
        |head| head.connection_is_not_ascii("close"),
    ),
    row(
        "keep-alive beside an option that is not ASCII",
        "RFC 9110 7.6.1, 5.5",
        GoesOn,
        |head| head.connection_is_not_ascii("keep-alive"),
    ),
    row(
        "HTTP/1.2 to HTTP/1.9, as 1.1",
        "RFC 9110 2.5",
        Takes,
        |head| {
            matches!(
                head.version.as_bytes(),
                [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9']
            )
        },
    ),
    row(
        "Transfer-Encoding in HTTP/1.0: answered, then closed",
        "RFC 9112 6.1",
        Takes,
        |head| head.version == "HTTP/1.0" && !head.all("transfer-encoding").is_empty(),
    ),
    row(
        "a query with what RFC 3986 has no place for",
        "as Go's ParseQuery; laxer than RFC 3986 3.4",
        Takes,
        |head| {
            let query = head.target.splitn(2, |byte| *byte == b'?').nth(1);
            query.is_some_and(|query| !is_text(query, "-._~!$&'()*+,;=:@/?"))
        },
    ),
    row(
        "an encoded host in the target",
        "RFC 3986 3.2.2",
        Takes,
        |head| head.authority().contains('%'),
    ),
    row(
        "a host literal of a later IP",
        "RFC 3986 3.2.2",
        Takes,
        |head| head.authority().to_ascii_lowercase().starts_with("[v"),
    ),
    row(
        "no port behind its colon in the target",
        "RFC 3986 3.2.3",
        Takes,
        |head| head.authority().ends_with(':'),
    ),
    row(
        "an Upgrade that is not followed",
        "RFC 9110 7.8",
        GoesOn,
        |head| !head.all("upgrade").is_empty(),
    ),
];

impl Row {
    pub fn allows(&self, case: &Case<'_>) -> bool {
        let at = match (&self.here, case.end) {
            (Refuses(wanted), End::Refuses { at, status, .. })
                if case.theirs.is_some() && status == wanted =>
            {
                *at
            }
            (Closes, End::Closes) if case.theirs.is_some() => match case.before {
                Some(before) => before.head.start,
                None => return false,
            },
            (Takes, _) => match case.ours {
                Some(ours) => ours.head.start,
                None => return false,
            },
            (GoesOn, _) => match (case.ours, case.before) {
                (Some(_), Some(before)) => before.head.start,
                _ => return false,
            },
            _ => return false,
        };
        Head::new(&case.stream[at..]).is_some_and(|head| (self.is)(&head))
    }
}

/// A head, taken apart without asking whether it is one.
struct Head<'s> {
    empty_lines: usize,
    method: &'s str,
    target: &'s [u8],
    version: &'s str,
    /// Names in small letters, values without spaces around them; what is not text is replaced.
    fields: Vec<(String, String)>,
    lines: usize,
    lines_in_crlf: usize,
    behind: &'s [u8],
}

impl<'s> Head<'s> {
    fn new(stream: &'s [u8]) -> Option<Self> {
        let mut lines = stream.split_inclusive(|byte| *byte == b'\n').peekable();
        let is_empty = |line: &&[u8]| *line == b"\n" || *line == b"\r\n";
        let mut used = 0;
        let mut empty_lines = 0;
        while let Some(line) = lines.next_if(is_empty) {
            used += line.len();
            empty_lines += 1;
        }
        let mut head = Vec::new();
        for line in lines {
            used += line.len();
            head.push(line);
            if is_empty(&line) {
                break;
            }
        }
        let in_crlf = head.iter().filter(|line| line.ends_with(b"\r\n")).count();
        let mut words = head.first()?.trim_ascii().split(|byte| *byte == b' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        let fields = head.iter().skip(1).filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let name = str::from_utf8(&line[..colon]).ok()?.to_ascii_lowercase();
            let value = String::from_utf8_lossy(line[colon + 1..].trim_ascii());
            Some((name, value.into_owned()))
        });
        Some(Head {
            empty_lines,
            method: str::from_utf8(method).ok()?,
            target,
            version: str::from_utf8(version).ok()?,
            fields: fields.collect(),
            lines: head.len(),
            lines_in_crlf: in_crlf,
            behind: &stream[used..],
        })
    }

    /// Of a target in absolute-form; else empty.
    fn authority(&self) -> &str {
        let target = str::from_utf8(self.target).unwrap_or_default();
        let rest = target.split_once("://").map_or("", |(_, rest)| rest);
        match target.starts_with('/') {
            true => "",
            false => rest.split(['/', '?']).next().unwrap_or_default(),
        }
    }

    fn connection_is_not_ascii(&self, wanted: &str) -> bool {
        let says = |value: &&str| {
            value
                .split(',')
                .any(|option| option.trim().eq_ignore_ascii_case(wanted))
        };
        self.all("connection")
            .iter()
            .any(|value| says(value) && !value.is_ascii())
    }

    /// The members of all Expect fields. Empty members do not count.
    fn expectations(&self) -> impl Iterator<Item = &str> {
        let members = self.all("expect").into_iter();
        let members = members.flat_map(|value| value.split(',')).map(str::trim);
        members.filter(|member| !member.is_empty())
    }

    fn all(&self, wanted: &str) -> Vec<&str> {
        let fields = self.fields.iter().filter(|(name, _)| name == wanted);
        fields.map(|(_, value)| value.as_str()).collect()
    }
}

const UNRESERVED_AND_DELIMS: &str = "-._~!$&'()*+,;=";

/// RFC 3986 section 3.2 without userinfo, and RFC 9110 section 4.2.1: no port without a host. A Host field
/// may have its zone after `%` alone.
fn is_authority(text: &str, zone_separator: &str) -> bool {
    let bracket = text.rfind(']').map_or(0, |at| at + 1);
    let colon = text[bracket..].find(':').map(|at| bracket + at);
    let (host, port) = text.split_at(colon.unwrap_or(text.len()));
    let is_host_missing = host.is_empty() && !port.is_empty();
    let digits = port.get(1..).unwrap_or_default();
    let is_port = digits.chars().all(|c| c.is_ascii_digit())
        && (digits.is_empty() || digits.parse::<u16>().is_ok());
    if is_host_missing || !is_port {
        return false;
    }
    match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
        Some(Some(address)) => {
            let (address, zone) = address
                .split_once(zone_separator)
                .unwrap_or((address, "zone"));
            // Of a later version: IPvFuture.
            let is_future = address
                .strip_prefix(['v', 'V'])
                .and_then(|rest| rest.split_once('.'))
                .is_some_and(|(version, address)| {
                    let is_address =
                        |c: char| c.is_ascii_alphanumeric() || ":-._~!$&'()*+,;=".contains(c);
                    let is_version =
                        !version.is_empty() && version.chars().all(|c| c.is_ascii_hexdigit());
                    is_version && !address.is_empty() && address.chars().all(is_address)
                });
            let is_zone = !zone.is_empty()
                && is_text(zone.as_bytes(), UNRESERVED_AND_DELIMS)
                && !zone.contains('%');
            is_future || is_zone && address.parse::<Ipv6Addr>().is_ok()
        }
        Some(None) => false,
        None => is_text(host.as_bytes(), UNRESERVED_AND_DELIMS),
    }
}

fn is_target(method: &str, target: &[u8]) -> bool {
    let Ok(target) = str::from_utf8(target) else {
        return false;
    };
    if target == "*" {
        return method == "OPTIONS";
    }
    let path = match target.split_once("://") {
        _ if target.starts_with('/') => target,
        Some((scheme, rest)) if ["http", "https"].contains(&&*scheme.to_ascii_lowercase()) => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            if end == 0 || !is_authority(&rest[..end], "%25") {
                return false;
            }
            &rest[end..]
        }
        _ => return false,
    };
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    is_text(path.as_bytes(), "-._~!$&'()*+,;=:@/")
        && query.chars().all(|c| c.is_ascii_graphic() && c != '#')
}

/// Letters, digits, what is in `others`, and whole percent-encodings.
fn is_text(text: &[u8], others: &str) -> bool {
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        rest = match (first, behind) {
            (b'%', [high, low, behind @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                behind
            }
            (b'%', _) => return false,
            _ if first.is_ascii_alphanumeric() || others.as_bytes().contains(first) => behind,
            _ => return false,
        };
    }
    true
}

/// Whether what begins like a chunked body goes on otherwise; not if it just ends too early.
fn chunks_are_wrong(body: &[u8]) -> bool {
    let mut rest = body;
    loop {
        let Some((line, behind)) = line(rest) else {
            return false;
        };
        let Some(line) = line.strip_suffix(b"\r") else {
            return true;
        };
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
        let (size, extensions) = line.split_at(digits.count());
        if size.is_empty() || !are_extensions(extensions) {
            return true;
        }
        let size = str::from_utf8(size)
            .ok()
            .and_then(|size| u64::from_str_radix(size, 16).ok());
        let Some(size) = size.and_then(|size| usize::try_from(size).ok()) else {
            return true;
        };
        if size == 0 {
            return trailer_is_wrong(behind);
        }
        match behind.get(size..) {
            Some([b'\r', b'\n', behind @ ..]) => rest = behind,
            Some([] | [b'\r']) | None => return false,
            Some(_) => return true,
        }
    }
}

fn trailer_is_wrong(mut rest: &[u8]) -> bool {
    while let Some((text, behind)) = line(rest) {
        let Some(text) = text.strip_suffix(b"\r") else {
            return true;
        };
        if text.is_empty() {
            return false;
        }
        let name = text.split(|byte| *byte == b':').next().unwrap_or_default();
        let is_token =
            |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let is_value = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
        if name.is_empty()
            || name.len() == text.len()
            || !name.iter().all(is_token)
            || !text.iter().all(is_value)
        {
            return true;
        }
        rest = behind;
    }
    false
}

fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}
