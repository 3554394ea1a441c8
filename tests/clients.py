#!/usr/bin/env python3
"""Runs real health clients against a real healthz, once passing and once failing.

The conformance rows have the bytes that each client sends. They do not show what the client does with the
answer: whether it ends, its exit code, and whether it reports the server as up. So this script runs the
clients, against one program that serves passing checks and one that serves failing checks.

One line for each case: `ok NAME`, `FAIL NAME: expected .., got ..`, `skip NAME: why`; at the end
`N passed, N failed, N skipped`. Exit code 1 when a case failed, 2 when the script could not run.
"""

import csv
import json
import os
import re
import select
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from support.cases import INSTALL_SECONDS_MAX, ROOT, Harness, Missing, Skip, Wrong, await_listener, free_port, install
from support.cases import end_of_log, expect, expect_match, expect_no_match, parse, parser, registry, run_cases, short
from support.cases import wait_for


# The Debian package of each tool. The optional ones are big: without them their cases are skipped, also with --require.
PACKAGES = {
    "curl": "curl",
    "wget": "wget",
    "busybox": "busybox",
    "ab": "apache2-utils",
    "wrk": "wrk",
    "haproxy": "haproxy",
    "nginx": "nginx",
    "monit": "monit",
    "node": "nodejs",
}
PACKAGES_OPTIONAL = {"prometheus": "prometheus", "go": "golang-go"}

FAILING = {"syncloop": "PLEG is not healthy"}
PASSED = "ok"
PASSED_VERBOSE = "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n"
FAILED = "[+]ping ok\n[+]log ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n"

# The commands below are the recorded ones, so that a row and its case can be compared as text. When a
# command runs, the recorded port is replaced by the real one.
RECORDED_PORT = "20090"
URL = f"http://127.0.0.1:{RECORDED_PORT}/healthz"


class Servers:
    """The passing daemon on TCP and on a Unix socket, and the failing example."""

    def __init__(self, harness):
        self.harness = harness
        self.ports = {}
        # Another process may take the port between the search and the bind: try again.
        for attempt in (1, 2, 3):
            port = free_port()
            self.daemon = harness.start("daemon", [harness.args.daemon, "--listen", f"127.0.0.1:{port}"])
            try:
                await_listener(self.daemon, ("127.0.0.1", port))
                break
            except Wrong:
                if attempt == 3:
                    raise
        self.ports["healthy"] = port
        self.unix = str(harness.dir / "healthz.sock")
        self.daemon_unix = harness.start("daemon-unix", [harness.args.daemon, "--listen", f"unix:{self.unix}"])
        await_listener(self.daemon_unix, self.unix)
        self.profile = harness.start(
            "profile",
            [harness.args.profile, "kubelet", json.dumps(FAILING)],
            stdout=subprocess.PIPE,
        )
        self.ports["failing"] = self.read_port()
        await_listener(self.profile, ("127.0.0.1", self.ports["failing"]))

    def read_port(self):
        line, end = b"", time.monotonic() + 10
        while not line.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.profile.stdout], [], [], left)[0]:
                raise Wrong(f"profile: expected its port within 10 s, got {line!r}")
            byte = os.read(self.profile.stdout.fileno(), 1)
            if not byte:
                raise Wrong(f"profile: expected its port, got its end: {end_of_log(self.profile)}")
            line += byte
        if not re.fullmatch(rb"[0-9]{1,5}\n", line):
            raise Wrong(f"profile: expected its port, got {line!r}")
        return int(line)


# ---------------------------------------------------------------------------------------------
# Cases. A case is a name, the recorded rows it stands for, the tools it needs, and a function.

register, CASES = registry()
# The recorded rows that have a case.
ROWS = set()


def case(name, *needs, rows=()):
    ROWS.update(rows)
    return register(name, *needs)


class Expected:
    """What a run of a client must print. `out` is the whole stdout; `has` and `lacks` are searched for in it."""

    def __init__(self, out=None, code=0, has=(), lacks=(), err=(), seconds=None, check=None):
        self.out, self.code, self.seconds, self.check = out, code, seconds, check
        self.has, self.lacks, self.err = has, lacks, err

    def judge(self, result):
        codes = self.code if isinstance(self.code, tuple) else (self.code,)
        if result.code not in codes:
            raise Wrong(f"exit code: expected {self.code}, got {result.code}, {short(result.err.strip())}")
        if self.out is not None:
            expect("output", result.out, self.out)
        for pattern in self.has:
            expect_match("output", result.out, pattern)
        for pattern in self.lacks:
            expect_no_match("output", result.out, pattern)
        for pattern in self.err:
            expect_match("stderr", result.err, pattern)
        if self.seconds and result.seconds > self.seconds:
            raise Wrong(f"time: expected at most {self.seconds} s, got {result.seconds:.1f} s")
        if self.check:
            self.check(result)


def prepared(harness, command, port):
    """The recorded command, with the ports and paths of this run."""
    upload = harness.dir / "upload"
    if not upload.exists():
        upload.write_text("abc")
    text = command.replace(RECORDED_PORT, str(port)).replace("/etc/hostname", str(upload))
    if text.startswith("python3 "):
        python = harness.python_requests if "import requests" in text else sys.executable
        text = shlex.quote(python) + text[len("python3") :]
    return text


