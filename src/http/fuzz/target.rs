//! Request targets against a model with strings and lists, written after Go's `net/url` and `net/http`.
//!
//! Knows nothing of requests. Called by the fuzz target `target` and for its corpus.

use std::string::{String, ToString};
use std::vec::Vec;

use super::super::response::BodyWriter;
use super::super::target::{Form, Target, Zone, is_host, without_port};

/// - A target is split, or refused, as by [`Model`].
/// - Clean paths, prefixes and pairs are those of Go's `path.Clean`, `PathUnescape` and `ParseQuery`.
pub fn target(data: &[u8]) {
    // The first line is the target, the second a prefix and a name to look for in it.
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let target = lines.next().unwrap();
    let name = String::from_utf8_lossy(lines.next().unwrap_or(b"/healthz"));
    let model = Model::new(target);
    let parsed = Target::parse(target);
    assert_eq!(
        parsed.is_some(),
        model.is_some(),
        "{parsed:?}, but {model:?}"
    );
    let text = String::from_utf8_lossy(target);
    for (zone, separator) in [(Zone::Encoded, "%25"), (Zone::Raw, "%")] {
        assert_eq!(is_host(target, zone), is_authority(&text, separator));
    }
    let (Some(parsed), Some(model)) = (parsed, model) else {
        return;
    };
    assert_eq!(parsed.form(), model.form);
    assert_eq!(parsed.path(), model.path.as_bytes());
    assert_eq!(parsed.query(), model.query.as_deref().map(str::as_bytes));
    assert_eq!(
        parsed.authority(),
        model.authority.as_deref().map(str::as_bytes)
    );
    if let Some(authority) = &model.authority {
        assert_eq!(
            without_port(authority.as_bytes()),
            host_of(authority).as_bytes()
        );
    }
    clean(&parsed, &model);
    // Names of checks and paths of endpoints have no percent sign.
    let prefixes = [&*name, "/healthz", "/"].into_iter();
    for prefix in prefixes.filter(|prefix| !prefix.contains('%')) {
        let rest = parsed.strip_prefix(prefix);
        assert_eq!(
            rest,
            after_prefix(&model.path, prefix).map(str::as_bytes),
            "{prefix}"
        );
    }
    let pairs: Vec<(Vec<u8>, Vec<u8>)> = parsed
        .pairs()
        .map(|(name, value)| (name.bytes().collect(), value.bytes().collect()))
        .collect();
    assert_eq!(pairs, parse_query(model.query.as_deref().unwrap_or("")));
    for ((pair, _), (text, _)) in parsed.pairs().zip(&pairs) {
        assert_eq!(pair.is(&name), text == name.as_bytes());
    }
}

fn clean(parsed: &Target<'_>, model: &Model) {
    if model.form == Form::Asterisk {
        assert!(!parsed.is_unclean());
        return;
    }
    let cleaned = clean_path(&model.path);
    assert_eq!(parsed.is_unclean(), cleaned != model.path);
    let mut buffer = std::vec![0; model.path.len() + 2];
    let mut text = BodyWriter::new(&mut buffer);
    // Text before the path must not change, whatever `..` the path has.
    text.push(b"=");
    parsed.clean_into(&mut text);
    assert_eq!(&text.as_bytes()[1..], cleaned.as_bytes());
}

#[derive(Debug)]
struct Model {
    form: Form,
    authority: Option<String>,
    path: String,
    query: Option<String>,
}

