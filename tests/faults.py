#!/usr/bin/env python3
"""Makes system calls and resources of the real daemon fail, and checks that it recovers without a restart.

strace makes system calls fail, prlimit sets limits, a small tmpfs is a full disk, networks are namespaces, and
slowhttptest attacks with slow clients. After each fault, probes must be answered again. The counters that the daemon
logs when it stops must show the fault.

One line for each case: `ok NAME` (and figures, if it has some), `FAIL NAME: expected .., got ..`,
`skip NAME: why`; at the end `N passed, N failed, N skipped`. Exit code 1 when a case failed, 2 when the script could
not run. Namespaces, mounts and other users need root. Without it, or if the kernel refuses them, their cases are
skipped; with --require they fail.
"""

import contextlib
import csv
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

# Otherwise the next import would write a directory of bytecode.
sys.dont_write_bytecode = True

import support.cases
from support.cases import Missing, Wrong, expect, expect_match, parse, parser, registry, run_script, short, wait_for

# For all cases together, without installing.
CASES_SECONDS_MAX = 120
PROBE_SECONDS = 5
PACKAGES = {"strace": "strace", "ip": "iproute2", "slowhttptest": "slowhttptest"}

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
POST = (
    b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n0\r\n\r\n"
)


# ---------------------------------------------------------------------------------------------
# The daemon, and requests to it.


class Harness(support.cases.Harness):
    """The temporary directory, and the processes of a case, which are ended with it."""

    def __init__(self, *args):
        super().__init__(*args)
        self.dir.chmod(0o755)
        self.count = 0
        self.case = contextlib.ExitStack()
        help_text = self.run([self.args.daemon, "--help"]).stdout
        # strace replaces a call that it makes fail, and the daemon's filter for system calls would see the other call.
        self.plain = ["--no-sandbox"] if "--no-sandbox" in help_text else []

    def run(self, argv, seconds=20, **more):
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, **more
        )

    def sh(self, *argv):
        result = self.run(argv)
        if result.returncode:
            raise Missing(f"{' '.join(argv)}: {result.stderr.strip()}")
        return result.stdout

    def daemon(self, *args, **more):
        return Daemon(self, args, **more)

    def end_case(self):
        self.case.close()

    def clean_up(self):
        self.case.close()
        super().clean_up()


class Daemon:
    """One daemon whose log is a file: `log`, or one in the temporary directory."""

    def __init__(
        self, harness, args=(), listen="127.0.0.1:0", prefix=(), log=None, plain=False, program=None, env=None, **more
    ):
        harness.count += 1
        self.harness = harness
        self.log = log or harness.dir / f"daemon-{harness.count}.log"
        argv = [*prefix, program or harness.args.daemon, *(harness.plain if plain else ())]
        argv += ["--listen", listen] if listen else []
        with open(self.log, "ab") as f:
            self.process = subprocess.Popen(
                [*argv, *args],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=f,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"} | (env or {}),
                start_new_session=True,
                **more,
            )
        self.pid = self.process.pid
        harness.case.callback(self.kill)
        self.port = int(self.wait_for_log(r"http://(?:127\.0\.0\.1|[0-9.]+|\[[0-9a-f:]+\]):(\d+)")[1])

    def text(self):
        return Path(self.log).read_text("utf-8", "replace")

    def wait_for_log(self, pattern, seconds=10):
        def look():
            match = re.search(pattern, self.text())
            if not match and self.process.poll() is not None:
                raise Wrong(f"daemon: expected /{pattern}/, got exit {self.process.returncode}: {short(self.text())}")
            return match

        return wait_for(f"a log line /{pattern}/ ({short(self.text()[-300:])})", seconds, look)

    def stop(self):
        """Stops it with SIGTERM. Returns the counters of its last log line as {name: count}."""
        self.process.terminate()
        code = self.process.wait(10)
        expect("exit code", code, 0)
        last = re.search(r"stopped: (.*)", self.text())
        if not last:
            raise Wrong(f"daemon: expected its last log line with counters, got {short(self.text()[-300:])}")
        words = last[1].replace(" requests answered on ", " answered, ").replace(" connections", " accepted")
        return {what: int(count) for count, what in (part.split(" ") for part in words.split(", "))}

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(5)

    def connect(self, timeout=PROBE_SECONDS):
        stream = socket.create_connection(("127.0.0.1", self.port), timeout)
        self.harness.case.callback(stream.close)
        return stream

    def ask(self, request=LAST, timeout=PROBE_SECONDS):
        """One request on a connection of its own. Returns the answer with any status."""
        with self.connect(timeout) as stream:
            stream.sendall(request)
            return rest(stream)

    def probe(self, count=1, what="a probe"):
        for _ in range(count):
            answer = self.ask()
            if not (answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\nok")):
                raise Wrong(f"{what}: expected ok, got {short(answer)}")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def status(self, name):
        return int(re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text(), re.M)[1])


def rest(stream):
    answer = b""
    while piece := stream.recv(65536):
        answer += piece
    return answer


def answer_on(stream):
    """One answer on a connection that stays open."""
    answer = b""
    while not answer.endswith(b"\r\n\r\nok"):
        piece = stream.recv(1)
        if not piece:
            raise Wrong(f"a kept connection: expected an answer, got its end after {short(answer)}")
        answer += piece
    return answer


