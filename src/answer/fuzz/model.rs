//! A model of checks and answers: checks as an `enum`, answers as strings.
//!
//! Written after `handleRootHealth` and `adaptCheckToHandler` of Kubernetes, with the differences that
//! the table in [`crate::answer`] lists. Knows nothing of the code under test.

use std::collections::BTreeSet;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use super::request::Generated;
use crate::check::{Health, Severity};
use crate::http::fuzz::parse_query;
use crate::limits::REASON_BYTES_MAX;

#[derive(Debug, PartialEq, Eq)]
enum Update {
    None { passes: bool },
    Pass,
    Fail(String),
    PassUntil(u64),
}

#[derive(Debug)]
pub(super) struct State {
    name: &'static str,
    group: Option<&'static str>,
    limit: Option<u64>,
    overdue: &'static str,
    tells_overdue_time: bool,
    severity: Severity,
    last: Update,
}

impl State {
    fn new(name: &'static str, last: Update) -> Self {
        State {
            name,
            group: None,
            limit: None,
            overdue: "no heartbeat within its limit",
            tells_overdue_time: false,
            severity: Severity::Error,
            last,
        }
    }

    fn set(&mut self, last: Update) {
        // Updates of a ping have no effect.
        if self.name != "ping" {
            self.last = last;
        }
    }

    pub(super) fn pass(&mut self) {
        self.set(Update::Pass);
    }

    pub(super) fn fail(&mut self, text: &str) {
        // The end of the last character that fits.
        let fits = |end: &usize| *end <= REASON_BYTES_MAX;
        let ends = text
            .char_indices()
            .map(|(at, character)| at + character.len_utf8());
        let end = ends.take_while(fits).last().unwrap_or(0);
        self.set(Update::Fail(text[..end].to_string()));
    }

    pub(super) fn beat(&mut self, now: u64) {
        match self.limit {
            Some(limit) => self.set(Update::PassUntil(now + limit)),
            None => self.pass(),
        }
    }

    /// The limit of a heartbeat without updates begins. `syncloop` has another initial state.
    fn begin(&mut self, now: u64) {
        if let (Update::None { passes: true }, Some(limit)) = (&self.last, self.limit) {
            self.last = Update::PassUntil(now + limit);
        }
    }

    pub(super) fn passes(&self, now: u64) -> bool {
        match &self.last {
            Update::None { passes } => *passes,
            Update::Pass => true,
            Update::Fail(_) => false,
            Update::PassUntil(until) => now < *until,
        }
    }

    pub(super) fn health(&self, now: u64) -> Health {
        match (&self.last, self.passes(now)) {
            (Update::None { .. }, _) => Health::Unknown,
            (_, true) => Health::Passing,
            (_, false) => Health::Failing,
        }
    }

    pub(super) fn reason(&self, now: u64) -> Option<String> {
        match &self.last {
            _ if self.passes(now) => None,
            // A failure has its own reason, an expired heartbeat that of its kind.
            Update::Fail(text) => Some(text.clone()),
            Update::PassUntil(until) if self.tells_overdue_time => {
                let seconds = (now - (until - self.limit.unwrap_or(0))) / 1000;
                Some(format!("{} for {seconds} s", self.overdue))
            }
            Update::PassUntil(_) => Some(self.overdue.to_string()),
            Update::None { .. } | Update::Pass => Some("not reported yet".to_string()),
        }
    }

    pub(super) fn is_listed(&self, now: u64) -> bool {
        self.name != "shutdown" || !self.passes(now)
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn group(&self) -> Option<&'static str> {
        self.group
    }

    pub(super) fn severity(&self) -> Severity {
        self.severity
    }
}

pub(super) struct Model {
    states: Vec<State>,
    hosts: Vec<String>,
}

pub(super) struct Answer {
    pub(super) status: &'static str,
    pub(super) location: Option<String>,
    /// `None` if any body is correct.
    pub(super) body: Option<String>,
}

impl Answer {
    fn new(status: &'static str, body: String) -> Self {
        Answer {
            status,
            location: None,
            body: Some(body),
        }
    }
}

impl Model {
    /// The same checks as in the fuzz body.
    pub(super) fn new(limit: u64, severity: Severity, hosts: &[&str]) -> Self {
        let mut states = Vec::from([
            State::new("ping", Update::Pass),
            State::new("log", Update::None { passes: true }),
            State::new("syncloop", Update::None { passes: false }),
            State::new("disk", Update::None { passes: false }),
            State::new("poststarthook/start-a", Update::None { passes: false }),
            State::new("poststarthook/start-b", Update::None { passes: true }),
            State::new("shutdown", Update::Pass),
        ]);
        states[1].limit = Some(limit);
        states[1].overdue = "logging blocked";
        states[2].limit = Some(16 * limit);
        states[2].overdue = "not entered";
        states[2].tells_overdue_time = true;
        states[3].severity = severity;
        states[3].group = Some("storage");
        states[4].group = Some("hooks");
        states[5].group = Some("hooks");
        let hosts = hosts.iter().map(|host| host.to_string()).collect();
        Model { states, hosts }
    }

    pub(super) fn state(&self, name: &str) -> &State {
        self.states.iter().find(|state| state.name == name).unwrap()
    }

    pub(super) fn state_mut(&mut self, name: &str) -> &mut State {
        self.states
            .iter_mut()
            .find(|state| state.name == name)
            .unwrap()
    }

    pub(super) fn begin(&mut self, now: u64) {
        self.states.iter_mut().for_each(|state| state.begin(now));
    }

