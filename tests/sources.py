#!/usr/bin/env python3
"""Runs the checks against real programs: nginx, Redis, systemd-notify, a program linked to libsystemd, file systems
that are full or hang, programs that behave badly.

Each case starts the daemon with some checks, changes the services or files that they check, and reads the log of the
daemon, where each change of a state is one record with its reason, and the answers of its endpoints.

Runs as root in its own namespaces for mounts and process numbers, which it creates first. So the kernel removes all
its mounts and processes when it ends, and it can choose process numbers.

One line for each case: `ok NAME`, `FAIL NAME: what was expected, what came`, `skip NAME: why`; at the end
`N passed, N failed, N skipped`. Exit code 1 when a case failed, 2 when the script could not run, 3 when there are
no namespaces.
"""

import argparse
import ctypes
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

from support.cases import House, Skip, Wrong, ask, await_listener, free_port, install, parse, parser, registry
from support.cases import run_script, wait_for, want, want_match

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


class Watch:
    """A daemon with checks."""

    count = 0

    def __init__(self, house, *checks, file=None, env=None, more=(), port=None):
        Watch.count += 1
        self.house, self.port = house, port or free_port()
        self.file = file
        words = [house.args.daemon, "--listen", f"127.0.0.1:{self.port}", *more]
        words += [word for check in checks for word in ("--check", check)]
        if file:
            words += ["--config", str(file)]
        before = house.env
        house.env = dict(before, **(env or {}))
        try:
            self.process = house.start(f"watch-{Watch.count}", words)
        finally:
            house.env = before
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
        want_match(f"the record of {name}", record, rf"^check {re.escape(name)} fails( after it passed for [^:]*)?: .*{reason}")
        status, text = self.ask(name)
        want(f"the status of {name}", status, 500)
        want_match(f"the answer for {name}", text, reason)
        return record

    def passes(self, name, seconds=PATIENCE):
        record = self.next_state(name, seconds)
        want_match(f"the record of {name}", record, rf"^check {re.escape(name)} passes")
        want(f"the answer for {name}", self.ask(name), (200, "ok"))
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
            want("exit code", self.process.wait(seconds), 0)
        except subprocess.TimeoutExpired:
            raise Wrong(f"expected an end within {seconds} s of SIGTERM, came none") from None
        return supervisor, worker

    def end(self):
        for pid in self.stop():
            wait_for(f"the end of process {pid}", PATIENCE, lambda pid=pid: not runs(pid))


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def anonymous_kib(pid):
    return int(re.search(r"^RssAnon:\s*(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[1])


def fast(text, period="1s", timeout="900ms"):
    return f"{text},period={period},timeout={timeout}"


# ---------------------------------------------------------------------------------------------
# Services


def signal_all(pids, number):
    for pid in pids:
        os.kill(pid, number)


def start_nginx(house, port):
    place = house.dir / "nginx"
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
    process = house.start("nginx", ["nginx", "-p", str(place), "-c", str(place / "nginx.conf")])
    await_listener(process, ("127.0.0.1", port))
    return process


def start_redis(house, port):
    place = house.dir / "redis"
    place.mkdir(exist_ok=True)
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--unixsocket", f"{place}/redis.sock"]
    words += ["--pidfile", f"{place}/redis.pid", "--save", "", "--dir", str(place), "--daemonize", "no"]
    process = house.start("redis", words)
    await_listener(process, ("127.0.0.1", port))
    return process


def service_case(watch, names, start, refused, stopped):
    """SIGKILL, restart, SIGSTOP, SIGCONT. `refused` and `stopped` have the reason of each check that must fail."""
    for name in names:
        watch.passes(name)
    process = start()
    group = [process.pid, *children(process.pid)]
    signal_all(group, signal.SIGKILL)
    process.wait(PATIENCE)
    for name, reason in refused.items():
        watch.fails(name, reason)
    process = start()
    for name in refused:
        watch.passes(name)
    group = [process.pid, *children(process.pid)]
    signal_all(group, signal.SIGSTOP)
    try:
        for name, reason in stopped.items():
            watch.fails(name, reason)
        for name in set(names) - set(stopped):
            want(f"the answer for {name} of a service that is stopped", watch.ask(name), (200, "ok"))
    finally:
        signal_all(group, signal.SIGCONT)
    for name in stopped:
        watch.passes(name)
    process.terminate()
    process.wait(PATIENCE)
    for name in refused:
        watch.next_state(name)


def watch_services(house, name, checks):
    """A check file in which each check is a table, with a short period."""
    file = house.dir / f"{name}.toml"
    defaults = '[defaults]\nperiod = "1s"\ntimeout = "900ms"\nfailure-threshold = 2\n'
    tables = (f"[check.{check}]\n{text}\n" for check, text in checks.items())
    file.write_text(defaults + "".join(tables))
    return Watch(house, file=file)


class Restarted:
    """Starts a service. The first call returns the service that already runs."""

    def __init__(self, start):
        self.start, self.process = start, start()

    def __call__(self):
        process, self.process = self.process or self.start(), None
        return process


@case("nginx is killed, started again, stopped and continued", "nginx")
def _(house):
    port = free_port()
    start = Restarted(lambda: start_nginx(house, port))
    place = house.dir / "nginx"
    url = f"http://127.0.0.1:{port}/ready"
    checks = {
        "web": f'http = "{url}"\ncontains = "all is well"',
        "port": f'tcp = "127.0.0.1:{port}"',
        "socket": f'unix = "{place}/nginx.sock"\nsend = "GET /ready HTTP/1.0\\\\r\\\\n\\\\r\\\\n"\nexpect = "all is well"',
        "main": f'process = "{place}/nginx.pid"',
        "program": 'process = "exe:nginx"\nmin = 2',
    }
    watch = watch_services(house, "nginx", checks)
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
    service_case(watch, checks, start, refused, stopped)
    watch.end()


@case("Redis is killed, started again, stopped and continued", "redis-server", "redis-cli")
def _(house):
    # Regression: a program that was killed at its timeout was reported as one that SIGKILL does not end, because it was
    # not reaped before the next attempt.
    port = free_port()
    start = Restarted(lambda: start_redis(house, port))
    place = house.dir / "redis"
    cli = shutil.which("redis-cli")
    checks = {
        "port": f'tcp = "127.0.0.1:{port}"\nsend = "PING\\\\r\\\\n"\nexpect = "+PONG"',
        "socket": f'unix = "{place}/redis.sock"\nsend = "PING\\\\r\\\\n"\nexpect = "+PONG"',
        "main": f'process = "{place}/redis.pid"',
        "cli": f'exec = ["{cli}", "-p", "{port}", "ping"]\nperiod = "1s"\ntimeout = "900ms"',
    }
    watch = watch_services(house, "redis", checks)
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
    service_case(watch, checks, start, refused, stopped)
    watch.end()


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


def build_beat(house):
    if not LIBSYSTEMD.exists():
        raise Wrong("libsystemd-dev is not installed")
    source, program = house.dir / "beat.c", house.dir / "beat"
    source.write_text(BEAT_C)
    result = house.run(["gcc", "-Wall", "-Werror", "-o", str(program), str(source), "-lsystemd"], seconds=PATIENCE * 4)
    want("gcc", (result.code, result.err), (0, ""))
    program.chmod(0o755)
    return str(program)


def notify(house, socket_name, *words):
    return house.run([str(word) for word in words], seconds=PATIENCE, env=dict(house.env, NOTIFY_SOCKET=str(socket_name)))


def notify_ok(house, socket_name, *words):
    result = notify(house, socket_name, *words)
    want(f"{words}", (result.code, result.out, result.err), (0, "", ""))


@case("systemd-notify, with and without an answer to its barrier", "systemd-notify")
def _(house):
    path = house.dir / "notify.sock"
    watch = Watch(house, f"worker=heartbeat,socket={path},limit=1h")
    watch.fails("worker", "not ready yet")
    want("the mode of the socket", oct(path.stat().st_mode & 0o7777), "0o600")
    # It waits until the receiver has closed the descriptor of the barrier, or for 5 s.
    started = time.monotonic()
    notify_ok(house, path, "systemd-notify", "--ready", "--status=processing")
    watch.passes("worker")
    want("the barrier was answered before the timeout of systemd-notify", time.monotonic() - started < 5, True)
    notify_ok(house, path, "systemd-notify", "--no-block", "STOPPING=1")
    watch.fails("worker", "stopping: processing")
    notify_ok(house, path, "systemd-notify", "--no-block", "--ready")
    watch.passes("worker")
    watch.end()
    want("the file of the socket after the end", path.exists(), False)


@case("a program linked to libsystemd is ready, beats, says its status, triggers and stops", "gcc")
def _(house):
    beat = house.once("beat", build_beat)
    path = house.dir / "beat.sock"
    watch = Watch(house, f"worker=heartbeat,socket={path},limit=2s")
    watch.fails("worker", "not ready yet")
    notify_ok(house, path, beat, "READY=1\nMAINPID=1", "barrier")
    watch.passes("worker")
    watch.fails("worker", r"no heartbeat for \d+ s, limit 2 s")
    notify_ok(house, path, beat, "WATCHDOG=1\nSTATUS=42 jobs")
    watch.passes("worker")
    watch.fails("worker", r"no heartbeat for \d+ s, limit 2 s: 42 jobs")
    notify_ok(house, path, beat, "WATCHDOG=1\nSTATUS=\nWATCHDOG_USEC=3600000000")
    watch.passes("worker")
    notify_ok(house, path, beat, "WATCHDOG=trigger\nSTATUS=a deadlock\nERRNO=11")
    watch.fails("worker", r"watchdog triggered: a deadlock \(errno 11, Resource temporarily unavailable\)")
    notify_ok(house, path, beat, "READY=1")
    watch.passes("worker")
    notify_ok(house, path, beat, "STOPPING=1")
    watch.fails("worker", "stopping")
    watch.end()


@case("healthz beat runs a program linked to libsystemd, which finds the socket and its watchdog", "gcc", "systemd-notify")
def _(house):
    beat = house.once("beat", build_beat)
    path = house.dir / "run.sock"
    watch = Watch(house, f"worker=heartbeat,socket={path},limit=2s")
    watch.fails("worker", "not ready yet")
    command = [house.args.daemon, "beat", "worker", "--socket", path, "--limit", "2s", "--"]
    result = house.run([*map(str, command), beat, "watchdog", "READY=1", "barrier"], seconds=PATIENCE)
    want("a program that is ready", (result.code, result.out, result.err), (0, "watchdog 2000000\n", ""))
    watch.passes("worker")
    watch.fails("worker", r"no heartbeat for \d+ s, limit 2 s")
    result = house.run([*map(str, command), "systemd-notify", "--ready", "--status=reading"], seconds=PATIENCE)
    want("systemd-notify", (result.code, result.out, result.err), (0, "", ""))
    watch.passes("worker")
    watch.fails("worker", r"no heartbeat for \d+ s, limit 2 s: reading")
    watch.end()


@case("messages of another user are refused", "gcc", "setpriv")
def _(house):
    beat = house.once("beat", build_beat)
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", beat]
    private, public, shared = (house.dir / f"{name}.sock" for name in ("private", "public", "shared"))
    watch = Watch(
        house,
        f"private=heartbeat,socket={private},limit=1h",
        f"public=heartbeat,socket={public},mode=0666,limit=1h",
        f"shared=heartbeat,socket={shared},mode=0666,uid=65534,limit=1h",
    )
    for name in ("private", "public", "shared"):
        watch.fails(name, "not ready yet")
    result = notify(house, private, *nobody, "READY=1")
    want("a socket of mode 0600", (result.code, result.out), (1, "READY=1: Permission denied\n"))
    notify_ok(house, public, *nobody, "READY=1")
    watch.logged(r" WARN .*message of user 65534 refused, process \d+")
    want_match("its answer", watch.ask("public")[1], "not ready yet")
    notify_ok(house, shared, *nobody, "READY=1")
    watch.passes("shared")
    notify_ok(house, public, beat, "READY=1")
    watch.passes("public")
    watch.end()


@case("an abstract socket needs uid", "gcc", "setpriv")
def _(house):
    beat = house.once("beat", build_beat)
    result = house.run([house.args.daemon, "--listen", "127.0.0.1:0", "--check", "worker=heartbeat,socket=@beats"])
    want("exit code without uid", result.code, 2)
    want_match("its error", result.err, "uid")
    watch = Watch(house, "worker=heartbeat,socket=@beats,uid=65534,limit=1h")
    watch.fails("worker", "not ready yet")
    other = ["setpriv", "--reuid", "65533", "--regid", "65533", "--clear-groups", beat]
    notify_ok(house, "@beats", *other, "READY=1")
    watch.logged("message of user 65533 refused")
    want("its status", watch.ask("worker")[0], 500)
    notify_ok(house, "@beats", "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", beat, "READY=1")
    watch.passes("worker")
    watch.end()


@case("descriptors that a program sends are closed", "gcc")
def _(house):
    beat = house.once("beat", build_beat)
    path = house.dir / "descriptors.sock"
    watch = Watch(house, f"worker=heartbeat,socket={path},limit=1h")
    watch.fails("worker", "not ready yet")
    notify_ok(house, path, beat, "READY=1", "barrier")
    watch.passes("worker")
    _, worker = watch.sources()
    before = descriptors(worker)
    # The barrier is answered when everything before it was handled.
    for _ in range(5):
        notify_ok(house, path, beat, "descriptors", "barrier")
    # Descriptors whose close(2) can block are closed by a thread.
    wait_for("the descriptors to be closed", PATIENCE, lambda: descriptors(worker) == before)
    watch.end()


# ---------------------------------------------------------------------------------------------
# File systems


def mounted(house, name, *options):
    place = house.dir / name
    place.mkdir()
    shell(house, "mount", *options, str(place))
    return place


def shell(house, *words):
    result = house.run([str(word) for word in words], seconds=PATIENCE)
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


def disk_case(house, place):
    period = 0.5
    check = f"space=disk:{place},period=500ms,timeout=400ms,failure-threshold=2"
    watch = Watch(house, check)
    watch.passes("space")
    fill(place / "large")
    watch.fails("space", rf"{place}: [0-9]\.\d% free, needs 10%")
    (place / "large").unlink()
    freed = time.monotonic()
    # Three successes in a row.
    watch.passes("space")
    want("two periods between three successes", time.monotonic() - freed >= 2 * period - 0.1, True)
    files = place / "files"
    files.mkdir()
    try:
        for number in range(1 << 16):
            (files / str(number)).touch()
    except OSError:
        pass
    watch.fails("space", rf"{place}: [0-4]\.\d% of inodes free, needs 5%")
    shutil.rmtree(files)
    watch.passes("space")
    watch.end()


@case("a tmpfs has no space, and then no inodes", "mount")
def _(house):
    place = mounted(house, "tmpfs", "-t", "tmpfs", "-o", "size=8m,nr_inodes=1000", "none")
    disk_case(house, place)
    shell(house, "umount", place)


def make_ext4(house, name):
    image = house.dir / f"{name}.img"
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    shell(house, "mke2fs", "-q", "-t", "ext4", "-F", "-N", "512", image)
    try:
        return mounted(house, name, "-o", "loop", str(image))
    except Wrong as error:
        raise Skip(f"no loop device: {error}") from None


@case("an ext4 file system on a loop device has no space, and then no inodes", "mount", "mke2fs")
def _(house):
    place = make_ext4(house, "ext4")
    disk_case(house, place)
    shell(house, "umount", place)


@case("a file system is remounted read-only, unmounted and mounted again", "mount")
def _(house):
    place = mounted(house, "data", "-t", "tmpfs", "none")
    period = "period=500ms,timeout=400ms,failure-threshold=1"
    watch = Watch(house, f"data=mount:{place},{period}", f"gone=mount:{place},mounted=false,{period}")
    watch.passes("data")
    watch.fails("gone", f"{place}: mounted, must not be")
    shell(house, "mount", "-o", "remount,ro", place)
    watch.fails("data", f"{place}: mounted read-only, must be writable")
    shell(house, "mount", "-o", "remount,rw", place)
    watch.passes("data")
    shell(house, "umount", place)
    watch.fails("data", f"{place}: not mounted")
    watch.passes("gone")
    shell(house, "mount", "-t", "tmpfs", "none", place)
    watch.passes("data")
    watch.fails("gone", "mounted, must not be")
    watch.end()
    shell(house, "umount", place)


# ---------------------------------------------------------------------------------------------
# A file system that hangs

(LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH, INIT, INTERRUPT, BATCH_FORGET) = (
    1, 2, 3, 14, 15, 17, 18, 25, 26, 36, 42,
)
CONTENT = b"all is well\n"


def fuse(place):
    """Is a file system with one file, `file`. After a line `hang` on standard input it reads requests and prints them,
    but does not answer."""
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
            case 26:
                minor = min(struct.unpack_from("<I", body, 4)[0], 31)
                return 0, struct.pack("<4I2H2I2HI7I", 7, minor, 0, 0, 16, 12, 65536, 1, 0, 0, 0, *[0] * 7)
            case 1 if body.rstrip(b"\0") == b"file":
                # Valid for 0 s, so that the kernel asks each time.
                return 0, struct.pack("<4Q2I", 2, 1, 0, 0, 0, 0) + attributes(2)
            case 1:
                return 2, b""
            case 3:
                return 0, struct.pack("<Q2I", 0, 0, 0) + attributes(node)
            case 17:
                return 0, struct.pack("<5Q4I6I", 1000, 900, 900, 1000, 900, 4096, 255, 4096, 0, *[0] * 6)
            case 14:
                return 0, struct.pack("<Q2I", 1, 1, 0)
            case 15:
                offset, length = struct.unpack_from("<QI", body, 8)
                return 0, CONTENT[offset : offset + length]
            case 18 | 25:
                return 0, b""
            case _:
                return 38, b""

    while True:
        try:
            request = os.read(device, 1 << 18)
        except OSError as error:
            # Unmounted.
            return 0 if error.errno == 19 else 1
        _, opcode, unique, node = struct.unpack_from("<2I2Q", request)
        if opcode in (FORGET, BATCH_FORGET):
            continue
        if state["mode"] != "answer":
            print(f"request {opcode}", flush=True)
            continue
        if opcode == INTERRUPT:
            continue
        errno, text = answer(opcode, node, request[40:])
        os.write(device, struct.pack("<IiQ", 16 + len(text), -errno, unique) + text)


class Hanging:
    """The file system of [`fuse`], mounted."""

    def __init__(self, house, name):
        if not Path("/dev/fuse").exists():
            raise Skip("no /dev/fuse")
        self.house, self.place = house, house.dir / name
        self.place.mkdir()
        self.log = house.dir / f"{name}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, FUSE, str(self.place)],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
            )
        self.process.log = self.log
        house.running.append(self.process)
        self.said(r"^(mounted|error: .*)$")
        if "error" in self.text():
            raise Skip(f"FUSE: {self.text().strip()}")

    def text(self):
        return self.log.read_text("utf-8", "replace")

    def said(self, pattern):
        return wait_for(f"/{pattern}/ of the file system", PATIENCE, lambda: re.search(pattern, self.text(), re.M))

    def change(self, mode):
        """`hang`: reads requests, but does not answer. `deaf`: does not read requests."""
        if mode == "deaf":
            self.process.send_signal(signal.SIGSTOP)
            wait_for("the file system to be stopped", PATIENCE, lambda: stat_of(self.process.pid)[0] == "T")
            return
        self.process.stdin.write(f"{mode}\n".encode())
        self.process.stdin.flush()
        self.said(f"^mode {mode}$")

    def requests(self, opcode):
        return self.text().count(f"request {opcode}\n")

    def end(self):
        self.process.kill()
        self.process.wait(PATIENCE)
        # A lazy unmount, because a process may still wait for the file system.
        self.house.run(["umount", "-l", str(self.place)])


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


def hanging_case(house, mode):
    hanging = Hanging(house, f"hangs-{mode}")
    visited = Visited()
    here = house.dir / f"here-{mode}"
    here.touch()
    period, timeout, slack = 1.0, 0.9, 2.0
    times = f"period=1s,timeout=900ms,failure-threshold=1,success-threshold=1"
    watch = Watch(
        house,
        f"file=file:{hanging.place}/file,contains=well,{times}",
        f"disk=disk:{hanging.place},{times}",
        f"here=file:{here},{times}",
        f"beside=tcp:127.0.0.1:{visited.port},period=200ms,timeout=200ms,failure-threshold=32",
    )
    for name in ("file", "disk", "here", "beside"):
        watch.passes(name)
    _, worker = watch.sources()
    idle = len(os.listdir(f"/proc/{worker}/task"))
    hanging.change(mode)
    began = time.monotonic()
    for name in ("file", "disk"):
        watch.fails(name, r"no result within 900ms|not checked for \d+ s")
        late = time.monotonic() - began - period - timeout - slack
        want(f"{name} fails by its deadline, or {late:.1f} s after it", late <= 0, True)
    # Checks of other files, and checks without files, are still attempted.
    here.unlink()
    removed = time.monotonic()
    watch.fails("here", "does not exist|no such file")
    late = time.monotonic() - removed - period
    want(f"a check of another file fails within its period, or {late:.1f} s after it", late <= 1, True)
    # After some more periods each check still has only one attempt.
    wait_for("five periods", PATIENCE, lambda: time.monotonic() > began + 5)
    want("threads that hang", blocked_threads(worker), 2)
    want("all threads of the worker", len(os.listdir(f"/proc/{worker}/task")) <= idle + 3, True)
    if mode == "hang":
        want("requests of the disk", hanging.requests(STATFS), 1)
        want("requests of the file", hanging.requests(LOOKUP) + hanging.requests(GETATTR) + hanging.requests(OPEN), 1)
    gap = visited.longest_gap(began)
    want(f"the longest time between two connections, {gap:.1f} s", gap <= 0.2 + 1, True)
    want_match("the answer", watch.ask("file")[1], r"no result (within|for)|hang|not checked")
    print(f"  | {mode}: {watch.ask('file')[1]}")
    stopped = time.monotonic()
    left = watch.stop()
    print(f"  | {mode}: healthz has ended {time.monotonic() - stopped:.2f} s after SIGTERM")
    again = Watch(house, port=watch.port)
    house.stop(again.process)
    if mode == "hang":
        # If the file system has read a request, the process ends only when the file system ends.
        hanging.end()
    for pid in left:
        wait_for(f"the end of process {pid}", PATIENCE, lambda pid=pid: not runs(pid))
    want("processes that are left", [pid for pid in left if runs(pid)], [])
    if mode != "hang":
        hanging.end()
    visited.socket.close()


@case("a file system that does not answer fails its checks and delays no other check", "mount")
def _(house):
    hanging_case(house, "hang")


@case("a file system that does not read requests fails its checks and delays no other check", "mount")
def _(house):
    hanging_case(house, "deaf")


# ---------------------------------------------------------------------------------------------
# Processes


def next_number(number):
    """Makes the kernel give this number, if it is free, to the next process of this namespace."""
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(number - 1))


