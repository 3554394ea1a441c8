#!/bin/bash
# The test inside the virtual machine of tests/package_debian.py, started as a unit at boot, with the older package
# installed. It prints `vm: ok WHAT` or `vm: FAIL WHAT: WHY` for each result, and then powers the machine off.
. /helpers.sh
PORT=10248
trap 'systemctl poweroff --no-block' EXIT
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

version() { dpkg-query -W -f '${Status} ${Version}' healthz 2>&1; }
apt() {
    apt-get -q -y -o Dpkg::Options::=--force-confold "$@" >/run/apt.log 2>&1 && return
    say "FAIL apt-get $*"
    cat /run/apt.log
}
# Some lines of systemctl status, as one line.
summary() {
    systemctl status healthz --no-pager | sed -n 's/^ *\(Loaded\|Active\|Docs\|Status\|Memory\): /\1: /p' | paste -s -d ';'
}
pid() { show healthz MainPID; }
# Sends requests until /run/stop exists, and writes to /run/asked how many of them were not answered with ok.
ask() {
    local all=0 lost=0
    while [[ ! -e /run/stop ]]; do
        [[ $(text /livez 2>&1) == ok ]] || lost=$((lost + 1))
        all=$((all + 1))
    done
    echo "$lost of $all" >/run/asked
}

eventually "healthz is active after boot" active systemctl is-active healthz
check "it is the older package, enabled" "install ok installed 0.0.9 enabled" "$(version) $(systemctl is-enabled healthz)"
check "its socket is not enabled" disabled "$(systemctl is-enabled healthz.socket)"
check "/readyz on IPv4" ok "$(text /readyz)"
check "/readyz on IPv6" ok "$(text /readyz ::1)"
check "systemd shows its status" "healthz passes" "$(show healthz StatusText)"
check "systemd has its watchdog time" "1min" "$(show healthz WatchdogUSec)"
say "$(summary)"
check "no new privileges" 1 "$(awk '/^NoNewPrivs/ { print $2 }' "/proc/$(pid)/status")"
# systemd installs filters for the unit, and healthz adds one.
filters=$(awk '/^Seccomp_filters/ { print $2 }' "/proc/$(pid)/status")
check "system calls are filtered" yes "$([[ $filters -gt 1 ]] && echo yes || echo "$filters filters")"
check "the kernel has Landlock" "*landlock*" "$(cat /sys/kernel/security/lsm)"
check "the sandbox is complete" "" "$(journal healthz | grep -i 'sandbox\|warn\|error')"
exposure=$(systemd-analyze security healthz.service --no-pager 2>&1 |
    sed -n 's/.*exposure level for healthz.service: \([0-9.]*\) .*/\1/p')
say "exposure $exposure, $filters filters for system calls"
check "its exposure is below 1.5" yes "$([[ $exposure =~ ^(0|1\.[0-4]) ]] && echo yes || echo "$exposure")"

# A shorter watchdog, as an administrator would set it.
mkdir -p /etc/systemd/system/healthz.service.d
printf '[Service]\nWatchdogSec=5\n' >/etc/systemd/system/healthz.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart healthz
cat >>/etc/healthz.toml <<'END'
[defaults]
period = "1s"
failure-threshold = 1
[check.worker]
heartbeat = true
limit = "2m"
[check.shell]
process = "exe:systemd-journal"
[check.full]
disk = "/run"
min = "1000Gi"
END
before=$(pid)
check "a reload with new checks" "" "$(systemctl reload healthz 2>&1)"
eventually "a disk with too little space fails its check" "*free, needs 1000 GiB*" text /healthz/full
eventually "a process of another user is found in the sandbox" ok text /healthz/shell
check "healthz beat" "" "$(healthz beat worker --status working 2>&1)"
eventually "its heartbeat passes" ok text /healthz/worker
check "/readyz fails" "*full failed*" "$(text /readyz)"
eventually "systemd shows what fails" "healthz fails: full (*" show healthz StatusText
uptime=$(awk '{ print int($1) }' /proc/uptime)
is "time has passed" yes eval "[ \$(awk '{ print int(\$1) }' /proc/uptime) -gt $((uptime + 12)) ] && echo yes"
check "a failing check does not restart healthz" "active $before 0" \
    "$(systemctl is-active healthz) $(pid) $(show healthz NRestarts)"
