//! Checks `tests/mutants/AREA.txt`, the lists of mutants that no test kills. Each line is one mutant and the
//! reason why it survives.
//!
//! `.ci/mutants AREA` makes the mutants and compares them with the list. These tests only check that each
//! line is complete and that its file and function still exist.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::Path;

/// The fewest bytes of a reason.
const REASON_BYTES_MIN: usize = 20;

/// The fault of a line `FILE: MUTANT | REASON`, or `None` if it has none. `source` reads a file.
fn fault(line: &str, source: impl Fn(&str) -> Option<String>) -> Option<String> {
    let Some((mutant, reason)) = line.rsplit_once(" | ") else {
        return Some("there is no ` | ` followed by a reason".into());
    };
    if reason.trim().len() < REASON_BYTES_MIN {
        return Some("the reason is missing or too short".into());
    }
    let Some((file, change)) = mutant.split_once(": ") else {
        return Some("there is no `FILE: ` before the mutant".into());
    };
    if !file.starts_with("src/") || !file.ends_with(".rs") {
        return Some(format!(
            "`{file}` is not src/...rs; leave out line and column"
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

/// The function that a mutant is in, without its type; `None` if it is in a constant.
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
fn every_surviving_mutant_has_a_reason_and_is_in_a_function_that_exists() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mutants");
    let mut faults = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        assert!(
            path.extension().is_some_and(|end| end == "txt"),
            "{}",
            path.display()
        );
        for (at, line) in (1..).zip(fs::read_to_string(&path).unwrap().lines()) {
            if let Some(why) = fault(line, source) {
                faults.push(format!("{}:{at}: {why}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_line_without_a_reason_or_with_an_unknown_function_is_refused() {
    let source = |file: &str| (file == "src/a.rs").then(|| "fn f(\nfn g<T>(".to_owned());
    let is_right = |line: &str| fault(line, source).is_none();
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
