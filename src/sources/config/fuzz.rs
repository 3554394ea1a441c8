//! The fuzz target `checkfile`: the whole parser of the configuration of checks.
//!
//! Called by `fuzz/` with random bytes, and by `cargo test` with the corpus. The fuzz target compiles this
//! module into itself, because a crate cannot depend on a program.
#![allow(clippy::panic, reason = "a fuzz target fails by panicking")]

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use healthz::Check;

use super::super::spec::{SPECS_MAX, Spec};

/// Asserts, for `--check` arguments that end with NUL, followed by a check file:
/// - Specs that are accepted are equal after `check-config` printed them and the output was parsed. They have
///   valid names, each once, and values within their bounds.
/// - Every mistake is one line without control characters, and names its argument or the file.
/// - Arguments or a file that are refused alone are also refused together.
pub fn checkfile(data: &[u8]) {
    let mut pieces: Vec<&[u8]> = data.split(|byte| *byte == 0).collect();
    let file = pieces.pop().unwrap_or_default();
    let checks: Vec<OsString> = pieces
        .into_iter()
        .map(|piece| OsStr::from_bytes(piece).to_owned())
        .collect();
    let path = Path::new("f");
    let whole = super::parse(&checks, Some((path, file)));
    match &whole {
        Ok(specs) => {
            assert!(specs.len() >= checks.len(), "a check is lost");
            accepted(specs);
        }
        Err(mistakes) => {
            assert!(!mistakes.is_empty());
            for mistake in mistakes {
                let text = mistake.to_string();
                assert!(!text.contains(char::is_control), "{text:?}");
                let is_placed = text.starts_with("f:") || text.starts_with("--check ");
                assert!(is_placed || text.ends_with(" more mistakes"), "{text:?}");
            }
        }
    }
    let alone = [
        super::parse(&checks, None),
        super::parse(&[], Some((path, file))),
    ];
    match (whole, alone) {
        (Ok(whole), [Ok(first), Ok(second)]) => assert_eq!(whole, [first, second].concat()),
        (Ok(_), alone) => panic!("only together: {alone:?}"),
        (Err(_), _) => {}
    }
}

fn accepted(specs: &[Spec]) {
    let names: BTreeSet<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    assert_eq!(names.len(), specs.len());
    assert!(specs.len() <= SPECS_MAX);
    for spec in specs {
        assert!(Check::is_name(&spec.name) && spec.group.as_deref().is_none_or(Check::is_name));
        assert!(spec.timing.timeout <= spec.timing.period, "{spec:?}");
        let threshold = &spec.threshold;
        assert!((1..=32).contains(&threshold.failures) && threshold.success >= 1);
        assert!(
            (threshold.failures..=32).contains(&threshold.of_last),
            "{spec:?}"
        );
        assert_eq!(spec.never_fails(), None);
    }
    let printed = super::print(specs);
    assert!(
        !printed.contains(|c: char| c.is_control() && c != '\n'),
        "{printed:?}"
    );
    match super::parse(&[], Some((Path::new("printed"), printed.as_bytes()))) {
        Ok(again) => assert_eq!(again, specs, "{printed}"),
        // Names and values that are longer when they are quoted.
        Err(_) if printed.len() > super::FILE_BYTES_MAX => {}
        Err(mistakes) => panic!("{mistakes:?}\n{printed}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpus_of_checkfile_has_no_finding() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        // Cargo adds this file to a published crate, which has no corpus.
        if root.join("Cargo.toml.orig").exists() {
            println!("no corpus in a published crate");
            return;
        }
        let directory = &root.join("fuzz/corpus/checkfile");
        let mut count = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            // The test prints it if it fails.
            println!("{}", path.display());
            super::checkfile(&std::fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 50, "only {count} inputs in {directory:?}");
    }
}