cp /etc/healthz.toml /run/good.toml
sed -i 's/^disk/dsik/' /etc/healthz.toml
check "a reload with a mistake fails" "Job for healthz.service failed*" "$(systemctl reload healthz 2>&1)"
check "healthz still runs" "active $before" "$(systemctl is-active healthz) $(pid)"
eventually "the mistake is in the journal" "*dsik*was not used; the checks stay as they are*" journal healthz
check "the checks are still there" "*free, needs 1000 GiB*" "$(text /healthz/full)"
sed 's/1000Gi/1Mi/' /run/good.toml >/etc/healthz.toml
systemctl reload healthz
eventually "the check passes with a lower limit" ok text /readyz

# The server's thread has the name of the process.
for task in /proc/"$(pid)"/task/*; do
    if [[ $(cat "$task/comm") == healthz && ${task##*/} != $(pid) ]]; then thread=${task##*/}; fi
done
before=$(pid)
start=$(awk '{ print $1 }' /proc/uptime)
stop-thread "$thread" &
stopper=$!
is "the thread is traced" "TracerPid:*[1-9]*" grep TracerPid "/proc/$before/task/$thread/status"
eventually "systemd restarts healthz when the server's thread is stopped while it waits" 1 show healthz NRestarts
took=$(awk -v start="$start" '{ printf "%.0f", $1 - start }' /proc/uptime)
say "restarted $took s after its thread was stopped, watchdog 5 s"
wait $stopper
eventually "the journal has the stuck thread" "*server thread stuck for *" journal healthz
check "the journal has the watchdog timeout" "*Watchdog timeout*" "$(journalctl -q -o cat -u healthz)"
eventually "healthz is active again" active systemctl is-active healthz
check "healthz has another process ID" yes "$([[ $(pid) != "$before" ]] && echo yes)"
healthz beat worker
eventually "/readyz is ok again" ok text /readyz

systemctl stop healthz
check "the socket is enabled" "" "$(systemctl enable --now healthz.socket 2>&1 | grep -v ^Created)"
systemctl start healthz
check "healthz got the sockets" ok "$(text /livez)"
ask &
asker=$!
systemctl restart healthz && systemctl restart healthz
before=$(pid)
printf '# Changed by the administrator.\n' >>/etc/healthz.toml
apt install /new.deb
eventually "the newer package is installed" "install ok installed 0.1.0" version
touch /run/stop
wait $asker
check "no request is lost in two restarts and an upgrade" "0 of *" "$(cat /run/asked)"
say "lost $(cat /run/asked) requests"
check "healthz is active after the upgrade" active "$(systemctl is-active healthz)"
check "healthz has another process ID after the upgrade" yes "$([[ $(pid) != "$before" ]] && echo yes)"
check "the changed configuration is kept" "# Changed by the administrator." "$(tail -1 /etc/healthz.toml)"
check "the changed configuration is used" "/readyz: *worker*" "/readyz: $(text '/readyz?verbose')"
systemctl disable healthz 2>/dev/null
apt install --reinstall /new.deb
check "a service that the administrator disabled stays disabled" disabled "$(systemctl is-enabled healthz)"

rm -r /etc/systemd/system/healthz.service.d /etc/healthz.toml.*
apt remove healthz
check "nothing runs after the package is removed" "" "$(pidof healthz)"
check "its configuration is there until it is purged" "# Changed by the administrator." "$(tail -1 /etc/healthz.toml)"
apt purge healthz
check "the package is purged" "*no packages found*" "$(version)"
check "a purge leaves no file" "" "$(find / -xdev -name '*healthz*'; find /run /var /tmp -name '*healthz*')"
check "systemd knows no unit of it" not-found "$(show healthz LoadState)"

apt install /new.deb
check "apt installs and starts it" active "$(systemctl is-active healthz)"
check "apt enables it" enabled "$(systemctl is-enabled healthz)"
eventually "/readyz is ok" ok text /readyz
check "healthz probe" "" "$(healthz probe http://localhost:10248/readyz 2>&1)"
check "healthz status" "*/readyz   pass*" "$(healthz status 2>&1)"
check "the example is valid" "*temperature*" "$(healthz check-config /usr/share/doc/healthz/examples/healthz.toml 2>&1)"
say "$(summary)"
