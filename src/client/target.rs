//! The endpoint of a command: from a URL to addresses and a request.
//!
//! `http://HOST[:PORT][/PATH]` or `unix:SOCKET[:/PATH]`. Resolves no names and opens nothing.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::url::{Url, UrlError};

/// The URL if none is given: healthz with its default listeners.
pub const URL_DEFAULT: &str = "http://localhost:10248/healthz";
/// The path if the URL has none.
const PATH_DEFAULT: &str = "/healthz";

/// A health endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As it was written, for messages; can have bytes that are not printable.
    pub url: String,
    /// Tried in this order; never empty.
    pub addresses: Vec<Address>,
    /// Path and query; begins with a slash.
    pub path: String,
    /// Whether the URL has a path or a query.
    pub has_path: bool,
    /// The value of the `Host` field.
    pub host: String,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    /// The path of a stream socket, or an abstract name that begins with `@`.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Target {
    /// Parses a URL.
    ///
    /// # Errors
    /// What is wrong with it, and what is allowed.
    pub fn parse(url: &OsStr) -> Result<Target, &'static str> {
        match url.as_bytes().strip_prefix(b"unix:") {
            Some(rest) => Self::unix(url, rest),
            None => Self::http(&url.to_string_lossy()),
        }
    }

    /// The bytes of a GET request that asks to close the connection. `fields` are more header fields, each with its
    /// line end.
    pub fn request(&self, fields: &str) -> Vec<u8> {
        let (path, host) = (&self.path, &self.host);
        let agent = concat!("healthz/", env!("CARGO_PKG_VERSION"));
        format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\nConnection: close\r\n{fields}\r\n"
        )
        .into_bytes()
    }

    fn http(text: &str) -> Result<Target, &'static str> {
        let url = Url::parse(text).map_err(|error| match error {
            UrlError::Tls => "there is no TLS; ask the server's http port",
            UrlError::Scheme => {
                "expected a URL such as http://localhost:10248/readyz or unix:/run/healthz.sock:/readyz"
            }
            UrlError::Characters => "expected at most 2048 visible ASCII characters; escape others as %NN",
            UrlError::Fragment => "a fragment (#) is never sent to a server",
            UrlError::UserName => "expected no user name; there is no authentication",
            UrlError::Port => "expected a port from 1 to 65535",
            UrlError::Name => "names are not resolved; expected an IP address or localhost",
        })?;
        let after_scheme = text.split_once("//").map_or("", |(_, rest)| rest);
        let has_path = after_scheme.contains(['/', '?']);
        Ok(Target {
            addresses: url
                .host
                .addresses(url.port)
                .into_iter()
                .map(Address::Tcp)
                .collect(),
            path: match has_path {
                true => url.target,
                false => PATH_DEFAULT.into(),
            },
            has_path,
            host: url.host_field,
            url: url.url,
        })
    }

    /// A socket cannot have `:/` in its path here.
    fn unix(url: &OsStr, rest: &[u8]) -> Result<Target, &'static str> {
        let at = rest.windows(2).position(|two| two == b":/");
        let (socket, path) = rest.split_at(at.unwrap_or(rest.len()));
        let has_path = !path.is_empty();
        let path = match path.split_first() {
            Some((_, path)) => std::str::from_utf8(path).unwrap_or_default(),
            None => PATH_DEFAULT,
        };
        if socket.is_empty() || socket == b"@" {
            return Err("expected the path of a socket, as unix:/run/healthz.sock");
        }
        if path.is_empty() || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("expected a path of visible ASCII characters; escape others as %NN");
        }
        if path.contains('#') {
            return Err("a fragment (#) is never sent to a server");
        }
        Ok(Target {
            url: url.to_string_lossy().into_owned(),
            addresses: vec![Address::Unix(OsString::from_vec(socket.to_vec()).into())],
            path: path.into(),
            has_path,
            host: "localhost".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Target, &'static str> {
        Target::parse(OsStr::new(url))
    }

    #[test]
    fn urls_become_addresses_and_paths() {
        for (url, addresses, path, host) in [
            (
                URL_DEFAULT,
                "127.0.0.1:10248 and [::1]:10248",
                "/healthz",
                "localhost:10248",
            ),
            (
                "http://127.0.0.1:8080/readyz?verbose",
                "127.0.0.1:8080",
                "/readyz?verbose",
                "127.0.0.1:8080",
            ),
            ("http://[::1]", "[::1]:80", "/healthz", "[::1]"),
            ("http://10.0.0.1:1/", "10.0.0.1:1", "/", "10.0.0.1:1"),
            ("http://10.0.0.1:1?a", "10.0.0.1:1", "/?a", "10.0.0.1:1"),
            (
                "unix:/run/x.sock",
                "unix:/run/x.sock",
                "/healthz",
                "localhost",
            ),
            (
                "unix:/run/x.sock:/readyz",
                "unix:/run/x.sock",
                "/readyz",
                "localhost",
            ),
            ("unix:a:b:/c:/d", "unix:a:b", "/c:/d", "localhost"),
            ("unix:@name", "unix:@name", "/healthz", "localhost"),
        ] {
            let target = parse(url).unwrap();
            assert_eq!(target.url, url);
            let parsed: Vec<_> = target.addresses.iter().map(Address::to_string).collect();
            assert_eq!(parsed.join(" and "), addresses, "{url}");
            assert_eq!(target.path, path, "{url}");
            let is_written = url.ends_with(path) || url.ends_with("?a");
            assert_eq!(target.has_path, is_written, "{url}");
            assert_eq!(target.host, host, "{url}");
        }
    }

    #[test]
    fn other_text_is_refused() {
        for (url, error) in [
            ("", "expected a URL such as"),
            ("localhost:10248", "expected a URL such as"),
            ("https://localhost/", "there is no TLS"),
            ("http://db.example/", "names are not resolved"),
            ("http://localhost:0/", "expected a port"),
            ("http://localhost/#a", "a fragment"),
            ("http://a@localhost/", "expected no user name"),
            ("http://localhost/a b", "expected at most 2048"),
            ("http://localhost/\r\nA: b", "expected at most 2048"),
            ("unix:", "expected the path of a socket"),
            ("unix::/readyz", "expected the path of a socket"),
            ("unix:@", "expected the path of a socket"),
            ("unix:/x:/a\r\nA: b", "expected a path of visible"),
            ("unix:/x:/a#b", "a fragment"),
        ] {
            let refused = parse(url).unwrap_err();
            assert!(refused.starts_with(error), "{url}: {refused}");
        }
    }

    #[test]
    fn a_request_asks_to_close() {
        let request = parse("unix:/x:/readyz?verbose")
            .unwrap()
            .request("Accept: a/b\r\n");
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            String::from_utf8(request).unwrap(),
            format!(
                "GET /readyz?verbose HTTP/1.1\r\nHost: localhost\r\nUser-Agent: healthz/{version}\r\n\
                 Connection: close\r\nAccept: a/b\r\n\r\n"
            )
        );
    }
}
