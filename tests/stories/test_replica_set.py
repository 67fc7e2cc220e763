import time

from rig.traffic import Traffic
from tests.stories.stage import (
    LINGER_S,
    Stage,
    all_good,
    cured_once,
    eventually,
    fail_a_request_of,
    left_alone,
    respawned,
)


def test_a_restarted_secondary_is_no_reason_for_a_reload(stage: Stage) -> None:
    replica_set = stage.replica_set()
    app = stage.app(replica_set.uri)
    watchdog = stage.watchdog(replica_set.uri, app)
    workers = app.workers()
    with Traffic(app.address) as traffic:
        begun = time.monotonic()
        secondary = replica_set.secondaries()[0]
        secondary.stop()
        watchdog.wait_event("member_down", within=20)
        assert watchdog.tells_none("reload_due", seconds=2 * LINGER_S)
        secondary.start()
        replica_set.wait_secondaries(2)
        watchdog.wait_event("member_up", within=20)
        assert watchdog.tells_none("reload_due", seconds=2 * LINGER_S)
        assert traffic.failed_between(begun, time.monotonic()) == []
    left_alone(watchdog, app, workers)


def test_a_primary_that_stays_down_costs_one_reload_after_the_next_one_serves(stage: Stage) -> None:
    replica_set = stage.replica_set()
    app = stage.app(replica_set.uri)
    watchdog = stage.watchdog(replica_set.uri, app)
    workers = app.workers()
    old = replica_set.wait_primary()
    with Traffic(app.address):
        old.kill()
        replica_set.wait_primary(other_than=old)
        cured_once(watchdog, app)
        assert watchdog.tells_none("reload_due", "reload_sent", seconds=LINGER_S)
        assert not old.running
    assert respawned(app) == len(workers)
    assert not all_good(app)


def test_workers_that_a_step_down_has_stranded_are_cured_once_the_old_primary_ends(stage: Stage) -> None:
    replica_set = stage.replica_set()
    app = stage.app(replica_set.uri)
    watchdog = stage.watchdog(replica_set.uri, app)
    workers = app.workers()
    # As in every clean restart of a primary: it steps down first, and only the end of its process leaves a trace.
    old = replica_set.wait_primary()
    old.command("replSetStepDown", 60, secondaryCatchUpPeriodSecs=10)
    fail_a_request_of(app)
    old.kill()
    with Traffic(app.address):
        cured_once(watchdog, app)
        old.start()
        assert watchdog.tells_none("reload_due", "reload_sent", seconds=2 * LINGER_S)
    assert respawned(app) == len(workers)
    assert not all_good(app)


def test_a_rolling_restart_costs_at_most_one_reload_for_each_new_primary_and_all_is_good_at_the_end(
    stage: Stage,
) -> None:
    replica_set = stage.replica_set()
    app = stage.app(replica_set.uri)
    watchdog = stage.watchdog(replica_set.uri, app)
    primaries = [replica_set.wait_primary()]
    with Traffic(app.address) as traffic:
        for member in replica_set.members:
            member.restart()
            primary = replica_set.wait_primary()
            replica_set.wait_secondaries(2)
            if primary is not primaries[-1]:
                primaries.append(primary)
        eventually(lambda: traffic.all_good_for(5), "only good requests for 5 s", within=90, log=watchdog.log)
        watchdog.wait_state("watching", within=90)  # a chain takes its workers one by one, and all is good meanwhile
        assert watchdog.tells_none("reload_due", "reload_sent", seconds=2 * LINGER_S)
    changes = len(primaries) - 1
    assert len(watchdog.events("reload_sent")) <= changes
    assert respawned(app) == len(watchdog.events("reload_sent")) * 3
    assert not watchdog.order("gave_up", "reload_failed")
    assert not all_good(app)
