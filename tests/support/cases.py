"""What the tests in Python share: cases and their verdicts, expectations, and what is started for a case.

A script makes `case, CASES = registry()`, and ends with `sys.exit(run_script(..))` or with the parts of it.

One line a case: `ok NAME`, `FAIL NAME: expected .., got ..`, `skip NAME: why`; at the end
`N passed, N failed, N skipped`. Exit code 1 when a case failed or none passed, 2 when the script could not run.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
INSTALL_SECONDS_MAX = 600
# For all cases of a script together, unless it has another limit. After this time the remaining cases fail and are not
# run.
CASES_SECONDS_MAX = 110


class Wrong(Exception):
    """A program did something else than expected."""


class Skip(Exception):
    """A case cannot run on this machine."""


class Missing(Skip):
    """A case cannot run because a tool or a right is missing. With --require this is a failure."""


def expect(what, got, expected):
    if got != expected:
        raise Wrong(f"{what}: expected {expected!r}, got {short(got)}")


def expect_match(what, got, pattern):
    if not re.search(pattern, got, re.M):
        raise Wrong(f"{what}: expected /{pattern}/, got {short(got)}")


def expect_no_match(what, got, pattern):
    if re.search(pattern, got, re.M):
        raise Wrong(f"{what}: expected no /{pattern}/, got {short(got)}")


def short(value):
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:300]} .. {text[-90:]}"


def wait_for(what, seconds, probe):
    """Calls `probe` until it returns something true, for at most `seconds`. One call can take longer."""
    end = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() >= end:
            raise Wrong(f"{what}: not within {seconds} s")
        time.sleep(0.05)


def has_dynamic_linker(program):
    """True if the program names a dynamic linker, of glibc or of musl. A static one does not."""
    return re.search(rb"/lib\d*/ld-(linux|musl)", Path(program).read_bytes()) is not None


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# ---------------------------------------------------------------------------------------------
# Processes. Each one that is started is ended with the script.


class Result:
    def __init__(self, code, out, err, seconds):
        self.code, self.out, self.err, self.seconds = code, out, err, seconds


class Harness:
    """The temporary directory, the processes in it, and the environment they get."""

    def __init__(self, args, seconds=CASES_SECONDS_MAX):
        self.args = args
        self.dir = Path(tempfile.mkdtemp(prefix="healthz-test-"))
        # Programs that give up root open files in it.
        self.dir.chmod(0o711)
        # Proxies of the environment and the user's own rc files must not change a result.
        self.env = {
            "PATH": os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin",
            "HOME": str(self.dir),
            "TMPDIR": str(self.dir),
            "LC_ALL": "C",
        }
        self.running = []
        self.shared = {}
        self.seconds = seconds
        self.begin()

    def begin(self):
        """Call it after installing: the time of all cases begins."""
        self.end = time.monotonic() + self.seconds

    def which(self, tool):
        return shutil.which(tool, path=self.env["PATH"])

    def require(self, programs):
        """Raises if a program that a case needs is missing."""
        if missing := [program for program in programs if not self.which(program)]:
            raise Missing(f"{', '.join(missing)} is not installed")

    def remaining(self):
        left = self.end - time.monotonic()
        if left <= 0:
            raise Wrong(f"all cases: expected an end within {self.seconds} s")
        return left

    def run(self, command, seconds=10, env=None):
        """Runs one program until it exits or its time is over. Then its process group is killed."""
        seconds = min(seconds, self.remaining())
        start = time.monotonic()
        p = subprocess.Popen(
            command,
            shell=isinstance(command, str),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.dir,
            env=env or self.env,
            start_new_session=True,
        )
        try:
            out, err = p.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Wrong(f"expected an end within {seconds:.0f} s, got none") from None
        finally:
            # This also ends the other processes of a pipeline, and runs also when a signal interrupts this script.
            if p.poll() is None:
                os.killpg(p.pid, signal.SIGKILL)
                p.communicate()
        text = [b.decode("utf-8", "replace") for b in (out, err)]
        return Result(p.returncode, *text, time.monotonic() - start)

    def start(self, name, argv, stdout=None):
        """Starts a process that keeps running. Its output goes to a file. A failure prints the end of it."""
        log = self.dir / f"{name}.log"
        with open(log, "ab") as f:
            p = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stdout or f,
                stderr=f,
                cwd=self.dir,
                env=self.env,
                start_new_session=True,
            )
        p.log = log
        self.running.append(p)
        return p

    def stop(self, p):
        if p.poll() is None:
            p.terminate()
            try:
                p.wait(3)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait(3)

    def once(self, name, make):
        """Something that several cases use. The first one starts it. If that fails, all of them fail."""
        if name not in self.shared:
            try:
                self.shared[name] = make(self)
            except (Wrong, OSError, subprocess.SubprocessError) as e:
                self.shared[name] = e
        if isinstance(self.shared[name], Exception):
            raise Wrong(f"starting {name}: {self.shared[name]}")
        return self.shared[name]

    def end_case(self):
        """Called after each case."""

    def clean_up(self):
        for p in reversed(self.running):
            self.stop(p)
            if p.stdout:
                p.stdout.close()
        shutil.rmtree(self.dir, ignore_errors=True)


def end_of_log(p, bytes_max=300):
    return p.log.read_text("utf-8", "replace")[-bytes_max:].strip()


def connects(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as s:
        s.settimeout(1)
        try:
            s.connect(address)
            return True
        except OSError:
            return False


def await_listener(p, address, seconds=10):
    def probe():
        if p.poll() is not None:
            raise Wrong(f"expected it to keep running, got exit {p.returncode}: {end_of_log(p)}")
        return connects(address)

    wait_for("listening", seconds, probe)


def ask(port, path="/healthz"):
    """Status and text, or None without an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return None


