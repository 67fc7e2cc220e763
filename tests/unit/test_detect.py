import math
from dataclasses import replace

import pytest

from tests.world.pieces import (
    AT,
    BACK,
    BLOG_FIFO,
    BLOG_ID,
    FIRST,
    MASTER,
    SHOP_ID,
    by_leftovers,
    by_restart,
    config,
    connection,
    down,
    endpoint,
    exactly,
    find,
    idle,
    instance,
    leftover,
    member,
    monitored,
    pid,
    pids,
    ripe_at,
    secondary,
    snapshot,
    stranded,
    well,
    worker,
)
from watchdogd.config import Cause, Idle
from watchdogd.core.detect import detect
from watchdogd.core.look import ended_by_outage, endpoint_map
from watchdogd.model.base import Incarnation, Interval, MemberId
from watchdogd.model.found import Fork, Kind, Verdict
from watchdogd.model.seen import Backend, Connection, MemberState, SocketsFrom, Tcp, Worker

LINGER = 15.0

# ---- what a leftover is


def test_last_data_from_before_the_birth_of_the_process_that_answers_makes_a_leftover_without_any_memory() -> None:
    assert ended_by_outage(leftover(2), member())
    assert not ended_by_outage(leftover(2, last_data=exactly(BACK + 1), closed=exactly(BACK + 1)), member())


def test_the_birth_of_a_process_is_known_to_the_second_and_the_later_end_counts() -> None:
    grain = member(born=Interval(BACK, BACK + 1))
    assert ended_by_outage(leftover(2, last_data=exactly(BACK + 0.9), closed=None), grain)
    assert not ended_by_outage(leftover(2, last_data=exactly(BACK + 1), closed=None), grain)


@pytest.mark.parametrize(
    ("closed", "explained"),
    [
        (exactly(950.0), True),
        (Interval(900.0, 941.0), True),  # may have been in the outage
        (exactly(939.0), False),
        (exactly(961.0), False),
    ],
)
def test_without_a_birth_an_outage_that_we_watched_explains_what_ended_in_it(closed: Interval, explained: bool) -> None:
    watched = member(born=None, outages=(Interval(940.0, 960.0),))
    assert ended_by_outage(leftover(2, last_data=exactly(930.0), closed=closed), watched) is explained


def test_a_member_that_is_down_says_nothing_by_the_birth_of_its_last_process() -> None:
    gone = down(outages=())
    assert not ended_by_outage(leftover(2, closed=exactly(999.0)), gone)


def test_for_who_begins_to_watch_during_an_outage_it_explains_everything_that_ended() -> None:
    assert ended_by_outage(leftover(2, closed=exactly(1.0)), down(outages=(Interval(-math.inf, math.inf),)))


def test_a_dead_connection_that_is_still_held_is_a_leftover_too() -> None:
    found = find(snapshot(instance(stranded(2), stranded(3)), leftover(2, 3, tcp=Tcp.DEAD)))
    assert found.leftovers == {7}
    assert found.verdicts == {pid(2): Verdict.STRANDED, pid(3): Verdict.STRANDED}


def test_close_wait_without_an_outage_is_unexplained_and_shown_only() -> None:
    by_a_load_balancer = leftover(2, last_data=exactly(950.0), closed=exactly(990.0))
    found = find(snapshot(instance(stranded(2)), by_a_load_balancer))
    assert found.unexplained == {7}
    assert not found.leftovers
    assert not by_leftovers(found)


def test_with_cause_any_what_is_unexplained_counts() -> None:
    by_a_load_balancer = leftover(2, 3, last_data=exactly(950.0), closed=exactly(990.0))
    found = find(snapshot(instance(stranded(2), stranded(3)), by_a_load_balancer), cause=Cause.ANY)
    assert found.unexplained == found.leftovers == {7}
    assert (by_leftovers(found), ripe_at(found)) == (pids(2, 3), 990 + LINGER)


