//! Comparison of what was measured with a limit, and the text of both.
//!
//! Knows nothing of what is measured. Used by the kinds that measure. The text of what was measured is rounded
//! away from passing, so it never reads like a value that is within the limit.

use std::time::Duration;

use crate::sources::spec::Amount;

/// How an absolute number is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Count,
}

/// The text around the number in a reason.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    pub unit: Unit,
    /// After a share: ` of inodes` in `1.0% of inodes free`.
    pub of: &'a str,
    /// After an absolute number: ` inodes` in `12 inodes free`.
    pub things: &'a str,
    /// `free`, `available`.
    pub state: &'a str,
}

/// The text `3.1% free, needs 10%` if fewer than `min` of `whole` are `free`.
pub fn shortage(free: u64, whole: u64, min: Amount, words: Words<'_>) -> Option<String> {
    let Words {
        unit,
        of,
        things,
        state,
    } = words;
    match min {
        Amount::Share(thousandths) => {
            let missing = u128::from(free) * 1000 < u128::from(whole) * u128::from(thousandths);
            let free = floor_percent(free, whole);
            let needs = percent(u128::from(thousandths));
            missing.then(|| format!("{free}{of} {state}, needs {needs}"))
        }
        Amount::Absolute(min) => (free < min).then(|| {
            let (free, needs) = match unit {
                Unit::Bytes => (bytes(free), exact_bytes(min)),
                Unit::Count => (free.to_string(), min.to_string()),
            };
            format!("{free}{things} {state}, needs {needs}")
        }),
    }
}

/// The text `96.9% used, limit 90%` if more than `max` of `whole` are `used`.
pub fn excess(used: u64, whole: u64, max: Amount, words: Words<'_>) -> Option<String> {
    let Words {
        of, things, state, ..
    } = words;
    match max {
        Amount::Share(thousandths) => {
            let limit = percent(u128::from(thousandths));
            let exceeded = u128::from(used) * 1000 > u128::from(whole) * u128::from(thousandths);
            let used = ceil_percent(used, whole);
            exceeded.then(|| format!("{used}{of} {state}, limit {limit}"))
        }
        Amount::Absolute(max) => {
            (used > max).then(|| format!("{used}{things} {state}, limit {max}"))
        }
    }
}

fn floor_percent(part: u64, whole: u64) -> String {
    let thousandths = (u128::from(part) * 1000)
        .checked_div(u128::from(whole))
        .unwrap_or(0);
    tenths(thousandths)
}

fn ceil_percent(part: u64, whole: u64) -> String {
    match whole {
        0 => tenths(1000),
        _ => tenths((u128::from(part) * 1000).div_ceil(u128::from(whole))),
    }
}

fn tenths(thousandths: u128) -> String {
    format!("{}.{}%", thousandths / 10, thousandths % 10)
}

/// `10%`, `10.5%`.
pub fn percent(thousandths: u128) -> String {
    match thousandths % 10 {
        0 => format!("{}%", thousandths / 10),
        _ => tenths(thousandths),
    }
}

const BYTE_UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Rounded down, with a decimal place below 10: `9.7 GiB`, `12 MiB`.
pub fn bytes(number: u64) -> String {
    let (name, unit) = BYTE_UNITS
        .into_iter()
        .find(|(_, unit)| number >= *unit)
        .unwrap_or(("B", 1));
    let tenth = u128::from(number) * 10 / u128::from(unit);
    match unit > 1 && tenth < 100 {
        true => format!("{}.{} {name}", tenth / 10, tenth % 10),
        false => format!("{} {name}", number / unit),
    }
}

/// In the largest unit without a remainder: `100 MiB`, `1500 MiB`.
pub fn exact_bytes(number: u64) -> String {
    let (name, unit) = BYTE_UNITS
        .into_iter()
        .find(|(_, unit)| number >= *unit && number % *unit == 0)
        .unwrap_or(("B", 1));
    format!("{} {name}", number / unit)
}

const TIME_UNITS: [(&str, u64); 3] = [("d", 86_400), ("h", 3_600), ("min", 60)];

/// In the largest unit without a remainder, for a limit: `500 ms`, `41 s`, `26 h`.
pub fn exact_time(time: Duration) -> String {
    let (seconds, millis) = (time.as_secs(), time.subsec_millis());
    if millis > 0 {
        return format!("{} ms", time.as_millis());
    }
    // `24 h` is more common than `1 d`, and `60 s` than `1 min`.
    match TIME_UNITS
        .into_iter()
        .find(|(_, unit)| seconds > *unit && seconds % unit == 0)
    {
        Some((name, unit)) => format!("{} {name}", seconds / unit),
        None => format!("{seconds} s"),
    }
}

