//! Quantities in text: durations (`500ms`, `10s`, `2m`, `1h`, `1m30s`, `7d`), sizes (`100Mi`, `2Gi`) and shares
//! (`10%`, `2.5%`).
//!
//! Knows nothing of options. Used by the command lines of the program and by the configuration of checks, to parse
//! and to print.

use std::fmt;
use std::time::Duration;

/// Names of units of time, and their milliseconds.
const TIMES: [(&str, u64); 5] = [
    // Before `m`, because `ms` begins with it.
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Names of units of size, and their bytes. As in Kubernetes, a size without a unit is in bytes.
#[cfg(all(feature = "sources", target_os = "linux"))]
const SIZES: [(&str, u64); 4] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
];

/// Parses one or more whole numbers with their units; `None` if `text` is anything else.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut millis: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let (unit, tail) = TIMES
            .iter()
            .find_map(|(name, unit)| Some((unit, tail.strip_prefix(name)?)))?;
        let part = number.parse::<u64>().ok()?.checked_mul(*unit)?;
        millis = millis.checked_add(part)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(Duration::from_millis(millis))
}

/// Parses a whole number of bytes, or of a unit of size, in bytes.
#[cfg(all(feature = "sources", target_os = "linux"))]
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = SIZES
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
        .unwrap_or((text, 1));
    whole(number)?.checked_mul(unit)
}

/// Parses a share of at most 100%, with at most one decimal, in thousandths.
#[cfg(all(feature = "sources", target_os = "linux"))]
pub fn share(text: &str) -> Option<u32> {
    let thousandths = tenths(text.strip_suffix('%')?)?;
    u32::try_from(thousandths)
        .ok()
        .filter(|share| *share <= 1000)
}

/// Parses a number with at most one decimal, in tenths.
#[cfg(all(feature = "sources", target_os = "linux"))]
pub fn tenths(text: &str) -> Option<u64> {
    let (number, decimal) = text.split_once('.').unwrap_or((text, "0"));
    let decimal = whole(decimal).filter(|_| decimal.len() == 1)?;
    whole(number)?.checked_mul(10)?.checked_add(decimal)
}

/// Parses decimal digits and nothing else, not even a plus.
#[cfg(any(feature = "client", all(feature = "sources", target_os = "linux")))]
pub fn whole(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain)
}

/// Prints a duration as [`duration`] reads it, in the largest unit that is exact.
pub struct Shown(pub Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        exact(f, millis, &TIMES, "s")
    }
}

/// Prints a size as [`size`] reads it, in the largest unit that is exact.
#[cfg(all(feature = "sources", target_os = "linux"))]
pub struct ShownSize(pub u64);

#[cfg(all(feature = "sources", target_os = "linux"))]
impl fmt::Display for ShownSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        exact(f, self.0, &SIZES, "")
    }
}

/// Prints a share in thousandths as [`share`] reads it.
#[cfg(all(feature = "sources", target_os = "linux"))]
pub struct ShownShare(pub u32);

#[cfg(all(feature = "sources", target_os = "linux"))]
impl fmt::Display for ShownShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", ShownTenths(u64::from(self.0)))
    }
}

/// Prints tenths as [`tenths`] reads them.
#[cfg(all(feature = "sources", target_os = "linux"))]
pub struct ShownTenths(pub u64);

#[cfg(all(feature = "sources", target_os = "linux"))]
impl fmt::Display for ShownTenths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 10, self.0 % 10) {
            (whole, 0) => write!(f, "{whole}"),
            (whole, decimal) => write!(f, "{whole}.{decimal}"),
        }
    }
}

/// Prints `number` in the largest of `units` that is exact; if there is none, with the unit `base`.
fn exact(
    f: &mut fmt::Formatter<'_>,
    number: u64,
    units: &[(&str, u64)],
    base: &str,
) -> fmt::Result {
    let unit = units
        .iter()
        .rev()
        .find(|(_, unit)| number != 0 && number % *unit == 0);
    match unit {
        Some((name, unit)) => write!(f, "{}{name}", number / unit),
        None => write!(f, "{number}{base}"),
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
            ("26h", 93_600_000, "26h"),
            ("7d", 604_800_000, "7d"),
            ("168h", 604_800_000, "7d"),
            ("1m30s", 90_000, "90s"),
            ("0s", 0, "0s"),
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(super::duration(text), Some(duration), "{text}");
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
            "1w",
            "1s2",
            "99999999999999999999s",
            "9999999999999999h",
            "1m\u{e9}",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[cfg(all(feature = "sources", target_os = "linux"))]
    #[test]
    fn sizes_and_shares_are_parsed_and_printed() {
        for (text, bytes, shown) in [
            ("0", 0, "0"),
            ("100Mi", 100 << 20, "100Mi"),
            ("2Gi", 2 << 30, "2Gi"),
            ("512Ki", 512 << 10, "512Ki"),
            ("1024Ki", 1 << 20, "1Mi"),
            ("1000", 1000, "1000"),
            ("16777215Ti", 16_777_215 << 40, "16777215Ti"),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
            assert_eq!(ShownSize(bytes).to_string(), shown);
        }
        for text in [
            "",
            "Mi",
            "-1",
            "+1",
            "1.5Gi",
            "1 Gi",
            "1MB",
            "1M",
            "16777216Ti",
        ] {
            assert_eq!(size(text), None, "{text}");
        }
        for (text, thousandths, shown) in [
            ("0%", 0, "0%"),
            ("10%", 100, "10%"),
            ("2.5%", 25, "2.5%"),
            ("0.1%", 1, "0.1%"),
            ("100.0%", 1000, "100%"),
        ] {
            assert_eq!(share(text), Some(thousandths), "{text}");
            assert_eq!(ShownShare(thousandths).to_string(), shown);
        }
        for text in [
            "", "%", "10", "100.1%", "2.55%", "2.%", ".5%", "-1%", "1e1%",
        ] {
            assert_eq!(share(text), None, "{text}");
        }
    }
}