def test_what_only_the_master_or_another_process_holds_strands_no_worker() -> None:
    it = instance(stranded(2), others=(pid(5),))
    found = find(snapshot(it, leftover(1), leftover(5, cookie=9)))
    assert found.leftovers == set()
    assert found.verdicts == {pid(2): Verdict.CLEAR}


def test_a_shared_leftover_counts_once_and_for_each_of_its_holders() -> None:
    found = find(snapshot(instance(stranded(2), stranded(3)), leftover(1, 2, 3), leftover(3, cookie=9)))
    assert found.leftovers == {7, 9}
    assert found.counted == {MASTER: 1, pid(2): 1, pid(3): 2}


def test_connections_of_other_processes_and_to_other_places_are_not_ours() -> None:
    found = find(snapshot(instance(stranded(2)), leftover(99), leftover(2, cookie=9, host="10.9.9.9")))
    assert found.leftovers == set()


# ---- verdicts


@pytest.mark.parametrize(
    ("one", "held", "verdict"),
    [
        (worker(2, ready=None), leftover(2, 3), Verdict.LOADING),
        (worker(2), connection(2), Verdict.CLEAR),
        (well(2), leftover(2, 3), Verdict.RECONNECTED),
        (idle(2), leftover(2, 3), Verdict.IDLE),
        (stranded(2), leftover(2, 3), Verdict.STRANDED),
        # A driver that is used closes its own ended sockets: one with its EOF unread has not been touched.
        (stranded(2), leftover(2), Verdict.IDLE),
        (stranded(2), leftover(2, rqueue=0), Verdict.STRANDED),
        (worker(2, used=BACK + 1, reached=["10.0.0.66"]), leftover(2, 3), Verdict.STRANDED),
    ],
    ids=lambda value: value.value if isinstance(value, Verdict) else "",
)
def test_a_verdict_is_read_from_readiness_leftovers_reconnection_and_use(
    one: Worker, held: Connection, verdict: Verdict
) -> None:
    found = find(snapshot(instance(one, idle(3)), held))
    assert found.verdicts[pid(2)] is verdict


@pytest.mark.parametrize(
    ("checked", "sibling", "seen_at", "verdict"),
    [
        (stranded(2), monitored(3), 0.0, Verdict.IDLE),
        (stranded(2), well(3), 0.0, Verdict.STRANDED),  # it works, and so might the stuck app's own sibling
        (replace(stranded(2), owned=True), monitored(3), 0.0, Verdict.STRANDED),  # it has used MongoDB
        (stranded(2), monitored(3), BACK - 15, Verdict.STRANDED),  # what it held before is not known
        (stranded(2), replace(monitored(3), monitored=frozenset({Incarnation("10.0.0.1#1")})), 0.0, Verdict.STRANDED),
    ],
)
def test_a_worker_that_never_held_a_connection_alone_has_not_used_mongodb_where_a_siblings_monitor_runs(
    checked: Worker, sibling: Worker, seen_at: float, verdict: Verdict
) -> None:
    found = find(snapshot(instance(checked, sibling, seen_at=seen_at), leftover(2, 3)))
    assert found.verdicts[pid(2)] is verdict
    assert (pid(2) in by_leftovers(found)) is (verdict is Verdict.STRANDED)


def test_reconnected_is_a_latch_for_each_deployment_of_the_leftovers() -> None:
    members = [member(), member("10.0.1.1", "other")]
    held = (leftover(2, 3), leftover(2, 3, cookie=9, host="10.0.1.1"))
    half = worker(2, used=BACK + 1, reached=["10.0.0.1"])
    whole = worker(3, used=BACK + 1, reached=["10.0.0.1", "10.0.1.1"])
    it = instance(half, whole, deployments=("main", "other"))
    found = find(snapshot(it, *held, members=members))
    assert found.verdicts == {pid(2): Verdict.STRANDED, pid(3): Verdict.RECONNECTED}
    assert by_leftovers(found) == pids(2)
    assert {one.deployments for one in found.evidence if one.kind is Kind.LEFTOVER} == {frozenset({"main", "other"})}
    assert found.served == {"main": {"10.0.0.1#2"}, "other": {"10.0.1.1#2"}}


