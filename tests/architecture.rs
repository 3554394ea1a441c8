//! Imports between modules go one way, every source file is part of the crate, and only listed files have
//! `unsafe`.
//!
//! Reads the sources as text, with comments and literals removed. That is enough for code that rustfmt has
//! formatted, and needs no parser.
#![cfg(test)]
#![allow(clippy::string_slice, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each top-level module, and the modules that it may import:
/// `time, limits <- check, http <- answer <- server`, and in the
/// program `units, unneeded, nearest, response <- usage, url <- sources, client <- daemon <- main`.
const MODULES: [(&str, &[&str]); 19] = [
    ("time", &[]),
    ("limits", &[]),
    ("check", &["time", "limits"]),
    ("http", &["time", "limits"]),
    ("answer", &["time", "limits", "check", "http"]),
    ("server", &["time", "limits", "check", "http", "answer"]),
    (
        "capi",
        &["time", "limits", "check", "http", "answer", "server"],
    ),
    // The root of the crate: re-exports.
    (
        "lib",
        &["time", "limits", "check", "http", "answer", "server"],
    ),
    // The program is a separate crate and uses only the public API of the library.
    ("units", &[]),
    ("unneeded", &[]),
    ("nearest", &[]),
    ("usage", &["nearest", "units"]),
    ("response", &[]),
    ("url", &["units"]),
    (
        "sources",
        &["units", "unneeded", "nearest", "response", "url"],
    ),
    ("client", &["units", "usage", "response", "url"]),
    ("daemon", &["units", "unneeded", "usage", "sources"]),
    // Only for tests.
    ("manual", &["usage", "sources"]),
    ("main", &["units", "usage", "sources", "client", "daemon"]),
];

/// Files that may have `unsafe`: system calls that no crate wraps, and the C API.
const UNSAFE_FILES: [&str; 7] = [
    "src/server/sys.rs",
    "src/daemon/sys.rs",
    "src/sources/sys.rs",
    "src/unneeded.rs",
    "src/capi/mod.rs",
    "src/capi/block.rs",
    "src/capi/guard.rs",
];

