"""What an app answers, in the decision: `unanswered`, the gate `answers`, and the proof."""

from dataclasses import replace

import pytest

from tests.world.pieces import (
    AT,
    BACK,
    answering,
    config,
    connection,
    down,
    exactly,
    find,
    instance,
    leftover,
    member,
    monitored,
    mule,
    pid,
    snapshot,
    stranded,
    well,
    worker,
)
from tests.world.ticks import Ticks
from watchdogd.core.case import ANSWERS_FOR_S
from watchdogd.core.evidence.unconnected import USED_UNPROVEN_S
from watchdogd.core.evidence.waiting import OTHERS_S, SINGLE_S
from watchdogd.core.reload import ANSWERED_WITHIN_S
from watchdogd.model.base import Mono
from watchdogd.model.found import Evidence, Kind
from watchdogd.model.remembered import Phase, ReloadOutcome, Stand
from watchdogd.model.seen import Health, Instance, Member, Trust, Verb, Wait, Waits, Worker
from watchdogd.model.told import Event


def silent(number: int, *, threads: int = 1) -> Worker:
    """One of which nothing else is seen."""
    return replace(worker(number), threads=threads)


def found(health: Health, *workers: Worker, **policy: object) -> list[Evidence]:
    one = replace(instance(*(workers or (silent(2), silent(3)))), health=health)
    return [one for one in find(snapshot(one, connection(1)), **policy).evidence if one.kind is Kind.UNANSWERED]


# ---- the evidence


def test_several_bad_answers_are_evidence_of_who_was_not_seen_to_reach_mongodb() -> None:
    evidence = found(answering(AT - 5, bad=2), silent(2), well(3))
    assert [one.worker for one in evidence] == [pid(2)]
    assert evidence[0].ripe_at == pytest.approx(AT - 4.9)
    assert evidence[0].sentence == ("worker 2 has no connection to MongoDB, and 2 of 4 health requests failed (500)")


@pytest.mark.parametrize("trust", [one for one in Trust if one is not Trust.DEPENDENT])
def test_only_of_a_page_that_is_known_to_depend_on_mongodb(trust: Trust) -> None:
    assert not found(answering(AT - 5, bad=4, trust=trust))


@pytest.mark.parametrize(
    "health",
    [
        answering(AT - 5),
        answering(AT - 5, bad=1),
        replace(answering(AT - 5, bad=4), round=None),
    ],
    ids=["all good", "one bad", "one alone, in calm"],
)
def test_less_is_none(health: Health) -> None:
    assert not found(health)


@pytest.mark.parametrize(("threads", "since"), [(1, SINGLE_S), (4, OTHERS_S)])
def test_what_was_asked_right_after_the_return_says_nothing(threads: int, since: float) -> None:
    one = silent(2, threads=threads)
    assert not found(answering(BACK + since - 0.5, bad=4), one)
    assert found(answering(BACK + since, bad=4), one)


def test_not_of_who_is_monitored_loads_or_only_hands_tasks_over() -> None:
    heals = replace(monitored(2), reconnected=frozenset(), monitored_at={"main": AT})
    assert not found(answering(AT - 5, bad=4), heals, worker(3, ready=None))
    one = replace(instance(silent(2)), mules=(mule(9),), health=answering(AT - 5, bad=4))
    assert Kind.UNANSWERED not in {one.kind for one in find(snapshot(one, connection(1))).evidence}


def test_not_while_mongodb_is_away() -> None:
    one = replace(instance(silent(2)), health=answering(AT - 5, bad=4))
    kinds = {one.kind for one in find(snapshot(one, members=[down()])).evidence}
    assert Kind.UNANSWERED not in kinds


# ---- when it counts


def seen(health: Health | None, *workers: Worker) -> Instance:
    return replace(instance(*(workers or (silent(2), silent(3)))), health=health)


def test_a_reload_is_due_at_once_and_does_not_wait_for_linger() -> None:
    ticks = Ticks(at=BACK + 8)
    told = ticks.see(seen(answering(BACK + 6, bad=4)), connection(1, last_data=exactly(BACK + 8)))
    assert told[0] is Event.RELOAD_DUE
    assert ticks.phase() is Phase.RELOADING
    assert ticks.shop.reload
    assert ticks.shop.reload.because == {Kind.UNANSWERED}
    assert "4 of 4 health requests failed (500)" in str(ticks.tells[0].fields["why"])


def test_it_waits_until_a_fork_is_safe() -> None:
    ticks = Ticks(at=BACK + 8)
    one = replace(seen(answering(BACK + 6, bad=4)), held_by_master=frozenset({"main"}))
    ticks.see(one)  # the master has sent nothing yet
    assert ticks.phase() is Phase.DUE
    assert "fork_unsafe" in [one.gate for one in ticks.outlook.blocked_by]
    ticks.see(one, connection(1, since=exactly(BACK + 8), last_data=exactly(BACK + 9)), after=5)
    assert ticks.phase() is Phase.RELOADING