def test_a_deployment_that_lost_nothing_is_not_asked_for() -> None:
    members = [member(), member("10.0.1.1", "other")]
    it = instance(well(2), deployments=("main", "other"))
    found = find(snapshot(it, leftover(2, 3), members=members))
    assert found.verdicts == {pid(2): Verdict.RECONNECTED}


def test_a_connection_to_an_earlier_life_of_the_member_does_not_count() -> None:
    restarted = member(incarnation=Incarnation("10.0.0.1#3"))
    found = find(snapshot(instance(well(2), well(3)), leftover(2, 3), members=[restarted]))
    assert found.verdicts == {pid(2): Verdict.STRANDED, pid(3): Verdict.STRANDED}


# ---- replica sets


def test_a_restarted_secondary_makes_nothing_due_of_an_app_that_reaches_the_primary() -> None:
    members = [member("10.0.0.1", born=exactly(10.0), served_since=exactly(10.0)), secondary("10.0.0.2")]
    found = find(snapshot(instance(well(2), well(3)), leftover(2, 3, host="10.0.0.2"), members=members))
    assert found.leftovers == {7}
    assert found.verdicts == {pid(2): Verdict.RECONNECTED, pid(3): Verdict.RECONNECTED}
    assert not by_leftovers(found)


def test_with_the_old_primary_left_down_a_stuck_app_is_due_once_the_new_one_has_served_for_linger() -> None:
    old = down("10.0.0.1", since=880.0)
    held = leftover(2, 3, closed=exactly(881.0))
    it = instance(stranded(2), stranded(3))
    nobody = find(snapshot(it, held, members=[old, secondary("10.0.0.2")]))
    assert (nobody.is_serving, nobody.outage, ripe_at(nobody), by_leftovers(nobody)) == (False, True, None, frozenset())
    elected = find(snapshot(it, held, members=[old, member("10.0.0.2", served_since=exactly(BACK))]))
    assert (elected.is_serving, elected.outage, ripe_at(elected)) == (True, False, BACK + LINGER)


# ---- serving and outages


@pytest.mark.parametrize(
    ("states", "outage"),
    [
        ([MemberState.DOWN], True),
        ([MemberState.FROZEN], True),
        ([MemberState.DOWN, MemberState.UP], True),  # the other one is a secondary
        ([MemberState.DOWN, MemberState.UNREACHABLE], True),
        ([MemberState.UNKNOWN], False),
        ([MemberState.DOWN, MemberState.UNKNOWN], False),  # not heard of all yet
        ([MemberState.UNREACHABLE], False),  # our configuration, not an outage
        ([], False),
    ],
)
def test_an_outage_is_a_deployment_that_is_known_not_to_serve(states: list[MemberState], outage: bool) -> None:
    members = [secondary(f"10.0.0.{number}", state=state) for number, state in enumerate(states)]
    found = find(snapshot(instance(idle(2)), members=members))
    assert (found.is_serving, found.served_since, found.outage) == (False, None, outage)


def test_a_deployment_serves_since_the_first_of_its_servers_and_all_since_the_last_of_them() -> None:
    mongos = [member("10.0.0.1", served_since=exactly(500.0)), member("10.0.0.2", served_since=exactly(700.0))]
    other = member("10.0.1.1", "other", served_since=Interval(600.0, 650.0))
    it = instance(idle(2), deployments=("main", "other"))
    assert find(snapshot(it, members=mongos)).is_serving is False
    assert find(snapshot(it, members=[*mongos, other])).served_since == 650.0


