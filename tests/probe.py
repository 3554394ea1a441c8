#!/usr/bin/env python3
"""Runs `healthz probe` in an empty root file system, on a terminal, under strace, and as a plugin of Nagios. The tests in
Rust cannot do these.

One line for each case: `ok NAME`, `FAIL NAME: expected .., got ..`, `skip NAME: why`; at the end
`N passed, N failed, N skipped`. Exit code 1 when a case failed, 2 when the script could not run.
"""

import os
import pty
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

from support.cases import Harness, Missing, await_listener, free_port, parse, parser, registry, run_script
from support.cases import expect, expect_match, expect_no_match, has_dynamic_linker, wait_for

PATIENCE = 20
STARTS = 200

PACKAGES = {
    "strace": "strace",
    "negate": "monitoring-plugins-basic",
    "nagios4": "nagios4-core",
}
# Where Debian has plugins.
PLUGINS = "/usr/lib/nagios/plugins"

case, CASES = registry()


class Server:
    """A daemon with one check, which fails until its file is there."""

    def __init__(self, harness, name, *more):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/healthz"
        self.file = harness.dir / f"{name}.file"
        check = f"{name}=file:{self.file},period=100ms"
        command = [harness.args.daemon, "--listen", f"127.0.0.1:{self.port}", "--check", check, *more]
        self.process = harness.start(name, command)
        await_listener(self.process, ("127.0.0.1", self.port))
        wait_for("the check to fail", PATIENCE, lambda: harness.run([harness.args.daemon, "probe", self.url]).code == 1)

    def pass_(self, harness):
        self.file.touch()
        wait_for("the check to pass", PATIENCE, lambda: harness.run([harness.args.daemon, "probe", self.url]).code == 0)


