//! The states of endpoints and checks, from the answers of a server.
//!
//! Bytes in, values out. The answers may come from any server: JSON in the form of healthz, or the text of Kubernetes,
//! which has the names of checks and whether they pass, but neither times nor reasons.

use std::collections::HashMap;
use std::time::Duration;

use crate::client::exchange::Response;
use crate::client::json::{self, Value};
use crate::client::output::Json;

/// The media type of healthz's JSON.
const HEALTH_JSON: &str = "application/health+json";

/// The state of a server.
pub struct Report {
    /// As it was written.
    pub url: String,
    /// The address that answered last.
    pub address: String,
    /// `healthz` and its version.
    pub release: Option<String>,
    /// URLs that it listens on.
    pub listeners: Vec<String>,
    endpoints: Vec<Endpoint>,
}

/// In ascending order: the worst counts, and comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Pass,
    Warn,
    Fail,
}

/// One endpoint.
pub struct Endpoint {
    /// Its path, with the query if the URL had one.
    pub path: String,
    pub status: Status,
    pub checks: Vec<Check>,
    /// The first line of a text without checks.
    pub text: Option<String>,
    /// The answer in JSON.
    json: Option<String>,
    release: Option<String>,
    listeners: Vec<String>,
}

/// One check.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    pub name: String,
    pub status: Status,
    pub severity: Option<String>,
    pub is_excluded: bool,
    pub since: Since,
    /// Seconds since the last beat.
    pub beat: Option<u64>,
    /// How long the last run took.
    pub run: Option<Duration>,
    pub reason: Option<String>,
}

/// When the status of a check last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// The answer does not have it.
    Unknown,
    /// It has not changed since the server began to watch the check.
    Start,
    /// This many seconds before the answer was made.
    Seconds(u64),
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pass => "pass",
            Status::Warn => "warn",
            Status::Fail => "fail",
        }
    }

    fn parse(text: &str) -> Option<Status> {
        let all = [Status::Pass, Status::Warn, Status::Fail];
        all.into_iter().find(|status| status.as_str() == text)
    }
}

/// Whether `response` is of a health endpoint, and not the JSON of healthz: the server does not know that, or does not
/// give it to this client. The answer to `?verbose` says more then.
pub fn is_plain(response: &Response) -> bool {
    response.media_type != HEALTH_JSON && passes(response.status).is_some()
}

/// Whether an endpoint with this status passes, as the kubelet decides it; `None` if it is not that of a health
/// endpoint.
fn passes(status: u16) -> Option<bool> {
    match status {
        200..=399 => Some(true),
        500..=599 => Some(false),
        _ => None,
    }
}

impl Report {
    pub fn new(url: &str) -> Self {
        Report {
            url: url.into(),
            address: String::new(),
            release: None,
            listeners: Vec::new(),
            endpoints: Vec::new(),
        }
    }

    pub fn add(&mut self, endpoint: Endpoint, response: &Response) {
        self.address = response.address.to_string();
        if endpoint.release.is_some() {
            self.release.clone_from(&endpoint.release);
            self.listeners.clone_from(&endpoint.listeners);
        }
        self.endpoints.push(endpoint);
    }

    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Whether every endpoint answers as one that passes: a warning is no failure.
    pub fn passes(&self) -> bool {
        self.worst() != Status::Fail
    }

    fn worst(&self) -> Status {
        let all = self.endpoints.iter().map(|endpoint| endpoint.status);
        all.max().unwrap_or(Status::Pass)
    }

    /// Each check once, the failing ones first. If two answers differ, which were made at different times, the worse
    /// one counts.
    pub fn checks(&self) -> Vec<&Check> {
        let all = || self.endpoints.iter().flat_map(|endpoint| &endpoint.checks);
        let mut worst: HashMap<&str, &Check> = HashMap::new();
        for check in all() {
            let known = worst.entry(&check.name).or_insert(check);
            if known.status < check.status {
                *known = check;
            }
        }
        let mut checks: Vec<&Check> = all()
            .filter_map(|check| worst.remove(check.name.as_str()))
            .collect();
        // The sort is stable: checks of the same status keep the order of the server.
        checks.sort_by_key(|check| std::cmp::Reverse(check.status));
        checks
    }

    /// One object with the answers of all endpoints. Those of a server that answers with text have only what the text
    /// says.
    pub fn to_json(&self) -> String {
        let endpoints = self.endpoints.iter().map(|endpoint| {
            let answer = endpoint
                .json
                .clone()
                .unwrap_or_else(|| endpoint.text_as_json());
            format!("{}:{answer}", Json(&endpoint.path))
        });
        let endpoints: Vec<_> = endpoints.collect();
        format!(
            r#"{{"url":{},"address":{},"status":"{}","endpoints":{{{}}}}}"#,
            Json(&self.url),
            Json(&self.address),
            self.worst().as_str(),
            endpoints.join(",")
        )
    }
}

