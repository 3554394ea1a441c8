#!/bin/sh
# The test inside the virtual machine of tests/vm.py, started as a service by the init that is tested. It prints
# `vm: ok WHAT` or `vm: FAIL WHAT: WHY` to the console for each result, and then sends a signal to PID 1 to end the
# machine. All commands are those of busybox.
HOST=127.0.0.1
PORT=10248
# Clients that never send the end of their head: more than the server has slots.
UNFINISHED=80

say() { echo "vm: $*"; }

# The body of an answer with any status. wget does not print the body of a failing answer.
text() {
    printf 'GET %s HTTP/1.0\r\n\r\n' "$1" | nc -w 5 $HOST $PORT | tr -d '\r' | sed '1,/^$/d'
    echo
}

head_of() { printf 'GET %s HTTP/1.0\r\n\r\n' "$1" | nc -w 5 $HOST $PORT | sed '/^.$/q'; }

# (Not wget's own -T: it crashes Debian's static busybox.)
probe() { timeout 5 wget -q -O - "http://${2:-$HOST}:$PORT$1" 2>&1; }

# check WHAT EXPECTED GOT
check() {
    case $3 in
    $2) say "ok $1" ;;
    *) say "FAIL $1: expected $2, got $3" ;;
    esac
}

# eventually WHAT EXPECTED COMMAND...: the command prints EXPECTED within about 20 s.
eventually() {
    what=$1 expected=$2 tries=0
    shift 2
    while [ $tries -lt 100 ]; do
        got=$("$@")
        case $got in
        $expected) say "ok $what"; return ;;
        esac
        sleep 0.2
        tries=$((tries + 1))
    done
    say "FAIL $what: expected $expected, got $got"
}

# always WHAT COUNT: COUNT probes are answered, one after the other, each within 5 s.
always() {
    tries=0 started=$(uptime)
    while [ $tries -lt $2 ]; do
        got=$(probe /healthz)
        [ "$got" = ok ] || { say "FAIL $1: probe $tries got $got"; return; }
        tries=$((tries + 1))
    done
    say "ok $1"
    say "$2 probes, wget included, took $(echo "$started $(uptime)" | awk '{ print $2 - $1 }') s"
}

uptime() { sed 's/ .*//' /proc/uptime; }

# Connections in the server's table.
connections() { grep -c '^ *[0-9]*: 0100007F:2808 [0-9A-F]*:[0-9A-F]* 01 ' /proc/net/tcp; }
connections_enough() { [ "$(connections)" -ge 64 ] && echo yes || echo "no, $(connections)"; }

