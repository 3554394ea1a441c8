#!/usr/bin/env python3
"""Boots a Linux kernel with examples/init.rs as PID 1, in qemu, and reads the serial console.

The init must not crash, and its server must answer, during events that other tests cannot cause: signals and orphans
of PID 1, cgroups that deny memory and processes, a power-off. tests/vm/guest.sh runs in the machine and prints one line
for each result. This script builds the machine, boots it four times and checks the lines.

1. All of guest.sh.
2. A short boot without IPv6, with an unknown word on the kernel's command line.
3. The machine is suspended to RAM while the daemon runs, and its wall clock is set.
4. The daemon has checks of pressure, of a control group and of the clock, which fail and pass.

With `--architecture arm64`, qemu emulates another processor. The boots are others: the daemon in its sandbox with a check
of each kind, or the tests in `--tests`. .ci/arm builds the programs.

Fails on a panic, on a line with FAIL, on an expected line that is missing, and on a boot that takes too long. qemu exits
with code 0 after a kernel panic and after a power-off, so the test reads the console.

Exit code 1 when a boot failed, 2 when the script could not run, 3 with `--require` when nothing could be tried;
otherwise 0. The last line says whether anything was tried.
"""

import argparse
import functools
import gzip
import os
import platform
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
GUEST = ROOT / "tests/vm"


class Machine(NamedTuple):
    """A processor, and what the test needs for it."""

    target: str
    qemu: str
    # The Debian package of that program.
    qemu_package: str
    # The options of qemu without which no kernel starts.
    options: tuple
    console: str
    cc: str
    # The command of .cargo/config.toml that builds the static program, and its target.
    build: str
    static: str


MACHINES = {
    "amd64": Machine("x86_64-unknown-linux-gnu", "qemu-system-x86_64", "qemu-system-x86", (), "ttyS0", "cc",
                     "static", "x86_64-unknown-linux-musl"),
    "arm64": Machine("aarch64-unknown-linux-gnu", "qemu-system-aarch64", "qemu-system-arm",
                     ("-M", "virt", "-cpu", "cortex-a53", "-smp", "2"), "ttyAMA0", "aarch64-linux-gnu-gcc",
                     "static-arm64", "aarch64-unknown-linux-musl"),
}

# For one boot without KVM, on a machine whose processors are shared.
BOOT_SECONDS_MAX = 500
INSTALL_SECONDS_MAX = 600
BUILD_SECONDS_MAX = 900
MEMORY_MIB = 128

# Text that must not be on the console.
FATAL = ["Kernel panic", "panicked at", "Attempted to kill init", "vm: FAIL", "Oops:", "BUG:", "init: cannot "]