/// Rounded up to at most two units: `41 s`, `12 min 5 s`, `26 h 1 min`, `9 d 4 h`.
pub fn time(time: Duration) -> String {
    let part = u64::from(time.subsec_nanos() > 0);
    let seconds = time.as_secs().saturating_add(part);
    let two = |(large, unit): (&str, u64), (small, part): (&str, u64)| {
        let parts = seconds.div_ceil(part);
        let each = unit / part;
        match parts % each {
            0 => format!("{} {large}", parts / each),
            rest => format!("{} {large} {rest} {small}", parts / each),
        }
    };
    match seconds {
        0..=120 => format!("{seconds} s"),
        121..=7_200 => two(("min", 60), ("s", 1)),
        7_201..=172_800 => two(("h", 3_600), ("min", 60)),
        _ => two(("d", 86_400), ("h", 3_600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Words<'_> = Words {
        unit: Unit::Bytes,
        of: "",
        things: "",
        state: "free",
    };

    #[test]
    fn a_shortage_states_what_is_there_and_what_is_needed() {
        let share = |free, whole| shortage(free, whole, Amount::Share(100), FREE);
        assert_eq!(share(31, 1000).unwrap(), "3.1% free, needs 10%");
        assert_eq!(share(9999, 100_000).unwrap(), "9.9% free, needs 10%");
        assert_eq!(share(100, 1000), None);
        assert_eq!(share(u64::MAX, u64::MAX), None);
        assert_eq!(share(0, u64::MAX).unwrap(), "0.0% free, needs 10%");
        // No share of zero is missing.
        assert_eq!(share(0, 0), None);
        let min = Amount::Absolute(100 << 20);
        assert_eq!(
            shortage(12 << 20, 1 << 40, min, FREE).unwrap(),
            "12 MiB free, needs 100 MiB"
        );
        assert_eq!(shortage(100 << 20, 0, min, FREE), None);
        let words = Words {
            unit: Unit::Count,
            of: " of inodes",
            things: " inodes",
            state: "free",
        };
        assert_eq!(
            shortage(1, 100, Amount::Share(50), words).unwrap(),
            "1.0% of inodes free, needs 5%"
        );
        assert_eq!(
            shortage(1, 100, Amount::Absolute(5), words).unwrap(),
            "1 inodes free, needs 5"
        );
    }

    #[test]
    fn an_excess_is_rounded_up() {
        let words = Words {
            state: "used",
            ..FREE
        };
        let share = |used, whole| excess(used, whole, Amount::Share(900), words);
        assert_eq!(share(900, 1000), None);
        assert_eq!(share(90_001, 100_000).unwrap(), "90.1% used, limit 90%");
        assert_eq!(share(1, 0).unwrap(), "100.0% used, limit 90%");
        assert_eq!(share(0, 0), None);
        assert_eq!(
            excess(11, 0, Amount::Absolute(10), words).unwrap(),
            "11 used, limit 10"
        );
        assert_eq!(excess(10, 0, Amount::Absolute(10), words), None);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(percent(105), "10.5%");
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes((10 << 30) - 1), "9.9 GiB");
        assert_eq!(bytes(10 << 30), "10 GiB");
        assert_eq!(bytes(u64::MAX), "16777215 TiB");
        assert_eq!(exact_bytes(0), "0 B");
        assert_eq!(exact_bytes(1500 << 20), "1500 MiB");
        assert_eq!(exact_bytes(2 << 30), "2 GiB");
        assert_eq!(exact_bytes(1025), "1025 B");
    }

    #[test]
    fn times_are_short() {
        let seconds = Duration::from_secs;
        assert_eq!(time(Duration::ZERO), "0 s");
        assert_eq!(time(Duration::from_millis(40_001)), "41 s");
        assert_eq!(time(seconds(725)), "12 min 5 s");
        assert_eq!(time(seconds(7_200)), "120 min");
        assert_eq!(time(seconds(26 * 3_600 + 1)), "26 h 1 min");
        assert_eq!(time(seconds(9 * 86_400 + 3 * 3_600 + 1)), "9 d 4 h");
        assert!(time(Duration::MAX).ends_with(" h"));
        for (limit, text) in [
            (500, "500 ms"),
            (41_000, "41 s"),
            (60_000, "60 s"),
            (90_000, "90 s"),
            (120_000, "2 min"),
            (3_600_000, "60 min"),
            (86_400_000, "24 h"),
            (93_600_000, "26 h"),
            (604_800_000, "7 d"),
            (0, "0 s"),
        ] {
            assert_eq!(exact_time(Duration::from_millis(limit)), text);
        }
    }
}
