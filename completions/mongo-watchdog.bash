# Completion of mongo-watchdog(8) for bash. tests/unit/test_completions.py compares it with the command line.

_mongo_watchdog() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} verb='' config=() words='' i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
            --config) config=(--config "${COMP_WORDS[++i]}") ;;
            -*) ;;
            *) [[ -n $verb ]] || verb=${COMP_WORDS[i]} ;;
        esac
    done
    COMPREPLY=()
    case $previous in
        --config)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            return
            ;;
        --root)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -d -- "$current")
            return
            ;;
        --for)
            mapfile -t COMPREPLY < <(compgen -W '15m 30m 1h 2h 8h' -- "$current")
            return
            ;;
        --reason) return ;;
        --with)
            mapfile -t COMPREPLY < <(compgen -W 'restart' -- "$current")
            return
            ;;
    esac
    case $verb in
        '') words='run check status connections incidents reconfigure reload pause resume schema install uninstall --version' ;;
        run) words='--observe' ;;
        check) words='--live' ;;
        connections | incidents) words='--json' ;;
        pause) words='--for --reason' ;;
        install | uninstall) words='--root --dry-run' ;;
        status) words='--json' ;;
        reload) words='--now --with --wait' ;;
        schema) words='connections control incidents record state status' ;;
    esac
    if [[ $verb == status || $verb == reload ]] && [[ $current != -* ]]; then
        words+=" $(_mongo_watchdog_instances)"
    fi
    if [[ $verb == incidents && $current != -* ]]; then
        words+=" $(_mongo_watchdog_incidents)"
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words --config --help" -- "$current")
}

# The names that the running daemon has; nothing where there is none, or where this user may not ask.
_mongo_watchdog_instances() {
    mongo-watchdog "${config[@]}" status --json 2>/dev/null |
        sed -n '/^  "instances"/,/^  ]/ s/^      "name": "\(.*\)",\{0,1\}$/\1/p'
}

# The incidents that are recorded; nothing where this user may not read them.
_mongo_watchdog_incidents() {
    mongo-watchdog "${config[@]}" incidents --json 2>/dev/null | sed -n 's/^      "id": "\(.*\)",\{0,1\}$/\1/p'
}

complete -F _mongo_watchdog mongo-watchdog
