//! What the target `differential` runs: a stream of requests read by this crate and by hyper.
//!
//! Both see the same bytes, with one more request behind them. Who takes another request for one, or
//! sees it begin elsewhere, answers what nobody asked: that is request smuggling. Where the two may
//! differ is a row in [`rows`], with its source; any other difference is a panic.

// A reader that has nothing in common with either, written for `tests/heads.rs`.
#[path = "../../tests/common/model.rs"]
#[allow(dead_code, reason = "that test asks more of it")]
mod model;
mod ours;
mod rows;
mod theirs;

use model::Reading;
use ours::{End, Ours};
use theirs::Theirs;

/// Behind every stream: whether it is seen tells where the stream's last request ended.
const SENTINEL: &[u8] = b"GET /sentinel HTTP/1.1\r\nHost: sentinel\r\n\r\n";

/// Both readers take the same requests, to the byte, as far as no row says otherwise.
pub fn differential(data: &[u8]) {
    let stream = [data, SENTINEL].concat();
    let ours = Ours::read(&stream);
    as_strict(&stream, &ours);
    let theirs = Theirs::read(&stream);
    let same = ours.requests.iter().zip(&theirs.requests);
    let count = same
        .take_while(|(ours, theirs)| ours.asks == **theirs)
        .count();
    let (ours_next, theirs_next) = (ours.requests.get(count), theirs.requests.get(count));
    let case = rows::Case {
        stream: &stream,
        before: count.checked_sub(1).map(|last| &ours.requests[last]),
        ours: ours_next,
        theirs: theirs_next,
        end: &ours.end,
    };
    if ours_next.is_none() && theirs_next.is_none() {
        return;
    }
    // Two requests in one place, of which no row can make one.
    assert!(
        ours_next.is_none() || theirs_next.is_none(),
        "{}",
        case.told(&theirs)
    );
    assert!(
        rows::ROWS.iter().any(|row| row.allows(&case)),
        "{}",
        case.told(&theirs)
    );
}

/// As [`model`] reads it: hyper and this crate tell tokens with the same parser, that one does not.
fn as_strict(stream: &[u8], ours: &Ours) {
    let text = String::from_utf8_lossy(stream).to_ascii_lowercase();
    // What it does not know: expectations, absolute-form, IPv6, an encoded host; and limits are none of its business.
    let is_unknown = ["expect", "://", "["]
        .iter()
        .any(|word| text.contains(word));
    let is_encoded = |line: &str| line.trim_start().starts_with("host") && line.contains('%');
    let is_wrong = match &ours.end {
        End::Refuses { status, .. } if status == "431" => return,
        end => matches!(end, End::Refuses { .. }),
    };
    if is_unknown || text.lines().any(is_encoded) {
        return;
    }
    let mut readings = model::readings(stream);
    let says_wrong = readings.pop_if(|last| *last == Reading::Wrong).is_some();
    let told = || format!("{readings:?} of {:?}", String::from_utf8_lossy(stream));
    assert_eq!(says_wrong, is_wrong, "{}", told());
    assert_eq!(readings.len(), ours.requests.len(), "{}", told());
}

impl rows::Case<'_> {
    fn told(&self, theirs: &Theirs) -> String {
        format!(
            "behind {:?}\nours: {:?}, then {:?}\ntheirs: {:?}, then {:?}\nstream: {:?}",
            self.before,
            self.ours,
            self.end,
            self.theirs,
            theirs.error,
            String::from_utf8_lossy(self.stream)
        )
    }
}

#[cfg(test)]
mod tests {
    /// `cargo test` in this directory, without a fuzzer.
    #[test]
    fn kept_streams_are_read_alike() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/differential");
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            super::differential(&std::fs::read(&path).unwrap());
        }
    }
}
