#!/usr/bin/env python3
"""Checks the documents: runs their sessions, and looks for their programs and commands in the repository.

- A `console` block is a session. A shell runs the lines that begin with `$ `, and their output must be
  the lines below. `...` stands for any lines. `<!-- run: PROGRAM ARGUMENTS -->` above a block starts a
  program for it: `healthz`, or an example. Sessions run in a network namespace of their own, so that the
  default port is free.
- A `rust` block must be a whole file of examples/ that has a main function.
- A `c` block may be only in capi/README.md, where capi/check compiles and runs it.
- A `toml` block must parse, and may name only features that exist. `healthz check-config` accepts one with checks.
- A command in a code span, or on a line of an indented or fenced block (`cargo`, `make`, fuzz/run, capi/check, a script
  of .ci or tests), must exist. A step of .ci/run must run each script, and capi/check runs `make`.
- docs/draw.py, which draws the pictures, must not fail with the exit code that .ci/run takes as skipped.

One line for each check: `ok WHERE`, `FAIL WHERE: expected .., got ..`; at the end
`N passed, N failed`. Exit code 1 if a check failed, 2 if the script could not run, 3 if it could not try the
sessions.
"""

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from support.cases import ROOT, Wrong, install_missing

PORT = 10248
SECONDS_MAX = 20
CANNOT_TRY = 3
IN_NAMESPACE = "HEALTHZ_DOCUMENTS_IN_NAMESPACE"
# Code spans that begin like this are commands, and are checked. Other code spans are not.
COMMAND = re.compile(
    r"^(?:[A-Z_]+=(?:\"[^\"]*\"|\S+) )*(cargo|make|\.ci/\w+|tests/\w+\.py|fuzz/run|capi/check) ?(.*)$"
)
MANIFEST = tomllib.loads((ROOT / "Cargo.toml").read_text())
CI = (ROOT / ".ci/run").read_text()


def documents():
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split()]


def blocks(text):
    """Each fenced block: its line, language, body, and the directive above it."""
    directive = None
    lines = iter(enumerate(text.split("\n"), 1))
    for number, line in lines:
        run = re.fullmatch(r"<!-- run: (.+) -->", line)
        fence = re.fullmatch(r"```(\w*)", line)
        if run:
            directive = run[1]
        elif fence:
            body = []
            for _, inner in lines:
                if inner == "```":
                    break
                body.append(inner)
            yield number, fence[1], body, directive
            directive = None
        elif line:
            directive = None


def commands(text):
    """Each command in a code span, or on a line of an indented or fenced block, with the number of its line."""
    is_fenced = False
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("```"):
            is_fenced = not is_fenced
        found = [line] if is_fenced else re.findall(r"`([^`]+)`", line)
        if not is_fenced and line.startswith("    "):
            found = [line.strip()]
        for command in found:
            if COMMAND.match(command.strip()):
                yield number, re.split(r" +#", command.strip())[0]


def check_command(command):
    """The command exists, and CI runs it if it is a script."""
    program, rest = COMMAND.match(command).groups()
    words = [word for word in rest.split() if not word.startswith("+")]
    if program != "cargo":
        path = "capi" if program == "make" else program
        if not (ROOT / path).exists():
            raise Wrong(f"no {path} in the repository")
        if program not in CI and program not in (".ci/run", "make"):
            raise Wrong(f"no step of .ci/run runs {program}")
        if program == "make" and "make -C capi" not in (ROOT / "capi/check").read_text():
            raise Wrong("capi/check does not run make -C capi")
        return
    for option, kind in (("--test", "test"), ("--bench", "bench"), ("--example", "example")):
        if option in words[:-1]:
            name = words[words.index(option) + 1]
            folder = {"test": "tests", "bench": "benches", "example": "examples"}[kind]
            paths = [ROOT / folder / f"{name}.rs", ROOT / folder / name / "main.rs"]
            if not any(path.exists() for path in paths):
                raise Wrong(f"no {kind} {name}")
    alias = (ROOT / ".cargo/config.toml").read_text()
    known = {"build", "run", "test", "bench", "doc", "install", "fuzz", "update", "add", "package", "publish", "semver-checks"}
    if words and words[0] not in known and not re.search(rf"^{re.escape(words[0])} = ", alias, re.M):
        raise Wrong(f"no command cargo {words[0]}")


def check_toml(body, environment, can_run):
    text = "\n".join(body)
    table = tomllib.loads(text)
    if "check" in table:
        if can_run:
            check_file(text, environment)
        return
    dependencies = table.get("dependencies") or table
    for feature in dependencies["healthz"].get("features", []):
        if feature not in MANIFEST["features"]:
            raise Wrong(f"no feature {feature}")