#[test]
fn modules_import_only_the_modules_below_them() {
    let names = reexported_names();
    let modules: BTreeMap<_, _> = MODULES.into_iter().collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in files() {
        let module = module_of(&file);
        let Some(allowed) = modules.get(module.as_str()) else {
            wrong.push(format!(
                "{}: no module {module} in the list",
                file.display()
            ));
            continue;
        };
        for name in imported_by(&read(&file), depth_of(&file)) {
            let other = names.get(&name).unwrap_or(&name);
            seen += 1;
            if *other != module && !allowed.contains(&other.as_str()) {
                wrong.push(format!("{}: {module} imports {other}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 20, "only {seen} names were seen");
}

/// Otherwise the core would not compile where `core` has no such integer, or loom would not see an access.
#[test]
fn only_one_file_of_the_core_selects_the_atomics() {
    let mut selecting = Vec::new();
    for file in files() {
        let is_core = ["time", "limits", "check", "http", "answer"].contains(&&*module_of(&file));
        let names_atomics = tokens(&read(&file))
            .windows(3)
            .any(|tokens| matches!(tokens, ["sync", "::", "atomic"] | ["portable_atomic", ..]));
        if is_core && names_atomics {
            selecting.push(file);
        }
    }
    assert_eq!(selecting, [PathBuf::from("src/check/atomic.rs")]);
}

#[test]
fn every_source_file_is_declared_by_a_mod() {
    let named: BTreeSet<PathBuf> = files().iter().flat_map(|file| named_by(file)).collect();
    let roots = [PathBuf::from("src/lib.rs"), PathBuf::from("src/main.rs")];
    let stray: Vec<_> = files()
        .into_iter()
        .filter(|file| !named.contains(file) && !roots.contains(file))
        .collect();
    assert!(stray.is_empty(), "no mod declares {stray:?}");
}

#[test]
fn unsafe_is_only_in_listed_files_and_has_a_safety_comment() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in files() {
        let text = fs::read_to_string(root().join(&file)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let is_allowed = UNSAFE_FILES
            .iter()
            .any(|allowed| file == Path::new(allowed));
        for (at, line) in code(&text).lines().enumerate() {
            if !words(line).contains(&"unsafe") {
                continue;
            }
            // The contract of a C function is in the documentation for C.
            if line.contains("unsafe(no_mangle)") || line.contains("pub unsafe extern") {
                continue;
            }
            seen += 1;
            let place = format!("{}:{}", file.display(), at + 1);
            let comment = lines[..at]
                .iter()
                .rev()
                .take_while(|line| line.trim_start().starts_with("//"));
            // A declaration states its contract, and a use states why the contract holds.
            let note = match line.contains("unsafe fn") {
                true => "/// # Safety",
                false => "// SAFETY:",
            };
            if !is_allowed {
                wrong.push(format!("{place}: unsafe is not allowed in this file"));
            } else if !comment.into_iter().any(|line| line.contains(note)) {
                wrong.push(format!("{place}: no {note} above"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 0, "no unsafe was found at all");
}

#[test]
fn imports_and_unsafe_are_found_in_code_and_not_in_comments_or_literals() {
    let text = r###"
        //! crate::comment
        use crate::one::{A, B}; /* crate::block */
        pub(crate) use crate::{two, three::C, four::{D, E}};
        const TEXT: &str = "crate::string \" crate::escaped";
        const RAW: &str = r#"crate::raw " crate::raw2"#;
        fn f<'a>(x: &'a str) -> char { crate::five::g(x); '"' }
        mod tests {
            use super::*;
            use super::super::six::F;
            use super::super::seven as eight;
        }
        macro_rules! m { () => { $crate::nine::h() } }
        unsafe_code; r#unsafe;
    "###;
    let names: Vec<String> = imported_by(&code(text), 1).into_iter().collect();
    // In a nested module of a file at depth 1, `super::super` is the crate root.
    let expected = [
        "five", "four", "nine", "one", "seven", "six", "three", "two",
    ];
    assert_eq!(names, expected);
    assert!(!words(&code("// unsafe\n\"unsafe\" unsafe_code")).contains(&"unsafe"));
    assert!(words(&code("let x = unsafe { 'a' };")).contains(&"unsafe"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All source files, relative to the root.
fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(root().join(&directory)).unwrap() {
            let path = directory.join(entry.unwrap().file_name());
            if root().join(&path).is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The code of a file, without comments and literals.
fn read(file: &Path) -> String {
    code(&fs::read_to_string(root().join(file)).unwrap())
}

/// `http` of `src/http/target.rs`.
fn module_of(file: &Path) -> String {
    let mut parts = file.iter().skip(1);
    let part = Path::new(parts.next().unwrap());
    part.file_stem().unwrap().to_str().unwrap().into()
}

/// How many modules deep a file is: 0 for `lib.rs`, 1 for `http/mod.rs`, 2 for `http/target.rs`.
fn depth_of(file: &Path) -> usize {
    let name = file.file_stem().unwrap();
    let directories = file.iter().count() - 2;
    let is_directory = name == "mod" || name == "lib" || name == "main";
    directories + usize::from(!is_directory)
}

/// The files that the `mod` lines of `file` declare.
fn named_by(file: &Path) -> Vec<PathBuf> {
    let text = read(file);
    assert!(
        !text.contains("#[path"),
        "{}: a file under another name than its mod's",
        file.display()
    );
    let stem = file.file_stem().unwrap();
    let directory = match depth_of(file) {
        _ if stem == "mod" || stem == "lib" || stem == "main" => file.parent().unwrap().into(),
        _ => file.with_extension(""),
    };
    let modules = text.lines().filter_map(|line| {
        let words = words(line);
        let at = words.iter().position(|word| *word == "mod")?;
        let name = line
            .trim_end()
            .ends_with(';')
            .then(|| words.get(at + 1))??;
        Some(String::from(*name))
    });
    modules
        .map(|name| {
            let flat = directory.join(&name).with_extension("rs");
            if root().join(&flat).exists() {
                flat
            } else {
                directory.join(&name).join("mod.rs")
            }
        })
        .collect()
}

/// The names that `lib.rs` re-exports, and the module of each.
fn reexported_names() -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for line in read(Path::new("src/lib.rs")).lines() {
        let words = words(line);
        if let ["pub", "use", module, exported @ ..] = words.as_slice() {
            for name in exported {
                names.insert(String::from(*name), String::from(*module));
            }
        }
    }
    assert!(!names.is_empty(), "lib.rs re-exports nothing");
    names
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn words(line: &str) -> Vec<&str> {
    let words = line.split(|character| !is_word(character));
    words.filter(|word| !word.is_empty()).collect()
}

/// The first name after every `crate::`, and after every `super::` that leads to the crate root.
/// `depth` is that of the file.
fn imported_by(code: &str, depth: usize) -> BTreeSet<String> {
    let tokens = tokens(code);
    let mut names = BTreeSet::new();
    // The open braces: true for each brace of a `mod`.
    let mut braces = Vec::new();
    let mut supers = 0;
    for (at, token) in tokens.iter().enumerate() {
        let before = |back: usize| at.checked_sub(back).map_or("", |at| tokens[at]);
        match *token {
            "{" => braces.push(before(2) == "mod"),
            "}" => drop(braces.pop()),
            "super" => supers = if before(1) == "::" { supers + 1 } else { 1 },
            _ => {}
        }
        let nested = braces.iter().filter(|is_module| **is_module).count();
        let is_root = match *token {
            "crate" => true,
            "super" => supers == depth + nested,
            _ => false,
        };
        if is_root && tokens.get(at + 1) == Some(&"::") {
            names.extend(first_names(&tokens[at + 2..]));
        }
    }
    names.remove("super");
    names
}

/// The names at the start of a path, or of each path of a group.
fn first_names(tokens: &[&str]) -> Vec<String> {
    if tokens.first() != Some(&"{") {
        return tokens
            .first()
            .map(|name| (*name).into())
            .into_iter()
            .collect();
    }
    let mut names = Vec::new();
    let mut depth = 0;
    let mut is_first = false;
    for token in tokens {
        match *token {
            "{" => {
                depth += 1;
                is_first = depth == 1;
            }
            "}" if depth == 1 => break,
            "}" => depth -= 1,
            "," => is_first = depth == 1,
            name if is_first => {
                names.push(name.into());
                is_first = false;
            }
            _ => {}
        }
    }
    names
}

/// Words, `::`, and every other character by itself.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        let (token, behind) = rest.split_at(length);
        tokens.push(token);
        rest = behind.trim_start();
    }
    tokens
}

/// `text` without comments and without the contents of literals. Line numbers stay the same.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => string_length(rest),
            'r' | 'b' if !code.ends_with(is_word) => raw_string_length(rest),
            '\'' => character_length(rest),
            _ => 0,
        };
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            let (skipped, behind) = rest.split_at(length);
            code.extend(skipped.chars().filter(|character| *character == '\n'));
            code.push(' ');
            rest = behind;
        }
    }
    code
}

fn string_length(text: &str) -> usize {
    let mut is_escaped = false;
    let end = text.char_indices().skip(1).find(|(_, character)| {
        let is_end = *character == '"' && !is_escaped;
        is_escaped = *character == '\\' && !is_escaped;
        is_end
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

/// The length of a raw string such as `r"..."` or `br#"..."#`; 0 if `text` does not start with one.
fn raw_string_length(text: &str) -> usize {
    let body = text.strip_prefix('b').unwrap_or(text);
    let Some(body) = body.strip_prefix('r') else {
        return 0;
    };
    let hashes = body.len() - body.trim_start_matches('#').len();
    if !body[hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - body.len() + hashes + 1;
    text[start..]
        .find(&end)
        .map_or(text.len(), |at| start + at + end.len())
}

/// The length of a character literal; 0 for a lifetime.
fn character_length(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => {
            // The escaped character may be a quote.
            characters.next();
            let end = characters.find(|(_, character)| *character == '\'');
            end.map_or(text.len(), |(at, _)| at + 1)
        }
        Some(_) => match characters.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}