zombies() { cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '; }

usage() {
    say "$1: $(ls /proc/1/fd | wc -l) descriptors," \
        $(grep -E '^(Rss|Pss_Anon|Private_Clean|Private_Dirty):' /proc/1/smaps_rollup | tr -s ' \n' ' ')
}

# The init stops all services with SIGTERM. Probes must report the stop; then this service exits.
at_the_end() {
    check "readyz fails while the machine stops" "*process is shutting down*" "$(text /readyz/shutdown)"
    check "livez passes while the machine stops" ok "$(probe /livez)"
    exit 0
}
trap at_the_end TERM INT

# The tests of the daemon, which need a kernel with all that the sandbox uses.
if grep -q vm=tests /proc/cmdline; then
    mkdir -p /tmp
    export PATH=/bin HEALTHZ_UNTRIED=/untried
    : >/untried
    for tests in /tests/*; do
        if $tests >/output 2>&1; then
            say "ok the tests of ${tests#/tests/}"
            say "$(grep '^test result' /output)"
        else
            say "FAIL the tests of ${tests#/tests/}"
            sed 's/^/vm: | /' /output
        fi
    done
    sed 's/^/vm: untried: /' /untried
    kill -TERM 1
    while :; do sleep 1; done
fi

# The daemon in its sandbox, with a check of each kind that can pass in this machine.
if grep -q vm=sandbox /proc/cmdline; then
    PORT=10250
    mkdir -p /run/healthz /data
    mount -t tmpfs none /data
    /set-clock 500000
    options=period=6s,timeout=5s,failure-threshold=1,success-threshold=1,unsupported=fail
    /healthz --listen $HOST:$PORT --listen unix:/run/socket --shutdown-delay 10s --connections 128 \
        --check heartbeat=heartbeat,limit=10m --check "file=file:/guest.sh,$options" \
        --check "process=process:exe:busybox,$options" --check "tcp=tcp:127.0.0.1:8080,$options" \
        --check "unix=unix:/run/socket,$options" --check "http=http:http://127.0.0.1:10248/livez,$options" \
        --check "exec=exec:/bin/true,$options" --check "pressure=pressure:memory,$options" \
        --check "memory=memory,min=4Mi,$options" --check "disk=disk:/data,$options" --check "pids=pids,$options" \
        --check "fds=fds,$options" --check "clock=clock,$options" --check "mount=mount:/data,$options" \
        --check "temperature=temperature:thermal_zone0,$options" 2>/daemon.log &
    daemon=$!
    eventually "the daemon serves" "*serving*" cat /daemon.log
    check "the sandbox is complete" 0 "$(grep -c 'sandbox is not complete' /daemon.log)"
    threads() { sed -n "s/^$1:[[:space:]]*//p" /proc/$daemon/task/*/status | tr '\n' ' '; }
    check "each thread has the filter" "2 2 2 " "$(threads Seccomp)"
    check "no thread gets new privileges" "1 1 1 " "$(threads NoNewPrivs)"
    /healthz beat heartbeat || say "FAIL no beat"
    # On a slow machine up to 64 of these probes are open at once. With the connections of the checks, that is less than
    # --connections, so none is evicted.
    summary=$(/healthz probe --count 1000 --interval 5ms --timeout 5m --json http://$HOST:$PORT/livez | tail -n 1)
    check "1000 of 1000 probes are answered" '*"sent":1000,"healthy":1000,*' "$summary"
    say "$summary"
    for kind in heartbeat file process tcp unix http exec pressure memory disk pids fds clock mount; do
        eventually "the check of kind $kind passes" ok text /healthz/$kind
    done
    check "the check of a missing sensor fails" "*thermal_zone0*" "$(text /healthz/temperature)"
    grep -E '^(Rss|Anonymous)' /proc/$daemon/smaps_rollup | sed 's/^/vm: daemon: /'
    kill -TERM $daemon
    eventually "readyz fails while the daemon drains" "*process is shutting down*" text /readyz/shutdown
    check "livez passes while it drains" ok "$(text /livez)"
    wait $daemon
    code=$?
    eventually "the last line counts the requests" "*stopped: 10?? requests answered*" cat /daemon.log
    check "the exit code is 0" 0 $code
    grep -vE ' INFO ' /daemon.log | sed 's/^/vm: log: /'
    PORT=10248
    kill -TERM 1
    while :; do sleep 1; done
fi

check "the check of a service that has just started fails" "*not reported yet*" "$(text /healthz/guest)"
eventually "a healthy machine answers ok" ok probe /healthz
if [ -e /proc/net/if_inet6 ]; then
    check "a healthy machine answers ok on [::1]" ok "$(probe /healthz '[::1]')"
else
    say "ok without IPv6"
fi
usage "at rest"
check "no other user can write to /run" "drwxr-xr-x *" "$(ls -ld /run)"
mkdir -p "/a blank"
mount -t tmpfs none "/a blank" || say "FAIL no mount"

if grep -q vm=short /proc/cmdline; then
    kill -INT 1
    while :; do sleep 1; done
fi

# The machine is suspended for longer than --sync-limit and --idle-timeout. The monotonic clock does not advance during
# the suspend, so neither may expire.
if grep -q vm=suspend /proc/cmdline; then
    PORT=10250
    /healthz --listen $HOST:$PORT --sync-period 1s --sync-limit 3s --idle-timeout 5s &
    eventually "the daemon answers ok" ok probe /healthz
    request='GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n'
    { printf "$request"; sleep 3; printf "$request"; sleep 1; } | nc $HOST $PORT >/kept &
    kept=$!
    sleep 1
    before=$(uptime)
    echo +9 >/sys/class/rtc/rtc0/wakealarm
    echo mem >/sys/power/state
    slept=$(echo "$before $(uptime)" | awk '{ print ($2 - $1 > 6) ? "yes" : "no, " $2 - $1 " s" }')
    check "the machine was suspended" yes "$slept"
    check "syncloop passes after the suspend" ok "$(probe /healthz/syncloop)"
    PORT=10248
    check "PID 1 answers ok after the suspend" ok "$(probe /healthz)"
    wait $kept
    check "a connection that was idle during the suspend is open" 2 "$(grep -c 'HTTP/1.1 200 OK' /kept)"

    # The wall clock is set back, and then far forward. Only the Date uses it.
    PORT=10250
    { printf "$request"; sleep 3; printf "$request"; sleep 1; } | nc $HOST $PORT >/kept &
    kept=$!
    date -s @1000000000 >/dev/null
    check "syncloop passes after the wall clock was set back" ok "$(probe /healthz/syncloop)"
    eventually "the Date is set back too" "*Date: Sun, 09 Sep 2001 *" head_of /healthz
    date -s @4102444800 >/dev/null
    check "syncloop passes after the wall clock was set forward" ok "$(probe /healthz/syncloop)"
    eventually "the Date is set forward too" "*Date: Fri, 01 Jan 2100 *" head_of /healthz
    wait $kept
    check "a connection that was idle during both changes is open" 2 "$(grep -c 'HTTP/1.1 200 OK' /kept)"
    PORT=10248
    eventually "the Date of PID 1's server is set forward too" "*Date: Fri, 01 Jan 2100 *" head_of /healthz
    kill -TERM 1
    while :; do sleep 1; done
fi

# Checks of pressure, of a control group and of the kernel's clock, which other tests cannot change.
if grep -q vm=checks /proc/cmdline; then
    PORT=10250
    cd /sys/fs/cgroup || say "FAIL no cgroups"
    echo +memory >cgroup.subtree_control
    mkdir load
    # The kernel slows down a group above `high`, and counts that as pressure.
    echo 8M >load/memory.high
    echo 24M >load/memory.max
    often=period=1s,timeout=900ms,failure-threshold=1
    /healthz --listen $HOST:$PORT \
        --check "cpu=pressure:cpu,stall=800ms,window=1s,$often" \
        --check "stalls=pressure:memory,scope=cgroup:load,stall=100ms,window=1s,$often" \
        --check "group=memory,scope=cgroup:load,min=15Mi,$often" \
        --check "machine=memory,min=4Mi,$often" \
        --check "clock=clock,$often" --check "exact=clock,max-error=100ms,$often" 2>/checks.log &
    for name in cpu stalls group machine; do eventually "the check $name passes" ok text /healthz/$name; done
    say "ok checks of pressure pass without load"
    triggers() { ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c 'rwx.*pressure'; }
    check "each pressure has a trigger" 2 "$(triggers)"
    check "a clock that was never set is not synchronised" "*clock is not synchronised*" "$(text /healthz/clock)"

    spinning=
    for i in 1 2 3 4; do
        while :; do :; done &
        spinning="$spinning $!"
    done
    eventually "CPU pressure fails its check" "*some tasks waited for cpu for * of the last *, limit 800 ms within 1 s*" text /healthz/cpu
    kill $spinning
    eventually "the check of CPU pressure passes again" ok text /healthz/cpu

    (
        echo 0 >load/cgroup.procs
        while :; do dd if=/dev/zero of=/dev/null bs=12M count=100 2>/dev/null; done
    ) &
    loaded=$!
    eventually "memory pressure of a control group fails its check" "*some tasks waited for memory for *" text /healthz/stalls
    eventually "a control group with little memory fails its check" \
        "*memory: 1*MiB available in control group /load, needs 15 MiB*" text /healthz/group
    check "the machine has memory" ok "$(text /healthz/machine)"
    echo 1 >load/cgroup.kill
    wait $loaded
    eventually "memory is available again" ok text /healthz/group
    eventually "there is no pressure any more" ok text /healthz/stalls
    say "ok both checks of the control group pass again without the load"
    rmdir load
    eventually "the check of its pressure fails" "*does not exist*" text /healthz/stalls
    eventually "the check of its memory fails" "*does not exist*" text /healthz/group
    say "ok a control group that is removed fails its checks"

    /set-clock 500000
    eventually "a synchronised clock passes" ok text /healthz/clock
    eventually "a synchronised clock fails a check with a limit below its error" "*clock may be wrong by 50? ms, limit 100 ms*" text /healthz/exact
    /set-clock
    eventually "a clock that is not synchronised any more fails" "*clock is not synchronised*" text /healthz/clock
    check "the log has each change of CPU pressure once" 3 "$(grep -c 'check cpu ' /checks.log)"
    sed 's/^/vm: log: /' /checks.log
    kill "$(pidof healthz | tr ' ' '\n' | sort -n | head -n 1)"
    PORT=10248
    kill -TERM 1
    while :; do sleep 1; done
fi

# A container with all capabilities: init is PID 1 of a process namespace, and its file systems are those of the
# machine.
unshare -p -f -m /init /no/list 127.0.0.1:10249 &
container=$!
inner() { pidof init | tr ' ' '\n' | grep -vx 1; }
listens() { grep -q '0100007F:2809' /proc/net/tcp && echo yes; }
eventually "a container has its own init" yes listens
kill -TERM "$(inner)"
wait $container
check "SIGTERM ends the container and not the machine" "" "$(inner)"
check "the file systems are writable after the container has ended" yes "$(echo yes >/written && cat /written)"

kill -9 "$(pidof httpd)"
eventually "a killed service fails with its reason" \
    "internal server error: killed by signal 9; restarting in 1 s*" text /healthz/web
check "healthz fails with a killed service" "*-?web failed*" "$(text /healthz)"
check "livez passes with a killed service" ok "$(probe /livez)"
eventually "the killed service is started again" ok probe /healthz

i=0
while [ $i -lt $UNFINISHED ]; do
    while :; do
        nc $HOST $PORT -e /half.sh
        sleep 2
    done 2>/dev/null &
    i=$((i + 1))
done
eventually "the table is full of unfinished heads" yes connections_enough
always "probes are answered while the table is full" 10

# limit NAME FILE VALUE: a fork bomb in a control group NAME with this limit. All its processes together get the CPU
# time of one process outside. Without that, starting wget for each probe would take too long.
limit() {
    mkdir "$1"
    echo "$3" >"$1/$2"
    (
        echo 0 >"$1/cgroup.procs"
        bomb() { while :; do bomb & done; }
        bomb
    ) >/dev/null 2>&1 &
}
# counted FILE KEY: prints yes if the counter is not 0.
counted() { [ "$(sed -n "s/^$2 //p" "$1")" -gt 0 ] && echo yes; }
processes_in() { wc -l <"$1/cgroup.procs"; }
cd /sys/fs/cgroup || say "FAIL no cgroups"
echo +memory +pids +cpu >cgroup.subtree_control

limit hungry memory.max 8M
eventually "a fork bomb is denied memory" yes counted hungry/memory.events oom_kill
always "probes are answered while the bomb is denied memory" 5
usage "with a bomb of $(processes_in hungry) processes"
echo 1 >hungry/cgroup.kill
eventually "the bomb that was denied memory has ended" 0 processes_in hungry

limit many pids.max 20
eventually "a fork bomb is denied processes" yes counted many/pids.events max
always "probes are answered while the bomb is denied processes" 5
echo 1 >many/cgroup.kill
eventually "the bomb that was denied processes has ended" 0 processes_in many
eventually "the orphans of the bombs are reaped" 0 zombies
check "the machine answers ok after the bombs" ok "$(probe /healthz)"

# While no process ID is free, this script cannot start a program. So it uses only built-in commands of the shell,
# and a connection that was opened before.
httpd=$(pidof httpd)
mkfifo /requests /answers
nc $HOST $PORT </requests >/answers &
exec 3>/requests 4<>/answers
# answered WHAT EXPECTED: a line of an answer is EXPECTED within about 20 s.
answered() {
    tries=0
    while [ $tries -lt 20 ]; do
        printf 'GET /healthz/web HTTP/1.1\r\nHost: a\r\n\r\n' >&3
        while read -r -t 1 line <&4; do
            case $line in
            $2) say "ok $1"; return ;;
            esac
        done
        tries=$((tries + 1))
    done
    say "FAIL $1: expected $2"
}
answered "a connection is open before the process IDs are used up" "*HTTP/1.1 200 OK*"
# The smallest possible limit. Process IDs start again at 300, so exactly one is left.
numbers=$(cat /proc/sys/kernel/pid_max)
echo 301 >/proc/sys/kernel/pid_max
if ! [ -e /proc/300 ]; then
    sleep 1000 &
    last=$!
fi
kill -9 "$httpd"
answered "without a free process ID the check of the service has the error of fork" "*cannot be started: *"
echo "$numbers" >/proc/sys/kernel/pid_max
exec 3>&- 4>&-
[ -z "${last:-}" ] || kill "$last"
eventually "the service is started when there is a free process ID" ok probe /healthz

# With file-max at 0 only root can open files (ENFILE). A limit of a process gives EMFILE instead.
PORT=10251
start-stop-daemon -S -c nobody -x /healthz -- --listen $HOST:$PORT 2>/files.log &
eventually "a daemon of the user nobody answers ok" ok probe /healthz
files=$(cat /proc/sys/fs/file-max)
echo 0 >/proc/sys/fs/file-max
probe /healthz >/late &
late=$!
eventually "the daemon logs that the system has no free file" \
    "*cannot accept connections: the system has reached its limit of open files (ENFILE)*" cat /files.log
check "a client waits while the system has no free file" "" "$(cat /late)"
echo "$files" >/proc/sys/fs/file-max
wait $late
check "the client is answered when there are free files" ok "$(cat /late)"
kill -TERM "$(pidof healthz)"
eventually "the daemon counts one pause" "*, 1 pauses*" cat /files.log
PORT=10248

kill -TERM 1
while :; do sleep 1; done
