#!/usr/bin/env python3
"""Runs healthz under real service managers, with the files of examples/managers.

s6, s6-rc, runit, dinit and OpenRC supervise it, without being PID 1: they start it without root, wait until it is ready,
start it again after it was killed, send SIGHUP after a change of its checks, and stop it with SIGTERM. finit does the
same as PID 1 of a namespace. systemd is not booted. Its tools pass sockets (systemd-socket-activate), send to the same
socket as healthz (systemd-notify) and check the units (systemd-analyze). For the other cases this script acts as the
manager: it receives the messages that healthz sends to NOTIFY_SOCKET.

Debian 12 has neither s6-rc nor dinit. They are tried if they are in PATH, and reported as untried otherwise.

One line for each case: `ok NAME`, `FAIL NAME: expected .., got ..`, `skip NAME: why`; at the end
`N passed, N failed, N skipped`. Exit code 1 when a case failed, 2 when the script could not run.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from support.cases import ROOT, Harness, Skip, Wrong, ask, await_listener, end_of_log, expect, expect_match, free_port
from support.cases import parse, parser, registry, run_script, wait_for

FILES = ROOT / "examples/managers"
# For all cases together.
CASES_SECONDS_MAX = 300
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
    "rc-service": "openrc",
    "supervise-daemon": "openrc",
    "finit": "finit",
    "systemd-socket-activate": "systemd",
    "systemd-notify": "systemd",
    "systemd-analyze": "systemd",
}

# Not in Debian 12. dinit was tried with 0.22.1, s6-rc with 0.5.4.1.
NOT_PACKAGED = ["dinit", "dinitctl", "dinit-check", "s6-rc", "s6-rc-compile", "s6-rc-init"]
# Root, and namespaces of mounts and processes; finit also makes control groups.
NAMESPACES = "namespaces"
UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]

FIRST_CHECK = '[check.first]\nfile = "/"\n'
SECOND_CHECK = '[check.second]\nfile = "/"\n'

case, CASES = registry()


class Service:
    """A file of examples/managers, for this program, this port, and checks of its own.

    As root it runs as the user nobody, because the user healthz may not exist; else as the user of this test."""

    def __init__(self, harness, name):
        self.harness, self.port = harness, free_port()
        self.place = harness.dir / name
        self.place.mkdir()
        # The services run this copy, because the build may be in a directory that only root can enter.
        harness.dir.chmod(0o711)
        self.program = shutil.copy(harness.args.daemon, self.place / "healthz")
        self.checks = self.place / "healthz.toml"
        self.checks.write_text(FIRST_CHECK)
        self.options = f"--listen 127.0.0.1:{self.port} --config {self.checks}"

    def adapt(self, source, target, *changes):
        """Copies a file; each change is a pattern, its replacement, and how often it must match."""
        text = (FILES / source).read_text()
        for pattern, replacement, expected in changes:
            text, count = re.subn(pattern, replacement, text, flags=re.M)
            expect(f"{source}: matches of {pattern}", count, expected)
        target.write_text(text)
        shutil.copymode(FILES / source, target)

    def copy_run(self, source):
        """A service directory of s6, s6-rc or runit."""
        target = self.place / "service"
        shutil.copytree(FILES / source, target)
        user = "nobody" if os.geteuid() == 0 else os.environ.get("USER", str(os.geteuid()))
        drop_root = rf"\1{user} " if os.geteuid() == 0 else ""
        self.adapt(
            f"{source}/run",
            target / "run",
            (r"^exec (nice -n -10 s6-setuidgid |nice -n -10 chpst -u )healthz healthz",
             f"exec {drop_root}{self.program} {self.options}", 1),
            ("-o healthz /run/healthz$", f"-o {user} {self.place}/run", 1),
        )
        return target

    def ask(self, path="/healthz"):
        return ask(self.port, path)

    def pid(self):
        return pid_of(self.harness, self.port)

    def lives(self, await_ready, reload):
        """It is ready, does not run as root, is started again when it was killed, and reads its checks again."""
        await_ready()
        expect("an answer as soon as it is ready", self.ask("/readyz"), (200, "ok"))
        killed_and_started_again(self, await_ready)
        second = self.pid()
        expect("its checks before", self.ask("/readyz/second") == (200, "ok"), False)
        self.checks.write_text(FIRST_CHECK + SECOND_CHECK)
        reload()
        wait_for("the new check", PATIENCE, lambda: self.ask("/readyz/second") == (200, "ok"))
        expect("the process after the reload", self.pid(), second)

    def await_answer(self):
        wait_for("an answer", PATIENCE, lambda: self.ask("/readyz") == (200, "ok"))


def run_ok(harness, what, *command):
    result = harness.run([str(word) for word in command], seconds=PATIENCE)
    if result.code != 0:
        raise Wrong(f"{what}: exit code {result.code}: {result.out.strip()} {result.err.strip()}")
    return result.out


def pid_of(harness, port):
    """The process ID of the healthz whose command line has this address, or None."""
    for process in filter(str.isdecimal, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        except OSError:
            # It has ended meanwhile.
            continue
        if words[0].endswith(b"healthz") and f"127.0.0.1:{port}".encode() in words:
            return int(process)
    return None


def killed_and_started_again(service, await_ready):
    first = wait_for("its process", PATIENCE, service.pid)
    users = re.search(r"^Uid:(.*)$", Path(f"/proc/{first}/status").read_text(), re.M).group(1).split()
    expect("root is among its users", "0" in users, False)
    os.kill(first, signal.SIGKILL)
    wait_for("another process", PATIENCE, lambda: service.pid() not in (None, first))
    await_ready()
    expect("an answer after the restart", service.ask(), (200, "ok"))


S6 = ["s6-supervise", "s6-setuidgid", "s6-svc", "s6-svwait"]


@case("s6 starts it, waits until it is ready, starts it again and stops it", *S6)
def _(harness):
    under_s6(harness, "s6")


@case("s6 does the same with the files of s6-rc", *S6)
def _(harness):
    under_s6(harness, "s6-rc/healthz")


def under_s6(harness, source):
    service = Service(harness, source.replace("/", "-"))
    place = service.copy_run(source)
    harness.start("s6-supervise", ["s6-supervise", str(place)])
    # "ready", which s6 sets after the newline on descriptor 3, and not "up".
    ready = lambda: run_ok(harness, "s6-svwait -U", "s6-svwait", "-U", "-t", PATIENCE * 1000, place)  # noqa: E731
    wait_for("s6-supervise", PATIENCE, lambda: (place / "supervise/control").exists())
    service.lives(ready, lambda: run_ok(harness, "s6-svc -h", "s6-svc", "-h", place))
    run_ok(harness, "s6-svc -d", "s6-svc", "-d", "-wD", "-T", PATIENCE * 1000, place)
    expect_match("s6-svstat", run_ok(harness, "s6-svstat", "s6-svstat", place), r"^down \(exitcode 0\)")
    expect("an answer when it is down", service.ask(), None)
    run_ok(harness, "s6-svc -x", "s6-svc", "-x", place)


@case("s6-rc starts it, waits until it is ready, starts it again and stops it", "s6-svscan", "s6-svwait", "s6-rc", "s6-rc-compile", "s6-rc-init")
def _(harness):
    service = Service(harness, "s6-rc")
    source = service.place / "source"
    source.mkdir()
    service.copy_run("s6-rc/healthz").rename(source / "healthz")
    scan, live = service.place / "scan", service.place / "live"
    scan.mkdir()
    run_ok(harness, "s6-rc-compile", "s6-rc-compile", service.place / "compiled", source)
    scanner = harness.start("s6-svscan", ["s6-svscan", str(scan)])
    wait_for("s6-svscan", PATIENCE, lambda: (scan / ".s6-svscan/control").exists())
    run_ok(harness, "s6-rc-init", "s6-rc-init", "-l", live, "-c", service.place / "compiled", scan)
    # It ends when the service is ready.
    run_ok(harness, "s6-rc start", "s6-rc", "-l", live, "-u", "change", "healthz")
    place = live / "servicedirs/healthz"
    ready = lambda: run_ok(harness, "s6-svwait -U", "s6-svwait", "-U", "-t", PATIENCE * 1000, place)  # noqa: E731
    service.lives(ready, lambda: run_ok(harness, "s6-svc -h", "s6-svc", "-h", place))
    run_ok(harness, "s6-rc stop", "s6-rc", "-l", live, "-d", "change", "healthz")
    expect_match("s6-svstat", run_ok(harness, "s6-svstat", "s6-svstat", place), r"^down \(exitcode 0\)")
    expect("an answer when it is down", service.ask(), None)
    expect_match("its log", end_of_log(scanner, 3000), r"stopped: \d+ requests answered")
    run_ok(harness, "s6-svscanctl", "s6-svscanctl", "-t", scan)
    expect("exit code of s6-svscan", scanner.wait(PATIENCE), 0)


# Those that healthz could use, from dinit-service(5) of 0.22.1.
DINIT_PROPERTIES = {
    "type", "command", "run-as", "restart", "smooth-recovery", "restart-delay", "restart-limit-interval",
    "restart-limit-count", "stop-timeout", "ready-notification", "log-type", "logfile", "nice",
}


@case("the dinit service is well-formed")
def _(harness):
    lines = [line for line in (FILES / "dinit/healthz").read_text().splitlines() if line[:1] not in ("", "#")]
    properties = dict(line.split(" = ") for line in lines)
    expect("unknown properties", set(properties) - DINIT_PROPERTIES, set())
    expect("run-as", properties["run-as"], "healthz")
    descriptor = properties["ready-notification"].removeprefix("pipefd:")
    expect("command", properties["command"], f"/usr/bin/healthz --ready-fd {descriptor}")


@case("dinit starts it, waits until it is ready, starts it again and stops it", "dinit", "dinitctl", "dinit-check", "root")
def _(harness):
    service = Service(harness, "dinit")
    services, control = service.place / "services", service.place / "control"
    services.mkdir()
    service.adapt(
        "dinit/healthz",
        services / "healthz",
        ("^command = /usr/bin/healthz ", f"command = {service.program} {service.options} ", 1),
        ("^run-as = healthz$", "run-as = nobody", 1),
    )
    (services / "boot").write_text("type = internal\n")
    run_ok(harness, "dinit-check", "dinit-check", "-d", services, "healthz")
    manager = harness.start("dinit", ["dinit", "--services-dir", str(services), "--socket-path", str(control)])
    wait_for("dinit", PATIENCE, control.exists)
    ctl = lambda *words: run_ok(harness, f"dinitctl {words[0]}", "dinitctl", "-p", control, *words)  # noqa: E731
    # It ends when the service is ready.
    ctl("start", "healthz")
    expect("an answer as soon as it is ready", service.ask("/readyz"), (200, "ok"))
    service.lives(service.await_answer, lambda: ctl("signal", "HUP", "healthz"))
    expect_match("its state", ctl("status", "healthz"), "State: STARTED")
    ctl("stop", "healthz")
    expect("an answer when it is down", service.ask(), None)
    expect_match("its log", ctl("catlog", "healthz"), r"stopped: \d+ requests answered")
    ctl("shutdown")
    expect("exit code of dinit", manager.wait(PATIENCE), 0)


def first_process(started):
    """PID 1 of the namespace that `unshare` made."""
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
    return int(wait_for("a process in the namespace", PATIENCE, lambda: children.read_text().split())[0])


# OpenRC keeps its state in /run and finds services in /etc/init.d. `openrc` makes these directories at boot.
OPENRC = """\
set -e
mount -t tmpfs none /run
mount --bind "$1" /etc/init.d
cd /run
mkdir -p lock openrc
(cd openrc && mkdir started starting stopping inactive wasinactive failed hotplugged daemons options exclusive scheduled tmp)
touch openrc/softlevel "$1/is-prepared"
# Reaps the processes of services.
while :; do sleep 1000 & wait; done
"""


@case("OpenRC starts it, waits until it is ready, starts it again and stops it", "rc-service", "supervise-daemon", NAMESPACES)
def _(harness):
    service = Service(harness, "openrc")
    services = service.place / "services"
    services.mkdir()
    log = service.place / "log"
    service.adapt(
        "openrc/healthz",
        services / "healthz",
        ("^command=/usr/bin/healthz$", f'command={service.program}\ncommand_args="{service.options}"', 1),
        ("^command_user=healthz:healthz$", "command_user=nobody:nogroup", 1),
        ("^url=http://localhost:10248/", f"url=http://127.0.0.1:{service.port}/", 1),
        ("^error_log=.*$", f"error_log={log}", 1),
        (r"\bhealthz probe ", f"{service.program} probe ", 2),
        # So that the case does not take minutes.
        ("^healthcheck_timer=60$", "healthcheck_timer=1", 1),
        ("probe --timeout 5s ", "probe --timeout 500ms ", 1),
        ("^retry=.SIGTERM/10/", 'retry="SIGTERM/1/', 1),
    )
    namespace = harness.start("openrc", [*UNSHARE, "sh", "-c", OPENRC, "openrc", str(services)])
    wait_for("OpenRC's directories", PATIENCE, (services / "is-prepared").exists)
    enter = ["nsenter", "-t", str(first_process(namespace)), "--mount", "--pid"]
    rc = lambda word: run_ok(harness, f"rc-service {word}", *enter, "rc-service", "healthz", word)  # noqa: E731
    # It ends when the service answers.
    rc("start")
    expect("an answer as soon as it is ready", service.ask("/readyz"), (200, "ok"))
    service.lives(service.await_answer, lambda: rc("reload"))
    expect_match("its state", rc("status"), "started")
    owner = run_ok(harness, "stat", *enter, "stat", "--format=%U", "/run/healthz")
    expect("owner of /run/healthz", owner, "nobody\n")
    # healthcheck notices a process that hangs.
    hung = service.pid()
    os.kill(hung, signal.SIGSTOP)
    wait_for("another process in place of one that hangs", PATIENCE, lambda: service.pid() not in (None, hung))
    service.await_answer()
    rc("stop")
    expect("an answer when it is down", service.ask(), None)
    expect_match("its log", log.read_text(), r"stopped: \d+ requests answered")
    harness.stop(namespace)


class ControlGroup:
    """A control group whose name begins as the test's directory, for a manager that makes others below it."""

    def __init__(self, name):
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        self.root = next(Path(mount[1]) for mount in mounts if mount[2] == "cgroup2")
        self.place = self.root / name
        self.place.mkdir()
        self.enter = ["sh", "-c", f'echo $$ >"{self.place}/cgroup.procs"; exec "$@"', "enter"]

    def remove(self):
        def is_removed():
            try:
                for place, _, _ in os.walk(self.place, topdown=False):
                    os.rmdir(place)
            except OSError:
                # Its last processes are ending.
                return False
            return True

        wait_for("the end of all processes of the control group", PATIENCE, is_removed)