@case("a process number that another process has now fails its check, and so does a zombie", "sleep")
def _(house):
    first = subprocess.Popen(["sleep", "4321"], stdin=subprocess.DEVNULL)
    file = house.dir / "service.pid"
    file.write_text(f"{first.pid}\n")
    written = time.time()
    watch = Watch(house, f"service=process:{file},period=500ms,timeout=400ms")
    watch.passes("service")
    # This script does not wait for it, so it stays a zombie.
    first.kill()
    watch.fails("service", rf"{file}: process {first.pid} is a zombie")
    first.wait()
    wait_for("a check in between", PATIENCE, lambda: "does not run" in watch.ask("service")[1])
    # The times of the two are compared with a slack of 1 s.
    wait_for("time since the file was written", PATIENCE, lambda: time.time() > written + 2)
    second = None
    for _ in range(100):
        next_number(first.pid)
        second = subprocess.Popen(["sleep", "4321"], stdin=subprocess.DEVNULL)
        if second.pid == first.pid:
            break
        second.kill()
        second.wait()
    want("the number of another process", second.pid, first.pid)
    try:
        wait_for(
            "the failure", PATIENCE,
            lambda: watch.ask("service")
            == (500, f"internal server error: {file}: process {first.pid} is another one: it started after this file was written\n"),
        )
        # After the file was written again, its process passes.
        file.write_text(f"{second.pid}\n")
        watch.passes("service")
    finally:
        second.kill()
        second.wait()
    watch.end()


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
def _(house):
    is_synchronised, error = clock_state()
    watch = Watch(house, "clock=clock,period=500ms,timeout=400ms")
    if not is_synchronised:
        watch.fails("clock", "clock is not synchronised")
    elif error > 16:
        watch.fails("clock", r"clock may be wrong by \d+ s, limit 16 s")
    else:
        watch.passes("clock")
    print(f"  | the clock of this machine is {'' if is_synchronised else 'not '}synchronised, error {error:.3f} s")
    watch.end()