@case("it works in an empty root file system, over TCP and a Unix socket")
def _(harness):
    if os.geteuid() != 0 or not harness.args.static:
        raise Missing("needs root and --static")
    root = harness.dir / "root"
    root.mkdir()
    program = shutil.copy(harness.args.static, root / "healthz")
    expect("it has a dynamic linker", has_dynamic_linker(program), False)
    expect("the other program has one", has_dynamic_linker(harness.args.daemon), True)
    server = Server(harness, "empty", "--listen", f"unix:{root}/healthz.sock")

    def probe(*args):
        result = subprocess.run(
            ["/healthz", "probe", *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, env={},
            timeout=PATIENCE, preexec_fn=lambda: (os.chroot(root), os.chdir("/")),
        )
        return result.returncode, result.stdout, result.stderr

    expect("failing", probe(server.url), (1, "[-]empty failed: reason withheld\n", ""))
    expect("with --flat", probe("--flat", server.url)[0], 1)
    server.pass_(harness)
    expect("passing", probe(server.url), (0, "", ""))
    expect("Unix socket", probe("-v", "unix:/healthz.sock:/livez"), (0, "ok\n", ""))
    code, out, _ = probe("--count", "3", "--interval", "1ms", server.url)
    expect("a series", (code, "3 sent, 3 healthy" in out), (0, True))
    expect("no file was made", sorted(os.listdir(root)), ["healthz", "healthz.sock"])


@case("it starts no thread and no process", "strace")
def _(harness):
    server = Server(harness, "threads")
    server.pass_(harness)
    for more in ([], ["--count", "3", "--interval", "1ms"]):
        trace = harness.dir / "trace"
        command = ["strace", "-f", "-o", str(trace), harness.args.daemon, "probe", *more, server.url]
        expect("exit code", harness.run(command, seconds=PATIENCE).code, 0)
        text = trace.read_text()
        expect_match("a call", text, r"connect\(")
        expect_no_match("calls", text, r"\b(clone|clone3|fork|vfork)\(")


def on_terminal(command, env):
    """What `command` prints on a terminal, and its exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, env)
    text = b""
    try:
        while piece := os.read(terminal, 65536):
            text += piece
    except OSError:
        # EIO: the other side was closed.
        pass
    os.close(terminal)
    return text.decode().replace("\r\n", "\n"), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@case("colours are printed only on a terminal without NO_COLOR, and blocks only with UTF-8")
def _(harness):
    server = Server(harness, "colours")
    command = [harness.args.daemon, "probe", "--count", "2", "--interval", "1ms", server.url]
    plain = dict(harness.env, TERM="xterm")
    text, code = on_terminal(command, plain)
    expect("exit code", code, 1)
    expect_match("red", text, r"^\x1b\[31m500\x1b\[0m from .*: seq=1 ")
    expect_match("bars of a terminal without UTF-8", text, r" ms  #+ \d$")
    server.pass_(harness)
    text, code = on_terminal(command, dict(plain, LC_ALL="C.UTF-8"))
    expect("exit code", code, 0)
    expect_match("green", text, r"^\x1b\[32m200\x1b\[0m from ")
    expect_match("bars", text, " ms  \u2588+ \\d$")
    expect("columns", max(len(re.sub(r"\x1b\[\d+m", "", line)) for line in text.splitlines()) < 80, True)
    expect_no_match("with NO_COLOR", on_terminal(command, dict(plain, NO_COLOR="1"))[0], r"\x1b")
    expect_match("with NO_COLOR empty", on_terminal(command, dict(plain, NO_COLOR=""))[0], r"\x1b\[32m")
    expect_no_match("TERM=dumb", on_terminal(command, dict(plain, TERM="dumb"))[0], r"\x1b")


@case("negate of the monitoring plugins accepts its output and exit code", "negate")
def _(harness):
    server = Server(harness, "negated")

    def negated(*args):
        result = harness.run(["negate", "-t", "10", *args], seconds=PATIENCE)
        return result.code, result.out

    plugin = [harness.args.daemon, "probe", "--nagios"]
    data = r" \| time=0\.\d{6}s;;;0;1\.000000$"
    code, out = negated("-s", "-c", "OK", *plugin, server.url)
    expect("failing, CRITICAL as OK", code, 0)
    expect_match("text", out, r"^HEALTHZ OK - \[-\]negated failed: reason withheld" + data)
    server.pass_(harness)
    code, out = negated("-s", *plugin, server.url)
    expect("passing, OK as CRITICAL", code, 2)
    expect_match("text", out, r"^HEALTHZ CRITICAL - 200" + data)
    code, out = negated("-u", "WARNING", *plugin, f"http://127.0.0.1:{server.port}/frob")
    expect("another answer, UNKNOWN as WARNING", code, 1)


NAGIOS = """\
cfg_file={dir}/objects.cfg
resource_file={dir}/resource.cfg
log_file={dir}/nagios.log
object_cache_file={dir}/objects.cache
precached_object_file={dir}/objects.precache
status_file={dir}/status.dat
status_update_interval=1
lock_file={dir}/nagios.pid
temp_file={dir}/nagios.tmp
temp_path={dir}
check_result_path={dir}/results
command_file={dir}/nagios.cmd
query_socket={dir}/nagios.qh
state_retention_file={dir}/retention.dat
log_archive_path={dir}
nagios_user={user}
nagios_group={group}
use_syslog=0
interval_length=1
process_performance_data=0
check_external_commands=0
enable_notifications=0
execute_service_checks=1
"""
OBJECTS = """\
define command {{
  command_name probe
  command_line {plugin} probe --nagios $ARG1$
}}
define timeperiod {{
  timeperiod_name always
  alias always
  sunday 00:00-24:00
  monday 00:00-24:00
  tuesday 00:00-24:00
  wednesday 00:00-24:00
  thursday 00:00-24:00
  friday 00:00-24:00
  saturday 00:00-24:00
}}
define contact {{
  contact_name nobody
  service_notifications_enabled 0
  host_notifications_enabled 0
  service_notification_period always
  host_notification_period always
  service_notification_commands probe
  host_notification_commands probe
}}
define host {{
  host_name node
  address 127.0.0.1
  max_check_attempts 1
  check_period always
  contacts nobody
}}
define service {{
  host_name node
  service_description healthz
  check_command probe!{url}
  max_check_attempts 1
  check_interval 1
  retry_interval 1
  check_period always
  contacts nobody
}}
"""


@case("Nagios runs it as a plugin", "nagios4")
def _(harness):
    server = Server(harness, "nagios")
    place = harness.dir / "nagios"
    (place / "results").mkdir(parents=True)
    user = "nobody" if os.geteuid() == 0 else os.environ.get("USER", "nobody")
    group = "nogroup"
    # A copy that the user of Nagios can execute.
    harness.dir.chmod(0o711)
    plugin = shutil.copy(harness.args.daemon, harness.dir / "healthz")
    (place / "nagios.cfg").write_text(NAGIOS.format(dir=place, user=user, group=group))
    (place / "objects.cfg").write_text(OBJECTS.format(plugin=plugin, url=server.url))
    (place / "resource.cfg").write_text("")
    if os.geteuid() == 0:
        for path in (place, *place.rglob("*")):
            shutil.chown(path, user, group)
    verdict = harness.run(["nagios4", "-v", str(place / "nagios.cfg")], seconds=PATIENCE)
    expect_match("nagios4 -v", verdict.out, r"Total Errors:\s+0$")
    harness.start("nagios-run", ["nagios4", str(place / "nagios.cfg")])

    def status(state):
        try:
            text = (place / "status.dat").read_text()
        except OSError:
            return None
        block = re.search(r"^servicestatus \{(.*?)^\s*\}", text, re.M | re.S)
        keys = dict(re.findall(r"^\s*(\w+)=(.*)$", block[1], re.M)) if block else {}
        return keys if keys.get("current_state") == state and keys.get("has_been_checked") == "1" else None

    keys = wait_for("CRITICAL", PATIENCE, lambda: status("2"))
    expect("text", keys["plugin_output"], "HEALTHZ CRITICAL - [-]nagios failed: reason withheld")
    expect_match("performance data", keys["performance_data"], r"^time=0\.\d{6}s;;;0;1\.000000$")
    server.pass_(harness)
    expect("text", wait_for("OK", PATIENCE, lambda: status("0"))["plugin_output"], "HEALTHZ OK - 200")


def processor_seconds(harness, command):
    """The CPU time of one run, in user and kernel mode. The least of some rounds, because other programs disturb it."""
    rounds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        for _ in range(STARTS // 5):
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env=harness.env)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        rounds.append(used / (STARTS // 5))
    return min(rounds)


@case("it takes less than 3 times the CPU time of true")
def _(harness):
    server = Server(harness, "fast")
    server.pass_(harness)
    true = processor_seconds(harness, [shutil.which("true")])
    programs = [harness.args.daemon] + ([harness.args.static] if harness.args.static else [])
    for program in programs:
        probe = processor_seconds(harness, [program, "probe", server.url])
        print(f"   {program}: {probe * 1e6:.0f} us of a CPU, true: {true * 1e6:.0f} us, ratio {probe / true:.2f}")
        # The limit finds a start that became slow, such as one that reads a file or starts a thread.
        expect(f"{program}: less than 3 times the CPU time of true", probe < 3 * true, True)


class WithPlugins(Harness):
    def __init__(self, *args):
        super().__init__(*args)
        self.env["PATH"] += f":{PLUGINS}"


def main():
    ap = parser(__doc__)
    ap.add_argument("--static", metavar="PATH", help="the program of `cargo static`, for the empty root")
    args = parse(ap)
    args.static = args.static and os.path.abspath(args.static)
    return run_script(args, PACKAGES, CASES, make=WithPlugins)


if __name__ == "__main__":
    sys.exit(main())
