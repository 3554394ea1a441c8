#!/bin/sh
# A client that never comes to the end of its head. Runs with a connection as its stdin and stdout,
# and ends when the other side does.
printf 'GET /healthz HTTP/1.1\r\nHost: '
exec cat >/dev/null
