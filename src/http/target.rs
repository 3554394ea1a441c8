//! Request targets (RFC 9112 section 3.2): path and query, read in place.
//!
//! Knows no method but the one rule that ties `*` to OPTIONS, and no endpoint. Nothing is decoded
//! into a buffer: names are compared and copied through [`Decoded`], byte by byte.
//!
//! | seen | verdict | source |
//! |---|---|---|
//! | `/path?query` | origin-form | RFC 9112 3.2.1 |
//! | `http://host/path`, `https://host/path` | the same path; the target's host counts, not `Host` | RFC 9112 3.2.2 |
//! | `http://host`, `http://host?query` | path `/` | RFC 9110 4.2.3 |
//! | `*` | OPTIONS only | RFC 9112 3.2.4 |
//! | another scheme, no slash, empty | refused | RFC 9112 3.2 |
//! | `http://host:65536/`, and such a port in Host | refused; Go takes both | stricter than RFC 3986 3.2.3: TCP has no such port |
//! | `http://:10248/`, and `:10248` in Host: a port without a host | refused; Go takes both | RFC 9110 4.2.1 |
//! | `#`, bytes above 0x7e | refused; Go takes them | RFC 9112 3.2, RFC 3986 |
//! | in the path: `"<>[]\^{}` and the like, `%` without two hex digits | refused; Go takes the former | RFC 3986 3.3, 2.1 |
//! | the same in the query | kept; a pair that cannot be decoded is dropped | Go `url.ParseQuery` |
//! | `%2F`, `%2E` in the path | never split or clean a path | Go `http.ServeMux` |

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

/// What a path has that needs a closer look; most have nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// A `/` followed by `/` or `.`.
    is_suspect: bool,
    /// A `%`.
    is_encoded: bool,
}

/// A request target, taken apart but not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    form: Form,
    marks: Marks,
    // ASCII all of them. As bytes, because who rebuilds a target would have to prove it again.
    authority: Option<&'a [u8]>,
    path: &'a [u8],
    query: Option<&'a [u8]>,
}

impl<'a> Target<'a> {
    /// Takes `target` apart; `None` if it has none of the forms above.
    pub fn parse(target: &'a [u8]) -> Option<Self> {
        if target.first() == Some(&b'/') {
            return Target::parse_path(Form::Origin, None, target);
        }
        if target == b"*" {
            return Some(Target {
                form: Form::Asterisk,
                marks: Marks::default(),
                authority: None,
                path: target,
                query: None,
            });
        }
        let rest = strip_scheme(target)?;
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?'));
        let (authority, path) = rest.split_at_checked(end.unwrap_or(rest.len()))?;
        if authority.is_empty() || !is_host(authority) {
            return None;
        }
        if path.first() == Some(&b'/') {
            return Target::parse_path(Form::Absolute, Some(authority), path);
        }
        let query = path.strip_prefix(b"?");
        let root = Target::parse_path(Form::Absolute, Some(authority), b"/")?;
        is_query(query).then_some(Target { query, ..root })
    }

    /// Looks once at each byte: this runs for every request whose head is new.
    fn parse_path(form: Form, authority: Option<&'a [u8]>, target: &'a [u8]) -> Option<Self> {
        let mut marks = Marks::default();
        let mut previous = 0;
        let mut length = 0;
        for byte in target {
            if !is(PATH, *byte) {
                break;
            }
            marks.is_suspect |= previous == b'/' && matches!(byte, b'/' | b'.');
            marks.is_encoded |= *byte == b'%';
            previous = *byte;
            length += 1;
        }
        let (path, rest) = target.split_at_checked(length)?;
        let query = match rest {
            [] => None,
            [b'?', query @ ..] => Some(query),
            _ => return None,
        };
        let is_valid = is_query(query) && (!marks.is_encoded || decodes(path));
        is_valid.then_some(Target {
            form,
            marks,
            authority,
            path,
            query,
        })
    }

    /// The origin-form target that [`parse`](Target::parse) took apart into these before.
    #[inline]
    pub(super) fn from_parts(path: &'a [u8], marks: Marks, query: Option<&'a [u8]>) -> Self {
        Target {
            form: Form::Origin,
            marks,
            authority: None,
            path,
            query,
        }
    }

    #[inline]
    pub(super) fn marks(&self) -> Marks {
        self.marks
    }

    /// The form it was written in.
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

    /// What follows the first `?`, as it was sent. ASCII.
    #[inline]
    pub fn query(&self) -> Option<&'a [u8]> {
        self.query
    }

    /// Whether the path has an empty, `.` or `..` segment that cleaning would take out, as Go's
    /// `ServeMux` does before it matches. A slash at the end is no such thing, nor is `%2e`.
    #[inline]
    pub fn is_unclean(&self) -> bool {
        self.marks.is_suspect
            && segments(self.path).any(|(segment, last)| match segment {
                b"" => !last,
                b"." | b".." => true,
                _ => false,
            })
    }

    /// Appends the cleaned path to `text`.
    pub(crate) fn clean_into(&self, text: &mut super::Text<'_>) {
        let start = text.len();
        for (segment, _) in segments(self.path) {
            match segment {
                b"" | b"." => {}
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
        if text.len() == start || self.path.ends_with(b"/") {
            text.push(b"/");
        }
    }

    /// What follows `prefix` in the path, percent-decoding aside; `None` if the path does not begin
    /// with it. An encoded slash equals nothing. `prefix` is a path of ours, without percent signs.
    #[inline]
    pub(crate) fn strip_prefix(&self, prefix: &str) -> Option<&'a [u8]> {
        match self.path.strip_prefix(prefix.as_bytes()) {
            None if self.marks.is_encoded => strip_prefix(self.path, prefix),
            rest => rest,
        }
    }

    /// The query's pairs, in order; see [`Pairs`].
    pub fn pairs(&self) -> Pairs<'a> {
        Pairs(self.query)
    }
}

