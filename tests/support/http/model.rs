//! A model of the request parser: RFC 9112 and the stricter rules of this crate, written for clarity and
//! not for speed. It uses no code of the crate. It lists the requests in a stream of bytes.
//!
//! It knows the fields of a short probe: Host, Content-Length, Transfer-Encoding and Connection. It does not
//! know Expect, so a test that uses the model sends none.

/// What the model finds at one place of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A request by a method that is answered with the state of the checks, for an endpoint, or for `*` or `/` by
    /// OPTIONS: 200 if all checks pass.
    Probe,
    /// A well-formed request for something else.
    Other,
    /// Not a valid request; a strict server refuses it and closes.
    Wrong,
}

/// Maximum number of empty lines to skip before a request line.
const EMPTY_LINES_MAX: usize = 8;

/// The requests in `stream`, in order, without a last one whose head is incomplete. None follows one that is malformed,
/// that has a malformed or incomplete body, or that closes the connection.
pub fn readings(mut stream: &[u8]) -> Vec<Reading> {
    let mut readings = Vec::new();
    loop {
        stream = after_empty_lines(stream);
        if matches!(stream, [b'\n', ..] | [b'\r', _, ..]) {
            readings.push(Reading::Wrong);
            return readings;
        }
        let Some((lines, rest)) = head(stream) else {
            return readings;
        };
        let Some(request) = request(&lines) else {
            readings.push(Reading::Wrong);
            return readings;
        };
        readings.push(if request.is_probe {
            Reading::Probe
        } else {
            Reading::Other
        });
        match body(&request, rest) {
            Some(after) => stream = after,
            None => return readings,
        }
    }
}

/// `stream` without the empty lines before its first request line.
pub fn after_empty_lines(mut stream: &[u8]) -> &[u8] {
    for _ in 0..EMPTY_LINES_MAX {
        stream = match stream {
            [b'\r', b'\n', rest @ ..] | [b'\n', rest @ ..] => rest,
            _ => break,
        };
    }
    stream
}

/// The lines of a head with their line ends, and the bytes after the head. `None` if the head is incomplete.
fn head(stream: &[u8]) -> Option<(Vec<&[u8]>, &[u8])> {
    let mut lines = Vec::new();
    let mut rest = stream;
    loop {
        let length = rest.iter().position(|byte| *byte == b'\n')? + 1;
        let (line, after) = rest.split_at(length);
        rest = after;
        lines.push(line);
        if line == b"\n" || line == b"\r\n" {
            return Some((lines, rest));
        }
    }
}

struct Request {
    is_probe: bool,
    closes: bool,
    length: u64,
    is_chunked: bool,
}

fn request(lines: &[&[u8]]) -> Option<Request> {
    let crlf = lines.iter().filter(|line| line.ends_with(b"\r\n")).count();
    if crlf != 0 && crlf != lines.len() {
        return None;
    }
    let end = if crlf == 0 { 1 } else { 2 };
    let mut lines = lines.iter().map(|line| &line[..line.len() - end]);
    let line: Vec<&[u8]> = lines.next()?.split(|byte| *byte == b' ').collect();
    let [method, target, version] = line[..] else {
        return None;
    };
    let is_http10 = match version {
        b"HTTP/1.0" => true,
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => false,
        _ => return None,
    };
    if !is_token(method) || method == b"CONNECT" {
        return None;
    }
    let is_endpoint = is_endpoint(method, target)?;
    let mut fields: Vec<(String, &[u8])> = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
        if !is_token(name) || !value.iter().all(|byte| is_value(*byte)) {
            return None;
        }
        fields.push((String::from_utf8(name.to_ascii_lowercase()).unwrap(), value));
    }
    let all = |wanted: &str| -> Vec<&[u8]> {
        let fields = fields.iter().filter(|(name, _)| name == wanted);
        fields.map(|(_, value)| *value).collect()
    };
    match all("host")[..] {
        [] if is_http10 => {}
        [host] if is_host(host) => {}
        _ => return None,
    }
    let length = match all("content-length")[..] {
        [] => None,
        [digits] if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            let length: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
            Some(i64::try_from(length).ok()? as u64)
        }
        _ => return None,
    };
    let is_chunked = match all("transfer-encoding")[..] {
        [] => false,
        [coding] if coding.eq_ignore_ascii_case(b"chunked") => true,
        _ => return None,
    };
    let options: Vec<Vec<u8>> = all("connection")
        .iter()
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(|option| trim(option).to_ascii_lowercase())
        .collect();
    let has = |option: &str| options.iter().any(|value| value == option.as_bytes());
    let is_ambiguous = is_chunked && (length.is_some() || is_http10);
    let probe_methods: [&[u8]; 4] = [b"GET", b"HEAD", b"OPTIONS", b"POST"];
    Some(Request {
        is_probe: is_endpoint && probe_methods.contains(&method),
        closes: has("close") || is_ambiguous || is_http10 && !has("keep-alive"),
        length: length.unwrap_or(0),
        is_chunked,
    })
}

