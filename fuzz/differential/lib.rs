//! The fuzz target `differential`: healthz and hyper parse the same stream of requests.
//!
//! Two parsers that find different requests in the same bytes allow request smuggling. One more request is
//! appended to each stream, so that a disagreement about the end of the last one shows too. The module
//! [`differences`] lists where the two may differ, each with its source; any other difference is a panic.

mod differences;
mod healthz_reader;
mod hyper_reader;
// A third parser, which shares no code with the two, written for `tests/heads.rs`.
#[path = "../../tests/support/http/model.rs"]
#[allow(dead_code, reason = "`tests/heads.rs` uses more of it")]
mod model;

use healthz_reader::{End, HealthzReading};
use hyper_reader::HyperReading;
use model::Reading;

/// Appended to every stream. It is found only if the last request of the stream ended where it begins.
const SENTINEL: &[u8] = b"GET /sentinel HTTP/1.1\r\nHost: sentinel\r\n\r\n";

/// Panics if healthz and hyper accept different requests and no listed difference allows it.
pub fn differential(data: &[u8]) {
    let stream = [data, SENTINEL].concat();
    let healthz = HealthzReading::read(&stream);
    assert_matches_model(&stream, &healthz);
    let hyper = HyperReading::read(&stream);
    let pairs = healthz.requests.iter().zip(&hyper.requests);
    let count = pairs
        .take_while(|(healthz, hyper)| healthz.summary == **hyper)
        .count();
    let (healthz_next, hyper_next) = (healthz.requests.get(count), hyper.requests.get(count));
    let case = differences::Case {
        stream: &stream,
        before: count.checked_sub(1).map(|last| &healthz.requests[last]),
        healthz: healthz_next,
        hyper: hyper_next,
        end: &healthz.end,
    };
    if healthz_next.is_none() && hyper_next.is_none() {
        return;
    }
    // Two different requests at the same place are never allowed.
    assert!(
        healthz_next.is_none() || hyper_next.is_none(),
        "{}",
        case.describe(&hyper)
    );
    assert!(
        differences::ALLOWED
            .iter()
            .any(|difference| difference.allows(&case)),
        "{}",
        case.describe(&hyper)
    );
}

/// Compares with [`model`]. hyper and healthz both use httparse, so a bug there would show in neither.
fn assert_matches_model(stream: &[u8], healthz: &HealthzReading) {
    let text = String::from_utf8_lossy(stream).to_ascii_lowercase();
    // The model does not know expectations, absolute-form, IPv6, percent-encoded hosts and limits.
    let is_unknown = ["expect", "://", "["]
        .iter()
        .any(|word| text.contains(word));
    let is_encoded = |line: &str| line.trim_start().starts_with("host") && line.contains('%');
    let is_wrong = match &healthz.end {
        End::Refused { status, .. } if status == "431" => return,
        end => matches!(end, End::Refused { .. }),
    };
    if is_unknown || text.lines().any(is_encoded) {
        return;
    }
    let mut readings = model::readings(stream);
    let model_is_wrong = readings.pop_if(|last| *last == Reading::Wrong).is_some();
    let describe = || format!("{readings:?} of {:?}", String::from_utf8_lossy(stream));
    assert_eq!(model_is_wrong, is_wrong, "{}", describe());
    assert_eq!(readings.len(), healthz.requests.len(), "{}", describe());
}

impl differences::Case<'_> {
    fn describe(&self, hyper: &HyperReading) -> String {
        format!(
            "after {:?}\nhealthz: {:?}, then {:?}\nhyper: {:?}, then {:?}\nstream: {:?}",
            self.before,
            self.healthz,
            self.end,
            self.hyper,
            hyper.error,
            String::from_utf8_lossy(self.stream)
        )
    }
}

#[cfg(test)]
mod tests {
    /// Runs the corpus without a fuzzer: `cargo test` in `fuzz/`.
    #[test]
    fn corpus_of_streams_has_no_finding() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/differential");
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            super::differential(&std::fs::read(&path).unwrap());
        }
    }
}
