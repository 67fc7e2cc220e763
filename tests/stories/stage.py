"""What a story needs on its stage: real mongods, apps, people who use them, and the watchdog; all gone at the end.

The apps' drivers ask their server every second instead of every ten, and wait 1 s for it instead of 3, so that a story
takes half a minute; `linger` is short in the same proportion. Only the stories of the shipped defaults keep them.
"""

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from rig import RigError
from rig.mongod import Mongod, ReplicaSet
from rig.processes import wait_for
from rig.traffic import Request
from rig.uwsgi import Uwsgi
from tests.stories.watchdog import Watchdog, shown

# STORY_RUNS=5 plays the stories of what must hold in 5 of 5 runs so often.
RUNS = int(os.environ.get("STORY_RUNS", "0"))

HEARTBEAT_MS = 1000
SELECTION_MS = 1000
MERCY_S = 4
# Longer than a heartbeat of the apps and the second after which a fork is safe.
LINGER_S = 4.0
QUICK: Mapping[str, object] = {"linger": f"{LINGER_S:g}s", "cooldown": "5s"}
# For one story of each command: the policy that is shipped, and a driver with the times that it has by itself.
SHIPPED: Mapping[str, object] = {"linger": "15s", "cooldown": "60s"}
DRIVER: Mapping[str, Any] = {"heartbeat_ms": None, "selection_ms": 3000}
# From the end of `linger` to the proof: mercy, a tick of uWSGI, the new workers' start and first request.
CURED_WITHIN_S = 60.0


@dataclass(eq=False)
class Stage:
    """Starts things in the story's folder, and ends them in reverse order."""

    folder: Path
    stack: ExitStack
    mongods: list[Mongod] = field(default_factory=list)
    apps: list[Uwsgi] = field(default_factory=list)
    watchdogs: list[Watchdog] = field(default_factory=list)
    # What no daemon should ever write, of all that have been here.
    faults: set[str] = field(default_factory=set)

    def clear(self) -> None:
        """Ends all that is on it."""
        self.faults.update(line for watchdog in self.watchdogs for line in watchdog.faults())
        self.stack.close()
        for ended in (self.mongods, self.apps, self.watchdogs):
            ended.clear()

    def mongod(self, **settings: Any) -> Mongod:  # noqa: ANN401 - what Mongod takes
        """A standalone mongod that answers."""
        one = Mongod(self.folder / f"mongod{len(self.mongods)}", **settings)
        self.mongods.append(one)
        return self.stack.enter_context(one)

    def replica_set(self) -> ReplicaSet:
        """Three members with a primary."""
        one = ReplicaSet(self.folder / "set")
        self.mongods += one.members
        return self.stack.enter_context(one)

    def app(self, uri: str, name: str = "shop", *, start: bool = True, **settings: Any) -> Uwsgi:  # noqa: ANN401 - what Uwsgi takes
        """An app that serves, if `start`; by default the one that gets stuck."""
        quick = {"heartbeat_ms": HEARTBEAT_MS, "selection_ms": SELECTION_MS, "mercy_s": MERCY_S}
        one = Uwsgi(self.folder / name, uri, **{**quick, **settings})
        self.apps.append(one)
        self.stack.callback(one.kill)
        if start:
            one.start()
        return one

    def watchdog(
        self,
        uri: str | Mapping[str, str],
        *apps: Uwsgi,
        start: bool = True,
        **settings: Any,  # noqa: ANN401 - what Watchdog takes
    ) -> Watchdog:
        """A daemon for these apps, named by their folders, with a short linger."""
        policy = {**QUICK, **settings.pop("policy", {})}
        limits = {"worker_reload_mercy": f"{MERCY_S}s", **settings.pop("limits", {})}
        instances = settings.pop("instances", {app.folder.name: app.fifo for app in apps})
        one = Watchdog(
            self.folder / f"watchdog{len(self.watchdogs)}",
            uri,
            instances,
            policy=policy,
            limits=limits,
            **settings,
        )
        self.watchdogs.append(one)
        self.stack.callback(one.close)
        if start:
            one.start()
        return one

    def hang(self, app: Uwsgi) -> None:
        """Keeps one worker busy for good, with a request that does not end; returns when the worker has it."""
        connection = self.stack.enter_context(socket.create_connection(app.address, timeout=30))
        connection.sendall(b"GET /hang HTTP/1.0\r\n\r\n")
        assert connection.recv(1), f"{app.folder.name} closed the connection"

    def report(self) -> Iterable[tuple[str, str]]:
        """Titles and texts that tell what happened, while everything still runs."""
        for number, watchdog in enumerate(self.watchdogs):
            yield f"log of watchdog {number}", "\n".join(watchdog.lines()[-100:])
            yield f"status of watchdog {number}", shown(watchdog)
        for app in self.apps:
            lines = app.log.read_text(errors="replace").splitlines() if app.log.exists() else []
            yield f"log of {app.folder.name}", "\n".join([line for line in lines if " => generated" not in line][-60:])
            if app.running:
                told = f"{app.workers()}, ready: {app.ready_workers()}, hung since their fork: {app.hung_workers()}"
                yield f"workers of {app.folder.name}", told