# ---------------------------------------------------------------------------------------------
# The script.


def registry():
    """A decorator for the function of a case, with the programs that it needs, and the list to which it adds the case."""
    cases = []

    def case(name, *needs):
        def add(run):
            cases.append((name, needs, run))
            return run

        return add

    return case, cases


def parser(doc, daemon=ROOT / "target/release/healthz"):
    """The options that all scripts with cases have."""
    ap = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--daemon", default=str(daemon), metavar="PATH", help=f"instead of {daemon.relative_to(ROOT)}")
    ap.add_argument("--install", action="store_true", help="install missing programs with apt-get, as root")
    ap.add_argument("--require", action="store_true", help="a case that cannot run is a failure")
    ap.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains this")
    return ap


def parse(ap, *programs):
    """The arguments. The daemon and `programs` must be there, or the script ends with code 2."""
    args = ap.parse_args()
    for name in ("daemon", *programs):
        path = getattr(args, name)
        if not os.access(path, os.X_OK):
            ap.error(f"{path} is not there: build it first, or name another")
        setattr(args, name, os.path.abspath(path))
    # A signal raises an exception, so that all processes and files are removed as at a normal end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    return args


def install(packages):
    """Installs Debian packages, if this is root on a Debian. If it fails, prints and returns why, and the cases are
    skipped."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return "needs root and apt-get"
    # RUNLEVEL: the package of a service does not start it, unless systemd runs.
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    words = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *sorted(set(packages))]
    for argv in (["apt-get", "update", "-q"], words):
        try:
            p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               timeout=INSTALL_SECONDS_MAX, env=env)
            why = p.returncode and f"ended with {p.returncode}: {p.stdout[-300:].decode(errors='replace')}"
        except (OSError, subprocess.SubprocessError) as error:
            why = error
        if why:
            why = f"{' '.join(argv[:2])}: {why}"
            print(why, file=sys.stderr)
            return why
    return None


def install_missing(args, programs, find=shutil.which):
    """With --install, the packages of those `programs` (program: package) that are not there."""
    packages = [word for program, package in programs.items() if not find(program) for word in package.split()]
    if packages and args.install:
        install(packages)


def verdict_of(harness, name, needs, run):
    """Runs a case. Returns its result and the reason or the figures."""
    try:
        harness.require(needs)
        harness.remaining()
        return "ok", run(harness) or ""
    except Skip as why:
        is_failure = harness.args.require and isinstance(why, Missing)
        return ("FAIL", f"expected to run, but {why}") if is_failure else ("skip", why)
    except Wrong as why:
        return "FAIL", " ".join(str(why).split())
    except Exception as why:  # An exception in one case must not prevent the others.
        return "FAIL", f"expected a verdict, got {type(why).__name__}: {why}"


def report_untried(name, why):
    """`.ci/run` prints these at its end."""
    if path := os.environ.get("HEALTHZ_UNTRIED"):
        with open(path, "a") as file:
            file.write(f"{Path(sys.argv[0]).stem}: {name}: {why}\n")


def run_cases(harness, cases):
    """Runs the cases that are chosen. Returns the exit code."""
    counts = {"ok": 0, "FAIL": 0, "skip": 0}
    for name, needs, run in cases:
        if harness.args.only not in name:
            continue
        began = time.monotonic()
        verdict, why = verdict_of(harness, name, needs, run)
        if verdict == "FAIL":
            for line in (line for p in harness.running[-3:] for line in end_of_log(p, 2000).splitlines()):
                print(f"  | {line}")
        harness.end_case()
        if verdict == "skip":
            report_untried(name, why)
        counts[verdict] += 1
        print(f"{verdict} {name}{f': {why}' if why else ''} ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['skip']} skipped")
    return 1 if counts["FAIL"] or not counts["ok"] else 0


def run_script(args, programs, cases, seconds=CASES_SECONDS_MAX, make=Harness):
    """Installs, runs the cases, and cleans up. Returns the exit code."""
    harness = make(args, seconds)
    try:
        install_missing(args, programs, harness.which)
        harness.begin()
        return run_cases(harness, cases)
    except KeyboardInterrupt:
        return 2
    finally:
        harness.clean_up()
