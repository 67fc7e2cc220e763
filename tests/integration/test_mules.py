"""A real mule and a real spooler: what the observer says of each, in calm and while its instance is suspected."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig import apps
from rig.processes import wait_for
from rig.uwsgi import App, Front, Uwsgi
from tests.integration.masters import Watch, entry
from watchdogd.model.base import InstanceId
from watchdogd.model.seen import Instance, Mule, Role
from watchdogd.observe import procfs
from watchdogd.observe.roles import role

TASKS = Path(apps.__file__).with_name("tasks.py")
WITHIN_S = 20.0

# A loop that waits as pymongo does for a server that it does not find, in steps of 0.5 s.
WAITS = """
import threading
while True:
    threading.Event().wait(0.5)
"""


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Uwsgi]:
    folder = tmp_path / "shop"
    (folder / "spool").mkdir(parents=True)
    waits = folder / "waits.py"
    waits.write_text(WAITS)
    extra = (f"mule = {TASKS}", f"mule = {waits}", "spooler = spool")
    options = {"app": App.NO_CLIENT, "processes": 1, "warm": False, "front": Front.HTTP_ROUTER}
    with Uwsgi(folder, wsgi_file=TASKS, extra=extra, **options) as one:  # type: ignore[arg-type]
        wait_for(lambda: len(one.children()) == 5, "all that it starts", within=WITHIN_S, log=one.log)
        yield one


def seen(watch: Watch) -> Instance:
    return watch.seen("shop")


def roles(instance: Instance) -> list[str]:
    return sorted(mule.role.value for mule in instance.mules)


def test_mules_and_spoolers_are_told_from_workers_and_routers(app: Uwsgi) -> None:
    watch = Watch((entry("shop", app.fifo),))
    wait_for(lambda: roles(seen(watch)) == ["mule", "mule", "spooler"], "all are seen", within=WITHIN_S)
    one = seen(watch)
    assert [worker.id.pid for worker in one.workers] == app.workers()
    assert len(one.others) == 1
    assert all((mule.ready, mule.hung, mule.unjudged) == (True, None, "") for mule in one.mules)


def test_a_mule_that_waits_in_steps_of_half_a_second_is_seen_to_and_the_idle_ones_are_not(app: Uwsgi) -> None:
    watch = Watch((entry("shop", app.fifo),))
    identity = InstanceId(str(app.fifo))

    def waiting() -> list[Mule]:
        time.sleep(1.0)  # looks are a second apart
        (one,) = watch.observer.look(full=True, suspected=[identity]).instances
        assert one.unseen == ""
        return [mule for mule in one.mules if mule.waited]

    (one,) = wait_for(waiting, "the mule that waits is seen", within=WITHIN_S)
    assert (one.role, one.threads) == (Role.MULE, 1)
    waiting()
    assert [mule.id for mule in waiting()] == [one.id]


def test_a_spooler_is_one_before_its_first_task_and_after_it(app: Uwsgi) -> None:
    (spooler,) = [pid for pid in app.children() if _role(pid) is Role.SPOOLER]
    log = app.folder / "tasks.log"
    assert app.get("/task").good
    # The file is there before its line is.
    line = wait_for(lambda: log.read_text() if log.exists() else "", "the task is done", within=WITHIN_S, log=app.log)
    assert _role(spooler) is Role.SPOOLER
    assert line.split()[0] == str(spooler)


def _role(pid: int) -> Role:
    known = procfs.stat(pid)
    assert known
    return role(procfs.caught(procfs.status(pid)), forked=known.forked)


# Has the very handlers of a mule with faulthandler.
ATTACHED = """
import faulthandler, pathlib, signal, sys, time
faulthandler.enable()
for name in ("SIGHUP", "SIGQUIT", "SIGTERM"):
    signal.signal(getattr(signal, name), lambda *_: None)
pathlib.Path(sys.argv[1]).touch()
time.sleep(3600)
"""
WITH_FAULTHANDLER = "import faulthandler; faulthandler.enable()\n"


def test_with_pythons_faulthandler_they_are_told_from_a_program_that_has_it_too(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    (folder / "spool").mkdir(parents=True)
    files = {
        "waits": f"{WITH_FAULTHANDLER}{WAITS}",
        "dumps": f"{WITH_FAULTHANDLER}faulthandler.dump_traceback_later(3600)\n{WAITS}",
        "master": WITH_FAULTHANDLER,
        "attached": ATTACHED,
    }
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    ready = folder / "ready"
    extra = (
        f"mule = {folder}/waits.py",
        f"mule = {folder}/dumps.py",
        f"shared-py-import = {folder}/master.py",
        "spooler = spool",
        f"attach-daemon = exec {sys.executable} {folder}/attached.py {ready}",
    )
    options = {"app": App.NO_CLIENT, "processes": 1, "warm": False, "front": Front.HTTP_ROUTER}
    with Uwsgi(folder, wsgi_file=TASKS, extra=extra, **options) as app:  # type: ignore[arg-type]
        wait_for(ready.exists, "the attached program handles its signals", within=WITHIN_S, log=app.log)
        watch = Watch((entry("shop", app.fifo),))
        wait_for(lambda: roles(seen(watch)) == ["mule", "mule", "spooler"], "all are seen", within=WITHIN_S)
        one = seen(watch)
        (attached,) = [pid for pid in app.children() if b"attached.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        handlers = {mule.id.pid: procfs.caught(procfs.status(mule.id.pid)) for mule in one.mules}
        assert procfs.caught(procfs.status(attached)) in handlers.values()
        assert attached not in handlers
        assert {pid.pid for pid in one.others} >= {attached}
        assert len(one.others) == 2  # and the router