def test_an_instance_without_a_deployment_is_shown_and_nothing_of_it_is_due() -> None:
    found = find(snapshot(instance(stranded(2), deployments=()), leftover(2, 3)))
    assert not found.leftovers
    assert (by_leftovers(found), ripe_at(found), found.outage) == (frozenset(), None, False)


def test_a_server_that_does_not_say_since_when_it_serves_has_only_just_begun() -> None:
    found = find(snapshot(instance(stranded(2)), leftover(2, 3), members=[member(served_since=None)]))
    assert ripe_at(found) == AT + LINGER


# ---- when a reload is due


def test_linger_counts_from_the_latest_of_closing_serving_readiness_and_our_first_look() -> None:
    def due_at(**changes: object) -> float | None:
        served, closed, ready, seen = (float(str(changes.get(k, 0.0))) for k in ("served", "closed", "ready", "seen"))
        at = leftover(2, 3, closed=Interval(0.0, closed))
        it = instance(worker(2, used=1.0, ready=ready), worker(3, used=1.0, ready=ready), seen_at=seen)
        return ripe_at(find(snapshot(it, at, members=[member(served_since=Interval(0.0, served))])))

    assert due_at(served=950.0) == 965.0
    assert due_at(served=950.0, closed=960.0) == 975.0
    assert due_at(served=950.0, closed=960.0, ready=970.0) == 985.0
    assert due_at(served=950.0, closed=960.0, ready=970.0, seen=980.0) == 995.0


def test_one_worker_that_is_ripe_makes_the_instance_due() -> None:
    fresh = worker(3, used=BACK + 1, ready=AT - 5)
    found = find(snapshot(instance(stranded(2), fresh), leftover(2, 3)))
    assert by_leftovers(found) == pids(2, 3)
    assert ripe_at(found) == BACK + LINGER


def test_idle_workers_are_due_like_stranded_ones_when_nobody_has_reconnected() -> None:
    found = find(snapshot(instance(idle(2), stranded(3)), leftover(2, 3)))
    assert (by_leftovers(found), ripe_at(found)) == (pids(2, 3), BACK + LINGER)


def test_to_be_used_does_not_make_an_idle_worker_less_due() -> None:
    assert ripe_at(find(snapshot(instance(worker(2, used=AT)), leftover(2, rqueue=0)))) == BACK + LINGER


def test_with_idle_leave_idle_workers_are_left_until_they_are_used() -> None:
    found = find(snapshot(instance(idle(2), idle(3)), leftover(2, 3)), idle=Idle.LEAVE)
    assert (by_leftovers(found), ripe_at(found)) == (frozenset(), None)
    assert [(one.worker, one.ripe_at) for one in found.evidence if one.kind is Kind.LEFTOVER] == [
        (pid(2), None),
        (pid(3), None),
    ]


@pytest.mark.parametrize(("used", "due_at"), [(AT - 1, None), (AT - 2, AT - 2 + LINGER), (AT - 50, AT - 50 + LINGER)])
def test_where_idle_workers_do_not_count_linger_begins_with_the_first_use(used: float, due_at: float | None) -> None:
    # A healthy driver whose threads are off heals with its first request; its connection shows in the next look.
    found = find(snapshot(instance(worker(2, used=used), idle(3)), leftover(2, 3)), idle=Idle.LEAVE)
    assert ripe_at(found) == due_at


@pytest.mark.parametrize(
    ("sibling", "proves"),
    [
        (well(3), True),
        (worker(3, reached=["10.0.0.1"], ready=BACK - 1), True),  # has closed its leftovers since
        (worker(3, reached=["10.0.0.1"], ready=BACK + 1), False),  # had nothing to heal from
        (idle(3), False),
    ],
)
def test_a_sibling_that_healed_proves_that_idle_workers_will(sibling: Worker, proves: bool) -> None:
    found = find(snapshot(instance(idle(2), sibling), leftover(2)))
    assert (not by_leftovers(found)) is proves


