//! Request targets (RFC 9112 section 3.2) and hosts: parsed in place.
//!
//! Knows no endpoint, and of methods only that `*` belongs to OPTIONS. Nothing is decoded into a buffer:
//! [`Decoded`] yields one decoded byte after the other. [`super::request`] parses a target;
//! [`crate::answer`] compares it with the paths of endpoints and the names of checks.
//!
//! | input | result | source |
//! |---|---|---|
//! | `/path?query` | origin-form | RFC 9112 3.2.1 |
//! | `http://host/path`, `https://host/path` | the same path; the target's host is used instead of `Host` | RFC 9112 3.2.2 |
//! | `http://host`, `http://host?query` | path `/` | RFC 9110 4.2.3 |
//! | `*` | OPTIONS only | RFC 9112 3.2.4 |
//! | another scheme, no slash, empty | refused | RFC 9112 3.2 |
//! | `http://host:65536/`, and such a port in Host | refused; Go accepts both | stricter than RFC 3986 3.2.3: TCP has no such port |
//! | `http://:10248/`, and `:10248` in Host: a port without a host | refused; Go accepts both | RFC 9110 4.2.1 |
//! | `#`, bytes above 0x7e | refused; Go accepts them | RFC 9112 3.2, RFC 3986 |
//! | in the path: `"<>[]\^{}` and the like, `%` without two hex digits | refused; Go accepts the former | RFC 3986 3.3, 2.1 |
//! | the same in the query | kept; a pair that cannot be decoded is dropped | Go `url.ParseQuery` |
//! | `%2F`, `%2E` in the path | neither separates segments nor makes a path unclean | Go `http.ServeMux` |
//! | `[fe80::1%25eth0]` as host of a target | accepted; `[fe80::1%eth0]` is refused | RFC 6874 2 |
//! | either of them in `Host` | accepted: clients send the zone as it is typed | Node, as Go |

/// The form a target was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `/healthz?verbose`
    Origin,
    /// `http://localhost:10248/healthz?verbose`
    Absolute,
    /// `*`
    Asterisk,
}

/// Properties of a path that need further work. Most paths have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PathFlags {
    /// It has a `/` followed by `/` or `.`.
    may_be_unclean: bool,
    /// It has a `%`.
    is_encoded: bool,
}

/// A request target, split into its components but not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    form: Form,
    flags: PathFlags,
    // All three are ASCII. They are bytes and not `str`, because the head cache would have to validate
    // them again for each request.
    authority: Option<&'a [u8]>,
    path: &'a [u8],
    query: Option<&'a [u8]>,
}

impl<'a> Target<'a> {
    /// Splits `target`; `None` if it has none of the forms above.
    pub fn parse(target: &'a [u8]) -> Option<Self> {
        if target.first() == Some(&b'/') {
            return Target::parse_path(Form::Origin, None, target);
        }
        if target == b"*" {
            return Some(Target {
                form: Form::Asterisk,
                flags: PathFlags::default(),
                authority: None,
                path: target,
                query: None,
            });
        }
        // Absolute-form. Proxies send it, and RFC 9112 section 3.2.2 requires servers to accept it.
        let rest = strip_scheme(target)?;
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?'));
        let (authority, path) = rest.split_at_checked(end.unwrap_or(rest.len()))?;
        if authority.is_empty() || !is_host(authority, Zone::Encoded) {
            return None;
        }
        if path.first() == Some(&b'/') {
            return Target::parse_path(Form::Absolute, Some(authority), path);
        }
        // No path: the target is the host, or the host and a query.
        let query = path.strip_prefix(b"?");
        let root = Target::parse_path(Form::Absolute, Some(authority), b"/")?;
        is_query(query).then_some(Target { query, ..root })
    }

    /// Reads each byte once, because this runs for every request that is not in the head cache.
    fn parse_path(form: Form, authority: Option<&'a [u8]>, target: &'a [u8]) -> Option<Self> {
        let mut flags = PathFlags::default();
        let mut previous = 0;
        let mut length = 0;
        for byte in target {
            if !is(PATH, *byte) {
                break;
            }
            // A `/.` may also begin a name such as `.a`; `is_unclean` decides.
            flags.may_be_unclean |= previous == b'/' && matches!(byte, b'/' | b'.');
            flags.is_encoded |= *byte == b'%';
            previous = *byte;
            length += 1;
        }
        let (path, rest) = target.split_at_checked(length)?;
        let query = match rest {
            [] => None,
            [b'?', query @ ..] => Some(query),
            _ => return None,
        };
        let is_valid = is_query(query) && (!flags.is_encoded || decodes(path));
        is_valid.then_some(Target {
            form,
            flags,
            authority,
            path,
            query,
        })
    }