def command(name, recorded, add="", healthy=None, failing=None, row=True, needs=None):
    """Two cases of one command. `add` is appended to the recorded command, so that the client prints more."""
    needs = needs or (re.search(r"(?:\| )?\b(curl|wget|busybox|ab|wrk|node)\b", recorded).group(1),)
    for state, says in (("healthy", healthy), ("failing", failing)):
        if says is None:
            continue

        def run(harness, state=state, says=says):
            port = harness.servers.ports[state]
            says.judge(harness.run(prepared(harness, recorded + add, port)))

        case(f"{name}, {state}", *needs, rows=(recorded,) if row else ())(run)


# -- curl

# Printed after each transfer: the status, and the number of new connections.
WRITE_OUT = " -w '|%{http_code} %{num_connects}|'"


def curl(name, recorded, add=WRITE_OUT, row=True, healthy=f"{PASSED}|200 1|", failing=f"{FAILED}|500 1|", **both):
    command(
        f"curl {name}",
        recorded,
        add,
        Expected(healthy, **both) if healthy is not None else None,
        Expected(failing, **both) if failing is not None else None,
        row,
        ("curl",),
    )


curl(
    "GET",
    f"curl -sS -w '|%{{http_code}} %{{http_version}} conn=%{{num_connects}}' {URL}",
    "",
    healthy=f"{PASSED}|200 1.1 conn=1",
    failing=f"{FAILED}|500 1.1 conn=1",
)
command(
    "curl HEAD",
    f"curl -sS -I {URL}",
    healthy=Expected(has=(r"\AHTTP/1\.1 200 ", r"(?i)^content-length: 2\r$", r"\r\n\r\n\Z")),
    failing=Expected(has=(r"\AHTTP/1\.1 500 ", rf"(?i)^content-length: {len(FAILED)}\r$", r"\r\n\r\n\Z")),
)
curl("HTTP/1.0", f"curl -sS -0 {URL}")
curl(
    "three on one connection",
    f"curl -sS --http1.1 {URL} {URL} {URL}?verbose",
    healthy=f"{PASSED}|200 1|{PASSED}|200 0|{PASSED_VERBOSE}|200 0|",
    failing=f"{FAILED}|500 1|{FAILED}|500 0|{FAILED}|500 0|",
)
curl(
    "offering an upgrade to h2c",
    f"curl -sS --http2 -w '|%{{http_code}} %{{http_version}}' {URL}",
    "",
    healthy=f"{PASSED}|200 1.1",
    failing=f"{FAILED}|500 1.1",
)
# The server has no HTTP/2. The client must fail at once; its message differs between versions.
for _state in ("healthy", "failing"):
    command(
        "curl HTTP/2 preface is refused",
        f"curl -sS --http2-prior-knowledge {URL}",
        **{_state: Expected("", code=(1, 16, 52, 56), seconds=3)},
    )
curl("offering compression", f"curl -sS --compressed {URL}")
curl("Connection: close", f"curl -sS -H 'Connection: close' {URL}")
curl("POST without a body", f"curl -sS -X POST {URL}")
curl("POST with three bytes", f"curl -sS -d a=b {URL}")
curl(
    "POST, then GET on the same connection",
    f"curl -sS -d a=b {URL} --next {URL}",
    WRITE_OUT,
    row=False,
    # -w belongs to the transfers after --next.
    healthy=f"{PASSED}{PASSED}|200 0|",
    failing=f"{FAILED}{FAILED}|500 0|",
)
curl(
    "POST of 2,000,000 bytes with Expect",
    f"head -c 2000000 /dev/zero | curl -sS --data-binary @- -o /dev/null -w '%{{http_code}}' {URL}",
    "",
    healthy="200",
    failing="500",
)
# Without Expect, curl sends the body at once. It must be able to read the answer, although the server does not read the
# whole body.
curl(
    "POST of 2,000,000 bytes at once",
    f"head -c 2000000 /dev/zero | curl -sS -H Expect: --data-binary @- {URL}",
    " -w '|%{http_code}'",
    row=False,
    healthy=f"{PASSED}|200",
    failing=f"{FAILED}|500",
)
curl(
    "POST of 2,000,000 bytes in chunks",
    f"head -c 2000000 /dev/zero | curl -sS -X POST -H Expect: -H 'Transfer-Encoding: chunked' -T - {URL}",
    " -w '|%{http_code}'",
    row=False,
    healthy=f"{PASSED}|200",
    failing=f"{FAILED}|500",
)
# By default curl sends the body after one second without 100-continue; here it would wait for eight. So a run that is
# much shorter shows that the final answer came before the body.
command(
    "curl PUT with Expect gets 405 at once",
    f"curl -sS -T /etc/hostname {URL}",
    " --expect100-timeout 8 -D - -o /dev/null",
    Expected(has=(r"\AHTTP/1\.1 405 ", r"(?i)^allow: .*GET"), lacks=(r"100 Continue",), seconds=4),
    Expected(has=(r"\AHTTP/1\.1 405 ",), seconds=4),
)
# `*` is about the server, not about a resource: an empty 200, whatever the checks say.
curl("OPTIONS *", "curl -sS -X OPTIONS --request-target '*' http://127.0.0.1:20090", healthy="|200 1|", failing="|200 1|")
curl("follows //healthz", "curl -sS -L http://127.0.0.1:20090//healthz", " -w '|%{http_code} %{num_redirects}'",
     healthy=f"{PASSED}|200 1", failing=f"{FAILED}|500 1")  # fmt: skip
for _state in ("healthy", "failing"):
    command(
        "curl /healthz/../livez is sent to /livez",
        "curl -sS --path-as-is http://127.0.0.1:20090/healthz/../livez -w '|%{http_code}'",
        " -o /dev/null -w '%{http_code} %{redirect_url}'",
        **{_state: Expected(has=(r"\A307 http://127\.0\.0\.1:\d+/livez\Z",))},
    )
