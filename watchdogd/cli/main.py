"""The command line: verbs and exit codes. It must never decide or look itself: daemon.py and live.py do.

What a verb needs is imported when it is called: `status` answers without pymongo.
"""

from __future__ import annotations

import argparse
import enum
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from watchdogd import __version__
from watchdogd.codec import FORMATS, STATUS, CodecError
from watchdogd.config import (
    DEFAULT_CONTROL_SOCKET,
    DEFAULT_PATH,
    DEFAULT_STATE_DIR,
    ConfigError,
    load,
    parse_duration,
    places,
)
from watchdogd.model.base import RESTART
from watchdogd.model.remembered import Phase, ReloadOutcome
from watchdogd.model.text import LONGEST, Outside, shown
from watchdogd.report.say import say, say_json
from watchdogd.report.words import UNSEEN
from watchdogd.service import control, store

_FOR_EVER = "leave --for out to pause until `resume`"
POLL_S = 0.5  # of `reload --wait`; a reload takes seconds (1.0 s for lazy-apps, 4.0 s with pymongo's atexit)

CHECK_WITHIN_S = 20.0  # for the daemon to answer it: that may wait for helpers and members (service/check.py)


class Exit(enum.IntEnum):
    """How a command ends; 2 is argparse's, for a command that cannot be understood."""

    OK = 0
    PROBLEM = 1
    WRONG_USE = control.WRONG_USE
    NOT_RUNNING = 3
    NO_PERMISSION = 77  # sysexits.h, as are 75 and 78
    CONFIG = 78
    INTERRUPTED = 130  # 128 + SIGINT
    BROKEN_PIPE = 141  # 128 + SIGPIPE


class _Trouble(Exception):
    """Ends the command with a sentence on stderr, each in a line, and an exit code."""

    def __init__(self, code: Exit, *lines: str) -> None:
        super().__init__(*lines)
        self.code, self.lines = code, lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; raises SystemExit for --help and a wrong command line."""
    arguments = _parser().parse_args(_joined(sys.argv[1:] if argv is None else argv))
    try:
        code: int = arguments.verb(arguments)
        sys.stdout.flush()  # here, where a closed pipe can still be told apart
    except ConfigError as error:
        say(*error.mistakes, file=sys.stderr)
        return Exit.CONFIG
    except _Trouble as error:
        say(*error.lines, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # `mongo-watchdog status | head -1`: at its end the interpreter flushes once more, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE
    return code


def _joined(argv: Sequence[str]) -> list[str]:
    """Return it with `--for -5m` as one word: argparse takes the second one for an option, and says nothing useful."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == "--for" and word[:1] == "-" and word[1:2].isdigit():
            joined[-1] = f"--for={word}"
        else:
            joined.append(word)
    return joined


def _run(arguments: argparse.Namespace) -> int:
    from watchdogd.service import start

    return start.run(arguments.config, observe=arguments.observe)


def _check(arguments: argparse.Namespace) -> int:
    from watchdogd import paths
    from watchdogd.report.words import count

    config = load(arguments.config)
    named = config.instances
    instances = "every instance that is found" if named is None else count(len(named), "instance")
    say(f"{arguments.config}: ok: {count(len(config.deployments), 'deployment')}, {instances}")
    astray = [(one.name, why) for one in named or () if (why := paths.astray(str(one.master_fifo), one.trust_owners))]
    if arguments.live:
        from watchdogd.cli import live

        return live.check(config, _checked(arguments))  # which meets them where it looks for the masters
    for name, why in astray:
        say(f"problem: {name}: {why}")
    return Exit.PROBLEM if astray else Exit.OK


