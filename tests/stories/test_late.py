import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rig.netns import Namespace
from rig.processes import wait_for
from rig.traffic import Traffic
from rig.uwsgi import Uwsgi
from tests.stories.stage import (
    LINGER_S,
    Stage,
    close_waits,
    cured_once,
    eventually,
    fail_a_request_of,
    respawned,
    strand,
)
from tests.stories.watchdog import Watchdog


@contextmanager
def full_fifo(app: Uwsgi) -> Iterator[None]:
    """A master that does not read its FIFO, and no room in it; what fills it means nothing to uWSGI."""
    os.kill(app.master, signal.SIGSTOP)
    fifo = os.open(app.fifo, os.O_WRONLY | os.O_NONBLOCK)
    try:
        room = fcntl.fcntl(fifo, fcntl.F_SETPIPE_SZ, 4096)
        assert os.write(fifo, b"\n" * room) == room
        yield
    finally:
        os.close(fifo)
        os.kill(app.master, signal.SIGCONT)


def saved_reload(watchdog: Watchdog) -> dict[str, Any] | None:
    """The reload of `shop` that a daemon would find in the saved state now."""
    try:
        document = json.loads((watchdog.state_dir / "state.json").read_text())
    except FileNotFoundError:
        return None
    of_all: list[dict[str, Any] | None] = [one["reload"] for one in document["state"]["instances"].values()]
    return of_all[0] if of_all else None


def held_by(watchdog: Watchdog) -> list[str]:
    """The gates that hold the reload of `shop`."""
    return [one["gate"] for one in watchdog.instance()["blocked_by"]]


def forget_the_try(watchdog: Watchdog) -> None:
    """Makes the saved state what it was before the first try to write the byte."""
    path = watchdog.state_dir / "state.json"
    document = json.loads(path.read_text())
    (shop,) = document["state"]["instances"].values()
    shop["reload"]["try_at"] = None
    path.write_text(json.dumps(document))


def test_a_watchdog_started_after_the_outage_cures_with_one_reload(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    workers = app.workers()
    back = strand(mongod, app)
    with Traffic(app.address) as traffic:
        wait_for(lambda: traffic.failed_between(back, time.monotonic()), "a failed request", within=20)
        cured_once(stage.watchdog(mongod.uri, app), app)
    assert respawned(app) == len(workers)


@pytest.mark.netns
@pytest.mark.parametrize("restart", [False, True], ids=["watched-throughout", "watchdog-restarted"])
def test_an_outage_longer_than_keepalive_is_cured_though_no_close_wait_is_left(
    stage: Stage, namespace: Namespace, restart: bool
) -> None:
    # pymongo takes the kernel's idle time when it is less than its own 120 s, and mongod's half of the connection is
    # gone after fin_timeout: the next probe then ends a CLOSE_WAIT, while its descriptor stays.
    namespace.sysctl("net.ipv4.tcp_keepalive_time", 3)
    namespace.sysctl("net.ipv4.tcp_fin_timeout", 3)
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app)
    workers = app.workers()
    mongod.stop()
    fail_a_request_of(app)
    watchdog.wait_state("outage", within=10)
    assert close_waits(mongod.port) > 0
    eventually(lambda: close_waits(mongod.port) == 0, "the end of every CLOSE_WAIT", within=60)
    if restart:
        watchdog.restart()
    mongod.start()
    with Traffic(app.address):
        cured_once(watchdog, app)
    assert respawned(app) == len(workers)


@pytest.mark.parametrize("moment", ["intent", "byte", "verification"])
def test_a_watchdog_killed_in_the_middle_of_a_reload_never_sends_a_second_one(stage: Stage, moment: str) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app)
    workers = app.workers()
    strand(mongod, app)
    if moment == "intent":
        # Between this and the byte are microseconds: whichever came first, uWSGI must hear of it once.
        wait_for(lambda: saved_reload(watchdog), "an intent in the saved state", within=LINGER_S + 60)
    else:
        watchdog.wait_event({"byte": "reload_sent", "verification": "reloaded"}[moment], within=LINGER_S + 60)
    watchdog.kill()

    watchdog.start()
    with Traffic(app.address):
        watchdog.wait_event("recovered", within=120)
        assert watchdog.tells_none("reload_due", "reload_sent", "reload_failed", seconds=2 * LINGER_S)
    assert respawned(app) == len(workers)
    assert len(watchdog.events("reload_sent")) <= 1


@pytest.mark.parametrize("tried", [True, False], ids=["between-two-tries", "between-intent-and-byte"])
def test_a_reload_whose_byte_was_never_written_is_sent_once_after_a_crash(stage: Stage, tried: bool) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app, limits={"worker_reload_mercy": "1s"})
    workers = app.workers()
    assert watchdog.run("pause").returncode == 0
    strand(mongod, app)
    wait_for(lambda: held_by(watchdog) == ["paused"], "nothing but the pause", within=LINGER_S + 30)
    with full_fifo(app):
        assert watchdog.run("resume").returncode == 0
        # The intent is saved, and the byte finds no room.
        wait_for(lambda: (saved_reload(watchdog) or {}).get("try_at"), "a try in the state", within=LINGER_S + 60)
        watchdog.kill()
    assert not watchdog.events("reload_sent")
    assert app.workers() == workers
    if not tried:  # a crash before the first try left no trace of it
        forget_the_try(watchdog)

    watchdog.start()
    with Traffic(app.address):
        watchdog.wait_event("recovered", within=120)
        assert watchdog.tells_none("reload_due", "reload_sent", seconds=LINGER_S)
    (sent,) = watchdog.events("reload_sent")
    # Known not to be written: sent at once. Not known: when its deadline shows every old worker still there.
    assert sent.fields["resent"] == str(not tried)
    assert respawned(app) == len(workers)