_WARNING = 'warn: some health checks cannot be excluded: no matches for "a b\\"c"\n'
curl(
    "exclude and verbose in the query",
    "curl -sS -G --data-urlencode 'exclude=a b\"c' -d verbose http://127.0.0.1:20090/healthz",
    healthy=PASSED_VERBOSE.replace("healthz check", f"{_WARNING}healthz check") + "|200 1|",
    failing=FAILED.replace("healthz check", f"{_WARNING}healthz check") + "|500 1|",
)
curl("absolute-form, as to a proxy", f"curl -sS -x http://127.0.0.1:20090 {URL}")
curl("a range request gets the whole body", f"curl -sS -r 0-0 {URL}")
for _state in ("healthy", "failing"):
    command(
        "curl PROXY protocol gets 400",
        f"curl -sS --haproxy-protocol {URL}",
        " -o /dev/null -w '%{http_code}'",
        **{_state: Expected("400", seconds=3)},
    )
    command(
        "curl HTTP/1.1 without Host gets 400",
        f"curl -sS -H 'Host:' {URL}",
        " -o /dev/null -w '%{http_code}'",
        **{_state: Expected("400", seconds=3)},
    )
curl("as the kubelet's prober", f"curl -sS --no-keepalive -A kube-probe/1.36 {URL}")
command(
    "curl -f decides by exit code",
    f"curl -fsS {URL}",
    healthy=Expected(PASSED),
    failing=Expected("", code=22, err=(r"500",)),
    row=False,
)
# The server listens only on 127.0.0.1, and most machines resolve localhost to [::1] first.
curl("to localhost by name", "curl -sS http://localhost:20090/healthz", row=False)
curl(
    "/livez and /readyz",
    "curl -sS http://127.0.0.1:20090/livez http://127.0.0.1:20090/readyz",
    row=False,
    healthy=f"{PASSED}|200 1|{PASSED}|200 0|",
    failing="{}|500 1|{}|500 0|".format(FAILED.replace("healthz", "livez"), FAILED.replace("healthz", "readyz")),
)
curl(
    "one check by name",
    "curl -sS http://127.0.0.1:20090/healthz/ping http://127.0.0.1:20090/healthz/syncloop",
    row=False,
    healthy=f"{PASSED}|200 1|{PASSED}|200 0|",
    failing=f"{PASSED}|200 1|internal server error: {FAILING['syncloop']}\n|500 0|",
)
curl(
    "an unknown path, then /healthz on the same connection",
    f"curl -sS http://127.0.0.1:20090/nope {URL}",
    row=False,
    healthy=f"404 page not found\n|404 1|{PASSED}|200 0|",
    failing=f"404 page not found\n|404 1|{FAILED}|500 0|",
)


@case("curl over a Unix socket, healthy", "curl")
def _(harness):
    sock = shlex.quote(harness.servers.unix)
    got = harness.run(f"curl -sS --unix-socket {sock} http://localhost/healthz http://localhost/healthz{WRITE_OUT}")
    Expected(f"{PASSED}|200 1|{PASSED}|200 0|").judge(got)


# -- wget and busybox

# wget counts an error answer as "server issued an error response" and prints nothing of it.
command("wget", f"wget -q -O - {URL}", healthy=Expected(PASSED), failing=Expected("", code=8))
command(
    "wget HEAD",
    f"wget -S --spider {URL}",
    healthy=Expected(err=(r"HTTP/1\.1 200 OK",)),
    failing=Expected(code=8, err=(r"HTTP/1\.1 500 ",)),
)
command(
    "wget without keep-alive",
    f"wget -q -O - --no-http-keep-alive {URL}",
    healthy=Expected(PASSED),
    failing=Expected("", code=8),
)
command(
    "wget two at a time",
    f"wget -q -O - {URL} {URL}?verbose",
    healthy=Expected(PASSED + PASSED_VERBOSE),
    failing=Expected("", code=8),
)
command(
    "wget reuses its connection",
    f"wget -O - {URL} {URL}?verbose",
    healthy=Expected(PASSED + PASSED_VERBOSE, err=(r"Reusing existing connection",)),
    # wget may close the connection instead of reading the body of an error answer.
    failing=Expected("", code=8, err=(r"ERROR 500",)),
    row=False,
)
command(
    "busybox wget",
    f"busybox wget -q -O - {URL}",
    healthy=Expected(PASSED),
    failing=Expected("", code=1, err=(r"500 Internal Server Error",)),
)
# nc shuts down its sending side after its input. The server must still answer, and then close.
_NC = "printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' | busybox nc 127.0.0.1 20090"
command(
    "busybox nc",
    _NC,
    healthy=Expected(has=(r"\AHTTP/1\.[01] 200 OK\r$", r"\r\n\r\nok\Z"), seconds=5),
    failing=Expected(has=(r"\AHTTP/1\.[01] 500 Internal Server Error\r$", r"healthz check failed\n\Z"), seconds=5),
    needs=("busybox",),
)


# -- load generators

def ab(name, recorded, count, keep=False, row=True):
    has = [rf"^Complete requests: +{count}$", r"^Failed requests: +0$"]
    if keep:
        has.append(rf"^Keep-Alive requests: +{count}$")
    command(
        f"ab {name}",
        recorded,
        healthy=Expected(has=has, lacks=(r"^Non-2xx", r"^Write errors")),
        failing=Expected(has=[*has, rf"^Non-2xx responses: +{count}$"]),
        row=row,
    )