def reset(stream):
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


# ---------------------------------------------------------------------------------------------
# Cases.

case, CASES = registry()


def threads(daemon):
    return [int(name) for name in os.listdir(f"/proc/{daemon.pid}/task")]


def thread_of(daemon, wanted):
    for thread in threads(daemon):
        name = Path(f"/proc/{daemon.pid}/task/{thread}/comm").read_text().strip()
        if thread != daemon.pid and name == wanted:
            return thread
    raise Wrong(f"threads: expected one named {wanted}, got none")


def server_thread(daemon):
    """The server thread. The main thread has the same name, and is not it."""
    return thread_of(daemon, "healthz")


@contextlib.contextmanager
def injected(daemon, calls, fault, when, thread=None):
    """In this context `calls` fail with `fault`, in all threads or in `thread`. `when` counts the calls of each thread
    from the start of the context."""
    log = daemon.harness.dir / f"strace-{daemon.harness.count}-{calls}-{fault}.log".replace(":", "-")
    argv = ["strace", "-qq", "-o", str(log), "-p", str(thread or daemon.pid), *([] if thread else ["-f"])]
    argv += ["-e", f"trace={calls}", "-e", f"inject={calls}:{fault}:when={when}"]
    tracer = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def is_attached():
        if daemon.process.poll() is not None:
            raise Wrong(f"daemon: expected it to keep running, got exit {daemon.process.returncode}: {short(daemon.text())}")
        if tracer.poll() is not None:
            raise Missing(f"strace cannot attach: {tracer.stderr.read().strip()}")
        tasks = [thread] if thread else threads(daemon)
        states = [Path(f"/proc/{daemon.pid}/task/{task}/status").read_text() for task in tasks]
        # strace stops each thread once. The kernel would deliver a signal to another thread than a stopped one.
        return all(re.search(r"(?s)^State:\s+[^t].*^TracerPid:\s+[1-9]", state, re.M) for state in states)

    try:
        wait_for("strace attaching", 10, is_attached)
        # A thread can be seized and not yet stopped.
        time.sleep(0.1)
        wait_for("strace attaching", 10, is_attached)
        yield
    finally:
        if tracer.poll() is None:
            tracer.terminate()
        tracer.wait(10)
        tracer.stderr.close()
    if "(INJECTED)" not in log.read_text():
        raise Wrong(f"{calls} {fault}: expected it to be injected, but it was never called")


SHORT = ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM")
# With these errors a connection is counted as aborted. EINTR takes no connection.
GONE = ("ECONNABORTED", "EPROTO", "EPERM", "ENETDOWN")
PASSING = (*GONE, "EINTR")


def accept_fails(error, is_short):
    def run(harness):
        daemon = harness.daemon(plain=True)
        kept = daemon.connect()
        kept.sendall(GET)
        answer_on(kept)
        with injected(daemon, "accept4", f"error={error}", "1..3"):
            # Open connections are served while accepting is paused.
            kept.sendall(GET)
            answer_on(kept)
            daemon.probe(3, f"a probe while accept fails with {error}")
        daemon.probe(3, f"a probe after {error}")
        counted = daemon.stop()
        lines = daemon.text().count("cannot accept connections")
        expect("lines about the pause", lines, 1 if is_short else 0)
        expect("pauses that it counted", counted.get("pauses", 0), 1 if is_short else 0)
        if is_short and error not in daemon.text():
            raise Wrong(f"log: expected {error} by name, got {short(daemon.text())}")
        expect("aborted", counted.get("aborted", 0), 3 if error in GONE else 0)
        expect("accepted", counted["accepted"], 7)

    case(f"accept fails three times with {error}", "strace")(run)


for _error in SHORT:
    accept_fails(_error, True)
for _error in PASSING:
    accept_fails(_error, False)


@case("accept always fails with ENOBUFS for a second, and then works", "strace")
def accept_stays_short(harness):
    daemon = harness.daemon(plain=True)
    waiting = daemon.connect()
    with injected(daemon, "accept4", "error=ENOBUFS", "1+"):
        waiting.sendall(LAST)
        daemon.wait_for_log("ENOBUFS")
        before = cpu_ticks(daemon)
        time.sleep(1)
        # In a second it tries ten times. More CPU time means that it loops without a pause.
        spent = cpu_ticks(daemon) - before
        if spent > 30:
            raise Wrong(f"a second of ENOBUFS: expected at most 300 ms of CPU time, got {spent * 10} ms")
    expect_ok("the client that waited", rest(waiting))
    daemon.probe(3)
    expect("pauses", daemon.stop().get("pauses"), 1)
    expect("lines about it in the log", daemon.text().count("cannot accept connections"), 1)


def cpu_ticks(daemon):
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def expect_ok(what, answer):
    if not (answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"ok")):
        raise Wrong(f"{what}: expected ok, got {short(answer)}")


