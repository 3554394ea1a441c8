#!/usr/bin/env python3
"""Checks the manual pages with mandoc, and the completions in bash, zsh and fish.

- `mandoc -T lint` prints nothing for a page, except that pages of this repository are not installed.
- Each shell loads its file, and completes a command, an option, the value of an option and the name of a file, of
  commands with and without a name. bash and zsh do so on a terminal, after a press of the tab key.

The contents follow from the tables of options, which `cargo test --bin healthz manual` compares.

One line for each check: `ok WHAT` or `FAIL WHAT: expected .., got ..`. Exit code 1 if a check failed, 2 if
the script could not run, 3 if a program is missing and `--require` was given.
"""

import argparse
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.cases import ROOT, install_missing

PAGES = ROOT / "packaging/man"
COMPLETIONS = ROOT / "packaging/completions"
# Pages of other packages.
OTHERS = {"sd_notify.3", "sd_listen_fds.3"}
SECONDS_MAX = 30
# The typed text, and the text that the line or the list below it must have after the tab key.
TYPED = [
    ("healthz check-c", "check-config"),
    ("healthz --shutd", "--shutdown-delay"),
    ("healthz serve --shutd", "--shutdown-delay"),
    ("healthz --log-level deb", "debug"),
    ("healthz check-config --conf", "--config"),
    ("healthz check-config --config a-che", "a-check-file.toml"),
    ("healthz check-config a-che", "a-check-file.toml"),
    ("healthz help check-c", "check-config"),
]


def lint(page):
    """What mandoc prints about a page. It looks for other pages only in the system's directories."""
    result = subprocess.run(["mandoc", "-T", "lint", page], capture_output=True, text=True)
    lines = (result.stdout + result.stderr).splitlines()
    known = OTHERS | {path.name for path in PAGES.iterdir()}
    printed = [line for line in lines if not is_about_known(line, known)]
    return printed and f"no output, got {printed}"


def is_about_known(line, known):
    if "outdated mandoc.db lacks" in line:
        return True
    missing = re.search(r"STYLE: referenced manual not found: Xr (\S+) (\d)", line)
    return missing and f"{missing[1]}.{missing[2]}" in known


class Terminal:
    """A shell on a terminal."""

    def __init__(self, words, folder):
        environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(folder), "LC_ALL": "C", "PS1": "$ "}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe(words[0], words, environment)

    def type(self, text):
        os.write(self.fd, text.encode())

    def wait(self, pattern):
        """The output until `pattern` is in it, or until the time is over."""
        printed, end = "", time.monotonic() + SECONDS_MAX
        while not re.search(pattern, printed) and time.monotonic() < end:
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    printed += os.read(self.fd, 4096).decode(errors="replace")
                except OSError:
                    break
        return printed

    def close(self):
        os.close(self.fd)
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


def on_terminal(words, start, folder):
    """For each typed line, the fault of its completion, or an empty text."""
    for typed, wanted in TYPED:
        terminal = Terminal(words, folder)
        try:
            terminal.type(start + "; printf 'rea%s\\n' dy\n")
            printed = terminal.wait(r"ready\r\n")
            if "ready\r\n" not in printed:
                yield typed, f"a shell that starts, got {printed!r}"
                continue
            terminal.type(typed + "\t")
            # The terminal echoes the typed part. The shell adds the rest.
            missing = re.escape(wanted[len(typed.split(" ")[-1]):])
            printed = terminal.wait(re.escape(typed) + r".*" + missing)
            found = re.search(re.escape(typed) + r".*" + missing, printed, re.S)
            yield typed, "" if found else f"{wanted}, got {printed!r}"
        finally:
            terminal.close()


def bash(folder):
    return on_terminal(["bash", "--norc", "--noprofile"], f"source {COMPLETIONS}/healthz.bash", folder)


def zsh(folder):
    start = f"fpath=({COMPLETIONS} $fpath); autoload -Uz compinit; compinit -u -d {folder}/dump"
    return on_terminal(["zsh", "-f"], start, folder)


def fish(folder):
    """`complete --do-complete` of fish prints the completions."""
    for typed, wanted in TYPED:
        command = f"source {COMPLETIONS}/healthz.fish; complete --do-complete '{typed}'"
        environment = {**os.environ, "HOME": str(folder)}
        result = subprocess.run(
            ["fish", "--no-config", "-c", command], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=SECONDS_MAX,
        )
        offered = [line.split("\t")[0] for line in result.stdout.splitlines()]
        yield typed, "" if wanted in offered and not result.stderr else f"{wanted}, got {offered} {result.stderr}"


def checks(folder, programs):
    if programs["mandoc"]:
        for page in sorted(PAGES.iterdir()):
            yield f"mandoc {page.name}", lint(page)
    (folder / "a-check-file.toml").touch()
    for shell in (bash, zsh, fish):
        if programs[shell.__name__]:
            for typed, fault in shell(folder):
                yield f"{shell.__name__}: {typed}", fault


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--install", action="store_true", help="get what is missing with apt-get (as root)")
    parser.add_argument("--require", action="store_true", help="exit with 3 if a program is missing")
    arguments = parser.parse_args()
    names = ["mandoc", "bash", "zsh", "fish"]
    install_missing(arguments, {name: name for name in names})
    programs = {name: shutil.which(name) for name in names}
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for what, fault in checks(Path(folder), programs):
            failed += bool(fault)
            print(f"FAIL {what}: expected {fault}" if fault else f"ok {what}", flush=True)
    missing = [name for name in names if not programs[name]]
    for name in missing:
        print(f"skip: no {name}")
    if failed:
        return 1
    return 3 if missing and arguments.require else 0


if __name__ == "__main__":
    sys.exit(main())