ab("one connection each", f"ab -n 2 -c 1 {URL}", 2)
ab("keep-alive", f"ab -k -n 3 -c 1 {URL}", 3, keep=True)
ab("HEAD", f"ab -i -n 1 {URL}", 1)
ab("keep-alive, verbose", f"ab -k -n 3 -c 1 {URL}?verbose", 3, keep=True)
ab("16 at a time", f"ab -q -n 2000 -c 16 {URL}", 2000, row=False)
ab("16 at a time, keep-alive", f"ab -q -k -n 2000 -c 16 {URL}", 2000, keep=True, row=False)


def wrk_counts(failing):
    def check(result):
        total = re.search(r"(\d+) requests in ", result.out)
        bad = re.search(r"Non-2xx or 3xx responses: (\d+)", result.out)
        if not total or int(total.group(1)) == 0:
            raise Wrong(f"requests: expected some, got {short(result.out)}")
        expect("non-2xx", bad and bad.group(1), total.group(1) if failing else None)

    return check


for _name, _recorded, _row in (
    ("one connection", f"wrk -t1 -c1 -d1s {URL}", True),
    ("32 connections", f"wrk -t2 -c32 -d1s {URL}", False),
):
    command(
        f"wrk {_name}",
        _recorded,
        healthy=Expected(lacks=(r"Socket errors",), check=wrk_counts(False)),
        failing=Expected(lacks=(r"Socket errors",), check=wrk_counts(True)),
        row=_row,
    )


# -- Python and Node

_PY = """import http.client as h; c=h.HTTPConnection('127.0.0.1',20090); c.request('GET','/healthz'); \
r=c.getresponse(); print(r.status,r.read()); c.request('GET','/livez'); r=c.getresponse(); print(r.status,r.read())"""
command(
    "python http.client",
    f'python3 -c "{_PY}"',
    healthy=Expected("200 b'ok'\n200 b'ok'\n"),
    failing=Expected(f"500 {FAILED.encode()}\n500 {FAILED.replace('healthz', 'livez').encode()}\n"),
    needs=("python3",),
)
command(
    "python http.client reuses its connection",
    "python3 -c \"import http.client as h; c=h.HTTPConnection('127.0.0.1',20090); p=[]\n"
    "for m in ('GET','HEAD','POST'): c.request(m,'/healthz'); p.append(c.sock.getsockname()); "
    "r=c.getresponse(); print(r.status,len(r.read()))\nprint(len(set(p)))\"",
    healthy=Expected("200 2\n200 0\n200 2\n1\n"),
    failing=Expected(f"500 {len(FAILED)}\n500 0\n500 {len(FAILED)}\n1\n"),
    row=False,
    needs=("python3",),
)
command(
    "python urllib",
    "python3 -c \"import urllib.request as u; r=u.urlopen('http://127.0.0.1:20090/healthz'); print(r.status,r.read())\"",
    healthy=Expected("200 b'ok'\n"),
    failing=Expected("", code=1, err=(r"HTTP Error 500: Internal Server Error",)),
    needs=("python3",),
)
_REQUESTS = """import requests; s=requests.Session(); print(s.get('http://127.0.0.1:20090/healthz').text, \
s.get('http://127.0.0.1:20090/healthz?verbose').text, requests.__version__)"""
command(
    "python requests",
    f'python3 -c "{_REQUESTS}"',
    healthy=Expected(has=(rf"\Aok {re.escape(PASSED_VERBOSE)} [0-9.]+\n\Z",)),
    failing=Expected(has=(rf"\A{re.escape(FAILED)} {re.escape(FAILED)} [0-9.]+\n\Z",)),
    needs=("requests",),
)
command(
    "python requests reuses its connection",
    "python3 -c \"import requests; s=requests.Session(); u='http://127.0.0.1:20090/healthz'; "
    "r=[s.get(u), s.get(u), s.head(u), s.post(u, data=b'x' * 100)]; "
    "p=s.get_adapter(u).poolmanager.pools; "
    "print([x.status_code for x in r], [p[k].num_connections for k in p.keys()])\"",
    healthy=Expected("[200, 200, 200, 200] [1]\n"),
    failing=Expected("[500, 500, 500, 500] [1]\n"),
    row=False,
    needs=("requests",),
)
_FETCH = """(async()=>{for(let i=0;i<2;i++){const r=await fetch('http://127.0.0.1:20090/healthz');\
console.log(r.status,await r.text())}})()"""
# The process exits only after its idle connections are closed.
command(
    "node fetch",
    f'node -e "{_FETCH}"',
    healthy=Expected("200 ok\n200 ok\n", seconds=8),
    failing=Expected(f"500 {FAILED}\n500 {FAILED}\n", seconds=8),
)
_GET = """require('http').get('http://127.0.0.1:20090/healthz',r=>{r.on('data',d=>console.log(r.statusCode,''+d))})"""
command(
    "node http.get",
    f'node -e "{_GET}"',
    healthy=Expected("200 ok\n", seconds=8),
    failing=Expected(f"500 {FAILED}\n", seconds=8),
)
_AGENT = """const h=require('http'),agent=new h.Agent({keepAlive:true,maxSockets:1});let n=0;\
const go=()=>{const q=h.get('http://127.0.0.1:20090/healthz',{agent},r=>{console.log(r.statusCode,q.reusedSocket);\
r.resume();r.on('end',()=>++n<3?setImmediate(go):agent.destroy())})};go()"""
command(
    "node http.Agent reuses its connection",
    f'node -e "{_AGENT}"',
    healthy=Expected("200 false\n200 true\n200 true\n"),
    failing=Expected("500 false\n500 true\n500 true\n"),
    row=False,
)