# -- what happens in stories


def fail_a_request_of(app: Uwsgi, *, hanging: int = 0, within: float = 60) -> None:
    """Has every worker (but that many, which hang) answer a request with an error: that is what poisons a worker."""
    failed: set[int] = set()

    def all_failed() -> bool:
        workers = set(app.ready_workers())
        answers = app.get_many(max(1, 2 * len(workers) - hanging))
        failed.update(one.worker for one in answers if one.worker and one.status != HTTPStatus.OK)
        return bool(workers) and len(workers - failed) <= hanging

    wait_for(all_failed, "an error of every worker while mongod is down", within=within, log=app.log)


def strand(mongod: Mongod, *apps: Uwsgi, kill: bool = False, hanging: int = 0) -> float:
    """Takes mongod away, has the workers of the apps fail, and brings it back; when it was back (monotonic)."""
    (mongod.kill if kill else mongod.stop)()
    for app in apps:
        fail_a_request_of(app, hanging=hanging)
    mongod.start()
    return time.monotonic()


def outage(mongod: Mongod, *, seconds: float) -> float:
    """Takes mongod away for so long, whatever anybody does; when it was back (monotonic)."""
    begun = time.monotonic()
    mongod.stop()
    time.sleep(max(0.0, begun + seconds - time.monotonic()))
    mongod.start()
    return time.monotonic()


# -- what a story claims


def all_good(app: Uwsgi, count: int | None = None) -> list[Request]:
    """The failed ones among that many requests at the same time, so that every worker is asked: should be none."""
    answers = app.get_many(2 * len(app.ready_workers()) if count is None else count, "/?hold=0.1")
    return [one for one in answers if not one.good]


def respawned(app: Uwsgi) -> int:
    """How many workers uWSGI made anew, by its own log: what reloads reached it, whatever the watchdog says.

    Not in place of those that were killed out of turn: who hangs since its fork is ended, and that is no reload.
    """
    log = app.log.read_text(errors="replace")
    return log.count("Respawned uWSGI worker") - log.count("died, killed by signal 9 :( trying respawn")


def restarted(app: Uwsgi) -> int:
    """How often uWSGI executed itself anew (`r`), by its own log."""
    return app.log.read_text(errors="replace").count("gracefully (RE)spawned uWSGI master process")


def cured_once(
    watchdog: Watchdog, app: Uwsgi, *, commands: str = "w", name: str = "shop", within: float = CURED_WITHIN_S
) -> None:
    """Waits for the proof, and claims that one reload of one of these kinds, and nothing else, led to it."""
    watchdog.wait_event("recovered", name, within=within)
    steps = ("leftovers_found", "reload_due", "reload_sent", "reloaded", "recovered")
    assert watchdog.order(*steps, instance=name) == list(steps)
    (sent,) = watchdog.events("reload_sent", name)
    assert sent.fields["command"] in commands
    assert not watchdog.order("reload_failed", "gave_up", "overtaken", instance=name)
    last = watchdog.instance(name)["last_reload"]
    assert (last["command"], last["outcome"], last["proven"]) == (sent.fields["command"], "recovered", True)
    assert not all_good(app)


def left_alone(watchdog: Watchdog, app: Uwsgi, workers: Iterable[int], name: str = "shop") -> None:
    """Claims that nothing was sent to the app, by the watchdog's words and by uWSGI's own."""
    assert not watchdog.order("reload_due", "reload_sent", "reload_failed", "gave_up", instance=name)
    assert app.workers() == list(workers)
    assert respawned(app) == 0


def close_waits(port: int) -> int:
    """The connections to that port in CLOSE_WAIT (08), as the kernel lists them in this thread's network namespace."""
    rows = [row.split() for row in Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "08" for row in rows)


def eventually(condition: Callable[[], bool], what: str, *, within: float, log: Path | None = None) -> None:
    """Waits for something outside of the watchdog."""
    try:
        wait_for(condition, what, within=within, log=log)
    except RigError as error:
        raise AssertionError(str(error)) from error
