"""How soon stuck apps are cured, by the shipped policy and PyMongo's own times: `make cures`.

    python -m rig.cures [CURES [SET-UP ...]]      20 cures of each set-up take 5 minutes

Times count from when MongoDB serves again. `byte`: when the command was sent. `good`: when the first request was sent
after which every one was good. Each worker gets a request in 3 s or less.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rig import RigError, fetch
from rig.daemon import Daemon
from rig.hang import BESIDE, Hang
from rig.mongod import Mongod, ReplicaSet
from rig.processes import wait_for
from rig.traffic import Traffic
from rig.uwsgi import Uwsgi

APPS = 3
CALM_S, GOOD_FOR_S = 4.0, 6.0
AWAY_S = 9.0  # so long that each worker has had a request that failed, with serverSelectionTimeoutMS 3 s
CURED_WITHIN_S = 150.0


@dataclass(frozen=True)
class SetUp:
    """What happens to which apps. `away_s`: for how long MongoDB is."""

    name: str
    selection_ms: int = 3000
    workers: int = 3
    replica_set: bool = False
    hung: bool = False
    away_s: float = AWAY_S


SET_UPS = {
    one.name: one
    for one in (
        SetUp("restart"),
        SetUp("replica set", replica_set=True),
        SetUp("30 s", selection_ms=30_000, away_s=40.0),
        SetUp("one of 3 hung", hung=True),
        SetUp("one of 8 hung", workers=8, hung=True),
    )
}


class Cure(NamedTuple):
    """Seconds from when MongoDB serves again."""

    byte: float
    good: float


def cures(set_up: SetUp) -> list[Cure]:
    """Plays it once, and returns what became of each app."""
    folder = Path(tempfile.mkdtemp(prefix="mwc-"))
    try:
        with ExitStack() as stack:
            return _play(folder, set_up, stack)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _play(folder: Path, set_up: SetUp, stack: ExitStack) -> list[Cure]:
    mongod: ReplicaSet | Mongod = (ReplicaSet if set_up.replica_set else Mongod)(folder / "mongod")
    stack.enter_context(mongod)
    folders = [folder / f"app{number}" for number in range(APPS)]
    hangs = [stack.enter_context(Hang(one)) for one in folders if set_up.hung]
    apps = [_app(one, mongod.uri, set_up) for one in folders]
    for app in apps:
        stack.enter_context(app)
    daemon = Daemon(folder / "watchdog", mongod.uri, apps, limits={"worker_reload_mercy": "4s"})
    stack.enter_context(daemon)
    users = [stack.enter_context(Traffic(one.address, rate=set_up.workers / 2, timeout=60)) for one in apps]
    time.sleep(CALM_S)
    if isinstance(mongod, ReplicaSet):
        mongod.step_down()
        mongod.wait_primary()
    else:
        mongod.stop()
        time.sleep(set_up.away_s)
        for hang, app in zip(hangs, apps, strict=set_up.hung):
            hang.worker_of(app)
        mongod.start()
    back = time.time()
    return [_cured(daemon, app, user, back) for app, user in zip(apps, users, strict=True)]


def _app(folder: Path, uri: str, set_up: SetUp) -> Uwsgi:
    extra = BESIDE if set_up.hung else ()
    return Uwsgi(folder, uri, processes=set_up.workers, selection_ms=set_up.selection_ms, extra=extra)


def _cured(daemon: Daemon, app: Uwsgi, user: Traffic, back: float) -> Cure:
    """Waits until it is good; `back` is Unix time."""
    name = app.folder.name
    sent = daemon.wait_for("reload_sent", name, within=CURED_WITHIN_S)
    daemon.wait_for("recovered", name, within=CURED_WITHIN_S)
    wait_for(lambda: user.all_good_for(GOOD_FOR_S), "only good requests", within=CURED_WITHIN_S, log=daemon.log)
    if len(daemon.lines("reload_sent", name)) > 1:
        raise RigError(f"{name} was reloaded more than once")
    to_wall = time.time() - time.monotonic()
    bad = [one.sent_at + to_wall for one in user.requests if not one.good]
    return Cure(sent.at - back, max(bad, default=back) - back)


def main(arguments: Sequence[str]) -> int:
    """Prints the table."""
    count = int(arguments[0]) if arguments else 20
    fetch.fetch_defaults(print)
    print("| | cures | byte: median | p90 | good: median | p90 |\n|---|---|---|---|---|---|", flush=True)
    for name in arguments[1:] or SET_UPS:
        found: list[Cure] = []
        while len(found) < count:
            found += cures(SET_UPS[name])
            print(name, *[f"{one.byte:.1f}/{one.good:.1f}" for one in found[-APPS:]], file=sys.stderr, flush=True)
        columns = [sorted(column) for column in zip(*found, strict=True)]
        figures = [
            f"{figure:.1f} s" for one in columns for figure in (statistics.median(one), one[int(len(one) * 0.9)])
        ]
        print(f"| {name} | {len(found)} | {' | '.join(figures)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
