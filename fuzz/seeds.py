#!/usr/bin/env python3
"""First inputs for every target, from the rows of tests/conformance: fuzz/seeds.py DIRECTORY.

A fuzzer starts from these (and from fuzz/corpus) and keeps what it finds beside them.
"""
import hashlib
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
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
        # Wide limits and no steps; then narrow ones, some pieces, and an end.
        yield "connection", bytes([255, 255, 0]) + request
        yield "connection", bytes([60, 20, 5, 0, 3, 1, 40, 2, 7, 4, 200, 6, 99]) + request
        for target in targets(request):
            yield "target", target
            yield "target", target + b"\n/healthz/log"


def main():
    root = pathlib.Path(sys.argv[1])
    for target, data in seeds():
        directory = root / target
        directory.mkdir(parents=True, exist_ok=True)
        (directory / hashlib.sha1(data).hexdigest()).write_bytes(data)


main()
