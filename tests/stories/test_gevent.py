import pytest

from rig.processes import wait_for
from rig.traffic import Traffic
from rig.uwsgi import by_greenlets
from tests.stories.stage import LINGER_S, Stage, all_good, cured_once, left_alone, outage, respawned, strand

GREENLETS = 20
# A thread of uWSGI's own, which waits for lines of the log.
LOGGER = ["threaded-logger = true", "logger = file:other.log"]


@pytest.mark.parametrize("more", [[], LOGGER], ids=["one-thread", "and-a-logger"])
def test_an_operators_reload_is_begun_though_the_masters_client_never_runs(stage: Stage, more: list[str]) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, extra=[*by_greenlets(GREENLETS), *more])
    watchdog = stage.watchdog(mongod.uri, app)
    old = app.workers()
    with Traffic(app.address):
        strand(mongod, app)
        watchdog.wait_event("healed", within=LINGER_S + 30)
        left_alone(watchdog, app, old)
        # The gate is open as soon as two full looks have shown that no thread of a client runs in the master.
        wait_for(lambda: watchdog.run("reload", "shop").returncode == 0, "a reload", within=30, log=watchdog.log)
        recovered = watchdog.wait_event("recovered", within=30)
    assert watchdog.events("reload_sent")[0].fields["command"] in "wc"
    assert recovered.fields["workers"] == str(len(old))
    assert set(app.ready_workers()).isdisjoint(old)
    assert not app.hung_workers()
    assert not all_good(app)


def test_where_gevent_patches_the_workers_alone_they_are_stuck_and_cured_by_one_reload(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, extra=by_greenlets(GREENLETS, early=False))
    watchdog = stage.watchdog(mongod.uri, app)
    old = app.workers()
    strand(mongod, app)
    with Traffic(app.address):
        cured_once(watchdog, app)
    assert respawned(app) == len(old)


def test_an_idle_app_of_gevent_reaches_mongodb_anew_without_any_request(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, extra=by_greenlets(GREENLETS))
    watchdog = stage.watchdog(mongod.uri, app)
    workers = app.workers()
    outage(mongod, seconds=3)
    healed = watchdog.wait_event("healed", within=LINGER_S + 30)
    assert healed.fields["reconnected"] == str(len(workers))
    left_alone(watchdog, app, workers)
