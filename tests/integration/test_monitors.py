"""A real step-down: no connection ends, and what tells who is stuck is who has a monitor of its own."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rig.mongod import ReplicaSet
from rig.uwsgi import App, Uwsgi
from tests.integration.looking import Looking, of
from watchdogd.model.seen import Snapshot, Worker
from watchdogd.observe.monitors import SETTLED_S


@pytest.fixture
def at_end() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def only_worker(snapshot: Snapshot, app: Uwsgi) -> Worker:
    (worker,) = of(snapshot, app).workers
    return worker


@pytest.mark.timeout(150)
def test_after_a_step_down_who_made_its_client_itself_is_monitored_and_who_inherited_it_is_single(
    at_end: ExitStack, tmp_path: Path
) -> None:
    replica_set = at_end.enter_context(ReplicaSet(tmp_path / "set"))
    replica_set.wait_primary()
    replica_set.wait_secondaries(2)
    heals = at_end.enter_context(Uwsgi(tmp_path / "heals", replica_set.uri, app=App.FIRST_REQUEST, processes=1))
    inherited = at_end.enter_context(Uwsgi(tmp_path / "inherited", replica_set.uri, processes=1))
    looking = Looking(at_end, replica_set, heals, inherited)
    before = replica_set.wait_primary()
    replica_set.step_down()

    def primary(snapshot: Snapshot) -> float | None:
        for one in snapshot.members.values():
            if one.served_since and one.id.address != f"{before.host}:{before.port}":
                return one.served_since.hi
        return None

    since = looking.until(primary, "another member is primary")
    assert heals.get().good
    assert not inherited.get().good

    def seen(snapshot: Snapshot) -> Worker | None:
        assert only_worker(snapshot, inherited).monitored_at == {}
        worker = only_worker(snapshot, heals)
        return worker if worker.monitored_at else None

    monitored = looking.until(seen, "the one that heals is monitored", every=1.0)
    assert monitored.monitored_at
    assert monitored.monitored_at["main"] >= since + SETTLED_S
    assert not monitored.single
    stuck = only_worker(looking.look(), inherited)
    assert (stuck.single, stuck.owned, stuck.waits is not None) == (True, True, True)
