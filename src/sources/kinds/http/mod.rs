//! An HTTP service that must answer a GET.
//!
//! One request for each connection, without TLS, redirects or name resolution. [`response`] reads the answer.

#[cfg(test)]
mod fuzz;
mod response;

use mio::{Registry, Token};

use self::response::Response;
use super::stream::{Exchange, Protocol};
use super::tcp::tcp_addresses;
use crate::sources::attempt::Started;
use crate::sources::spec::Http;

impl Http {
    /// A service can always refuse.
    pub fn never_fails(&self) -> Option<&'static str> {
        match &self.contains {
            Some(text) if text.is_empty() => Some("contains is empty"),
            _ => None,
        }
    }
}

/// Sends a GET, and compares the answer with the options `status` and `contains`.
pub fn start(spec: &Http, registry: &Registry, base: Token) -> Started {
    let contains = spec.contains.clone().map(String::into_bytes);
    let get = Get {
        request: request(spec).into_bytes(),
        response: Response::new(spec.status.clone(), contains),
    };
    let addresses = tcp_addresses(&spec.host, spec.port);
    Exchange::start(spec.url.clone(), addresses, get, registry, base)
}

/// The request. A field from the option `header` replaces ours.
fn request(spec: &Http) -> String {
    let mut text = format!("GET {} HTTP/1.1\r\n", spec.target);
    let agent = concat!("healthz/", env!("CARGO_PKG_VERSION"));
    let ours = [
        ("Host", spec.host_field.as_str()),
        ("User-Agent", agent),
        ("Connection", "close"),
    ];
    let is_given = |name: &str| {
        let mut names = spec.headers.iter().map(|(name, _)| name);
        names.any(|given| given.eq_ignore_ascii_case(name))
    };
    let ours = ours.into_iter().filter(|(name, _)| !is_given(name));
    let given = spec
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in ours.chain(given) {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str("\r\n");
    text
}

struct Get {
    request: Vec<u8>,
    response: Response,
}

impl Protocol for Get {
    fn request(&self) -> &[u8] {
        &self.request
    }

    fn sent(&mut self) -> Option<Result<(), String>> {
        None
    }

    fn receive(&mut self, bytes: &[u8]) -> Option<Result<(), String>> {
        self.response.receive(bytes)
    }

    fn end(&mut self) -> Result<(), String> {
        self.response.end()
    }

    fn awaited(&self) -> String {
        self.response.awaited()
    }
}