# A call, its error, which calls fail, how many connections are lost, and the thread if it is not all.
CALLS = (
    ("recvfrom", "EINTR", "1..5", 0),
    ("sendto", "EINTR", "1..5", 0),
    ("sendto", "EAGAIN", "1", 0),
    # Every other call, but not until the end: if strace detaches during an injected call, that call fails with ENOSYS.
    ("epoll_wait", "EINTR", "1..21+2", 0),
    ("shutdown", "ENOTCONN", "1..2", 0),
    # close(2) is not retried after an error: the number may belong to another descriptor by then.
    ("close", "EINTR", "1..2", 0, server_thread),
    ("close", "EIO", "1..2", 0, server_thread),
    # Only in the server thread: the main thread also calls recvfrom, for the bytes of its signal handlers.
    ("recvfrom", "ECONNRESET", "1", 1, server_thread),
    ("recvfrom", "ETIMEDOUT", "1", 1, server_thread),
    ("recvfrom", "ENOBUFS", "1", 1),
    ("recvfrom", "ENOMEM", "1", 1),
    ("sendto", "EPIPE", "1", 1),
    ("sendto", "ECONNRESET", "1", 1),
    ("sendto", "ENOBUFS", "1", 1),
    ("epoll_ctl", "ENOMEM", "1..3", 3),
    ("epoll_ctl", "ENOSPC", "1..3", 3),
)


def call_fails(call, error, when, lost_expected, thread=lambda _: None):
    def run(harness):
        daemon = harness.daemon("--sync-period", "1s", plain=True)
        with injected(daemon, call, f"error={error}", when, thread(daemon)):
            lost = 0
            for round_ in range(6):
                # The connection stays open, so that it is registered with epoll. The request is sent in two parts, so
                # that the server reads twice.
                try:
                    with daemon.connect() as stream:
                        stream.sendall(GET[:9])
                        time.sleep(0.01)
                        stream.sendall(GET[9:])
                        answer_on(stream)
                        stream.sendall(LAST)
                        expect_ok(f"round {round_}", rest(stream))
                except (Wrong, OSError):
                    lost += 1
            expect(f"connections lost while {call} fails with {error}", lost, lost_expected)
        daemon.probe(3, f"a probe after {error} of {call}")
        expect("connections that failed, as it counted", daemon.stop().get("failed", 0), lost)
        expect("warnings", daemon.text().count(" WARN "), 1 if call == "epoll_ctl" else 0)

    case(f"{call} fails with {error}", "strace")(run)


for _call in CALLS:
    call_fails(*_call)


@case("write fails with EINTR, and no record of the log is lost", "strace")
def interrupted_log(harness):
    daemon = harness.daemon("--log-level", "trace", "--sync-period", "100ms", plain=True)
    rounds = lambda: daemon.text().count("TRACE")
    with injected(daemon, "write", "error=EINTR", "1..41+2", thread_of(daemon, "log")):
        before = rounds()
        wait_for("five rounds of the sync loop in the log", 10, lambda: rounds() >= before + 5)
        daemon.probe(3)
        # strace stays until the thread is gone: a write in which it detaches would fail with ENOSYS.
        daemon.stop()
    expect("lines that are not whole records", re.findall(r"^(?!\d{4}-\S+Z [A-Z]+ +healthz).+", daemon.text(), re.M), [])
    expect("dropped", daemon.text().count("dropped"), 0)


@case("every other epoll_wait, recvfrom and accept4 fails with EINTR, also during a stop", "strace")
def interrupted_everywhere(harness):
    daemon = harness.daemon("--sync-period", "1s", plain=True)
    with injected(daemon, "epoll_wait,recvfrom,accept4", "error=EINTR", "1+2"):
        daemon.probe(20)
        expect("answered", daemon.stop()["answered"], 20)


def stop_while(calls, error, when, name):
    def run(harness):
        daemon = harness.daemon(plain=True)
        daemon.probe(3)
        with injected(daemon, calls, f"error={error}", when, daemon.pid if calls == "sendto" else None):
            expect("answered", daemon.stop()["answered"], 3)

    case(f"SIGTERM stops the daemon although {name}", "strace")(run)


@case("messages to the service manager are sent although sendto fails with EINTR", "strace")
def interrupted_manager(harness):
    path = harness.dir / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(PROBE_SECONDS)
        env = {"NOTIFY_SOCKET": str(path)}
        daemon = harness.daemon(plain=True, env=env)
        expect_match("the first message", manager.recv(256).decode(), r"\AREADY=1\n")
        # The first of these calls sends the byte of the signal handler.
        with injected(daemon, "sendto", "error=EINTR", "1..3", daemon.pid):
            daemon.stop()
        expect("the last message", manager.recv(256), b"STOPPING=1\nSTATUS=shutting down")


for _error in ("ENOBUFS", "ENOMEM", "EINTR"):
    stop_while("sendto", _error, "1", f"sending the byte of the signal handler fails with {_error}")
stop_while("write", "EINTR", "1..41+2", "the write that wakes a thread fails with EINTR")


