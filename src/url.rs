//! URLs of health endpoints: `http://HOST[:PORT][/PATH][?QUERY]`, where HOST is an IP address or `localhost`.
//!
//! Resolves no names, because that can block, and opens nothing. Used by the configuration of HTTP checks and by the
//! commands that ask a server; each has its own texts for errors.

use std::net::{IpAddr, SocketAddr};

use crate::units;

/// A URL as long as this and a few fields fit into the buffers of common servers.
pub const URL_BYTES_MAX: usize = 2048;

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

/// What is wrong with a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// It begins with `https:`; there is no TLS.
    Tls,
    /// It does not begin with `http://`.
    Scheme,
    /// It is longer than [`URL_BYTES_MAX`], or has bytes that are not visible ASCII.
    Characters,
    /// It has a fragment (`#`), which is never sent.
    Fragment,
    /// It has a user name (`@`).
    UserName,
    /// The port is not a number from 1 to 65535.
    Port,
    /// The host is neither `localhost` nor an IP address; it may be empty.
    Name,
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Ip(IpAddr),
    /// 127.0.0.1, and ::1 if that fails.
    Localhost,
}

impl Host {
    /// The addresses to try, in order.
    pub fn addresses(&self, port: u16) -> Vec<SocketAddr> {
        match self {
            Host::Ip(ip) => vec![SocketAddr::new(*ip, port)],
            Host::Localhost => vec![
                SocketAddr::from(([127, 0, 0, 1], port)),
                SocketAddr::from(([0u16, 0, 0, 0, 0, 0, 0, 1], port)),
            ],
        }
    }
}

impl Url {
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str) -> Result<Url, UrlError> {
        if url.starts_with("https:") {
            return Err(UrlError::Tls);
        }
        let rest = url.strip_prefix("http://").ok_or(UrlError::Scheme)?;
        if url.len() > URL_BYTES_MAX || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UrlError::Characters);
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at_checked(end).unwrap_or((rest, ""));
        if target.contains('#') {
            return Err(UrlError::Fragment);
        }
        if authority.contains('@') {
            return Err(UrlError::UserName);
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
                _ => return Err(UrlError::Port),
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

fn host(name: &str) -> Result<Host, UrlError> {
    if name == "localhost" {
        return Ok(Host::Localhost);
    }
    let brackets = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let ip = match brackets {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None => name.parse().ok().map(IpAddr::V4),
    };
    ip.map(Host::Ip).ok_or(UrlError::Name)
}
