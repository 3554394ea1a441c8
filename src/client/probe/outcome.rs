//! The result of a probe, and its text in one line.

use std::time::Duration;

use crate::client::exchange::{Failure, Response};
use crate::client::output::{Json, LINE_BYTES_MAX, Seconds, line};
use crate::client::target::{Address, Target};

/// The kinds of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The status is one of those that the kubelet takes for success (pkg/probe/http).
    Healthy,
    /// A status from 500 to 599.
    Unhealthy,
    /// No answer.
    Lost,
    /// Another answer than a health endpoint gives.
    Invalid,
}

impl Verdict {
    fn of(status: u16) -> Self {
        match status {
            200..=399 => Verdict::Healthy,
            500..=599 => Verdict::Unhealthy,
            _ => Verdict::Invalid,
        }
    }

    /// The exit code. With `is_flat`, every failure is 1.
    pub fn exit_code(self, is_flat: bool) -> u8 {
        match self {
            Verdict::Healthy => 0,
            _ if is_flat => 1,
            Verdict::Unhealthy => 1,
            Verdict::Lost => 3,
            Verdict::Invalid => 4,
        }
    }

    /// The exit code and the word of a Nagios plugin (Monitoring Plugins Development Guidelines).
    fn nagios(self) -> (u8, &'static str) {
        match self {
            Verdict::Healthy => (0, "OK"),
            Verdict::Unhealthy | Verdict::Lost => (2, "CRITICAL"),
            Verdict::Invalid => (NAGIOS_UNKNOWN, "UNKNOWN"),
        }
    }

    /// The word in JSON, and in the summary of many probes.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Healthy => "healthy",
            Verdict::Unhealthy => "unhealthy",
            Verdict::Lost => "lost",
            Verdict::Invalid => "invalid",
        }
    }
}

/// The exit code of a Nagios plugin that could not check.
pub const NAGIOS_UNKNOWN: u8 = 3;

/// The result of one probe.
#[derive(Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    pub status: Option<u16>,
    pub address: Option<Address>,
    /// The failing line of the answer, or the error; empty if it is healthy. Can be long and have control characters.
    pub message: String,
    /// What a user can do about it.
    advice: &'static str,
    pub body: Vec<u8>,
}

impl Outcome {
    pub fn new(target: &Target, result: Result<Response, Failure>) -> Self {
        let response = match result {
            Ok(response) => response,
            Err(Failure::Lost { tried, advice }) => {
                return Self::without_answer(Verdict::Lost, tried, advice);
            }
            Err(Failure::Invalid(reason)) => {
                let advice = "is this the URL of a health endpoint?";
                return Self::without_answer(Verdict::Invalid, reason, advice);
            }
        };
        let Response {
            status,
            body,
            address,
            ..
        } = response;
        let verdict = Verdict::of(status);
        let (message, advice) = match verdict {
            Verdict::Healthy => (String::new(), ""),
            Verdict::Unhealthy => (failing_line(status, &body), ""),
            _ => (
                format!("{status} for {} from {address}", target.path),
                "is this the URL of a health endpoint?",
            ),
        };
        Outcome {
            verdict,
            status: Some(status),
            address: Some(address),
            message,
            advice,
            body,
        }
    }

    fn without_answer(verdict: Verdict, message: String, advice: &'static str) -> Self {
        Outcome {
            verdict,
            status: None,
            address: None,
            message,
            advice,
            body: Vec::new(),
        }
    }

    pub fn is_unhealthy(&self) -> bool {
        self.verdict == Verdict::Unhealthy
    }

    /// The message, in a line for a screen.
    pub fn line(&self) -> String {
        line(&self.message, LINE_BYTES_MAX)
    }

    /// The message and what to do about it.
    pub fn error(&self) -> String {
        let advice = match self.advice {
            "" => String::new(),
            advice => format!("; {advice}"),
        };
        // Cuts the text of a server, and a message with a long path of the URL. Other messages are shorter.
        line(&self.message, 10 * LINE_BYTES_MAX) + &advice
    }

    /// The line and the exit code of a Nagios plugin. `time` is how long the probe took, `timeout` the most it can.
    pub fn nagios(&self, time: Duration, timeout: Duration) -> (String, u8) {
        let (code, word) = self.verdict.nagios();
        let text = match self.status {
            Some(status) if self.message.is_empty() => status.to_string(),
            _ => line(&self.message, LINE_BYTES_MAX),
        };
        let (time, timeout) = (Seconds(time), Seconds(timeout));
        let perfdata = format!("time={time}s;;;0;{timeout}");
        (nagios_line(word, &text, &perfdata), code)
    }

    /// The keys of a JSON object, without braces.
    pub fn json(&self, target: &Target, time: Duration, with_body: bool) -> String {
        let mut text = format!("\"url\":{}", Json(&target.url));
        if let Some(address) = &self.address {
            text.push_str(&format!(",\"address\":{}", Json(&address.to_string())));
        }
        text.push_str(&format!(",\"result\":\"{}\"", self.verdict.name()));
        if let Some(status) = self.status {
            text.push_str(&format!(",\"status\":{status}"));
        }
        text.push_str(&format!(",\"seconds\":{}", Seconds(time)));
        if !self.message.is_empty() {
            text.push_str(&format!(",\"message\":{}", Json(&self.message)));
        }
        if with_body {
            let body = String::from_utf8_lossy(&self.body);
            text.push_str(&format!(",\"body\":{}", Json(&body)));
        }
        text
    }
}

/// `HEALTHZ OK - text | perfdata`
pub fn nagios_line(word: &str, text: &str, perfdata: &str) -> String {
    // A bar begins the performance data.
    let text = text.replace('|', "\\u{7c}");
    match perfdata {
        "" => format!("HEALTHZ {word} - {text}\n"),
        _ => format!("HEALTHZ {word} - {text} | {perfdata}\n"),
    }
}

/// The first line that says what fails: in the text of Kubernetes, that of the first failing check.
fn failing_line(status: u16, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let mut lines = text.lines().map(str::trim_end);
    let failing = lines.clone().find(|line| line.starts_with("[-]"));
    match failing.or_else(|| lines.find(|line| !line.is_empty())) {
        Some(line) => line.to_owned(),
        None => format!("{status} without a text"),
    }
}