def test_a_sibling_that_kept_its_leftover_and_reconnected_proves_it_whenever_it_was_ready() -> None:
    late = worker(3, reached=["10.0.0.1"], ready=BACK + 1)
    assert not by_leftovers(find(snapshot(instance(idle(2), late), leftover(2, 3))))


def test_a_stranded_worker_is_due_even_beside_one_that_healed() -> None:
    found = find(snapshot(instance(stranded(2), well(3)), leftover(2, 3)))
    assert (by_leftovers(found), ripe_at(found)) == (pids(2), BACK + 1 + LINGER)


def test_a_worker_that_loads_its_app_is_never_due() -> None:
    assert not by_leftovers(find(snapshot(instance(worker(2, ready=None)), leftover(2))))


# ---- who holds it, and forks


def test_a_leftover_of_a_due_worker_that_the_master_holds_too_is_inherited() -> None:
    found = find(snapshot(instance(stranded(2), stranded(3)), leftover(1, 2, 3), leftover(2, 3, cookie=9)))
    assert by_restart(found)


def test_residue_that_the_master_holds_too_asks_for_nothing() -> None:
    found = find(snapshot(instance(well(2), well(3)), leftover(1, 2, 3)))
    assert not by_restart(found)
    assert not by_leftovers(found)


def test_a_fork_is_safe_of_a_master_without_a_client() -> None:
    found = find(snapshot(instance(stranded(2)), leftover(2)))
    assert (found.fork.unsafe, found.fork.safe_at, found.fork.unsafe_since) == (None, None, None)


@pytest.mark.parametrize("held", [frozenset({"main"}), frozenset()])
def test_a_fork_is_not_safe_of_a_master_that_ever_held_a_connection_or_whose_workers_share_one(
    held: frozenset[str],
) -> None:
    shared = leftover(2) if held else leftover(2, 3)
    it = instance(stranded(2), stranded(3), held_by_master=held, master_connected_at=950.0, seen_at=10.0)
    found = find(snapshot(it, shared))
    assert found.fork.unsafe == "the master has not sent anything to 10.0.0.1:27017 since it serves"
    assert (found.fork.safe_at, found.fork.unsafe_since) == (None, BACK)
    # Without ages nobody knows what it sent, and it has not been long without a connection.
    without = find(snapshot(it, shared, sockets=SocketsFrom(Backend.PROC)))
    assert without.fork.unsafe == "the master has no connection of its own to 10.0.0.1:27017 yet"
    assert without.fork.unsafe_since == 950.0


@pytest.mark.parametrize(
    ("changes", "safe_at"),
    [
        ({}, BACK + 6),
        ({"since": exactly(AT - 0.5)}, AT + 0.5),
        ({"since": exactly(10.0)}, BACK + 1),  # made before, and it has had data since
        ({"since": exactly(10.0), "last_data": exactly(BACK - 1)}, None),
        ({"tcp": Tcp.CLOSE_WAIT}, None),
        ({"holders": pids(2)}, None),
        ({"holders": pids(1, 2, 3)}, BACK + 6),
    ],
)
def test_the_masters_own_fresh_connection_makes_a_fork_safe_a_second_later(
    changes: dict[str, object], safe_at: float | None
) -> None:
    of_master = replace(connection(1), **changes)  # type: ignore[arg-type]
    found = find(snapshot(instance(stranded(2), stranded(3)), leftover(2, 3), of_master))
    assert found.fork.safe_at == safe_at
    assert (found.fork.unsafe is None) is (safe_at is not None and safe_at <= AT)


def test_the_master_must_be_connected_to_every_serving_member() -> None:
    mongos = [member("10.0.0.1"), member("10.0.0.2")]
    it = instance(stranded(2), stranded(3))
    one = find(snapshot(it, leftover(2, 3), connection(1), members=mongos))
    assert one.fork.unsafe == "the master has not sent anything to 10.0.0.2:27017 since it serves"
    both = find(snapshot(it, leftover(2, 3), connection(1), connection(1, cookie=9, host="10.0.0.2"), members=mongos))
    assert both.fork.unsafe is None


