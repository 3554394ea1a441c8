#!/usr/bin/env python3
"""Boots a Debian with systemd in qemu, with healthz as the unit of examples/managers, and reads the serial console.

Three things need a booted systemd. A service whose NOTIFY_SOCKET is a heartbeat socket of healthz, which forwards its
messages, stays active and is restarted by its watchdog. `systemctl reload` makes healthz read its file again. Each kind
of check works in the sandbox of the unit, or fails as documented. tests/vm/systemd.sh runs in the machine and prints
one line for each result.

mmdebstrap makes the file system once, which takes a minute or two, and it is kept. One boot takes half a minute without
KVM. Fails on a line with FAIL, on an expected line that is missing, and on a boot that takes too long.

Exit code 1 when a result failed, 2 when the script could not run, 3 with `--require` when nothing could be tried;
otherwise 0.
"""

import argparse
import os
import platform
import re
import shutil
import sys
import tarfile
import time
from pathlib import Path

import vm
from sources import BEAT_C, LIBSYSTEMD
from vm import DIRECTORY, GUEST, PLAIN, PROGRAM, ROOT, SYMLINK, Missing
from vm import archive, boot, command, find_in_package, find_qemu, judge

FILES = ROOT / "examples/managers"
MEMORY_MIB = 1200
# For a machine whose processors are shared.
BOOT_SECONDS_MAX = 360
PACKAGES = "systemd,systemd-sysv,udev"
# Folders that are not needed in the machine.
LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/cache",
            "var/lib/apt", "var/lib/dpkg")

EXPECTED = [
    "vm: ok healthz is active",
    "vm: ok the worker is active because READY=1 was forwarded",
    "vm: ok the heartbeat of the worker passes",
    "vm: ok the worker is still active after its watchdog time",
    "vm: ok systemd shows the status that was forwarded",
    "vm: ok a stopped worker fails its check",
    "vm: ok systemd has restarted the worker, because no message was forwarded",
    "vm: ok the heartbeat of the worker passes again",
    "vm: ok systemctl reload",
    "vm: ok the new check is there",
    "vm: ok healthz is active after a reload",
    "vm: ok systemctl reload with a mistake",
    "vm: ok the mistake is in the journal",
    "vm: ok the new check is still there",
    "vm: ok the process is still the same",
    "vm: ok in the sandbox of the unit each check has the documented result",
    "vm: ok with the drop-in each check has the documented result",
    "vm: ok healthz has stopped",
    "vm: ok no process of healthz is left",
    "reboot: Power down",
]

UNITS = {
    # The unit without its sandbox and as root, so that it can send messages in the name of other processes.
    "forwarding.service": """
[Service]
Type=notify
ExecStart=/usr/bin/healthz --listen 127.0.0.1:10249 --config /etc/forwarding.toml
ExecReload=sh -c 'kill -HUP ${MAINPID}'
WatchdogSec=60
RuntimeDirectory=forwarding
NotifyAccess=main
""",
    "worker.service": """
[Unit]
After=forwarding.service
[Service]
Type=notify
ExecStart=/usr/bin/beat READY=1 "STATUS=42 jobs" barrier beats
Environment=NOTIFY_SOCKET=/run/forwarding/worker.sock
WatchdogSec=5
Restart=always
RestartSec=100ms
""",
    "test.service": """
[Unit]
After=basic.target
[Service]
Type=oneshot
ExecStart=/bin/bash /systemd.sh
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
""",
    "test.target": "[Unit]\nRequires=basic.target\nWants=test.service\nAfter=basic.target\n",
}
FORWARDING = """
[check.worker]
heartbeat = true
socket = "/run/forwarding/worker.sock"
limit = "2s"
forward = "/run/systemd/notify"
"""