# Debian keeps it out of PATH.
INITCTL = ["env", "PATH=/usr/sbin:/usr/bin:/usr/lib/finit", "initctl", "--plain"]


# finit mounts what it needs, and ends all processes when it ends; so it gets a root directory and namespaces of its own.
FINIT = """\
set -e
cd "$1"
mkdir usr proc sys dev tmp root run var var/log
for name in bin sbin lib lib64; do ln -s usr/$name $name; done
ln -s ../run var/run
mount --bind -o ro /usr usr
mount -t tmpfs none dev
for name in null zero random urandom; do touch dev/$name; mount --bind /dev/$name dev/$name; done
touch dev/console etc/fstab
cp /etc/passwd /etc/group /etc/nsswitch.conf /etc/ld.so.cache etc/
mount -t proc none proc
exec chroot . /sbin/finit
"""


@case("finit as PID 1 starts it, starts it again and stops it", "finit", NAMESPACES)
def _(harness):
    service = Service(harness, "finit")
    (service.place / "etc/finit.d").mkdir(parents=True)
    # finit gets this root directory. It does not know the name of a service whose program is in /.
    (service.place / "srv").mkdir()
    service.program = shutil.move(service.program, service.place / "srv")
    service.options = f"--listen 127.0.0.1:{service.port} --config /healthz.toml"
    version = re.search(r"^Finit (\d+)\.(\d+)", run_ok(harness, "finit -v", "finit", "-v"))
    has_notify = (int(version[1]), int(version[2])) >= (4, 4)
    service.adapt(
        "finit/healthz.conf",
        service.place / "etc/finit.d/healthz.conf",
        ("/usr/bin/healthz ", f"/srv/healthz {service.options} ", 2),
        ("@healthz:healthz ", "@nobody:nogroup ", 2),
        ("-o healthz /run/healthz ", "-o nobody /run/healthz ", 1),
        *([] if has_notify else [("^service ", "# service ", 1), ("^#service ", "service ", 1)]),
    )
    (service.place / "etc/finit.conf").write_text("runlevel 2\n")
    group = ControlGroup(f"{harness.dir.name}-finit")
    spaces = ["--net", "--uts", "--ipc", "--cgroup"]
    manager = harness.start("finit", [*group.enter, *UNSHARE, *spaces, "sh", "-c", FINIT, "finit", str(service.place)])
    try:
        under_finit(harness, service, manager, has_notify)
    finally:
        harness.stop(manager)
        group.remove()