# ---------------------------------------------------------------------------------------------
# Programs


def script(house, name, text):
    path = house.dir / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@case("programs that leave children, ignore SIGTERM, print a megabyte or nothing", "sleep")
def _(house):
    forks = script(house, "forks", "sleep 98761 & setsid sleep 98762 & setsid sh -c 'sleep 98763 & exec sleep 98764' & exit 0")
    deaf = script(house, "deaf", "trap '' TERM INT HUP; while :; do sleep 98765; done")
    large = script(house, "large", "head -c 1048576 /dev/zero | tr '\\0' x; exit 3")
    large_ok = script(house, "large-ok", "head -c 1048576 /dev/zero | tr '\\0' x; echo; echo more")
    silent = script(house, "silent", "exit 3")
    killed = script(house, "killed", "kill -SEGV $$")
    times = "period=1s,timeout=900ms,failure-threshold=2"
    watch = Watch(
        house,
        *(f"{path.name}=exec:{path},{times}" for path in (forks, deaf, large, large_ok, silent, killed)),
        f"missing=exec:/nonexistent/program,{times}",
    )
    watch.passes("forks")
    watch.passes("large-ok")
    watch.fails("deaf", rf"{deaf}: no result within 900ms \(it still runs\)")
    watch.fails("large", "x{100,}")
    watch.fails("silent", "exit code 3")
    watch.fails("killed", "killed by signal 11")
    watch.fails("missing", "/nonexistent/program: does not exist")
    status, text = watch.ask("large")
    want("the length of the reason is limited", len(text) < 1024, True)
    want("the length of the record is limited", max(map(len, watch.log().splitlines())) < 2048, True)
    # The children of programs are killed within 1 s, also those with a session of their own.
    sleepers = lambda: [pid for n in range(98761, 98766) for pid in processes_of(str(n))]  # noqa: E731
    oldest = {}
    zombies = {}
    _, worker = watch.sources()
    end = time.monotonic() + 5
    while time.monotonic() < end:
        now = time.monotonic()
        alive = set(sleepers()) - set(processes_of("98765"))
        oldest = {pid: oldest.get(pid, now) for pid in alive}
        dead = {pid for pid in children(worker) if (stat_of(pid) or "?")[0] == "Z"}
        zombies = {pid: zombies.get(pid, now) for pid in dead}
        for what, known in (("left child", oldest), ("zombie", zombies)):
            age = max((now - since for since in known.values()), default=0)
            want(f"a {what} has run for {age:.1f} s", age <= 1, True)
        time.sleep(0.05)
    watch.end()
    wait_for("the end of all programs", PATIENCE, lambda: not sleepers())


