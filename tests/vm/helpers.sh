# Functions of the scripts that run in a booted Debian. `check` and `eventually` print `vm: ok WHAT` or
# `vm: FAIL WHAT: WHY`.

say() { echo "vm: $*"; }

# text PATH [HOST]: the body of an answer with any status.
text() {
    exec 5<>"/dev/tcp/${2:-127.0.0.1}/$PORT" || return
    printf 'GET %s HTTP/1.0\r\n\r\n' "$1" >&5
    tr -d '\r' <&5 | sed '1,/^$/d'
    exec 5>&-
}

# check WHAT EXPECTED GOT
check() {
    # shellcheck disable=SC2053
    if [[ $3 == $2 ]]; then say "ok $1"; else say "FAIL $1: expected $2, got $3"; fi
}

# is WHAT EXPECTED COMMAND...: the command prints EXPECTED within about 20 s.
is() {
    local what=$1 expected=$2 got=
    shift 2
    for _ in {1..100}; do
        got=$("$@" 2>&1)
        # shellcheck disable=SC2053
        if [[ $got == $expected ]]; then return 0; fi
        sleep 0.2
    done
    say "FAIL $what: expected $expected, got $got"
    return 1
}
eventually() { is "$@" && say "ok $1"; }

show() { systemctl show -p "$2" --value "$1"; }
journal() { journalctl -q -o cat -u "$1"; }

export SYSTEMD_COLORS=0 SYSTEMD_PAGER=
