"""Which settings of uWSGI and pymongo need the watchdog: an app for each, side by side, without it.

    python -m rig.settings [RUNS]      `make settings`; a run takes 2 minutes

All have 3 workers and 4 requests a second. First one mongod is away for 9 s, then the primary of a replica set steps
down. An app needs the watchdog when requests that were sent 15 s after the return and later still fail.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from rig import fetch
from rig.mongod import Mongod, ReplicaSet
from rig.traffic import Traffic
from rig.uwsgi import FORK_HOOKS, OSAFTERFORK, App, Uwsgi, by_greenlets

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "client at import, nothing set": {},
    "the same, `threads = 4`": {"threads": 4},
    "the same, uWSGI 2.0.26 (no Python threads)": {"version": "2.0.26"},
    "the same, pymongo 3.13": {"pymongo": "3.13.0"},
    "the same, pymongo 4.20": {"pymongo": "4.20.0"},
    "the same, `gevent = 10`": {"extra": by_greenlets},
    "`lazy-apps = true`": {"lazy_apps": True},
    "`lazy-apps = true`, uWSGI 2.0.26 (no Python threads)": {"lazy_apps": True, "version": "2.0.26"},
    "client at the first request": {"app": App.FIRST_REQUEST},
    f"`{OSAFTERFORK}`": {"extra": (OSAFTERFORK,)},
    f"`{OSAFTERFORK}`, uWSGI 2.0.26 (no Python threads)": {"extra": (OSAFTERFORK,), "version": "2.0.26"},
    f"`{FORK_HOOKS}`": {"extra": (FORK_HOOKS,)},
    f"`{FORK_HOOKS}`, uWSGI 2.0.26 (no Python threads)": {"extra": (FORK_HOOKS,), "version": "2.0.26"},
    f"`{OSAFTERFORK}` and `{FORK_HOOKS}`": {"extra": (OSAFTERFORK, FORK_HOOKS)},
}
CALM_S, AWAY_S, WATCHED_S, LATE_S = 5.0, 9.0, 35.0, 15.0


class Users(NamedTuple):
    """What the users of one app saw: failed requests since MongoDB served again, all of them, and the late ones."""

    failed: int
    all: int
    late_failed: int
    late: int


def _restart(folder: Path, stack: ExitStack) -> tuple[str, Callable[[], None]]:
    mongod = stack.enter_context(Mongod(folder))

    def away() -> None:
        mongod.stop()
        time.sleep(AWAY_S)
        mongod.start()

    return mongod.uri, away


def _step_down(folder: Path, stack: ExitStack) -> tuple[str, Callable[[], None]]:
    members = stack.enter_context(ReplicaSet(folder))

    def away() -> None:
        members.step_down()

    return members.uri, away


HAPPENINGS: Mapping[str, Callable[[Path, ExitStack], tuple[str, Callable[[], None]]]] = {
    "mongod restarted": _restart,
    "another primary": _step_down,
}
"""Starts a deployment; gives its URI, and what has it away and back."""


def play(happening: str) -> dict[str, Users]:
    """Starts an app with each setting on one deployment, has that happen, and returns what came of each."""
    folder = Path(tempfile.mkdtemp(prefix="mwset-"))
    try:
        with ExitStack() as stack:
            uri, away = HAPPENINGS[happening](folder / "mongod", stack)
            apps = {name: stack.enter_context(_app(folder, uri, name)) for name in SETTINGS}
            traffic = {name: stack.enter_context(Traffic(app.address, rate=4)) for name, app in apps.items()}
            time.sleep(CALM_S)
            away()
            back = time.monotonic()
            time.sleep(WATCHED_S)
            return {name: _seen(one, back) for name, one in traffic.items()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _app(folder: Path, uri: str, name: str) -> Uwsgi:
    settings = dict(SETTINGS[name])
    if settings.get("extra") is by_greenlets:
        settings["extra"] = by_greenlets(10)
    return Uwsgi(folder / f"app{list(SETTINGS).index(name)}", uri, **settings)


def _seen(traffic: Traffic, back: float) -> Users:
    done = [one for one in traffic.requests if one.sent_at >= back]
    late = [one for one in done if one.sent_at >= back + LATE_S]
    return Users(sum(not one.good for one in done), len(done), sum(not one.good for one in late), len(late))


def _cell(seen: Sequence[Users]) -> str:
    stuck = [one.late_failed > one.late / 2 for one in seen]
    verdict = "stays broken" if all(stuck) else "broken now and then" if any(stuck) else "heals"
    failed, requests = sum(one.failed for one in seen), sum(one.all for one in seen)
    return f"{verdict}, {failed} of {requests} failed"


def main(arguments: Sequence[str]) -> int:
    """Prints the table."""
    runs = int(arguments[0]) if arguments else 3
    fetch.fetch_all(print)
    found: dict[str, dict[str, list[Users]]] = {name: {one: [] for one in HAPPENINGS} for name in SETTINGS}
    for happening in [*HAPPENINGS] * runs:
        for name, users in play(happening).items():
            found[name][happening].append(users)
            print(happening, name, *users, file=sys.stderr, flush=True)
    print(f"| setting | {' | '.join(HAPPENINGS)} |\n|---|---|---|")
    for name, columns in found.items():
        print(f"| {name} | {' | '.join(map(_cell, columns.values()))} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
