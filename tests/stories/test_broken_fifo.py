import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from rig.traffic import Traffic
from rig.uwsgi import Uwsgi
from tests.stories.stage import LINGER_S, Stage, cured_once, respawned, strand

NOBODY = 65534


def removed(fifo: Path) -> None:
    fifo.unlink()


def a_regular_file(fifo: Path) -> None:
    fifo.unlink()
    fifo.write_text("w")  # what `echo w > fifo` leaves behind


def a_link(fifo: Path) -> None:
    fifo.unlink()
    fifo.symlink_to(fifo.with_name("elsewhere"))
    os.mkfifo(fifo.with_name("elsewhere"))


def without_a_reader(fifo: Path) -> None:
    fifo.unlink()
    os.mkfifo(fifo)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(removed, "is gone"), (a_regular_file, "no FIFO"), (a_link, "FIFO"), (without_a_reader, "another FIFO")],
    ids=["removed", "regular-file", "link", "no-reader"],
)
def test_a_fifo_that_is_not_the_masters_holds_the_reload_until_it_is_mended(
    stage: Stage, spoil: Callable[[Path], None], says: str
) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app)
    master, workers = app.master, app.workers()
    spoil(app.fifo)
    strand(mongod, app)
    with Traffic(app.address):
        held = watchdog.wait_event("reload_held", within=LINGER_S + 30)
        assert held.fields["blocked_by"] == "fifo"
        assert says in held.sentence
        assert watchdog.tells_none("reload_sent", seconds=LINGER_S)
        assert (app.master, app.workers(), respawned(app)) == (master, workers, 0)

        # The mend that the reason names is a restart, which cures the app too.
        assert f"`kill -HUP {master}`" in held.sentence
        os.kill(master, signal.SIGHUP)
        ended = watchdog.wait_event("healed", within=60)
        assert ended.fields["incident"] == held.fields["incident"]
        assert app.wait_ready(other_than=workers)  # with a FIFO at the path
    assert not watchdog.events("reload_sent")
    assert app.master == master


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_fifo_of_another_owner_is_refused_until_it_is_mended(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app)
    workers = app.workers()
    os.chown(app.fifo, NOBODY, -1)
    strand(mongod, app)
    with Traffic(app.address):
        unsent = watchdog.wait_event("reload_unsent", within=LINGER_S + 30)
        assert f"uid {NOBODY}" in unsent.sentence
        assert not watchdog.events("reload_sent")
        assert (app.workers(), respawned(app)) == (workers, 0)

        os.chown(app.fifo, os.geteuid(), -1)
        watchdog.wait_event("recovered", within=60)
    assert [told.fields["command"] for told in watchdog.events("reload_sent")] == ["w"]
    assert respawned(app) == len(workers)


def test_a_link_of_its_own_user_to_the_fifo_is_as_good_as_the_fifo(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    link = app.folder / "link"
    link.symlink_to(app.fifo)
    watchdog = stage.watchdog(mongod.uri, app, instances={"shop": link})
    strand(mongod, app)
    with Traffic(app.address):
        cured_once(watchdog, app)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a link away")
def test_a_link_of_somebody_else_holds_everything_until_its_line_is_added(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    link = app.folder / "link"
    link.symlink_to(app.fifo)
    os.lchown(link, NOBODY, -1)
    watchdog = stage.watchdog(mongod.uri, app, instances={"shop": link})
    workers = app.workers()
    blind = watchdog.wait_event("blind", within=20)
    assert f"{link} is a symbolic link of nobody" in blind.sentence
    assert "`trust_owners: [nobody]`" in blind.sentence
    strand(mongod, app)
    with Traffic(app.address):
        assert watchdog.tells_none("reload_sent", seconds=2 * LINGER_S)
        assert (app.workers(), respawned(app)) == (workers, 0)
        assert watchdog.instance()["workers"] == []
        watchdog.limits = {**watchdog.limits, "trust_owners": ["nobody"]}
        watchdog.write()
        assert watchdog.run("reconfigure").returncode == 0
        watchdog.wait_event("recovered", "shop", within=60)
    assert respawned(app) == len(workers)


def test_an_instance_whose_fifo_never_was_there_is_absent_until_it_is_started(stage: Stage) -> None:
    mongod = stage.mongod()
    app = Uwsgi(stage.folder / "shop", mongod.uri, heartbeat_ms=1000, selection_ms=1000)
    watchdog = stage.watchdog(mongod.uri, app)
    absent = watchdog.wait_event("instance_absent", "shop", within=20)
    assert str(app.fifo) in absent.sentence
    assert watchdog.instance()["state"] == "absent"

    stage.apps.append(app)
    stage.stack.enter_context(app)
    watchdog.wait_event("instance_back", "shop", within=30)
    strand(mongod, app)
    with Traffic(app.address):
        cured_once(watchdog, app)
