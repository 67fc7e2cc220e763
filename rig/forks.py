"""How many of 1 000 forks hang: the byte as mongo-watchdog aims it, at any moment, and aimed at a wake.

    python -m rig.forks [FORKS [SET-UP ...]]      `make forks`; 1 000 take some 20 minutes for each set-up

Apps with 8 workers are reloaded in turn: by `mongo-watchdog reload`; by hand at a random moment; and by hand so that
uWSGI forks where a thread of its master wakes. Who hangs is ended by the daemon, which uWSGI's log tells. A reload is
done when all workers are new and ready.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rig import RigError, apps, fetch
from rig.daemon import Daemon
from rig.mongod import Mongod, ReplicaSet
from rig.processes import wait_for
from rig.traffic import Traffic
from rig.uwsgi import FORK_HOOKS, OSAFTERFORK, Uwsgi, end, hung_by_fork
from watchdogd.core.aim import GRID_S, LATE_S
from watchdogd.model.base import ProcessId
from watchdogd.observe.wakes import WatchedByThreads

APPS, WORKERS = 4, 8
NEW_WITHIN_S = 90.0
THREE = (f"shared-py-import = {Path(apps.__file__).with_name('clients.py')}",)
A_SET = "a replica set of three"
SET_UPS: Mapping[str, tuple[str, ...]] = {
    "one client": (),
    "three clients": THREE,
    A_SET: (),
    "py-call-osafterfork": (OSAFTERFORK,),
    "py-call-uwsgi-fork-hooks": (FORK_HOOKS,),
    "both of these": (OSAFTERFORK, FORK_HOOKS),
}
"""What the apps' uWSGI has beyond the usual, by the name of the set-up."""
AIMED, RANDOM, AT_A_WAKE = WAYS = ("aimed", "at any moment", "aimed at a wake")
POLICY = {
    "linger": "1ms",
    "cooldown": "0s",
    "max_parallel": 100,
    "budget": {"unproven": 1000, "total": 1000, "per": "1s"},
}


@dataclass
class Count:
    """Forks by a way of sending the byte, and how many hung."""

    forks: int = 0
    hung: int = 0
    bursts: int = 0  # reloads in which one hung or more


@dataclass
class Site:
    """Some apps, a daemon that watches them, and light traffic."""

    folder: Path
    set_up: str
    stack: ExitStack
    apps: list[Uwsgi] = field(default_factory=list)

    def start(self) -> None:
        """Starts it all."""
        folder = self.folder / "mongod"
        mongod: ReplicaSet | Mongod = ReplicaSet(folder) if self.set_up == A_SET else Mongod(folder)
        self.stack.enter_context(mongod)
        extra = SET_UPS[self.set_up]
        for number in range(APPS):
            app = Uwsgi(self.folder / f"app{number}", mongod.uri, processes=WORKERS, extra=extra, mercy_s=30)
            self.apps.append(self.stack.enter_context(app))
            self.stack.enter_context(Traffic(app.address, rate=4))
        self.daemon = Daemon(
            self.folder / "watchdog", mongod.uri, self.apps, policy=POLICY, limits={"reloads": ["workers"]}
        )
        self.stack.enter_context(self.daemon)

    def reload(self, app: Uwsgi, way: str) -> int:
        """Reloads it once; how many of its new workers hung."""
        old, before = set(app.workers()), self._hung(app)
        if way == AIMED:
            self.daemon.reload(app)
        else:
            time.sleep(random.random() if way == RANDOM else _until_a_wake_s(app))
            app.send(b"w")

        def all_new() -> bool:
            end(hung_by_fork(app.master))  # the daemon has ended some three times within 10 minutes
            ready = app.ready_workers()
            return len(ready) == WORKERS and old.isdisjoint(app.workers())

        wait_for(all_new, f"{app.folder.name} has {WORKERS} new workers", within=NEW_WITHIN_S, log=self.daemon.log)
        return self._hung(app) - before

    @staticmethod
    def _hung(app: Uwsgi) -> int:
        """How many workers were ended until now, by uWSGI's log. Nobody ends one that does not hang."""
        return app.log.read_text(errors="replace").count("died, killed by signal 9 :( trying respawn")


def _until_a_wake_s(app: Uwsgi) -> float:
    """How long until a byte after which the first fork is 6 ms after a wake, where most hung."""
    woken = threading.Event()
    watched, master = WatchedByThreads(woken.set), ProcessId(app.master, 0)
    watched.watch(master)
    woken.wait(30)
    wakes = watched.seen(master)
    if not wakes or not wakes.times:
        raise RigError("no thread of the master wakes")
    return (wakes.times[-1] + 0.006 - LATE_S - time.monotonic()) % GRID_S


def measure(set_up: str, forks: int) -> dict[str, Count]:
    """Returns the counts, by the way in which the byte was sent."""
    counts = {way: Count() for way in WAYS}
    folder = Path(tempfile.mkdtemp(prefix="mwf-"))
    try:
        with ExitStack() as stack:
            site = Site(folder, set_up, stack)
            site.start()
            pool = stack.enter_context(ThreadPoolExecutor(APPS))
            for way in WAYS * round(forks / APPS / WORKERS):
                count = counts[way]
                for hung in pool.map(site.reload, site.apps, [way] * APPS):
                    count.forks, count.hung = count.forks + WORKERS, count.hung + hung
                    count.bursts += hung > 0
                print(set_up, *[f"{way}: {one.hung}/{one.forks}" for way, one in counts.items()], file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return counts


def main(arguments: Sequence[str]) -> int:
    """Prints the table."""
    forks = int(arguments[0]) if arguments else 1000
    fetch.fetch_defaults(print)
    print("| uWSGI has | byte | forks | hung | reloads with one |\n|---|---|---|---|---|", flush=True)
    for set_up in arguments[1:] or SET_UPS:
        for way, count in measure(set_up, forks).items():
            print(f"| {set_up} | {way} | {count.forks} | {count.hung} | {count.bursts} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
