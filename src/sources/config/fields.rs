//! URLs and header fields of HTTP checks.
//!
//! Called with text from the configuration.

use crate::url::{Url, UrlError};

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

/// Parses the URL of a check.
///
/// # Errors
/// What is wrong with it.
pub fn url(text: &str) -> Result<Url, &'static str> {
    Url::parse(text).map_err(|error| match error {
        UrlError::Tls => "there is no TLS; use the service's http port, or exec with curl",
        UrlError::Scheme if text.starts_with("//") => {
            "write the kind before the URL, as http:http://127.0.0.1:8080/ready"
        }
        UrlError::Scheme => "expected a URL such as http://127.0.0.1:8080/ready",
        UrlError::Characters => {
            "expected at most 2048 visible ASCII characters; escape others as %NN"
        }
        UrlError::Fragment => "a fragment (#) is never sent to a server",
        UrlError::UserName => "expected no user name; send a header field such as Authorization",
        UrlError::Port => "expected a port from 1 to 65535",
        UrlError::Name => {
            "names are not resolved; use an IP address or localhost, and the option host"
        }
    })
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