/// What follows `prefix` in `path`; see [`Target::strip_prefix`].
pub(crate) fn strip_prefix<'a>(path: &'a [u8], prefix: &str) -> Option<&'a [u8]> {
    if let Some(rest) = path.strip_prefix(prefix.as_bytes()) {
        return Some(rest);
    }
    let mut bytes = path.iter().copied();
    let mut used = 0;
    for want in prefix.bytes() {
        match bytes.next()? {
            b'%' => {
                let byte = (hex(bytes.next()?)? << 4) | hex(bytes.next()?)?;
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

/// The pairs of a query as Go's `url.ParseQuery` sees them: split at `&`; a pair that is empty,
/// holds a `;` or cannot be percent-decoded is dropped whole; a name without `=` has the value `""`.
#[derive(Clone, Debug)]
pub struct Pairs<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Pairs<'a> {
    /// Name and value, still encoded but known to decode.
    type Item = (Decoded<'a>, Decoded<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let query = self.0?;
            let (pair, rest) = split_once(query, b'&');
            self.0 = rest;
            if pair.is_empty() || pair.contains(&b';') || !decodes(pair) {
                continue;
            }
            let (name, value) = split_once(pair, b'=');
            let value = value.unwrap_or_default();
            return Some((Decoded(name), Decoded(value)));
        }
    }
}

/// Part of a query, percent-decoded and with `+` as a space while it is read.
#[derive(Clone, Copy, Debug)]
pub struct Decoded<'a>(&'a [u8]);

impl<'a> Decoded<'a> {
    /// Reads `raw`, part of a query, decoded. A `%` without two hex digits ends it.
    pub(crate) const fn new(raw: &'a [u8]) -> Self {
        Decoded(raw)
    }

    /// As it was sent.
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

    /// Whether the decoded bytes are `text`.
    pub fn is(&self, text: &str) -> bool {
        self.bytes().eq(text.bytes())
    }
}

fn decodes(text: &[u8]) -> bool {
    let mut bytes = text.iter();
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

/// What comes before the first `separator`, and what comes behind it if there is one.
fn split_once(text: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    let mut parts = text.splitn(2, |byte| *byte == separator);
    (parts.next().unwrap_or_default(), parts.next())
}

/// Segments after the leading slash, each with whether it is the last.
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

/// `unreserved / sub-delims` of RFC 3986 section 2, and `%`, which is looked at apart.
const REG_NAME: u8 = 1;
/// `pchar` of RFC 3986 section 3.3 and the slash.
const PATH: u8 = 2;
/// Visible ASCII but `#`.
const QUERY: u8 = 4;

/// Which classes a byte belongs to.
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

/// Whether `value` is `uri-host [":" port]` (RFC 9110 section 7.2, RFC 3986 section 3.2.2). An empty
/// `value` is legal: the target has no authority. A port without a host is not: an http URI with an
/// empty host must be rejected (RFC 9110 section 4.2.1).
pub(crate) fn is_host(value: &[u8]) -> bool {
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
        [b'[', literal @ ..] if name.is_empty() => {
            let end = literal
                .iter()
                .position(|byte| *byte == b']')
                .unwrap_or(literal.len());
            match literal.split_at_checked(end) {
                Some((literal, [b']', port @ ..])) => is_ip_literal(literal) && is_port(port),
                _ => false,
            }
        }
        _ => false,
    }
}

/// Nothing, or a colon and the digits of a number below 65,536, if any.
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

/// The host of an authority, without its port: what comes before the colon behind any `]`.
pub(crate) fn without_port(authority: &[u8]) -> &[u8] {
    let literal_end = authority.iter().rposition(|byte| *byte == b']');
    let start = literal_end.map_or(0, |bracket| bracket + 1);
    let port = authority.iter().skip(start).position(|byte| *byte == b':');
    let end = port.map_or(authority.len(), |colon| start + colon);
    authority.get(..end).unwrap_or(authority)
}

/// `IPv6address`, with a zone after `%25` (RFC 6874), or `IPvFuture`.
fn is_ip_literal(literal: &[u8]) -> bool {
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
    let (address, zone) = match literal.split_once('%') {
        Some((address, zone)) => (address, zone.strip_prefix("25").unwrap_or_default()),
        None => (literal, "any"),
    };
    !zone.is_empty()
        && zone.bytes().all(|byte| is(REG_NAME, byte) && byte != b'%')
        && address.parse::<core::net::Ipv6Addr>().is_ok()
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
        let mut text = super::super::Text::new(&mut buffer);
        Target::parse(path.as_bytes())
            .unwrap()
            .clean_into(&mut text);
        core::str::from_utf8(text.as_bytes()).unwrap().to_string()
    }

    #[test]
    fn an_unclean_path_is_cleaned_as_go_does() {
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
    fn paths_match_decoded_but_an_encoded_slash_matches_nothing() {
        assert_eq!(strip_prefix(b"/%68ealthz/x", "/healthz"), Some(&b"/x"[..]));
        assert_eq!(strip_prefix(b"/healthz", "/healthz"), Some(&b""[..]));
        assert_eq!(strip_prefix(b"/a%2Fb", "/a/b"), None);
        assert_eq!(strip_prefix(b"/a%2", "/a%"), Some(&b"2"[..]));
        assert_eq!(strip_prefix(b"/health", "/healthz"), None);
    }

    #[test]
    fn query_pairs_are_those_of_go() {
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
    fn hosts_are_those_of_rfc_3986() {
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
            assert!(is_host(good.as_bytes()), "{good}");
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
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }
}
