//! The check file: TOML with `[defaults]` and a table `[check.NAME]` for each check.
//!
//! Finds the tables and the places of their keys; the values are read like those of the command line. Called by
//! [`super::parse`].

use std::collections::BinaryHeap;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::table::{self, GENERIC, KINDS};
use super::{Entry, FILE_BYTES_MAX, Mistake, Parser, Place, Written, shown, unknown_kind};
use crate::nearest::nearest;

const TABLES: [&str; 2] = ["defaults", "check"];

/// A file that is too large, which is not read to its end.
pub fn too_large(path: &Path) -> Mistake {
    Mistake::in_file(path, format!("larger than {} KiB", FILE_BYTES_MAX / 1024))
}

/// Reads the contents of a file. Mistakes of the syntax and of the meaning are both collected.
pub fn read(parser: &mut Parser, path: &Path, bytes: &[u8]) {
    if bytes.len() > FILE_BYTES_MAX {
        parser.mistakes.push(too_large(path));
        return;
    }
    let name = shown(&path.to_string_lossy());
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let (valid, _) = bytes.split_at(error.valid_up_to());
            let text = std::str::from_utf8(valid).unwrap_or_default();
            let place = Place::File { name, text };
            parser.mistake(&place, text.len(), "expected UTF-8".to_owned());
            return;
        }
    };
    let place = Place::File { name, text };
    let (root, errors) = DeTable::parse_recoverable(text);
    let before = parser.mistakes.len();
    for error in &errors {
        let at = error.span().map_or(text.len(), |span| span.start);
        parser.mistake(&place, at, one_line(error.message()));
    }
    parser.is_broken = !errors.is_empty();
    // For a line that is not TOML, the parser makes up a value. Of the mistakes in it, only the syntax error is kept.
    let broken = parser.mistakes.get(before..).unwrap_or_default();
    let broken: Vec<usize> = broken.iter().map(|mistake| mistake.position.0).collect();
    read_root(parser, &place, root.get_ref());
    let mut at = 0;
    parser.mistakes.retain(|mistake| {
        at += 1;
        at <= before + broken.len() || !broken.contains(&mistake.position.0)
    });
}

/// Line and column of the byte `at`, from 1. The column counts characters.
pub fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(start..).unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// The message of the TOML parser in one line.
fn one_line(message: &str) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    message.chars().map(visible).collect()
}

/// The entries of a table in the order of the file.
fn entries<'a>(table: &'a DeTable<'a>) -> Vec<Entry<'a>> {
    let entry = |(key, value): (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>)| Entry {
        key: key.get_ref(),
        key_at: key.span().start,
        value: value.get_ref(),
        value_at: value.span().start,
    };
    let entries: Vec<Entry<'a>> = table.iter().map(entry).collect();
    // A heap sorts a large file as fast as the sort of std, with 20 KiB less code.
    let places = entries.iter().map(|entry| entry.key_at).zip(0..);
    let places: BinaryHeap<(usize, usize)> = places.collect();
    let sorted = places.into_sorted_vec().into_iter();
    sorted
        .filter_map(|(_, index)| entries.get(index).copied())
        .collect()
}

fn read_root(parser: &mut Parser, place: &Place<'_>, root: &DeTable<'_>) {
    let tables = entries(root);
    // The defaults apply to all checks of the file, wherever they are written.
    let is_defaults = |entry: &&Entry<'_>| entry.key == "defaults";
    for entry in tables.iter().filter(is_defaults) {
        match entry.value {
            DeValue::Table(table) => read_defaults(parser, place, &entries(table)),
            _ => parser.mistake(
                place,
                entry.key_at,
                "expected a table [defaults]".to_owned(),
            ),
        }
    }
    for entry in tables.iter().filter(|entry| !is_defaults(entry)) {
        match (entry.key, entry.value) {
            ("check", DeValue::Table(checks)) => {
                for entry in &entries(checks) {
                    if !parser.has_room(place, entry.key_at) {
                        return;
                    }
                    read_check(parser, place, entry);
                }
            }
            ("check", _) => {
                parser.mistake(
                    place,
                    entry.key_at,
                    "expected tables [check.NAME]".to_owned(),
                );
            }
            // The header of its table is perhaps the broken line.
            (key, _) if parser.is_broken && meant_table(key).is_none() => {}
            (key, _) => parser.mistake(place, entry.key_at, unknown_table(key)),
        }
    }
}

fn meant_table(key: &str) -> Option<&'static str> {
    nearest(key, TABLES.into_iter())
}

fn unknown_table(key: &str) -> String {
    let shown = shown(key);
    match meant_table(key) {
        Some(meant) => format!("unknown table {shown}; did you mean {meant}?"),
        None => format!("unknown table {shown}; expected [defaults] or [check.NAME]"),
    }
}

fn read_defaults(parser: &mut Parser, place: &Place<'_>, options: &[Entry<'_>]) {
    for entry in options {
        if let Some(option) = table::find(GENERIC, entry.key) {
            if let Some(value) = parser.value(place, &option.syntax, entry) {
                parser.defaults.insert(option.name, value);
            }
            continue;
        }
        let names = || GENERIC.iter().map(|option| option.name);
        let key = shown(entry.key);
        let message = match nearest(entry.key, names()) {
            Some(meant) => format!("unknown default {key}; did you mean {meant}?"),
            None => {
                let names: Vec<&str> = names().collect();
                format!(
                    "{key} has no default for all checks; expected {}",
                    names.join(", ")
                )
            }
        };
        parser.mistake(place, entry.key_at, message);
    }
}

fn read_check(parser: &mut Parser, place: &Place<'_>, check: &Entry<'_>) {
    let DeValue::Table(table) = check.value else {
        let name = shown(check.key);
        let message = format!("{name}: expected a table [check.{name}] with the key of a kind");
        parser.mistake(place, check.key_at, message);
        parser.names.push(check.key.to_owned());
        return;
    };
    let (kinds, options): (Vec<_>, Vec<_>) = entries(table)
        .into_iter()
        .partition(|entry| table::kind(entry.key).is_some());
    let mut kinds = kinds.into_iter();
    let kind = kinds
        .next()
        .and_then(|entry| Some((table::kind(entry.key)?, entry)));
    match &kind {
        None if parser.is_broken => {}
        None => no_kind(parser, place, check, &options),
        Some((first, _)) => {
            for second in kinds {
                let message = format!(
                    "a check has one kind, and this one has {} already",
                    first.name
                );
                parser.mistake(place, second.key_at, message);
            }
        }
    }
    parser.add(&Written {
        place,
        name: check.key,
        at: check.key_at,
        kind,
        options,
    });
}

/// A check without a kind: perhaps one of its keys is nearly one.
fn no_kind(parser: &mut Parser, place: &Place<'_>, check: &Entry<'_>, options: &[Entry<'_>]) {
    let names = || KINDS.iter().map(|kind| kind.name);
    let unknown = |entry: &&Entry<'_>| {
        let mut all = KINDS.iter().flat_map(|kind| kind.options).chain(GENERIC);
        !all.any(|option| option.name == entry.key)
    };
    let mut unknown = options.iter().filter(unknown);
    let meant = unknown.find(|entry| nearest(entry.key, names()).is_some());
    let (at, message) = match meant {
        Some(entry) => (entry.key_at, unknown_kind(entry.key)),
        None => {
            let names: Vec<&str> = names().collect();
            let name = shown(check.key);
            (
                check.key_at,
                format!("{name}: one key must be its kind: {}", names.join(", ")),
            )
        }
    };
    parser.mistake(place, at, message);
}