    /// An origin-form target from the components that [`parse`](Target::parse) returned before.
    #[inline]
    pub(super) fn from_parts(path: &'a [u8], flags: PathFlags, query: Option<&'a [u8]>) -> Self {
        Target {
            form: Form::Origin,
            flags,
            authority: None,
            path,
            query,
        }
    }

    #[inline]
    pub(super) fn flags(&self) -> PathFlags {
        self.flags
    }

    /// The form of the target.
    #[inline]
    pub fn form(&self) -> Form {
        self.form
    }

    /// Host and port of an absolute-form target. ASCII.
    #[inline]
    pub fn authority(&self) -> Option<&'a [u8]> {
        self.authority
    }

    /// The path as it was sent, percent-encoding included; `*` for asterisk-form. ASCII.
    #[inline]
    pub fn path(&self) -> &'a [u8] {
        self.path
    }

    /// The bytes after the first `?`, as they were sent. ASCII.
    #[inline]
    pub fn query(&self) -> Option<&'a [u8]> {
        self.query
    }

    /// True if the path has an empty, `.` or `..` segment, which Go's `ServeMux` removes before it
    /// compares paths. An empty last segment is kept, and `%2e` is not a dot here.
    #[inline]
    pub fn is_unclean(&self) -> bool {
        self.flags.may_be_unclean
            && segments(self.path).any(|(segment, last)| match segment {
                b"" => !last,
                b"." | b".." => true,
                _ => false,
            })
    }

    /// Appends the cleaned path to `text`.
    pub(crate) fn clean_into(&self, text: &mut super::BodyWriter<'_>) {
        let start = text.len();
        for (segment, _) in segments(self.path) {
            match segment {
                b"" | b"." => {}
                // Removes the last segment. At the root there is none, as in `/..`.
                b".." => {
                    let kept = text.as_bytes().get(start..).unwrap_or_default();
                    let slash = kept.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                    text.truncate(start + slash);
                }
                segment => {
                    text.push(b"/");
                    text.push(segment);
                }
            }
        }
        // Go's `cleanPath` keeps a slash at the end: `/a/` and `/a` are two paths.
        if text.len() == start || self.path.ends_with(b"/") {
            text.push(b"/");
        }
    }

    /// The rest of the path after `prefix`, still encoded; `None` if the decoded path does not begin with
    /// `prefix`. An encoded slash is not equal to a slash. `prefix` is the path of an endpoint, without
    /// percent signs.
    #[inline]
    pub(crate) fn strip_prefix(&self, prefix: &str) -> Option<&'a [u8]> {
        match self.path.strip_prefix(prefix.as_bytes()) {
            // Decoding takes longer, and most paths have nothing to decode.
            None if self.flags.is_encoded => strip_prefix(self.path, prefix.as_bytes()),
            rest => rest,
        }
    }

    /// The pairs of the query, in order; see [`Pairs`].
    pub fn pairs(&self) -> Pairs<'a> {
        Pairs(self.query)
    }
}

/// The rest of `path` after `prefix`; see [`Target::strip_prefix`].
pub(crate) fn strip_prefix<'a>(path: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    if let Some(rest) = path.strip_prefix(prefix) {
        return Some(rest);
    }
    // Compared byte by byte, because the length of the encoded prefix is not known.
    let mut bytes = path.iter().copied();
    let mut used = 0;
    for &want in prefix {
        match bytes.next()? {
            b'%' => {
                let byte = (hex(bytes.next()?)? << 4) | hex(bytes.next()?)?;
                // `%2F` is data within a segment (RFC 3986 section 2.2).
                if byte != want || byte == b'/' {
                    return None;
                }
                used += 3;
            }
            byte if byte == want => used += 1,
            _ => return None,
        }
    }
    path.get(used..)
}

