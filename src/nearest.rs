//! Finds the known name that is nearest to a misspelt one.
//!
//! Knows no names. Used for commands and options, and for the names in the configuration of checks.

/// The one of `known` that is nearest to `name`. One edit is allowed in a known name of 3 to 5 bytes, two in a longer
/// one, and none in a shorter one; see [`distance`].
pub fn nearest<'a>(name: &str, mut known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    nearest_of(name, &mut known)
}

// One copy in the program, instead of one for each type of iterator.
fn nearest_of<'a>(name: &str, known: &mut dyn Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = |known: &str| (known.len() / 3).min(2);
    // The distance is at least the difference of the lengths, so it is not computed for much longer text.
    let meant = known
        .filter(|known| known.len().abs_diff(name.len()) <= allowed(known))
        .map(|known| (distance(name, known), known));
    let (distance, known) = meant.min()?;
    (distance <= allowed(known)).then_some(known)
}

/// The edit distance: how many bytes must be inserted, deleted, changed or swapped with the next one to make `from`
/// into `to`, if no byte is edited twice.
fn distance(from: &str, to: &str) -> usize {
    let to = to.as_bytes();
    // A row has the distances of one prefix of `from` to all prefixes of `to`. The loop makes `row` from the last two
    // rows: `above`, and `before` that one.
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    let mut last = None;
    for a in from.bytes() {
        let mut row = Vec::with_capacity(above.len());
        let mut left = above.first().copied().unwrap_or_default() + 1;
        row.push(left);
        let mut last_b = None;
        for (at, (b, over)) in to.iter().zip(above.windows(2)).enumerate() {
            let [diagonal, up] = over else { continue };
            left = (left + 1).min(up + 1).min(diagonal + usize::from(a != *b));
            if last == Some(*b) && last_b == Some(a) {
                let swapped = at.checked_sub(1).and_then(|at| before.get(at));
                left = swapped.map_or(left, |swapped| left.min(swapped + 1));
            }
            last_b = Some(*b);
            row.push(left);
        }
        before = std::mem::replace(&mut above, row);
        last = Some(a);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_bytes_inserted_deleted_changed_and_swapped() {
        for (from, to, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abc", 0),
            ("abc", "abd", 1),
            ("abc", "xabc", 1),
            ("xabc", "abc", 1),
            ("abcdef", "ace", 3),
            ("kitten", "sitting", 3),
            ("sunday", "saturday", 3),
            ("ab", "ba", 1),
            ("tpc", "tcp", 1),
            ("abcd", "badc", 2),
            // No byte is edited twice, so it is not 2.
            ("ca", "abc", 3),
            ("abab", "baba", 2),
        ] {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn the_nearest_name_has_few_different_letters() {
        let names = ["probe", "status", "beat", "check-config"];
        for (name, expected) in [
            ("prboe", Some("probe")),
            ("stauts", Some("status")),
            ("sttus", Some("status")),
            ("beta", Some("beat")),
            ("bear", Some("beat")),
            ("boot", None),
            ("checkconfig", Some("check-config")),
            ("check", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, names.into_iter()), expected, "{name}");
        }
        assert_eq!(nearest(&"probe".repeat(1 << 20), names.into_iter()), None);
    }
}
