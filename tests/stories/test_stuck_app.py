import time
from collections.abc import Callable

import pytest

from rig import fetch
from rig.processes import wait_for
from rig.traffic import Traffic
from tests.stories.stage import (
    DRIVER,
    RUNS,
    SHIPPED,
    Stage,
    all_good,
    cured_once,
    eventually,
    respawned,
    restarted,
    strand,
)

# The versions of pymongo that never heal after a fork (4.20 is a lottery for each worker).
STUCK = ("3.13.0", "4.14.1", "4.16.0")
SIGNALS = pytest.mark.parametrize("kill", [False, True], ids=["TERM", "KILL"])

# With STORY_RUNS the stories of the shipped defaults are played for every version.
DEFAULTS = list(STUCK) * RUNS or [fetch.DEFAULT_PYMONGO]


@SIGNALS
@pytest.mark.parametrize("pymongo", STUCK)
def test_a_stuck_app_is_cured_by_exactly_one_reload(stage: Stage, pymongo: str, kill: bool) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, pymongo=pymongo, selection_ms=3000)
    watchdog = stage.watchdog(mongod.uri, app)
    traffic = stage.stack.enter_context(Traffic(app.address))
    master, old = app.master, app.workers()
    strand(mongod, app, kill=kill)

    cured_once(watchdog, app)
    assert app.master == master
    assert set(app.ready_workers()).isdisjoint(old)
    eventually(lambda: traffic.all_good_for(3), "only good requests for 3 s", within=20, log=app.log)
    assert respawned(app) == len(old)
    assert not restarted(app)
    told = watchdog.order("member_down", "member_up", "leftovers_found", "recovered")
    assert told == ["member_down", "member_up", "leftovers_found", "recovered"]


def test_the_same_app_without_the_watchdog_never_recovers(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, selection_ms=3000)
    traffic = stage.stack.enter_context(Traffic(app.address))
    back = strand(mongod, app)
    time.sleep(25)  # what the story is about: more than two heartbeats of a driver by default
    assert traffic.good_since(back) == []
    assert len(traffic.failed_between(back, time.monotonic())) >= 10


@SIGNALS
@pytest.mark.parametrize("pymongo", DEFAULTS)
def test_as_shipped_every_request_is_good_28_s_after_mongod_is_back(
    stage: Stage, record_property: Callable[[str, object], None], pymongo: str, kill: bool
) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, pymongo=pymongo, **DRIVER)
    watchdog = stage.watchdog(mongod.uri, app, policy=SHIPPED)
    traffic = stage.stack.enter_context(Traffic(app.address))
    master = app.master
    wait_for(lambda: traffic.all_good_for(2), "good requests before the outage", within=10)
    (mongod.kill if kill else mongod.stop)()
    time.sleep(9)
    mongod.start()
    back = time.monotonic()

    watchdog.wait_event("recovered", within=60)
    time.sleep(max(0.0, back + 38 - time.monotonic()))  # 10 s of what must be good
    end = time.monotonic() - 2
    bad = traffic.failed_between(back, end)
    assert bad, "the app was never stuck"
    record_property("last bad request, seconds after mongod was back", round(bad[-1].sent_at - back, 1))
    assert traffic.failed_between(back + 28, end) == []
    assert traffic.overdue() == []
    assert len(traffic.good_since(back + 28)) >= 10
    cured_once(watchdog, app)
    assert app.master == master
    assert not all_good(app)