/// The pairs of a query, as Go's `url.ParseQuery` returns them. They are separated by `&`. A pair that is
/// empty, has a `;` or cannot be percent-decoded is dropped. A name without `=` has the value `""`.
#[derive(Clone, Debug)]
pub struct Pairs<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Pairs<'a> {
    /// Name and value, still encoded, but known to be decodable.
    type Item = (Decoded<'a>, Decoded<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let query = self.0?;
            let (pair, rest) = split_once(query, b'&');
            self.0 = rest;
            // Go drops a pair with `;` since 1.17: other software separates pairs there.
            if pair.is_empty() || pair.contains(&b';') || !decodes(pair) {
                continue;
            }
            let (name, value) = split_once(pair, b'=');
            let value = value.unwrap_or_default();
            return Some((Decoded(name), Decoded(value)));
        }
    }
}

/// Part of a query. [`bytes`](Decoded::bytes) decodes percent-encoding, and `+` as a space.
#[derive(Clone, Copy, Debug)]
pub struct Decoded<'a>(&'a [u8]);

impl<'a> Decoded<'a> {
    /// Wraps `raw`, part of a query. A `%` without two hex digits ends the decoded bytes.
    pub(crate) const fn new(raw: &'a [u8]) -> Self {
        Decoded(raw)
    }

    /// The bytes as they were sent.
    pub fn raw(&self) -> &'a [u8] {
        self.0
    }

    /// The decoded bytes.
    pub fn bytes(&self) -> impl Iterator<Item = u8> + Clone + use<'a> {
        let mut raw = self.0.iter().copied();
        core::iter::from_fn(move || match raw.next()? {
            b'+' => Some(b' '),
            b'%' => Some((hex(raw.next()?)? << 4) | hex(raw.next()?)?),
            byte => Some(byte),
        })
    }

    /// True if the decoded bytes are equal to `text`.
    pub fn is(&self, text: &str) -> bool {
        self.bytes().eq(text.bytes())
    }
}

/// True if two hex digits follow each `%`.
fn decodes(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    // Most text has no `%`; this loop is the whole work then.
    while let Some(byte) = bytes.next() {
        let digits = *byte != b'%'
            || bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit())
                && bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit());
        if !digits {
            return false;
        }
    }
    true
}

/// The bytes before the first `separator`, and the bytes after it if there is one.
fn split_once(text: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    let mut parts = text.splitn(2, |byte| *byte == separator);
    (parts.next().unwrap_or_default(), parts.next())
}

/// The segments after the leading slash; the flag is true for the last one.
fn segments(path: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let mut segments = path.split(|byte| *byte == b'/').peekable();
    core::iter::from_fn(move || {
        let segment = segments.next()?;
        Some((segment, segments.peek().is_none()))
    })
}

fn strip_scheme(target: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = split_once(target, b':');
    let is_http = scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https");
    rest.filter(|_| is_http)?.strip_prefix(b"//")
}

fn is_query(query: Option<&[u8]>) -> bool {
    query.is_none_or(|query| query.iter().all(|byte| is(QUERY, *byte)))
}

/// `unreserved / sub-delims` of RFC 3986 section 2, and `%`, which [`decodes`] checks.
const REG_NAME: u8 = 1;
/// `pchar` of RFC 3986 section 3.3, and the slash.
const PATH: u8 = 2;
/// Visible ASCII except `#`.
const QUERY: u8 = 4;

/// The classes of each byte, as a sum. One load per byte is faster than a comparison per range.
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        let reg_name = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b';'
                    | b'='
                    | b'%'
            );
        let path = reg_name || matches!(byte, b':' | b'@' | b'/');
        #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
        {
            classes[byte as usize] =
                (reg_name as u8 * REG_NAME) | (path as u8 * PATH) | ((byte != b'#') as u8 * QUERY);
        }
        byte += 1;
    }
    classes
};

#[inline]
fn is(class: u8, byte: u8) -> bool {
    CLASSES
        .get(usize::from(byte))
        .is_some_and(|classes| classes & class != 0)
}

/// How the zone of a scoped IPv6 address may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    /// In a URI: after `%25` (RFC 6874 section 2).
    Encoded,
    /// In a Host field: after `%` as well, which Node and others send.
    Raw,
}