@case("no free descriptor (EMFILE by rlimit), and then free ones")
def out_of_descriptors(harness):
    daemon = harness.daemon()
    kept = daemon.connect()
    kept.sendall(GET)
    answer_on(kept)
    before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (daemon.descriptors(), before[1]))
    waiting = daemon.connect()
    waiting.sendall(LAST)
    daemon.wait_for_log("EMFILE")
    # An open connection is evicted. Its descriptor is enough for the new connections, one at a time.
    expect_ok("the client that waited", rest(waiting))
    daemon.probe(5)
    expect("what the evicted client still reads", kept.recv(1), b"")
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
    daemon.probe(5)
    counted = daemon.stop()
    expect("pauses", counted.get("pauses"), 1)
    expect("accepted", counted["accepted"], 12)
    expect("evicted", counted.get("evicted"), 1)


def promised(harness, *options):
    """The bytes that connections can take, from the output of `--help`."""
    text = harness.run([harness.args.daemon, *options, "--help"]).stdout
    return int(re.search(r"Connections take up to (\d+) KiB", text)[1]) * 1024


def limit_data(size):
    return lambda: resource.setrlimit(resource.RLIMIT_DATA, (size, size))


@case("with a limit at its documented memory, the daemon starts, and needs no more during an attack")
def memory_limited(harness):
    # Stacks and heap take as much in a daemon with few connections as in one with many.
    small, large = ("--connections", "8"), ("--connections", "512")
    daemon = harness.daemon(*small)
    besides = daemon.status("VmData") * 1024 - promised(harness, *small)
    daemon.stop()
    # Two allocations are rounded up to pages. The start also tries whether the heap can grow by 132 KiB, and gives back
    # what only the start needs of the heap.
    enough = besides + promised(harness, *large) + 2 * resource.getpagesize() + (192 << 10)
    refused = harness.run(
        [harness.args.daemon, "--listen", "127.0.0.1:0", *large], preexec_fn=limit_data(enough - (1 << 20))
    )
    expect("exit code with 1 MiB less", refused.returncode, 1)
    expect_match("stderr", refused.stderr, r"^healthz: (the system does not provide the \d+ KiB|cannot start the)")
    daemon = harness.daemon(*large, preexec_fn=limit_data(enough))
    daemon.probe()
    # From here on no page more can be allocated.
    for limit, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        resource.prlimit(daemon.pid, limit, (daemon.status(name) * 1024,) * 2)
    data = daemon.status("VmData")
    crowd = []
    # Heads that never end and answers that are never read fill every buffer.
    greedy = (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 8000, GET.replace(b"z ", b"z?verbose ") * 2000)
    for index in range(700):
        stream = daemon.connect()
        stream.setblocking(False)
        with contextlib.suppress(OSError):
            stream.send(greedy[index % 2])
        crowd.append(stream)
        if index % 10 == 9:
            daemon.probe()
    expect("VmData in KiB", daemon.status("VmData"), data)
    if not daemon.stop().get("evicted"):
        raise Wrong("evictions: expected some, got none")


@case("too little memory for --connections")
def memory_refused(harness):
    result = harness.run(
        [harness.args.daemon, "--listen", "127.0.0.1:0", "--connections", "65535"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (512 << 20,) * 2),
    )
    expect("exit code", result.returncode, 1)
    expect_match("stderr", result.stderr, r"healthz: the system does not provide the \d+ KiB .* pass fewer --connections")


def start_within(harness, limit, size, env):
    """Starts the daemon with `size` bytes of memory as `limit` counts it, and stops it once its log says that it
    serves. Returns its exit code, or None if it had to be killed, whether it served, and its log."""
    log, path = harness.dir / "within.log", harness.dir / "within.sock"
    path.unlink(missing_ok=True)
    with open(log, "wb") as f:
        process = subprocess.Popen(
            [harness.args.daemon, "--listen", f"unix:{path}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=f,
            env=env,
            start_new_session=True,
            preexec_fn=lambda: resource.setrlimit(limit, (size, size)),
        )
    end = time.monotonic() + 10
    has_served = False
    while process.poll() is None and time.monotonic() < end:
        if not has_served and b"serving /" in log.read_bytes():
            has_served = True
            with socket.socket(socket.AF_UNIX) as stream:
                stream.settimeout(PROBE_SECONDS)
                stream.connect(str(path))
                stream.sendall(LAST)
                expect_ok(f"a probe with {size >> 10} KiB", rest(stream))
            process.terminate()
        time.sleep(0.001)
    code = process.poll()
    if code is None:
        process.kill()
        process.wait(5)
    return code, has_served, log.read_text("utf-8", "replace")


@case("slightly too little memory at the start is an error that names the limit")
def memory_just_too_small(harness):
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        for env in ({}, {"RUST_BACKTRACE": "1"}):
            low, high = 1 << 20, 64 << 20
            while high - low > 4096:
                middle = (low + high) // 2 & ~4095
                low, high = (low, middle) if start_within(harness, limit, middle, env)[0] == 0 else (middle, high)
            for size in range(high - (300 << 10), high + (100 << 10), 4096):
                code, has_served, log = start_within(harness, limit, size, env)
                is_explained = code == 1 and not has_served and re.match(r"healthz: .*raise the ", log)
                if not is_explained and not (code == 0 and has_served):
                    raise Wrong(
                        f"limit {limit} of {size >> 10} KiB, where {high >> 10} are enough, {env}: expected it to "
                        f"serve, or to log why not, got exit {code}: {short(log)}"
                    )


def executable_copy(harness):
    """A copy that another user can run."""
    if os.geteuid() != 0:
        raise Missing("needs root")
    program = harness.dir / "healthz"
    if not program.exists():
        shutil.copy(harness.args.daemon, program)
        program.chmod(0o755)
    return str(program)


def as_unprivileged_user(tasks):
    user = pwd.getpwnam("nobody").pw_uid

    def become():
        resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))
        os.setgid(65534)
        os.setuid(user)

    return become


