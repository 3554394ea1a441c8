#!/usr/bin/env python3
"""Runs healthz under real service managers, with the files of examples/managers.

s6 and runit supervise it, without being PID 1: they start it, wait until it is ready, start it again after it was
killed, and stop it with SIGTERM. systemd is not booted. Its tools pass sockets (systemd-socket-activate), send to the
same socket as healthz (systemd-notify) and check the units (systemd-analyze). For the other cases this script acts as
the manager: it receives the messages that healthz sends to NOTIFY_SOCKET.

One line for each case: `ok NAME`, `FAIL NAME: what was expected, what came`, `skip NAME: why`; at the end
`N passed, N failed, N skipped`. Exit code 1 when a case failed, 2 when the script could not run.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from clients import House, Wrong, await_listener, free_port, said, wait_for, want, want_match

ROOT = Path(__file__).resolve().parent.parent
FILES = ROOT / "examples/managers"
INSTALL_SECONDS_MAX = 600
# Seconds. On an idle machine each of these waits takes less than one.
PATIENCE = 20
# systemd-analyze's own scale, from 0 (safe) to 100 (exposed).
EXPOSURE_MAX = 20

PACKAGES = {
    "s6-setuidgid": "s6",
    "s6-supervise": "s6",
    "s6-notifyoncheck": "s6",
    "s6-svc": "s6",
    "s6-svwait": "s6",
    "chpst": "runit",
    "runsv": "runit",
    "sv": "runit",
    "systemd-socket-activate": "systemd",
    "systemd-notify": "systemd",
    "systemd-analyze": "systemd",
}

CASES = []


def case(name, *needs):
    def add(run):
        CASES.append((name, needs, run))
        return run

    return add


def ask(port, path="/healthz"):
    """Status and text, or None without an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return None


def service(house, kind, port):
    """A service directory from the examples, for this program and port.

    As root it runs as the user nobody, because the user healthz may not exist; else as the user of this test."""
    place = house.dir / kind
    shutil.copytree(FILES / kind, place)
    # A copy that the user nobody can execute: the build may be in a directory that only root can enter.
    house.dir.chmod(0o711)
    program = shutil.copy(house.args.daemon, house.dir / "healthz")
    drop_root = r"\1nobody " if os.geteuid() == 0 else ""
    run, count = re.subn(
        r"^exec (nice -n -10 s6-setuidgid |nice -n -10 chpst -u )healthz healthz",
        f"exec {drop_root}{program} --listen 127.0.0.1:{port}",
        (place / "run").read_text(),
        flags=re.M,
    )
    want(f"{kind}/run starts healthz without root", count, 1)
    (place / "run").write_text(run)
    if (place / "check").exists():
        check = (place / "check").read_text()
        want(f"{kind}/check runs healthz probe", "\nexec healthz probe " in check, True)
        check = check.replace("exec healthz ", f"exec {program} ")
        (place / "check").write_text(check.replace("localhost:10248", f"127.0.0.1:{port}"))
    return place


def run_ok(house, what, *command):
    result = house.run([str(word) for word in command], seconds=PATIENCE)
    if result.code != 0:
        raise Wrong(f"{what}: exit code {result.code}: {result.out.strip()} {result.err.strip()}")
    return result.out


