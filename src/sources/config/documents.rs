//! The documents: every `--check` and every check file in them is valid, and docs/checks.md has the whole option
//! table.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::table::{GENERIC, KINDS, OptionDef};
use super::value::Syntax;
use super::*;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn checks_document() -> String {
    fs::read_to_string(root().join("docs/checks.md")).unwrap()
}

/// The documents of the repository, and their texts.
fn documents() -> Vec<(PathBuf, String)> {
    let directories = [root().to_owned(), root().join("docs")];
    let entries = directories
        .iter()
        .flat_map(|directory| fs::read_dir(directory).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    let documents = paths.filter(|path| path.extension().is_some_and(|end| end == "md"));
    documents
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect()
}

/// The values of `--check` in a text, without the quotes of the shell.
fn arguments(text: &str) -> Vec<OsString> {
    let after = text.split("--check ").skip(1);
    let values = after.map(|rest| match rest.strip_prefix('\'') {
        Some(quoted) => quoted.split('\'').next().unwrap(),
        None => rest.split([' ', '`', '\n', '"']).next().unwrap(),
    });
    // The form, and a message that begins with `--check NAME:`.
    let values = values.filter(|value| value.contains('=') && !value.starts_with("NAME="));
    values.map(OsString::from).collect()
}

/// The TOML blocks with checks.
fn files(text: &str) -> Vec<&str> {
    let blocks = text.split("\n```toml\n").skip(1);
    let blocks = blocks.map(|rest| rest.split("\n```").next().unwrap());
    blocks.filter(|block| block.contains("[check.")).collect()
}

fn parsed_file(text: &str) -> Vec<Spec> {
    parse(&[], Some((Path::new("example"), text.as_bytes())))
        .unwrap_or_else(|mistakes| panic!("{text}\n{mistakes:#?}"))
}

#[test]
fn every_example_is_valid() {
    let mut count = 0;
    for (path, text) in documents() {
        for argument in arguments(&text) {
            // One that shows a mistake.
            if argument.to_str().unwrap().contains("mim=") {
                continue;
            }
            let parsed = parse(std::slice::from_ref(&argument), None);
            assert!(parsed.is_ok(), "{}: {parsed:?}", path.display());
            count += 1;
        }
        for file in files(&text) {
            count += parsed_file(file).len();
        }
    }
    assert!(count > 40, "only {count} examples");
}

#[test]
fn the_table_and_the_file_of_all_kinds_are_the_same_checks() {
    let text = checks_document();
    let rows: String = text.lines().filter(|line| line.starts_with("| ")).collect();
    let from_table = parse(&arguments(&rows), None).unwrap();
    let from_file = parsed_file(files(&text)[0]);
    assert_eq!(from_table, from_file);
    let kinds: BTreeSet<&str> = from_file
        .iter()
        .map(|spec| build::parts(&spec.kind).kind)
        .collect();
    assert_eq!(kinds.len(), KINDS.len());
}

#[test]
fn the_option_tables_are_those_of_the_parser() {
    let code = |text: &str| match text {
        "" => "none".to_owned(),
        text => format!("`{text}`"),
    };
    let row = |kind: &str, default: &str, option: &OptionDef| {
        format!("|{kind} `{}` | {default} | {} |", option.name, option.help)
    };
    let mut want = String::new();
    for option in GENERIC {
        let mut default = code(option.default);
        for kind in KINDS {
            let own = kind.default_of(option);
            if own != option.default {
                default += &format!("; {} `{own}`", kind.name);
            }
        }
        want += &(row("", &default, option) + "\n");
    }
    want.push('\n');
    for kind in KINDS {
        for option in kind.options {
            let default = code(option.default);
            want += &(row(&format!(" {} |", kind.name), &default, option) + "\n");
        }
    }
    let text = checks_document();
    for line in want.lines() {
        assert!(
            text.contains(line),
            "docs/checks.md has not: {line}\nin:\n{want}"
        );
    }
}

/// Regression: the values of `unsupported` and `until-ready` were in no help text. One had three words that were not the
/// values.
#[test]
fn the_help_of_an_option_names_the_values_that_it_can_have() {
    for option in GENERIC
        .iter()
        .chain(KINDS.iter().flat_map(|kind| kind.options))
    {
        let Syntax::Choice(choices) = option.syntax else {
            continue;
        };
        let is_named = |choice: &str| {
            let mut words = option.help.split(|c: char| !c.is_alphanumeric());
            choice == option.default || words.any(|word| word == choice)
        };
        for choice in choices {
            assert!(is_named(choice), "{}: {choice}", option.name);
        }
    }
}

/// The example of the Debian package is the file of docs/checks.md with all kinds.
#[test]
fn the_packaged_example_has_every_kind() {
    let example = fs::read_to_string(root().join("packaging/debian/example.toml")).unwrap();
    let text = checks_document();
    assert_eq!(parsed_file(&example), parsed_file(files(&text)[0]));
    let inactive = fs::read_to_string(root().join("packaging/debian/healthz.toml")).unwrap();
    assert_eq!(parsed_file(&inactive), []);
    // Without the signs of a comment, its examples are valid.
    let active: Vec<&str> = inactive.lines().filter_map(example_line).collect();
    assert_eq!(parsed_file(&active.join("\n")).len(), 3);
}

/// A line of an example in a comment: a table, or a key with its value.
fn example_line(line: &str) -> Option<&str> {
    let line = line.strip_prefix("# ")?;
    (line.starts_with('[') || line.contains(" = ")).then_some(line)
}

/// The table of kinds in docs/checks.md has each kind.
#[test]
fn every_kind_has_a_row() {
    let text = checks_document();
    for kind in KINDS {
        assert!(
            text.contains(&format!("\n| {} | `--check ", kind.name)),
            "{}",
            kind.name
        );
    }
}