def under_finit(harness, service, manager, has_notify):
    enter = ["nsenter", "-t", str(first_process(manager)), "--all", "--root", "--wd=/"]
    initctl = lambda *words: run_ok(harness, f"initctl {words[0]}", *enter, *INITCTL, *words)  # noqa: E731

    def ask_inside(path="/healthz"):
        """As `ask`; if the answer is not healthy, with the exit code of `healthz probe` in place of the status."""
        result = harness.run([*enter, "/srv/healthz", "probe", "-v", f"http://127.0.0.1:{service.port}{path}"])
        return (200, result.out.rstrip()) if result.code == 0 else (result.code, result.out)

    service.ask = ask_inside
    service.await_answer()
    # finit listens for initctl after it has started the services.
    wait_for("finit", PATIENCE, lambda: harness.run([*enter, *INITCTL, "status"]).code == 0)
    expect_match("its state", initctl("status", "healthz"), r"Status : running")
    owner = run_ok(harness, "stat", *enter, "stat", "--format=%U", "/run/healthz")
    expect("owner of /run/healthz", owner, "nobody\n")
    if has_notify:
        expect_match("its readiness", initctl("cond", "dump"), r" on +<service/healthz/ready>")
    service.lives(service.await_answer, lambda: initctl("reload", "healthz"))
    initctl("stop", "healthz")
    wait_for("its end", PATIENCE, lambda: "stopped" in initctl("status", "healthz"))
    # No answer.
    expect("an answer when it is down", service.ask()[0], 3)
    expect_match("its log", end_of_log(manager, 3000), r"stopped: \d+ requests answered")