def pid_of(house, port):
    """The process that listens there, by its place in /proc."""
    for process in filter(str.isdecimal, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        except OSError:
            # It has ended meanwhile.
            continue
        if words[0].endswith(b"healthz") and f"127.0.0.1:{port}".encode() in words:
            return int(process)
    return None


def killed_and_started_again(house, port, is_ready):
    want("an answer", ask(port), (200, "ok"))
    first = wait_for("its process", PATIENCE, lambda: pid_of(house, port))
    users = re.search(r"^Uid:(.*)$", Path(f"/proc/{first}/status").read_text(), re.M).group(1).split()
    want("root is among its users", "0" in users, False)
    os.kill(first, signal.SIGKILL)
    wait_for("another process", PATIENCE, lambda: pid_of(house, port) not in (None, first))
    is_ready()
    want("an answer after the restart", ask(port), (200, "ok"))


@case("s6 starts it, waits until it is ready, starts it again and stops it", "s6-supervise", "s6-setuidgid", "s6-svc", "s6-svwait")
def _(house):
    port = free_port()
    place = service(house, "s6", port)
    house.start("s6-supervise", ["s6-supervise", str(place)])
    # "ready", which s6 sets after the newline on descriptor 3, and not "up".
    ready = lambda: run_ok(house, "s6-svwait -U", "s6-svwait", "-U", "-t", PATIENCE * 1000, place)  # noqa: E731
    wait_for("s6-supervise", PATIENCE, lambda: (place / "supervise/control").exists())
    ready()
    want("an answer as soon as it is ready", ask(port, "/readyz"), (200, "ok"))
    killed_and_started_again(house, port, ready)
    run_ok(house, "s6-svc -d", "s6-svc", "-d", "-wD", "-T", PATIENCE * 1000, place)
    want_match("s6-svstat", run_ok(house, "s6-svstat", "s6-svstat", place), r"^down \(exitcode 0\)")
    want("an answer when it is down", ask(port), None)
    run_ok(house, "s6-svc -x", "s6-svc", "-x", place)


@case("s6 considers a service ready when healthz probe in ./data/check exits with 0", "s6-supervise", "s6-notifyoncheck", "s6-svwait")
def _(house):
    port = free_port()
    place = house.dir / "s6-check"
    (place / "data").mkdir(parents=True)
    gate = house.dir / "gate"
    url = f"http://127.0.0.1:{port}/healthz"
    # The service is a healthz, which fails until the file is there.
    serve = f"{house.args.daemon} --listen 127.0.0.1:{port} --check gate=file:{gate},period=100ms"
    for name, text in (
        ("run", f"exec s6-notifyoncheck -s 0 -w 50 -n 0 -T 0 {serve}"),
        ("data/check", f"exec {house.args.daemon} probe {url}"),
    ):
        (place / name).write_text(f"#!/bin/sh\n{text}\n")
        (place / name).chmod(0o755)
    (place / "notification-fd").write_text("3\n")
    house.start("s6-supervise-check", ["s6-supervise", str(place)])
    wait_for("its first answer", PATIENCE, lambda: ask(port))
    want("the answer", ask(port)[0], 500)
    soon = ["s6-svwait", "-U", "-t", "500", str(place)]
    want("ready although it fails", house.run(soon, seconds=PATIENCE).code == 0, False)
    gate.touch()
    run_ok(house, "s6-svwait -U", "s6-svwait", "-U", "-t", PATIENCE * 1000, place)
    want("the answer", ask(port), (200, "ok"))
    run_ok(house, "s6-svc", "s6-svc", "-d", "-x", place)


@case("runit starts it, checks it, starts it again and stops it", "runsv", "chpst", "sv")
def _(house):
    port = free_port()
    place = service(house, "runit", port)
    house.start("runsv", ["runsv", str(place)])
    wait_for("runsv", PATIENCE, lambda: (place / "supervise/ok").exists())
    # `check` runs ./check until it ends with 0.
    check = lambda: run_ok(house, "sv check", "sv", "-w", PATIENCE, "check", place)  # noqa: E731
    check()
    killed_and_started_again(house, port, check)
    # This sends SIGTERM. Only `force-stop` would kill the daemon after the timeout.
    want_match("sv stop", run_ok(house, "sv stop", "sv", "-w", PATIENCE, "stop", place), r"^ok: down")
    want("an answer when it is down", ask(port), None)
    want_match("its log", said(house.running[-1], 3000), r"stopped: \d+ requests answered")
    run_ok(house, "sv exit", "sv", "exit", place)


@case("systemd-socket-activate hands over its sockets", "systemd-socket-activate")
def _(house):
    ports = [free_port(), free_port()]
    path = house.dir / "activated.sock"
    listen = [f"--listen=127.0.0.1:{port}" for port in ports] + [f"--listen={path}"]
    # The daemon gets no environment except the variables of systemd-socket-activate.
    p = house.start("activate", ["systemd-socket-activate", *listen, house.args.daemon])
    # The first connection starts the daemon, and is answered by it.
    wait_for("the first answer", PATIENCE, lambda: ask(ports[0]) == (200, "ok"))
    want("the second socket", ask(ports[1], "/livez"), (200, "ok"))
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    want("the Unix socket", answer.endswith(b"\r\n\r\nok"), True)
    wait_for("its log", PATIENCE, lambda: "serving /healthz" in said(p, 3000))
    want_match("its log", said(p, 3000), rf"on http://127\.0\.0\.1:{ports[0]}, http://127\.0\.0\.1:{ports[1]} and ")
    # It does not listen on the default port in addition.
    want("sockets", len(re.findall("serving /healthz.* on ", said(p, 3000))), 1)
    p.terminate()
    want("exit code", p.wait(PATIENCE), 0)
    want("the file of a socket that was passed is kept", path.exists(), True)


class Receiver:
    """The socket of NOTIFY_SOCKET, as a service manager has it."""

    def __init__(self, house, name):
        self.path = house.dir / name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.settimeout(PATIENCE)

    def next(self):
        try:
            return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().splitlines())
        except TimeoutError:
            raise Wrong(f"expected a message on NOTIFY_SOCKET within {PATIENCE} s, came none") from None

    def until(self, key):
        """The next datagram with that key, and how many beats came before it."""
        beats = 0
        while key not in (said := self.next()):
            beats += said.get("WATCHDOG") == "1"
        return said, beats


