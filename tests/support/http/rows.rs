//! Reads the rows of `tests/conformance`. The README there explains the fields.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

/// One row of any of the files.
pub struct Row {
    pub name: String,
    /// The checks that are installed; see `profile`.
    pub profile: String,
    /// The failing checks: name to reason.
    pub failing: BTreeMap<String, String>,
    pub request: Vec<u8>,
    pub segments: Vec<Segment>,
    pub expect: Expect,
}

/// One action of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    Bytes(Vec<u8>),
    Pause(Duration),
    /// Shut down the sending side.
    Shut,
}

/// The state of the connection after the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Open,
    Closed,
}

/// The expected answers. A field that is `None` is not compared.
#[derive(Debug, Default)]
pub struct Expect {
    pub strict: Option<Strict>,
    pub anything_valid: bool,
    pub statuses: Option<Vec<u16>>,
    pub statuses_prefix_of: Option<Vec<u16>>,
    pub responses: Option<usize>,
    pub status: Option<Vec<u16>>,
    pub body: Option<Vec<u8>>,
    pub location: Option<String>,
    pub content_type: Option<String>,
    /// Fields of the first answer: names in lower case, and their values.
    pub fields: BTreeMap<String, String>,
    pub after: Option<End>,
    /// A 500 is valid although every check passes.
    pub allows_500: bool,
    /// Only `strict` is compared.
    pub is_strict_only: bool,
}

/// The answer of a strict origin server to an anomaly.
#[derive(Debug)]
pub struct Strict {
    pub status: Vec<u16>,
    pub responses: usize,
    pub closes: bool,
}

/// The files with expected answers.
pub const FILES: [&str; 3] = ["kubernetes.jsonl", "healthz_test.jsonl", "anomalies.jsonl"];

/// All rows of `file`, in order.
pub fn read(file: &str) -> Vec<Row> {
    let path = format!("{}/tests/conformance/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let rows: Vec<Row> = text
        .lines()
        .map(|line| row(serde_json::from_str(line).unwrap()))
        .collect();
    let mut names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    names.sort_unstable();
    let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
    assert!(twice.is_none(), "{file}: two rows are named {twice:?}");
    rows
}

/// Name and bytes of each row of `clients.jsonl`.
pub fn clients() -> Vec<(String, Vec<u8>)> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/conformance/clients.jsonl"
    );
    let text = std::fs::read_to_string(path).unwrap();
    let client = |line: &str| {
        let row: Map<String, Value> = serde_json::from_str(line).unwrap();
        let command = row["command"].as_str().unwrap_or("as configured");
        let name = format!("{}: {command}", row["client"].as_str().unwrap());
        (name, latin1(row["request"].as_str().unwrap()))
    };
    text.lines().map(client).collect()
}

fn row(row: Map<String, Value>) -> Row {
    let request = payload(&row);
    let profile = match row.get("install") {
        Some(install) => install.to_string(),
        None => text(row.get("checks").unwrap_or(&"kubelet".into())),
    };
    let failing = match row.get("failing") {
        Some(Value::Object(failing)) => failing
            .iter()
            .map(|(name, reason)| (name.clone(), text(reason)))
            .collect(),
        _ => BTreeMap::new(),
    };
    let name = text(&row["name"]);
    if let Some(source) = row.get("source") {
        let source = source.as_str().unwrap();
        let parts: Vec<&str> = source.split(' ').collect();
        assert!(
            matches!(parts[..], ["RFC", _, "section", _]),
            "{name}: {source} is not a section of an RFC"
        );
    }
    let segments = match row.get("segments") {
        Some(Value::Array(segments)) => segments.iter().map(segment).collect(),
        // `see request`, or none.
        _ => vec![Segment::Bytes(request.clone())],
    };
    let sent: Vec<u8> = segments.iter().flat_map(Segment::bytes).copied().collect();
    assert!(sent == request, "{name}: the segments are not the request");
    Row {
        expect: expect(&row, &name),
        name,
        profile,
        failing,
        request,
        segments,
    }
}

impl Segment {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Segment::Bytes(bytes) => bytes,
            _ => &[],
        }
    }
}

fn payload(row: &Map<String, Value>) -> Vec<u8> {
    if let Some(Value::String(request)) = row.get("request") {
        return latin1(request);
    }
    let parts = row["request_parts"].as_array().unwrap();
    let part =
        |part: &Value| latin1(part[0].as_str().unwrap()).repeat(part[1].as_u64().unwrap() as usize);
    parts.iter().flat_map(part).collect()
}

fn segment(segment: &Value) -> Segment {
    match segment {
        Value::String(word) if word == "shut" => Segment::Shut,
        Value::String(bytes) => Segment::Bytes(latin1(bytes)),
        pause => Segment::Pause(Duration::from_secs_f64(pause.as_f64().unwrap().min(1.0))),
    }
}

fn expect(row: &Map<String, Value>, name: &str) -> Expect {
    let strict = row.get("strict_status").map(|status| Strict {
        // `null` in the list: it is also valid to send no answer.
        status: numbers(status),
        responses: row
            .get("strict_responses")
            .and_then(Value::as_u64)
            .map_or(1, |count| count.max(1) as usize),
        closes: row["strict_after"] == "closed",
    });
    if let Some(Value::Object(expect)) = row.get("expect") {
        return Expect {
            strict,
            ..ours(expect, name)
        };
    }
    if strict.is_some() {
        return Expect {
            strict,
            allows_500: true,
            is_strict_only: true,
            ..Expect::default()
        };
    }
    let want = row["want"].as_object().unwrap();
    Expect {
        status: Some(vec![want["status"].as_u64().unwrap() as u16]),
        body: want["body"].as_str().map(latin1),
        content_type: want["content_type"].as_str().map(String::from),
        allows_500: true,
        ..Expect::default()
    }
}

fn ours(expect: &Map<String, Value>, name: &str) -> Expect {
    let mut ours = Expect::default();
    for (key, value) in expect {
        match key.as_str() {
            "status" => ours.status = Some(numbers(value)),
            "statuses" => ours.statuses = Some(numbers(value)),
            "statuses_prefix_of" => ours.statuses_prefix_of = Some(numbers(value)),
            "responses" => ours.responses = Some(value.as_u64().unwrap() as usize),
            "body" => ours.body = value.as_str().map(latin1),
            "location" => ours.location = Some(text(value)),
            "fields" => {
                let fields = value.as_object().unwrap().iter();
                ours.fields = fields
                    .map(|(name, value)| (name.clone(), text(value)))
                    .collect();
            }
            "anything_valid" => ours.anything_valid = value == true,
            "after" if value == "open" => ours.after = Some(End::Open),
            "after" if value == "closed" => ours.after = Some(End::Closed),
            "why" | "note" => {}
            _ => panic!("{name}: unknown expectation {key}: {value}"),
        }
    }
    ours
}

fn numbers(value: &Value) -> Vec<u16> {
    let numbers = value.as_array().unwrap().iter();
    numbers.filter_map(|n| Some(n.as_u64()? as u16)).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().into()
}

fn latin1(text: &str) -> Vec<u8> {
    text.chars()
        .map(|character| u8::try_from(character).unwrap())
        .collect()
}
