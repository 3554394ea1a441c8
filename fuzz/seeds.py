#!/usr/bin/env python3
"""Writes initial inputs of fuzz targets into DIRECTORY/TARGET: fuzz/seeds.py DIRECTORY

They come from the requests in tests/conformance and from the texts below. The fuzzer starts from
them and from fuzz/corpus. The targets `checks` and `link` have none of these, only fuzz/corpus.
"""
import hashlib
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
# Command lines and environment variables. A space separates arguments; it becomes a NUL byte.
TEXTS = """
--listen 127.0.0.1:10248 --listen=[::1]:10248 --listen localhost:0 --listen unix:/run/healthz.sock
--listen unix: --listen 0.0.0.0:80 --allow-remote --allow-host localhost --allow-host [::1]
--allow-host a.example --connections 64 --head-bytes 8192 --body-bytes 262144
--head-timeout 10s --idle-timeout 1m --drain-timeout 2s --log-limit 120s --sync-period 10s --sync-limit 5m
--sync-period 1h --sync-limit 1h1ms
--shutdown-delay 0s --ready-fd 3 --log-level debug
--log-level off --connections 0 --head-bytes 511 --sync-period 25h
--help
--version
-h
-V
-hV -x
--lisen 127.0.0.1:1
--help=yes
-- word
2 42 web:healthz.socket
2147483644 42 :unknown:
two 42
30000000
18446744073709551615
@healthz
/run/systemd/notify
1h2m3s4ms
""".strip().splitlines()
# `--check` arguments, and lines of a check file. A bar ends an argument; it becomes a NUL byte.
CHECKS = """
a=heartbeat,limit=30s,socket=@a,uid=1|[check.b];heartbeat = true;until-ready = "pass"
a=file:/a\\,b,max-age=7d|[defaults];period = "5s";[check."b/c"];file = "/x";min-size = "1Ki"
a=tcp:[::1]:6379,send=PING\\r\\n,expect=\\x2bPONG|b=unix:@x|
a=http:http://localhost/a?b=1,status=200-299,404,header=A: b,header=C:d,host=x|[check.b];http = "https://a"
a=exec:/bin/true -q,env=A=b|[check.b];exec = ["/bin/a b", "-q"];env = { A = "b" };severity = "loud"
a=pressure:cpu,kind=full,scope=cgroup:x|b=memory,min=2.5%|c=disk:/,min=2Gi|d=pids|e=fds:exe:x
a=clock,failure-threshold=3/5|b=mount:/,rw=false|c=temperature:x,max=85.5C|d=process:/run/x.pid
[check.a];dsk = "/";[check.b];disk = "/";perod = "1s";period = 10s
""".strip().splitlines()
# Files of /proc, /sys and /etc.
FILES = [
    "MemTotal:        4046180 kB\nMemFree:          186728 kB\nMemAvailable:    3011052 kB\n",
    "anon 4096\nfile 8192\ninactive_file 12288\n",
    "4:memory:/old\n1:name=systemd:/x\n0::/user.slice/a b.scope\n",
    "0.61 0.61 0.55 3/828 22084\n",
    "1632\t32\t9223372036854775807\n",
    "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  524288  files\nMax locked memory  1  1  bytes\n",
    "Max open files            unlimited            unlimited            files     \n",
    "1234 (a) (b c) S 1 1230 1230 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 3702 5799936 900 18446744073709551615\n",
    "2 (kthreadd) Z 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 1 0 0\n",
    "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n"
    "31 30 8:17 / /da\\040ta\\134 ro shared:3 master:4 - ext4 /dev/sdb1 rw\n",
    "root:x:0:0:root:/root:/bin/sh\nada:x:1000:100:Ada:/home/ada:/bin/sh\n",
    "audio:x:29:eve,ada\nusers:x:100:ada\n",
    "12 34 4194304 \n",
    "max\n",
    "18446744073709551615\n",
    "-9223372036854775808\n",
    " 17 \n/var/lib/postgresql\n5432\n",
]
# Messages of sd_notify(3), in sequences: a space separates the lines of one message, and a bar the
# messages. Before each comes a byte for the time since the last.
MESSAGES = """
READY=1|WATCHDOG=1|WATCHDOG=1 STATUS=serving
STATUS=loading|EXTEND_TIMEOUT_USEC=5000000|READY=1 MAINPID=4711
WATCHDOG_USEC=2000000 READY=1|STOPPING=1|WATCHDOG=1|READY=1
READY=1|WATCHDOG=trigger ERRNO=28 STATUS=full|WATCHDOG=1|READY=1 WATCHDOG_USEC=0
READY=1|RELOADING=1 MONOTONIC_USEC=1000000|READY=1
BARRIER=1|FDSTORE=1 FDNAME=a|BARRIER=1 READY=1
MAINPID=1 WATCHDOG_USEC=18446744073709551615|MAINPID=2|ERRNO=4096 ERRNO=4095
""".strip().splitlines()
# Responses of HTTP services: the head's fields, and the body.
RESPONSES = [
    ("200 OK", "Content-Length: 2\r\n", "ok"),
    ("200 OK", "Content-Length: 5, 5\r\nDate: x\r\n", "aaaab"),
    ("200 OK", "Transfer-Encoding: chunked\r\n", "1\r\no\r\n1;a=b\r\nk\r\n0\r\n\r\n"),
    ("200 OK", "Transfer-Encoding: chunked\r\n", "000A\r\n0123456789\r\n0\r\nA: b\r\n\r\n"),
    ("200 OK", "", "not o"),
    ("204 No Content", "", ""),
    ("304", "", ""),
    ("503 Busy", "Content-Length: 0\r\n", ""),
    ("100 Continue\r\n\r\nHTTP/1.1 200 OK", "Transfer-Encoding: gzip\r\n", "ok"),
    ("103 Hints\r\nLink: a\r\n\r\nHTTP/1.0 302 Found", "Location: /\r\n", "ok"),
]
# Longer requests test the size limit of a head, which each target can reach with smaller limits.
BYTES_MAX = 1024