    /// True if the host of `request` is one of the allowed ones.
    pub(super) fn serves(&self, request: &Generated) -> bool {
        let host = request.host.to_ascii_lowercase();
        let host = match host.rsplit_once(':') {
            // The last colon of `[::1]` is not the one before a port.
            Some((host, port)) if !port.ends_with(']') => host.to_string(),
            _ => host,
        };
        self.hosts.is_empty() || self.hosts.contains(&host)
    }

    /// The listed checks of the endpoint at `path`.
    pub(super) fn states_of(&self, path: &str, now: u64) -> Option<Vec<&State>> {
        let count = match path {
            "/healthz" => 6,
            "/livez" => 2,
            "/readyz" => 7,
            _ => return None,
        };
        let states = self.states[..count].iter();
        Some(states.filter(|state| state.is_listed(now)).collect())
    }

    pub(super) fn answer(&self, request: &Generated, now: u64) -> Answer {
        // The host is checked before the path, so that requests for a foreign host learn nothing about the paths.
        if !self.serves(request) {
            let body = "421 Misdirected Request: this server does not answer for that host\n";
            return Answer::new("421", body.to_string());
        }
        if !request.unclean.is_empty() {
            let query = request.query.as_ref().filter(|query| !query.is_empty());
            let query = query.map_or(String::new(), |query| format!("?{query}"));
            return Answer {
                status: "307",
                location: Some(request.clean_path() + &query),
                body: None,
            };
        }
        let is_root = request.method == "OPTIONS" && request.clean_path() == "/";
        let is_draining = !self.state("shutdown").passes(now);
        let listed = |path: &str| self.states_of(path, now).unwrap_or_default();
        // The name after the path of the endpoint. A slash alone names no check.
        let rest = match (&request.name, request.path) {
            (None, "/healthz/") => Some(&b""[..]),
            (name, _) => name.as_deref(),
        };
        let (name, states) = match request.path {
            _ if is_root && is_draining => ("readyz", listed("/readyz")),
            _ if is_root => ("healthz", listed("/healthz")),
            "/healthz" | "/healthz/" => ("healthz", listed("/healthz")),
            "/livez" => ("livez", listed("/livez")),
            "/readyz" => ("readyz", listed("/readyz")),
            _ => return not_found(),
        };
        let single = |rest: &[u8]| {
            states
                .iter()
                .find(|state| state.name.as_bytes() == rest)
                .copied()
        };
        let body = match rest.map(single) {
            Some(None) => return not_found(),
            _ if request.method == "PURGE" => {
                let body = "405 Method Not Allowed: this path takes GET, HEAD, OPTIONS and POST\n";
                return Answer::new("405", body.to_string());
            }
            Some(Some(state)) if state.severity == Severity::Warning => Ok("ok".to_string()),
            Some(Some(state)) => match state.reason(now) {
                None => Ok("ok".to_string()),
                Some(reason) => Err(format!("internal server error: {reason}\n")),
            },
            None => root(name, &states, request.query.as_deref().unwrap_or(""), now),
        };
        match body {
            Ok(body) => Answer::new("200", body),
            Err(body) => Answer::new("500", body),
        }
    }
}

fn not_found() -> Answer {
    Answer::new("404", "404 page not found\n".to_string())
}

fn root(endpoint: &str, states: &[&State], query: &str, now: u64) -> Result<String, String> {
    let pairs = parse_query(query);
    let is_verbose = pairs.iter().any(|(name, _)| name == b"verbose");
    let excludes = pairs.into_iter().filter(|(name, _)| name == b"exclude");
    // Kubernetes removes each name that it finds from the set, and warns about the rest in order.
    let mut unmatched: BTreeSet<Vec<u8>> = excludes.map(|(_, value)| value).collect();
    let excluded = unmatched.clone();
    let has = |name: &str| excluded.contains(name.as_bytes());
    let mut lines = String::new();
    let mut has_failed = false;
    for state in states {
        let name = state.name;
        let line = match state.group {
            _ if has(name) => format!("[+]{name} excluded: ok\n"),
            Some(group) if has(group) => format!("[+]{name} excluded with {group}: ok\n"),
            _ if state.passes(now) => format!("[+]{name} ok\n"),
            _ if state.severity == Severity::Warning => {
                format!("[!]{name} warning: reason withheld\n")
            }
            _ => {
                has_failed = true;
                format!("[-]{name} failed: reason withheld\n")
            }
        };
        lines.push_str(&line);
        unmatched.remove(name.as_bytes());
        unmatched.remove(state.group.unwrap_or(name).as_bytes());
    }
    // The lines are written only if a check fails or the query has `verbose`.
    if !is_verbose && !has_failed {
        return Ok("ok".to_string());
    }
    if !unmatched.is_empty() {
        let names: Vec<String> = unmatched.iter().map(|name| quoted(name)).collect();
        let names = names.join(",");
        lines.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {names}\n"
        ));
    }
    match has_failed {
        true => Err(format!("{lines}{endpoint} check failed\n")),
        false => Ok(format!("{lines}{endpoint} check passed\n")),
    }
}

/// Go's `%q`.
fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            let short = "\\\"\x07\x08\x0c\n\r\t\x0b".find(character);
            let code = u32::from(character);
            // After a letter, because `escape_debug` escapes a combining mark at the start.
            let plain = format!("a{character}");
            let is_shown = plain.escape_debug().eq(plain.chars()) || character == '\'';
            match short {
                Some(at) => text.extend(['\\', char::from(b"\\\"abfnrtv"[at])]),
                None if code < 0x20 || code == 0x7f => text.push_str(&format!("\\x{code:02x}")),
                None if is_shown => text.push(character),
                None if code < 0x10000 => text.push_str(&format!("\\u{code:04x}")),
                None => text.push_str(&format!("\\U{code:08x}")),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text.push('"');
    text
}
