"""Mules and spoolers beside the workers: seen, ended or told, and never called well while they are stuck."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from rig import apps
from rig.hang import BESIDE, Hang
from rig.mongod import Mongod
from rig.uwsgi import App, Uwsgi
from tests.stories.stage import CURED_WITHIN_S, Stage, all_good, eventually, restarted
from tests.stories.watchdog import Watchdog

TASKS = Path(apps.__file__).with_name("tasks.py")
MULE = (f"mule = {TASKS}",)
SPOOLER = ("spooler = spool", "spooler-frequency = 1")
# pymongo's exit takes 4 s of each end that is not a SIGKILL.
QUICK_EXIT = ("skip-atexit-teardown = true",)
ALLOWED = {"reloads": ["workers", "chain", "mules"]}
EVENTS = ("mule_stuck", "mule_ended", "mule_renewed", "mule_left")


def with_tasks(stage: Stage, uri: str, *extra: str, **settings: Any) -> Uwsgi:  # noqa: ANN401 - what Uwsgi takes
    """An app with a mule or a spooler that has done a good task, and one worker."""
    folder = stage.folder / "shop" / "spool"
    folder.mkdir(parents=True, exist_ok=True)
    app = stage.app(uri, wsgi_file=TASKS, extra=(*extra, *QUICK_EXIT), **{"processes": 1, **settings})
    hand_over(app)
    eventually(lambda: outcomes(app)[-1:] == ["good"], "the first task is done", within=20, log=app.log)
    return app


def hand_over(app: Uwsgi) -> None:
    assert app.get("/task").good


def outcomes(app: Uwsgi, pid: int | None = None) -> list[str]:
    """What became of all tasks so far, or of those that this process did."""
    log = app.folder / "tasks.log"
    rows = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [outcome for who, outcome in rows if pid in {None, int(who)}]


def who_does_tasks(app: Uwsgi) -> int:
    """The pid of who did the last one."""
    return int((app.folder / "tasks.log").read_text().splitlines()[-1].split()[0])


@contextmanager
def tasks(app: Uwsgi, *, every: float = 0.5) -> Iterator[None]:
    """A task in each such time, as long as the `with` lasts."""
    over = Event()

    def go_on() -> None:
        while not over.wait(every):
            app.get("/task")

    thread = Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def fail_a_task(app: Uwsgi) -> None:
    """Has it fail one while MongoDB is away."""
    before = len(outcomes(app))
    hand_over(app)
    eventually(lambda: len(outcomes(app)) > before, "a task has failed", within=20, log=app.log)
    assert outcomes(app)[-1] != "good"


def strand_all(mongod: Mongod, app: Uwsgi) -> None:
    """Takes MongoDB away until a task and a request have failed."""
    mongod.stop()
    fail_a_task(app)
    assert not app.get("/").good
    mongod.start()


def mules_of(watchdog: Watchdog) -> list[dict[str, Any]]:
    return list(watchdog.instance()["mules"])


def good_again(app: Uwsgi, old: int) -> None:
    """Claims that another process does the tasks now, and well."""
    before = len(outcomes(app))
    hand_over(app)
    eventually(lambda: len(outcomes(app)) > before, "a task is done", within=20, log=app.log)
    assert outcomes(app)[-1] == "good"
    assert who_does_tasks(app) != old


def test_a_stuck_mule_is_ended_where_that_is_allowed_and_the_worker_is_cured_as_ever(stage: Stage) -> None:
    mongod = stage.mongod()
    app = with_tasks(stage, mongod.uri, *MULE)
    watchdog = stage.watchdog(mongod.uri, app, limits=ALLOWED)
    (mule,) = mules_of(watchdog)
    assert (mule["role"], mule["pid"]) == ("mule", who_does_tasks(app))
    strand_all(mongod, app)
    with tasks(app):
        app.get("/")
        watchdog.wait_event("mule_ended", within=CURED_WITHIN_S)
        watchdog.wait_event("mule_renewed", within=CURED_WITHIN_S)
        app.get("/")
        watchdog.wait_event("recovered", within=CURED_WITHIN_S)
    (ended,) = watchdog.events("mule_ended")
    assert int(ended.fields["pid"]) == mule["pid"]
    (renewed,) = watchdog.events("mule_renewed")
    assert "with a connection to MongoDB; whether tasks succeed is not seen" in renewed.sentence
    assert [one.fields["command"] for one in watchdog.events("reload_sent")] == ["w"]
    assert watchdog.order("mule_stuck", "mule_left", "reload_failed", "gave_up") == ["mule_stuck"]
    good_again(app, mule["pid"])
    assert not all_good(app)
    assert watchdog.wait_state("watching", within=20)["incident"] is None


def test_a_stuck_spooler_is_ended_and_the_worker_that_only_enqueues_is_left_alone(stage: Stage) -> None:
    mongod = stage.mongod()
    app = with_tasks(stage, mongod.uri, *SPOOLER, warm=False)
    workers = app.workers()
    watchdog = stage.watchdog(mongod.uri, app, limits=ALLOWED)
    (spooler,) = mules_of(watchdog)
    assert spooler["role"] == "spooler"
    mongod.stop()
    fail_a_task(app)
    mongod.start()
    with tasks(app):
        watchdog.wait_event("mule_ended", within=CURED_WITHIN_S)
        assert watchdog.instance()["workers"][0]["verdict"] == "bystander"
        watchdog.wait_event("mule_renewed", within=CURED_WITHIN_S)
    assert watchdog.order(*EVENTS) == ["mule_stuck", "mule_ended", "mule_renewed"]
    good_again(app, spooler["pid"])
    eventually(lambda: not list((app.folder / "spool").glob("*spoolfile*")), "no task is left over", within=20)
    assert watchdog.wait_state("watching", within=20)["incident"] is None
    assert not watchdog.order("reload_due", "reload_sent", "reload_failed", "gave_up", "healed")
    assert app.workers() == workers


def test_where_nothing_is_allowed_the_mule_is_told_and_recovered_does_not_claim_it(stage: Stage) -> None:
    mongod = stage.mongod()
    app = with_tasks(stage, mongod.uri, *MULE)
    watchdog = stage.watchdog(mongod.uri, app)
    (mule,) = mules_of(watchdog)
    strand_all(mongod, app)
    with tasks(app):
        app.get("/")
        watchdog.wait_event("reloaded", within=CURED_WITHIN_S)
        assert app.get("/").good
        recovered = watchdog.wait_event("recovered", within=CURED_WITHIN_S)
        held = watchdog.wait_event("reload_held", within=CURED_WITHIN_S)
        assert watchdog.tells_none("mule_ended", "healed", "reload_sent", seconds=5)
    assert f"mule {mule['pid']} is not cured by that, and still stuck" in recovered.sentence
    assert held.fields["blocked_by"].startswith("not_allowed")
    assert "add mules to reloads of shop" in held.sentence.replace("`", "")
    assert [one.fields["command"] for one in watchdog.events("reload_sent")] == ["w"]
    assert watchdog.order(*EVENTS) == ["mule_stuck"]
    one = watchdog.instance()
    assert one["incident"] == recovered.fields["incident"]
    assert [evidence["pid"] for evidence in one["evidence"]] == [mule["pid"]]
    shown = watchdog.run("status")
    assert shown.returncode == 1
    assert f"mule {mule['pid']}: stranded, 2 leftovers" in shown.stdout
    rows = [row for row in watchdog.run("connections").stdout.splitlines() if str(mule["pid"]) in row]
    assert rows
    assert not [row for row in rows if "harms no request" in row or "only a restart" in row]


def test_where_a_restart_is_allowed_it_cures_mule_and_worker(stage: Stage) -> None:
    mongod = stage.mongod()
    app = with_tasks(stage, mongod.uri, *MULE)
    watchdog = stage.watchdog(mongod.uri, app, limits={"reloads": ["workers", "chain", "restart"]})
    (mule,) = mules_of(watchdog)
    mongod.stop()
    fail_a_task(app)
    mongod.start()
    with tasks(app):
        watchdog.wait_event("reloaded", within=CURED_WITHIN_S)
    good_again(app, mule["pid"])
    assert not all_good(app)
    watchdog.wait_event("recovered", within=CURED_WITHIN_S)
    assert [one.fields["command"] for one in watchdog.events("reload_sent")] == ["r"]
    assert restarted(app) == 1
    assert not watchdog.order("mule_ended", "reload_failed", "gave_up")


def test_a_hung_mule_is_ended_like_a_hung_worker(stage: Stage) -> None:
    mongod = stage.mongod()
    with Hang(stage.folder / "shop") as hang:
        app = with_tasks(stage, mongod.uri, *MULE, *BESIDE)
        watchdog = stage.watchdog(mongod.uri, app)
        hung = hang.mule_of(app, who_does_tasks(app))
        ended = watchdog.wait_event("hung_ended", within=CURED_WITHIN_S)
        assert int(ended.fields["pid"]) == hung
        assert watchdog.events("hung_found")[0].fields["process"] == f"mule {hung}"
        good_again(app, hung)


@pytest.mark.parametrize("client", [App.FIRST_REQUEST, App.IMPORT_CLIENT])
def test_a_mule_that_heals_is_left_alone(stage: Stage, client: App) -> None:
    """Its client is its own, made in it: by its first task, or by the app that it imports itself (`lazy-apps`)."""
    mongod = stage.mongod()
    app = with_tasks(stage, mongod.uri, *MULE, app=client, lazy_apps=client is App.IMPORT_CLIENT)
    watchdog = stage.watchdog(mongod.uri, app, limits=ALLOWED)
    mule = who_does_tasks(app)
    with tasks(app):
        mongod.stop()
        fail_a_task(app)
        mongod.start()
        eventually(lambda: outcomes(app)[-1:] == ["good"], "tasks are good again", within=30)
        watchdog.wait_event("healed", within=CURED_WITHIN_S)
        assert watchdog.tells_none(*EVENTS, "reload_due", seconds=3)
    assert who_does_tasks(app) == mule
    assert not watchdog.order(*EVENTS, "hung_ended", "reload_sent")
