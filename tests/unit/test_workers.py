"""What readings of processes fold into by themselves: workers, with what is latched of each."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.world.pieces import connection, exactly, leftover, member, pid, pids
from watchdogd.model.base import Endpoint, Incarnation, Interval, Mono
from watchdogd.model.seen import Connection, Member, MemberState, Role, Tcp, Worker
from watchdogd.observe.processes import Process
from watchdogd.observe.workers import READY_SETTLED_S, Workers

MONGOD = Endpoint("10.0.0.1", 27017)
OTHER = Endpoint("10.0.0.2", 27017)
EVER = -math.inf
W = pid(2)
SERVING = member(served_since=Interval(100.0, 101.0))
TO = {MONGOD: [SERVING]}
INCARNATION = SERVING.incarnation
assert INCARNATION is not None


def never(_: Incarnation) -> bool:
    return False


class Seen:
    """Looks at one worker, by its io counter."""

    def __init__(self, role: Role = Role.READY, at: Mono = 50.0) -> None:
        self.workers = Workers()
        self.io, self.at, self.outages = 0, at, 0
        self.look(role, after=0.0)

    def look(self, role: Role = Role.READY, *held: Connection, after: float = 1.0, works: bool = False) -> Worker:
        self.at += after
        self.io += 500 * works
        self.workers.fold([Process(pid(1), Role.MASTER, 0), Process(W, role, self.io)], self.at, self.outages)
        self.workers.connect(held, TO, never)
        (worker,) = self.workers.now()
        return worker


def own(**changes: Any) -> Connection:  # noqa: ANN401 - changes are any fields of the value
    return connection(2, **{"last_data": exactly(110.0), **changes})


def test_a_worker_that_was_ready_before_our_first_look_has_been_so_for_ever_and_its_use_counts_at_once() -> None:
    seen = Seen()
    assert seen.look(after=0.1).ready_since == Interval(EVER, 50.0)
    assert seen.look(after=0.1, works=True).used == Interval(50.1, 50.2)


def test_what_a_worker_does_while_it_loads_and_in_its_first_second_is_no_use() -> None:
    seen = Seen(Role.LOADING)
    assert not seen.look(Role.LOADING, works=True).ready
    worker = seen.look(works=True)
    assert (worker.ready_since, worker.used) == (Interval(51.0, 52.0), None)
    assert seen.look(after=READY_SETTLED_S - 0.1, works=True).used is None
    assert seen.look(after=0.1).used is None
    assert seen.look(after=0.1, works=True).used == Interval(53.0, 53.1)


def test_used_is_a_latch_with_the_time_of_the_first_use() -> None:
    seen = Seen()
    first = seen.look(works=True).used
    for _ in range(3):
        assert seen.look(works=True).used == first


def test_an_outage_begins_it_anew_for_a_worker_that_held_nothing_dead() -> None:
    seen = Seen()
    assert seen.look(works=True).used
    seen.outages += 1
    assert seen.look(works=True).used is None  # what it did before this look was before the outage
    assert seen.look().used is None
    assert seen.look(works=True).used == Interval(53.0, 54.0)


def test_an_outage_leaves_its_mark_to_a_worker_that_was_without_a_connection_already() -> None:
    seen = Seen()
    marked = seen.look(Role.READY, leftover(2), works=True).used
    assert marked
    seen.outages += 1
    assert seen.look(Role.READY, leftover(2)).used == marked


def test_an_outage_begins_it_anew_for_a_worker_that_holds_residue_and_had_reconnected() -> None:
    seen = Seen()
    held = (leftover(2), own())
    assert seen.look(Role.READY, *held, works=True).used
    seen.outages += 1
    assert seen.look(Role.READY, *held).used is None


def test_a_worker_whose_counters_cannot_be_read_is_not_said_to_be_used() -> None:
    workers = Workers()
    for at in (1.0, 2.0, 3.0):
        workers.fold([Process(W, Role.READY, None)], at, 0)
    assert workers.now()[0].used is None


def test_one_that_ended_is_forgotten_and_its_successor_has_no_mark() -> None:
    seen = Seen()
    assert seen.look(Role.READY, own(), works=True).reconnected == {INCARNATION}
    successor = W._replace(start_ticks=99)
    seen.workers.fold([Process(successor, Role.READY, 9)], seen.at + 1, 0)
    assert seen.workers.now() == (Worker(successor, Interval(seen.at, seen.at + 1)),)


def test_masters_routers_and_mules_are_no_workers() -> None:
    workers = Workers()
    workers.fold([Process(pid(1), Role.MASTER, 0), Process(pid(5), Role.OTHER, 0)], 1.0, 0)
    assert workers.now() == ()


def reconnected(*held: Connection, to: Member = SERVING) -> frozenset[Incarnation]:
    workers = Workers()
    workers.fold([Process(W, Role.READY, 0)], 50.0, 0)
    workers.connect(held, {MONGOD: [to]}, never)
    return workers.now()[0].reconnected


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"last_data": Interval(90.0, 100.0)}, True),  # perhaps just when it served again
        ({"last_data": Interval(90.0, 99.9)}, False),
        ({"tcp": Tcp.CLOSE_WAIT}, False),
        ({"tcp": Tcp.DEAD}, False),
        ({"holders": pids(2, 3)}, False),
        ({"holders": frozenset()}, False),
        ({"holders": pids(3)}, False),
        ({"remote": OTHER}, False),
    ],
)
def test_an_own_connection_is_established_held_alone_and_has_had_data_since_the_return(
    changes: dict[str, Any], counts: bool
) -> None:
    assert reconnected(own(**changes)) == ({INCARNATION} if counts else set())


@pytest.mark.parametrize(
    "changes",
    [
        {"state": MemberState.DOWN},
        {"state": MemberState.UNREACHABLE},
        {"is_serving": False},
        {"served_since": None},
        {"incarnation": None},
    ],
)
def test_a_connection_to_a_member_that_does_not_serve_is_no_own_one(changes: dict[str, object]) -> None:
    assert reconnected(own(), to=replace(SERVING, **changes)) == set()  # type: ignore[arg-type]


def test_reconnected_is_a_latch_until_that_life_of_the_member_is_over() -> None:
    workers = Workers()
    workers.fold([Process(W, Role.READY, 0)], 50.0, 0)
    over: Callable[[Incarnation], bool] = never
    workers.connect([own()], TO, over)
    workers.connect([], TO, over)  # the driver closed it when it had nothing to do
    assert workers.now()[0].reconnected == {INCARNATION}
    workers.connect([], TO, lambda one: one == INCARNATION)
    assert workers.now()[0].reconnected == set()