def main():
    arguments = parse()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        if platform.machine() != "x86_64":
            raise Missing(f"this machine is {platform.machine()}; the kernel is for x86_64")
        qemu = find_qemu(arguments.install)
        kernel = arguments.kernel or find_in_package(work, "kernel", arguments.install)
        root = file_system(work, arguments.install)
        programs = build(work, arguments.install)
    except Missing as missing:
        print(f"skip: {missing}")
        return 3 if arguments.require else 0
    initrd = work / "systemd.cpio"
    # Not compressed: unpacking it in the machine would take longer than loading it.
    initrd.write_bytes(archive([*unpacked(root), *files(arguments.daemon, programs)]))
    print(f"{initrd.stat().st_size >> 20} MiB of files")
    vm.MEMORY_MIB, vm.BOOT_SECONDS_MAX = MEMORY_MIB, BOOT_SECONDS_MAX
    started = time.monotonic()
    console = boot(qemu, kernel, initrd, "quiet systemd.unit=test.target systemd.show_status=false")
    (work / "console-systemd.txt").write_text(console)
    problem = judge(console, EXPECTED)
    seconds = time.monotonic() - started
    if problem:
        print(f"FAIL systemd: {problem} ({seconds:.0f} s); the end of its console:")
        print("".join(f"  | {line}\n" for line in console.splitlines()[-80:]), end="")
        return 1
    print(f"ok systemd ({seconds:.0f} s)")
    for line in console.splitlines():
        if line.startswith("vm: ") and not line.startswith("vm: ok"):
            print(f"  | {line}")
    return 0


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--install", action="store_true", help="get what is missing with apt-get (as root)")
    parser.add_argument("--require", action="store_true", help="exit with 3 instead of skipping")
    parser.add_argument("--daemon", type=Path, default=ROOT / "target/release/healthz", help="the program to test")
    parser.add_argument("--kernel", type=Path, help="a bzImage with devtmpfs, cgroups and a serial console")
    work = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "vm"
    parser.add_argument("--work", type=Path, default=work, help="where files and consoles are kept")
    arguments = parser.parse_args()
    if not arguments.daemon.exists():
        parser.error(f"{arguments.daemon} is not there: build it first, or name another")
    return arguments


def file_system(work, may_install):
    """A Debian of the same release as this machine, so that programs built here run there."""
    root = work / "root.tar"
    if root.exists():
        return root
    release = dict(re.findall(r"^(\w+)=(.*)$", Path("/etc/os-release").read_text(), re.M))
    if release.get("ID") != "debian" or os.geteuid() != 0:
        raise Missing("the file system of the machine is made from Debian, as root")
    if not shutil.which("mmdebstrap") and may_install:
        vm.update()
        command(["apt-get", "install", "-q", "-y", "--no-install-recommends", "mmdebstrap"])
    if not shutil.which("mmdebstrap"):
        raise Missing("no mmdebstrap: apt-get install mmdebstrap, or --install as root")
    new = work / "root.new.tar"
    words = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", release["VERSION_CODENAME"], new]
    if command(words) is None:
        raise Missing("mmdebstrap failed")
    new.rename(root)
    return root


def build(work, may_install):
    if not LIBSYSTEMD.exists() and may_install:
        vm.update()
        command(["apt-get", "install", "-q", "-y", "--no-install-recommends", "gcc", "libc6-dev", "libsystemd-dev"])
    source, program = work / "beat.c", work / "beat"
    source.write_text(BEAT_C)
    if command(["cc", "-Wall", "-Werror", "-o", program, source, "-lsystemd"]) is None:
        raise Missing("no C compiler or libsystemd: apt-get install gcc libc6-dev libsystemd-dev")
    clock = vm.build_clock(work)
    return {"usr/bin/beat": program, "usr/bin/set-clock": clock}


def unpacked(root, left_out=LEFT_OUT):
    """(path, mode, content) of the files in an archive. Owners and devices are left out: systemd mounts /dev."""
    with tarfile.open(root) as tar:
        for member in tar:
            path = member.name.removeprefix("./")
            if not path or path == "." or path.startswith(left_out):
                continue
            if member.isdir():
                yield path, 0o040000 | member.mode, b""
            elif member.issym():
                yield path, SYMLINK, member.linkname.encode()
            elif member.isfile() or member.islnk():
                yield path, 0o100000 | member.mode, tar.extractfile(member).read()


def files(daemon, programs):
    unit = (FILES / "healthz.service").read_text()
    drop_in = (FILES / "healthz.service.d/checks.conf").read_text()
    yield "init", SYMLINK, b"/lib/systemd/systemd"
    yield "systemd.sh", PROGRAM, (GUEST / "systemd.sh").read_bytes()
    yield "helpers.sh", PLAIN, (GUEST / "helpers.sh").read_bytes()
    yield "usr/bin/healthz", PROGRAM, daemon.read_bytes()
    for path, program in programs.items():
        yield path, PROGRAM, program.read_bytes()
    yield "etc/systemd/system/healthz.service", PLAIN, unit.encode()
    # The script copies it.
    yield "checks.conf", PLAIN, drop_in.encode()
    yield "etc/healthz.toml", PLAIN, (GUEST / "healthz.toml").read_bytes()
    yield "etc/forwarding.toml", PLAIN, FORWARDING.encode()
    for name, text in UNITS.items():
        yield f"etc/systemd/system/{name}", PLAIN, text.encode()
    yield "etc/systemd/journald.conf.d", DIRECTORY, b""
    yield "etc/systemd/journald.conf.d/volatile.conf", PLAIN, b"[Journal]\nStorage=volatile\nRateLimitBurst=0\n"


if __name__ == "__main__":
    sys.exit(main())
