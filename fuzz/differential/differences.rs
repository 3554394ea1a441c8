//! Where healthz and hyper may differ, and why. Any other difference is a finding.

use std::net::Ipv6Addr;

use super::healthz_reader::{AcceptedRequest, End, RequestSummary};
use super::model::are_extensions;

/// The first place where they differ: only one of them accepts a request there.
pub struct Case<'s> {
    pub stream: &'s [u8],
    /// The last request that both accepted.
    pub before: Option<&'s AcceptedRequest>,
    pub healthz: Option<&'s AcceptedRequest>,
    pub hyper: Option<&'s RequestSummary>,
    pub end: &'s End,
}

pub struct Difference {
    #[expect(dead_code, reason = "documents the entry")]
    what: &'static str,
    #[expect(dead_code, reason = "documents the entry")]
    source: &'static str,
    healthz: Healthz,
    /// True for the head that only one of them accepts, or for the last one before it.
    applies: fn(&Head<'_>) -> bool,
}

/// What healthz does.
enum Healthz {
    /// Refuses with this status a head that hyper accepts.
    Refuses(&'static str),
    /// Closes after the last request that both accepted; hyper continues.
    Closes,
    /// Accepts a head that hyper refuses.
    Accepts,
    /// Continues after the last request that both accepted; hyper does not.
    Continues,
}

const fn difference(
    what: &'static str,
    source: &'static str,
    healthz: Healthz,
    applies: fn(&Head<'_>) -> bool,
) -> Difference {
    Difference {
        what,
        source,
        healthz,
        applies,
    }
}

use Healthz::{Accepts, Closes, Continues, Refuses};

pub const ALLOWED: &[Difference] = &[
    difference(
        "HTTP/1.1 without Host",
        "RFC 9112 3.2",
        Refuses("400"),
        |head| head.version != "HTTP/1.0" && head.all("host").is_empty(),
    ),
    difference(
        "more than one Host",
        "RFC 9112 3.2",
        Refuses("400"),
        |head| head.all("host").len() > 1,
    ),
    difference(
        "Host is not a host and port",
        "RFC 9112 3.2, RFC 9110 7.2",
        Refuses("400"),
        |head| head.all("host").iter().any(|host| !is_authority(host, "%")),
    ),
    difference(
        "some lines end in LF, some in CRLF",
        "stricter than RFC 9112 2.2",
        Refuses("400"),
        |head| head.lines_in_crlf != 0 && head.lines_in_crlf != head.lines,
    ),
    difference(
        "more than 8 empty lines before the request line",
        "stricter than RFC 9112 2.2",
        Refuses("400"),
        |head| head.empty_lines > 8,
    ),
    difference(
        "two Content-Length fields, even if equal",
        "stricter than RFC 9112 6.3",
        Refuses("400"),
        |head| head.all("content-length").len() > 1,
    ),
    difference(
        "Content-Length is not a number below 2^63",
        "RFC 9112 6.3",
        Refuses("400"),
        |head| {
            let is_number = |text: &&str| {
                text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<i64>().is_ok()
            };
            !head.all("content-length").iter().all(is_number)
        },
    ),
    difference(
        "a transfer coding other than chunked, or chunked twice",
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
    difference(
        "an unknown expectation",
        "RFC 9110 10.1.1",
        Refuses("417"),
        |head| {
            head.version != "HTTP/1.0"
                && head
                    .expectations()
                    .any(|member| !member.eq_ignore_ascii_case("100-continue"))
        },
    ),
    difference("CONNECT", "RFC 9110 9.3.6", Refuses("501"), |head| {
        head.method == "CONNECT"
    }),
    difference(
        "a target that is neither a path nor an http URI",
        "RFC 9112 3.2, RFC 3986 3.3",
        Refuses("400"),
        |head| !is_target(head.method, head.target),
    ),
    difference(
        "a body after Expect: 100-continue",
        "RFC 9110 10.1.1",
        Closes,
        |head| {
            let lengths = head.all("content-length");
            let has_body = (!lengths.is_empty() && lengths != ["0"])
                || !head.all("transfer-encoding").is_empty();
            head.expectations().next().is_some() && has_body
        },
    ),
    difference("a malformed chunked body", "RFC 9112 7.1", Closes, |head| {
        !head.all("transfer-encoding").is_empty() && chunks_are_wrong(head.rest)
    }),
    difference(
        "close together with a non-ASCII option: hyper ignores the whole field",
        "RFC 9110 7.6.1, 5.5",
        Closes,
        |head| head.connection_is_not_ascii("close"),
    ),
    difference(
        "keep-alive together with a non-ASCII option",
        "RFC 9110 7.6.1, 5.5",
        Continues,
        |head| head.connection_is_not_ascii("keep-alive"),
    ),
    difference(
        "HTTP/1.2 to HTTP/1.9, treated as 1.1",
        "RFC 9110 2.5",
        Accepts,
        |head| {
            matches!(
                head.version.as_bytes(),
                [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9']
            )
        },
    ),
    difference(
        "Transfer-Encoding in HTTP/1.0: answered, then closed",
        "RFC 9112 6.1",
        Accepts,
        |head| head.version == "HTTP/1.0" && !head.all("transfer-encoding").is_empty(),
    ),
    difference(
        "a query with characters that RFC 3986 does not allow",
        "same as Go's ParseQuery; laxer than RFC 3986 3.4",
        Accepts,
        |head| {
            let query = head.target.splitn(2, |byte| *byte == b'?').nth(1);
            query.is_some_and(|query| !is_text(query, "-._~!$&'()*+,;=:@/?"))
        },
    ),
    difference(
        "a percent-encoded host in the target",
        "RFC 3986 3.2.2",
        Accepts,
        |head| head.authority().contains('%'),
    ),
    difference(
        "an IPvFuture host literal",
        "RFC 3986 3.2.2",
        Accepts,
        |head| head.authority().to_ascii_lowercase().starts_with("[v"),
    ),
    difference(
        "a colon without a port in the target",
        "RFC 3986 3.2.3",
        Accepts,
        |head| head.authority().ends_with(':'),
    ),
    difference(
        "an Upgrade, which healthz ignores",
        "RFC 9110 7.8",
        Continues,
        |head| !head.all("upgrade").is_empty(),
    ),
];

impl Difference {
    pub fn allows(&self, case: &Case<'_>) -> bool {
        let at = match (&self.healthz, case.end) {
            (Refuses(wanted), End::Refused { at, status, .. })
                if case.hyper.is_some() && status == wanted =>
            {
                *at
            }
            (Closes, End::Closed) if case.hyper.is_some() => match case.before {
                Some(before) => before.head.start,
                None => return false,
            },
            (Accepts, _) => match case.healthz {
                Some(accepted) => accepted.head.start,
                None => return false,
            },
            (Continues, _) => match (case.healthz, case.before) {
                (Some(_), Some(before)) => before.head.start,
                _ => return false,
            },
            _ => return false,
        };
        Head::new(&case.stream[at..]).is_some_and(|head| (self.applies)(&head))
    }
}

/// A head, split into parts without validating it.
struct Head<'s> {
    empty_lines: usize,
    method: &'s str,
    target: &'s [u8],
    version: &'s str,
    /// Names in lower case, values without surrounding spaces, invalid UTF-8 replaced.
    fields: Vec<(String, String)>,
    lines: usize,
    lines_in_crlf: usize,
    rest: &'s [u8],
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
            rest: &stream[used..],
        })
    }

    /// The authority of a target in absolute-form; otherwise empty.
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
            // IPvFuture: an address of a later IP version.
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

/// True if the text consists of letters, digits, characters of `others` and complete percent-encodings.
fn is_text(text: &[u8], others: &str) -> bool {
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'%', [high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                after
            }
            (b'%', _) => return false,
            _ if first.is_ascii_alphanumeric() || others.as_bytes().contains(first) => after,
            _ => return false,
        };
    }
    true
}

/// True if a chunked body is malformed; false if it only ends too early.
fn chunks_are_wrong(body: &[u8]) -> bool {
    let mut rest = body;
    loop {
        let Some((line, after)) = line(rest) else {
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
            return trailer_is_wrong(after);
        }
        match after.get(size..) {
            Some([b'\r', b'\n', after @ ..]) => rest = after,
            Some([] | [b'\r']) | None => return false,
            Some(_) => return true,
        }
    }
}

fn trailer_is_wrong(mut rest: &[u8]) -> bool {
    while let Some((text, after)) = line(rest) {
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
        rest = after;
    }
    false
}

fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}