def test_it_can_be_told_alone() -> None:
    only = config(tell_only=(Kind.UNANSWERED,))
    ticks = Ticks(only)
    assert ticks.see(seen(answering(AT - 5, bad=4)), connection(1)) == []
    assert ticks.phase() is Phase.WATCHING


# ---- the gate


HELD = (leftover(2, 3), connection(1))


def test_good_answers_of_a_page_that_depends_on_mongodb_hold_a_reload() -> None:
    ticks = Ticks()
    told = ticks.see(seen(answering(AT - 5), stranded(2), stranded(3)), *HELD)
    assert ticks.phase() is Phase.DUE
    assert told == [Event.LEFTOVERS_FOUND, Event.RELOAD_DUE, Event.RELOAD_HELD]
    (blocked,) = ticks.outlook.blocked_by
    assert (blocked.gate, blocked.reason) == (
        "answers",
        "the app answers well: 4 of 4 health requests, which need MongoDB",
    )


@pytest.mark.parametrize(
    "health",
    [
        answering(AT - 5, trust=Trust.INDEPENDENT),
        answering(AT - 5, trust=Trust.ANSWERS),
        answering(AT - 5, bad=1),
        answering(AT - ANSWERS_FOR_S - 5),
        answering(BACK + 1),
        replace(answering(AT - 5), round=None),
    ],
    ids=["without MongoDB", "nobody knows", "not all good", "long ago", "right after the return", "one alone"],
)
def test_other_answers_hold_nothing(health: Health) -> None:
    ticks = Ticks()
    ticks.see(seen(health, stranded(2), stranded(3)), *HELD)
    assert ticks.phase() is Phase.RELOADING


def test_good_answers_hold_nothing_against_requests_that_wait() -> None:
    waits = Waits(AT - 20, AT, (Wait(AT - 15, AT - 14, AT),))
    ticks = Ticks()
    ticks.see(seen(answering(AT - 5), replace(stranded(2), waits=waits, threads=1), stranded(3)), *HELD)
    assert ticks.phase() is Phase.RELOADING


def test_an_operator_is_not_held_by_good_answers() -> None:
    ticks = Ticks()
    ticks.see(seen(answering(AT - 5), stranded(2), stranded(3)), *HELD)
    ticks.see(seen(answering(AT - 5), stranded(2), stranded(3)), *HELD, ask=Verb.RELOAD)
    assert ticks.answer.ok
    assert ticks.phase() is Phase.RELOADING


def test_nobody_is_given_up_who_answers_well() -> None:
    off = replace(seen(answering(AT - 5), stranded(2), stranded(3)), threads_off=True)
    ticks = Ticks()
    assert Event.GAVE_UP not in ticks.see(off, *HELD)
    assert ticks.phase() is Phase.DUE
    bad = replace(off, health=answering(AT - 5, bad=2))
    assert Event.GAVE_UP in ticks.see(bad, *HELD)


# ---- the proof


def verifying(health: Health) -> Ticks:
    """All processes are new at AT + 1."""
    ticks = Ticks()
    ticks.see(seen(replace(health, round=None), stranded(2), stranded(3)), *HELD)
    assert ticks.phase() is Phase.RELOADING
    ticks.see(seen(replace(health, round=None), stranded(2), stranded(3)), *HELD)
    fresh = (worker(4, ready=AT + 1), worker(5, ready=AT + 1))
    assert ticks.see(seen(replace(health, round=None), *fresh)) == [Event.RELOADED]
    return ticks


CONNECTED = (
    worker(4, ready=AT + 1, used=AT + 2, reached=["10.0.0.1"]),
    worker(5, ready=AT + 1, used=AT + 2, reached=["10.0.0.1"]),
)


@pytest.mark.parametrize("trust", [Trust.DEPENDENT, Trust.ANSWERS])
def test_it_has_recovered_once_a_whole_round_is_good_and_says_so(trust: Trust) -> None:
    ticks = verifying(answering(0.0, trust=trust))
    none = replace(answering(0.0, trust=trust), round=None)
    assert ticks.see(seen(none, *CONNECTED)) == []
    assert ticks.phase() is Phase.VERIFYING
    assert ticks.outlook.rounds
    assert ticks.see(seen(answering(ticks.at + 0.5, trust=trust), *CONNECTED)) == [Event.RECOVERED]
    assert ticks.tells[0].fields["answers"] == 4


@pytest.mark.parametrize("trust", [Trust.UNKNOWN, Trust.BLIND, Trust.INDEPENDENT])
def test_where_answers_say_nothing_connections_prove_it_and_nothing_is_said_of_answers(trust: Trust) -> None:
    ticks = verifying(answering(0.0, trust=trust))
    assert ticks.see(seen(answering(ticks.at, trust=trust), *CONNECTED)) == [Event.RECOVERED]
    assert ticks.tells[0].fields["answers"] is None


def test_a_round_of_before_the_new_workers_proves_nothing() -> None:
    ticks = verifying(answering(0.0))
    assert ticks.see(seen(answering(AT), *CONNECTED)) == []