impl Model {
    fn new(target: &[u8]) -> Option<Self> {
        let target = core::str::from_utf8(target).ok()?;
        // Bytes that no URI has (RFC 3986 section 2). A fragment is not sent.
        if target.contains(|c: char| !c.is_ascii_graphic() || c == '#') {
            return None;
        }
        if target == "*" {
            return Some(Model {
                form: Form::Asterisk,
                authority: None,
                path: target.to_string(),
                query: None,
            });
        }
        let (form, authority, rest) = match target.split_once("://") {
            _ if target.starts_with('/') => (Form::Origin, None, target.to_string()),
            Some((scheme, rest)) if ["http", "https"].contains(&&*scheme.to_ascii_lowercase()) => {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                let authority = Some(&rest[..end]).filter(|authority| !authority.is_empty());
                // Without a path the path is `/` (RFC 9110 section 4.2.3).
                let slash = if rest[end..].starts_with('/') {
                    ""
                } else {
                    "/"
                };
                (
                    Form::Absolute,
                    Some(authority?),
                    slash.to_string() + &rest[end..],
                )
            }
            _ => return None,
        };
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query.to_string())),
            None => (&*rest, None),
        };
        let is_path = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/%".contains(c);
        let is_valid = path.chars().all(is_path)
            && unescape(path, false).is_some()
            && authority.is_none_or(|authority| is_authority(authority, "%25"));
        is_valid.then(|| Model {
            form,
            authority: authority.map(str::to_string),
            path: path.to_string(),
            query,
        })
    }
}

/// RFC 3986 section 3.2 without userinfo, and RFC 9110 section 4.2.1: no port without a host. `separator`
/// stands before the zone of a scoped address.
fn is_authority(text: &str, separator: &str) -> bool {
    let host = host_of(text);
    let port = &text[host.len()..];
    if host.is_empty() && !port.is_empty() {
        return false;
    }
    let digits = port.strip_prefix(':').unwrap_or_default();
    if !digits.chars().all(|c| c.is_ascii_digit())
        || !digits.is_empty() && digits.parse::<u16>().is_err()
    {
        return false;
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=".contains(c);
    // Without a bracket it is a name or an IPv4 address, which is a name too.
    let Some(literal) = host.strip_prefix('[') else {
        return host.chars().all(|c| is_name(c) || c == '%') && unescape(host, false).is_some();
    };
    let Some(literal) = literal.strip_suffix(']') else {
        return false;
    };
    if let Some((version, address)) = literal
        .split_once('.')
        .filter(|_| literal.starts_with(['v', 'V']))
    {
        let version = &version[1..];
        return !version.is_empty()
            && version.chars().all(|c| c.is_ascii_hexdigit())
            && !address.is_empty()
            && address.chars().all(|c| is_name(c) || c == ':');
    }
    let (address, zone) = literal.split_once(separator).unwrap_or((literal, "zone"));
    !zone.is_empty() && zone.chars().all(is_name) && address.parse::<std::net::Ipv6Addr>().is_ok()
}

/// The host without the port and its colon.
fn host_of(authority: &str) -> &str {
    let bracket = authority.rfind(']').unwrap_or(0);
    let colon = authority[bracket..].find(':');
    colon.map_or(authority, |colon| &authority[..bracket + colon])
}

/// Go's `cleanPath` in `net/http`.
fn clean_path(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let mut cleaned: String = kept.iter().flat_map(|segment| ["/", segment]).collect();
    if cleaned.is_empty() || path.ends_with('/') {
        cleaned.push('/');
    }
    cleaned
}

/// Go's `QueryUnescape`; without `is_query` Go's `PathUnescape`, which keeps a plus.
fn unescape(text: &str, is_query: bool) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (byte, length) = match first {
            '%' => {
                // `from_str_radix` would accept a sign.
                let digits = rest.get(1..3).filter(|digits| !digits.contains('+'))?;
                (u8::from_str_radix(digits, 16).ok()?, 3)
            }
            '+' if is_query => (b' ', 1),
            first => (u8::try_from(first).ok()?, 1),
        };
        bytes.push(byte);
        rest = &rest[length..];
    }
    Some(bytes)
}

/// The rest of `path` after the bytes that decode to `prefix`. `%2F` is not a slash.
fn after_prefix<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let mut rest = path;
    for want in prefix.bytes() {
        let length = if rest.starts_with('%') { 3 } else { 1 };
        let unit = rest.get(..length)?;
        if unescape(unit, false)? != [want] || length == 3 && want == b'/' {
            return None;
        }
        rest = &rest[length..];
    }
    Some(rest)
}

/// Go's `ParseQuery`, in the order of the query; pairs with errors are dropped.
pub(crate) fn parse_query(query: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let pairs = query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'));
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((unescape(name, true)?, unescape(value, true)?))
    };
    pairs.filter_map(pair).collect()
}
