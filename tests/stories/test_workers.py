from typing import Any

import pytest

from rig.processes import wait_for
from rig.traffic import Traffic
from tests.stories.stage import (
    DRIVER,
    LINGER_S,
    MERCY_S,
    SHIPPED,
    Stage,
    all_good,
    cured_once,
    eventually,
    respawned,
    restarted,
    strand,
)


def test_a_worker_that_hangs_ends_with_its_mercy_and_costs_one_reload(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app)
    workers = app.workers()
    stage.hang(app)
    strand(mongod, app, hanging=1)
    with Traffic(app.address):
        cured_once(watchdog, app)
        assert watchdog.tells_none("reload_due", "reload_sent", seconds=LINGER_S)
    sent, reloaded = watchdog.events("reload_sent")[0], watchdog.events("reloaded")[0]
    assert reloaded.at - sent.at >= MERCY_S - 1
    assert respawned(app) == len(workers)


@pytest.mark.parametrize(
    ("settings", "commands"),
    [
        # While mongod is down uWSGI may start a third worker, which holds nothing: then a chain reload does it.
        ({"processes": 4, "cheaper": 2}, "wc"),
        ({"processes": 2, "threads": 4}, "w"),
        ({"processes": 1}, "w"),
    ],
    ids=["cheaper", "threads", "one-worker"],
)
def test_other_kinds_of_workers_are_cured_by_one_reload(stage: Stage, settings: dict[str, Any], commands: str) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, **settings)
    watchdog = stage.watchdog(mongod.uri, app)
    master, old = app.master, app.workers()
    strand(mongod, app)
    with Traffic(app.address) as traffic:
        cured_once(watchdog, app, commands=commands)
        assert watchdog.tells_none("reload_due", "reload_sent", seconds=LINGER_S)
        eventually(lambda: traffic.all_good_for(3), "only good requests for 3 s", within=20, log=app.log)
    assert app.master == master
    assert set(app.ready_workers()).isdisjoint(old)
    assert restarted(app) == 0


@pytest.mark.parametrize("processes", [1, 3])
def test_stranded_workers_are_cured_also_where_the_policy_leaves_idle_ones(stage: Stage, processes: int) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, processes=processes)
    watchdog = stage.watchdog(mongod.uri, app, policy={"idle": "leave"})
    strand(mongod, app)
    with Traffic(app.address):
        cured_once(watchdog, app)
    assert respawned(app) == processes


def test_as_shipped_one_stranded_worker_among_good_ones_is_cured_by_a_chain_reload(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, **DRIVER)
    watchdog = stage.watchdog(mongod.uri, app, policy=SHIPPED)
    workers = app.workers()
    with app.busy(2) as spared:
        mongod.stop()
        (stranded,) = set(workers) - set(spared)
        wait_for(lambda: app.get().worker == stranded, "an error of the worker that is left", within=20)
        mongod.start()
    # The spared ones connect anew with their first request: that is when they are seen to be well.
    wait_for(
        lambda: {one.worker for one in app.get_many(6, "/?hold=0.2") if one.good} >= set(spared),
        "good requests of the spared workers",
        within=20,
    )
    with Traffic(app.address):
        cured_once(watchdog, app, commands="c")
    assert respawned(app) == len(workers)
    assert not all_good(app)