@case("systemd-notify and healthz send the same READY=1", "systemd-notify")
def _(house):
    receiver = Receiver(house, "both.sock")
    environment = dict(house.env, NOTIFY_SOCKET=str(receiver.path))
    command = ["systemd-notify", "--no-block", "--ready", "--status=healthz passes"]
    want("systemd-notify", house.run(command, env=environment).code, 0)
    theirs = receiver.next()
    port = free_port()
    house.env["NOTIFY_SOCKET"] = str(receiver.path)
    try:
        p = house.start("notifying", [house.args.daemon, "--listen", f"127.0.0.1:{port}"])
    finally:
        del house.env["NOTIFY_SOCKET"]
    want("the message", receiver.next(), theirs)
    house.stop(p)


@case("a manager gets WATCHDOG=1, STATUS= with the failing checks, and STOPPING=1")
def _(house):
    receiver = Receiver(house, "watchdog.sock")
    port = free_port()
    reader, writer = os.pipe()
    environment = dict(house.env, NOTIFY_SOCKET=str(receiver.path), WATCHDOG_USEC="200000")
    command = [house.args.daemon, "--listen", f"127.0.0.1:{port}", "--log-limit", "400ms"]
    p = subprocess.Popen(
        [*command, "--sync-period", "1ms", "--log-level", "trace"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=writer, env=environment, cwd=house.dir,
    )
    p.log = house.dir / "watchdog.log"
    p.log.touch()
    house.running.append(p)
    os.close(writer)
    want("ready", receiver.next(), {"READY": "1", "STATUS": "healthz passes"})
    await_listener(p, ("127.0.0.1", port))
    # The pipe fills because it is not read. Beats end when /healthz fails, and not before.
    failing, beats = receiver.until("STATUS")
    want("status", failing["STATUS"], "healthz fails: log (logging blocked)")
    want("beats before it", beats >= 2, True)
    want("the answer", ask(port)[0], 500)
    receiver.socket.settimeout(1)
    try:
        raise Wrong(f"while /healthz fails: expected no message, came {receiver.socket.recv(4096)!r}")
    except TimeoutError:
        receiver.socket.settimeout(PATIENCE)
    # After the pipe was read, /healthz passes. The daemon sends the new status before the next WATCHDOG=1.
    end = time.monotonic() + PATIENCE
    os.set_blocking(reader, False)
    receiver.socket.setblocking(False)
    passing = None
    while passing is None and time.monotonic() < end:
        try:
            while os.read(reader, 65536):
                pass
        except BlockingIOError:
            pass
        try:
            passing = receiver.socket.recv(4096)
        except BlockingIOError:
            time.sleep(0.01)
    want("status when /healthz passes again", passing, b"STATUS=healthz passes")
    os.close(reader)
    p.terminate()
    receiver.socket.settimeout(PATIENCE)
    stopping, _ = receiver.until("STOPPING")
    want("the end", stopping, {"STOPPING": "1", "STATUS": "shutting down"})
    want("exit code", p.wait(PATIENCE), 0)


@case("systemd-analyze accepts the units", "systemd-analyze")
def _(house):
    judge_units(house, house.dir / "units")


@case("systemd-analyze accepts the unit with the drop-in for checks", "systemd-analyze")
def _(house):
    place = house.dir / "units-with-checks"
    shutil.copytree(FILES / "healthz.service.d", place / "healthz.service.d")
    judge_units(house, place)


def judge_units(house, place):
    place.mkdir(exist_ok=True)
    for unit in ("healthz.service", "healthz.socket"):
        text = (FILES / unit).read_text()
        want(f"{unit} runs /usr/bin/healthz", "/usr/bin/healthz" in text, unit.endswith(".service"))
        (place / unit).write_text(text.replace("/usr/bin/healthz", house.args.daemon))
    units = [str(place / "healthz.service"), str(place / "healthz.socket")]
    # It exits with 0 even for an unknown key, and prints a warning.
    result = house.run(["systemd-analyze", "verify", "--man=no", *units], seconds=PATIENCE)
    want("systemd-analyze verify", (result.code, result.out + result.err), (0, ""))
    result = house.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", units[0]], seconds=PATIENCE
    )
    want_match("systemd-analyze security", result.out, "Overall exposure level")
    want("its exit code", result.code, 0)