BOOTED = [
    "init: health is answered on 127.0.0.1:10248",
    "init: web: started, PID",
    "vm: ok the check of a service that has just started fails",
    "vm: ok a healthy machine answers ok",
    "vm: ok no other user can write to /run",
]
STOPPED = [
    "init: stopping",
    "vm: ok readyz fails while the machine stops",
    "vm: ok livez passes while the machine stops",
    "init: all services have ended",
    "init: /a blank is unmounted",
    "init: / is read-only",
]
# Without the file system that the script mounts later.
STOPPED_EARLY = [*STOPPED[:-2], STOPPED[-1]]
# Checks of real things that can pass in the machine. It has no sensor of temperature.
KINDS = "heartbeat file process tcp unix http exec pressure memory disk pids fds clock mount".split()
BOOTS = {
    "everything": (
        "",
        [
            *BOOTED[:-1],
            "vm: ok a healthy machine answers ok on [::1]",
            BOOTED[-1],
            "vm: ok a container has its own init",
            "vm: ok SIGTERM ends the container and not the machine",
            "vm: ok the file systems are writable after the container has ended",
            "init: web: killed by signal 9; restarting in 1 s",
            "vm: ok a killed service fails with its reason",
            "vm: ok healthz fails with a killed service",
            "vm: ok livez passes with a killed service",
            "vm: ok the killed service is started again",
            "vm: ok the table is full of unfinished heads",
            "vm: ok probes are answered while the table is full",
            "Memory cgroup out of memory: Killed process",
            "vm: ok a fork bomb is denied memory",
            "vm: ok probes are answered while the bomb is denied memory",
            "vm: ok the bomb that was denied memory has ended",
            "vm: ok a fork bomb is denied processes",
            "vm: ok probes are answered while the bomb is denied processes",
            "vm: ok the bomb that was denied processes has ended",
            "vm: ok the orphans of the bombs are reaped",
            "vm: ok the machine answers ok after the bombs",
            "vm: ok a connection is open before the process IDs are used up",
            "vm: ok without a free process ID the check of the service has the error of fork",
            "vm: ok the service is started when there is a free process ID",
            "vm: ok a daemon of the user nobody answers ok",
            "vm: ok the daemon logs that the system has no free file",
            "vm: ok a client waits while the system has no free file",
            "vm: ok the client is answered when there are free files",
            "vm: ok the daemon counts one pause",
            *STOPPED,
            "reboot: Power down",
        ],
    ),
    "without IPv6": (
        "ipv6.disable=1 vm=short splash",
        [
            'init: "splash" is neither a path nor an address; ignored',
            "init: no health server on [::1]:10248",
            *BOOTED[:-1],
            "vm: ok without IPv6",
            BOOTED[-1],
            *STOPPED,
            "reboot: Restarting system",
        ],
    ),
    "suspended": (
        "vm=suspend no_console_suspend",
        [
            *BOOTED[:-1],
            "vm: ok a healthy machine answers ok on [::1]",
            BOOTED[-1],
            "vm: ok the daemon answers ok",
            "vm: ok the machine was suspended",
            "vm: ok syncloop passes after the suspend",
            "vm: ok PID 1 answers ok after the suspend",
            "vm: ok a connection that was idle during the suspend is open",
            "vm: ok syncloop passes after the wall clock was set back",
            "vm: ok the Date is set back too",
            "vm: ok syncloop passes after the wall clock was set forward",
            "vm: ok the Date is set forward too",
            "vm: ok a connection that was idle during both changes is open",
            "vm: ok the Date of PID 1's server is set forward too",
            *STOPPED,
            "reboot: Power down",
        ],
    ),
    "checks": (
        "vm=checks",
        [
            *BOOTED[:-1],
            "vm: ok a healthy machine answers ok on [::1]",
            BOOTED[-1],
            "vm: ok checks of pressure pass without load",
            "vm: ok each pressure has a trigger",
            "vm: ok a clock that was never set is not synchronised",
            "vm: ok CPU pressure fails its check",
            "vm: ok the check of CPU pressure passes again",
            "vm: ok memory pressure of a control group fails its check",
            "vm: ok a control group with little memory fails its check",
            "vm: ok the machine has memory",
            "vm: ok both checks of the control group pass again without the load",
            "vm: ok a control group that is removed fails its checks",
            "vm: ok a synchronised clock passes",
            "vm: ok a synchronised clock fails a check with a limit below its error",
            "vm: ok a clock that is not synchronised any more fails",
            "vm: ok the log has each change of CPU pressure once",
            *STOPPED,
            "reboot: Power down",
        ],
    ),
}
# The boots of a machine with another processor.
OTHER_BOOTS = {
    "sandbox": (
        "vm=sandbox",
        [
            *BOOTED[:2],
            "vm: ok the sandbox is complete",
            "vm: ok each thread has the filter",
            "vm: ok no thread gets new privileges",
            "vm: ok 1000 of 1000 probes are answered",
            *(f"vm: ok the check of kind {kind} passes" for kind in KINDS),
            "vm: ok the check of a missing sensor fails",
            "vm: ok readyz fails while the daemon drains",
            "vm: ok livez passes while it drains",
            "vm: ok the last line counts the requests",
            "vm: ok the exit code is 0",
            *STOPPED_EARLY,
            "reboot: Power down",
        ],
    ),
}


class Missing(Exception):
    """Something that the test needs is missing. The text says what, and how to install it."""


