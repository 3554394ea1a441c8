#!/usr/bin/env python3
"""Builds the Debian package, checks it with lintian, and installs it in a booted Debian in qemu.

- Two builds give the same bytes. lintian prints nothing at its default level.
- The machine boots with an older version installed. tests/vm/package.sh then looks at the running service: answers,
  status, watchdog, sandbox, reload, a stopped thread, restarts with the socket. It upgrades, removes, purges and
  installs the package, and prints one line for each result.

The older version is the same package with another version and another configuration file.

The file system is that of tests/systemd.py. Exit code 1 when something failed, 2 when the script could not run, 3
with `--require` when nothing could be tried; otherwise 0.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import systemd
import vm
from vm import DIRECTORY, GUEST, PLAIN, PROGRAM, ROOT, SYMLINK, Missing
from vm import archive, boot, command, find_in_package, find_qemu, judge

BUILD = ROOT / "packaging/debian/build"
PACKAGES = ROOT / "target/debian"
MEMORY_MIB = 1536
BOOT_SECONDS_MAX = 480
BUILD_SECONDS_MAX = 1800
# dpkg and apt run in the machine, and need var/lib/dpkg.
LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/zoneinfo", "var/cache")

UNIT = """
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash /package.sh
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
"""


def expected():
    """Each line that the script must print, in order."""
    script = (GUEST / "package.sh").read_text()
    names = re.findall(r'^(?:check|eventually) "([^"]+)"', script, re.M)
    assert len(names) > 40, names
    return [f"vm: ok {name}\n" for name in names] + ["reboot: Power down"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--install", action="store_true", help="get what is missing with apt-get (as root)")
    parser.add_argument("--require", action="store_true", help="exit with 3 instead of skipping")
    parser.add_argument("--kernel", type=Path, help="a bzImage with devtmpfs, cgroups and a serial console")
    work = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "vm"
    parser.add_argument("--work", type=Path, default=work, help="where files and consoles are kept")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        if os.geteuid() != 0 or not shutil.which("dpkg"):
            raise Missing("a package is installed only on Debian, as root")
        tools(arguments.install)
        package = build()
        faults = [fault for fault in (rebuilt(package), lintian(package)) if fault]
        qemu = find_qemu(arguments.install)
        kernel = arguments.kernel or find_in_package(work, "kernel", arguments.install)
        root = installed(work, systemd.file_system(work, arguments.install), older(work, package))
    except Missing as missing:
        print(f"skip: {missing}")
        return 3 if arguments.require else 0
    initrd = work / "package.cpio"
    initrd.write_bytes(archive([*systemd.unpacked(root, LEFT_OUT), *files(work, package)]))
    print(f"{package.name}: {package.stat().st_size >> 10} KiB; {initrd.stat().st_size >> 20} MiB of files")
    vm.MEMORY_MIB, vm.BOOT_SECONDS_MAX = MEMORY_MIB, BOOT_SECONDS_MAX
    started = time.monotonic()
    # A login prompt would use the serial console.
    append = "quiet systemd.show_status=false systemd.wants=test.service systemd.mask=serial-getty@ttyS0.service"
    console = boot(qemu, kernel, initrd, append)
    (work / "console-package.txt").write_text(console)
    fault = judge(console, expected())
    seconds = time.monotonic() - started
    if fault:
        faults.append(f"{fault} ({seconds:.0f} s); the end of its console:")
        faults += [f"  | {line}" for line in console.splitlines()[-80:]]
    for line in console.splitlines():
        if line.startswith("vm: ") and not line.startswith("vm: ok"):
            print(f"  | {line}")
    print("\n".join(["FAIL package", *faults]) if faults else f"ok package ({seconds:.0f} s)")
    return 1 if faults else 0


def tools(may_install):
    programs = {"lintian": "lintian", "dpkg-shlibdeps": "dpkg-dev", "cc": "gcc"}
    missing = [package for program, package in programs.items() if not shutil.which(program)]
    if missing and may_install:
        vm.update()
        command(["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing, "libc6-dev"])
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        raise Missing(f"no {' and no '.join(missing)}: apt-get install, or --install as root")


def build():
    result = subprocess.run([BUILD], capture_output=True, text=True, timeout=BUILD_SECONDS_MAX)
    if result.returncode:
        sys.exit(f"FAIL package: packaging/debian/build failed:\n{result.stderr}")
    return Path(result.stdout.strip().splitlines()[-1])


def rebuilt(package):
    before = hashlib.sha256(package.read_bytes()).hexdigest()
    after = hashlib.sha256(build().read_bytes()).hexdigest()
    return "" if before == after else f"the second build of {package.name} has other bytes"


def lintian(package):
    result = subprocess.run(["lintian", "--allow-root", package], capture_output=True, text=True)
    printed = result.stdout + result.stderr
    return f"lintian printed:\n{printed}" if printed else ""


def older(work, package):
    """The same package with an older version number and another configuration file."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
        control = tree / "DEBIAN/control"
        control.write_text(re.sub(r"(?m)^Version: .*$", "Version: 0.0.9", control.read_text()))
        with (tree / "etc/healthz.toml").open("a") as file:
            file.write("# An older version.\n")
        result = work / "older.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, result], check=True, capture_output=True)
    return result


def installed(work, root, package):
    """The file system `root` with `package` installed, as an archive."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        tree = Path(folder) / "root"
        tree.mkdir()
        subprocess.run(["tar", "-xf", root, "-C", tree], check=True)
        shutil.copy(package, tree / "older.deb")
        result = subprocess.run(["chroot", tree, "dpkg", "-i", "/older.deb"], capture_output=True, text=True)
        if result.returncode:
            raise Missing(f"dpkg -i in the file system failed: {result.stderr}")
        (tree / "older.deb").unlink()
        archive = work / "package-root.tar"
        subprocess.run(["tar", "-cf", archive, "-C", tree, "."], check=True)
    return archive


def files(work, package):
    program = work / "stop-thread"
    if command(["cc", "-static", "-Os", "-Wall", "-Werror", "-o", program, GUEST / "stop-thread.c"]) is None:
        raise Missing("no C compiler that makes static programs: apt-get install gcc libc6-dev")
    yield "init", SYMLINK, b"/lib/systemd/systemd"
    yield "helpers.sh", PLAIN, (GUEST / "helpers.sh").read_bytes()
    yield "package.sh", PROGRAM, (GUEST / "package.sh").read_bytes()
    yield "usr/bin/stop-thread", PROGRAM, program.read_bytes()
    yield "new.deb", PLAIN, package.read_bytes()
    yield "etc/systemd/system/test.service", PLAIN, UNIT.encode()
    for folder in ("var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "etc/systemd/journald.conf.d"):
        for end in range(1, folder.count("/") + 2):
            yield "/".join(folder.split("/")[:end]), DIRECTORY, b""
    yield "etc/systemd/journald.conf.d/volatile.conf", PLAIN, b"[Journal]\nStorage=volatile\nRateLimitBurst=0\n"


if __name__ == "__main__":
    sys.exit(main())