@case("s6 considers a service ready when healthz probe in ./data/check exits with 0", "s6-supervise", "s6-notifyoncheck", "s6-svwait")
def _(harness):
    port = free_port()
    place = harness.dir / "s6-check"
    (place / "data").mkdir(parents=True)
    gate = harness.dir / "gate"
    url = f"http://127.0.0.1:{port}/healthz"
    # The service is a healthz, which fails until the file is there.
    serve = f"{harness.args.daemon} --listen 127.0.0.1:{port} --check gate=file:{gate},period=100ms"
    for name, text in (
        ("run", f"exec s6-notifyoncheck -s 0 -w 50 -n 0 -T 0 {serve}"),
        ("data/check", f"exec {harness.args.daemon} probe {url}"),
    ):
        (place / name).write_text(f"#!/bin/sh\n{text}\n")
        (place / name).chmod(0o755)
    (place / "notification-fd").write_text("3\n")
    harness.start("s6-supervise-check", ["s6-supervise", str(place)])
    wait_for("its first answer", PATIENCE, lambda: ask(port))
    expect("the answer", ask(port)[0], 500)
    soon = ["s6-svwait", "-U", "-t", "500", str(place)]
    expect("ready although it fails", harness.run(soon, seconds=PATIENCE).code == 0, False)
    gate.touch()
    run_ok(harness, "s6-svwait -U", "s6-svwait", "-U", "-t", PATIENCE * 1000, place)
    expect("the answer", ask(port), (200, "ok"))
    run_ok(harness, "s6-svc", "s6-svc", "-d", "-x", place)


