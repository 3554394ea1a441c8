#!/usr/bin/env python3
"""Runs the checks against real programs: nginx, Redis, systemd-notify, a program linked to libsystemd, file systems
that are full or hang, programs that behave badly.

Each case starts the daemon with some checks, changes the services or files that they check, and reads the log of the
daemon, where each change of a state is one record with its reason, and the answers of its endpoints.

Runs as root in its own namespaces for mounts and process IDs, which it creates first. So the kernel removes all
its mounts and processes when it ends, and it can choose process IDs.

One line for each case: `ok NAME`, `FAIL NAME: expected .., got ..`, `skip NAME: why`; at the end
`N passed, N failed, N skipped`. Exit code 1 when a case failed, 2 when the script could not run, 3 when there are
no namespaces.
"""

import argparse
import ctypes
import enum
import errno
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from support.cases import Harness, Missing, Skip, Wrong, ask, await_listener, expect, expect_match, free_port, install
from support.cases import parse, parser, registry, run_script, wait_for

# For all cases together.
CASES_SECONDS_MAX = 900
# Seconds. On an idle machine most of these waits take less than one.
PATIENCE = 30
# The first argument of this script when it runs in its namespaces, and of the process that serves a file system.
INSIDE, FUSE = "--inside", "--fuse"

PACKAGES = {
    "nginx": "nginx",
    "redis-server": "redis-server",
    "redis-cli": "redis-tools",
    "systemd-notify": "systemd",
    "gcc": "gcc libc6-dev",
    "mke2fs": "e2fsprogs",
    "mount": "mount",
    "setpriv": "util-linux",
    "sleep": "coreutils",
}
# A file, not a program.
LIBSYSTEMD = Path("/usr/include/systemd/sd-daemon.h")

case, CASES = registry()


# ---------------------------------------------------------------------------------------------
# The daemon


def stat_of(pid):
    """The fields of /proc/PID/stat after the name: state, parent and so on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None


def runs(pid):
    stat = stat_of(pid)
    return stat is not None and stat[0] != "Z"


def children(pid):
    return [int(p) for p in os.listdir("/proc") if p.isdecimal() and (s := stat_of(p)) and int(s[1]) == pid]


def processes_of(word):
    """The processes that have this word in their command line."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            # The process has ended since the listing.
            continue
        if word.encode() in words:
            found.append(int(pid))
    return found


