//! URLs of HTTP checks, and header fields.
//!
//! Only what a health check needs: `http://HOST[:PORT][/PATH][?QUERY]`, where HOST is an IP address or
//! `localhost`. Called with text from the configuration.

use super::super::spec::Host;
use crate::units;

/// A URL as long as this and a few fields fit into the buffers of common servers.
const URL_BYTES_MAX: usize = 2048;
const FIELD_BYTES_MAX: usize = 1024;
/// Fields that the request has already, or that announce a body or another protocol.
const RESERVED: [&str; 9] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
];

/// The parts of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// As it was written.
    pub url: String,
    pub host: Host,
    pub port: u16,
    /// Path and query; begins with a slash.
    pub target: String,
    /// The value of the `Host` field.
    pub host_field: String,
}

impl Url {
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str) -> Result<Url, &'static str> {
        if url.starts_with("https:") {
            return Err("there is no TLS; use the service's http port, or exec with curl");
        }
        if url.starts_with("//") {
            return Err("write the kind before the URL, as http:http://127.0.0.1:8080/ready");
        }
        let Some(rest) = url.strip_prefix("http://") else {
            return Err("expected a URL such as http://127.0.0.1:8080/ready");
        };
        if url.len() > URL_BYTES_MAX || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("expected at most 2048 visible ASCII characters; escape others as %NN");
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at_checked(end).unwrap_or((rest, ""));
        if target.contains('#') {
            return Err("a fragment (#) is never sent to a server");
        }
        if authority.contains('@') {
            return Err("expected no user name; send a header field such as Authorization");
        }
        let (name, port) = match authority.rsplit_once(':') {
            // A colon inside of brackets belongs to an IPv6 address.
            Some((name, port)) if !port.contains(']') => (name, Some(port)),
            _ => (authority, None),
        };
        let port = match port {
            None => 80,
            Some(port) => match units::whole(port).and_then(|port| u16::try_from(port).ok()) {
                Some(port) if port != 0 => port,
                _ => return Err("expected a port from 1 to 65535"),
            },
        };
        let host_field = match port {
            80 => name.to_owned(),
            _ => format!("{name}:{port}"),
        };
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Url {
            url: url.to_owned(),
            host: host(name)?,
            port,
            target: format!("{slash}{target}"),
            host_field,
        })
    }
}

fn host(name: &str) -> Result<Host, &'static str> {
    if name == "localhost" {
        return Ok(Host::Localhost);
    }
    let brackets = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let ip = match brackets {
        Some(v6) => v6.parse().ok().map(std::net::IpAddr::V6),
        None => name.parse().ok().map(std::net::IpAddr::V4),
    };
    ip.map(Host::Ip)
        .ok_or("names are not resolved; use an IP address or localhost, and the option host")
}

/// True for a name or address, with a port or without.
pub fn is_host_field(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(&byte);
    (1..=255).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// Splits a header field (RFC 9110 section 5). Bytes beyond ASCII are refused, because servers read them
/// differently.
pub fn header(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once(':')?;
    let value = value.trim_matches([' ', '\t']);
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_valid = !name.is_empty()
        && name.bytes().all(is_token)
        && value
            .bytes()
            .all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte))
        && text.len() <= FIELD_BYTES_MAX;
    let is_reserved = RESERVED
        .iter()
        .any(|reserved| name.eq_ignore_ascii_case(reserved));
    (is_valid && !is_reserved).then_some((name, value))
}
