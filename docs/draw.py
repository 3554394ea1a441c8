#!/usr/bin/env python3
"""Runs the program in a terminal, and draws what it prints: probe.svg, status.svg and check-config.svg.

    docs/draw.py --daemon target/release/healthz [--into DIRECTORY]

The commands run in a network namespace of their own, so that the default port is free. Each gets a terminal of 80
columns, so that it prints its colours. Every line of a picture is a command line, or a line that was printed. Exit
code 1 if a command does not end as expected, 2 if the script could not run, 3 if there is no namespace.
"""

import argparse
import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from html import escape
from pathlib import Path

CANNOT_TRY = 3
IN_NAMESPACE = "HEALTHZ_DRAW_IN_NAMESPACE"
NAMESPACE = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
COLUMNS, SECONDS_MAX = 80, 20
# Of one character. Fonts have different widths, so each word has its position and width in the SVG.
WIDTH, HEIGHT, MARGIN = 8, 18, 14
BACKGROUND, TEXT, FAINT = "#1e2127", "#d5d8dd", "#7f8694"
COLOURS = {"31": "#ff7b72", "32": "#7ee787", "33": "#e3b341"}

WRONG = """\
[check.var]
disk = "/var"
mim = "10%"

[check.portal]
htp = "http://127.0.0.1:8080/ready"
"""
CHECKS = """\
[check.var]
disk = "/var"
min = "95%"

[check.portal]
http = "http://127.0.0.1:8080/ready"

[check.worker]
heartbeat = true
limit = "2s"
severity = "warning"
socket = "worker.sock"

[check.passwd]
file = "/etc/passwd"
"""


class Session:
    """Runs command lines in a directory of its own, and keeps them and what they print."""

    def __init__(self, directory, daemon):
        self.directory, self.daemon, self.lines = Path(directory), daemon, []
        self.environment = {
            "PATH": f"{Path(daemon).parent}:/usr/bin:/bin",
            "TERM": "xterm",
            "LANG": "C.UTF-8",
        }

    def write(self, name, text):
        (self.directory / name).write_text(text)

    def run(self, line, code):
        """Shows and runs `line`, which must exit with `code`."""
        self.lines.append(f"$ {line}")
        printed, came = self.quietly(line)
        self.lines += printed.replace("\r\n", "\n").splitlines()
        if came != code:
            raise ValueError(f"{line}: expected exit code {code}, came {came}: {printed}")

    def quietly(self, line):
        """What `line` prints to a terminal, and its exit code."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, COLUMNS, 0, 0))
        words = ["timeout", "--foreground", str(SECONDS_MAX), "sh", "-c", line]
        child = subprocess.Popen(words, cwd=self.directory, env=self.environment, stdout=theirs, stderr=theirs)
        os.close(theirs)
        printed = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # EIO: the last process has closed the terminal.
                break
            if not part:
                break
            printed += part
        os.close(ours)
        return printed.decode(), child.wait()

    def serve(self, *options):
        """Starts a daemon, and waits until it is ready."""
        ready, write = os.pipe()
        words = [self.daemon, "--ready-fd", str(write), *options]
        child = subprocess.Popen(
            words, cwd=self.directory, env=self.environment, stderr=subprocess.DEVNULL, pass_fds=[write]
        )
        os.close(write)
        with open(ready, "rb") as end:
            if end.read(1) != b"\n":
                raise ValueError(f"{words}: not ready, exit code {child.wait()}")
        return child


def stop(child):
    child.terminate()
    child.wait()


def probe(session):
    """The heartbeat of a check expires in the middle."""
    socket = session.directory / "jobs.sock"
    daemon = session.serve("--check", f"jobs=heartbeat,limit=2s,socket={socket}")
    try:
        session.quietly(f"healthz beat jobs --socket {socket}")
        session.run("healthz probe --count 12 --interval 200ms", 1)
    finally:
        stop(daemon)


def status(session):
    """Checks that fail, one that warns, and one that passes."""
    socket = session.directory / "worker.sock"
    session.write("checks.toml", CHECKS.replace("worker.sock", str(socket)))
    daemon = session.serve("--config", str(session.directory / "checks.toml"))
    try:
        session.quietly(f"healthz beat worker --socket {socket} --status 'row 7 of 9'")
        # Until the heartbeat has expired, and some time has passed since changes.
        time.sleep(6)
        session.run("healthz status", 1)
    finally:
        stop(daemon)


def check_config(session):
    """A file with two mistakes, and what it means without them."""
    session.write("checks.toml", WRONG)
    session.run("cat checks.toml", 0)
    session.run("healthz check-config checks.toml", 2)
    session.run("sed -i 's/mim/min/; s/htp/http/' checks.toml", 0)
    session.run("healthz check-config checks.toml", 0)


def svg(lines, title):
    """A picture of `lines`, whose colours are escape sequences."""
    width, height = COLUMNS * WIDTH + 2 * MARGIN, len(lines) * HEIGHT + 2 * MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" font-size="13">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" rx="6" fill="{BACKGROUND}"/>',
    ]
    for number, line in enumerate(lines):
        y, column, colour = MARGIN + number * HEIGHT + 13, 0, TEXT
        words = []
        for part in re.split(r"(\x1b\[\d+m)", line):
            if part.startswith("\x1b"):
                colour = COLOURS.get(part[2:-1], TEXT)
                continue
            for word in re.finditer(r"\S+(?: \S+)*", part):
                words.append(placed(word.group(), column + word.start(), FAINT if line.startswith("$ ") else colour))
            column += len(part)
        if column > COLUMNS:
            raise ValueError(f"a line of {column} columns: {line}")
        if words:
            out.append(f'<text y="{y}" fill="{TEXT}" xml:space="preserve">{"".join(words)}</text>')
    return "\n".join(out + ["</svg>", ""])


def placed(word, column, colour):
    fill = "" if colour == TEXT else f' fill="{colour}"'
    return (
        f'<tspan x="{MARGIN + column * WIDTH}" textLength="{len(word) * WIDTH}" lengthAdjust="spacingAndGlyphs"'
        f"{fill}>{escape(word)}</tspan>"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--daemon", required=True, help="the program")
    parser.add_argument("--into", default=Path(__file__).parent, type=Path, help="the directory of the pictures")
    args = parser.parse_args()
    if IN_NAMESPACE not in os.environ:
        if shutil.which("ip") is None or subprocess.run([*NAMESPACE, "true"]).returncode != 0:
            print("draw.py: no network namespace; install util-linux and iproute2, or run it as root", file=sys.stderr)
            return CANNOT_TRY
        words = [*NAMESPACE, sys.executable, *sys.argv]
        return subprocess.run(words, env={**os.environ, IN_NAMESPACE: "1"}).returncode
    daemon = shutil.which(args.daemon)
    if daemon is None:
        print(f"draw.py: no program {args.daemon}; build it with cargo build --release", file=sys.stderr)
        return 2
    for name, draw in [("probe", probe), ("status", status), ("check-config", check_config)]:
        with tempfile.TemporaryDirectory() as directory:
            session = Session(directory, str(Path(daemon).resolve()))
            try:
                draw(session)
                title = "; ".join(line[2:] for line in session.lines if line.startswith("$ "))
                (args.into / f"{name}.svg").write_text(svg(session.lines, title))
            except ValueError as error:
                print(f"draw.py: {error}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
