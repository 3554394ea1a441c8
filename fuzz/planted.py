#!/usr/bin/env python3
"""Plants bugs in a copy of the source, one at a time; the inputs in fuzz/corpus must detect each.

fuzz/planted.py [WORD...]    with words: only the bugs whose target or description contains one of them

A bug is a piece of source text and its wrong replacement. After a change of that source, adapt the bug: the
script says which text it no longer finds. The builds stay in fuzz/target/planted.

Exit code: 0 all detected, 1 a bug was not detected or could not be tried, 2 the source text of a bug was not
found, or the tests fail without a bug.
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
# A build and a run take seconds. A longer run is an endless loop, which counts as detected.
SECONDS_MAX = 180

# The test that runs the corpus of each target: its package, cargo options and name.
TESTS = {
    "request": [".", "--lib", "corpus_of_heads_has_no_finding"],
    "connection": [".", "--lib", "corpus_of_connections_has_no_finding"],
    "target": [".", "--lib", "corpus_of_targets_has_no_finding"],
    "checks": [".", "--lib", "corpus_of_checks_has_no_finding"],
    "options": [".", "--bin=healthz", "corpus_of_options_has_no_finding"],
    "checkfile": [".", "--bin=healthz", "corpus_of_checkfile_has_no_finding"],
    "response": [".", "--bin=healthz", "corpus_of_response_has_no_finding"],
    "notify": [".", "--bin=healthz", "corpus_of_notify_has_no_finding"],
    "differential": ["fuzz", "--lib", "corpus_of_streams_has_no_finding"],
}


@dataclasses.dataclass
class Bug:
    # The fuzz target whose corpus must detect it.
    target: str
    # What the code does wrong with the bug.
    what: str
    file: str
    # The source text, which occurs once in the file, and its replacement.
    right: str
    wrong: str


BUGS = [
    # Request heads.
    Bug("request", "accepts a head with both LF and CRLF", "src/http/request.rs",
        "if !line_ends_agree(head, fields) {", "if head.is_empty() {"),
    Bug("request", "refuses a malformed line before its end arrived", "src/http/request.rs",
        "Err(_) if !rx.contains(&b'\\n') =>", "Err(_) if rx.len() < 9 =>"),
    Bug("request", "accepts HTTP/1.1 without Host", "src/http/request.rs",
        "None if !line.is_http10 => return", "None if line.is_http10 && line.method.is_empty() => return"),
    Bug("request", "the cache compares only the length and first byte", "src/http/cache.rs",
        "if entry.head.get(..entry.length)? != rx {", "if entry.length != rx.len() || entry.head[0] != rx[0] {"),
    # Connections.
    Bug("connection", "every byte extends the deadline of a head", "src/http/connection.rs",
        "        if self.phase != phase {\n", "        if self.phase != phase || phase == Phase::Head {\n"),
    Bug("connection", "reads one byte of a body too few", "src/http/connection.rs",
        "BodyLength::Known(left) => State::Length { left },", "BodyLength::Known(left) => State::Length { left: left - 1 },"),
    Bug("connection", "reads one byte of a body too many", "src/http/connection.rs",
        "BodyLength::Known(left) => State::Length { left },", "BodyLength::Known(left) => State::Length { left: left + 1 },"),
    Bug("connection", "reads a body longer than the limit", "src/http/connection.rs",
        "BodyLength::Known(left) if left > budget =>", "BodyLength::Known(left) if left > budget && budget == 0 =>"),
    Bug("connection", "accepts a request after Expect: 100-continue", "src/http/connection.rs",
        "_ if !stays || request.expects_continue =>", "_ if !stays =>"),
    Bug("connection", "accepts a request after Connection: close", "src/http/connection.rs",
        "_ if !stays || request.expects_continue =>", "_ if request.expects_continue =>"),
    Bug("connection", "accepts a head one byte over the limit", "src/http/connection.rs",
        "Ok(Parsed::Incomplete) if rx.len() < context.limits", "Ok(Parsed::Incomplete) if rx.len() <= context.limits"),
    Bug("connection", "accepts one empty line too many before a request", "src/http/connection.rs",
        "[b'\\r', b'\\n', ..] | [b'\\n', ..] if empty_lines < LEADING_EMPTY_LINES_MAX =>",
        "[b'\\r', b'\\n', ..] | [b'\\n', ..] if empty_lines < LEADING_EMPTY_LINES_MAX + 1 =>"),
    Bug("connection", "sends a body in a response to HEAD", "src/http/connection.rs",
        "let has_body = request.method != request::Method::Head;", "let has_body = true;"),
    Bug("connection", "caches a head that was read with more bytes", "src/http/connection.rs",
        "cache.filter(|_| used == rx.len())", "cache.filter(|_| used <= rx.len())"),
    Bug("connection", "accepts any byte instead of CR after a chunk", "src/http/body.rs",
        "(Chunk::DataCr, b'\\r') => Chunk::DataLf,", "(Chunk::DataCr, _) => Chunk::DataLf,"),
    Bug("connection", "continues after a chunk of size 0", "src/http/body.rs",
        "(Chunk::SizeLf { size: 0 }, b'\\n') => Chunk::TrailerStart,",
        "(Chunk::SizeLf { size: 0 }, b'\\n') => Chunk::start(),"),
    Bug("connection", "accepts a size line that ends in an open quoted string", "src/http/body.rs",
        "Extension::Name | Extension::Token | Extension::QuotedEnd\n        )",
        "Extension::Name | Extension::Token | Extension::QuotedEnd | Extension::Quoted\n        )"),
    # Request targets.
    Bug("target", "accepts a port that overflows", "src/http/target.rs",
        "port.checked_mul(10)?.checked_add", "port.wrapping_mul(10).checked_add"),
    Bug("target", "treats a percent-encoded slash as a separator", "src/http/target.rs",
        "if byte != want || byte == b'/' {", "if byte != want {"),
    Bug("target", "accepts a query pair with a semicolon", "src/http/target.rs",
        "pair.contains(&b';') ||", ""),
    Bug("target", "redirects a path with a slash at the end", "src/http/target.rs", 'b"" => !last,', 'b"" => true,'),
    Bug("target", "treats two dots as one in a path", "src/http/target.rs", 'b"" | b"." => {}', 'b"" | b"." | b".." if false => {}\n                b"." => {}'),
    # Checks and responses.
    Bug("checks", "a heartbeat passes a millisecond too long", "src/check/mod.rs",
        "now.as_millis().saturating_add(self.limit)", "now.as_millis().saturating_add(self.limit + 1)"),
    Bug("checks", "a formatted reason continues after text that did not fit", "src/check/reason.rs",
        "        if fitting.len() < text.len() {\n            return Err(fmt::Error);",
        "        if fitting.len() < text.len() {\n            return Ok(());"),
    Bug("checks", "an excluded check makes its endpoint fail", "src/answer/healthz.rs",
        "None if !check.passes(now) => Some(check.severity()),", "_ if !check.passes(now) => Some(check.severity()),"),
    Bug("checks", "a failing endpoint returns 200", "src/answer/healthz.rs",
        "            StatusCode::INTERNAL_SERVER_ERROR\n        } else {", "            StatusCode::OK\n        } else {"),
    Bug("checks", "ignores the last check", "src/check/endpoint.rs",
        "let all_pass = counted == self.checks().len();", "let all_pass = counted + 1 >= self.checks().len();"),
    Bug("checks", "excludes a check only by its group, not by its name", "src/answer/excludes.rs",
        "            return Some(None);\n        }\n        let group", "            return None;\n        }\n        let group"),
    Bug("checks", "does not quote an excluded name that matches no check", "src/answer/excludes.rs",
        "quote(exclude.value(self.query).bytes(), body);", "body.push(exclude.value(self.query).raw());"),
    Bug("checks", "lists an exclude twice that was given twice", "src/answer/excludes.rs",
        "let Err(at) = self.search_by(value.bytes()) else {\n            return Ok(());\n        };",
        "let (Ok(at) | Err(at)) = self.search_by(value.bytes());"),
    Bug("checks", "answers OPTIONS / without regard to draining", "src/answer/mod.rs",
        "match draining.or_else(|| self.endpoints().next()) {", "match draining.and(None).or_else(|| self.endpoints().next()) {"),
    Bug("checks", "ignores when serving began", "src/check/mod.rs",
        "if self.limits_first_beat && self.limit != NO_LIMIT {", "if self.limits_first_beat && self.limit == NO_LIMIT {"),
    Bug("checks", "an excluded check makes its endpoint fail in JSON", "src/answer/health_json.rs",
        "        true => Status::Pass,\n        false => status,", "        true | false => status,"),
    Bug("checks", "JSON has a backslash that is not escaped", "src/answer/health_json.rs",
        "b'\\\\' => body.push(b\"\\\\\\\\\"),", "b'\\\\' => body.push(b\"\\\\\"),"),
    Bug("checks", "JSON has the digits of a control character in the wrong order", "src/answer/health_json.rs",
        "for digit in [byte >> 4, byte & 0xf] {", "for digit in [byte & 0xf, byte >> 4] {"),
    Bug("checks", "JSON lists a check that is not listed while it passes", "src/answer/health_json.rs",
        "let checks = endpoint.checks().filter(|check| check.is_listed(now));", "let checks = endpoint.checks();"),
    # Command lines.
    Bug("options", "a duration overflows", "src/units.rs",
        "parse::<u64>().ok()?.checked_mul(*unit)?", "parse::<u64>().ok()?.wrapping_mul(*unit)"),
    Bug("options", "prints a control character unescaped", "src/usage.rs",
        'let option = shown(OsStr::new(&format!("-{letter}")));', 'let option = format!("-{letter}");'),
    Bug("options", "refuses the limit that follows from the largest period", "src/daemon/options.rs",
        "DURATION_MIN..=SYNC_LIMIT_MAX", "DURATION_MIN..=DURATION_MAX"),
    # Configuration of checks.
    Bug("checkfile", "prints a control character of a value unescaped", "src/sources/config/value.rs",
        "_ if character.escape_debug().len() == 1 =>", "_ if character != '\\0' =>"),
    Bug("checkfile", "a message has a control character", "src/sources/config/mod.rs",
        'None => format!("{text:?}"),', "None => text.to_owned(),"),
    Bug("checkfile", "the default timeout is longer than the period", "src/sources/config/mod.rs",
        "*timeout = period.min(*timeout);", "*timeout = period.max(*timeout);"),
    Bug("checkfile", "prints a degree for a tenth of it", "src/sources/config/value.rs",
        "ShownTenths(*number / 100)", "ShownTenths(*number / 1000)"),
    # Responses of checked services.
    Bug("response", "does not find a text across two pieces", "src/sources/kinds/text.rs",
        "let start = (received.len() + 1).saturating_sub(wanted.len());", "let start = received.len();"),
    Bug("response", "takes the first piece of a body for all of it", "src/response.rs",
        "Framing::Length(..) if left == 0 =>", "Framing::Length(..) if true =>"),
    Bug("response", "skips 101 as other interim responses", "src/response.rs",
        "matches!(status, 100 | 102..=199)", "matches!(status, 100..=199)"),
    # Messages of checked programs.
    Bug("notify", "the first phase counts", "src/sources/kinds/heartbeat/message.rs",
        "=> self.phase = Some(Phase::Stopping),", "=> keep_first(&mut self.phase, Some(Phase::Stopping)),"),
    Bug("notify", "handles a barrier that is not alone", "src/sources/kinds/heartbeat/message.rs",
        "(!message.is_barrier || count == 1)", "(message.is_barrier || count > 0)"),
    Bug("notify", "fails 1 ms after the deadline", "src/sources/kinds/heartbeat/state.rs",
        "if now < due =>", "if now <= due =>"),
    Bug("notify", "a step of the clock puts a beat before the start", "src/sources/kinds/heartbeat/state.rs",
        "at.max(drained).min(now)", "at.min(now)"),
    # Differences between HTTP parsers.
    Bug("differential", "accepts chunked after another transfer coding", "src/http/request.rs",
        'if found.is_chunked || !field.value.eq_ignore_ascii_case(b"chunked") {',
        'if !field.value.to_ascii_lowercase().ends_with(b"chunked") {'),
    Bug("differential", "accepts a request with two body lengths", "src/http/request.rs",
        "is_framing_ambiguous: found.is_chunked\n            && (found.content_length.is_some() || line.is_http10),",
        "is_framing_ambiguous: false,"),
    Bug("differential", "refuses a Host of more than 7 bytes", "src/http/request.rs",
        "Some(host) if !is_host(host, Zone::Raw) =>", "Some(host) if host.len() > 7 || !is_host(host, Zone::Raw) =>"),
    Bug("differential", "compares `close` case-sensitively", "src/http/request.rs",
        'found.says_close |= option.eq_ignore_ascii_case(b"close");', 'found.says_close |= option == b"close";'),
    Bug("differential", "accepts a space after the size of a chunk", "src/http/body.rs",
        "Extension::Name | Extension::Token | Extension::QuotedEnd\n        )",
        "Extension::Name | Extension::Token | Extension::QuotedEnd | Extension::Gap\n        )"),
    Bug("differential", "accepts two Content-Length fields and uses the first", "src/http/request.rs",
        "if found.content_length.replace(length).is_some() {",
        "if found.content_length.is_some() {\n                return Ok(());\n            } else if found.content_length.replace(length).is_some() {"),
]


def copy_checkout(to):
    """Copies the working tree, uncommitted changes included, without build directories."""

    def is_skipped(directory, name):
        return name == ".git" or name == "target" and (pathlib.Path(directory) / "Cargo.toml").exists()

    # Without file times: otherwise cargo could take the build of an earlier copy for up to date.
    shutil.copytree(ROOT, to, copy_function=shutil.copy,
                    ignore=lambda directory, names: [name for name in names if is_skipped(directory, name)])


def run(copy, target):
    """Runs the corpus of a target: `passes`, `fails` or, if the test did not run, the last lines of output."""
    place, *test = TESTS[target]
    command = ["cargo", "test", "--quiet", "--target-dir", str(ROOT / "fuzz/target/planted" / place), *test]
    with subprocess.Popen(command, cwd=copy / place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          start_new_session=True) as cargo:
        try:
            output, _ = cargo.communicate(timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired:
            # The process group, because the test is a child of cargo.
            os.killpg(cargo.pid, signal.SIGKILL)
            return "fails"
    if "test result: ok. 1 passed" in output:
        return "passes"
    if "test result: FAILED. 0 passed; 1 failed" in output:
        return "fails"
    if "test result: ok. 0 passed" in output:
        return f"there is no test {test[-1]}; adapt TESTS"
    return "\n".join(output.splitlines()[-20:])


def plant(copy, bug):
    """Runs the corpus with the bug. Returns `detected`, `NOT DETECTED` or why it could not be tried."""
    path = copy / bug.file
    source = path.read_text()
    path.write_text(source.replace(bug.right, bug.wrong))
    try:
        return {"fails": "detected", "passes": "NOT DETECTED"}.get(verdict := run(copy, bug.target), verdict)
    finally:
        path.write_text(source)


def missing(bugs):
    """A line for each bug whose source text does not occur exactly once."""
    for bug in bugs:
        path = ROOT / bug.file
        count = path.read_text().count(bug.right) if path.exists() else 0
        if count != 1:
            yield f"{bug.file} contains this text {count} times, not once, for the bug {bug.what!r}: {bug.right!r}"


def main():
    words = sys.argv[1:]
    chosen = [bug for bug in BUGS if not words or any(word in f"{bug.target} {bug.what}" for word in words)]
    if not chosen:
        fail([f"no bug contains {' or '.join(words)}"])
    fail(list(missing(chosen)))
    undetected = 0
    with tempfile.TemporaryDirectory() as directory:
        copy = pathlib.Path(directory) / "healthz"
        copy_checkout(copy)
        for target in dict.fromkeys(bug.target for bug in chosen):
            verdict = run(copy, target)
            if verdict != "passes":
                fail([f"{target}: the test must pass without a bug, but: {verdict}"])
        for bug in chosen:
            verdict = plant(copy, bug)
            undetected += verdict != "detected"
            print(f"{bug.target:<12}  {bug.what}: {verdict}", flush=True)
    print(f"{len(chosen) - undetected} of {len(chosen)} planted bugs were detected by the corpus")
    sys.exit(undetected > 0)


def fail(lines):
    """Ends the script if there is a line to print."""
    for line in lines:
        print(f"fuzz/planted.py: {line}", file=sys.stderr)
    if lines:
        sys.exit(2)


main()
