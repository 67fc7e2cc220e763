# Completion of mongo-watchdog(8) for fish. tests/unit/test_completions.py compares it with the command line.

# The names that the running daemon has; nothing where there is none, or where this user may not ask.
function __mongo_watchdog_instances
    set -l config
    set -l typed (commandline -opc)
    if set -l at (contains -i -- --config $typed); and test (count $typed) -gt $at
        set config --config $typed[(math $at + 1)]
    end
    mongo-watchdog $config status --json 2>/dev/null |
        sed -n '/^  "instances"/,/^  ]/ s/^      "name": "\(.*\)",\{0,1\}$/\1/p'
end

# The incidents that are recorded; nothing where this user may not read them.
function __mongo_watchdog_incidents
    set -l config
    set -l typed (commandline -opc)
    if set -l at (contains -i -- --config $typed); and test (count $typed) -gt $at
        set config --config $typed[(math $at + 1)]
    end
    mongo-watchdog $config incidents --json 2>/dev/null | sed -n 's/^      "id": "\(.*\)",\{0,1\}$/\1/p'
end

set -l verbs run check status connections incidents reconfigure reload pause resume schema install uninstall
set -l no_verb "not __fish_seen_subcommand_from $verbs"

complete -c mongo-watchdog -f
complete -c mongo-watchdog -l config -r -F -d 'The configuration'
complete -c mongo-watchdog -s h -l help -d 'Show help'
complete -c mongo-watchdog -n $no_verb -l version -d 'Show the version'

complete -c mongo-watchdog -n $no_verb -a run -d 'The daemon in the foreground'
complete -c mongo-watchdog -n $no_verb -a check -d 'Validate the configuration'
complete -c mongo-watchdog -n $no_verb -a status -d 'What is seen and what comes next'
complete -c mongo-watchdog -n $no_verb -a connections -d 'One look without a daemon'
complete -c mongo-watchdog -n $no_verb -a incidents -d 'What happened'
complete -c mongo-watchdog -n $no_verb -a reconfigure -d 'The daemon reads its configuration'
complete -c mongo-watchdog -n $no_verb -a reload -d 'Reload an instance'
complete -c mongo-watchdog -n $no_verb -a pause -d 'No reloads for some time'
complete -c mongo-watchdog -n $no_verb -a resume -d 'End a pause'
complete -c mongo-watchdog -n $no_verb -a schema -d 'Print the JSON Schema of a document'
complete -c mongo-watchdog -n $no_verb -a install -d 'Make a service of this virtual environment'
complete -c mongo-watchdog -n $no_verb -a uninstall -d 'Remove what install made'

complete -c mongo-watchdog -n '__fish_seen_subcommand_from run' -l observe -d 'Everything but the write to the FIFO'
complete -c mongo-watchdog -n '__fish_seen_subcommand_from check' -l live -d 'Also ask the running service what would stop a cure'
complete -c mongo-watchdog -n '__fish_seen_subcommand_from status connections incidents' -l json -d 'For programs'
complete -c mongo-watchdog -n '__fish_seen_subcommand_from status reload' -a '(__mongo_watchdog_instances)' -d Instance
complete -c mongo-watchdog -n '__fish_seen_subcommand_from incidents' -a '(__mongo_watchdog_incidents)' -d Incident
complete -c mongo-watchdog -n '__fish_seen_subcommand_from reload' -l wait -d 'Until its outcome is known'
complete -c mongo-watchdog -n '__fish_seen_subcommand_from reload' -l now -d 'Past linger, cooldown, budget and a giving up'
complete -c mongo-watchdog -n '__fish_seen_subcommand_from reload' -l with -x -a restart -d 'Of the whole stack'
complete -c mongo-watchdog -n '__fish_seen_subcommand_from pause' -l for -x -a '15m 30m 1h 2h 8h' -d 'How long'
complete -c mongo-watchdog -n '__fish_seen_subcommand_from pause' -l reason -x -d 'Shown in status and log'
complete -c mongo-watchdog -n '__fish_seen_subcommand_from schema' -a 'connections control incidents record state status' -d Document
complete -c mongo-watchdog -n '__fish_seen_subcommand_from install uninstall' -l root -x -a '(__fish_complete_directories)' -d 'The system below this folder'
complete -c mongo-watchdog -n '__fish_seen_subcommand_from install uninstall' -l dry-run -d 'Only show what would be done'