/// True if `value` is `uri-host [":" port]` (RFC 9110 section 7.2, RFC 3986 section 3.2.2). An empty `value`
/// is legal: the target has no authority. A port without a host is not, because an http URI with an empty
/// host must be rejected (RFC 9110 section 4.2.1).
pub(crate) fn is_host(value: &[u8], zone: Zone) -> bool {
    let mut is_encoded = false;
    let mut length = 0;
    for byte in value {
        if !is(REG_NAME, *byte) {
            break;
        }
        is_encoded |= *byte == b'%';
        length += 1;
    }
    let (name, rest) = value.split_at_checked(length).unwrap_or((value, &[]));
    match rest {
        [b':', ..] if name.is_empty() => false,
        [] | [b':', ..] => is_port(rest) && (!is_encoded || decodes(name)),
        // An IPv6 address has colons, so the port is searched after the bracket.
        [b'[', literal @ ..] if name.is_empty() => {
            // A second bracket after it would be part of the port, and is refused there.
            let end = literal
                .iter()
                .position(|byte| *byte == b']')
                .unwrap_or(literal.len());
            match literal.split_at_checked(end) {
                Some((literal, [b']', port @ ..])) => is_ip_literal(literal, zone) && is_port(port),
                _ => false,
            }
        }
        _ => false,
    }
}

/// True if `text` is empty, or a colon and the digits of a number below 65,536. The digits may be missing
/// (RFC 3986 section 3.2.3).
fn is_port(text: &[u8]) -> bool {
    match text {
        [] => true,
        [b':', digits @ ..] => {
            let port = digits.iter().try_fold(0u16, |port, byte| match byte {
                b'0'..=b'9' => port.checked_mul(10)?.checked_add(u16::from(byte - b'0')),
                _ => None,
            });
            port.is_some()
        }
        _ => false,
    }
}

/// True if `host` is a host without port that an operator can mean: a name of unreserved characters, or
/// an IPv6 address in brackets. Stricter than [`is_host`]: no DNS name has sub-delimiters such as `,` or
/// `*`, so a list or a pattern in one argument is found.
pub(crate) fn is_host_without_port(host: &[u8]) -> bool {
    match host {
        [b'[', literal @ .., b']'] => {
            !literal.starts_with(b"v")
                && !literal.starts_with(b"V")
                && is_ip_literal(literal, Zone::Raw)
        }
        name => {
            let is_unreserved = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
            !name.is_empty() && name.iter().all(is_unreserved)
        }
    }
}

/// The host of an authority, without its port: the bytes before the first colon after any `]`.
pub(crate) fn without_port(authority: &[u8]) -> &[u8] {
    let literal_end = authority.iter().rposition(|byte| *byte == b']');
    let start = literal_end.map_or(0, |bracket| bracket + 1);
    let port = authority.iter().skip(start).position(|byte| *byte == b':');
    let end = port.map_or(authority.len(), |colon| start + colon);
    authority.get(..end).unwrap_or(authority)
}

