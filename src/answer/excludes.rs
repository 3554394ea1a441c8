//! The names that the `exclude` parameters of a query exclude, as a set without the heap.
//!
//! Knows the query and the names of checks, not their states. Made on the stack by [`super::healthz`] for a
//! query that has such a parameter, and by [`super::health_json`] for every request for a whole endpoint.

use core::cmp::Ordering;

use super::quote::quote;
use crate::check::Check;
use crate::http::{BodyWriter, Decoded, Target};
use crate::limits::EXCLUDES_MAX;

/// The text before the names that match nothing.
const NO_MATCHES: &[u8] = b"warn: some health checks cannot be excluded: no matches for ";
/// Bytes that [`Excludes::warn`] writes besides the names.
pub(super) const WARNING_BYTES: usize = NO_MATCHES.len() + "\n".len();

/// A value of `exclude`: its span in the query, and whether a check or group has that name.
#[derive(Clone, Copy, Default)]
pub(super) struct Exclude {
    start: u16,
    length: u16,
    is_matched: bool,
}

/// More `exclude` parameters or names than there is room for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany;

/// The set of excluded names, sorted by their decoded bytes, as Kubernetes sorts them for its warning.
pub(super) struct Excludes<'q, 'f> {
    query: &'q [u8],
    found: &'f mut [Exclude],
    count: usize,
}

impl<'q, 'f> Excludes<'q, 'f> {
    pub(super) fn none() -> Self {
        Excludes::new(b"", &mut [])
    }

    /// An empty set of values of `query`, with room for as many names as `found` has.
    pub(super) fn new(query: &'q [u8], found: &'f mut [Exclude]) -> Self {
        Excludes {
            query,
            found,
            count: 0,
        }
    }

    /// Adds the values of all `exclude` parameters of `target`, which must have the query of this set.
    ///
    /// # Errors
    /// If there are more parameters than [`EXCLUDES_MAX`], or more names than there is room for.
    pub(super) fn insert_all(&mut self, target: &Target<'_>) -> Result<(), TooMany> {
        let values = target.pairs().filter(|(name, _)| name.is("exclude"));
        // The parameters are counted, not the names in the set: this bounds the number of insertions.
        for (index, (_, value)) in values.enumerate() {
            if index >= EXCLUDES_MAX {
                return Err(TooMany);
            }
            self.insert(value)?;
        }
        Ok(())
    }

    /// Adds a value, which must be a slice of the query. A name that is in the set is not added again.
    fn insert(&mut self, value: Decoded<'_>) -> Result<(), TooMany> {
        let raw = value.raw();
        // The distance of the two addresses is the position in the query. An empty value may point to
        // a constant elsewhere, and needs no position.
        let start = match raw.is_empty() {
            true => 0,
            false => raw.as_ptr().addr().wrapping_sub(self.query.as_ptr().addr()),
        };
        let exclude = Exclude {
            start: u16::try_from(start).map_err(|_| TooMany)?,
            length: u16::try_from(raw.len()).map_err(|_| TooMany)?,
            is_matched: false,
        };
        let Err(at) = self.search_by(value.bytes()) else {
            return Ok(());
        };
        // Insertion takes quadratic time, but moves 6 bytes per name. With the most names that a head
        // can have it is faster than a heap sort afterwards, and the program is smaller.
        let moved = self.found.get_mut(at..=self.count).ok_or(TooMany)?;
        let mut next = exclude;
        for place in moved {
            next = core::mem::replace(place, next);
        }
        self.count += 1;
        Ok(())
    }

    /// How `check` is excluded: `Some(None)` by its own name, `Some(Some(group))` by its group.
    pub(super) fn exclusion<'c>(&self, check: &'c Check) -> Option<Option<&'c [u8]>> {
        // Most requests exclude nothing.
        if self.count == 0 {
            return None;
        }
        if self.search(check.name_bytes()).is_ok() {
            return Some(None);
        }
        let group = check.group_bytes()?;
        self.search(group).is_ok().then_some(Some(group))
    }

    /// Marks the check's name and group as names that exist, so that [`warn`](Excludes::warn) leaves
    /// them out.
    pub(super) fn mark_matched(&mut self, check: &Check) {
        let names = [Some(check.name_bytes()), check.group_bytes()];
        for name in names.into_iter().flatten() {
            let Ok(at) = self.search(name) else {
                continue;
            };
            if let Some(exclude) = self.found.get_mut(at) {
                exclude.is_matched = true;
            }
        }
    }

    /// Writes the line about names that match nothing, if there are any.
    pub(super) fn warn(&self, body: &mut BodyWriter<'_>) {
        let mut separator = NO_MATCHES;
        for exclude in self.names().iter().filter(|exclude| !exclude.is_matched) {
            body.push(separator);
            quote(exclude.value(self.query).bytes(), body);
            separator = b",";
        }
        if separator == b"," {
            body.push(b"\n");
        }
    }

    fn names(&self) -> &[Exclude] {
        self.found.get(..self.count).unwrap_or_default()
    }

    /// The index of `name`, or the index where it must be inserted.
    fn search(&self, name: &[u8]) -> Result<usize, usize> {
        self.search_by(name.iter().copied())
    }

    fn search_by(&self, name: impl Iterator<Item = u8> + Clone) -> Result<usize, usize> {
        let order =
            |exclude: &Exclude| -> Ordering { exclude.value(self.query).bytes().cmp(name.clone()) };
        self.names().binary_search_by(order)
    }
}

impl Exclude {
    fn value(self, query: &[u8]) -> Decoded<'_> {
        let start = usize::from(self.start);
        let end = start + usize::from(self.length);
        Decoded::new(query.get(start..end).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// The decoded names after the values of `query`, separated by `,`, were inserted.
    fn names(query: &[u8], room: usize) -> Result<Vec<Vec<u8>>, TooMany> {
        let mut found = std::vec![Exclude::default(); room];
        let mut excludes = Excludes::new(query, &mut found);
        for value in query.split(|byte| *byte == b',') {
            excludes.insert(Decoded::new(value))?;
        }
        let names = excludes.names().iter();
        Ok(names
            .map(|name| name.value(query).bytes().collect())
            .collect())
    }

    #[test]
    fn names_are_a_sorted_set_in_whatever_order_they_are_inserted() {
        // Every sequence of up to five values, repeated ones included.
        for count in 1..=5_u32 {
            for order in 0..count.pow(count) {
                let digits = (0..count).map(|place| order / count.pow(place) % count);
                let values: Vec<u8> = digits.map(|digit| b'a' + digit as u8).collect();
                let query = values.iter().flat_map(|value| [*value, b',']);
                let mut query: Vec<u8> = query.collect();
                query.pop();
                let mut expected: Vec<Vec<u8>> =
                    values.iter().map(|value| Vec::from([*value])).collect();
                expected.sort();
                expected.dedup();
                assert_eq!(names(&query, 5), Ok(expected), "{query:?}");
            }
        }
    }

    #[test]
    fn names_are_compared_after_decoding_and_sorted_by_their_bytes() {
        let expected = [&b""[..], b"a", b"b", b"ba", b"\xff"].map(<[u8]>::to_vec);
        assert_eq!(names(b"%ff,b,ba,%62,%61,a,,", 5), Ok(expected.to_vec()));
    }

    #[test]
    fn a_name_without_room_is_an_error() {
        assert_eq!(names(b"a,b", 1), Err(TooMany));
        assert_eq!(names(b"a,a,%61", 1), Ok(Vec::from([b"a".to_vec()])));
    }
}