@case("runit starts it, checks it, starts it again and stops it", "runsv", "chpst", "sv")
def _(harness):
    service = Service(harness, "runit")
    place = service.copy_run("runit")
    service.adapt(
        "runit/check",
        place / "check",
        ("^exec healthz probe ", f"exec {service.program} probe ", 1),
        ("localhost:10248", f"127.0.0.1:{service.port}", 1),
    )
    harness.start("runsv", ["runsv", str(place)])
    wait_for("runsv", PATIENCE, lambda: (place / "supervise/ok").exists())
    # `check` runs ./check until it ends with 0.
    check = lambda: run_ok(harness, "sv check", "sv", "-w", PATIENCE, "check", place)  # noqa: E731
    service.lives(check, lambda: run_ok(harness, "sv hup", "sv", "hup", place))
    # SIGTERM; `force-stop` would kill it after the time, and then say so.
    expect_match("sv stop", run_ok(harness, "sv stop", "sv", "-w", PATIENCE, "stop", place), r"^ok: down")
    expect("an answer when it is down", service.ask(), None)
    expect_match("its log", end_of_log(harness.running[-1], 3000), r"stopped: \d+ requests answered")
    run_ok(harness, "sv exit", "sv", "exit", place)


@case("systemd-socket-activate hands over its sockets", "systemd-socket-activate")
def _(harness):
    ports = [free_port(), free_port()]
    path = harness.dir / "activated.sock"
    listen = [f"--listen=127.0.0.1:{port}" for port in ports] + [f"--listen={path}"]
    # The daemon gets no environment except the variables of systemd-socket-activate.
    p = harness.start("activate", ["systemd-socket-activate", *listen, harness.args.daemon])
    # The first connection starts the daemon, and is answered by it.
    wait_for("the first answer", PATIENCE, lambda: ask(ports[0]) == (200, "ok"))
    expect("the second socket", ask(ports[1], "/livez"), (200, "ok"))
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    expect("the Unix socket", answer.endswith(b"\r\n\r\nok"), True)
    wait_for("its log", PATIENCE, lambda: "serving /healthz" in end_of_log(p, 3000))
    # The third address, after `and`, is the last. So it does not listen on the default port in addition.
    addresses = rf"on http://127\.0\.0\.1:{ports[0]}, http://127\.0\.0\.1:{ports[1]} and "
    expect_match("its log", end_of_log(p, 3000), addresses)
    expect("lines that list its addresses", len(re.findall("serving /healthz.* on ", end_of_log(p, 3000))), 1)
    p.terminate()
    expect("exit code", p.wait(PATIENCE), 0)
    expect("the file of a socket that was passed is kept", path.exists(), True)