@case("the daemon ends if a thread cannot start, and serves with the least RLIMIT_NPROC at which it starts")
def no_thread(harness):
    program = executable_copy(harness)
    seen = []
    # RLIMIT_NPROC counts all processes of the user, also those of other programs. So try limits upwards until the
    # daemon starts.
    for tasks in range(1, 40):
        try:
            daemon = harness.daemon(program=program, preexec_fn=as_unprivileged_user(tasks))
        except Wrong as e:
            expect_match("stderr", str(e), r"exit 1: .*healthz: cannot start the (log|server): .*os error 11")
            seen.append(re.search(r"the (log|server):", str(e))[1])
            continue
        break
    if sorted(set(seen)) != ["log", "server"]:
        raise Wrong(f"what could not start: expected the log, and then the server, got {seen}")
    daemon.probe(20)
    expect("answered", daemon.stop()["answered"], 20)


@case("SIGSTOP, and two seconds later SIGCONT")
def suspended(harness):
    daemon = harness.daemon("--head-timeout", "1s", "--sync-period", "500ms", "--sync-limit", "30s")
    half = daemon.connect()
    half.sendall(GET[:9])
    kept = daemon.connect()
    kept.sendall(GET)
    answer_on(kept)
    daemon.process.send_signal(signal.SIGSTOP)
    waiting = [daemon.connect() for _ in range(50)]
    for stream in waiting:
        stream.sendall(LAST)
    time.sleep(2)
    daemon.process.send_signal(signal.SIGCONT)
    for stream in waiting:
        expect_ok("a client that sent its request during the stop", rest(stream))
    kept.sendall(GET)
    answer_on(kept)
    expect_match("half a head", rest(half).decode(), r"\AHTTP/1\.1 408 ")
    daemon.probe(3)
    expect("expired", daemon.stop().get("expired"), 1)


@case("SIGPIPE and other signals that change nothing")
def stray_signals(harness):
    daemon = harness.daemon()
    for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT):
        daemon.process.send_signal(number)
        daemon.probe(3, f"a probe after signal {number}")
    daemon.stop()


@case("reset after every byte of a request, and after every third byte of its answer")
def reset_everywhere(harness):
    daemon = harness.daemon()
    count = 0
    for request in (LAST, POST, GET + LAST):
        for cut in range(len(request) + 1):
            stream = daemon.connect()
            stream.sendall(request[:cut])
            reset(stream)
            count += 1
    cuts = range(1, 140, 3)
    for cut in cuts:
        stream = daemon.connect()
        stream.sendall(GET)
        stream.recv(cut)
        reset(stream)
    answered = len(cuts)
    count += answered
    daemon.probe(20)
    before = daemon.descriptors()
    wait_for("every connection's end", 5, lambda: daemon.descriptors() <= before)
    counted = daemon.stop()
    # A connection that is reset before accept may not be accepted at all.
    if counted["accepted"] > count + 20 or counted["answered"] < 20:
        raise Wrong(f"counters: expected at most {count + 20} accepted, got {counted}")
    # If the client has read a part of an answer, the connection was accepted, and counts as failed.
    if counted.get("failed", 0) < answered:
        raise Wrong(f"counters: expected {answered} failed at least, got {counted}")


@case("a client with the smallest buffer reads a few bytes at a time")
def short_reads_and_writes(harness):
    daemon = harness.daemon()
    with socket.socket() as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        stream.settimeout(PROBE_SECONDS)
        stream.connect(("127.0.0.1", daemon.port))
        sender = threading.Thread(target=stream.sendall, args=(GET * 2999 + LAST,))
        sender.start()
        answer = b""
        while piece := stream.recv(len(answer) % 97 + 1):
            answer += piece
        sender.join()
    expect("answers", answer.count(b"HTTP/1.1 200 OK\r\n"), 3000)
    expect_ok("the last", answer)
    daemon.probe(3)
    daemon.stop()