impl Endpoint {
    /// Reads an answer; `None` if it is not that of a health endpoint.
    pub fn new(path: &str, response: &Response) -> Option<Endpoint> {
        let body = String::from_utf8_lossy(&response.body);
        match response.media_type.as_str() {
            HEALTH_JSON => Self::from_json(path, response.status, &body),
            "text/plain" | "" | "application/json" => Self::from_text(path, response.status, &body),
            _ => None,
        }
    }

    fn from_json(path: &str, status: u16, body: &str) -> Option<Endpoint> {
        let passes = passes(status)?;
        let value = Value::parse(body)?;
        let text = |name| value.get(name).and_then(Value::as_str);
        let status = Status::parse(text("status")?)?;
        let listeners = value.get("listeners").map_or(&[][..], Value::elements);
        let listeners = listeners.iter().filter_map(Value::as_str);
        let checks = value.get("checks").map_or(&[][..], Value::members);
        let checks = checks.iter().filter_map(|(name, check)| {
            let check = check.elements().first()?;
            Check::from_json(name, check)
        });
        Some(Endpoint {
            path: path.into(),
            // A probe reads only the status code. If that is a failure, the JSON cannot make it a success.
            status: match passes {
                false => Status::Fail,
                true => status,
            },
            checks: checks.collect(),
            text: None,
            json: Some(json::on_one_line(body)),
            release: text("releaseId").map(|release| format!("healthz {release}")),
            listeners: listeners.map(String::from).collect(),
        })
    }

    /// The text of Kubernetes with `?verbose`.
    fn from_text(path: &str, status: u16, body: &str) -> Option<Endpoint> {
        let passes = passes(status)?;
        let checks: Vec<_> = body.lines().filter_map(Check::from_line).collect();
        let has_warning = checks.iter().any(|check| check.status == Status::Warn);
        let first = body.lines().next().filter(|_| checks.is_empty());
        Some(Endpoint {
            path: path.into(),
            status: match passes {
                false => Status::Fail,
                true if has_warning => Status::Warn,
                true => Status::Pass,
            },
            checks,
            text: first.map(String::from),
            json: None,
            release: None,
            listeners: Vec::new(),
        })
    }