def test_where_nobody_could_be_asked_connections_prove_it_after_a_while() -> None:
    ticks = verifying(answering(0.0))
    none = replace(answering(0.0), round=None)
    assert ticks.see(seen(none, *CONNECTED), after=ANSWERED_WITHIN_S - 5) == []
    assert ticks.see(seen(none, *CONNECTED), after=6) == [Event.RECOVERED]
    assert ticks.tells[0].fields["answers"] is None


def test_bad_answers_of_workers_that_are_connected_are_given_up() -> None:
    ticks = verifying(answering(0.0))
    assert ticks.see(seen(answering(ticks.at, bad=2), *CONNECTED), after=30) == []
    told = ticks.see(seen(answering(ticks.at, bad=2), *CONNECTED), after=40)
    assert told == [Event.RELOAD_FAILED, Event.GAVE_UP]
    assert "every worker has a connection to MongoDB, and 2 of 4 health requests failed (500)" in str(
        ticks.tells[0].fields["reason"]
    )


def test_bad_answers_of_new_workers_without_a_connection_have_failed_once_they_had_their_time() -> None:
    ticks = verifying(answering(0.0))
    fresh = (replace(worker(4, ready=AT + 1), threads=1), replace(worker(5, ready=AT + 1), threads=1))
    assert ticks.see(seen(answering(ticks.at, bad=4), *fresh)) == []
    told = ticks.see(seen(answering(ticks.at, bad=4), *fresh), after=USED_UNPROVEN_S)
    assert told == [Event.RELOAD_FAILED, Event.GAVE_UP]
    assert ticks.shop.last
    assert ticks.shop.last.outcome is ReloadOutcome.FAILED


# ---- when a round is asked for


def wants(one: Instance, at: Mono = AT, members: list[Member] | None = None) -> bool:
    ticks = Ticks(at=at - 1)
    ticks.see(one, connection(1), members=members)
    return ticks.outlook.rounds


def returned(since: Mono = AT - 10) -> list[Member]:
    outage = exactly(since - 5)._replace(hi=since)
    return [member(served_since=exactly(since), up_since=exactly(since), outages=(outage,))]


def test_rounds_are_asked_for_after_a_return_that_was_watched_and_not_right_after_it() -> None:
    one = seen(replace(answering(0.0), round=None))
    assert wants(one, members=returned())
    assert not wants(one, members=returned(AT - 2))
    assert not wants(one, members=[member(served_since=exactly(AT - 10))])  # the daemon was started just now
    assert not wants(one, members=returned(AT - 500))
    assert not wants(one, members=[down()])


@pytest.mark.parametrize("trust", [Trust.UNKNOWN, Trust.BLIND, Trust.INDEPENDENT])
def test_no_round_is_asked_for_whose_answers_say_nothing(trust: Trust) -> None:
    assert not wants(seen(answering(0.0, trust=trust)), members=returned())
    assert not wants(seen(None), members=returned())


def test_no_round_is_asked_for_once_it_was_given_up() -> None:
    ticks = Ticks()
    off = replace(seen(answering(AT - 5, bad=2), stranded(2), stranded(3)), threads_off=True)
    ticks.see(off, *HELD)
    ticks.see(off, *HELD)
    assert ticks.phase() is Phase.GAVE_UP
    assert not ticks.outlook.rounds


# ---- the end of an incident


def test_an_incident_is_not_over_before_it_was_seen_how_the_app_answers() -> None:
    ticks = Ticks(config(linger_s=1.0), at=AT - 1)
    none = replace(answering(0.0), round=None)
    ticks.see(seen(none, well(2)), connection(1), members=[down()])
    back = returned(AT + 1)
    told = ticks.see(seen(none, well(2)), connection(1), members=back, after=10)
    assert Event.HEALED not in told
    assert ticks.see(seen(answering(ticks.at - 1), well(2)), connection(1), members=back) == [Event.HEALED]


def test_an_incident_is_not_over_while_the_app_answers_badly_though_all_are_connected() -> None:
    ticks = Ticks(config(linger_s=1.0), at=AT - 1)
    none = replace(answering(0.0), round=None)
    ticks.see(seen(none, well(2)), connection(1), members=[down()])
    back = returned(AT + 1)
    for _ in range(4):
        told = ticks.see(seen(answering(ticks.at + 29, bad=2), well(2)), connection(1), members=back, after=30)
        assert told == []
    assert ticks.phase() is Phase.SETTLING
    assert ticks.outlook.next_what == "good answers to its health requests"
    assert ticks.outlook.rounds
    assert ticks.see(seen(answering(ticks.at), well(2)), connection(1), members=back) == [Event.HEALED]


def test_an_app_that_answers_badly_is_not_well() -> None:
    ticks = Ticks()
    off = replace(seen(answering(AT - 5, bad=2), stranded(2), stranded(3)), threads_off=True)
    ticks.see(off, *HELD)
    stands = [ticks.shop.standing.stand]
    for bad in (2, 0):
        ticks.see(seen(answering(AT - 5, bad=bad), well(2), well(3)), connection(1))
        stands.append(ticks.shop.standing.stand)
    assert stands == [Stand.GAVE_UP, Stand.GAVE_UP, Stand.FINE]
