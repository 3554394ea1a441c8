//! `tests/mutants/AREA.txt` lists the mutants that no test kills, one per line, each with a reason.
//!
//! `.ci/mutants AREA` creates the mutants and compares them with the list. This test only asserts that each
//! line is complete, and that the file and function that it names exist.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::Path;

/// A shorter reason cannot explain a mutant.
const REASON_BYTES_MIN: usize = 20;

/// The error in a line `FILE: MUTANT | REASON`, if there is one. `source` reads a file.
fn line_error(line: &str, source: impl Fn(&str) -> Option<String>) -> Option<String> {
    let Some((mutant, reason)) = line.rsplit_once(" | ") else {
        return Some("there is no ` | ` followed by a reason".into());
    };
    if reason.trim().len() < REASON_BYTES_MIN {
        return Some("there is no reason".into());
    }
    let Some((file, change)) = mutant.split_once(": ") else {
        return Some("there is no `FILE: ` before the mutant".into());
    };
    if !file.starts_with("src/") || !file.ends_with(".rs") {
        return Some(format!(
            "`{file}` is not src/...rs, without line and column"
        ));
    }
    if !change.starts_with("replace ") && !change.starts_with("delete ") {
        return Some(format!("`{change}` is not what cargo-mutants prints"));
    }
    let Some(text) = source(file) else {
        return Some(format!("there is no file {file}"));
    };
    let function = function_of(change)?;
    let is_there = ["<", "("]
        .iter()
        .any(|end| text.contains(&format!("fn {function}{end}")));
    (!is_there).then(|| format!("there is no function {function} in {file}"))
}

/// The name of the function that has the mutant, without its type. `None` if the mutant is in a constant.
fn function_of(change: &str) -> Option<&str> {
    let path = match change.rsplit_once(" in ") {
        Some((_, path)) => path,
        None => {
            let whole = change.strip_prefix("replace ")?;
            let end = whole.find(" -> ").or_else(|| whole.find(" with "))?;
            whole.get(..end)?
        }
    };
    let name = path.rsplit_once("::").map_or(path, |(_, name)| name);
    let is_name = name.starts_with(|first: char| first.is_alphabetic() || first == '_');
    is_name.then_some(name)
}

fn source(file: &str) -> Option<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).ok()
}

#[test]
fn every_listed_mutant_has_a_reason_and_is_in_existing_code() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mutants");
    let mut errors = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        assert!(
            path.extension().is_some_and(|end| end == "txt"),
            "{}",
            path.display()
        );
        for (at, line) in (1..).zip(fs::read_to_string(&path).unwrap().lines()) {
            if let Some(why) = line_error(line, source) {
                errors.push(format!("{}:{at}: {why}", path.display()));
            }
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

#[test]
fn a_malformed_line_is_rejected() {
    let source = |file: &str| (file == "src/a.rs").then(|| "fn f(\nfn g<T>(".to_owned());
    let is_right = |line: &str| line_error(line, source).is_none();
    for mutant in [
        "replace f -> bool with true",
        "replace A<'a>::f with ()",
        "replace <impl fmt::Debug for A>::f -> fmt::Result with Ok(Default::default())",
        "replace < with <= in A<'a>::g",
        "replace << with >>",
        "replace + with -",
        "delete ! in g",
        "delete match arm [b'|'] | [b' '] in A::g",
        "replace match guard a in b with true in f",
    ] {
        let line = format!("src/a.rs: {mutant}");
        assert!(
            is_right(&format!("{line} | the caller asserts the same")),
            "{line}"
        );
        assert!(!is_right(&line), "{line}");
        assert!(!is_right(&format!("{line} | ")), "{line}");
        assert!(!is_right(&format!("{line} | equal")), "{line}");
    }
    for line in [
        "",
        "# a comment",
        "src/a.rs:1:2: replace f -> bool with true | the caller asserts the same",
        "src/b.rs: replace f -> bool with true | the caller asserts the same",
        "src/a.rs: replace h -> bool with true | the caller asserts the same",
        "src/a.rs: replace < with <= in A<'a>::h | the caller asserts the same",
        "src/a.rs: f returns true | the caller asserts the same",
        "tests/a.rs: replace f -> bool with true | the caller asserts the same",
    ] {
        assert!(!is_right(line), "{line}");
    }
}
