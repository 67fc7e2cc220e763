"""Requests of a real stuck app that wait for a server, behind each kind of socket, and requests that only look slow."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from rig import fetch
from rig.mongod import Mongod
from rig.traffic import Request
from rig.uwsgi import App, Front, Uwsgi
from tests.integration.looking import Looking, of
from watchdogd.model.seen import Snapshot, Waits, Worker

LOOK_EVERY_S = 1.0
POLLING = "4.2.6"  # it has no streaming heartbeat

# Every kind of socket, with one thread and with several.
FRONTS = [
    (Front.HTTP_SOCKET, None),
    (Front.HTTP_ROUTER, 2),
    (Front.UWSGI_TCP, 4),
    (Front.UWSGI_UNIX, None),
    (Front.UWSGI_UNIX, 2),
]


@pytest.fixture
def at_end() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@contextmanager
def asking(app: Uwsgi, path: str = "/", users: int = 2) -> Iterator[list[Request]]:
    """So many people, each of whom sends the next request when the last one is answered. In the end it is killed."""
    over, answers = threading.Event(), list[Request]()

    def one() -> None:
        while not over.is_set():
            answers.append(app.get(path))
            over.wait(0.1)

    threads = [threading.Thread(target=one) for _ in range(users)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        app.kill()  # nobody needs the answers any more
        for thread in threads:
            thread.join()


def started(at_end: ExitStack, *apps: Uwsgi) -> list[Uwsgi]:
    """The apps, once all of them run; they start at the same time."""
    with ThreadPoolExecutor(len(apps)) as pool:
        for app in apps:
            at_end.callback(app.kill)
        list(pool.map(Uwsgi.start, apps))
    return list(apps)


def make_stuck(mongod: Mongod, apps: Sequence[Uwsgi]) -> None:
    """It is restarted, and every worker asks it in between: a client made before the fork never finds it again."""
    mongod.stop()
    with ThreadPoolExecutor(len(apps)) as pool:
        assert not any(answer.good for answer in pool.map(Uwsgi.get, apps))
    mongod.start()


def only_worker(snapshot: Snapshot, app: Uwsgi) -> Worker:
    (worker,) = of(snapshot, app).workers
    return worker


def waits(snapshot: Snapshot, app: Uwsgi) -> Waits:
    seen = only_worker(snapshot, app).waits
    assert seen is not None, of(snapshot, app).unseen
    return seen


@pytest.mark.timeout(120)
@pytest.mark.parametrize("version", [fetch.DEFAULT_MONGOD, POLLING])
def test_two_requests_of_a_stuck_worker_are_seen_to_wait_behind_every_kind_of_socket(
    version: str, at_end: ExitStack, tmp_path: Path
) -> None:
    mongod = at_end.enter_context(Mongod(tmp_path / "mongod", version=version))
    apps = started(
        at_end,
        *(
            Uwsgi(tmp_path / str(n), mongod.uri, front=front, threads=threads, processes=1)
            for n, (front, threads) in enumerate(FRONTS)
        ),
    )
    make_stuck(mongod, apps)
    looking = Looking(at_end, mongod, *apps)
    for app in apps:
        at_end.enter_context(asking(app))
    seen = looking.until(
        lambda snapshot: snapshot if all(len(waits(snapshot, app).requests) >= 2 for app in apps) else None,
        "two requests of each wait",
        every=LOOK_EVERY_S,
    )
    for app in apps:
        assert waits(seen, app).longest_s <= 4.0  # serverSelectionTimeoutMS is 3 s
        worker = only_worker(seen, app)
        assert worker.threads == (app.threads or 1)
        assert worker.single is (app.threads is None)
        assert of(seen, app).unseen == ""


SLOW = """
import os, threading, time, urllib.parse
def application(environ, start_response):
    start_response("200 OK", [("X-Worker", str(os.getpid()))])
    how = environ["PATH_INFO"].strip("/")
    if how == "join":
        thread = threading.Thread(target=time.sleep, args=(4,))
        thread.start()
        thread.join()
    elif how == "sleep":
        time.sleep(4)
    return [b"ok"]
"""


@pytest.mark.timeout(120)
def test_requests_that_are_only_slow_are_not(at_end: ExitStack, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    mongod = at_end.enter_context(Mongod(tmp_path / "mongod"))
    options: dict[str, Any] = {"processes": 1, "warm": False, "extra": ["enable-threads = true"]}
    slow = {**options, "app": App.NO_CLIENT, "wsgi_file": tmp_path / "slow.py"}
    joins, sleeps, unix, heals = apps = started(
        at_end,
        Uwsgi(tmp_path / "joins", **slow),
        Uwsgi(tmp_path / "sleeps", **slow),
        Uwsgi(tmp_path / "unix", front=Front.UWSGI_UNIX, **slow),
        Uwsgi(tmp_path / "heals", mongod.uri, app=App.FIRST_REQUEST, **options),
    )
    looking = Looking(at_end, mongod, *apps)
    answers = [
        at_end.enter_context(asking(app, path))
        for app, path in ((joins, "/join"), (sleeps, "/sleep"), (unix, "/join"), (heals, "/?hold=1"))
    ]

    def enough(snapshot: Snapshot) -> Snapshot | None:
        for app in apps:
            assert waits(snapshot, app).requests == ()
        return snapshot if min(map(len, answers)) >= 3 else None

    seen = looking.until(enough, "enough of them are answered", every=LOOK_EVERY_S)
    assert {answer.status for some in answers for answer in some} == {HTTPStatus.OK}
    assert not only_worker(seen, heals).single  # its driver's monitor runs