def check_file(text, environment):
    """`healthz check-config` accepts the check file, and the file that it prints for it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checks.toml"
        for _ in range(2):
            path.write_text(text)
            command = ["healthz", "check-config", path]
            result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX)
            if result.returncode:
                raise Wrong(f"a valid check file; {result.stderr}")
            text = result.stdout


def check_rust(body):
    text = "\n".join(body) + "\n"
    if "fn main" not in text:
        raise Wrong("a program with a main function, so that it can be run")
    programs = ROOT.glob("examples/*.rs")
    if not any(program.read_text() == text for program in programs):
        raise Wrong("a program that is, to the byte, a file of examples/")


def await_port(process):
    end = time.monotonic() + SECONDS_MAX
    while time.monotonic() < end:
        if process.poll() is not None:
            raise Wrong(f"a program that serves; it ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", PORT), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise Wrong(f"a program that listens on port {PORT}")


def matches(expected, printed):
    if not expected:
        return not printed
    if expected[0] == "...":
        return any(matches(expected[1:], printed[skip:]) for skip in range(len(printed) + 1))
    return bool(printed) and printed[0] == expected[0] and matches(expected[1:], printed[1:])


def run_session(body, directive, environment):
    """Runs a console block, while the program of `directive` runs."""
    process = None
    with tempfile.TemporaryDirectory() as folder:
        try:
            if directive:
                process = subprocess.Popen(
                    directive.split(), cwd=folder, env=environment, stderr=subprocess.DEVNULL
                )
                await_port(process)
            session = "\n".join(body)
            for part in re.split(r"^\$ ", session, flags=re.M)[1:]:
                command, _, expected = part.partition("\n")
                result = subprocess.run(
                    ["bash", "-c", command],
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=SECONDS_MAX,
                )
                printed = result.stdout.rstrip("\n")
                if not matches(expected.rstrip("\n").split("\n"), printed.split("\n")):
                    raise Wrong(f"`{command}` to print {expected!r}, and it printed {printed!r}")
        finally:
            if process:
                process.terminate()
                process.wait(SECONDS_MAX)


def enter_namespace(arguments):
    """Runs this script again in a network namespace whose loopback interface is up."""
    up = 'ip link set lo up && exec "$0" "$@"'
    command = ["unshare", "--map-root-user", "--net", "sh", "-c", up, sys.executable, __file__, *arguments]
    return subprocess.run(command, env={**os.environ, IN_NAMESPACE: "1"}).returncode


def checks(environment, can_run):
    for path in documents():
        text = path.read_text()
        name = path.relative_to(ROOT)
        for number, language, body, directive in blocks(text):
            where = f"{name}:{number}"
            if language == "console" and can_run:
                yield where, lambda body=body, directive=directive: run_session(body, directive, environment)
            elif language == "rust":
                yield where, lambda body=body: check_rust(body)
            elif language == "toml":
                yield where, lambda body=body: check_toml(body, environment, can_run)
            elif language == "c" and str(name) != "capi/README.md":
                yield where, lambda: (_ for _ in ()).throw(Wrong("C only where capi/check compiles it"))
        for number, command in commands(text):
            yield f"{name}:{number}: {command}", lambda command=command: check_command(command)
    if can_run:
        yield "docs/draw.py: exit codes", check_codes_of_pictures


def check_codes_of_pictures():
    """Regression: without the program it exited with the code for no namespace, and CI skipped it."""
    skipped = int(re.search(r"allow_skip (\d+) .*\\\n.* docs/draw\.py ", CI)[1])
    for arguments in (["--daemon", "/nonexistent"], []):
        command = [sys.executable, ROOT / "docs/draw.py", *arguments]
        code = subprocess.run(command, capture_output=True, timeout=SECONDS_MAX, check=False).returncode
        if code in (0, skipped):
            raise Wrong(f"an exit code of a failure for {arguments}, got {code}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--daemon", default=ROOT / "target/release/healthz", help="the program to run")
    parser.add_argument("--examples", default=ROOT / "target/debug/examples", help="folder of built examples")
    parser.add_argument("--install", action="store_true", help="install what is missing with apt-get")
    args = parser.parse_args()
    if not Path(args.daemon).exists():
        parser.error(f"--daemon {args.daemon}: no such file; cargo build --release makes it")
    needs = {"unshare": "util-linux", "ip": "iproute2", "curl": "curl"}
    install_missing(args, needs)
    can_run = all(map(shutil.which, needs))
    if can_run and IN_NAMESPACE not in os.environ:
        probe = subprocess.run(["unshare", "--map-root-user", "--net", "ip", "link", "set", "lo", "up"])
        if probe.returncode == 0:
            return enter_namespace(sys.argv[1:])
        can_run = False
    path = [str(Path(args.daemon).resolve().parent), str(Path(args.examples).resolve()), os.environ["PATH"]]
    environment = {**os.environ, "PATH": ":".join(path)}
    passed = failed = 0
    for where, run in checks(environment, can_run):
        try:
            run()
            passed += 1
            print(f"ok {where}")
        except (Wrong, OSError, subprocess.TimeoutExpired, tomllib.TOMLDecodeError) as error:
            failed += 1
            print(f"FAIL {where}: expected {error}")
    print(f"{passed} passed, {failed} failed")
    if failed:
        return 1
    return 0 if can_run else CANNOT_TRY


if __name__ == "__main__":
    sys.exit(main())