class Daemon:
    """A daemon with checks."""

    count = 0

    def __init__(self, harness, *checks, file=None, env=None, more=(), port=None):
        Daemon.count += 1
        self.harness, self.port = harness, port or free_port()
        self.file = file
        words = [harness.args.daemon, "--listen", f"127.0.0.1:{self.port}", *more]
        words += [word for check in checks for word in ("--check", check)]
        if file:
            words += ["--config", str(file)]
        before = harness.env
        harness.env = dict(before, **(env or {}))
        try:
            self.process = harness.start(f"daemon-{Daemon.count}", words)
        finally:
            harness.env = before
        self.seen = {}
        await_listener(self.process, ("127.0.0.1", self.port), PATIENCE)

    def log(self):
        return self.process.log.read_bytes().decode("utf-8", "replace")

    def logged(self, pattern, seconds=PATIENCE):
        """The first record that matches."""
        return wait_for(f"a record /{pattern}/ in the log", seconds, lambda: re.search(pattern, self.log(), re.M))[0]

    def ask(self, name):
        return ask(self.port, f"/healthz/{name}")

    def next_state(self, name, seconds=PATIENCE):
        """The next record of a change of this check: exactly one for each change."""
        pattern = re.compile(rf"check {re.escape(name)} (fails|passes)[^\n]*\n")
        found = wait_for(
            f"a change of {name}", seconds, lambda: pattern.search(self.log(), self.seen.get(name, 0))
        )
        self.seen[name] = found.end()
        return found[0].rstrip()

    def fails(self, name, reason, seconds=PATIENCE):
        """The next change is a failure with this reason, in the log and in the answer. Returns the record."""
        record = self.next_state(name, seconds)
        expected = rf"^check {re.escape(name)} fails( after it passed for [^:]*)?: .*{reason}"
        expect_match(f"the record of {name}", record, expected)
        status, text = self.ask(name)
        expect(f"the status of {name}", status, 500)
        expect_match(f"the answer for {name}", text, reason)
        return record

    def passes(self, name, seconds=PATIENCE):
        record = self.next_state(name, seconds)
        expect_match(f"the record of {name}", record, rf"^check {re.escape(name)} passes")
        expect(f"the answer for {name}", self.ask(name), (200, "ok"))
        return record

    def sources(self):
        """The supervisor and the worker."""
        def find():
            for supervisor in children(self.process.pid):
                for worker in children(supervisor):
                    return supervisor, worker
            return None

        return wait_for("the sources processes", PATIENCE, find)

    def stop(self, seconds=5):
        """SIGTERM: exit code 0 in time, and both processes of the sources end too."""
        supervisor, worker = self.sources()
        self.process.terminate()
        try:
            expect("exit code", self.process.wait(seconds), 0)
        except subprocess.TimeoutExpired:
            raise Wrong(f"expected an end within {seconds} s of SIGTERM, got none") from None
        return supervisor, worker

    def end(self):
        for pid in self.stop():
            wait_for(f"the end of process {pid}", PATIENCE, lambda pid=pid: not runs(pid))


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def anonymous_kib(pid):
    return int(re.search(r"^RssAnon:\s*(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[1])


# ---------------------------------------------------------------------------------------------
# Services


def signal_all(pids, number):
    for pid in pids:
        os.kill(pid, number)


def start_nginx(harness, port):
    place = harness.dir / "nginx"
    place.mkdir(exist_ok=True)
    temporary = "".join(
        f"{kind}_temp_path {place}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (place / "nginx.conf").write_text(
        f"daemon off; pid {place}/nginx.pid; worker_processes 1; error_log stderr;"
        "events {}"
        f"http {{ access_log off; {temporary} server {{ listen 127.0.0.1:{port}; listen unix:{place}/nginx.sock;"
        " location = /ready { return 200 'all is well'; } } }"
    )
    # nginx does not remove the file of its socket when it is killed.
    (place / "nginx.sock").unlink(missing_ok=True)
    process = harness.start("nginx", ["nginx", "-p", str(place), "-c", str(place / "nginx.conf")])
    await_listener(process, ("127.0.0.1", port))
    return process


def start_redis(harness, port):
    place = harness.dir / "redis"
    place.mkdir(exist_ok=True)
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--unixsocket", f"{place}/redis.sock"]
    words += ["--pidfile", f"{place}/redis.pid", "--save", "", "--dir", str(place), "--daemonize", "no"]
    process = harness.start("redis", words)
    await_listener(process, ("127.0.0.1", port))
    return process


def service_case(daemon, names, start, refused, stopped):
    """SIGKILL, restart, SIGSTOP, SIGCONT. `refused` and `stopped` have the reason of each check that must fail."""
    for name in names:
        daemon.passes(name)
    process = start()
    group = [process.pid, *children(process.pid)]
    signal_all(group, signal.SIGKILL)
    process.wait(PATIENCE)
    for name, reason in refused.items():
        daemon.fails(name, reason)
    process = start()
    for name in refused:
        daemon.passes(name)
    group = [process.pid, *children(process.pid)]
    signal_all(group, signal.SIGSTOP)
    try:
        for name, reason in stopped.items():
            daemon.fails(name, reason)
        for name in set(names) - set(stopped):
            expect(f"the answer for {name} of a service that is stopped", daemon.ask(name), (200, "ok"))
    finally:
        signal_all(group, signal.SIGCONT)
    for name in stopped:
        daemon.passes(name)
    process.terminate()
    process.wait(PATIENCE)
    for name in refused:
        daemon.next_state(name)


def daemon_with_file(harness, name, checks):
    """A daemon with a check file, in which each check is a table with a short period."""
    file = harness.dir / f"{name}.toml"
    defaults = '[defaults]\nperiod = "1s"\ntimeout = "900ms"\nfailure-threshold = 2\n'
    tables = (f"[check.{check}]\n{text}\n" for check, text in checks.items())
    file.write_text(defaults + "".join(tables))
    return Daemon(harness, file=file)


class Restarted:
    """Starts a service at once. The first call returns that service, and later calls start it again."""

    def __init__(self, start):
        self.start, self.process = start, start()

    def __call__(self):
        process, self.process = self.process or self.start(), None
        return process


@case("nginx is killed, started again, stopped and continued", "nginx")
def _(harness):
    port = free_port()
    start = Restarted(lambda: start_nginx(harness, port))
    place = harness.dir / "nginx"
    url = f"http://127.0.0.1:{port}/ready"
    checks = {
        "web": f'http = "{url}"\ncontains = "all is well"',
        "port": f'tcp = "127.0.0.1:{port}"',
        "socket": f'unix = "{place}/nginx.sock"\nsend = "GET /ready HTTP/1.0\\\\r\\\\n\\\\r\\\\n"\nexpect = "all is well"',
        "main": f'process = "{place}/nginx.pid"',
        "program": 'process = "exe:nginx"\nmin = 2',
    }
    daemon = daemon_with_file(harness, "nginx", checks)
    refused = {
        "web": rf"{url}: connection refused",
        "port": rf"127\.0\.0\.1:{port}: connection refused",
        "socket": r"nginx\.sock: connection refused",
        "main": r"nginx\.pid: process \d+ does not run",
        "program": r"exe:nginx: 0 processes, needs 2",
    }
    # The kernel accepts connections for a stopped process, and a stopped process exists.
    stopped = {
        "web": rf"{url}: no result within 900ms \(connected, waiting for .*\)",
        "socket": r"nginx\.sock: no result within 900ms \(connected, waiting for .*\)",
    }
    service_case(daemon, checks, start, refused, stopped)
    daemon.end()


@case("Redis is killed, started again, stopped and continued", "redis-server", "redis-cli")
def _(harness):
    # Regression: a program that was killed at its timeout was reported as one that SIGKILL does not end, because it was
    # not reaped before the next attempt.
    port = free_port()
    start = Restarted(lambda: start_redis(harness, port))
    place = harness.dir / "redis"
    cli = shutil.which("redis-cli")
    checks = {
        "port": f'tcp = "127.0.0.1:{port}"\nsend = "PING\\\\r\\\\n"\nexpect = "+PONG"',
        "socket": f'unix = "{place}/redis.sock"\nsend = "PING\\\\r\\\\n"\nexpect = "+PONG"',
        "main": f'process = "{place}/redis.pid"',
        "cli": f'exec = ["{cli}", "-p", "{port}", "ping"]\nperiod = "1s"\ntimeout = "900ms"',
    }
    daemon = daemon_with_file(harness, "redis", checks)
    refused = {
        "port": rf"127\.0\.0\.1:{port}: connection refused",
        "socket": r"redis\.sock: connection refused",
        "main": r"redis\.pid: process \d+ does not run",
        "cli": r"Could not connect to Redis at 127\.0\.0\.1:\d+: Connection refused",
    }
    stopped = {
        "port": r"no result within 900ms \(connected, waiting for .*\)",
        "socket": r"no result within 900ms \(connected, waiting for .*\)",
        "cli": r"redis-cli: no result within 900ms \(it still runs\)",
    }
    service_case(daemon, checks, start, refused, stopped)
    daemon.end()


# ---------------------------------------------------------------------------------------------
# Heartbeats

BEAT_C = r"""
/* Sends each argument as one message with sd_notify(3). Some words have another meaning: "barrier" calls
   sd_notify_barrier(3), "descriptors" sends 100 messages, each with 2 descriptors, "watchdog" prints what
   sd_watchdog_enabled(3) finds, and "beats" sends beats without end. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <systemd/sd-daemon.h>

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        int result = 0;
        if (!strcmp(argv[i], "barrier"))
            result = sd_notify_barrier(0, 10 * 1000 * 1000);
        else if (!strcmp(argv[i], "watchdog")) {
            uint64_t usec = 0;
            result = sd_watchdog_enabled(0, &usec);
            printf("watchdog %" PRIu64 "\n", usec);
            fflush(stdout);
        } else if (!strcmp(argv[i], "beats"))
            for (;;) {
                sd_notify(0, "WATCHDOG=1");
                usleep(500 * 1000);
            }
        else if (!strcmp(argv[i], "descriptors")) {
            int fds[] = {0, 1};
            for (int j = 0; j < 100 && result >= 0; j++)
                result = sd_pid_notify_with_fds(0, 0, "FDSTORE=1\nFDNAME=a", fds, 2);
        } else
            result = sd_notify(0, argv[i]);
        if (result <= 0) {
            printf("%s: %s\n", argv[i], result < 0 ? strerror(-result) : "NOTIFY_SOCKET is not set");
            return 1;
        }
    }
    return 0;
}
"""


def build_beat(harness):
    if not LIBSYSTEMD.exists():
        raise Missing("libsystemd-dev is not installed")
    source, program = harness.dir / "beat.c", harness.dir / "beat"
    source.write_text(BEAT_C)
    result = harness.run(["gcc", "-Wall", "-Werror", "-o", str(program), str(source), "-lsystemd"], seconds=PATIENCE * 4)
    expect("gcc", (result.code, result.err), (0, ""))
    program.chmod(0o755)
    return str(program)


def notify(harness, socket_name, *words):
    env = dict(harness.env, NOTIFY_SOCKET=str(socket_name))
    return harness.run([str(word) for word in words], seconds=PATIENCE, env=env)


def notify_ok(harness, socket_name, *words):
    result = notify(harness, socket_name, *words)
    expect(f"{words}", (result.code, result.out, result.err), (0, "", ""))


@case("systemd-notify, with and without an answer to its barrier", "systemd-notify")
def _(harness):
    path = harness.dir / "notify.sock"
    daemon = Daemon(harness, f"worker=heartbeat,socket={path},limit=1h")
    daemon.fails("worker", "not ready yet")
    expect("the mode of the socket", oct(path.stat().st_mode & 0o7777), "0o600")
    # It waits until the receiver has closed the descriptor of the barrier, or for 5 s.
    started = time.monotonic()
    notify_ok(harness, path, "systemd-notify", "--ready", "--status=processing")
    daemon.passes("worker")
    expect("the barrier was answered before the timeout of systemd-notify", time.monotonic() - started < 5, True)
    notify_ok(harness, path, "systemd-notify", "--no-block", "STOPPING=1")
    daemon.fails("worker", "stopping: processing")
    notify_ok(harness, path, "systemd-notify", "--no-block", "--ready")
    daemon.passes("worker")
    daemon.end()
    expect("the file of the socket after the end", path.exists(), False)


def ready_worker(harness, name, limit):
    """A program linked to libsystemd, its socket, and a daemon that has got READY=1 from it."""
    beat = harness.once("beat", build_beat)
    path = harness.dir / f"{name}.sock"
    daemon = Daemon(harness, f"worker=heartbeat,socket={path},limit={limit}")
    daemon.fails("worker", "not ready yet")
    notify_ok(harness, path, beat, "READY=1\nMAINPID=1", "barrier")
    daemon.passes("worker")
    return beat, path, daemon


@case("a program linked to libsystemd is ready, beats, says its status, triggers and stops", "gcc")
def _(harness):
    beat, path, daemon = ready_worker(harness, "beat", "2s")
    daemon.fails("worker", r"no heartbeat for \d+ s, limit 2 s")
    notify_ok(harness, path, beat, "WATCHDOG=1\nSTATUS=42 jobs")
    daemon.passes("worker")
    daemon.fails("worker", r"no heartbeat for \d+ s, limit 2 s: 42 jobs")
    notify_ok(harness, path, beat, "WATCHDOG=1\nSTATUS=\nWATCHDOG_USEC=3600000000")
    daemon.passes("worker")
    notify_ok(harness, path, beat, "WATCHDOG=trigger\nSTATUS=a deadlock\nERRNO=11")
    daemon.fails("worker", r"watchdog triggered: a deadlock \(errno 11, Resource temporarily unavailable\)")
    notify_ok(harness, path, beat, "READY=1")
    daemon.passes("worker")
    notify_ok(harness, path, beat, "STOPPING=1")
    daemon.fails("worker", "stopping")
    daemon.end()


@case("healthz beat runs a program linked to libsystemd, which finds the socket and its watchdog", "gcc", "systemd-notify")
def _(harness):
    beat = harness.once("beat", build_beat)
    path = harness.dir / "run.sock"
    daemon = Daemon(harness, f"worker=heartbeat,socket={path},limit=2s")
    daemon.fails("worker", "not ready yet")
    command = [harness.args.daemon, "beat", "worker", "--socket", path, "--limit", "2s", "--"]
    result = harness.run([*map(str, command), beat, "watchdog", "READY=1", "barrier"], seconds=PATIENCE)
    expect("a program that is ready", (result.code, result.out, result.err), (0, "watchdog 2000000\n", ""))
    daemon.passes("worker")
    daemon.fails("worker", r"no heartbeat for \d+ s, limit 2 s")
    result = harness.run([*map(str, command), "systemd-notify", "--ready", "--status=reading"], seconds=PATIENCE)
    expect("systemd-notify", (result.code, result.out, result.err), (0, "", ""))
    daemon.passes("worker")
    daemon.fails("worker", r"no heartbeat for \d+ s, limit 2 s: reading")
    daemon.end()


@case("messages of another user are refused", "gcc", "setpriv")
def _(harness):
    beat = harness.once("beat", build_beat)
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", beat]
    private, public, shared = (harness.dir / f"{name}.sock" for name in ("private", "public", "shared"))
    daemon = Daemon(
        harness,
        f"private=heartbeat,socket={private},limit=1h",
        f"public=heartbeat,socket={public},mode=0666,limit=1h",
        f"shared=heartbeat,socket={shared},mode=0666,uid=65534,limit=1h",
    )
    for name in ("private", "public", "shared"):
        daemon.fails(name, "not ready yet")
    result = notify(harness, private, *nobody, "READY=1")
    expect("a socket of mode 0600", (result.code, result.out), (1, "READY=1: Permission denied\n"))
    notify_ok(harness, public, *nobody, "READY=1")
    daemon.logged(r" WARN .*message of user 65534 refused, process \d+")
    expect_match("its answer", daemon.ask("public")[1], "not ready yet")
    notify_ok(harness, shared, *nobody, "READY=1")
    daemon.passes("shared")
    notify_ok(harness, public, beat, "READY=1")
    daemon.passes("public")
    daemon.end()


@case("an abstract socket needs uid", "gcc", "setpriv")
def _(harness):
    beat = harness.once("beat", build_beat)
    result = harness.run([harness.args.daemon, "--listen", "127.0.0.1:0", "--check", "worker=heartbeat,socket=@beats"])
    expect("exit code without uid", result.code, 2)
    expect_match("its error", result.err, "uid")
    daemon = Daemon(harness, "worker=heartbeat,socket=@beats,uid=65534,limit=1h")
    daemon.fails("worker", "not ready yet")
    other = ["setpriv", "--reuid", "65533", "--regid", "65533", "--clear-groups", beat]
    notify_ok(harness, "@beats", *other, "READY=1")
    daemon.logged("message of user 65533 refused")
    expect("its status", daemon.ask("worker")[0], 500)
    notify_ok(harness, "@beats", "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", beat, "READY=1")
    daemon.passes("worker")
    daemon.end()


@case("descriptors that a program sends are closed", "gcc")
def _(harness):
    beat, path, daemon = ready_worker(harness, "descriptors", "1h")
    _, worker = daemon.sources()
    before = descriptors(worker)
    # The barrier is answered when everything before it was handled.
    for _ in range(5):
        notify_ok(harness, path, beat, "descriptors", "barrier")
    # Descriptors whose close(2) can block are closed by another thread, perhaps after that answer.
    wait_for("the descriptors to be closed", PATIENCE, lambda: descriptors(worker) == before)
    daemon.end()


# ---------------------------------------------------------------------------------------------
# File systems


def mounted(harness, name, *options):
    place = harness.dir / name
    place.mkdir()
    shell(harness, "mount", *options, str(place))
    return place


def shell(harness, *words):
    result = harness.run([str(word) for word in words], seconds=PATIENCE)
    if result.code != 0:
        raise Wrong(f"{' '.join(map(str, words))}: exit code {result.code}: {result.err.strip()}")


def fill(path):
    """Writes zeros until there is no more space."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(64 * 1024))
        except OSError:
            pass


def disk_case(harness, place):
    period = 0.5
    check = f"space=disk:{place},period=500ms,timeout=400ms,failure-threshold=2"
    daemon = Daemon(harness, check)
    daemon.passes("space")
    fill(place / "large")
    daemon.fails("space", rf"{place}: [0-9]\.\d% free, needs 10%")
    (place / "large").unlink()
    freed = time.monotonic()
    # A failed check passes after three successes in a row.
    daemon.passes("space")
    expect("at least two periods between three successes", time.monotonic() - freed >= 2 * period - 0.1, True)
    files = place / "files"
    files.mkdir()
    try:
        for number in range(1 << 16):
            (files / str(number)).touch()
    except OSError:
        pass
    daemon.fails("space", rf"{place}: [0-4]\.\d% of inodes free, needs 5%")
    shutil.rmtree(files)
    daemon.passes("space")
    daemon.end()


@case("a tmpfs has no space, and then no inodes", "mount")
def _(harness):
    place = mounted(harness, "tmpfs", "-t", "tmpfs", "-o", "size=8m,nr_inodes=1000", "none")
    disk_case(harness, place)
    shell(harness, "umount", place)


def make_ext4(harness, name):
    image = harness.dir / f"{name}.img"
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    shell(harness, "mke2fs", "-q", "-t", "ext4", "-F", "-N", "512", image)
    try:
        return mounted(harness, name, "-o", "loop", str(image))
    except Wrong as error:
        raise Skip(f"no loop device: {error}") from None


@case("an ext4 file system on a loop device has no space, and then no inodes", "mount", "mke2fs")
def _(harness):
    place = make_ext4(harness, "ext4")
    disk_case(harness, place)
    shell(harness, "umount", place)


@case("a file system is remounted read-only, unmounted and mounted again", "mount")
def _(harness):
    place = mounted(harness, "data", "-t", "tmpfs", "none")
    period = "period=500ms,timeout=400ms,failure-threshold=1"
    daemon = Daemon(harness, f"data=mount:{place},{period}", f"gone=mount:{place},mounted=false,{period}")
    daemon.passes("data")
    daemon.fails("gone", f"{place}: mounted, must not be")
    shell(harness, "mount", "-o", "remount,ro", place)
    daemon.fails("data", f"{place}: mounted read-only, must be writable")
    shell(harness, "mount", "-o", "remount,rw", place)
    daemon.passes("data")
    shell(harness, "umount", place)
    daemon.fails("data", f"{place}: not mounted")
    daemon.passes("gone")
    shell(harness, "mount", "-t", "tmpfs", "none", place)
    daemon.passes("data")
    daemon.fails("gone", "mounted, must not be")
    daemon.end()
    shell(harness, "umount", place)


# ---------------------------------------------------------------------------------------------
# A file system that hangs

class Request(enum.IntEnum):
    """Requests of the kernel to a file system (FUSE)."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    FLUSH = 25
    INIT = 26
    INTERRUPT = 36
    BATCH_FORGET = 42


CONTENT = b"all is well\n"


def fuse(place):
    """Serves a file system with one file, `file`. After a line `hang` on standard input it reads requests and prints
    them, but does not answer."""
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    data = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if libc.mount(b"hang", place.encode(), b"fuse", 0, data) != 0:
        print(f"error: {os.strerror(ctypes.get_errno())}", flush=True)
        return 1
    print("mounted", flush=True)
    state = {"mode": "answer"}

    def listen():
        for line in sys.stdin:
            state["mode"] = line.strip()
            print(f"mode {line.strip()}", flush=True)

    threading.Thread(target=listen, daemon=True).start()

    def attributes(node):
        mode, size = (0o040755, 0) if node == 1 else (0o100644, len(CONTENT))
        now = int(time.time())
        return struct.pack("<6Q10I", node, size, 1, now, now, now, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def answer(opcode, node, body):
        """The errno and the text of the answer."""
        match opcode:
            case Request.INIT:
                minor = min(struct.unpack_from("<I", body, 4)[0], 31)
                return 0, struct.pack("<4I2H2I2HI7I", 7, minor, 0, 0, 16, 12, 65536, 1, 0, 0, 0, *[0] * 7)
            case Request.LOOKUP if body.rstrip(b"\0") == b"file":
                # Valid for 0 s, so that the kernel asks each time.
                return 0, struct.pack("<4Q2I", 2, 1, 0, 0, 0, 0) + attributes(2)
            case Request.LOOKUP:
                return errno.ENOENT, b""
            case Request.GETATTR:
                return 0, struct.pack("<Q2I", 0, 0, 0) + attributes(node)
            case Request.STATFS:
                return 0, struct.pack("<5Q4I6I", 1000, 900, 900, 1000, 900, 4096, 255, 4096, 0, *[0] * 6)
            case Request.OPEN:
                return 0, struct.pack("<Q2I", 1, 1, 0)
            case Request.READ:
                offset, length = struct.unpack_from("<QI", body, 8)
                return 0, CONTENT[offset : offset + length]
            case Request.RELEASE | Request.FLUSH:
                return 0, b""
            case _:
                return errno.ENOSYS, b""

    while True:
        try:
            request = os.read(device, 1 << 18)
        except OSError as error:
            # ENODEV: unmounted.
            return 0 if error.errno == errno.ENODEV else 1
        _, opcode, unique, node = struct.unpack_from("<2I2Q", request)
        if opcode in (Request.FORGET, Request.BATCH_FORGET):
            continue
        if state["mode"] != "answer":
            print(f"request {opcode}", flush=True)
            continue
        if opcode == Request.INTERRUPT:
            continue
        error, text = answer(opcode, node, request[40:])
        os.write(device, struct.pack("<IiQ", 16 + len(text), -error, unique) + text)


class Hanging:
    """The file system of [`fuse`], mounted."""

    def __init__(self, harness, name):
        if not Path("/dev/fuse").exists():
            raise Skip("no /dev/fuse")
        self.harness, self.place = harness, harness.dir / name
        self.place.mkdir()
        self.log = harness.dir / f"{name}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, FUSE, str(self.place)],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
            )
        self.process.log = self.log
        harness.running.append(self.process)
        self.wait_for_output(r"^(mounted|error: .*)$")
        if "error" in self.text():
            raise Skip(f"FUSE: {self.text().strip()}")

    def text(self):
        return self.log.read_text("utf-8", "replace")

    def wait_for_output(self, pattern):
        return wait_for(f"/{pattern}/ of the file system", PATIENCE, lambda: re.search(pattern, self.text(), re.M))

    def change(self, mode):
        """`hang`: reads requests, but does not answer. `deaf`: does not read requests."""
        if mode == "deaf":
            self.process.send_signal(signal.SIGSTOP)
            wait_for("the file system to be stopped", PATIENCE, lambda: stat_of(self.process.pid)[0] == "T")
            return
        self.process.stdin.write(f"{mode}\n".encode())
        self.process.stdin.flush()
        self.wait_for_output(f"^mode {mode}$")

    def requests(self, opcode):
        return self.text().count(f"request {int(opcode)}\n")

    def end(self):
        self.process.kill()
        self.process.wait(PATIENCE)
        # A lazy unmount, because a process may still wait for the file system.
        self.harness.run(["umount", "-l", str(self.place)])


class Visited:
    """A listener that notes the time of each connection."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.times = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.times.append(time.monotonic())
            connection.close()

    def longest_gap(self, since):
        times = [since, *(t for t in self.times if t > since), time.monotonic()]
        return max(b - a for a, b in zip(times, times[1:]))


def blocked_threads(pid):
    """The threads that wait in the kernel for the file system."""
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            stack = (task / "stack").read_text()
        except OSError:
            stack = (task / "wchan").read_text()
        count += "fuse" in stack or "request_wait_answer" in stack
    return count


def hanging_case(harness, mode):
    hanging = Hanging(harness, f"hangs-{mode}")
    visited = Visited()
    here = harness.dir / f"here-{mode}"
    here.touch()
    period, timeout, slack = 1.0, 0.9, 2.0
    times = "period=1s,timeout=900ms,failure-threshold=1,success-threshold=1"
    daemon = Daemon(
        harness,
        f"file=file:{hanging.place}/file,contains=well,{times}",
        f"disk=disk:{hanging.place},{times}",
        f"here=file:{here},{times}",
        f"beside=tcp:127.0.0.1:{visited.port},period=200ms,timeout=200ms,failure-threshold=32",
    )
    for name in ("file", "disk", "here", "beside"):
        daemon.passes(name)
    _, worker = daemon.sources()
    idle = len(os.listdir(f"/proc/{worker}/task"))
    hanging.change(mode)
    began = time.monotonic()
    for name in ("file", "disk"):
        daemon.fails(name, r"no result within 900ms|not checked for \d+ s")
        late = time.monotonic() - began - period - timeout - slack
        expect(f"{name} fails by its deadline, or {late:.1f} s after it", late <= 0, True)
    # Checks of other files, and checks without files, are still attempted.
    here.unlink()
    removed = time.monotonic()
    daemon.fails("here", "does not exist|no such file")
    late = time.monotonic() - removed - period
    expect(f"a check of another file fails within its period, or {late:.1f} s after it", late <= 1, True)
    # After some more periods each check still has only one attempt.
    wait_for("five periods", PATIENCE, lambda: time.monotonic() > began + 5)
    expect("threads that hang", blocked_threads(worker), 2)
    expect("all threads of the worker", len(os.listdir(f"/proc/{worker}/task")) <= idle + 3, True)
    if mode == "hang":
        expect("requests of the disk", hanging.requests(Request.STATFS), 1)
        requests = (hanging.requests(kind) for kind in (Request.LOOKUP, Request.GETATTR, Request.OPEN))
        expect("requests of the file", sum(requests), 1)
    gap = visited.longest_gap(began)
    expect(f"the longest time between two connections, {gap:.1f} s", gap <= 0.2 + 1, True)
    expect_match("the answer", daemon.ask("file")[1], r"no result (within|for)|hang|not checked")
    print(f"  | {mode}: {daemon.ask('file')[1]}")
    stopped = time.monotonic()
    left = daemon.stop()
    print(f"  | {mode}: healthz has ended {time.monotonic() - stopped:.2f} s after SIGTERM")
    again = Daemon(harness, port=daemon.port)
    harness.stop(again.process)
    if mode == "hang":
        # If the file system has read a request, the process ends only when the file system ends.
        hanging.end()
    for pid in left:
        wait_for(f"the end of process {pid}", PATIENCE, lambda pid=pid: not runs(pid))
    if mode != "hang":
        hanging.end()
    visited.socket.close()


@case("a file system that does not answer fails its checks and delays no other check", "mount")
def _(harness):
    hanging_case(harness, "hang")


@case("a file system that does not read requests fails its checks and delays no other check", "mount")
def _(harness):
    hanging_case(harness, "deaf")


# ---------------------------------------------------------------------------------------------
# Processes


def next_number(number):
    """Makes the kernel give this number, if it is free, to the next process of this namespace."""
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(number - 1))


@case("a process ID that another process has now fails its check, and so does a zombie", "sleep")
def _(harness):
    first = subprocess.Popen(["sleep", "4321"], stdin=subprocess.DEVNULL)
    file = harness.dir / "service.pid"
    file.write_text(f"{first.pid}\n")
    written = time.time()
    daemon = Daemon(harness, f"service=process:{file},period=500ms,timeout=400ms")
    daemon.passes("service")
    # This script does not wait for it, so it stays a zombie.
    first.kill()
    daemon.fails("service", rf"{file}: process {first.pid} is a zombie")
    first.wait()
    wait_for("a check in between", PATIENCE, lambda: "does not run" in daemon.ask("service")[1])
    # The daemon compares the start of the process with the time of the file, and allows a difference of 1 s.
    wait_for("time since the file was written", PATIENCE, lambda: time.time() > written + 2)
    second = None
    for _ in range(100):
        next_number(first.pid)
        second = subprocess.Popen(["sleep", "4321"], stdin=subprocess.DEVNULL)
        if second.pid == first.pid:
            break
        second.kill()
        second.wait()
    expect("the number of another process", second.pid, first.pid)
    try:
        wait_for(
            "the failure", PATIENCE,
            lambda: daemon.ask("service")
            == (500, f"internal server error: {file}: process {first.pid} is another one: it started after this file was written\n"),
        )
        # After the file was written again, its process passes.
        file.write_text(f"{second.pid}\n")
        daemon.passes("service")
    finally:
        second.kill()
        second.wait()
    daemon.end()


# ---------------------------------------------------------------------------------------------
# The clock

STA_UNSYNC = 0x40


def clock_state():
    """Whether the kernel considers the clock synchronised, and its largest error in seconds."""
    # struct timex: modes, offset, freq, maxerror, esterror, status, ...
    state = ctypes.create_string_buffer(256)
    code = ctypes.CDLL(None, use_errno=True).adjtimex(state)
    _, _, _, max_error, _, status = struct.unpack_from("<Ixxxxqqqqi", state)
    return code >= 0 and code != 5 and not status & STA_UNSYNC, max_error / 1e6


@case("the check of the clock agrees with the kernel")
def _(harness):
    is_synchronised, error = clock_state()
    daemon = Daemon(harness, "clock=clock,period=500ms,timeout=400ms")
    if not is_synchronised:
        daemon.fails("clock", "clock is not synchronised")
    elif error > 16:
        daemon.fails("clock", r"clock may be wrong by \d+ s, limit 16 s")
    else:
        daemon.passes("clock")
    print(f"  | the clock of this machine is {'' if is_synchronised else 'not '}synchronised, error {error:.3f} s")
    daemon.end()


# ---------------------------------------------------------------------------------------------
# Programs


def script(harness, name, text):
    path = harness.dir / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@case("programs that leave children, ignore SIGTERM, print a megabyte or nothing", "sleep")
def _(harness):
    left = "sleep 98761 & setsid sleep 98762 & setsid sh -c 'sleep 98763 & exec sleep 98764' &"
    forks = script(harness, "forks", f"{left} exit 0")
    deaf = script(harness, "deaf", "trap '' TERM INT HUP; while :; do sleep 98765; done")
    large = script(harness, "large", "head -c 1048576 /dev/zero | tr '\\0' x; exit 3")
    large_ok = script(harness, "large-ok", "head -c 1048576 /dev/zero | tr '\\0' x; echo; echo more")
    silent = script(harness, "silent", "exit 3")
    killed = script(harness, "killed", "kill -SEGV $$")
    times = "period=1s,timeout=900ms,failure-threshold=2"
    daemon = Daemon(
        harness,
        *(f"{path.name}=exec:{path},{times}" for path in (forks, deaf, large, large_ok, silent, killed)),
        f"missing=exec:/nonexistent/program,{times}",
    )
    daemon.passes("forks")
    daemon.passes("large-ok")
    daemon.fails("deaf", rf"{deaf}: no result within 900ms \(it still runs\)")
    daemon.fails("large", "x{100,}")
    daemon.fails("silent", "exit code 3")
    daemon.fails("killed", "killed by signal 11")
    daemon.fails("missing", "/nonexistent/program: does not exist")
    status, text = daemon.ask("large")
    expect("the length of the reason is limited", len(text) < 1024, True)
    expect("the length of the record is limited", max(map(len, daemon.log().splitlines())) < 2048, True)
    # The children of programs are killed within 1 s, also those with a session of their own.
    sleepers = lambda: [pid for n in range(98761, 98766) for pid in processes_of(str(n))]  # noqa: E731
    oldest = {}
    zombies = {}
    _, worker = daemon.sources()
    end = time.monotonic() + 5
    while time.monotonic() < end:
        now = time.monotonic()
        alive = set(sleepers()) - set(processes_of("98765"))
        oldest = {pid: oldest.get(pid, now) for pid in alive}
        dead = {pid for pid in children(worker) if (stat_of(pid) or "?")[0] == "Z"}
        zombies = {pid: zombies.get(pid, now) for pid in dead}
        for what, known in (("child", oldest), ("zombie", zombies)):
            age = max((now - since for since in known.values()), default=0)
            expect(f"the oldest {what} is gone within 1 s, after {age:.1f} s so far", age <= 1, True)
        time.sleep(0.05)
    daemon.end()
    wait_for("the end of all programs", PATIENCE, lambda: not sleepers())


@case("what a program prints cannot control a terminal", "sleep")
def _(harness):
    nasty = harness.dir / "nasty"
    nasty.write_bytes(b"\x1b[31mred\x07 \xff\xfe \xc2\x9b2J \xe2\x80\xae \xe2\x80\xa8 tab\there \"quoted\\\" \x00 end\rline\n[+]ping ok\n")
    program = script(harness, "prints", f"cat {nasty}; exit 1")
    daemon = Daemon(harness, f"prints=exec:{program},period=1s,timeout=900ms")
    record = daemon.fails("prints", "red")
    raw_log = daemon.process.log.read_bytes()
    with socket.create_connection(("127.0.0.1", daemon.port), 5) as client:
        client.sendall(b"GET /healthz/prints HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    body = answer.partition(b"\r\n\r\n")[2]
    for what, text in (("the log", raw_log), ("the answer", body)):
        bad = sorted({c for c in text if c < 32 and c != 10 or c == 127})
        expect(f"control characters in {what}", bad, [])
        decoded = text.decode("utf-8")
        forbidden = re.findall("[\x80-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", decoded)
        expect(f"other forbidden characters in {what}", forbidden, [])
    expect("lines of the answer", body.count(b"\n") <= 1, True)
    print(f"  | {record}")
    daemon.end()


@case("a program runs as another user", "sleep")
def _(harness):
    program = script(harness, "identity", 'echo "$(id -u) $(id -g) $(id -G)"; exit 1')
    variables = "env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD= | tr '\\n' ' '"
    environment = script(harness, "environment", f"{variables}; pwd; exit 1")
    daemon = Daemon(
        harness,
        f"root=exec:{program},period=1s",
        f"nobody=exec:{program},user=nobody,period=1s",
        f"number=exec:{program},user=4321,period=1s",
        f"unknown=exec:{program},user=not-there,period=1s",
        f"variables=exec:{environment},env=A=b,period=1s",
        env={"SECRET": "in the environment of the daemon"},
    )
    daemon.fails("root", "0 0 0")
    daemon.fails("nobody", "65534 65534 65534")
    daemon.fails("number", "4321 4321 4321")
    daemon.fails("unknown", "user not-there: not in /etc/passwd")
    daemon.fails("variables", "A=b /$")
    daemon.end()


# ---------------------------------------------------------------------------------------------
# Reading the check file again


class Manager:
    """The socket of NOTIFY_SOCKET, as a service manager has it."""

    def __init__(self, harness, name):
        self.path = harness.dir / name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.settimeout(PATIENCE)

    def next(self):
        try:
            return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().splitlines())
        except TimeoutError:
            raise Wrong(f"expected a message on NOTIFY_SOCKET within {PATIENCE} s, got none") from None

    def until(self, key):
        """The next message with this key, and those before."""
        before = []
        while key not in (message := self.next()):
            before.append(message)
        return message, before


@case("SIGHUP: RELOADING=1 with its time, then READY=1")
def _(harness):
    manager = Manager(harness, "manager.sock")
    file = harness.dir / "reload.toml"
    file.write_text('[check.here]\nfile = "/proc/self/stat"\n')
    daemon = Daemon(harness, file=file, env={"NOTIFY_SOCKET": str(manager.path)})
    manager.until("READY")
    daemon.passes("here")

    def reload():
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        daemon.process.send_signal(signal.SIGHUP)
        reloading, _ = manager.until("RELOADING")
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        expect("the value of RELOADING", reloading["RELOADING"], "1")
        expect("MONOTONIC_USEC is now", before <= int(reloading["MONOTONIC_USEC"]) <= after, True)
        expect("READY is another message", "READY" in reloading, False)
        ready, between = manager.until("READY")
        expect("messages in between with READY or RELOADING", [m for m in between if {"READY", "RELOADING"} & set(m)], [])
        return ready

    file.write_text('[check.here]\nfile = "/proc/self/stat"\n[check.more]\nfile = "/proc/self/status"\n')
    expect("READY after a valid file", reload()["READY"], "1")
    expect("the new check", daemon.ask("more"), (200, "ok"))
    file.write_text('[check.here]\nfile = "/proc/self/stat"\nfle = 1\n')
    expect("READY after an invalid file", reload()["READY"], "1")
    daemon.logged("was not used; the checks stay as they are")
    expect("the checks stay", daemon.ask("more"), (200, "ok"))
    file.unlink()
    expect("READY after a missing file", reload()["READY"], "1")
    expect("the checks stay", daemon.ask("more"), (200, "ok"))
    daemon.end()


class Prober:
    """A client that sends requests all the time, on one open connection and on new ones."""

    def __init__(self, port):
        self.port, self.count, self.errors, self.is_over = port, 0, [], False
        self.threads = [threading.Thread(target=self.run, args=(keep,)) for keep in (True, False)]
        for thread in self.threads:
            thread.start()

    def run(self, keep):
        try:
            while not self.is_over:
                with socket.create_connection(("127.0.0.1", self.port), 10) as client:
                    while not self.is_over:
                        self.ask(client, keep)
                        if not keep:
                            break
        except (OSError, Wrong, ValueError) as error:
            self.errors.append(f"{'kept' if keep else 'new'} connection: {error!r}")

    def ask(self, client, keep):
        client.sendall(b"GET /readyz?verbose HTTP/1.1\r\nHost: a\r\n" + (b"\r\n" if keep else b"Connection: close\r\n\r\n"))
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.receive(client)
        head, _, body = answer.partition(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
        while len(body) < length:
            body += self.receive(client)
        lines = body.decode().splitlines()
        names = [line.split()[0][3:] for line in lines if line.startswith("[")]
        # The answer must be of exactly one of the two sets.
        sets = [["syncloop", "stable", "beats", "odd"], ["syncloop", "stable", "beats", "even", "even2"]]
        found = [name for name in names if name not in ("ping", "log", "shutdown")]
        if not head.startswith(b"HTTP/1.1 200 ") or found not in sets or any(l.startswith("[-]") for l in lines):
            raise Wrong(f"got {head[:20]!r} {body!r}")
        self.count += 1

    def receive(self, client):
        data = client.recv(65536)
        if not data:
            raise Wrong("the connection was closed")
        return data

    def end(self):
        self.is_over = True
        for thread in self.threads:
            thread.join(PATIENCE)
        return self.errors


@case("1,000 reloads take no memory and no descriptor, and every probe is answered")
def _(harness):
    manager = Manager(harness, "reloads-manager.sock")
    beats = harness.dir / "reloads-beats.sock"
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    common = f'[defaults]\nperiod = "1s"\ntimeout = "900ms"\n[check.stable]\ntcp = "127.0.0.1:{port}"\nfailure-threshold = 32\n'
    beating = f'[check.beats]\nheartbeat = true\nuntil-ready = "pass"\nsocket = "{beats}"\nlimit = '
    texts = [
        f'{common}{beating}"1h"\n[check.odd]\nexec = ["/bin/true"]\n',
        f'{common}{beating}"2h"\n[check.even]\ntcp = "127.0.0.1:{port}"\n[check.even2]\nfile = "/proc/self/stat"\n',
    ]
    file = harness.dir / "reloads.toml"
    file.write_text(texts[0])
    accepting = threading.Thread(target=accept_all, args=(listener,), daemon=True)
    accepting.start()
    daemon = Daemon(harness, file=file, env={"NOTIFY_SOCKET": str(manager.path)}, more=["--log-level", "warn"])
    manager.until("READY")
    wait_for("all checks", PATIENCE, lambda: ask(daemon.port, "/readyz") == (200, "ok"))
    processes = [daemon.process.pid, *daemon.sources()]
    prober = Prober(daemon.port)
    next_file = harness.dir / "reloads.toml.next"
    measured = {}
    began = time.monotonic()
    for number in range(1, 1201):
        # The file is renamed into place, so that the daemon never reads a part of it.
        next_file.write_text(texts[number % 2])
        next_file.rename(file)
        daemon.process.send_signal(signal.SIGHUP)
        manager.until("RELOADING")
        manager.until("READY")
        if prober.errors or daemon.process.poll() is not None:
            break
        if number in (200, 1200):
            measured[number] = [(anonymous_kib(pid), descriptors(pid)) for pid in processes]
    seconds = time.monotonic() - began
    expect("errors of the client", prober.end(), [])
    expect("processes", [daemon.process.pid, *daemon.sources()], processes)
    print(f"  | 1,200 reloads in {seconds:.1f} s, {prober.count} probes; anonymous KiB and descriptors of the server,")
    print(f"  | the supervisor and the worker after 200: {measured[200]}, after 1,200: {measured[1200]}")
    for name, before, after in zip(("server", "supervisor", "worker"), measured[200], measured[1200]):
        memory = f"{name}: memory after 1,000 more reloads, {before[0]} and {after[0]} KiB"
        expect(memory, after[0] - before[0] <= 64, True)
        expect(f"{name}: descriptors, {before[1]} and {after[1]}", after[1] <= before[1] + 1, True)
    daemon.end()
    listener.close()


def accept_all(listener):
    while True:
        try:
            listener.accept()[0].close()
        except OSError:
            return


# ---------------------------------------------------------------------------------------------
# The script itself


class EndsEachCase(Harness):
    """Ends the processes of a case with it, also if it failed."""

    def end_case(self):
        for p in self.running:
            self.stop(p)
        self.running.clear()


def as_init(args):
    """The first process of the namespace: runs the cases in a child, and reaps orphans until it has ended."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
            code = run_script(args, {}, CASES, CASES_SECONDS_MAX, EndsEachCase)
        finally:
            sys.stdout.flush()
            os._exit(code)
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status) & 0xFF


def main():
    if sys.argv[1:2] == [FUSE]:
        return fuse(sys.argv[2])
    ap = parser(__doc__)
    ap.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    args = parse(ap)
    if args.inside:
        return as_init(args)
    packages = [word for tool, words in PACKAGES.items() if not shutil.which(tool) for word in words.split()]
    packages += [] if LIBSYSTEMD.exists() else ["libsystemd-dev"]
    if packages and args.install:
        install(packages)
    # When the first process of a namespace ends, the kernel kills the others. SIGTERM kills the first one.
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*namespaces, "true"], capture_output=True, check=False).returncode != 0:
        print("skip: no namespaces for mounts and processes: needs root and unshare")
        return 3
    inside = subprocess.Popen([*namespaces, sys.executable, __file__, INSIDE, *sys.argv[1:]])
    signal.signal(signal.SIGTERM, lambda *_: inside.terminate())
    return inside.wait()


if __name__ == "__main__":
    sys.exit(main())
