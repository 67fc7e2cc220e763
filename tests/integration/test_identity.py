"""Who an instance is, on real masters whose folders have the same name. Needs root, as tests/integration/masters.py."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.integration.masters import ANNA, Site, Uwsgi, Watch
from watchdogd.core.claims import claimed
from watchdogd.model.base import InstanceId, ProcessId
from watchdogd.model.remembered import InstanceState, Spent, State
from watchdogd.model.seen import Snapshot
from watchdogd.service.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start what other users run")

NOW, WALL = 5000.0, 1795341600.0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, stack)


def folder(path: Path, which: str) -> str:
    """Where an instance called `shop` is; what else runs on this machine may have any name, but not this one."""
    return f"{path.name}-{which}/shop"


def names(snapshot: Snapshot, *apps: Uwsgi) -> dict[str, str]:
    """What these are called, by their FIFOs; others on this machine have names, too."""
    fifos = {str(app.fifo) for app in apps}
    return {one.fifo: one.name for one in snapshot.instances if one.fifo in fifos}


def test_names_and_memory_stay_with_their_fifos_whatever_is_found_first(site: Site, tmp_path: Path) -> None:
    """The first edition called the first one `shop`, the second `shop-2`; after its next start it was the other way."""
    b = site.app(folder(tmp_path, "b"), ANNA)
    watch = Watch(None)
    watch.ready(b.fifo, b)
    a = site.app(folder(tmp_path, "a"), ANNA)  # found later, and sorted before
    watch.ready(a.fifo, a)
    before = watch.look()
    master = watch.ready(b.fifo, b).master
    reloaded = InstanceState(spent=(Spent(NOW),), master=master)
    with closing(Store(tmp_path / "state")) as store:
        store.save(State({InstanceId(str(b.fifo)): reloaded}), (), NOW, WALL)

    again = Watch(None)
    again.ready(a.fifo, a)
    assert names(again.look(), a, b) == names(before, a, b)
    assert len(set(names(before, a, b).values())) == 2
    with closing(Store(tmp_path / "state")) as store:
        state = claimed(store.load(NOW, WALL).state, again.look())
    assert state.instances == {InstanceId(str(b.fifo)): reloaded}


def test_what_the_first_edition_remembered_goes_to_the_master_that_it_reloaded(site: Site) -> None:
    a, b = site.app("a/shop", ANNA), site.app("b/shop", ANNA)
    watch = Watch(None)
    master = watch.ready(b.fifo, b).master
    watch.ready(a.fifo, a)
    ours = tuple([one for one in watch.look().instances if one.fifo in {str(a.fifo), str(b.fifo)}])
    reloaded, quiet = InstanceState(spent=(Spent(NOW),), master=master), InstanceState(master=ProcessId(1, 1))
    for first, second in ((reloaded, quiet), (quiet, reloaded)):
        state = claimed(State(unclaimed={"shop": first, "shop-2": second}), Snapshot(NOW, WALL, instances=ours))
        assert state.instances == {InstanceId(str(a.fifo)): quiet, InstanceId(str(b.fifo)): reloaded}
