//! Generates the C header: `header SOURCE HEADER` writes the functions of the Rust file SOURCE to HEADER.
//!
//! The header must compile as C89 and as C++98, so this program also removes what cbindgen prints in
//! C99 style only. `make -C capi header` runs it.

use std::process::ExitCode;

use cbindgen::{Bindings, Builder, Config, DocumentationStyle, Language, Style};

/// What stands at the top of the header.
const INTRODUCTION: &str = "\
// healthz: answers /healthz, /livez and /readyz from your own event loop.
//
// Generated from src/capi/mod.rs by `make -C capi header`; edit that file, not this one.
//
// Order of calls: healthz_create(), healthz_add_...(), healthz_listen(), healthz_start(). After that, call
// healthz_poll_once() each time that healthz_fd() is readable or healthz_timeout() has passed, and
// healthz_destroy() at the end. capi/README.md has the shortest program, capi/example.c a longer one.
//
// Threads: only one thread at a time may call functions that take a server. Functions that take a
// check may be called from any thread and from signal handlers, until the server is destroyed.
//
// Your process: the library starts no thread, raises no SIGPIPE, and opens descriptors close-on-exec.
// It prints nothing, except the panic message of a bug. It keeps no pointer of yours, except the memory
// given to healthz_create_in().
//
// Needs a C89 or C++98 compiler with <stdint.h>.";

/// Names in Rust and in C.
const NAMES: [(&str, &str); 5] = [
    ("Healthz", "healthz"),
    ("HealthzCheck", "healthz_check"),
    ("HealthzOptions", "healthz_options"),
    ("HealthzCounters", "healthz_counters"),
    ("HealthzResult", "healthz_result"),
];

fn main() -> ExitCode {
    let [source, header] = match std::env::args().skip(1).collect::<Vec<_>>().try_into() {
        Ok(arguments) => arguments,
        Err(_) => {
            eprintln!(
                "usage: header SOURCE HEADER (the Rust source to read, the C header to write)"
            );
            return ExitCode::from(2);
        }
    };
    let bindings = Builder::new()
        .with_config(config())
        .with_src(&source)
        .generate();
    let written = match bindings {
        Ok(bindings) => std::fs::write(&header, c89(&bindings)),
        Err(error) => {
            eprintln!("header: cannot read {source}: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = written {
        eprintln!("header: cannot write {header}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn config() -> Config {
    let mut config = Config {
        language: Language::C,
        style: Style::Tag,
        cpp_compat: true,
        documentation_style: DocumentationStyle::C99,
        include_guard: Some("HEALTHZ_H".into()),
        line_length: 100,
        usize_is_size_t: true,
        no_includes: true,
        sys_includes: vec!["stddef.h".into(), "stdint.h".into()],
        header: Some(INTRODUCTION.into()),
        ..Config::default()
    };
    config.export.rename = NAMES.map(|(rust, c)| (rust.into(), c.into())).into();
    config
}

/// The header as C89: block comments instead of `//`, and no comma after the last enumerator.
fn c89(bindings: &Bindings) -> String {
    let mut bytes = Vec::new();
    bindings.write(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<String> = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for line in text.lines() {
        if let Some(words) = line.trim_start().strip_prefix("//") {
            comment.push(words.trim());
            continue;
        }
        let indent = " ".repeat(line.len() - line.trim_start().len());
        lines.extend(block_comment(&indent, &comment));
        comment.clear();
        if let Some(last) = lines
            .last_mut()
            .filter(|last| line == "};" && last.ends_with(','))
        {
            last.pop();
        }
        lines.push(match line.split_once("//") {
            Some((code, words)) => format!("{} /* {} */", code.trim_end(), words.trim()),
            None => line.to_owned(),
        });
    }
    lines.join("\n") + "\n"
}

fn block_comment(indent: &str, comment: &[&str]) -> Vec<String> {
    match comment {
        [] => Vec::new(),
        [line] => vec![format!("{indent}/* {line} */")],
        [first, rest @ ..] => {
            let rest = rest.iter().map(|line| format!("{indent} * {line}"));
            let rest = rest.map(|line| line.trim_end().to_owned());
            let mut lines = vec![format!("{indent}/* {first}")];
            lines.extend(rest);
            lines.push(format!("{indent} */"));
            lines
        }
    }
}