/// True if the target names an endpoint, or is `*` or `/` of OPTIONS. `None` if it is not well-formed.
fn is_endpoint(method: &[u8], target: &[u8]) -> Option<bool> {
    if target == b"*" {
        // The target is the server itself, and the answer an empty 200.
        return (method == b"OPTIONS").then_some(true);
    }
    if !target.starts_with(b"/") {
        let is_http = target.to_ascii_lowercase().starts_with(b"http://");
        assert!(!is_http, "the model does not know the absolute-form");
        return None;
    }
    let (path, query) = match target.iter().position(|byte| *byte == b'?') {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, &target[..0]),
    };
    for (at, byte) in path.iter().enumerate() {
        let is_hex = |at: usize| path.get(at).is_some_and(u8::is_ascii_hexdigit);
        match byte {
            b'%' if is_hex(at + 1) && is_hex(at + 2) => {}
            _ if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(byte) => {}
            _ => return None,
        }
    }
    if !query
        .iter()
        .all(|byte| matches!(byte, b'!'..=b'~') && *byte != b'#')
    {
        return None;
    }
    let endpoints: [&[u8]; 3] = [b"/healthz", b"/livez", b"/readyz"];
    let is_root = path == b"/" && method == b"OPTIONS";
    Some(is_root || endpoints.contains(&path))
}

/// The bytes after the body of a request. `None` if the body is incomplete or malformed, or if the connection closes.
fn body<'a>(request: &Request, rest: &'a [u8]) -> Option<&'a [u8]> {
    if request.closes {
        return None;
    }
    if !request.is_chunked {
        return rest.get(usize::try_from(request.length).ok()?..);
    }
    let mut rest = rest;
    loop {
        let (line, after) = line(rest)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
        let (size, extensions) = line.split_at(digits.count());
        if size.is_empty() || !are_extensions(extensions) {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        if size == 0 {
            rest = after;
            break;
        }
        rest = after.get(size..)?.strip_prefix(b"\r\n")?;
    }
    loop {
        let (line, after) = line(rest)?;
        rest = after;
        if line.is_empty() {
            return Some(rest);
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        if !is_token(&line[..colon]) || !line.iter().all(|byte| is_value(*byte)) {
            return None;
        }
    }
}

/// `*( BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ] )` (RFC 9112 section 7.1.1).
pub fn are_extensions(mut text: &[u8]) -> bool {
    while !text.is_empty() {
        let Some(name) = after_spaces(text).strip_prefix(b";").map(after_spaces) else {
            return false;
        };
        let Some(rest) = after_token(name) else {
            return false;
        };
        let value = after_spaces(rest).strip_prefix(b"=").map(after_spaces);
        let rest = value.map_or(Some(rest), |value| {
            after_token(value).or_else(|| after_quoted_string(value))
        });
        let Some(rest) = rest else {
            return false;
        };
        text = rest;
    }
    true
}

fn after_spaces(text: &[u8]) -> &[u8] {
    let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t');
    &text[text.iter().take_while(is_space).count()..]
}

fn after_token(text: &[u8]) -> Option<&[u8]> {
    let length = text.iter().take_while(|byte| is_token(&[**byte])).count();
    (length > 0).then_some(&text[length..])
}

fn after_quoted_string(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text.strip_prefix(b"\"")?;
    loop {
        rest = match rest {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', byte, rest @ ..] | [byte, rest @ ..] if is_value(*byte) => rest,
            _ => return None,
        };
    }
}

/// The first line without its CRLF, and the bytes after it.
fn line(stream: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = stream.iter().position(|byte| *byte == b'\n')?;
    let line = stream[..end].strip_suffix(b"\r")?;
    (!line.contains(&b'\r')).then_some((line, &stream[end + 1..]))
}

fn trim(value: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let start = value.iter().take_while(|byte| is_space(byte)).count();
    let value = &value[start..];
    let end = value.iter().rev().take_while(|byte| is_space(byte)).count();
    &value[..value.len() - end]
}

fn is_token(text: &[u8]) -> bool {
    let is = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is)
}

fn is_value(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// True for a name or an IPv4 address, with an optional port. IPv6 literals are not needed: none differs in
/// one byte from a host in the tests.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host.iter().position(|byte| *byte == b':') {
        Some(at) => (&host[..at], &host[at + 1..]),
        None => (host, &host[..0]),
    };
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte);
    if name.is_empty() && !host.is_empty() {
        return false;
    }
    // An empty port is valid.
    let is_port = port.is_empty()
        || port.iter().all(u8::is_ascii_digit)
            && std::str::from_utf8(port).is_ok_and(|port| port.parse::<u16>().is_ok());
    name.iter().all(is_name) && is_port
}
