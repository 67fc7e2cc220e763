import time
from typing import Any

import pytest

from rig.mongod import Mongod
from rig.processes import wait_for
from rig.traffic import Traffic
from rig.uwsgi import FORK_HOOKS, App, Uwsgi
from tests.stories.stage import (
    LINGER_S,
    RUNS,
    Stage,
    all_good,
    cured_once,
    eventually,
    fail_a_request_of,
    left_alone,
    outage,
    respawned,
    strand,
)


def fail_one_request(mongod: Mongod, app: Uwsgi) -> None:
    """An outage in which one request fails, and its end, when a request is good again."""
    mongod.stop()
    assert not app.get().good
    mongod.start()
    wait_for(lambda: app.get().good, "a good request after mongod is back", within=20)


HEALING: dict[str, dict[str, Any]] = {
    "lazy-apps": {"lazy_apps": True},
    "first-request": {"app": App.FIRST_REQUEST},
    "osafterfork": {"osafterfork": True},
    "fork-hooks": {"extra": [FORK_HOOKS]},
}


@pytest.mark.parametrize("settings", [*HEALING.values()] * max(1, RUNS), ids=[*HEALING] * max(1, RUNS))
def test_an_app_that_heals_by_itself_is_left_alone(stage: Stage, settings: dict[str, Any]) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, **settings)
    watchdog = stage.watchdog(mongod.uri, app)
    traffic = stage.stack.enter_context(Traffic(app.address))
    workers = app.workers()
    strand(mongod, app)

    watchdog.wait_event("healed", within=LINGER_S + 30)
    eventually(lambda: traffic.all_good_for(3), "only good requests for 3 s", within=20)
    assert watchdog.tells_none("reload_due", "leftovers_found", seconds=LINGER_S + 2)
    left_alone(watchdog, app, workers)
    assert not all_good(app)


def test_an_app_with_after_fork_hooks_is_left_alone_while_only_some_of_its_8_workers_serve(
    stage: Stage,
) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, osafterfork=True, processes=8, warm=False)
    watchdog = stage.watchdog(mongod.uri, app)
    workers = app.workers()
    # One request at a time: most of the workers never get one, and hold for good what they were forked with.
    served = {app.get().worker for _ in range(6)}
    assert len(served) < len(workers)
    fail_one_request(mongod, app)

    watchdog.wait_event("healed", within=LINGER_S + 30)
    with Traffic(app.address):
        assert watchdog.tells_none("reload_due", seconds=2 * LINGER_S)
    left_alone(watchdog, app, workers)
    verdicts = [one["verdict"] for one in watchdog.instance()["workers"]]
    assert "reconnected" in verdicts
    assert "stranded" not in verdicts


def test_workers_with_after_fork_hooks_that_only_answer_health_checks_are_not_stranded(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, osafterfork=True, processes=8, warm=False)
    watchdog = stage.watchdog(mongod.uri, app)
    workers = app.workers()
    assert len({app.get().worker for _ in range(6)}) < len(workers)
    fail_one_request(mongod, app)
    checked: set[int | None] = set()

    def all_checked() -> bool:
        checked.update(one.worker for one in app.get_many(16, "/healthz?hold=0.1"))
        return checked >= set(workers)

    wait_for(all_checked, "a health check of every worker", within=30)
    with Traffic(app.address):
        assert watchdog.tells_none("reload_due", seconds=3 * LINGER_S)
    left_alone(watchdog, app, workers)


def test_of_two_instances_only_the_stuck_one_is_reloaded(stage: Stage) -> None:
    mongod = stage.mongod()
    stuck, fine = stage.app(mongod.uri), stage.app(mongod.uri, "fine", lazy_apps=True)
    watchdog = stage.watchdog(mongod.uri, stuck, fine)
    workers = fine.workers()
    strand(mongod, stuck, fine)

    with Traffic(stuck.address), Traffic(fine.address):
        cured_once(watchdog, stuck)
        watchdog.wait_event("healed", "fine", within=30)
        assert watchdog.tells_none("reload_sent", seconds=LINGER_S)
    left_alone(watchdog, fine, workers, "fine")
    assert not all_good(fine)


def test_idle_workers_are_left_when_the_policy_says_so_and_no_request_fails(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app, policy={"idle": "leave"})
    workers = app.workers()
    outage(mongod, seconds=3)

    watchdog.wait_event("unproven", within=LINGER_S + 30)
    assert {one["verdict"] for one in watchdog.instance()["workers"]} == {"idle"}
    assert watchdog.tells_none("reload_due", seconds=LINGER_S)
    left_alone(watchdog, app, workers)
    assert not all_good(app)
    watchdog.wait_event("healed", within=30)
    assert watchdog.tells_none("reload_due", seconds=LINGER_S)
    left_alone(watchdog, app, workers)


def test_idle_workers_are_reloaded_once_and_recovered_is_told_when_a_request_has_come(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app)
    master, old = app.master, app.workers()
    outage(mongod, seconds=3)

    watchdog.wait_event("reloaded", within=LINGER_S + 60)
    assert watchdog.tells_none("recovered", "reload_sent", seconds=2 * LINGER_S + 5)
    last = watchdog.instance()["last_reload"]
    assert (last["outcome"], last["proven"]) == ("reloaded", False)
    assert watchdog.instance()["state"] == "verifying"
    with Traffic(app.address):
        cured_once(watchdog, app)
    assert app.master == master
    assert respawned(app) == len(old)


def test_a_flapping_mongod_gets_no_reload_before_it_stays_up(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app)
    workers = app.workers()
    with Traffic(app.address):
        mongod.stop()
        fail_a_request_of(app)
        for number in range(1, 4):
            mongod.start()
            watchdog.wait_event("member_up", within=20, count=number)
            assert watchdog.tells_none("reload_due", seconds=LINGER_S / 2)
            mongod.stop()
            watchdog.wait_event("member_down", within=20, count=number + 1)
            time.sleep(0.5)
        assert app.workers() == workers
        mongod.start()
        cured_once(watchdog, app)
        assert watchdog.tells_none("reload_sent", seconds=LINGER_S)
    assert respawned(app) == len(workers)
