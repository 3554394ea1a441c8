//! Compares the bytes that a server sent with the answers that a row expects.
//!
//! [`judge`] compares with the row. It first calls [`answers`], which checks what every answer of this server must
//! have, such as a Date and a Content-Length, and that no answer follows one with `Connection: close`.

use super::rows::{End, Expect, Row, Strict};

/// One final answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        let field = self.fields.iter().find(|(known, _)| known == name);
        field.map(|(_, value)| value.as_str())
    }
}

/// Parses a stream of answers to `request`.
///
/// # Errors
/// If it is not a sequence of whole and well-formed answers.
pub fn answers(request: &[u8], stream: &[u8]) -> Result<Vec<Answer>, String> {
    let methods = methods(request);
    let is_head = |index| methods.get(index).is_some_and(|m: &&[u8]| *m == b"HEAD");
    answers_to(is_head, stream)
}

/// Parses a stream of answers. An answer has no body if `is_head` is true for its index.
///
/// # Errors
/// If it is not a sequence of whole and well-formed answers.
pub fn answers_to(
    is_head: impl Fn(usize) -> bool,
    mut stream: &[u8],
) -> Result<Vec<Answer>, String> {
    let mut answers = Vec::new();
    while !stream.is_empty() {
        let (answer, rest) = answer(stream, is_head(answers.len()))
            .map_err(|why| format!("{why}: {:?}", String::from_utf8_lossy(stream)))?;
        answers.push(answer);
        stream = rest;
    }
    let (_, earlier) = answers.split_last().unzip();
    if earlier
        .into_iter()
        .flatten()
        .any(|a| a.field("connection") == Some("close"))
    {
        return Err("an answer follows one with Connection: close".into());
    }
    Ok(answers)
}

fn answer(stream: &[u8], is_head: bool) -> Result<(Answer, &[u8]), String> {
    let end = find(stream, b"\r\n\r\n").ok_or("an incomplete head")?;
    let head = std::str::from_utf8(&stream[..end]).map_err(|_| "a head that is not ASCII")?;
    let rest = &stream[end + 4..];
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let status = line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|line| line.split_once(' '))
        .filter(|(status, phrase)| status.len() == 3 && !phrase.is_empty())
        .and_then(|(status, _)| status.parse().ok())
        .ok_or("no status line")?;
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or("no field line")?;
        let name_is_token = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let value_is_plain = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if name.is_empty() || !name_is_token || !value_is_plain || value.trim() != value {
            return Err(format!("field line {line:?}"));
        }
        let name = name.to_ascii_lowercase();
        if fields.iter().any(|(known, _)| *known == name) {
            return Err(format!("two fields {name}"));
        }
        fields.push((name, value.into()));
    }
    let mut answer = Answer {
        status,
        fields,
        body: Vec::new(),
    };
    let date = answer.field("date").ok_or("no Date")?;
    if date.len() != "Sun, 06 Nov 1994 08:49:37 GMT".len() || !date.ends_with(" GMT") {
        return Err(format!("Date {date:?}"));
    }
    if answer.field("transfer-encoding").is_some() {
        return Err("a Transfer-Encoding field".into());
    }
    if !matches!(
        answer.field("connection"),
        None | Some("close" | "keep-alive")
    ) {
        return Err("an unknown Connection option".into());
    }
    let length = answer.field("content-length").ok_or("no Content-Length")?;
    if !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("Content-Length {length:?}"));
    }
    let length: usize = length.parse().map_err(|_| "no Content-Length")?;
    if length > 0 && answer.field("content-type").is_none() {
        return Err("a body without Content-Type".into());
    }
    if is_head {
        return Ok((answer, rest));
    }
    let (body, rest) = rest
        .split_at_checked(length)
        .ok_or("a body shorter than Content-Length")?;
    answer.body = body.to_vec();
    Ok((answer, rest))
}

