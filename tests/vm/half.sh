#!/bin/sh
# A client that never sends the end of its head. Its standard input and output are a connection. It exits when the
# server closes the connection.
printf 'GET /healthz HTTP/1.1\r\nHost: '
exec cat >/dev/null
