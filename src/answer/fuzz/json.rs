//! The model's answer in JSON, which is built from strings.
//!
//! Knows nothing of the code under test. Used by the fuzz body.

use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use super::model::{Model, State};
use super::request::Generated;
use crate::check::Severity;
use crate::http::fuzz::parse_query;

/// The URLs that the fuzz body's server listens on.
pub(super) const LISTENERS: [&str; 2] = ["http://127.0.0.1:1", "unix:/run/a"];

impl Model {
    /// The body of the answer in JSON; `None` if `request` gets the same answer as without Accept. There is no wall
    /// clock, so the answer has no times.
    pub(super) fn json(&self, request: &Generated, now: u64) -> Option<String> {
        if request.method == "PURGE" || !request.unclean.is_empty() || !self.serves(request) {
            return None;
        }
        // A slash at the end belongs to the name; alone it names no check.
        let path = match request.name {
            Some(_) => request.path.trim_end_matches('/'),
            None => request.path,
        };
        let states = self.states_of(path, now)?;
        let (path, states) = match &request.name {
            None => (path.to_string(), states),
            Some(name) => {
                let is_named = |state: &&State| state.name().as_bytes() == name;
                let state = states.into_iter().find(is_named)?;
                (format!("{path}/{}", state.name()), Vec::from([state]))
            }
        };
        let pairs = parse_query(request.query.as_deref().unwrap_or(""));
        let excludes = pairs.into_iter().filter(|(name, _)| name == b"exclude");
        let excluded: Vec<Vec<u8>> = match request.name {
            // As in the text, a single check cannot be excluded.
            Some(_) => Vec::new(),
            None => excludes.map(|(_, value)| value).collect(),
        };
        let has = |name: &str| excluded.iter().any(|excluded| excluded == name.as_bytes());
        let mut checks = Vec::new();
        let mut counted = Vec::new();
        for state in states {
            let reason = state.reason(now);
            let status = match (&reason, state.severity()) {
                (None, _) => "pass",
                (Some(_), Severity::Warning) => "warn",
                (Some(_), Severity::Error) => "fail",
            };
            let severity = match state.severity() {
                Severity::Warning => "warning",
                Severity::Error => "error",
            };
            let mut members = Vec::from([
                format!(r#""status":"{status}""#),
                format!(r#""severity":"{severity}""#),
            ]);
            members.extend(state.group().map(|group| format!(r#""group":"{group}""#)));
            if has(state.name()) || state.group().is_some_and(has) {
                members.push(r#""excluded":true"#.to_string());
            } else {
                counted.push(status);
            }
            members.extend(reason.map(|reason| format!(r#""output":{}"#, string(&reason))));
            checks.push(format!(r#""{}":[{{{}}}]"#, state.name(), members.join(",")));
        }
        let worst = ["fail", "warn"]
            .into_iter()
            .find(|status| counted.contains(status));
        Some(format!(
            r#"{{"status":"{}","releaseId":"{}","description":"{path}","listeners":["{}"],"checks":{{{}}}}}"#,
            worst.unwrap_or("pass"),
            env!("CARGO_PKG_VERSION"),
            LISTENERS.join(r#"",""#),
            checks.join(",")
        ))
    }
}

/// A string as RFC 8259 section 7 writes it, with the short escapes where there are some.
fn string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str(r"\n"),
            '\r' => quoted.push_str(r"\r"),
            '\t' => quoted.push_str(r"\t"),
            '\0'..' ' => quoted.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => quoted.push(character),
        }
    }
    quoted + "\""
}