/// Compares the bytes sent, and the state of the connection afterwards, with what `row` expects.
///
/// # Errors
/// The first difference.
pub fn judge(row: &Row, stream: &[u8], end: End) -> Result<(), String> {
    let expect = &row.expect;
    let got = answers(&row.request, stream)?;
    let statuses: Vec<u16> = got.iter().map(|answer| answer.status).collect();
    let mut failed = statuses
        .iter()
        .filter(|status| **status >= 500 && !matches!(**status, 501 | 505));
    match failed.next() {
        Some(status) if row.failing.is_empty() && !expect.allows_500 => {
            return Err(format!("status {status} with every check passing"));
        }
        _ => {}
    }
    if let Some(strict) = &expect.strict {
        judge_strictly(strict, &statuses, end)?;
    }
    if expect.anything_valid || expect.is_strict_only {
        return Ok(());
    }
    let Some(first) = got.first() else {
        let is_silence_right = match &expect.statuses {
            Some(wanted) => wanted.is_empty(),
            None => end == End::Closed && expect.status.is_none(),
        };
        let is_end_right =
            expect.statuses.is_none() || expect.after.is_none_or(|after| after == end);
        return if is_silence_right && is_end_right {
            Ok(())
        } else {
            Err(format!("no answer ({end:?}), expected {expect:?}"))
        };
    };
    judge_sequence(expect, &statuses, end)?;
    if let Some(wanted) = &expect.status {
        if !wanted.contains(&first.status) {
            return Err(format!("status {}, expected {wanted:?}", first.status));
        }
        let has_body = matches!(first.status, 200 | 404 | 500);
        match &expect.body {
            Some(body) if has_body && first.body != *body => {
                return Err(format!(
                    "body {:?}, expected {:?}",
                    String::from_utf8_lossy(&first.body),
                    String::from_utf8_lossy(body)
                ));
            }
            _ => {}
        }
    }
    let named = [
        ("location", &expect.location),
        ("content-type", &expect.content_type),
    ];
    let named = named
        .into_iter()
        .filter_map(|(name, wanted)| Some((name, wanted.as_deref()?)));
    let listed = expect.fields.iter();
    let listed = listed.map(|(name, wanted)| (name.as_str(), wanted.as_str()));
    for (name, wanted) in named.chain(listed) {
        let got = first.field(name);
        if got != Some(wanted) {
            return Err(format!("{name} {got:?}, expected {wanted:?}"));
        }
    }
    match expect.after {
        Some(after) if after != end => Err(format!("connection {end:?}, expected {after:?}")),
        _ => Ok(()),
    }
}

fn judge_strictly(strict: &Strict, statuses: &[u16], end: End) -> Result<(), String> {
    let all_good = !statuses.is_empty() && statuses.iter().all(|status| status / 100 == 2);
    if all_good && end == End::Open && !strict.status.contains(&200) {
        return Err(format!("accepted with {statuses:?}, connection open"));
    }
    if statuses.len() > strict.responses {
        return Err(format!("answered {} times: {statuses:?}", statuses.len()));
    }
    if strict.closes && end != End::Closed && !statuses.is_empty() {
        return Err(format!("{statuses:?}, connection left open"));
    }
    Ok(())
}

fn judge_sequence(expect: &Expect, statuses: &[u16], end: End) -> Result<(), String> {
    match &expect.statuses {
        Some(wanted) if wanted != statuses => {
            return Err(format!("statuses {statuses:?}, expected {wanted:?}"));
        }
        _ => {}
    }
    if let Some(wanted) = &expect.statuses_prefix_of {
        let is_prefix = wanted.starts_with(statuses);
        let is_whole = statuses.len() >= wanted.len();
        if !is_prefix || !is_whole && end != End::Closed {
            return Err(format!(
                "statuses {statuses:?} ({end:?}), expected a prefix of {wanted:?} and a close"
            ));
        }
    }
    match expect.responses {
        Some(most) if statuses.len() > most => {
            Err(format!("{} answers, expected {most}", statuses.len()))
        }
        _ => Ok(()),
    }
}

/// The method of every line in `request` that looks like a request line.
pub fn methods(request: &[u8]) -> Vec<&[u8]> {
    let method = |line| {
        let line: &[u8] = line;
        let line = line.split(|byte| *byte == b'\r').next()?;
        let length = line.iter().position(|byte| !byte.is_ascii_uppercase())?;
        let (method, rest) = line.split_at(length);
        let rest = rest.strip_prefix(b" ").filter(|_| length > 0)?;
        find(rest, b" HTTP/").map(|_| method)
    };
    request
        .split(|byte| *byte == b'\n')
        .filter_map(method)
        .collect()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
