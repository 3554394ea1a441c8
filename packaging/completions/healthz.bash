# Completion of healthz for bash, made by a test in src/manual.rs from the table in src/usage.rs.

_healthz() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command=serve words=
    COMPREPLY=()
    # Only the first word can be a command.
    if [[ $COMP_CWORD -gt 1 ]]; then
        case ${COMP_WORDS[1]} in
            serve | check-config | probe | status | beat | help) command=${COMP_WORDS[1]} ;;
        esac
    fi
    case "$command $previous" in
        'serve --config') _healthz_files; return ;;
        'serve --log-level') _healthz_words "error warn info debug trace"; return ;;
        'check-config --config') _healthz_files; return ;;
        'status --output') _healthz_files; return ;;
        'beat --socket') _healthz_files; return ;;
        'serve --check' | \
        'serve --listen' | \
        'serve --allow-host' | \
        'serve --connections' | \
        'serve --head-bytes' | \
        'serve --body-bytes' | \
        'serve --head-timeout' | \
        'serve --idle-timeout' | \
        'serve --drain-timeout' | \
        'serve --log-limit' | \
        'serve --sync-period' | \
        'serve --sync-limit' | \
        'serve --shutdown-delay' | \
        'serve --ready-fd' | \
        'serve --oom-score-adj' | \
        'check-config --check' | \
        'probe --timeout' | \
        'probe --count' | \
        'probe --interval' | \
        'beat --status' | \
        'beat --fail' | \
        'beat --limit') return ;;
    esac
    case $command in
        serve) words='--check --config --listen --allow-remote --no-metrics --allow-host --connections --head-bytes --body-bytes --head-timeout --idle-timeout --drain-timeout --log-limit --sync-period --sync-limit --shutdown-delay --ready-fd --log-level --oom-score-adj --lock-memory --no-sandbox -h --help -V --version' ;;
        check-config) words='--check --config -h --help -V --version' ;;
        probe) words='--timeout --count --interval -v --verbose --json --flat --nagios -h --help -V --version' ;;
        status) words='--json --prometheus --output -h --help -V --version' ;;
        beat) words='--status --fail --socket --limit -h --help -V --version' ;;
        help) words='-h --help -V --version' ;;
    esac
    [[ $COMP_CWORD -gt 1 ]] || words="serve check-config probe status beat help $words"
    case "$command $current" in
        *' -'*) _healthz_words "$words" ;;
        'check-config '*) _healthz_files ;;
        'help '*) _healthz_words "serve check-config probe status beat help" ;;
        *) _healthz_words "$words" ;;
    esac
}

_healthz_words() {
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$current")
}

_healthz_files() {
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
    compopt -o filenames 2>/dev/null
}

complete -F _healthz healthz