def main():
    arguments = parse()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        if platform.machine() != "x86_64":
            raise Missing(f"this machine is {platform.machine()}; the test needs x86_64")
        architecture = arguments.architecture
        qemu = find_qemu(arguments.install, architecture)
        kernel = arguments.kernel or find_in_package(work, "kernel", arguments.install, architecture)
        busybox = arguments.busybox or find_in_package(work, "busybox", arguments.install, architecture)
        init = arguments.init or build(MACHINES[architecture].target)
        daemon = arguments.daemon or build_daemon(MACHINES[architecture])
        clock = build_clock(work, MACHINES[architecture].cc)
    except Missing as missing:
        print(f"skip: {missing}")
        return 3 if arguments.require else 0
    initrd = work / "initrd.gz"
    entries = files(init, daemon, busybox, clock)
    if arguments.tests:
        more = test_files(work, arguments)
        entries = [entry for entry in entries if entry[0] != "bin/sh"] + more
    initrd.write_bytes(gzip.compress(archive(entries), 6))
    size = sum(len(content) for _, _, content in entries)
    if arguments.tests:
        # The kernel has the archive and the files at the same time, and files take at most half of the memory.
        global MEMORY_MIB
        MEMORY_MIB += size * 4 >> 20
    print(f"init {init.stat().st_size >> 10} KiB, {size >> 10} KiB of files in all")

    boots = BOOTS if architecture == "amd64" else OTHER_BOOTS
    if arguments.tests:
        expected = [f"vm: ok the tests of {program.stem.rpartition('-')[0]}" for program in arguments.tests]
        boots = {"tests": ("vm=tests", [*BOOTED[:2], *expected, *STOPPED_EARLY, "reboot: Power down"])}
    failed, boots = [], {name: boot for name, boot in boots.items() if arguments.only in name}
    for name, (append, expected) in boots.items():
        started = time.monotonic()
        console = boot(qemu, kernel, initrd, f"{append} {arguments.append}", architecture)
        (work / f"console-{name.replace(' ', '-')}.txt").write_text(console)
        problem = judge(console, expected)
        seconds = time.monotonic() - started
        if problem:
            failed.append(name)
            print(f"FAIL {name}: {problem} ({seconds:.0f} s); the end of its console:")
            print("".join(f"  | {line}\n" for line in console.splitlines()[-40:]), end="")
        else:
            print(f"ok {name} ({seconds:.0f} s)")
            for line in console.splitlines():
                if re.match("(init|vm): ", line) and not re.match("vm: ok", line):
                    print(f"  | {line}")
            report_untried(console)
    print(f"{len(boots) - len(failed)} boots passed, {len(failed)} failed")
    return 1 if failed else 0


def report_untried(console):
    """.ci/run lists the tests that could not run in the machine with those that could not run outside."""
    if "HEALTHZ_UNTRIED" in os.environ:
        with open(os.environ["HEALTHZ_UNTRIED"], "a", encoding="utf-8") as file:
            file.writelines(f"in the machine, {line}\n" for line in re.findall("^vm: untried: (.*)", console, re.M))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--install", action="store_true", help="get what is missing with apt-get (as root)")
    parser.add_argument("--require", action="store_true", help="exit with 3 instead of skipping")
    parser.add_argument("--architecture", choices=MACHINES, default="amd64", help="of the machine and the binaries")
    parser.add_argument("--init", type=Path, help="a static binary instead of examples/init.rs")
    parser.add_argument("--daemon", type=Path, help="a static binary instead of that of `cargo static`")
    parser.add_argument("--kernel", type=Path, help="a bzImage with devtmpfs, cgroups and a serial console")
    parser.add_argument("--busybox", type=Path, help="a static busybox")
    parser.add_argument("--only", default="", metavar="TEXT", help="boots whose name contains this")
    parser.add_argument("--tests", type=Path, nargs="*", default=[], metavar="FILE",
                        help="static binaries with tests, which run in the machine instead of all else")
    parser.add_argument("--tested", type=Path, help="the program that they test, at its place here")
    parser.add_argument("--append", default="", help="more for the kernel's command line")
    work = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "vm"
    parser.add_argument("--work", type=Path, default=work, help="where files and consoles are kept")
    return parser.parse_args()


def find_qemu(may_install, architecture="amd64"):
    machine = MACHINES[architecture]
    if not shutil.which(machine.qemu) and may_install and os.geteuid() == 0:
        update()
        command(["apt-get", "install", "-q", "-y", "--no-install-recommends", machine.qemu_package])
    qemu = shutil.which(machine.qemu)
    if not qemu:
        raise Missing(f"no {machine.qemu}: apt-get install {machine.qemu_package}, or --install as root")
    return qemu


