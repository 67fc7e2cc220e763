from rig.traffic import Traffic
from tests.stories.stage import (
    DRIVER,
    LINGER_S,
    SHIPPED,
    Stage,
    all_good,
    cured_once,
    eventually,
    respawned,
    restarted,
    strand,
)

# The last uWSGI with Python threads off: the master's own monitor never runs, so the master keeps the dead connection,
# and hands it on with every fork. A fork of it that hangs is cured by nobody; its first workers are forked between two
# wakes of the driver's threads (IMPORT_PAUSE_S): 0 of 63 hung, in 21 starts beside 6 CPU hogs.
WITHOUT_THREADS = "2.0.26"


def test_as_shipped_what_the_master_holds_is_cured_by_one_restart_of_the_stack_where_that_is_allowed(
    stage: Stage,
) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, version=WITHOUT_THREADS, **DRIVER)
    allowed = {"reloads": ["workers", "chain", "restart"]}
    watchdog = stage.watchdog(mongod.uri, app, policy=SHIPPED, limits=allowed)
    master, old = app.master, app.workers()
    strand(mongod, app)
    with Traffic(app.address) as traffic:
        cured_once(watchdog, app, commands="r")
        eventually(lambda: traffic.all_good_for(3), "only good requests for 3 s", within=20, log=app.log)
    assert app.master == master
    assert set(app.ready_workers()).isdisjoint(old)
    assert restarted(app) == 1


def test_what_the_master_holds_is_held_back_where_a_restart_is_not_allowed(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, version=WITHOUT_THREADS)
    watchdog = stage.watchdog(mongod.uri, app)
    workers = app.workers()
    watchdog.wait_event("threads_off", within=30)  # in calm: what helps can be done before it is needed
    assert watchdog.instance()["threads_off"] is True
    strand(mongod, app)
    with Traffic(app.address):
        held = watchdog.wait_event("reload_held", within=LINGER_S + 30)
        assert watchdog.tells_none("reload_sent", "reload_held", seconds=LINGER_S)
    assert held.fields["blocked_by"] == "not_allowed"
    assert held.fields["command"] == "r"
    assert "restart" in held.sentence
    assert [one["gate"] for one in watchdog.instance()["blocked_by"]] == ["not_allowed"]
    assert app.workers() == workers
    assert respawned(app) == restarted(app) == 0


def test_where_the_master_holds_nothing_no_restart_is_sent_though_it_is_allowed(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app, limits={"reloads": ["workers", "chain", "restart"]})
    strand(mongod, app)
    with Traffic(app.address):
        cured_once(watchdog, app, commands="w")
    assert restarted(app) == 0
    assert not all_good(app)