/// True for an `IPv6address`, with or without a zone, and for an `IPvFuture` (RFC 3986 section 3.2.2).
fn is_ip_literal(literal: &[u8], zone: Zone) -> bool {
    // The parser of IPv6 addresses takes text.
    let Ok(literal) = core::str::from_utf8(literal) else {
        return false;
    };
    if let Some(future) = literal.strip_prefix(['v', 'V']) {
        return future.split_once('.').is_some_and(|(version, address)| {
            !version.is_empty()
                && version.bytes().all(|byte| byte.is_ascii_hexdigit())
                && !address.is_empty()
                && address
                    .bytes()
                    .all(|byte| is(REG_NAME, byte) && byte != b'%' || byte == b':')
        });
    }
    let (address, zone_id) = match (literal.split_once('%'), zone) {
        (Some((address, id)), Zone::Encoded) => (address, id.strip_prefix("25")),
        (Some((address, id)), Zone::Raw) => (address, Some(id)),
        (None, _) => (literal, Some("none")),
    };
    let is_zone_id =
        |id: &str| !id.is_empty() && id.bytes().all(|byte| is(REG_NAME, byte) && byte != b'%');
    // The parser of `core` accepts no zone, so the address is parsed without it.
    zone_id.is_some_and(is_zone_id) && address.parse::<core::net::Ipv6Addr>().is_ok()
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    fn cleaned(path: &str) -> String {
        let mut buffer = [0; 64];
        let mut text = super::super::BodyWriter::new(&mut buffer);
        Target::parse(path.as_bytes())
            .unwrap()
            .clean_into(&mut text);
        core::str::from_utf8(text.as_bytes()).unwrap().to_string()
    }

    #[test]
    fn an_unclean_path_is_cleaned_as_by_go() {
        // The results of Go 1.27's `http.ServeMux`.
        for (path, clean) in [
            ("//healthz", "/healthz"),
            ("/./healthz", "/healthz"),
            ("/healthz/../livez", "/livez"),
            ("/healthz//", "/healthz/"),
            ("/healthz/./", "/healthz/"),
            ("/healthz/.", "/healthz"),
            ("/healthz/..", "/"),
            ("/..", "/"),
            ("/../../a", "/a"),
            ("/a/b/../../c/", "/c/"),
            ("//", "/"),
        ] {
            assert!(
                Target::parse(path.as_bytes()).unwrap().is_unclean(),
                "{path}"
            );
            assert_eq!(cleaned(path), clean, "{path}");
        }
        // These are clean, although some have a `/.` or an encoded dot.
        for path in [
            "/",
            "/healthz",
            "/healthz/",
            "/%2e/a",
            "/.a",
            "/a..",
            "/a/...",
            "/..%2fa",
        ] {
            assert!(
                !Target::parse(path.as_bytes()).unwrap().is_unclean(),
                "{path}"
            );
        }
    }

    #[test]
    fn a_path_is_compared_after_decoding_but_an_encoded_slash_is_no_slash() {
        assert_eq!(strip_prefix(b"/%68ealthz/x", b"/healthz"), Some(&b"/x"[..]));
        assert_eq!(strip_prefix(b"/healthz", b"/healthz"), Some(&b""[..]));
        assert_eq!(strip_prefix(b"/a%2Fb", b"/a/b"), None);
        assert_eq!(strip_prefix(b"/a%2", b"/a%"), Some(&b"2"[..]));
        assert_eq!(strip_prefix(b"/health", b"/healthz"), None);
    }

    #[test]
    fn the_pairs_of_a_query_are_those_of_go() {
        let pairs = |query: &'static str| -> Vec<(String, String)> {
            let text = |part: Decoded| String::from_utf8(part.bytes().collect()).unwrap();
            Pairs(Some(query.as_bytes()))
                .map(|(name, value)| (text(name), text(value)))
                .collect()
        };
        let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs
                .iter()
                .map(|(a, b)| (a.to_string(), b.to_string()))
                .collect()
        };
        assert_eq!(pairs("a=b&c"), owned(&[("a", "b"), ("c", "")]));
        assert_eq!(pairs("&&a&"), owned(&[("a", "")]));
        assert_eq!(pairs("a;b&c;=1&d"), owned(&[("d", "")]));
        assert_eq!(pairs("%zz&a=%&b=%4&c=%41+"), owned(&[("c", "A ")]));
        assert_eq!(pairs("a==b"), owned(&[("a", "=b")]));
        assert_eq!(pairs("a%3Db=%3D"), owned(&[("a=b", "=")]));
    }

    #[test]
    fn a_host_is_one_of_rfc_3986_and_may_have_a_raw_zone_in_its_field() {
        for good in [
            "",
            "a",
            "a:",
            "a:80",
            "a_b",
            "%41",
            "[::1]",
            "[::1]:80",
            "[fe80::1%25lo]",
            "[v1.a:b]",
            "a,b",
        ] {
            assert!(is_host(good.as_bytes(), Zone::Encoded), "{good}");
            assert!(is_host(good.as_bytes(), Zone::Raw), "{good}");
        }
        // Regression: Node sends a scoped address without encoding its zone, and got 400.
        for raw in ["[fe80::1%eth0]", "[fe80::1%eth0]:80", "[fe80::1%2]"] {
            assert!(is_host(raw.as_bytes(), Zone::Raw), "{raw}");
            assert!(!is_host(raw.as_bytes(), Zone::Encoded), "{raw}");
        }
        for bad in [
            ":80",
            ":",
            "a:65536",
            "a:100000",
            "[::1]:65536",
            "a b",
            "a/b",
            "a@b",
            "a:b",
            "a:1:2",
            "a:-1",
            "[::1",
            "::1",
            "[a]b",
            "]",
            "%zz",
            "[a]",
            "[]",
            "a:+80",
            "[::1]x",
            "[v1]",
            "[v.a]",
            "[::1%]",
            "[::1%a%b]",
            "[::1%a]b]",
            "[%a]",
        ] {
            assert!(!is_host(bad.as_bytes(), Zone::Encoded), "{bad}");
            assert!(!is_host(bad.as_bytes(), Zone::Raw), "{bad}");
        }
    }
}