class Receiver:
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
        """The next datagram with that key, and the number of watchdog beats before it."""
        beats = 0
        while key not in (message := self.next()):
            beats += message.get("WATCHDOG") == "1"
        return message, beats


@case("systemd-notify and healthz send the same READY=1", "systemd-notify")
def _(harness):
    receiver = Receiver(harness, "both.sock")
    environment = dict(harness.env, NOTIFY_SOCKET=str(receiver.path))
    command = ["systemd-notify", "--no-block", "--ready", "--status=healthz passes"]
    expect("systemd-notify", harness.run(command, env=environment).code, 0)
    theirs = receiver.next()
    port = free_port()
    harness.env["NOTIFY_SOCKET"] = str(receiver.path)
    try:
        p = harness.start("notifying", [harness.args.daemon, "--listen", f"127.0.0.1:{port}"])
    finally:
        del harness.env["NOTIFY_SOCKET"]
    expect("the message", receiver.next(), theirs)
    harness.stop(p)


@case("a manager gets WATCHDOG=1, STATUS= with the failing checks, and STOPPING=1")
def _(harness):
    receiver = Receiver(harness, "watchdog.sock")
    port = free_port()
    reader, writer = os.pipe()
    environment = dict(harness.env, NOTIFY_SOCKET=str(receiver.path), WATCHDOG_USEC="200000")
    command = [harness.args.daemon, "--listen", f"127.0.0.1:{port}", "--log-limit", "400ms"]
    p = subprocess.Popen(
        [*command, "--sync-period", "1ms", "--log-level", "trace"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=writer, env=environment, cwd=harness.dir,
    )
    p.log = harness.dir / "watchdog.log"
    p.log.touch()
    harness.running.append(p)
    os.close(writer)
    expect("ready", receiver.next(), {"READY": "1", "STATUS": "healthz passes"})
    await_listener(p, ("127.0.0.1", port))
    # The pipe fills because it is not read. Beats end when /healthz fails, and not before.
    failing, beats = receiver.until("STATUS")
    expect("status", failing["STATUS"], "healthz fails: log (logging blocked)")
    expect("beats before it", beats >= 2, True)
    expect("the answer", ask(port)[0], 500)
    receiver.socket.settimeout(1)
    try:
        raise Wrong(f"while /healthz fails: expected no message, got {receiver.socket.recv(4096)!r}")
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
    expect("status when /healthz passes again", passing, b"STATUS=healthz passes")
    os.close(reader)
    p.terminate()
    receiver.socket.settimeout(PATIENCE)
    stopping, _ = receiver.until("STOPPING")
    expect("the end", stopping, {"STOPPING": "1", "STATUS": "shutting down"})
    expect("exit code", p.wait(PATIENCE), 0)


@case("systemd-analyze accepts the units", "systemd-analyze")
def _(harness):
    judge_units(harness, harness.dir / "units")


@case("systemd-analyze accepts the unit with the drop-in for checks", "systemd-analyze")
def _(harness):
    place = harness.dir / "units-with-checks"
    shutil.copytree(FILES / "healthz.service.d", place / "healthz.service.d")
    judge_units(harness, place)


def judge_units(harness, place):
    place.mkdir(exist_ok=True)
    for unit in ("healthz.service", "healthz.socket"):
        text = (FILES / unit).read_text()
        expect(f"{unit} runs /usr/bin/healthz", "/usr/bin/healthz" in text, unit.endswith(".service"))
        (place / unit).write_text(text.replace("/usr/bin/healthz", harness.args.daemon))
    units = [str(place / "healthz.service"), str(place / "healthz.socket")]
    # It exits with 0 even for an unknown key, and prints a warning.
    result = harness.run(["systemd-analyze", "verify", "--man=no", *units], seconds=PATIENCE)
    expect("systemd-analyze verify", (result.code, result.out + result.err), (0, ""))
    result = harness.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", units[0]], seconds=PATIENCE
    )
    expect_match("systemd-analyze security", result.out, "Overall exposure level")
    expect("its exit code", result.code, 0)


def has_namespaces():
    command = [*UNSHARE, "--net", "--uts", "--ipc", "--cgroup", "mount", "-t", "tmpfs", "none", "/run"]
    return os.geteuid() == 0 and subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


class WithNamespaces(Harness):
    def require(self, needs):
        # What a machine with Debian 12 cannot install.
        lacks = [need for need in needs if need in NOT_PACKAGED and not self.which(need)]
        if "root" in needs and os.geteuid() != 0:
            lacks.append("root")
        if NAMESPACES in needs and not self.once(NAMESPACES, lambda _: [has_namespaces()])[0]:
            lacks.append(NAMESPACES)
        if lacks:
            raise Skip(f"no {', '.join(lacks)}")
        super().require([need for need in needs if need in PACKAGES])


def main():
    return run_script(parse(parser(__doc__)), PACKAGES, CASES, CASES_SECONDS_MAX, WithNamespaces)


if __name__ == "__main__":
    sys.exit(main())
