//! Durations in text: `500ms`, `10s`, `2m`, `1h`, `1m30s`.
//!
//! Knows nothing of options. Used by [`super::options`] to parse and to print.

use std::fmt;
use std::time::Duration;

const UNITS: [(&str, u64); 4] = [
    // Before `m`, because `ms` begins with it.
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
];

/// Parses one or more whole numbers with their units; `None` if `text` is anything else.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut millis: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let (unit, tail) = UNITS
            .iter()
            .find_map(|(name, unit)| Some((unit, tail.strip_prefix(name)?)))?;
        let part = number.parse::<u64>().ok()?.checked_mul(*unit)?;
        millis = millis.checked_add(part)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(Duration::from_millis(millis))
}

/// Prints a duration as [`parse`] reads it, in the largest unit that is exact.
pub struct Shown(pub Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let unit = UNITS
            .iter()
            .rev()
            .find(|(_, unit)| millis != 0 && millis % u128::from(*unit) == 0);
        match unit {
            Some((name, unit)) => write!(f, "{}{name}", millis / u128::from(*unit)),
            None => f.write_str("0s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_and_printed() {
        for (text, millis, shown) in [
            ("500ms", 500, "500ms"),
            ("10s", 10_000, "10s"),
            ("120s", 120_000, "2m"),
            ("2m", 120_000, "2m"),
            ("1h", 3_600_000, "1h"),
            ("1m30s", 90_000, "90s"),
            ("0s", 0, "0s"),
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse(text), Some(duration), "{text}");
            assert_eq!(Shown(duration).to_string(), shown);
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "10",
            "s",
            "-1s",
            "1.5s",
            "1 s",
            "1d",
            "1s2",
            "99999999999999999999s",
            "9999999999999999h",
            "1m\u{e9}",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