    fn text_as_json(&self) -> String {
        let checks = self.checks.iter().map(|check| {
            let excluded = match check.is_excluded {
                true => r#","excluded":true"#,
                false => "",
            };
            let (name, status) = (Json(&check.name), check.status.as_str());
            format!(r#"{name}:[{{"status":"{status}"{excluded}}}]"#)
        });
        let checks: Vec<_> = checks.collect();
        let output = self
            .text
            .as_ref()
            .map(|text| format!(r#","output":{}"#, Json(text)));
        format!(
            r#"{{"status":"{}"{},"checks":{{{}}}}}"#,
            self.status.as_str(),
            output.unwrap_or_default(),
            checks.join(",")
        )
    }
}

impl Check {
    fn from_json(name: &str, value: &Value) -> Option<Check> {
        let text = |name| value.get(name).and_then(Value::as_str);
        let time = |name| text(name).and_then(unix_seconds);
        let now = time("time");
        let age = |name| Some(now?.saturating_sub(time(name)?));
        Some(Check {
            name: name.into(),
            status: Status::parse(text("status")?)?,
            severity: text("severity").map(String::from),
            is_excluded: value.get("excluded") == Some(&Value::Bool(true)),
            since: match (now, age("since")) {
                (_, Some(seconds)) => Since::Seconds(seconds),
                (Some(_), None) => Since::Start,
                (None, None) => Since::Unknown,
            },
            beat: age("lastBeat"),
            run: value.get("lastRunSeconds").and_then(seconds),
            reason: text("output").map(String::from),
        })
    }

    /// A line of Kubernetes' text, `[-]disk failed: reason withheld` for example.
    fn from_line(line: &str) -> Option<Check> {
        let (status, rest) = if let Some(rest) = line.strip_prefix("[+]") {
            (Status::Pass, rest)
        } else if let Some(rest) = line.strip_prefix("[!]") {
            (Status::Warn, rest)
        } else {
            (Status::Fail, line.strip_prefix("[-]")?)
        };
        let (name, said) = rest.split_once(' ').unwrap_or((rest, ""));
        Some(Check {
            name: name.into(),
            status,
            severity: None,
            is_excluded: said.starts_with("excluded"),
            since: Since::Unknown,
            beat: None,
            run: None,
            // Usually `failed: reason withheld`.
            reason: (status != Status::Pass).then(|| said.to_owned()),
        })
    }
}

/// A number of seconds as a time, without what is less than a microsecond. `None` with a sign or an exponent.
fn seconds(value: &Value) -> Option<Duration> {
    let number = value.as_number()?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let micros = fraction.bytes().chain([b'0'; 6]).take(6);
    let micros = micros.fold(0, |micros, digit| 10 * micros + u32::from(digit - b'0'));
    Some(Duration::new(whole.parse().ok()?, 1000 * micros))
}

/// Seconds since 1970 of a time such as `2026-11-29T02:50:00Z`: RFC 3339 in UTC and whole seconds.
fn unix_seconds(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').filter(|text| text.len() == 19)?;
    let number = |from: usize, to: usize, before: char| -> Option<u64> {
        let (separator, digits) = (text.get(..from)?.chars().next_back(), text.get(from..to)?);
        let is_valid = separator.is_none_or(|separator| separator == before)
            && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|_| is_valid)
    };
    let (year, month, day) = (number(0, 4, ' ')?, number(5, 7, '-')?, number(8, 10, '-')?);
    let (hour, minute, second) = (
        number(11, 13, 'T')?,
        number(14, 16, ':')?,
        number(17, 19, ':')?,
    );
    let is_date =
        (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    let is_time = hour < 24 && minute < 60 && second < 60;
    // A year that begins in March ends with its leap day.
    let year = if month < 3 {
        year.checked_sub(1)?
    } else {
        year
    };
    let from_march = (month + 9) % 12;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * from_march + 2) / 5 + day;
    // The same sum for 1970-01-01.
    let days = days.checked_sub(719_469)?;
    (is_date && is_time).then_some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use healthz::time::DateTime;
    use serde_json::json;

    use super::*;
    use crate::client::target::Address;

    #[test]
    fn seconds_are_read_without_an_exponent() {
        for (number, micros) in [
            ("0.004000", Some(4000)),
            ("2", Some(2_000_000)),
            ("1.0000019", Some(1_000_001)),
            ("0.0000000e9", None),
            ("1e3", None),
            ("-1.5", None),
            ("99999999999999999999", None),
        ] {
            let value = Value::Number(number.into());
            assert_eq!(
                seconds(&value),
                micros.map(Duration::from_micros),
                "{number}"
            );
        }
        assert_eq!(seconds(&Value::Text("1".into())), None);
    }

    fn response(status: u16, media_type: &str, body: &str) -> Response {
        Response {
            status,
            media_type: media_type.into(),
            body: body.into(),
            address: Address::Unix(PathBuf::from("/run/a")),
        }
    }

    #[test]
    fn times_are_read_back() {
        for seconds in (0..4_102_444_800_u64).step_by(86_399) {
            let time = DateTime::from_unix_seconds(seconds);
            let DateTime {
                year,
                month,
                day,
                hour,
                minute,
                second,
                ..
            } = time;
            let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z");
            assert_eq!(unix_seconds(&text), Some(seconds), "{text}");
        }
        for wrong in [
            "",
            "Z",
            "2026-11-29T02:50:00",
            "2026-11-29 02:50:00Z",
            "2026-11-29T02:50:00.5Z",
            "2026-13-29T02:50:00Z",
            "2026-00-29T02:50:00Z",
            "2026-11-29T24:50:00Z",
            "1969-12-31T23:59:59Z",
            "2026-+1-29T02:50:00Z",
            "202\u{e9}-1-29T02:50:00Z",
        ] {
            assert_eq!(unix_seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_answer_in_json_has_ages_and_reasons() {
        let body = r#"{"status":"fail","releaseId":"0.1.0","listeners":["http://a","http://b"],"checks":{
            "ping":[{"status":"pass","severity":"error","time":"2026-11-29T02:50:00Z"}],
            "disk":[{"status":"fail","severity":"error","since":"2026-11-29T02:48:11Z","time":"2026-11-29T02:50:00Z",
                "output":"full","runs":{"success":1},"lastRunSeconds":0.004}],
            "worker":[{"status":"warn","severity":"warning","excluded":true,"time":"2026-11-29T02:50:00Z",
                "lastBeat":"2026-11-29T02:49:19Z","output":"late"}],
            "strange":[{"status":"green"}],"empty":[]}}"#;
        let endpoint = Endpoint::new("/healthz", &response(500, HEALTH_JSON, body)).unwrap();
        assert_eq!(endpoint.status, Status::Fail);
        let check = |name: &str, status: Status, severity: &str| Check {
            name: name.into(),
            status,
            severity: Some(severity.into()),
            is_excluded: false,
            since: Since::Start,
            beat: None,
            run: None,
            reason: None,
        };
        let disk = Check {
            since: Since::Seconds(109),
            run: Some(Duration::from_millis(4)),
            reason: Some("full".into()),
            ..check("disk", Status::Fail, "error")
        };
        let worker = Check {
            is_excluded: true,
            beat: Some(41),
            reason: Some("late".into()),
            ..check("worker", Status::Warn, "warning")
        };
        let ping = check("ping", Status::Pass, "error");
        // Others are not checks.
        assert_eq!(endpoint.checks, [ping, disk, worker]);
        let mut report = Report::new("unix:/run/a");
        report.add(endpoint, &response(500, HEALTH_JSON, body));
        assert_eq!(report.release.as_deref(), Some("healthz 0.1.0"));
        assert_eq!(report.listeners, ["http://a", "http://b"]);
        assert!(!report.passes());
        let names: Vec<_> = report
            .checks()
            .iter()
            .map(|check| check.name.clone())
            .collect();
        assert_eq!(names, ["disk", "worker", "ping"]);
        let value: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        let answer: serde_json::Value = serde_json::from_str(body).unwrap();
        let want = json!({
            "url": "unix:/run/a", "address": "unix:/run/a", "status": "fail", "endpoints": {"/healthz": answer},
        });
        assert_eq!(value, want);
    }

    #[test]
    fn the_text_of_kubernetes_has_names_and_states() {
        let body = "[+]ping ok\n[+]etcd excluded: ok\n[-]poststarthook/rbac failed: reason withheld\n\
                    [!]fan warning: reason withheld\nhealthz check failed\n";
        let endpoint = Endpoint::new("/healthz", &response(500, "text/plain", body)).unwrap();
        let found: Vec<_> = endpoint
            .checks
            .iter()
            .map(|check| {
                (
                    check.name.as_str(),
                    check.status,
                    check.is_excluded,
                    check.reason.as_deref(),
                )
            })
            .collect();
        let want = [
            ("ping", Status::Pass, false, None),
            ("etcd", Status::Pass, true, None),
            (
                "poststarthook/rbac",
                Status::Fail,
                false,
                Some("failed: reason withheld"),
            ),
            ("fan", Status::Warn, false, Some("warning: reason withheld")),
        ];
        assert_eq!(found, want);
        let value: serde_json::Value = serde_json::from_str(&endpoint.text_as_json()).unwrap();
        assert_eq!(value["status"], "fail");
        assert_eq!(
            value["checks"]["etcd"][0],
            json!({"status": "pass", "excluded": true})
        );
        let plain = Endpoint::new("/healthz", &response(200, "text/plain", "ok")).unwrap();
        assert_eq!(
            (plain.status, plain.text.as_deref()),
            (Status::Pass, Some("ok"))
        );
        let value: serde_json::Value = serde_json::from_str(&plain.text_as_json()).unwrap();
        assert_eq!(
            value,
            json!({"status": "pass", "output": "ok", "checks": {}})
        );
    }

    #[test]
    fn other_answers_are_not_those_of_a_health_endpoint() {
        for (status, media_type, body) in [
            (404, "text/plain", "404 page not found\n"),
            (200, "text/html", "<html>"),
            (400, "text/plain", ""),
            (200, HEALTH_JSON, ""),
            (200, HEALTH_JSON, "{}"),
            (200, HEALTH_JSON, "{\"status\":\"green\"}"),
        ] {
            assert!(
                Endpoint::new("/", &response(status, media_type, body)).is_none(),
                "{body}"
            );
        }
    }

    #[test]
    fn the_worse_of_two_answers_about_a_check_counts() {
        let answer = |path: &str, status: &str| {
            let body = format!(
                r#"{{"status":"{status}","checks":{{"a":[{{"status":"pass"}}],"b":[{{"status":"{status}"}}]}}}}"#
            );
            Endpoint::new(path, &response(200, HEALTH_JSON, &body)).unwrap()
        };
        let mut report = Report::new("");
        for (path, status) in [
            ("/healthz", "pass"),
            ("/livez", "fail"),
            ("/readyz", "warn"),
        ] {
            report.add(answer(path, status), &response(200, HEALTH_JSON, ""));
        }
        let found: Vec<_> = report
            .checks()
            .iter()
            .map(|check| (check.name.as_str(), check.status))
            .collect();
        assert_eq!(found, [("b", Status::Fail), ("a", Status::Pass)]);
    }
}
