#!/usr/bin/env python3
"""Plants one bug after the other and looks whether the kept inputs see it: fuzz/planted.py [WORD...]

With words, only the bugs whose target or description has one of them. A copy of the checkout is
what is changed; its build stays in fuzz/target/planted. Fails if a bug goes unseen, if the text that
it changes is not there once, or if the code as it is fails.
"""
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A build and a run take seconds; what takes longer goes round in circles, and a fuzzer sees that too.
SECONDS_MAX = 180

# The test of each target's kept inputs: where it is, and its name.
TESTS = {
    "request": [".", "--lib", "corpus_of_heads_has_no_finding"],
    "connection": [".", "--lib", "corpus_of_connections_has_no_finding"],
    "target": [".", "--lib", "corpus_of_targets_has_no_finding"],
    "checks": [".", "--lib", "corpus_of_checks_has_no_finding"],
    "options": [".", "--bin=healthz", "corpus_of_options_has_no_finding"],
    "differential": ["fuzz", "--lib", "kept_streams_are_read_alike"],
}


@dataclasses.dataclass
class Bug:
    target: str
    what: str
    file: str
    right: str
    wrong: str


BUGS = [
    # Heads.
    Bug("request", "lines may end both ways", "src/http/request.rs",
        "if !line_ends_agree(head, fields) {", "if head.is_empty() {"),
    Bug("request", "what begins wrongly is refused before its line has ended", "src/http/request.rs",
        "Err(_) if !rx.contains(&b'\\n') =>", "Err(_) if rx.len() < 9 =>"),
    Bug("request", "a missing Host is no matter", "src/http/request.rs",
        "None if !line.is_http10 => return", "None if line.is_http10 && line.method.is_empty() => return"),
    Bug("request", "the cache compares the length only", "src/http/cache.rs",
        "if entry.head.get(..entry.length)? != rx {", "if entry.length != rx.len() || entry.head[0] != rx[0] {"),
    # Connections.
    Bug("connection", "every byte moves the deadline", "src/http/connection.rs",
        "        if self.phase != phase {\n", "        if self.phase != phase || phase == Phase::Head {\n"),
    Bug("connection", "a body one byte too short", "src/http/connection.rs",
        "BodyLength::Known(left) => State::Length { left },", "BodyLength::Known(left) => State::Length { left: left - 1 },"),
    Bug("connection", "a body one byte too long", "src/http/connection.rs",
        "BodyLength::Known(left) => State::Length { left },", "BodyLength::Known(left) => State::Length { left: left + 1 },"),
    Bug("connection", "a body of any length is read out", "src/http/connection.rs",
        "BodyLength::Known(left) if left > budget =>", "BodyLength::Known(left) if left > budget && budget == 0 =>"),
    Bug("connection", "a request behind an expectation", "src/http/connection.rs",
        "_ if !stays || request.expects_continue =>", "_ if !stays =>"),
    Bug("connection", "a request behind the last one", "src/http/connection.rs",
        "_ if !stays || request.expects_continue =>", "_ if request.expects_continue =>"),
    Bug("connection", "a head one byte over the limit", "src/http/connection.rs",
        "Ok(Parsed::Incomplete) if rx.len() < context.limits", "Ok(Parsed::Incomplete) if rx.len() <= context.limits"),
    Bug("connection", "an empty line too many", "src/http/connection.rs",
        "[b'\\r', b'\\n', ..] | [b'\\n', ..] if empty_lines < LEADING_EMPTY_LINES_MAX =>",
        "[b'\\r', b'\\n', ..] | [b'\\n', ..] if empty_lines < LEADING_EMPTY_LINES_MAX + 1 =>"),
    Bug("connection", "an answer to HEAD has a body", "src/http/connection.rs",
        "let has_body = request.method != request::Method::Head;", "let has_body = true;"),
    Bug("connection", "the head of what was read with others is remembered", "src/http/connection.rs",
        "cache.filter(|_| used == rx.len())", "cache.filter(|_| used <= rx.len())"),
    Bug("connection", "a chunk ends in any byte", "src/http/body.rs",
        "(Chunk::DataCr, b'\\r') => Chunk::DataLf,", "(Chunk::DataCr, _) => Chunk::DataLf,"),
    Bug("connection", "a chunk of nothing is like any other", "src/http/body.rs",
        "(Chunk::SizeLf { size: 0 }, b'\\n') => Chunk::TrailerStart,",
        "(Chunk::SizeLf { size: 0 }, b'\\n') => Chunk::start(),"),
    Bug("connection", "a size line ends in an open quoted string", "src/http/body.rs",
        "Extension::Name | Extension::Token | Extension::QuotedEnd\n        )",
        "Extension::Name | Extension::Token | Extension::QuotedEnd | Extension::Quoted\n        )"),
    Bug("target", "a port may wrap around", "src/http/target.rs",
        "port.checked_mul(10)?.checked_add", "port.wrapping_mul(10).checked_add"),
    # Targets.
    Bug("target", "an encoded slash separates", "src/http/target.rs",
        "if byte != want || byte == b'/' {", "if byte != want {"),
    Bug("target", "a pair with a semicolon counts", "src/http/target.rs",
        "pair.contains(&b';') ||", ""),
    Bug("target", "a slash at the end is unclean", "src/http/target.rs", 'b"" => !last,', 'b"" => true,'),
    Bug("target", "two dots are one", "src/http/target.rs", 'b"" | b"." => {}', 'b"" | b"." | b".." if false => {}\n                b"." => {}'),
    # Checks and their answers.
    Bug("checks", "a heartbeat lasts a millisecond longer", "src/check/mod.rs",
        "now.as_millis().saturating_add(self.limit)", "now.as_millis().saturating_add(self.limit + 1)"),
    Bug("checks", "a formatted reason goes on behind what did not fit", "src/check/reason.rs",
        "        if fitting.len() < text.len() {\n            return Err(fmt::Error);",
        "        if fitting.len() < text.len() {\n            return Ok(());"),
    Bug("checks", "an excluded check fails its endpoint", "src/answer/healthz.rs",
        "let has_failed = exclusion.is_none() && !check.passes(now);", "let has_failed = !check.passes(now);"),
    Bug("checks", "a failing endpoint answers 200", "src/answer/healthz.rs",
        "            StatusCode::INTERNAL_SERVER_ERROR\n        } else {", "            StatusCode::OK\n        } else {"),
    Bug("checks", "the last check does not count", "src/answer/healthz.rs",
        "endpoint.checks().iter().all(|check| passes(check))",
        "endpoint.checks().iter().rev().skip(1).all(|check| passes(check))"),
    Bug("checks", "a check is excluded by its group only", "src/answer/excludes.rs",
        "            return Some(None);\n        }\n        let group", "            return None;\n        }\n        let group"),
    Bug("checks", "a name that matches nothing is not quoted", "src/answer/excludes.rs",
        "quote(exclude.value(self.query).bytes(), body);", "body.push(exclude.value(self.query).raw());"),
    Bug("checks", "a name that is excluded twice is in the set twice", "src/answer/excludes.rs",
        "let Err(at) = self.search(value.bytes()) else {\n            return Ok(());\n        };",
        "let (Ok(at) | Err(at)) = self.search(value.bytes());"),
    Bug("checks", "OPTIONS of the root does not drain", "src/answer/mod.rs",
        "match draining.or(self.endpoints.first()) {", "match draining.and(None).or(self.endpoints.first()) {"),
    Bug("checks", "the beginning changes nothing", "src/check/mod.rs",
        "if self.limits_first_beat && self.limit != NO_LIMIT {", "if self.limits_first_beat && self.limit == NO_LIMIT {"),
    # Command lines.
    Bug("options", "a duration wraps", "src/daemon/duration.rs", ".checked_mul(*unit)?", ".wrapping_mul(*unit)"),
    Bug("options", "a control character is shown as it is", "src/daemon/options.rs",
        'let option = shown(OsStr::new(&format!("-{letter}")));', 'let option = format!("-{letter}");'),
    Bug("options", "a limit that follows its period cannot be said", "src/daemon/options.rs",
        "DURATION_MIN..=SYNC_LIMIT_MAX", "DURATION_MIN..=DURATION_MAX"),
    # What another parser sees.
    Bug("differential", "chunked may stand behind another coding", "src/http/request.rs",
        'if found.is_chunked || !field.value.eq_ignore_ascii_case(b"chunked") {',
        'if !field.value.to_ascii_lowercase().ends_with(b"chunked") {'),
    Bug("differential", "two framings are no doubt", "src/http/request.rs",
        "is_framing_ambiguous: found.is_chunked\n            && (found.content_length.is_some() || line.is_http10),",
        "is_framing_ambiguous: false,"),
    Bug("differential", "a longer Host is refused", "src/http/request.rs",
        "Some(host) if !is_host(host, Zone::Raw) =>", "Some(host) if host.len() > 7 || !is_host(host, Zone::Raw) =>"),
    Bug("differential", "CLOSE is not close", "src/http/request.rs",
        'found.says_close |= option.eq_ignore_ascii_case(b"close");', 'found.says_close |= option == b"close";'),
    Bug("differential", "a space behind a chunk's size", "src/http/body.rs",
        "Extension::Name | Extension::Token | Extension::QuotedEnd\n        )",
        "Extension::Name | Extension::Token | Extension::QuotedEnd | Extension::Gap\n        )"),
    Bug("differential", "the first of two lengths counts", "src/http/request.rs",
        "if found.content_length.replace(length).is_some() {",
        "if found.content_length.is_some() {\n                return Ok(());\n            } else if found.content_length.replace(length).is_some() {"),
]