@case("what a program prints cannot control a terminal", "sleep")
def _(house):
    nasty = house.dir / "nasty"
    nasty.write_bytes(b"\x1b[31mred\x07 \xff\xfe \xc2\x9b2J \xe2\x80\xae \xe2\x80\xa8 tab\there \"quoted\\\" \x00 end\rline\n[+]ping ok\n")
    program = script(house, "prints", f"cat {nasty}; exit 1")
    watch = Watch(house, f"prints=exec:{program},period=1s,timeout=900ms")
    record = watch.fails("prints", "red")
    raw_log = watch.process.log.read_bytes()
    with socket.create_connection(("127.0.0.1", watch.port), 5) as client:
        client.sendall(b"GET /healthz/prints HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    body = answer.partition(b"\r\n\r\n")[2]
    for what, text in (("the log", raw_log), ("the answer", body)):
        bad = sorted({c for c in text if c < 32 and c != 10 or c == 127})
        want(f"control characters in {what}", bad, [])
        decoded = text.decode("utf-8")
        want(f"other forbidden characters in {what}", re.findall("[\x80-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", decoded), [])
    want("lines of the answer", body.count(b"\n") <= 1, True)
    print(f"  | {record}")
    watch.end()


@case("a program runs as another user", "sleep")
def _(house):
    program = script(house, "identity", 'echo "$(id -u) $(id -g) $(id -G)"; exit 1')
    environment = script(house, "environment", "env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD= | tr '\\n' ' '; pwd; exit 1")
    watch = Watch(
        house,
        f"root=exec:{program},period=1s",
        f"nobody=exec:{program},user=nobody,period=1s",
        f"number=exec:{program},user=4321,period=1s",
        f"unknown=exec:{program},user=not-there,period=1s",
        f"variables=exec:{environment},env=A=b,period=1s",
        env={"SECRET": "in the environment of the daemon"},
    )
    watch.fails("root", "0 0 0")
    watch.fails("nobody", "65534 65534 65534")
    watch.fails("number", "4321 4321 4321")
    watch.fails("unknown", "user not-there: not in /etc/passwd")
    watch.fails("variables", "A=b /$")
    watch.end()


# ---------------------------------------------------------------------------------------------
# Reading the check file again


class Manager:
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
        """The next message with this key, and those before."""
        before = []
        while key not in (message := self.next()):
            before.append(message)
        return message, before


@case("SIGHUP: RELOADING=1 with its time, then READY=1")
def _(house):
    manager = Manager(house, "manager.sock")
    file = house.dir / "reload.toml"
    file.write_text('[check.here]\nfile = "/proc/self/stat"\n')
    watch = Watch(house, file=file, env={"NOTIFY_SOCKET": str(manager.path)})
    manager.until("READY")
    watch.passes("here")

    def reload():
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        watch.process.send_signal(signal.SIGHUP)
        reloading, _ = manager.until("RELOADING")
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        want("the value of RELOADING", reloading["RELOADING"], "1")
        want("MONOTONIC_USEC is now", before <= int(reloading["MONOTONIC_USEC"]) <= after, True)
        want("READY is another message", "READY" in reloading, False)
        ready, between = manager.until("READY")
        want("messages in between with READY or RELOADING", [m for m in between if {"READY", "RELOADING"} & set(m)], [])
        return ready

    file.write_text('[check.here]\nfile = "/proc/self/stat"\n[check.more]\nfile = "/proc/self/status"\n')
    want("READY after a valid file", reload()["READY"], "1")
    want("the new check", watch.ask("more"), (200, "ok"))
    file.write_text('[check.here]\nfile = "/proc/self/stat"\nfle = 1\n')
    want("READY after an invalid file", reload()["READY"], "1")
    watch.logged("was not used; the checks stay as they are")
    want("the checks stay", watch.ask("more"), (200, "ok"))
    file.unlink()
    want("READY after a missing file", reload()["READY"], "1")
    want("the checks stay", watch.ask("more"), (200, "ok"))
    watch.end()


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
            raise Wrong(f"came {head[:20]!r} {body!r}")
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
def _(house):
    manager = Manager(house, "reloads-manager.sock")
    beats = house.dir / "reloads-beats.sock"
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    common = f'[defaults]\nperiod = "1s"\ntimeout = "900ms"\n[check.stable]\ntcp = "127.0.0.1:{port}"\nfailure-threshold = 32\n'
    beating = f'[check.beats]\nheartbeat = true\nuntil-ready = "pass"\nsocket = "{beats}"\nlimit = '
    texts = [
        f'{common}{beating}"1h"\n[check.odd]\nexec = ["/bin/true"]\n',
        f'{common}{beating}"2h"\n[check.even]\ntcp = "127.0.0.1:{port}"\n[check.even2]\nfile = "/proc/self/stat"\n',
    ]
    file = house.dir / "reloads.toml"
    file.write_text(texts[0])
    accepting = threading.Thread(target=accept_all, args=(listener,), daemon=True)
    accepting.start()
    watch = Watch(house, file=file, env={"NOTIFY_SOCKET": str(manager.path)}, more=["--log-level", "warn"])
    manager.until("READY")
    wait_for("all checks", PATIENCE, lambda: ask(watch.port, "/readyz") == (200, "ok"))
    processes = [watch.process.pid, *watch.sources()]
    prober = Prober(watch.port)
    next_file = house.dir / "reloads.toml.next"
    measured = {}
    began = time.monotonic()
    for number in range(1, 1201):
        # The file is renamed into place, so that the daemon never reads a part of it.
        next_file.write_text(texts[number % 2])
        next_file.rename(file)
        watch.process.send_signal(signal.SIGHUP)
        manager.until("RELOADING")
        manager.until("READY")
        if prober.errors or watch.process.poll() is not None:
            break
        if number in (200, 1200):
            measured[number] = [(anonymous_kib(pid), descriptors(pid)) for pid in processes]
    seconds = time.monotonic() - began
    want("errors of the client", prober.end(), [])
    want("processes", [watch.process.pid, *watch.sources()], processes)
    print(f"  | 1,200 reloads in {seconds:.1f} s, {prober.count} probes; anonymous KiB and descriptors of the server,")
    print(f"  | the supervisor and the worker after 200: {measured[200]}, after 1,200: {measured[1200]}")
    for name, before, after in zip(("server", "supervisor", "worker"), measured[200], measured[1200]):
        want(f"{name}: memory after 1,000 more reloads, {before[0]} and {after[0]} KiB", after[0] - before[0] <= 64, True)
        want(f"{name}: descriptors, {before[1]} and {after[1]}", after[1] <= before[1] + 1, True)
    watch.end()
    listener.close()


def accept_all(listener):
    while True:
        try:
            listener.accept()[0].close()
        except OSError:
            return


# ---------------------------------------------------------------------------------------------
# The script itself


class EndsEachCase(House):
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