# The package of each file, and its path in the package.
IN_PACKAGES = {
    "kernel": ("linux-image-[0-9.-]*-cloud-{}", "boot/vmlinuz-*"),
    "busybox": ("busybox-static", "bin/busybox"),
    "dash": ("dash", "bin/dash"),
    "setpriv": ("util-linux", "usr/bin/setpriv"),
    "libcap-ng": ("libcap-ng0", "lib/*/libcap-ng.so.0"),
}


def find_in_package(work, what, may_install, architecture="amd64"):
    """A file of a Debian package. The package is unpacked and not installed, so no root is needed."""
    pattern, inside = IN_PACKAGES[what]
    # The lists of packages of another architecture are in a folder of their own (as in .ci/debian-rust).
    lists, options = work / f"apt-{architecture}", []
    if architecture != "amd64":
        options = [f"-oAPT::Architecture={architecture}", f"-oAPT::Architectures={architecture}",
                   f"-oDir::State::lists={lists}/lists", f"-oDir::Cache={lists}/cache"]
    directory = work / what
    found = sorted(directory.glob(inside))
    if not found and may_install and shutil.which("apt-get"):
        directory.mkdir(exist_ok=True)
        if options:
            (lists / "lists/partial").mkdir(parents=True, exist_ok=True)
            (lists / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
        update(*options)
        package = pattern
        if what == "kernel":
            # The package without a version in its name depends on the one with it.
            depends = command(["apt-cache", *options, "depends", f"linux-image-cloud-{architecture}"])
            package = re.search(f"Depends: ({pattern.format(architecture)})", depends or "")
            package = package and package[1]
        if package and command(["apt-get", *options, "download", "-q", package], directory) is not None:
            for deb in directory.glob("*.deb"):
                command(["dpkg", "-x", deb, directory])
                deb.unlink()
            found = sorted(directory.glob(inside))
    if not found:
        raise Missing(f"no {what}: --install gets it from Debian, or give a file with --{what}")
    return found[-1]


@functools.cache
def update(*options):
    """Runs apt-get update once, before the first package is downloaded."""
    if os.geteuid() == 0:
        command(["apt-get", *options, "update", "-q"])


def command(words, directory=None):
    """The output of a command. If the command fails, prints why and returns None."""
    try:
        done = subprocess.run(
            words, cwd=directory, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"{words[0]}: {error}")
        return None
    if done.returncode != 0:
        print(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
        return None
    return done.stdout


def build(target):
    """The init as one static binary, with glibc. `cargo static` builds only the daemon, with musl."""
    flags = '["-Ctarget-feature=+crt-static", "-Crelocation-model=static"]'
    words = ["cargo", "build", "--quiet", "--release", "--example", "init", "--target", target,
             "--no-default-features", "--features", "server",
             "--config", f"target.{target}.rustflags = {flags}"]
    subprocess.run(words, cwd=ROOT, check=True, timeout=BUILD_SECONDS_MAX)
    folder = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return ROOT / folder / target / "release/examples/init"


def build_daemon(machine):
    subprocess.run(["cargo", machine.build, "--quiet"], cwd=ROOT, check=True, timeout=BUILD_SECONDS_MAX)
    folder = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return ROOT / folder / machine.static / "release/healthz"


def build_clock(work, cc="cc"):
    """A static program that sets the state of the kernel's clock: synchronised or not."""
    program = work / "set-clock"
    words = [cc, "-static", "-Os", "-Wall", "-Werror", "-o", program, GUEST / "set-clock.c"]
    if command(words) is None:
        raise Missing(f"{cc} is no C compiler that makes static programs: apt-get install gcc libc6-dev")
    return program


DIRECTORY, SYMLINK, PROGRAM, PLAIN = 0o040755, 0o120777, 0o100755, 0o100644


def files(init, daemon, busybox, clock):
    """(path, mode, content) of each file in the initramfs. The init makes its own mount points."""
    commands = (
        "awk cat cp date dd echo grep head httpd kill ls mkdir mkfifo mount nc pidof printf rmdir sed sh sleep sort"
        " start-stop-daemon tail timeout tr true unshare wc wget"
    )
    return [
        ("bin", DIRECTORY, b""),
        ("bin/busybox", PROGRAM, busybox.read_bytes()),
        *((f"bin/{name}", SYMLINK, b"busybox") for name in commands.split()),
        ("etc", DIRECTORY, b""),
        ("etc/init.list", PLAIN, (GUEST / "init.list").read_bytes()),
        ("etc/passwd", PLAIN, b"nobody:x:65534:65534::/:/bin/sh\n"),
        ("guest.sh", PROGRAM, (GUEST / "guest.sh").read_bytes()),
        ("half.sh", PROGRAM, (GUEST / "half.sh").read_bytes()),
        ("healthz", PROGRAM, daemon.read_bytes()),
        ("set-clock", PROGRAM, clock.read_bytes()),
        ("init", PROGRAM, init.read_bytes()),
    ]


def test_files(work, arguments):
    """The tests, the program that they test, and what they read and start."""
    programs = {name: find_in_package(work, name, arguments.install, arguments.architecture).read_bytes()
                for name in ("dash", "setpriv", "libcap-ng")}
    libraries = Path("/usr/aarch64-linux-gnu/lib")
    found = [
        ("lib", DIRECTORY, b""),
        ("etc/services", PLAIN, b"http 80/tcp\n"),
        # The shell of busybox runs its own setpriv, which cannot drop capabilities.
        ("bin/sh", PROGRAM, programs["dash"]),
        ("bin/setpriv", PROGRAM, programs["setpriv"]),
        ("lib/libcap-ng.so.0", PROGRAM, programs["libcap-ng"]),
        *((f"lib/{name}", PROGRAM, (libraries / name).read_bytes()) for name in ("ld-linux-aarch64.so.1", "libc.so.6")),
        ("tests", DIRECTORY, b""),
        *((f"tests/{program.stem.rpartition('-')[0]}", PROGRAM, program.read_bytes()) for program in arguments.tests),
    ]
    for file in [arguments.tested, *(ROOT / "tests/conformance").glob("*")]:
        path = file.resolve().relative_to("/")
        known = {path for path, _, _ in found}
        found += [(str(folder), DIRECTORY, b"") for folder in reversed(path.parents) if str(folder) not in {*known, "."}]
        found.append((str(path), PROGRAM, file.read_bytes()))
    return found


def archive(entries):
    """A cpio archive in the format that the kernel unpacks (newc). Needs no tool and no root."""
    out = bytearray()

    def pad():
        out.extend(bytes(-len(out) % 4))

    for inode, (path, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        name = path.encode() + b"\0"
        fields = [inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0]
        out.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + name)
        pad()
        out.extend(content)
        pad()
    return bytes(out)


def boot(qemu, kernel, initrd, append, architecture="amd64"):
    """The output of the console until the machine stops, prints a fatal text, or the time is over."""
    machine = MACHINES[architecture]
    words = [
        qemu, *machine.options, "-accel", "tcg", "-m", str(MEMORY_MIB), "-nodefaults", "-nic", "none", "-no-reboot",
        "-display", "none", "-serial", "stdio",
        "-kernel", kernel, "-initrd", initrd,
        "-append", f"console={machine.console} panic=-1 loglevel=4 {append}",
    ]
    deadline = time.monotonic() + BOOT_SECONDS_MAX
    console = bytearray()
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as machine:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([machine.stdout], [], [], left)[0]:
                console += f"\nvm.py: stopped after {BOOT_SECONDS_MAX} s\n".encode()
                machine.kill()
                break
            read = os.read(machine.stdout.fileno(), 65536)
            if not read:
                break
            console += read
    return console.decode(errors="replace").replace("\r", "")


def judge(console, expected):
    """The first fault of the console's output, or None."""
    for text in FATAL:
        if text in console:
            line = console[console.index(text) :].splitlines()[0]
            return f"the console has '{line}'"
    at = 0
    for text in expected:
        found = console.find(text, at)
        if found < 0:
            return f"'{text}' is missing on the console, or too early"
        at = found + len(text)
    return None


if __name__ == "__main__":
    sys.exit(main())