def copy_checkout(to):
    """With what is not committed, and without what is built, which cargo puts beside its Cargo.toml."""

    def is_left(directory, name):
        return name == ".git" or name == "target" and (pathlib.Path(directory) / "Cargo.toml").exists()

    # Not with its times: cargo would take what it built from an earlier copy for what is here.
    shutil.copytree(ROOT, to, copy_function=shutil.copy,
                    ignore=lambda directory, names: [name for name in names if is_left(directory, name)])


def run(copy, target):
    """What the test of a target's kept inputs says: `passes`, `fails` or, if it was not run, its last lines."""
    place, *test = TESTS[target]
    command = ["cargo", "test", "--quiet", "--target-dir", str(ROOT / "fuzz/target/planted" / place), *test]
    with subprocess.Popen(command, cwd=copy / place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          start_new_session=True) as cargo:
        try:
            said, _ = cargo.communicate(timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired:
            # The test itself is a child of cargo's.
            os.killpg(cargo.pid, signal.SIGKILL)
            return "fails"
    if "test result: ok. 1 passed" in said:
        return "passes"
    if "test result: FAILED. 0 passed; 1 failed" in said:
        return "fails"
    return "\n".join(said.splitlines()[-20:])


def plant(copy, bug):
    """Whether the kept inputs see the bug, in a word; `seen` is the good one."""
    path = copy / bug.file
    right = path.read_text()
    if right.count(bug.right) != 1:
        return f"{bug.file} has {right.count(bug.right)} times: {bug.right}"
    path.write_text(right.replace(bug.right, bug.wrong))
    try:
        return {"fails": "seen", "passes": "UNSEEN"}.get(verdict := run(copy, bug.target), verdict)
    finally:
        path.write_text(right)


def main():
    words = sys.argv[1:]
    chosen = [bug for bug in BUGS if not words or any(word in f"{bug.target} {bug.what}" for word in words)]
    if not chosen:
        sys.exit(f"no bug is called that: {words}")
    unseen = 0
    with tempfile.TemporaryDirectory() as directory:
        copy = pathlib.Path(directory) / "healthz"
        copy_checkout(copy)
        for target in dict.fromkeys(bug.target for bug in chosen):
            verdict = run(copy, target)
            if verdict != "passes":
                sys.exit(f"{target}: the code as it is: {verdict}")
        for bug in chosen:
            verdict = plant(copy, bug)
            unseen += verdict != "seen"
            print(f"{bug.target:<12}  {bug.what}: {verdict}", flush=True)
    print(f"{len(chosen) - unseen} of {len(chosen)} planted bugs are seen by the kept inputs")
    sys.exit(unseen > 0)


main()
