#!/usr/bin/env python3
"""Writes the initial inputs of every fuzz target into DIRECTORY/TARGET: fuzz/seeds.py DIRECTORY

They come from the requests in tests/conformance and from the texts below. The fuzzer starts from
them and from fuzz/corpus.
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
    for text in FILES:
        yield "procfs", text.encode()


def main():
    root = pathlib.Path(sys.argv[1])
    for target, data in seeds():
        directory = root / target
        directory.mkdir(parents=True, exist_ok=True)
        (directory / hashlib.sha1(data).hexdigest()).write_bytes(data)


main()