@case("the disk of the log is full, and then has space again")
def full_disk(harness):
    if os.geteuid() != 0:
        raise Missing("needs root")
    disk = harness.dir / "disk"
    disk.mkdir()
    harness.sh("mount", "-t", "tmpfs", "-o", "size=64k", "healthz-faults", str(disk))
    harness.case.callback(lambda: (harness.run(["umount", "-l", str(disk)]), disk.rmdir()))
    daemon = harness.daemon("--log-limit", "2s", "--log-level", "trace", "--sync-period", "100ms", log=disk / "log")
    daemon.probe(3)
    with open(disk / "ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(b"x" * 512)

    def verdict():
        return daemon.ask(LAST.replace(b"/healthz", b"/healthz?verbose"))

    wait_for("log failing on a full disk", 15, lambda: b"[-]log failed" in verdict())
    # The server thread is not affected.
    expect_ok("ping", daemon.ask(LAST.replace(b"/healthz", b"/healthz/ping")))
    (disk / "ballast").unlink()
    wait_for("log passing once there is space", 15, lambda: b"[+]log ok" in verdict())
    daemon.probe(3)
    daemon.wait_for_log(r"\n\S+ WARN  healthz: \d+ log records? w[a-z]+ dropped")
    daemon.stop()


@case("stdin, stdout and stderr closed")
def closed_streams(harness):
    path = harness.dir / "closed.sock"
    script = 'exec "$0" --listen "unix:$1" <&- >&- 2>&-'
    process = subprocess.Popen(["sh", "-c", script, harness.args.daemon, str(path)], start_new_session=True)
    harness.case.callback(lambda: (process.poll() is None and process.kill(), process.wait(5)))
    wait_for("the socket", 10, path.exists)
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(PROBE_SECONDS)
            stream.connect(str(path))
            stream.sendall(LAST)
            expect_ok("a probe", rest(stream))
    process.terminate()
    expect("exit code", process.wait(10), 0)


# -- Namespaces

REMOTE = "10.213.47.1"


class Networks:
    """Two namespaces connected by a veth pair, which are removed at the end of the case."""

    def __init__(self, harness):
        if os.geteuid() != 0:
            raise Missing("needs root")
        self.harness = harness
        self.names = [f"healthz-{os.getpid()}-{end}" for end in "ab"]
        for name in self.names:
            result = harness.run(["ip", "netns", "add", name])
            if result.returncode:
                raise Missing(f"ip netns add: {result.stderr.strip()}")
            harness.case.callback(lambda name=name: harness.run(["ip", "netns", "del", name]))

    def ip(self, end, *argv):
        self.harness.sh("ip", "-n", self.names[end], *argv)

    def wire(self):
        ends = ["wire", "netns", self.names[0], "type", "veth", "peer", "wire", "netns", self.names[1]]
        self.harness.sh("ip", "link", "add", *ends)
        for end in (0, 1):
            self.ip(end, "link", "set", "lo", "up")
            self.ip(end, "addr", "add", f"10.213.47.{end + 1}/24", "dev", "wire")
            self.ip(end, "addr", "add", f"fd47::{end + 1}/64", "dev", "wire", "nodad")
            self.ip(end, "link", "set", "wire", "up")

    def inside(self, end):
        return ["ip", "netns", "exec", self.names[end]]

    def ask(self, end, host, port):
        """One probe from a namespace: the answer, or the error."""
        script = (
            "import socket, sys\n"
            "try:\n"
            f"    s = socket.create_connection(({host!r}, {port}), 1)\n"
            f"    s.sendall({LAST!r}); s.settimeout(3); b = b''\n"
            "    while p := s.recv(4096): b += p\n"
            "    print(b.decode(), end='')\n"
            "except OSError as e:\n"
            "    print('error:', e)\n"
        )
        return self.harness.run([*self.inside(end), sys.executable, "-c", script]).stdout

    def expect_refused(self, what, answer):
        expect_match(what, answer, r"^error: ")


@case("another namespace gets no answer without --allow-remote", "ip")
def from_another_namespace(harness):
    networks = Networks(harness)
    networks.wire()
    daemon = harness.daemon(listen=None, prefix=networks.inside(0))
    expect_match("from inside", networks.ask(0, "127.0.0.1", daemon.port), r"\Aok\Z|\r?\n\r?\nok\Z")
    for host in (REMOTE, "fd47::1"):
        networks.expect_refused(f"{host} from outside", networks.ask(1, host, daemon.port))
    for address in (f"{REMOTE}:10248", "0.0.0.0:10248", "[::]:10248", "[fd47::1]:10248"):
        refused = harness.run([*networks.inside(0), harness.args.daemon, "--listen", address])
        expect(f"exit code with --listen {address}", refused.returncode, 2)
        expect_match("stderr", refused.stderr, "pass --allow-remote if that is intended")
    for host, listen in ((REMOTE, f"{REMOTE}:0"), ("fd47::1", "[fd47::1]:0")):
        remote = harness.daemon("--allow-remote", listen=listen, prefix=networks.inside(0))
        expect_match(f"{host}, with --allow-remote", networks.ask(1, host, remote.port), r"\n\r?\nok\Z")
        remote.stop()
    daemon.stop()


@case("with route_localnet, a neighbour that reaches 127.0.0.1 gets no answer without --allow-remote", "ip")
def through_route_localnet(harness):
    networks = Networks(harness)
    networks.wire()
    # kube-proxy sets it too. The neighbour has no 127.0.0.1 of its own, so its packets go to the daemon.
    allow = "for name in all wire; do echo 1 > /proc/sys/net/ipv4/conf/$name/route_localnet; done"
    for end in (0, 1):
        harness.sh(*networks.inside(end), "sh", "-ec", allow)
    networks.ip(1, "addr", "flush", "dev", "lo")
    networks.ip(1, "route", "add", "127.0.0.1/32", "via", REMOTE)
    meant = harness.daemon("--allow-remote", prefix=networks.inside(0))
    expect_match("from outside, with --allow-remote", networks.ask(1, "127.0.0.1", meant.port), r"\n\r?\nok\Z")
    expect("non-loopback, with --allow-remote", meant.stop().get("non-loopback"), None)
    daemon = harness.daemon(listen=None, prefix=networks.inside(0))
    for _ in range(3):
        answer = networks.ask(1, "127.0.0.1", daemon.port)
        if "HTTP/" in answer:
            raise Wrong(f"from outside: expected no answer, got {short(answer)}")
    expect_match("from inside", networks.ask(0, "127.0.0.1", daemon.port), r"\n\r?\nok\Z")
    counted = daemon.stop()
    expect("non-loopback", counted.get("non-loopback"), 3)
    expect("accepted", counted["accepted"], 1)
    expect("lines about it in the log", daemon.text().count("net.ipv4.conf.*.route_localnet"), 1)


@case("a namespace without IPv6 is served on 127.0.0.1", "ip")
def without_ipv6(harness):
    networks = Networks(harness)
    networks.ip(0, "link", "set", "lo", "up")
    off = "for name in all lo; do echo 1 > /proc/sys/net/ipv6/conf/$name/disable_ipv6; done"
    harness.sh(*networks.inside(0), "sh", "-ec", off)
    for turn in ("up", "down"):
        networks.ip(0, "link", "set", "lo", turn)
        daemon = harness.daemon(listen=None, prefix=networks.inside(0))
        daemon.wait_for_log("this machine has no ::1, serving without it")
        expect("lines about [::1]", re.findall(r".*\[::1\].*", daemon.text()), [])
        networks.ip(0, "link", "set", "lo", "up")
        expect_match("a probe", networks.ask(0, "127.0.0.1", daemon.port), r"\n\r?\nok\Z")
        daemon.stop()


@case("a loopback interface that is down is logged, and served once it is up", "ip")
def without_loopback(harness):
    networks = Networks(harness)
    hosts = ("127.0.0.1", "::1")
    # The first time the interface was never up. The second time it was up and is down again, and keeps 127.0.0.1.
    for _ in range(2):
        daemon = harness.daemon(listen=None, prefix=networks.inside(0))
        for host in (r"127\.0\.0\.1", r"\[::1\]"):
            daemon.wait_for_log(rf"no client can reach {host}:\d+ until its interface is up")
        expect("lines about no ::1", daemon.text().count("this machine has no ::1"), 0)
        for host in hosts:
            networks.expect_refused(f"{host}, down", networks.ask(0, host, daemon.port))
        for turn in ("up", "up again"):
            networks.ip(0, "link", "set", "lo", "up")
            for host in hosts:
                expect_match(f"{host}, {turn}", networks.ask(0, host, daemon.port), r"\n\r?\nok\Z")
            networks.ip(0, "link", "set", "lo", "down")
        daemon.stop()
    networks.ip(0, "link", "set", "lo", "up")
    daemon = harness.daemon(listen=None, prefix=networks.inside(0))
    expect("warnings, up", daemon.text().count(" WARN "), 0)
    daemon.stop()
    networks.ip(0, "link", "set", "lo", "down")


# -- descriptors in messages


def slow_to_close(harness):
    """A socket whose last close(2) blocks, because it waits until the peer reads, which it never does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        harness.case.callback(listener.accept()[0].close)
    ours.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(65536))
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 300))
    return ours


def send_slow_to_close(harness, path):
    """Sends such a socket after so many requests that the daemon reads it only when the client reads its answers. Then the
    daemon has the last reference to it."""
    with socket.socket(socket.AF_UNIX) as client, slow_to_close(harness) as slow:
        client.connect(path)
        client.settimeout(PROBE_SECONDS)
        # The answers do not fit into the socket's buffers, but the requests do.
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 2200)
        try:
            socket.send_fds(client, [b"x"], [slow.fileno()])
        except PermissionError:
            # It was not sent. The reset makes closing it quick.
            reset(slow)
            raise
        slow.close()
        client.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while client.recv(65536):
                pass


@case("a descriptor that is slow to close is refused (Linux 6.16), or delays the server and stops WATCHDOG=1", "strace")
def slow_descriptor(harness):
    path = str(harness.dir / "rights.sock")
    if tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (6, 16):
        daemon = harness.daemon("--listen", f"unix:{path}")
        try:
            send_slow_to_close(harness, path)
        except PermissionError:
            pass
        else:
            raise Wrong("a descriptor in a message: expected EPERM, got no error")
        daemon.probe(3)
        daemon.stop()
        # The daemon does not remove the file. If it were there, the next daemon would make two sockets, one before and
        # one after it removes the file, and strace would make SO_PASSRIGHTS fail only for the first.
        os.unlink(path)
    # As on an older kernel: the third setsockopt is the one that refuses descriptors, and it fails.
    tracer = ["strace", "-D", "-f", "-qq", "-o", str(harness.dir / "rights.log"), "-e", "trace=setsockopt"]
    tracer += ["-e", "inject=setsockopt:error=ENOPROTOOPT:when=3"]
    name = str(harness.dir / "rights.notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.setblocking(False)

        def beats(seconds):
            count, end = 0, time.monotonic() + seconds
            while (rest := end - time.monotonic()) > 0:
                manager.settimeout(rest)
                with contextlib.suppress(TimeoutError):
                    count += manager.recv(999) == b"WATCHDOG=1"
            return count

        daemon = harness.daemon(
            "--listen", f"unix:{path}",
            prefix=tracer, plain=True, env={"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2000000"},
        )
        options = Path(harness.dir / "rights.log").read_text()
        if not re.search(r"SOL_SOCKET, (SO_PASSRIGHTS|0x53).*INJECTED", options):
            raise Wrong(f"SO_PASSRIGHTS: expected setsockopt to fail, got {options}")
        daemon.probe()
        if not beats(2.5):
            raise Wrong("WATCHDOG=1: expected some before the server thread is stuck, got none")
        send_slow_to_close(harness, path)
        daemon.wait_for_log(r"server thread stuck for \d+ s; not answering")
        beats(0.1)
        expect("watchdog beats while the server thread is stuck", beats(2.5), 0)
        daemon.kill()


# -- slowhttptest

MODES = {
    "slow headers": ["-H", "-i", "1"],
    "slow bodies": ["-B", "-i", "1", "-s", "8192", "-t", "POST", "-x", "10"],
    "slow reading": ["-X", "-w", "10", "-y", "20", "-n", "1", "-z", "32", "-k", "3"],
    "ranges": ["-R", "-t", "HEAD", "-a", "10", "-b", "3000"],
}


# With --judge-latency, for a machine where nothing else runs: the least number of probes during each mode, and the
# limit of their p99.
SLOW_PROBES, SLOW_P99_MS = 1000, 20
# The default timeout of a kubelet's probe.
SLOW_PROBE_SECONDS = 1


@case("slowhttptest in its four modes at once, 300 connections each against a table of 64", "slowhttptest")
def slow_clients(harness):
    runs, times = {}, {mode: [] for mode in MODES}
    probes_min, seconds = (SLOW_PROBES, 40) if harness.args.judge_latency else (100, 6)
    for mode, options in MODES.items():
        daemon = harness.daemon()
        name = str(harness.dir / f"slow-{len(runs)}")
        argv = ["slowhttptest", "-c", "300", "-r", "150", "-l", str(seconds), "-p", "2", "-g", "-o", name, *options]
        tool = subprocess.Popen(
            [*argv, "-u", f"http://127.0.0.1:{daemon.port}/healthz"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=harness.dir,
        )
        harness.case.callback(lambda tool=tool: (tool.poll() is None and tool.kill(), tool.communicate()))
        runs[mode] = (daemon, tool, name)
    probes = 0
    while any(tool.poll() is None for _, tool, _ in runs.values()):
        for mode, (daemon, _, _) in runs.items():
            began = time.monotonic()
            daemon.probe(1, f"a probe beside {mode}")
            times[mode].append((time.monotonic() - began) * 1000)
        probes += 1
        time.sleep(0.02)
    if probes < probes_min:
        raise Wrong(f"probes beside each mode: expected {probes_min} at least, got {probes}")
    for mode, (daemon, _, name) in runs.items():
        daemon.probe(3)
        with open(f"{name}.csv", newline="") as f:
            rows = list(csv.DictReader(f))
        column = next((key for key in rows[0] if key and "Service Available" in key), None) if rows else None
        if column is None:
            raise Wrong(f"{mode}: expected figures, got {rows[:1]}")
        # The first row is written before the first connection.
        if any(float(row[column]) == 0 for row in rows[1:]):
            raise Wrong(f"{mode}: expected the service available throughout, got {[row[column] for row in rows]}")
        counted = daemon.stop()
        # Slow headers and slow reading fill the table. A range request is answered like any other, and an answer does
        # not wait for a body.
        if mode in ("slow headers", "slow reading") and not counted.get("evicted"):
            raise Wrong(f"{mode}: expected evictions, got {counted}")
        if counted["accepted"] < 300 + probes:
            raise Wrong(f"{mode}: expected 300 connections and {probes} probes accepted, got {counted}")
    figures = []
    for mode, milliseconds in times.items():
        half, p99, most = (sorted(milliseconds)[int((probes - 1) * part)] for part in (0.5, 0.99, 1))
        figures.append(f"{mode} {half:.1f}, {p99:.1f} and {most:.1f}")
        if harness.args.judge_latency and p99 >= SLOW_P99_MS:
            raise Wrong(f"p99 beside {mode}: expected under {SLOW_P99_MS} ms, got {p99:.1f}")
        if most > SLOW_PROBE_SECONDS * 1000:
            raise Wrong(f"a probe beside {mode}: expected {SLOW_PROBE_SECONDS} s at most, got {most:.0f} ms")
    return f"{probes} probes beside each; p50, p99 and most in ms: {', '.join(figures)}"


# ---------------------------------------------------------------------------------------------


def main():
    ap = parser(__doc__)
    ap.add_argument("--judge-latency", action="store_true", help="for a machine where nothing else runs")
    args = parse(ap)
    return run_script(args, PACKAGES, CASES, CASES_SECONDS_MAX, Harness)


if __name__ == "__main__":
    sys.exit(main())
