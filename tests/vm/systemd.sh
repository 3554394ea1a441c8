#!/bin/bash
# The test inside the virtual machine of tests/systemd.py, started as a unit. It prints `vm: ok WHAT` or
# `vm: FAIL WHAT: WHY` for each result, and then powers the machine off.
. /helpers.sh
PORT=10249

trap 'systemctl poweroff --no-block' EXIT
mkdir -p /data
mount -t tmpfs none /data
touch /tmp/of-the-machine
show systemd-journald MainPID >/run/journald.pid
set-clock 100000

systemctl start forwarding worker || { systemctl status forwarding worker --no-pager; journal forwarding; }
[[ $(show worker NRestarts) == 0 ]] || say "FAIL the worker found no socket when healthz was ready"
check "healthz is active" active "$(systemctl is-active forwarding)"
check "the worker is active because READY=1 was forwarded" active "$(systemctl is-active worker)"
check "the heartbeat of the worker passes" ok "$(text /healthz/worker)"
first=$(show worker MainPID)
before=$(awk '{ print int($1) }' /proc/uptime)
is "time has passed" yes eval "[ \$(awk '{ print int(\$1) }' /proc/uptime) -gt $((before + 11)) ] && echo yes"
check "the worker is still active after its watchdog time" "active $first 0" \
    "$(systemctl is-active worker) $(show worker MainPID) $(show worker NRestarts)"
check "systemd shows the status that was forwarded" "42 jobs" "$(show worker StatusText)"
[[ $first -gt 1 ]] && kill -STOP "$first"
eventually "a stopped worker fails its check" "*no heartbeat for * s, limit 2 s: 42 jobs*" text /healthz/worker
eventually "systemd has restarted the worker, because no message was forwarded" 1 show worker NRestarts
eventually "the heartbeat of the worker passes again" ok text /healthz/worker

pid=$(show forwarding MainPID)
printf '[check.here]\nfile = "/etc/hostname"\n' >>/etc/forwarding.toml
check "systemctl reload" "" "$(systemctl reload forwarding 2>&1)"
eventually "the new check is there" ok text /healthz/here
eventually "healthz is active after a reload" active systemctl is-active forwarding
printf '[check.here2]\nfle = "/etc/hostname"\n' >>/etc/forwarding.toml
check "systemctl reload with a mistake" "" "$(systemctl reload forwarding 2>&1)"
eventually "the mistake is in the journal" "*fle*did you mean file*was not used; the checks stay as they are*" journal forwarding
check "the new check is still there" ok "$(text /healthz/here)"
check "the process is still the same" "active $pid" "$(systemctl is-active forwarding) $(show forwarding MainPID)"

# judge UNIT WHAT: each check has the answer in `expected`, or `ok` if it is not there.
judge() {
    local name got faults=
    PORT=10248
    is "the answer of $1" "*check *" text "/healthz?verbose"
    # Each check has had a result.
    is "the first results of $1" "no" eval 'text "/healthz?verbose" | grep -q "not reported yet" && echo yes || echo no'
    sleep 3
    for name in $(sed -n 's/^\[check\.\(.*\)\]$/\1/p' /etc/healthz.toml); do
        got=$(text "/healthz/$name")
        # shellcheck disable=SC2053
        [[ $got == ${expected[$name]:-ok} ]] || faults="$faults; $name: expected ${expected[$name]:-ok}, got $got"
        [[ $got == ok ]] || say "in the $1, $name says: $got"
    done
    if [[ -z $faults ]]; then say "ok $2"; else say "FAIL $2$faults"; fi
}
systemctl start healthz || { systemctl status healthz --no-pager; journal healthz; }
# Only root, or a process with CAP_SYS_PTRACE, can read it.
denied="*/proc/*/fd: permission denied*"
declare -A expected=(
    [fds-of]=$denied
    [temporary]="*/tmp/of-the-machine: does not exist*"
    [clock]="*adjtimex: permission denied*"
    [mounted]="*/data: mounted read-only, must be writable*"
)
judge "unit" "in the sandbox of the unit each check has the documented result"
systemctl stop healthz

mkdir -p /etc/systemd/system/healthz.service.d
cp /checks.conf /etc/systemd/system/healthz.service.d/
# checks.conf has this line as a comment.
printf '[Service]\nReadWritePaths=/data\n' >/etc/systemd/system/healthz.service.d/more.conf
systemctl daemon-reload
systemctl start healthz || { systemctl status healthz --no-pager; journal healthz; }
expected=(
    [fds-of]=$denied
    [temporary]="*/tmp/of-the-machine: does not exist*"
)
judge "drop-in" "with the drop-in each check has the documented result"
systemctl stop healthz
systemctl stop forwarding worker
check "healthz has stopped" "inactive success" "$(systemctl is-active healthz) $(show healthz Result)"
check "no process of healthz is left" "" "$(pidof healthz)"
