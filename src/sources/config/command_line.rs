//! One `--check` argument: `NAME=KIND:ARGUMENT,option=value`.
//!
//! Splits it; the values are read like those of the file. Called by [`super::parse`].

use std::ffi::OsStr;

use toml::Spanned;
use toml::de::{DeArray, DeValue};

use super::table::{self, GENERIC, KINDS, KindDef};
use super::{Entry, Parser, Place, Written, shown, unknown_kind, unknown_option};
use crate::nearest::nearest;

const FORM: &str = "expected NAME=KIND:ARGUMENT,option=value, such as var=disk:/var,min=10%";

/// Reads one argument.
pub fn read(parser: &mut Parser, check: &OsStr) {
    let lossy = check.to_string_lossy();
    let place = Place::Argument(shown(&lossy));
    if !parser.has_room(&place, 0) {
        return;
    }
    let Some(text) = check.to_str() else {
        parser.mistake(&place, 0, "expected UTF-8".to_owned());
        return;
    };
    let Some((name, rest)) = text.split_once('=') else {
        parser.mistake(&place, 0, FORM.to_owned());
        return;
    };
    let place = match name {
        "" => place,
        _ => Place::Argument(shown(name)),
    };
    let end = rest.find([':', ',']).unwrap_or(rest.len());
    let (kind_name, rest) = rest.split_at_checked(end).unwrap_or((rest, ""));
    let kind = table::kind(kind_name);
    if kind.is_none() {
        parser.mistake(&place, 0, unknown_kind(kind_name));
    }
    let parts = match split(kind, rest) {
        Ok(parts) => parts,
        Err(message) => {
            parser.mistake(&place, 0, message);
            return;
        }
    };
    let argument = match parts.argument {
        Some(text) => DeValue::String(text.into()),
        None => DeValue::Boolean(true),
    };
    let options = values(parts.options);
    let entry = |(key, value)| Entry {
        key,
        key_at: 0,
        value,
        value_at: 0,
    };
    parser.add(&Written {
        place: &place,
        name,
        at: 0,
        kind: kind.map(|kind| (kind, entry((kind_name, &argument)))),
        options: options
            .iter()
            .map(|(key, value)| entry((key, value)))
            .collect(),
    });
}

/// What follows the name of the kind.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parts {
    argument: Option<String>,
    options: Vec<(String, String)>,
}

/// Splits `:ARGUMENT,option=value`, or `,option=value` without an argument.
///
/// A comma begins an option if a name and `=` follow it. In the argument, and where spaces follow the comma, the name
/// must be that of an option. In the argument, one that is nearly the name of an option is refused, because it is
/// probably a mistake.
fn split(kind: Option<&'static KindDef>, text: &str) -> Result<Parts, String> {
    let mut parts = Parts::default();
    let mut rest = text;
    if let Some(argument) = text.strip_prefix(':') {
        parts.argument = Some(String::new());
        rest = argument;
    }
    while let Some(first) = rest.chars().next() {
        if let Some((name, value)) = option_at(kind, &parts, rest)? {
            parts.options.push((name.to_owned(), String::new()));
            rest = value;
            continue;
        }
        let is_escape = rest.starts_with("\\,") || rest.starts_with("\\\\");
        let length = if is_escape { 2 } else { first.len_utf8() };
        let (piece, tail) = rest.split_at_checked(length).unwrap_or((rest, ""));
        let piece = if piece == "\\," { "," } else { piece };
        match (parts.options.last_mut(), &mut parts.argument) {
            (Some((_, value)), _) => value.push_str(piece),
            (None, Some(argument)) => argument.push_str(piece),
            (None, None) => return Err("expected option=value after the comma".to_owned()),
        }
        rest = tail;
    }
    Ok(parts)
}

/// The option that begins with a comma at the start of `rest`, and the text of its value and what follows.
fn option_at<'a>(
    kind: Option<&'static KindDef>,
    parts: &Parts,
    rest: &'a str,
) -> Result<Option<(&'a str, &'a str)>, String> {
    let Some(text) = rest.strip_prefix(',') else {
        return Ok(None);
    };
    let is_spaced = text.starts_with(' ');
    let Some((name, value)) = text.trim_start_matches(' ').split_once('=') else {
        return Ok(None);
    };
    let is_word = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let is_in_options = parts.argument.is_none() || !parts.options.is_empty();
    if !is_word {
        return Ok(None);
    }
    let all = || KINDS.iter().flat_map(|kind| kind.options).chain(GENERIC);
    if is_in_options && !is_spaced || all().any(|option| option.name == name) {
        return Ok(Some((name, value)));
    }
    match kind {
        Some(def) if !is_in_options => {
            let own = || GENERIC.iter().chain(def.options).map(|option| option.name);
            match nearest(name, own()) {
                Some(_) => Err(format!(
                    "{} (write \\, for a comma in the argument)",
                    unknown_option(def, name)
                )),
                None => Ok(None),
            }
        }
        _ => Ok(None),
    }
}

/// The values as the file would have them: an array for an option that is repeated.
fn values(options: Vec<(String, String)>) -> Vec<(String, DeValue<'static>)> {
    let mut values: Vec<(String, DeValue<'static>)> = Vec::new();
    for (name, text) in options {
        let value = DeValue::String(text.into());
        let known = values.iter_mut().find(|(known, _)| *known == name);
        match known {
            None => values.push((name, value)),
            Some((_, DeValue::Array(array))) => array.push(Spanned::new(0..0, value)),
            Some((_, first)) => {
                let mut array = DeArray::new();
                array.push(Spanned::new(0..0, std::mem::replace(first, value.clone())));
                array.push(Spanned::new(0..0, value));
                *first = DeValue::Array(array);
            }
        }
    }
    values
}
