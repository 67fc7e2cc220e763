"""Workers that are stuck without any CLOSE_WAIT, on a real mongod and a real uWSGI."""

import time

import pytest

from rig.hang import BESIDE, Hang
from rig.processes import wait_for
from rig.traffic import Traffic
from rig.uwsgi import App
from tests.stories.stage import Stage, all_good, cured_once, fail_a_request_of, left_alone, respawned, strand
from tests.stories.watchdog import Watchdog

SELECTION_MS = 3000  # an error after 3 s: below 2 s a look a second cannot tell what a request waits for
CURED_WITHIN_S = 90


def cured_silently(watchdog: Watchdog, name: str = "shop") -> None:
    """One reload, by other evidence than leftovers, and it is proven."""
    watchdog.wait_event("recovered", name, within=CURED_WITHIN_S)
    steps = ["reload_due", "reload_sent", "reloaded", "recovered"]
    assert watchdog.order(*steps, "healed", "gave_up", "reload_failed", "overtaken", instance=name) == steps


def test_a_step_down_strands_every_worker_and_they_are_cured_by_one_reload(stage: Stage) -> None:
    replica_set = stage.replica_set()
    app = stage.app(replica_set.uri, selection_ms=SELECTION_MS)
    healthy = stage.app(replica_set.uri, name="lazy", selection_ms=SELECTION_MS, lazy_apps=True)
    watchdog = stage.watchdog(replica_set.uri, app, healthy)
    workers, others = app.workers(), healthy.workers()
    with Traffic(app.address), Traffic(healthy.address):
        replica_set.step_down()
        cured_silently(watchdog)
        assert respawned(app) == len(workers)
        assert not all_good(app)
        left_alone(watchdog, healthy, others, "lazy")


def test_an_app_that_was_started_while_mongodb_was_away_is_cured(stage: Stage) -> None:
    mongod = stage.mongod()
    mongod.stop()
    app = stage.app(mongod.uri, selection_ms=SELECTION_MS, warm=False)
    watchdog = stage.watchdog(mongod.uri, app)
    with Traffic(app.address) as traffic:
        wait_for(lambda: traffic.failed_between(0.0, time.monotonic()), "a request that fails", within=30)
        mongod.start()
        cured_silently(watchdog)
        assert not all_good(app)
    assert respawned(app) == 3


def test_a_worker_that_hangs_since_its_fork_is_ended_in_calm(stage: Stage) -> None:
    mongod = stage.mongod()
    with Hang(stage.folder / "shop") as hang:
        app = stage.app(mongod.uri, extra=BESIDE, app=App.IMPORT_CLIENT)
        watchdog = stage.watchdog(mongod.uri, app)
        hung = hang.worker_of(app)
        found = watchdog.wait_event("hung_found", within=60)
        assert f"In shop worker {hung} hangs: it waits for Python's GIL" in found.sentence
        watchdog.wait_event("hung_ended", within=10)
        wait_for(lambda: len(app.ready_workers()) == 3, "three ready workers", within=10, log=app.log)
        assert hung not in app.workers()
        assert not all_good(app)
        assert not watchdog.order("reload_due", "reload_sent", "hung_left")


def test_what_hangs_is_ended_before_the_reload_that_it_would_have_held(stage: Stage) -> None:
    mongod = stage.mongod()
    with Hang(stage.folder / "shop") as hang:
        app = stage.app(mongod.uri, extra=BESIDE, selection_ms=SELECTION_MS)
        watchdog = stage.watchdog(mongod.uri, app)
        hung = hang.worker_of(app)
        strand(mongod, app)
        with Traffic(app.address):
            watchdog.wait_event("recovered", within=CURED_WITHIN_S)
        assert hung not in app.workers()
        assert not all_good(app)
        assert watchdog.order("hung_ended", "reload_sent")[0] == "hung_ended"


@pytest.mark.parametrize(("reloads", "command"), [(["workers"], "w"), (["chain"], "c")])
def test_what_hangs_since_its_own_reload_is_ended_and_the_reload_is_proven_all_the_same(
    stage: Stage, reloads: list[str], command: str
) -> None:
    mongod = stage.mongod()
    with Hang(stage.folder / "shop") as hang:
        app = stage.app(mongod.uri, extra=BESIDE)
        watchdog = stage.watchdog(mongod.uri, app, limits={"reloads": reloads})
        old = app.workers()
        strand(mongod, app)
        with Traffic(app.address):
            watchdog.wait_event("reload_sent", within=CURED_WITHIN_S)
            with hang.on():  # the first fork is 1 s after the byte, or later: the driver's exit alone takes 4 s
                hung = wait_for(lambda: set(app.workers()) - set(old), "a new worker", within=30, log=app.log)
            cured_once(watchdog, app, commands=command)
    assert hung.isdisjoint(app.workers())
    assert {int(told.fields["pid"]) for told in watchdog.events("hung_ended")} >= hung
    assert respawned(app) == len(old)


def test_a_freeze_strands_who_sets_a_socket_timeout_and_they_are_cured(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(f"{mongod.uri}?socketTimeoutMS=2000", selection_ms=SELECTION_MS)
    patient = stage.app(mongod.uri, name="patient", selection_ms=SELECTION_MS)
    watchdog = stage.watchdog(mongod.uri, app, patient)
    workers = patient.workers()
    with Traffic(app.address) as traffic, Traffic(patient.address):
        mongod.freeze()
        stuck = set(app.workers())
        wait_for(
            lambda: stuck <= {one.worker for one in traffic.failed_between(0.0, time.monotonic())},
            "a request of each worker that fails",
            within=60,
            log=app.log,
        )
        mongod.thaw()
        cured_silently(watchdog)
        assert not all_good(app)
        left_alone(watchdog, patient, workers, "patient")


def test_workers_that_somebody_forked_too_early_are_cured(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, selection_ms=SELECTION_MS)
    watchdog = stage.watchdog(mongod.uri, app)
    old = app.workers()
    with Traffic(app.address):
        mongod.stop()
        fail_a_request_of(app)
        app.send(b"w")  # the master's client believes the server gone
        app.wait_ready(other_than=old, within=60)
        mongod.start()
        watchdog.wait_event("recovered", within=CURED_WITHIN_S)
        assert not all_good(app)
    assert len(watchdog.events("reload_sent")) == 1