def requests():
    """The bytes of every request in tests/conformance."""
    for file in sorted((HERE / "../tests/conformance").glob("*.jsonl")):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            text = row.get("request") or "".join(part * count for part, count in row.get("request_parts", []))
            if len(text) <= BYTES_MAX:
                yield text.encode("latin-1")


def targets(request):
    """The target in a request line, if there is one."""
    parts = request.split(b"\n", 1)[0].split(b" ")
    return parts[1:2]


def seeds():
    """Pairs of the name of a fuzz target and an input."""
    for request in requests():
        yield "request", request
        yield "differential", request
        # The leading bytes select limits and steps: wide limits without steps, then narrow limits, the
        # request in pieces, and the end of the stream.
        yield "connection", bytes([255, 255, 0]) + request
        yield "connection", bytes([60, 20, 5, 0, 3, 1, 40, 2, 7, 4, 200, 6, 99]) + request
        for target in targets(request):
            yield "target", target
            yield "target", target + b"\n/healthz/log"
    for text in TEXTS:
        yield "options", text.encode().replace(b" ", b"\0")
    for text in CHECKS:
        yield "checkfile", text.encode().replace(b"|", b"\0").replace(b";", b"\n")
    for text in FILES:
        yield "procfs", text.encode()
    for messages in MESSAGES:
        for option in b"\x0a", b"\x0b":
            parts = [b"d" + part.encode().replace(b" ", b"\n") for part in messages.split("|")]
            yield "notify", option + b"\xff".join(parts)
    for status, fields, body in RESPONSES:
        response = f"HTTP/1.1 {status}\r\n{fields}\r\n{body}".encode()
        for option in range(4):
            yield "response", bytes([option, 128]) + response


def main():
    root = pathlib.Path(sys.argv[1])
    for target, data in seeds():
        directory = root / target
        directory.mkdir(parents=True, exist_ok=True)
        (directory / hashlib.sha1(data).hexdigest()).write_bytes(data)


main()