# -- HAProxy: one process, and one backend for each kind of check, with a passing and a failing server.

UP, DOWN = ("UP", "L7OK", "200"), ("DOWN", "L7STS", "500")
HAPROXY_CHECKS = [
    # name, row, configuration, verdict on the passing server, verdict on the failing one
    ("option httpchk, default", "haproxy option httpchk (default)", ["option httpchk"], UP, DOWN),
    ("httpchk OPTIONS", None, ["option httpchk OPTIONS /healthz"], UP, DOWN),
    ("httpchk GET", "haproxy option httpchk GET", ["option httpchk GET /healthz"], UP, DOWN),
    ("httpchk HEAD", "haproxy option httpchk HEAD", ["option httpchk HEAD /healthz"], UP, DOWN),
    (
        "httpchk GET HTTP/1.1",
        "haproxy option httpchk GET HTTP/1.1",
        ["option httpchk GET /healthz HTTP/1.1", "http-check send hdr host localhost"],
        UP,
        DOWN,
    ),
    (
        "http-check send",
        "haproxy http-check send",
        [
            "option httpchk",
            "http-check send meth GET uri /healthz ver HTTP/1.1 hdr host localhost hdr user-agent haproxy",
        ],
        UP,
        DOWN,
    ),
    # `expect string ok` alone also passes on a failing answer, because that has `ok` in the lines of the
    # other checks, as in Kubernetes. So only the passing server is tested with it.
    (
        "expect string",
        "haproxy expect string",
        ["option httpchk GET /healthz", "http-check expect string ok"],
        UP,
        None,
    ),
    (
        "expect rstring ^ok$",
        None,
        ["option httpchk GET /healthz", "http-check expect rstring ^ok$"],
        UP,
        ("DOWN", "L7RSP", None),
    ),
    # HTTP/1.1 without Host gets 400, unlike in Kubernetes. HAProxy reports DOWN, with the status.
    (
        "httpchk HTTP/1.1 without Host",
        "haproxy httpchk 1.1 without Host",
        ["option httpchk GET /healthz HTTP/1.1"],
        ("DOWN", "L7STS", "400"),
        ("DOWN", "L7STS", "400"),
    ),
    # It is refused at once, not after a timeout.
    (
        "connect proto h2",
        "haproxy connect proto h2",
        [
            "option httpchk",
            "http-check connect proto h2",
            "http-check send meth GET uri /healthz ver HTTP/2 hdr host localhost",
        ],
        ("DOWN", "L7RSP|SOCKERR", None),
        ("DOWN", "L7RSP|SOCKERR", None),
    ),
]


