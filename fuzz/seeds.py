#!/usr/bin/env python3
"""First inputs for every target, from the rows of tests/conformance: fuzz/seeds.py DIRECTORY.

A fuzzer starts from these (and from fuzz/corpus) and keeps what it finds beside them.
"""
import hashlib
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
# Command lines and variables, with spaces for what stands between them.
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
# Longer rows are about the size of a head, which each target has smaller ways to reach.
BYTES_MAX = 1024


def requests():
    """The bytes of every row."""
    for file in sorted((HERE / "../tests/conformance").glob("*.jsonl")):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            text = row.get("request") or "".join(part * count for part, count in row.get("request_parts", []))
            if len(text) <= BYTES_MAX:
                yield text.encode("latin-1")


def targets(request):
    """What stands in a request line."""
    parts = request.split(b"\n", 1)[0].split(b" ")
    return parts[1:2]


def seeds():
    """Pairs of target and input."""
    for request in requests():
        yield "request", request
        yield "differential", request
        # Wide limits and no steps; then narrow ones, some pieces, and an end.
        yield "connection", bytes([255, 255, 0]) + request
        yield "connection", bytes([60, 20, 5, 0, 3, 1, 40, 2, 7, 4, 200, 6, 99]) + request
        for target in targets(request):
            yield "target", target
            yield "target", target + b"\n/healthz/log"
    for text in TEXTS:
        yield "options", text.encode().replace(b" ", b"\0")


def main():
    root = pathlib.Path(sys.argv[1])
    for target, data in seeds():
        directory = root / target
        directory.mkdir(parents=True, exist_ok=True)
        (directory / hashlib.sha1(data).hexdigest()).write_bytes(data)


main()