def install(missing):
    packages = sorted({PACKAGES[tool] for tool in missing})
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages],
    ):
        subprocess.run(command, env=environment, timeout=INSTALL_SECONDS_MAX, stdout=subprocess.DEVNULL, check=False)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--daemon", default=str(ROOT / "target/release/healthz"), metavar="PATH")
    ap.add_argument("--install", action="store_true", help="install missing managers with apt-get, as root")
    ap.add_argument("--require", action="store_true", help="a manager that is missing is a failure")
    ap.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains this")
    args = ap.parse_args()
    args.daemon = os.path.abspath(args.daemon)
    if not os.access(args.daemon, os.X_OK):
        print(f"managers.py: {args.daemon} is not there: build it first, or name another", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    house = House(args)
    counts = {"ok": 0, "FAIL": 0, "skip": 0}
    try:
        missing = [tool for tool in PACKAGES if not house.which(tool)]
        if missing and args.install and os.geteuid() == 0 and shutil.which("apt-get"):
            install(missing)
        for name, needs, run in CASES:
            if args.only not in name:
                continue
            lacks = [tool for tool in needs if not house.which(tool)]
            verdict, why = "ok", ""
            if lacks:
                verdict, why = ("FAIL" if args.require else "skip"), f": {', '.join(lacks)} is not installed"
            else:
                try:
                    run(house)
                except (Wrong, OSError, subprocess.SubprocessError) as error:
                    verdict, why = "FAIL", f": {error}"
            counts[verdict] += 1
            print(f"{verdict} {name}{why}", flush=True)
    finally:
        house.leave()
    print(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['skip']} skipped")
    return 1 if counts["FAIL"] or not counts["ok"] else 0


if __name__ == "__main__":
    sys.exit(main())
