//! Prints specs as a check file, with all defaults filled in. Parsed again, it gives the same specs.
//!
//! Called by `healthz check-config`.

use super::super::spec::Spec;
use super::build::{self, Parts};
use super::value::quote;

/// The text of a check file for `specs`.
pub fn print(specs: &[Spec]) -> String {
    let mut text = String::new();
    for spec in specs {
        let Parts {
            kind,
            argument,
            options,
        } = build::parts(&spec.kind);
        let argument = argument.map_or_else(|| "true".to_owned(), |value| value.toml());
        let separator = if text.is_empty() { "" } else { "\n" };
        text += &format!(
            "{separator}[check.{}]\n{kind} = {argument}\n",
            key(&spec.name)
        );
        for (name, value) in options.iter().chain(&build::generic_parts(spec)) {
            if let Some(value) = value {
                text += &format!("{name} = {}\n", value.toml());
            }
        }
    }
    text
}

/// A TOML key: a name with dots or slashes needs quotes.
fn key(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    match name.bytes().all(is_bare) {
        true => name.to_owned(),
        false => quote(name),
    }
}