class Haproxy:
    def __init__(self, harness):
        self.stats = str(harness.dir / "haproxy.stats")
        lines = [
            "global",
            f"  stats socket {self.stats} mode 600",
            "  nbthread 1",
            "defaults",
            "  mode http",
            "  timeout connect 2s",
            "  timeout client 5s",
            "  timeout server 5s",
            "  timeout check 3s",
        ]
        for index, (_, _, config, _, _) in enumerate(HAPROXY_CHECKS):
            lines.append(f"backend check{index}")
            lines += [f"  {line}" for line in config]
            for state, port in harness.servers.ports.items():
                lines.append(f"  server {state} 127.0.0.1:{port} check inter 200ms fall 1 rise 1")
        for state, port in harness.servers.ports.items():
            lines += [
                f"frontend healthz-{state}",
                f"  bind {harness.dir}/haproxy.{state}",
                f"  use_backend proxy-{state}",
                f"backend proxy-{state}",
                "  http-reuse always",
                f"  server {state} 127.0.0.1:{port}",
            ]
        config = harness.dir / "haproxy.cfg"
        config.write_text("\n".join(lines) + "\n")
        self.process = harness.start("haproxy", [harness.which("haproxy"), "-db", "-f", str(config)])
        await_listener(self.process, self.stats)
        self.started = time.monotonic()
        wait_for("a verdict on every server", 10, self.all_judged)
        # Some more checks, because the first results could differ from the later ones.
        time.sleep(max(0, self.started + 1.5 - time.monotonic()))

    def table(self):
        """-> {(backend, server): {column: value}}, read from HAProxy each time."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(3)
            s.connect(self.stats)
            s.sendall(b"show stat\n")
            text = b""
            while part := s.recv(65536):
                text += part
        rows = csv.DictReader(text.decode().removeprefix("# ").splitlines())
        return {(r["pxname"], r["svname"]): r for r in rows}

    def all_judged(self):
        checked = [r for (name, _), r in self.table().items() if name.startswith("check") and r["check_status"]]
        return len(checked) == 2 * len(HAPROXY_CHECKS) and not any("INI" in r["check_status"] for r in checked)

    def verdict(self, index, state):
        def at_rest():
            # A leading star means that the next check is running. The code is then not that of the last check.
            row = self.table()[f"check{index}", state]
            return None if row["check_status"].startswith("*") else row

        row = wait_for("a moment between two checks", 5, at_rest)
        return row["status"], row["check_status"], row["check_code"], row


def haproxy_case(index, state):
    name, row, _, *verdicts = HAPROXY_CHECKS[index]
    expected = verdicts[state == "failing"]
    if expected is None:
        return

    @case(f"haproxy {name}, {state}", "haproxy", rows=(row,) if row else ())
    def _(harness):
        *got, stats = harness.once("haproxy", Haproxy).verdict(index, state)
        for what, value, wanted in zip(("status", "check", "code"), got, expected):
            if wanted is not None and not re.fullmatch(wanted, value):
                raise Wrong(f"{what}: expected {wanted}, got {' '.join(got)}, {stats['last_chk']!r}")
        if expected is UP:
            expect("failed checks in 1.5 s", stats["chkfail"], "0")


for _index in range(len(HAPROXY_CHECKS)):
    for _state in ("healthy", "failing"):
        haproxy_case(_index, _state)


def haproxy_proxy_case(state, body, status):
    @case(f"haproxy mode http proxy, {state}", "haproxy", "curl", rows=("haproxy mode http proxy",))
    def _(harness):
        proxy = harness.once("haproxy", Haproxy)
        sock = shlex.quote(str(harness.dir / f"haproxy.{state}"))
        verbose = PASSED_VERBOSE if state == "healthy" else FAILED
        for option in ("", " -0"):
            got = harness.run(
                f"curl -sS{option} --unix-socket {sock} http://127.0.0.1/healthz http://127.0.0.1/healthz?verbose"
                " -w '|%{http_code}|'"
            )
            Expected(f"{body}|{status}|{verbose}|{status}|").judge(got)
        row = proxy.table()[f"proxy-{state}", state]
        expect("errors towards the server", (row["econ"], row["eresp"]), ("0", "0"))
        if int(row["reuse"]) < 1:
            raise Wrong(f"connections reused: expected some, got {row['reuse']}, opened {row['connect']}")


haproxy_proxy_case("healthy", PASSED, 200)
haproxy_proxy_case("failing", FAILED, 500)


# -- nginx

class Nginx:
    def __init__(self, harness):
        d = harness.dir / "nginx"
        d.mkdir()
        self.errors = d / "error.log"
        paths = "".join(
            f"{kind}_temp_path {d}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        servers = ""
        for state, port in harness.servers.ports.items():
            servers += f"""
            upstream kept-{state} {{ server 127.0.0.1:{port}; keepalive 4; }}
            server {{
                listen unix:{d}/{state};
                location / {{ proxy_pass http://127.0.0.1:{port}; }}
                location /v11/ {{
                    proxy_pass http://kept-{state}/;
                    proxy_http_version 1.1;
                    proxy_set_header Connection "";
                    proxy_set_header Host 127.0.0.1:{port};
                }}
            }}"""
        config = d / "nginx.conf"
        # One process in the foreground, so that ending it ends all of it.
        config.write_text(
            f"daemon off; master_process off; pid {d}/pid; error_log {self.errors} info;\n"
            "events { worker_connections 64; }\n"
            f"http {{ access_log off; default_type text/html; {paths} {servers}\n}}\n"
        )
        argv = [harness.which("nginx"), "-p", str(d), "-e", str(self.errors), "-c", str(config)]
        self.process = harness.start("nginx", argv)
        for state in harness.servers.ports:
            await_listener(self.process, f"{d}/{state}")


def nginx_case(name, row, prefix, state):
    @case(f"nginx {name}, {state}", "nginx", "curl", rows=(row,))
    def _(harness):
        nginx = harness.once("nginx", Nginx)
        before = len(nginx.errors.read_text())
        base = f"http://127.0.0.1{prefix}/healthz"
        command = f"curl -sS -i --unix-socket {shlex.quote(f'{harness.dir}/nginx/{state}')} {base}"
        status, plain, verbose = (200, PASSED, PASSED_VERBOSE) if state == "healthy" else (500, FAILED, FAILED)
        for query, body in (("", plain), ("?verbose", verbose), ("", plain)):
            Expected(
                has=(
                    rf"\AHTTP/1\.1 {status} ",
                    rf"(?i)^content-length: {len(body)}\r$",
                    r"(?i)^content-type: text/plain; charset=utf-8\r$",
                    rf"\r\n\r\n{re.escape(body)}\Z",
                )
            ).judge(harness.run(command + query))
        # Also problems that nginx only logs, such as a truncated answer.
        expect_no_match("error log", nginx.errors.read_text()[before:], r"upstream")


for _state in ("healthy", "failing"):
    nginx_case("proxy_pass 1.0", "nginx proxy_pass (1.0 default)", "", _state)
    nginx_case("proxy_pass 1.1", "nginx proxy_pass 1.1", "/v11", _state)


# -- monit

MONIT_CHECKS = [
    ("protocol http", "monit protocol http", 'protocol http request "/healthz"'),
    ("content", "monit HEAD + content", 'protocol http request "/healthz" content = "ok"'),
    (
        "HEAD and headers",
        "monit HEAD + content",
        'protocol http method HEAD request "/healthz" http headers [Host: x.example, Cache-Control: no-cache]',
    ),
]


class Monit:
    """Polls every second; the results are what `monit status` prints."""

    def __init__(self, harness):
        d = harness.dir / "monit"
        d.mkdir()
        lines = [
            "set daemon 1",
            f"set pidfile {d}/pid",
            f"set idfile {d}/id",
            f"set statefile {d}/state",
            f"set httpd unixsocket {d}/socket allow probe:probe",
        ]
        for index, (_, _, test) in enumerate(MONIT_CHECKS):
            for state, port in harness.servers.ports.items():
                lines.append(f"check host {state}{index} with address 127.0.0.1")
                lines.append(f"  if failed port {port} {test} with timeout 3 seconds then alert")
        config = d / "monitrc"
        config.write_text("\n".join(lines) + "\n")
        config.chmod(0o600)
        self.harness, self.config = harness, str(config)
        self.process = harness.start("monit", [harness.which("monit"), "-I", "-c", self.config])
        await_listener(self.process, f"{d}/socket")
        wait_for("a status of every host", 15, self.all_judged)

    def status(self):
        """-> {name: {field: value}}"""
        result = self.harness.run([self.harness.which("monit"), "-B", "-c", self.config, "status"])
        hosts = {}
        for block in re.split(r"^Remote Host '", result.out, flags=re.M)[1:]:
            name, _, rest = block.partition("'")
            hosts[name] = dict(re.findall(r"^  (\S.*?)  +(.*)$", rest.split("\n\n")[0], re.M))
        return hosts

    def all_judged(self):
        hosts = self.status()
        judged = [h for h in hosts.values() if h.get("port response time", "-") != "-"]
        return hosts if len(judged) == 2 * len(MONIT_CHECKS) else None


def monit_case(index, state):
    name, row, _ = MONIT_CHECKS[index]

    @case(f"monit {name}, {state}", "monit", rows=(row,))
    def _(harness):
        host = harness.once("monit", Monit).status()[f"{state}{index}"]
        if state == "healthy":
            expect("status", host["status"], "OK")
            expect_match("response time", host["port response time"], r"^[0-9.]+ ms to .* protocol HTTP$")
        else:
            expect("status", host["status"], "Connection failed")
            expect_match("response time", host["port response time"], r"^FAILED to ")


for _index in range(len(MONIT_CHECKS)):
    for _state in ("healthy", "failing"):
        monit_case(_index, _state)


# -- Prometheus

class Prometheus:
    PATHS = {"healthz": "/healthz", "slis": "/metrics/slis"}

    def __init__(self, harness):
        self.port = free_port()
        targets = ", ".join(f'"127.0.0.1:{port}"' for port in harness.servers.ports.values())
        jobs = "".join(
            f"  - job_name: {job}\n    metrics_path: {path}\n    static_configs: [{{targets: [{targets}]}}]\n"
            for job, path in self.PATHS.items()
        )
        config = harness.dir / "prometheus.yml"
        config.write_text(f"global: {{scrape_interval: 1s, scrape_timeout: 900ms}}\nscrape_configs:\n{jobs}")
        argv = [
            harness.which("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={harness.dir}/prometheus",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]
        self.process = harness.start("prometheus", argv)
        await_listener(self.process, ("127.0.0.1", self.port), 15)
        self.targets = wait_for("a scrape of every target", 15, self.all_scraped)

    def all_scraped(self):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self.port}/api/v1/targets", timeout=3) as r:
                active = json.load(r)["data"]["activeTargets"]
        except OSError:
            return None
        known = {(t["labels"]["job"], t["labels"]["instance"]): t for t in active if t["health"] != "unknown"}
        return known if len(known) == 4 else None

    def target(self, harness, job, state):
        return self.targets[job, f"127.0.0.1:{harness.servers.ports[state]}"]


# /healthz is not in the format of Prometheus, so both targets are down. The error for a passing answer must be
# about the text, not about the connection; for a failing answer it must be about the status.
@case("prometheus scrape /healthz, healthy", "prometheus", rows=("prometheus scrape /healthz",))
def _(harness):
    target = harness.once("prometheus", Prometheus).target(harness, "healthz", "healthy")
    expect("health", target["health"], "down")
    expect_match("error", target["lastError"], r'INVALID|expected .* got|unexpected|"ok"')


@case("prometheus scrape /healthz, failing", "prometheus", rows=("prometheus scrape /healthz",))
def _(harness):
    target = harness.once("prometheus", Prometheus).target(harness, "healthz", "failing")
    expect_match("error", target["lastError"], r"HTTP status 500 Internal Server Error")


# The daemon serves it, so its target is up. The example that fails has no metrics, and answers 404.
for _state in ("healthy", "failing"):

    @case(
        f"prometheus scrape /metrics/slis, {_state}",
        "prometheus",
        rows=("prometheus scrape /metrics/slis (sample exposition)",),
    )
    def _(harness, state=_state):
        target = harness.once("prometheus", Prometheus).target(harness, "slis", state)
        expect("health", target["health"], "up" if state == "healthy" else "down")
        if state == "failing":
            expect_match("error", target["lastError"], r"HTTP status 404 Not Found")


# -- Go's net/http: the kubelet's prober and the default client

GO_SOURCE = r"""
package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
)

func get(c *http.Client, fields map[string]string) {
	req, err := http.NewRequest("GET", os.Args[1], nil)
	if err != nil {
		panic(err)
	}
	for k, v := range fields {
		req.Header.Set(k, v)
	}
	reused := false
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}
	res, err := c.Do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	if err != nil {
		panic(err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	fmt.Printf("%d %v %v %q\n", res.StatusCode, reused, err, body)
}

func main() {
	if os.Args[2] == "probe" {
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
		for i := 0; i < 2; i++ {
			get(c, map[string]string{"User-Agent": "kube-probe/1.36", "Accept": "*/*"})
		}
	} else {
		for i := 0; i < 2; i++ {
			get(http.DefaultClient, nil)
		}
	}
}
"""


def go_program(harness):
    source, program = harness.dir / "client.go", harness.dir / "goclient"
    source.write_text(GO_SOURCE)
    env = harness.env | {"GO111MODULE": "off", "CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "local"}
    env |= {"GOPATH": f"{harness.dir}/go", "GOCACHE": f"{harness.dir}/go-build"}
    env |= {k: os.environ[k] for k in ("GOROOT",) if k in os.environ}
    Expected().judge(harness.run([harness.which("go"), "build", "-o", str(program), str(source)], 60, env))
    return str(program)


def go_case(name, row, kind, state, reused):
    @case(f"go {name}, {state}", "go", rows=(row,))
    def _(harness):
        program = harness.once("go", go_program)
        url = f"http://127.0.0.1:{harness.servers.ports[state]}/healthz"
        body, status = (PASSED, 200) if state == "healthy" else (FAILED, 500)
        line = "{} {} <nil> {}\n"
        text = json.dumps(body)
        expected = line.format(status, "false", text) + line.format(status, reused, text)
        Expected(expected).judge(harness.run([program, url, kind]))


for _state in ("healthy", "failing"):
    go_case("kubelet prober", "go net/http kubelet prober", "probe", _state, "false")
    go_case("default client", "go net/http default", "plain", _state, "true")


# -- after all clients

@case("the servers still run after all clients", "python3")
def _(harness):
    servers = harness.servers
    for name in ("daemon", "daemon_unix", "profile"):
        p = getattr(servers, name)
        if p.poll() is not None:
            raise Wrong(f"{name}: expected it to run, got exit {p.returncode}: {end_of_log(p)}")
        expect_no_match(f"the log of {name}", p.log.read_text("utf-8", "replace"), r"panicked|RUST_BACKTRACE")


def recorded_rows(path):
    """The key of each row: its command, or the client's name where no command was recorded."""
    keys = []
    for line in path.read_text("utf-8").splitlines():
        if line.strip():
            row = json.loads(line)
            recorded = row["command"]
            # The two nginx commands contain the port of the proxy, so the client's name is the key.
            keys.append(row["client"] if not recorded or row["client"].startswith("nginx") else recorded)
    return keys


@case("every recorded row has a case", "rows")
def _(harness):
    keys = recorded_rows(harness.args.rows)
    expect("rows without a case", sorted(set(keys) - ROWS), [])
    expect("cases whose row is gone", sorted(ROWS - set(keys)), [])


# ---------------------------------------------------------------------------------------------
# Installing, choosing, reporting.


class Clients(Harness):
    def __init__(self, *args):
        super().__init__(*args)
        self.reasons, self.missing = {}, {}
        self.python_requests = None

    def require(self, needs):
        for need in needs:
            if need in self.missing:
                is_optional = any(n in PACKAGES_OPTIONAL or n == "rows" for n in needs)
                raise (Skip if is_optional else Missing)(f"{need}: {self.missing[need]}")


def find_requests(harness):
    """A Python that has requests: this one, Debian's, or a new venv in the temporary directory."""
    for python in filter(None, (sys.executable, harness.which("python3"), "/usr/bin/python3")):
        try:
            p = subprocess.run([python, "-c", "import requests"], env=harness.env, capture_output=True, timeout=30)
        except (OSError, subprocess.SubprocessError):
            continue
        if p.returncode == 0:
            return python
    if not harness.args.install:
        return None
    venv = harness.dir / "venv"
    for argv in (
        [sys.executable, "-m", "venv", str(venv)],
        [f"{venv}/bin/python", "-m", "pip", "install", "-q", "requests"],
    ):
        try:
            p = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=INSTALL_SECONDS_MAX)
        except (OSError, subprocess.SubprocessError) as e:
            harness.reasons["requests"] = str(e)
            return None
        if p.returncode:
            text = (p.stdout + p.stderr)[-300:].decode(errors="replace").strip()
            harness.reasons["requests"] = f"ended with {p.returncode}: {text}"
            return None
    return f"{venv}/bin/python"


def prepare(harness):
    """Installs what is missing, and notes what cannot be had, and why."""
    needed = {need for name, needs, _ in CASES if harness.args.only in name for need in needs}
    tools = [t for t in (PACKAGES | PACKAGES_OPTIONAL) if t in needed]
    if harness.args.install:
        wanted = [t for t in tools if t in PACKAGES or harness.args.optional]
        absent = [t for t in wanted if not harness.which(t)]
        problem = install((PACKAGES | PACKAGES_OPTIONAL)[t] for t in absent) if absent else None
        for tool in absent:
            harness.reasons[tool] = problem or "still missing after installing it"
    harness.missing = {t: harness.reasons.get(t, "not installed") for t in tools if not harness.which(t)}
    if "requests" in needed:
        harness.python_requests = find_requests(harness)
        if not harness.python_requests:
            harness.missing["requests"] = harness.reasons.get("requests", "not installed")
    if not harness.args.rows.is_file():
        harness.missing["rows"] = "no recorded rows at the path of --rows"


def main():
    ap = parser(__doc__)
    ap.epilog = (
        "Prometheus and Go are big and optional: they run when they are installed, --install leaves them "
        "out unless --optional is given too, and --require never asks for them. Installing may start the "
        "services of the packages it brings: it is meant for machines that are thrown away."
    )
    ap.add_argument("--profile", default=str(ROOT / "target/release/examples/profile"), metavar="PATH")
    ap.add_argument("--optional", action="store_true", help="with --install: Prometheus and Go too")
    ap.add_argument(
        "--rows",
        type=Path,
        default=ROOT / "tests/conformance/clients.jsonl",
        metavar="PATH",
        help="the recorded rows, to check that each has a case (default tests/conformance/clients.jsonl)",
    )
    args = parse(ap, "profile")
    harness = Clients(args)
    try:
        prepare(harness)
        harness.begin()
        try:
            harness.servers = Servers(harness)
        except (Wrong, OSError) as e:
            print(f"clients.py: {e}", file=sys.stderr)
            return 2
        return run_cases(harness, CASES)
    except KeyboardInterrupt:
        return 2
    finally:
        harness.clean_up()


if __name__ == "__main__":
    sys.exit(main())