def _checked(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the daemon says of itself, or a refusal that says why there is nothing."""
    try:
        answer = _ask(arguments, control.Check(), CHECK_WITHIN_S)
    except _Trouble as trouble:
        nothing = "nothing would be cured tonight: " if trouble.code is Exit.NOT_RUNNING else ""
        return {"ok": False, "text": nothing + "; ".join(trouble.lines)}
    if answer["ok"]:
        return answer
    return {"ok": False, "text": f"it does not say: {answer['text']} (restart one that is older than this command)"}


def _connections(arguments: argparse.Namespace) -> int:
    from watchdogd.cli import live

    return live.connections(load(arguments.config), as_json=arguments.json)


def _status(arguments: argparse.Namespace) -> int:
    from watchdogd.report import status

    document, name = _document(arguments), None
    if arguments.instance is not None:
        one = _meant(document, arguments.instance)
        document, name = document | {"instances": [one]}, one["name"]
    if arguments.json:
        say_json(document)
    else:
        say(*status.render(document, name).split("\n"))
    return status.exit_code(document, name)


def _meant(document: dict[str, Any], instance: str) -> dict[str, Any]:
    """Return what the status says of an instance that somebody calls by its name, or by its FIFO.

    The status has them as they are shown; they may be typed as they are, too.
    """
    instances: list[dict[str, Any]] = document["instances"]
    for one in instances:
        if one["name"] == shown(instance) or one["fifo"] == shown(instance, LONGEST):
            return one
    known = ", ".join(one["name"] for one in instances) or "none"
    raise _Trouble(Exit.WRONG_USE, f"there is no instance {Outside(instance)}; there are: {known}")


def _document(arguments: argparse.Namespace) -> dict[str, Any]:
    answer = _ask(arguments, control.Status())
    if not answer["ok"]:
        raise _Trouble(Exit.PROBLEM, answer["text"])
    try:
        return STATUS.checked(answer["status"])
    except CodecError as error:
        raise _Trouble(Exit.PROBLEM, f"{error}: {control.SAME}") from None


def _incidents(arguments: argparse.Namespace) -> int:
    from watchdogd.report import incidents

    _, state_dir, why = _places(arguments)
    note = (f"that is the default folder, since {why}",) if why else ()
    try:
        found = incidents.read(state_dir, store.open_incidents(state_dir))
    except PermissionError:
        text = f"{state_dir}: no permission; use sudo, or become a member of its group:"
        raise _Trouble(Exit.NO_PERMISSION, f"{text} `ls -ld {state_dir}` names it", *note) from None
    except OSError as error:
        text = f"{state_dir}: {error.strerror or error}; it is the `state_dir` of a daemon that has run"
        raise _Trouble(Exit.PROBLEM, text, *note) from None
    chosen = found.incidents
    if arguments.incident is not None:
        chosen = tuple([one for one in chosen if shown(one.id) == shown(arguments.incident)])
        if not chosen:
            text = f"there is no incident {Outside(arguments.incident)}"
            near = ", ".join(f"{Outside(one)}" for one in incidents.nearest(arguments.incident, found.incidents))
            raise _Trouble(Exit.WRONG_USE, f"{text}; the nearest: {near}" if near else f"{text}; none is recorded")
    whole = arguments.incident is not None
    if arguments.json:
        say_json(incidents.document(chosen, found.problems, whole=whole))
    else:
        say(*(incidents.story(chosen[0]) if whole else incidents.overview(chosen, state_dir)))
        say(*[f"problem: {one}" for one in found.problems], file=sys.stderr)
    return Exit.PROBLEM if found.problems else Exit.OK


def _reconfigure(arguments: argparse.Namespace) -> int:
    return _say(_ask(arguments, control.Reconfigure()))


def _reload(arguments: argparse.Namespace) -> int:
    fifo = _meant(_document(arguments), arguments.instance)["fifo"]
    answer = _ask(arguments, control.Reload(Outside(fifo), now=arguments.now, restart=arguments.with_ is not None))
    code = _say(answer)
    if not arguments.wait or not answer.get("reload"):
        return code
    said = None
    while True:  # the daemon gives every reload a deadline, and control.ask one to every answer
        document = _document(arguments)
        outcome, told = _outcome(document, arguments.instance, fifo, answer["reload"])
        if told != said:
            say(told)
            said = told
        if outcome is not ReloadOutcome.RELOADING:
            return Exit.OK if outcome in {ReloadOutcome.RELOADED, ReloadOutcome.RECOVERED} else Exit.PROBLEM
        if hidden := _hidden(document, fifo):
            raise _Trouble(Exit.PROBLEM, f"{arguments.instance}: nobody can see how the reload ends: {hidden}")
        time.sleep(POLL_S)


def _outcome(document: dict[str, Any], name: str, fifo: str, reload: str) -> tuple[ReloadOutcome | None, str]:
    """Return what has become of a reload, None where that is not known, and the line that says it."""
    last = next((one["last_reload"] for one in document["instances"] if one["fifo"] == fifo), None)
    if not last or last["id"] != reload:
        return (
            None,
            f"{name}: another reload took the place of this one; see `mongo-watchdog status {name}`",
        )
    outcome = ReloadOutcome(last["outcome"])
    if outcome is ReloadOutcome.RELOADED and not last["proven"]:
        return outcome, f"{name}: reloaded; whether it helped shows when the workers use MongoDB"
    if outcome is ReloadOutcome.RECOVERED:
        return outcome, f"{name}: recovered: its workers reach MongoDB; {UNSEEN}"
    return outcome, f"{name}: {outcome.value}" + (f": {last['detail']}" if last.get("detail") else "")


def _hidden(document: dict[str, Any], fifo: str) -> str | None:
    """Say what keeps the daemon from seeing the end of a reload whose deadline has passed; None before that."""
    one = next(one for one in document["instances"] if one["fifo"] == fifo)
    if one["state"] != Phase.RELOADING.value or one["next"]["at"] is not None:
        return None
    whys = [*one["blind"], *(blind["why"] for blind in document["blind"])]
    return whys[0] if whys else "MongoDB has not been heard of"


def _pause(arguments: argparse.Namespace) -> int:
    return _say(_ask(arguments, control.Pause(arguments.for_s, Outside(arguments.reason))))


def _resume(arguments: argparse.Namespace) -> int:
    return _say(_ask(arguments, control.Resume()))


def _install(arguments: argparse.Namespace) -> int:
    from watchdogd.cli import install

    call = install.uninstall if arguments.undo else install.install
    try:
        call(arguments.root, dry_run=arguments.dry_run, tell=lambda text: say(*text.split("\n")))
    except (install.InstallError, OSError) as error:
        raise _Trouble(Exit.PROBLEM, str(error)) from None
    return Exit.OK


def _schema(arguments: argparse.Namespace) -> int:
    say(*(Path(__file__).parents[1] / "schemas" / f"{arguments.name}.schema.json").read_text().splitlines())
    return Exit.OK


def _say(answer: dict[str, Any]) -> int:
    # Its line breaks are the daemon's: it shows every other one as \\n.
    say(*answer["text"].split("\n"), file=sys.stdout if answer["ok"] else sys.stderr)
    return int(answer["exit"])


def _ask(arguments: argparse.Namespace, wish: control.Wish, timeout_s: float = 10) -> dict[str, Any]:
    """Return the daemon's answer; raises _Trouble where there is none."""
    socket, state_dir, why = _places(arguments)
    note = (f"that is the default socket, since {why}",) if why else ()
    try:
        return control.ask(socket, wish, timeout_s)
    except control.NotRunning:
        if (pid := store.holder(state_dir)) is not None:
            why = "`control_socket` takes effect at its start"
            text = f"mongo-watchdog runs (pid {pid}) and does not listen on {socket}: {why}; restart it with"
            raise _Trouble(Exit.NOT_RUNNING, f"{text} `systemctl restart mongo-watchdog`", *note) from None
        text = f"mongo-watchdog is not running (no answer on {socket}); start it with"
        raise _Trouble(Exit.NOT_RUNNING, f"{text} `systemctl start mongo-watchdog`", *note) from None
    except PermissionError:
        text = f"{socket}: no permission; use sudo, or become a member of its group:"
        raise _Trouble(Exit.NO_PERMISSION, f"{text} `ls -l {socket}` names it", *note) from None
    except OSError as error:
        text = f"mongo-watchdog gave no answer on {socket}: {error}; look at"
        raise _Trouble(Exit.NOT_RUNNING, f"{text} `systemctl status mongo-watchdog`", *note) from None


def _places(arguments: argparse.Namespace) -> tuple[Path, Path, str]:
    """Return the daemon's socket, its state folder, and why those are only the default ones; empty where they are not.

    Who may not read the configuration may still ask: the default is right on most hosts.
    """
    try:
        return (*places(arguments.config), "")
    except ConfigError as error:
        return DEFAULT_CONTROL_SOCKET, DEFAULT_STATE_DIR, error.mistakes[0]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if message.startswith("argument "):  # how to use the rest of it is not the question
            self.exit(Exit.WRONG_USE, f"{self.prog}: {shown(message)}\n")
        super().error(shown(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mongo-watchdog",
        description="Reloads the uWSGI instances that stay stuck on dead connections after a MongoDB restart.",
    )
    parser.add_argument("--version", action="version", version=f"mongo-watchdog {__version__}")
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH, metavar="FILE", help="default: %(default)s")
    # The same after the verb; without a default, which would replace what stands before it.
    common = _Parser(add_help=False)
    common.add_argument(
        "--config", type=Path, default=argparse.SUPPRESS, metavar="FILE", help=f"default: {DEFAULT_PATH}"
    )
    names = sorted({one.schema for one in FORMATS})
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, call: object, text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, parents=[common], help=text, description=text)
        added.set_defaults(verb=call)
        return added

    run = verb("run", _run, "the daemon in the foreground; ends with 78 for a bad configuration")
    run.add_argument("--observe", action="store_true", help="everything but the write to the FIFO")
    check = verb("check", _check, "validates the configuration; ends with 78 for a bad one")
    check.add_argument("--live", action="store_true", help="also asks the running service what would stop a cure")
    status = verb("status", _status, "what is seen and what comes next; ends with 1 for trouble, 3 without a daemon")
    status.add_argument("instance", nargs="?", metavar="INSTANCE")
    connections = verb("connections", _connections, "one look without a daemon: each connection, what it means")
    incidents = verb("incidents", _incidents, "what happened, without a daemon: a table, or one incident as a timeline")
    incidents.add_argument("incident", nargs="?", metavar="ID")
    verb(
        "reconfigure",
        _reconfigure,
        "the daemon reads its configuration; a bad one leaves the old one in force",
    )
    reload = verb("reload", _reload, "reloads an instance, checked and verified like every reload")
    reload.add_argument("instance", metavar="INSTANCE")
    reload.add_argument("--wait", action="store_true", help="until its outcome is known; ends with 1 if it failed")
    reload.add_argument("--now", action="store_true", help="past linger, cooldown, budget and a giving up")
    reload.add_argument(
        "--with",
        dest="with_",
        choices=[RESTART.word],
        help="of the whole stack, where `reloads` allows it, and not of its workers alone",
    )
    pause = verb("pause", _pause, "no reloads for some time, or until `resume`; kept over restarts")
    pause.add_argument("--for", dest="for_s", type=_duration, metavar="DURATION", help="like 30m or 1h30m")
    pause.add_argument("--reason", type=_reason, default="", metavar="TEXT", help="shown in the status and the log")
    verb("resume", _resume, "ends a pause")
    schema = verb("schema", _schema, "prints the JSON Schema of what is written for programs")
    schema.add_argument("name", metavar="NAME", choices=names, help=", ".join(names))
    for name, text in (
        ("install", "makes a service of this virtual environment; the Debian package needs no such thing"),
        ("uninstall", "stops the service and removes what `install` made, but the configuration"),
    ):
        one = verb(name, _install, text)
        one.set_defaults(undo=name == "uninstall")
        one.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="the system below this folder")
        one.add_argument("--dry-run", action="store_true", help="only show what would be done")
    for one in (status, connections, incidents):
        one.add_argument("--json", action="store_true", help="for programs")
    return parser


def _duration(text: str) -> float:
    wrong = None
    seconds = 0.0
    if text.startswith("-"):
        wrong = "is in the past; write how long from now, like 30m"
    elif not text.strip("0hms."):
        wrong = f"is no time at all; {_FOR_EVER}"
    else:
        try:
            seconds = parse_duration(text)
        except ValueError as error:
            wrong = str(error)
    if seconds > control.LONGEST_PAUSE_S:
        wrong = f"is more than {control.LONGEST_PAUSE_S / 86400:.0f} days; {_FOR_EVER}"
    if wrong:
        raise argparse.ArgumentTypeError(f"`{text}` {wrong}")
    return seconds


def _reason(text: str) -> str:
    if len(text) > control.LONGEST_REASON:
        raise argparse.ArgumentTypeError(
            f"has {len(text)} characters; write it in {control.LONGEST_REASON}, which is what the status shows"
        )
    return text