def test_two_names_of_one_mongod_need_one_connection() -> None:
    other_name = member(
        "10.0.0.2", id=MemberId("main", "alias:27017"), incarnation=FIRST, endpoints=frozenset({endpoint("10.0.0.2")})
    )
    it = instance(stranded(2), stranded(3))
    found = find(snapshot(it, leftover(2, 3), connection(1), members=[member(), other_name]))
    assert found.fork.unsafe is None


def test_a_single_master_may_fork_at_once_though_it_never_sends() -> None:
    it = instance(stranded(2), stranded(3), held_by_master=frozenset({"main"}))
    for backend in (Backend.SOCK_DIAG, Backend.PROC):
        seen = snapshot(replace(it, master_single=True), leftover(2, 3), sockets=SocketsFrom(backend))
        assert find(seen).fork == Fork()
    assert find(snapshot(replace(it, master_single=True, threads_off=True), leftover(2, 3))).fork.unsafe


def test_what_a_single_master_holds_too_is_ended_by_a_reload_of_the_workers() -> None:
    it = instance(stranded(2), stranded(3), master_single=True)
    found = find(snapshot(it, leftover(1, 2, 3)))
    assert by_leftovers(found)
    assert not by_restart(found)


def two_at_once(number: int) -> Worker:
    return replace(well(number), monitored=frozenset({FIRST}))


@pytest.mark.parametrize(
    ("workers", "after", "safe"),
    [
        ((two_at_once(2), two_at_once(3)), 30, True),
        ((two_at_once(2), two_at_once(3)), 29, False),
        ((two_at_once(2), well(3)), 30, False),
        ((), 30, False),
    ],
    ids=["all", "too early", "one without", "no worker"],
)
def test_a_fork_is_safe_where_the_monitors_of_all_workers_run_long_after_the_master_should_have_sent(
    workers: tuple[Worker, ...], after: float, *, safe: bool
) -> None:
    it = instance(*workers, held_by_master=frozenset({"main"}))
    found = find(snapshot(it, members=[member(served_since=exactly(AT - after))]))
    assert (found.fork.unsafe is None) is safe


def test_secondaries_do_not_matter_to_a_fork() -> None:
    members = [member(), secondary("10.0.0.2")]
    found = find(snapshot(instance(stranded(2), stranded(3)), leftover(2, 3), connection(1), members=members))
    assert found.fork.unsafe is None


def test_each_deployment_that_the_master_has_a_client_of_must_be_reached() -> None:
    members = [member(), member("10.0.1.1", "other")]
    it = instance(stranded(2), stranded(3), deployments=("main", "other"), held_by_master=frozenset({"main", "other"}))
    found = find(snapshot(it, leftover(2, 3), connection(1), members=members))
    assert found.fork.unsafe == "the master has not sent anything to 10.0.1.1:27017 since it serves"


# ---- several


def test_where_two_names_share_an_address_the_member_that_answers_wins() -> None:
    gone, here = down("a", endpoints=frozenset({endpoint("10.0.0.1")})), member()
    assert endpoint_map([gone, here]) == endpoint_map([here, gone]) == {endpoint("10.0.0.1"): here}


def test_each_instance_is_judged_by_its_own_processes() -> None:
    shop, blog = instance(stranded(2)), instance(idle(5), name="blog", fifo=BLOG_FIFO, master=pid(4))
    seen = replace(snapshot(shop, leftover(2), connection(5)), instances=(shop, blog))
    found = detect(seen, config())
    assert by_leftovers(found[SHOP_ID]) == pids(2)
    assert found[BLOG_ID].verdicts == {pid(5): Verdict.CLEAR}


def test_the_same_snapshot_gives_the_same_findings() -> None:
    seen = snapshot(instance(stranded(2), well(3), idle(4)), leftover(1, 2, 3, 4), connection(1))
    assert find(seen) == find(seen)
