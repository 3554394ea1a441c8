# Completion of healthz for fish, made by a test in src/manual.rs from the table in src/usage.rs.

# Only the first word can be a command.
function __healthz_command
    set -l words (commandline -opc)
    if set -q words[2]; and contains -- $words[2] serve check-config probe status beat help
        echo $words[2]
    else
        echo serve
    end
end

function __healthz_is
    test (__healthz_command) = $argv[1]
end

function __healthz_is_first
    test (count (commandline -opc)) = 1
end

complete -c healthz -f
complete -c healthz -n __healthz_is_first -a serve -d 'answer /healthz, /livez and /readyz'
complete -c healthz -n __healthz_is_first -a check-config -d 'print all checks with their defaults'
complete -c healthz -n __healthz_is_first -a probe -d 'ask a health endpoint, once or like ping'
complete -c healthz -n __healthz_is_first -a status -d 'show what fails, since when and why'
complete -c healthz -n __healthz_is_first -a beat -d 'send a heartbeat from a script'
complete -c healthz -n __healthz_is_first -a help -d 'explain a command and all its options'
complete -c healthz -n '__healthz_is serve' -l check -x -d 'add a check, such as var=disk:/var,min=10%; repeatable'
complete -c healthz -n '__healthz_is serve' -l config -r -F -d 'file with checks (/etc/healthz.toml if it exists)'
complete -c healthz -n '__healthz_is serve' -l listen -x -d 'IP:PORT, localhost:PORT or unix:PATH; up to 16'
complete -c healthz -n '__healthz_is serve' -l allow-remote -d 'allow clients on other machines'
complete -c healthz -n '__healthz_is serve' -l no-metrics -d 'no /metrics'
complete -c healthz -n '__healthz_is serve' -l allow-host -x -d 'answer 421 to requests for other hosts; repeatable'
complete -c healthz -n '__healthz_is serve' -l connections -x -d 'most connections at once, 1 to 65535'
complete -c healthz -n '__healthz_is serve' -l head-bytes -x -d 'most bytes of a request head, 512 to 65535'
complete -c healthz -n '__healthz_is serve' -l body-bytes -x -d 'close connections that send a longer body'
complete -c healthz -n '__healthz_is serve' -l head-timeout -x -d 'longest wait for a whole request head'
complete -c healthz -n '__healthz_is serve' -l idle-timeout -x -d 'close connections that are idle for this long'
complete -c healthz -n '__healthz_is serve' -l drain-timeout -x -d 'longest wait for a body, and for requests at exit'
complete -c healthz -n '__healthz_is serve' -l log-limit -x -d 'log fails if stderr has blocked for this long'
complete -c healthz -n '__healthz_is serve' -l sync-period -x -d 'time between rounds of the sync loop'
complete -c healthz -n '__healthz_is serve' -l sync-limit -x -d 'syncloop fails after this long without a round'
complete -c healthz -n '__healthz_is serve' -l shutdown-delay -x -d 'time from failing /readyz to closing listeners'
complete -c healthz -n '__healthz_is serve' -l ready-fd -x -d 'write a newline to this descriptor when ready'
complete -c healthz -n '__healthz_is serve' -l log-level -x -a 'error warn info debug trace' -d 'error, warn, info, debug or trace (RUST_LOG or info)'
complete -c healthz -n '__healthz_is serve' -l oom-score-adj -x -d '-1000 to 1000; the OOM killer ends the highest first'
complete -c healthz -n '__healthz_is serve' -l lock-memory -d 'keep memory in RAM'
complete -c healthz -n '__healthz_is serve' -l no-sandbox -d 'run without the sandbox'
complete -c healthz -n '__healthz_is serve' -s h -l help -d 'explain options'
complete -c healthz -n '__healthz_is serve' -s V -l version -d 'print the version'
complete -c healthz -n '__healthz_is check-config' -l check -x -d 'add a check, such as var=disk:/var,min=10%; repeatable'
complete -c healthz -n '__healthz_is check-config' -l config -r -F -d 'file with checks (/etc/healthz.toml if it exists)'
complete -c healthz -n '__healthz_is check-config' -s h -l help -d 'explain options'
complete -c healthz -n '__healthz_is check-config' -s V -l version -d 'print the version'
complete -c healthz -n '__healthz_is check-config' -F
complete -c healthz -n '__healthz_is probe' -l timeout -x -d 'longest wait for the whole answer'
complete -c healthz -n '__healthz_is probe' -l count -x -d 'send this many probes, then print a summary; 0: no end'
complete -c healthz -n '__healthz_is probe' -l interval -x -d 'time between probes; without --count, no end'
complete -c healthz -n '__healthz_is probe' -s v -l verbose -d 'print the body of the answer'
complete -c healthz -n '__healthz_is probe' -l json -d 'print JSON objects, one a line'
complete -c healthz -n '__healthz_is probe' -l flat -d 'every failure exits with 1; prints 80 bytes at most'
complete -c healthz -n '__healthz_is probe' -l nagios -d 'exit code and output of a Nagios plugin'
complete -c healthz -n '__healthz_is probe' -s h -l help -d 'explain options'
complete -c healthz -n '__healthz_is probe' -s V -l version -d 'print the version'
complete -c healthz -n '__healthz_is status' -l json -d 'print one JSON object with all answers'
complete -c healthz -n '__healthz_is status' -l prometheus -d 'print metrics for node_exporter\'s textfile collector'
complete -c healthz -n '__healthz_is status' -l output -r -F -d 'put the metrics into this file, in one step'
complete -c healthz -n '__healthz_is status' -s h -l help -d 'explain options'
complete -c healthz -n '__healthz_is status' -s V -l version -d 'print the version'
complete -c healthz -n '__healthz_is beat' -l status -x -d 'shown in the reason if no other beat comes in time'
complete -c healthz -n '__healthz_is beat' -l fail -x -d 'make the check fail until READY=1 or healthz beat NAME'
complete -c healthz -n '__healthz_is beat' -l socket -r -F -d 'the socket of the check'
complete -c healthz -n '__healthz_is beat' -l limit -x -d 'WATCHDOG_USEC for COMMAND; use the limit of NAME'
complete -c healthz -n '__healthz_is beat' -s h -l help -d 'explain options'
complete -c healthz -n '__healthz_is beat' -s V -l version -d 'print the version'
complete -c healthz -n '__healthz_is help' -s h -l help -d 'explain options'
complete -c healthz -n '__healthz_is help' -s V -l version -d 'print the version'
complete -c healthz -n '__healthz_is help' -a 'serve check-config probe status beat help'
