//! Well-formed requests, generated from the fuzzer's bytes, for paths and names that exist or nearly do.
//!
//! Knows nothing of the code under test. Used by the fuzz body and by [`super::model`].

use std::string::String;
use std::vec::Vec;

use crate::http::fuzz::Source;

// GET twice: it is the most frequent method.
const METHODS: [&str; 6] = ["GET", "GET", "HEAD", "OPTIONS", "POST", "PURGE"];
const PATHS: [&str; 6] = ["/healthz", "/livez", "/readyz", "/", "/nope", "/healthz/"];
const HOSTS: [&str; 6] = [
    "localhost",
    "LocalHost:10248",
    "[::1]:1",
    "a.example",
    "",
    "[::2]",
];
/// Names in paths and `exclude` parameters. Most are names of checks.
const NAMES: [&str; 8] = [
    "ping",
    "log",
    "syncloop",
    "disk",
    "storage",
    "hooks",
    "poststarthook/start-a",
    "shutdown",
];

pub(super) struct Generated {
    pub(super) method: &'static str,
    pub(super) host: &'static str,
    /// A prefix of the path that makes it unclean, or nothing.
    pub(super) unclean: &'static str,
    pub(super) path: &'static str,
    /// The name after the path and a slash, decoded.
    pub(super) name: Option<Vec<u8>>,
    encoded_name: String,
    pub(super) query: Option<String>,
}

impl Generated {
    pub(super) fn new(source: &mut Source<'_>) -> Self {
        let method = choose(&METHODS, source);
        let host = choose(&HOSTS, source);
        let path = choose(&PATHS, source);
        // One byte selects which parts the target has, so that short inputs have all of them.
        let shape = source.byte();
        let unclean = match shape % 32 {
            0 => "/",
            1 => "/.",
            2 => "/x/..",
            _ => "",
        };
        let name = (shape & 0x20 != 0).then(|| some_name(source));
        let encoded_name = name
            .as_ref()
            .map_or(String::new(), |name| encoded(name, source.byte()));
        let query = (shape & 0x40 != 0).then(|| query(source));
        Generated {
            method,
            host,
            unclean,
            path,
            name,
            encoded_name,
            query,
        }
    }

    /// The path as it is sent, without the unclean prefix.
    pub(super) fn clean_path(&self) -> String {
        let slash = match self.name {
            Some(_) if self.path.ends_with('/') => "",
            Some(_) => "/",
            None => "",
        };
        [self.path, slash, &self.encoded_name].concat()
    }

    /// The head, with more fields after Host.
    pub(super) fn head(&self, fields: &str) -> String {
        let Generated {
            method,
            host,
            unclean,
            ..
        } = self;
        let path = self.clean_path();
        let query = self
            .query
            .as_ref()
            .map_or(String::new(), |query| std::format!("?{query}"));
        std::format!("{method} {unclean}{path}{query} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")
    }
}

fn choose(from: &[&'static str], source: &mut Source<'_>) -> &'static str {
    from[usize::from(source.byte()) % from.len()]
}

/// A name that is never empty: an empty one would give another path.
fn some_name(source: &mut Source<'_>) -> Vec<u8> {
    let which = usize::from(source.byte());
    match NAMES.get(which % 16) {
        Some(name) => name.as_bytes().to_vec(),
        None => {
            let mut name = source.bytes(1 + which / 16).to_vec();
            name.push(b'x');
            name
        }
    }
}

/// Percent-encodes `bytes`. The bits of `which` select the letters that are encoded too.
fn encoded(bytes: &[u8], which: u8) -> String {
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        // A slash is not encoded, because `%2F` is not a slash. The second of two is, because two in a row
        // would make the path unclean.
        let is_plain = byte.is_ascii_alphanumeric()
            || *byte == b'-'
            || *byte == b'/' && at > 0 && bytes[at - 1] != b'/';
        let is_wanted = which >> (at % 8) & 1 == 0 || *byte == b'/';
        match is_plain && is_wanted {
            true => text.push(char::from(*byte)),
            false => text.push_str(&std::format!("%{byte:02X}")),
        }
    }
    text
}

fn query(source: &mut Source<'_>) -> String {
    let mut query = String::new();
    for _ in 0..source.byte() % 8 {
        if !query.is_empty() {
            query.push('&');
        }
        match source.byte() % 4 {
            0 => query.push_str("verbose"),
            1 => query.push_str(&std::format!("exclude={}", choose(&NAMES, source))),
            2 => {
                let name = some_name(source);
                query.push_str(&std::format!("exclude={}", encoded(&name, source.byte())));
            }
            // Any bytes that a target may have: broken encodings and `;` among them.
            _ => {
                let size = usize::from(source.byte() % 32);
                let raw = source.bytes(size).iter();
                let visible = raw.filter(|byte| byte.is_ascii_graphic() && **byte != b'#');
                query.extend(visible.map(|byte| char::from(*byte)));
            }
        }
    }
    query
}
