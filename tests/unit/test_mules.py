"""Mules and spoolers: what they are, when one is stuck, and what comes of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.world.cases import case
from tests.world.pieces import (
    AT,
    BACK,
    FIRST,
    connection,
    exactly,
    find,
    instance,
    leftover,
    member,
    mule,
    pid,
    pids,
    snapshot,
    stranded,
    well,
    worker,
)
from tests.world.pieces import config as config_of
from tests.world.ticks import Ticks
from watchdogd.config import Mode
from watchdogd.core.case import RENEWED_WITHIN_S
from watchdogd.core.due import due, for_an_operator, hopeless, mules_to_end
from watchdogd.core.ends import AGAIN_S, ROUNDS, ROUNDS_IN_S
from watchdogd.core.evidence.unconnected import USED_UNPROVEN_S
from watchdogd.handlers import is_master
from watchdogd.model.base import CHAIN, MULES, RESTART, WORKERS, Way
from watchdogd.model.done import EndProcess, Outcome, Result, Stuck
from watchdogd.model.found import Cure, Evidence, Kind, Verdict
from watchdogd.model.remembered import (
    AskedMule,
    InstanceState,
    MuleEnds,
    Phase,
    Reload,
    ReloadOutcome,
    Stand,
    Standing,
)
from watchdogd.model.seen import Connection, Hang, Hung, Instance, Mule, Role, Verb, Worker
from watchdogd.model.told import Event
from watchdogd.observe.roles import role
from watchdogd.report.events import sentence

ALLOWED: tuple[Way, ...] = (WORKERS, CHAIN, MULES)
LEFT = leftover(2, 5, shared=True)  # by the worker and by the mule
SAFE = connection(1)  # of the master: its monitor runs


# -- what they are, by the handlers that were measured (uWSGI 2.0.30)


@pytest.mark.parametrize(
    ("caught", "what"),
    [
        (0x08085E83, Role.READY),
        (0x4487, Role.MULE),
        (0x100004487, Role.MULE),  # with a signal of glibc's
        (0x4682, Role.SPOOLER),  # before its first task
        (0x4686, Role.SPOOLER),
        (0x4486, Role.OTHER),  # the routers http, fast and raw
        (0x10002, Role.OTHER),  # the shell of an attached daemon, or of cron
        (0x44EF, Role.MULE),  # with Python's faulthandler: ABRT, BUS and ILL too
        (0x46EA, Role.SPOOLER),
        (0x44EE, Role.OTHER),  # the http router where the app has it in the master
        (0x4002, Role.OTHER),
        (0, Role.OTHER),
    ],
)
def test_what_a_child_of_a_master_is_shows_by_its_handlers(caught: int, what: Role) -> None:
    assert role(caught, forked=True) is what
    assert not is_master(caught)


@pytest.mark.parametrize("caught", [0x4487, 0x4682, 0x44EF])
def test_a_program_that_uwsgi_has_attached_is_no_mule_whatever_it_handles(caught: int) -> None:
    assert role(caught, forked=False) is Role.OTHER


def test_a_worker_that_has_executed_uwsgi_anew_is_one() -> None:
    assert role(0x08085E83, forked=False) is Role.READY


def test_a_master_is_no_mule_and_no_spooler() -> None:
    assert is_master(0x84687)
    assert role(0x84687, forked=True) is Role.OTHER


# -- who is stuck


def found_of(one: Mule, *connections: Connection, workers: Iterable[Worker] = (), **policy: Any) -> list[Evidence]:  # noqa: ANN401
    held = connections or (LEFT, SAFE)
    seen = find(snapshot(instance(*(workers or [well(2)]), mules=(one,)), *held), **policy)
    return [evidence for evidence in seen.evidence if evidence.kind is Kind.MULE]


def test_a_mule_that_has_had_tasks_and_holds_only_what_the_outage_ended_is_stuck() -> None:
    (found,) = found_of(mule(5))
    assert found.worker == pid(5)
    assert found.ripe_at == BACK + 15
    assert found.cure is Cure.END
    assert found.deployments == {"main"}
    assert found.sentence.startswith("mule 5 has had tasks")
    (found,) = found_of(mule(5, Role.SPOOLER))
    assert found.sentence.startswith("spooler 5 has had tasks")


@pytest.mark.parametrize(
    "one",
    [
        mule(5, used=None),  # nobody knows whether there will be any task
        mule(5, reconnected=frozenset({FIRST})),
        mule(5, owned=False),  # it may never use MongoDB
        mule(5, monitored_at={"main": AT}),
    ],
)
def test_one_that_is_idle_or_has_reconnected_or_never_used_mongodb_is_not(one: Mule) -> None:
    assert found_of(one) == []


def test_one_without_a_leftover_is_not() -> None:
    assert found_of(mule(5), leftover(2), SAFE) == []


def test_a_task_that_waits_for_a_server_shows_that_it_uses_mongodb() -> None:
    assert found_of(mule(5, owned=False, waited=True))


def test_it_ripens_after_its_first_task_too() -> None:
    (found,) = found_of(mule(5, used=exactly(AT)))
    assert found.ripe_at == AT + 2.0


def test_what_the_mule_alone_holds_is_a_leftover_too() -> None:
    assert found_of(mule(5), leftover(5, shared=True), SAFE)


# -- the worker that only hands tasks over


def verdict(one: Worker, **changes: Any) -> Verdict:  # noqa: ANN401
    return find(snapshot(instance(one, **changes), LEFT, SAFE)).verdicts[one.id]


@pytest.mark.parametrize("one", [stranded(2), worker(2)])
def test_a_worker_that_was_never_seen_to_use_mongodb_is_a_bystander_where_there_are_mules(one: Worker) -> None:
    assert verdict(one, mules=(mule(5),)) is Verdict.BYSTANDER
    assert verdict(one, had_mules=True) is Verdict.BYSTANDER  # while uWSGI makes the only one anew
    seen = find(snapshot(instance(one, mules=(mule(5),)), LEFT, SAFE))
    assert not [found for found in seen.evidence if found.kind in {Kind.LEFTOVER, Kind.UNCONNECTED}]


@pytest.mark.parametrize("one", [replace(stranded(2), owned=True), replace(stranded(2), waited=True)])
def test_one_that_was_is_decided_as_ever(one: Worker) -> None:
    assert verdict(one, mules=(mule(5),)) is Verdict.STRANDED
    assert verdict(replace(one, used=None), mules=(mule(5),)) is Verdict.IDLE


def test_without_mules_nobody_is_a_bystander() -> None:
    assert verdict(stranded(2)) is Verdict.STRANDED
    assert verdict(worker(2)) is Verdict.IDLE
    seen = find(snapshot(instance(stranded(2)), SAFE))
    assert [found.kind for found in seen.evidence] == [Kind.UNCONNECTED]


# -- which cure

STUCK_WORKER = replace(stranded(2), owned=True)


def due_of(
    *reloads: Way,
    workers: Iterable[Worker] = (well(2),),
    state: InstanceState | None = None,
    **changes: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    one = instance(*workers, mules=(mule(5),), **changes)
    return case(snapshot(one, LEFT, SAFE), state or InstanceState(), config_of(reloads))


@pytest.mark.parametrize(
    ("reloads", "command", "by_end"),
    [
        ((WORKERS, CHAIN, MULES), CHAIN, True),
        ((WORKERS, CHAIN, MULES, RESTART), CHAIN, True),  # least harm
        ((WORKERS, CHAIN, RESTART), RESTART, False),
        ((WORKERS, CHAIN), RESTART, False),  # which a gate holds
    ],
)
def test_a_mule_alone_is_ended_where_that_is_allowed_else_only_a_restart_helps(
    reloads: tuple[Way, ...], command: Way, by_end: bool
) -> None:
    c = due_of(*reloads, workers=[well(2), well(3)])
    found = due(c)
    assert (found.command, found.by_end, found.at) == (command, by_end, BACK + 15)
    assert [one.worker for one in mules_to_end(c)] == ([pid(5)] if by_end else [])


@pytest.mark.parametrize(
    ("reloads", "command"),
    [
        ((WORKERS, MULES), WORKERS),
        ((WORKERS, MULES, RESTART), WORKERS),
        ((WORKERS,), WORKERS),
        ((WORKERS, RESTART), RESTART),
    ],
)
def test_a_worker_beside_it_gets_its_own_cure_but_for_a_restart_that_cures_both(
    reloads: tuple[Way, ...], command: Way
) -> None:
    found = due(due_of(*reloads, workers=[STUCK_WORKER]))
    assert (found.command, found.by_end) == (command, False)
    kinds = {one.kind for one in found.evidence}
    assert kinds == ({Kind.LEFTOVER, Kind.MULE} if command is RESTART else {Kind.LEFTOVER})


def test_a_restart_that_would_end_uwsgi_is_none_for_a_mule() -> None:
    c = due_of(WORKERS, RESTART, workers=[STUCK_WORKER], no_restart="it is a zergling")
    assert due(c).command is WORKERS


def test_an_operators_reload_is_of_the_workers_where_no_restart_is_allowed() -> None:
    assert for_an_operator(due_of(WORKERS, CHAIN, workers=[well(2), well(3)]), restart=False) is CHAIN
    assert for_an_operator(due_of(WORKERS, RESTART), restart=False) is RESTART


def test_a_second_restart_for_the_same_life_of_mongodb_is_hopeless() -> None:
    state = InstanceState(mules=MuleEnds(restarted=frozenset({FIRST})))
    assert "a restart of the stack has not helped" in (hopeless(due_of(RESTART, state=state)) or "")
    assert hopeless(due_of(RESTART)) is None


# -- from tick to tick


@dataclass
class Shop(Ticks):
    """An app with a stuck mule, and what becomes of it. `sent_to_end`: the processes, of all ticks."""

    workers: tuple[Worker, ...] = (well(2),)
    mules: tuple[Mule, ...] = (mule(5),)
    left: Connection = LEFT
    safe: bool = True
    ended: list[EndProcess] = field(default_factory=list)
    outcome: Result | None = Result.ENDED

    def tick(self, after: float = 1.0, **changes: Any) -> list[Event]:  # noqa: ANN401
        """What is told; what is to be ended gets its outcome at the next tick."""
        shown = {key: changes.pop(key) for key in ("ask", "blind", "members") if key in changes}
        alive = {one.id for one in (*self.workers, *self.mules)}
        left = replace(self.left, holders=self.left.holders & alive)
        held = (*([left] if left.holders else []), *([SAFE] if self.safe else []))
        one = instance(*self.workers, mules=self.mules, had_mules=True, **changes)
        told = self.see(one, *held, after=after, **shown)
        now = self.ends
        self.ended += now
        if self.outcome:
            self.outcomes = tuple(Outcome(one.id, self.outcome, self.at, self.detail, one.process) for one in now)
            if self.outcome is Result.ENDED:
                gone = {one.process for one in now}
                self.mules = tuple([one for one in self.mules if one.id not in gone])
        return told

    @property
    def ends(self) -> list[EndProcess]:
        assert self.decision
        return [effect for effect in self.decision.effects if isinstance(effect, EndProcess)]

    def fields(self, event: Event) -> dict[str, Any]:
        return next(tell.fields for tell in self.tells if tell.event is event)


def shop(*reloads: Way, **settings: Any) -> Shop:  # noqa: ANN401
    return Shop(config_of(reloads or ALLOWED), **settings)


NEW = mule(6, ready_since=exactly(AT + 1), used=None, owned=False)
GOOD = replace(NEW, used=exactly(AT + 3), owned=True, reconnected=frozenset({FIRST}))


def test_it_is_told_and_ended_and_the_incident_is_over_once_the_new_one_reaches_mongodb() -> None:
    s = shop()
    assert s.tick() == [Event.MULE_STUCK]
    assert s.fields(Event.MULE_STUCK)["mule"] == "mule 5"
    (end,) = s.ends
    assert (end.process, end.master, end.stuck) == (pid(5), pid(1), Stuck("mule", frozenset({LEFT.inode})))
    assert s.phase() is Phase.DUE
    incident = s.shop.incident
    assert incident

    assert s.tick() == [Event.MULE_ENDED]
    assert s.phase() is Phase.SETTLING
    assert s.outlook.next_what == "a task of the new mule to show that it reaches MongoDB"
    s.mules = (NEW,)
    assert s.tick() == []
    s.mules = (GOOD,)
    assert s.tick() == [Event.MULE_RENEWED]
    assert s.fields(Event.MULE_RENEWED) == {"mules": "mule 6", "reached": True}
    assert s.tells[0].incident == incident.id
    assert s.shop.incident is None
    assert s.tick() == []
    assert s.phase() is Phase.WATCHING
    assert s.shop.last is None


def test_a_new_one_without_a_task_is_not_called_well() -> None:
    s = shop()
    s.tick()
    s.tick()
    s.mules = (NEW,)
    s.tick(RENEWED_WITHIN_S - 1)
    assert s.shop.incident
    assert s.tick() == [Event.MULE_RENEWED]
    assert s.fields(Event.MULE_RENEWED)["reached"] is False
    assert s.shop.incident is None


@pytest.mark.parametrize(
    ("mules", "why"),
    [((), "has made no new one"), ((replace(NEW, waited=True),), "mule 6, made in its place, waits for")],
)
def test_where_no_new_one_comes_or_it_finds_no_server_that_is_told(mules: tuple[Mule, ...], why: str) -> None:
    s = shop()
    s.tick()
    s.tick()
    s.mules = mules
    assert s.tick(RENEWED_WITHIN_S) == [Event.MULE_LEFT]
    assert why in s.fields(Event.MULE_LEFT)["reason"]


def test_two_that_are_stuck_are_one_round() -> None:
    s = shop(mules=(mule(5), mule(7, Role.SPOOLER)))
    s.tick()
    assert [end.process for end in s.ends] == [pid(5)]  # who holds nothing is none
    s = shop(mules=(mule(5), mule(2, Role.SPOOLER)), workers=(well(3),))
    s.tick()
    assert [(end.process, end.stuck and end.stuck.role) for end in s.ended] == [(pid(5), "mule"), (pid(2), "spooler")]
    assert s.tick() == [Event.MULE_ENDED, Event.MULE_ENDED]
    assert len(s.shop.mules.rounds) == 1


def test_after_three_rounds_it_is_told_and_not_ended() -> None:
    s = shop(left=leftover(2, 10, 11, 12, 13))
    for number in range(ROUNDS):
        s.mules = (mule(10 + number),)
        s.tick()
        assert len(s.ended) == number + 1
        s.tick()
    s.mules = (mule(13),)
    assert s.tick() == [Event.MULE_STUCK, Event.MULE_LEFT]
    assert "3 rounds in 10 min have not helped" in s.fields(Event.MULE_LEFT)["reason"]
    assert len(s.ended) == ROUNDS
    assert [one.gate for one in s.outlook.blocked_by] == ["rounds"]
    s.tick(ROUNDS_IN_S)
    assert len(s.ended) == ROUNDS + 1


def test_one_that_may_not_be_ended_is_told_once_and_asked_again_later() -> None:
    s = shop(outcome=Result.REFUSED, detail="nobody may")
    s.tick()
    assert s.tick() == [Event.MULE_LEFT]
    assert s.fields(Event.MULE_LEFT)["reason"] == "nobody may"
    assert s.tick() == []
    assert len(s.ended) == 1
    assert s.phase() is Phase.DUE
    assert s.tick(AGAIN_S) == []
    assert len(s.ended) == 2
    assert s.tick() == []


@pytest.mark.parametrize("result", [Result.CHANGED, Result.TRY_AGAIN])
def test_what_has_changed_at_the_last_look_is_looked_at_again(result: Result) -> None:
    s = shop(outcome=result, detail="it was just running")
    assert s.tick() == [Event.MULE_STUCK]
    assert s.tick(0) == []
    assert len(s.ended) == 1  # not at once: a tick follows each outcome
    assert s.tick() == []
    assert len(s.ended) == 2
    assert s.shop.mules.rounds == ()
    assert s.tick(0) == [Event.MULE_LEFT]  # twice running: it lasts
    assert s.fields(Event.MULE_LEFT)["reason"] == "it was just running"
    s.tick()
    assert len(s.ended) == 2
    s.tick(AGAIN_S)
    assert len(s.ended) == 3


def test_a_daemon_that_was_killed_before_the_outcome_came_sees_by_its_absence_that_it_ended() -> None:
    s = shop(outcome=None)
    s.tick()
    s.mules = ()
    assert s.tick() == [Event.MULE_ENDED]
    assert len(s.shop.mules.rounds) == 1


@pytest.mark.parametrize(
    ("changes", "config", "gate"),
    [
        ({"blind": "sockets"}, {}, "blind"),
        ({}, {"mode": Mode.OBSERVE}, "mode"),
        ({"ask": Verb.PAUSE}, {}, "paused"),
        ({"held_by_master": frozenset({"main"})}, {}, "fork_unsafe"),
    ],
)
def test_what_holds_a_reload_holds_the_end(changes: dict[str, Any], config: dict[str, Any], gate: str) -> None:
    s = shop(safe=gate != "fork_unsafe")
    s.config = replace(s.config, **config)
    told = s.tick(**changes)
    assert s.ended == []
    assert gate in [one.gate for one in s.outlook.blocked_by]
    assert Event.MULE_STUCK in told or gate == "blind"


def test_it_is_not_ended_while_a_reload_is_in_flight_nor_while_mongodb_does_not_serve() -> None:
    s = shop(workers=(STUCK_WORKER,), outcome=Result.CHANGED)
    s.tick()
    s.mules = ()
    s.tick()
    assert s.sent
    s.mules = (mule(5),)
    s.ended.clear()
    s.tick()
    assert s.phase() is Phase.RELOADING
    assert s.ended == []


def test_the_worker_beside_it_is_cured_in_the_tick_after() -> None:
    s = shop(workers=(STUCK_WORKER,))
    s.tick()
    assert s.ended
    assert s.sent is None  # the new mule looks like a worker that is loading, for an instant
    s.tick()
    assert s.sent
    assert s.sent.command is WORKERS


def test_where_nothing_is_allowed_it_is_told_with_the_line_to_add_and_the_incident_stays() -> None:
    s = shop(WORKERS, CHAIN)
    told = s.tick()
    assert told == [Event.RELOAD_DUE, Event.MULE_STUCK, Event.RELOAD_HELD]
    reason = s.fields(Event.RELOAD_HELD)["reason"]
    assert "mule 5 has had tasks" in reason
    assert "add `mules` to `reloads` of shop to have it ended, or restart uWSGI yourself" in reason
    assert s.tick() == []
    assert s.ended == []
    assert s.sent is None
    assert s.shop.incident
    assert s.phase() is Phase.DUE


def test_a_restart_is_sent_once_for_it_where_that_is_allowed_and_proven_by_the_mule() -> None:
    s = shop(WORKERS, RESTART, workers=(replace(worker(2), used=exactly(BACK + 1)),))  # which only hands tasks over
    s.tick()
    assert s.sent
    assert s.sent.command is RESTART
    assert s.shop.reload
    assert s.shop.reload.because == {Kind.MULE}
    s.workers, s.mules = (worker(3, ready=AT + 1),), (NEW,)
    assert Event.RELOADED in [*s.tick(), *s.tick()]
    s.workers = (replace(worker(3, ready=AT + 1), used=exactly(AT + 3)),)
    assert s.tick(USED_UNPROVEN_S + 10) == []
    s.mules = (GOOD,)
    assert s.tick() == [Event.RECOVERED]
    assert "what does its tasks has connections; whether they succeed is not seen" in sentence(s.tells[0])
    assert "worker" not in sentence(s.tells[0])
    assert s.shop.incident is None


def test_a_restart_after_which_a_mule_is_stuck_again_is_given_up() -> None:
    s = shop(WORKERS, RESTART)
    s.tick()
    s.workers, s.mules = (replace(well(3), ready_since=exactly(AT + 1)),), ()
    s.tick()
    s.tick()
    assert s.phase() is Phase.VERIFYING
    s.mules = (mule(5),)
    assert s.tick() == [Event.RELOAD_FAILED, Event.GAVE_UP, Event.MULE_STUCK]


def test_recovered_names_the_mule_that_is_still_stuck_and_leaves_the_incident_open() -> None:
    reload = Reload(
        "r", WORKERS, pid(1), pids(3), frozenset({7}), frozenset({FIRST}), AT - 9, AT, AT, 1, AT - 8, AT - 5
    )
    s = shop(WORKERS, CHAIN)
    s.tick()
    incident = s.shop.incident
    state = replace(s.shop, reload=reload, phase=Phase.VERIFYING)
    s.state = replace(s.state, instances=dict.fromkeys(s.state.instances, state))
    told = s.tick()
    assert told[0] is Event.RECOVERED
    assert s.fields(Event.RECOVERED)["mules"] == "mule 5"
    assert "whether requests succeed is not seen; mule 5 is not cured" in sentence(s.tells[0])
    assert s.shop.incident == incident
    assert Event.HEALED not in told
    assert s.shop.last is None or s.shop.last.outcome is ReloadOutcome.RECOVERED


def test_where_the_configuration_says_so_it_is_told_alone() -> None:
    s = Shop(config_of(ALLOWED, tell_only=(Kind.MULE,)))
    assert s.tick() == [Event.MULE_STUCK]
    assert s.ended == []
    assert s.phase() is Phase.WATCHING


def test_an_outage_ends_the_wait_for_the_new_one() -> None:
    s = shop()
    s.tick()
    s.tick()
    assert list(s.shop.mules.ended) == [AskedMule(pid(5), "mule")]
    s.tick(members=[replace(member(), is_serving=False)])
    assert list(s.shop.mules.ended) == []


def test_an_app_is_well_when_those_who_use_mongodb_reach_it_be_they_mules_alone() -> None:
    hands_over = replace(worker(2), used=exactly(BACK + 1))

    def is_well(one: Mule) -> bool:
        return case(snapshot(instance(hands_over, mules=(one,)), LEFT, SAFE)).well

    assert is_well(GOOD)
    assert not is_well(mule(5))  # stuck
    assert not is_well(mule(6))  # holds nothing, and has not connected
    assert not is_well(NEW)  # nobody was seen to use it
    assert not case(snapshot(instance(hands_over), SAFE)).well  # without mules a worker has to reach it


def test_where_it_was_seen_to_be_well_a_restart_may_be_sent_again_for_the_same_life_of_mongodb() -> None:
    s = shop(WORKERS, RESTART, mules=(GOOD,))
    s.tick()
    state = replace(s.shop, mules=MuleEnds(restarted=frozenset({FIRST})), standing=Standing(Stand.DOUBTFUL, AT))
    s.state = replace(s.state, instances=dict.fromkeys(s.state.instances, state))
    s.tick()
    assert s.shop.mules.restarted == frozenset()
    assert s.shop.standing.stand is Stand.FINE


# -- one that hangs


HANGS = mule(5, used=None, owned=False, hung=Hung(Hang.GIL, exactly(AT - 3)))


def test_a_mule_that_hangs_is_ended_like_a_worker_that_hangs() -> None:
    s = shop(WORKERS, CHAIN, mules=(HANGS,))
    assert s.tick() == [Event.HUNG_FOUND]
    assert s.fields(Event.HUNG_FOUND)["process"] == "mule 5"
    (end,) = s.ends
    assert (end.process, end.stuck) == (pid(5), None)
    assert s.tick() == [Event.HUNG_ENDED]


def test_of_a_mule_only_the_gil_is_a_proof() -> None:
    s = shop(mules=(replace(HANGS, hung=Hung(Hang.OWN_CODE, exactly(AT - 3))),))
    assert s.tick() == []
    assert s.ended == []


def test_a_mule_that_hangs_holds_no_reload() -> None:
    one: Instance = instance(well(2), mules=(HANGS,))
    assert case(snapshot(one, SAFE)).not_ready == ""
