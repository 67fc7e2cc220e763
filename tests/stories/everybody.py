"""Who is there when something happens: apps that get stuck, apps that must be left alone, and their users."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from rig.traffic import Request, Traffic
from rig.uwsgi import LOADING, App, Uwsgi, by_greenlets
from tests.stories.happenings import Happening
from tests.stories.stage import Stage

SELECTION_MS = 3000
STARTS_AT_A_TIME = 4  # each takes a second of CPU, and there are other stories
# Longer than three looks at a worker that is not ready, which prove that one hangs.
LOADS_S = 15
SLOW_S = 4.5
PAGE, HEALTH_CHECK = "/?hold=0.1", "/healthz?hold=0.1"


@dataclass(frozen=True)
class Kind:
    """One kind of app. `settings`: what Uwsgi takes; `path`, `rate`: what its users ask for, and how often a second."""

    settings: Mapping[str, Any]
    path: str = "/"
    rate: float = 0.6


# A client made before the fork, with the threads that uWSGI gives it and no hooks.
STUCK = {
    "pymongo-3.13": Kind({"pymongo": "3.13.0", "processes": 2}),
    "pymongo-4.14": Kind({"pymongo": "4.14.1", "processes": 2}),
    # A lottery, for each worker.
    "pymongo-4.20": Kind({"pymongo": "4.20.0", "processes": 2}),
    "two-threads": Kind({"threads": 2, "processes": 2}),
}
HOOKS: Mapping[str, Any] = {"osafterfork": True}
FIRST: Mapping[str, Any] = {"app": App.FIRST_REQUEST}
HEALTHY = {
    "lazy": Kind({"lazy_apps": True}),
    "first-request": Kind(FIRST),
    "hooks": Kind(HOOKS),
    # It has used MongoDB, and answers from its cache since.
    "cache": Kind(HOOKS, "/healthz"),
    # Of its workers some never use MongoDB; which one gets a request nobody can choose.
    "health": Kind({**HOOKS, "processes": 3, "warm": False}, HEALTH_CHECK),
    "slow": Kind(FIRST, f"/?hold={SLOW_S}", 0.15),
    "join": Kind(HOOKS, f"/?join={SLOW_S}", 0.15),
    # The page can do without the second one, and waits for it in vain: 3 s.
    "second-dead": Kind({"lazy_apps": True}, "/both?second=127.0.0.1:9", 0.2),
    "gevent": Kind(FIRST),
    "threads": Kind({**FIRST, "threads": 4}),
    "no-client": Kind({"app": App.NO_CLIENT}),
}
# Of no other app can a fork hang.
CLIENT_IN_MASTER = {*STUCK, *[name for name, kind in HEALTHY.items() if kind.settings.get("osafterfork")]}
LOAD = {
    how: Kind({**FIRST, "lazy_apps": True, "warm": False}, rate=0.3) for how in ("sleeping", "computing", "connecting")
}


@dataclass(eq=False)
class Everybody:
    """All of them on one MongoDB; `apps` by name, and what became of the requests of each."""

    stage: Stage
    happening: Happening
    apps: dict[str, Uwsgi] = field(default_factory=dict)
    traffic: dict[str, Traffic] = field(default_factory=dict)
    asked: dict[str, list[Request]] = field(default_factory=dict)

    def arrive(self) -> None:
        """Starts all but those that load, which are only made."""
        self.apps = {name: self._app(name, kind) for name, kind in {**STUCK, **HEALTHY, **LOAD}.items()}
        with ThreadPoolExecutor(STARTS_AT_A_TIME) as pool:
            list(pool.map(lambda name: self.apps[name].start(), [*STUCK, *HEALTHY]))
        if not self.happening.apps_start_meanwhile:
            assert all(self.apps["health"].get().status == HTTPStatus.OK for _ in range(2))

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """The apps that load are started, and all are used for as long as the `with` lasts."""
        for name in LOAD:
            self.apps[name].launch()
        with contextlib.ExitStack() as users:
            for name, kind in {**STUCK, **HEALTHY, **LOAD}.items():
                traffic = Traffic(self.apps[name].address, rate=kind.rate, path=kind.path, timeout=20)
                self.traffic[name] = users.enter_context(traffic)
            yield

    def ask_every_worker(self, names: Iterable[str], path: str = PAGE) -> dict[str, list[Request]]:
        """Sends each app more requests at once than it has workers, and gives the answers."""
        with ThreadPoolExecutor(len(self.apps)) as pool:
            running = {name: pool.submit(self._ask, name, path) for name in names}
        answers = {name: one.result() for name, one in running.items()}
        for name, ones in answers.items():
            self.asked.setdefault(name, []).extend(ones)
        return answers

    def stuck(self, name: str) -> set[int]:
        """The workers that only gave errors in the end: the last that each of them answered was one."""
        last: dict[int, Request] = {}
        for one in sorted(self._requests(name), key=lambda one: one.sent_at + one.seconds):
            if one.worker is not None:
                last[one.worker] = one
        return {worker for worker, one in last.items() if one.status == HTTPStatus.INTERNAL_SERVER_ERROR}

    def answered(self, name: str) -> set[int]:
        """The pids of the workers that ever answered a request."""
        return {one.worker for one in self._requests(name) if one.worker}

    def _requests(self, name: str) -> list[Request]:
        return [*self.traffic[name].requests, *self.asked.get(name, [])]

    def _app(self, name: str, kind: Kind) -> Uwsgi:
        settings: dict[str, Any] = {"processes": 1, "selection_ms": SELECTION_MS, **kind.settings}
        uri = self.happening.uri
        if name in STUCK:
            options = self.happening.options
            uri += options.replace("?", "&") if "?" in uri else options
        if name == "gevent":
            settings["extra"] = by_greenlets(20)
        if name in LOAD:
            settings |= {"wsgi_file": LOADING, "extra": [f"pyargv = {name} {LOADS_S}"]}
        if self.happening.apps_start_meanwhile:
            settings["warm"] = False
        heartbeat_ms = self.happening.heartbeat_ms
        return self.stage.app(uri, name, start=False, heartbeat_ms=heartbeat_ms, **settings)

    def _ask(self, name: str, path: str) -> list[Request]:
        app = self.apps[name]
        return app.get_many(2 * app.processes, path, timeout=30)
