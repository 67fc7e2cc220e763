from dataclasses import replace

from tests.world.pieces import (
    AT,
    BLOG_FIFO,
    BLOG_ID,
    MASTER,
    SHOP_ID,
    instance,
    leftover,
    pid,
    pids,
    snapshot,
    stranded,
)
from tests.world.ticks import Ticks
from watchdogd.core.claims import claimed
from watchdogd.model.base import WORKERS, Incarnation, InstanceId
from watchdogd.model.remembered import InstanceState, Phase, Reload, Spent, State
from watchdogd.model.seen import Instance, Snapshot

RELOAD = Reload(
    id="shop-1",
    command=WORKERS,
    master=MASTER,
    old=pids(2),
    cookies=frozenset({7}),
    incarnations=frozenset({Incarnation("10.0.0.1#2")}),
    asked_at=AT - 5,
    progress_at=AT - 5,
    deadline=AT + 60,
    left=1,
    sent_at=AT - 5,
)
IN_FLIGHT = InstanceState("shop", Phase.RELOADING, RELOAD, spent=(Spent(AT - 5),), master=MASTER)
QUIET = InstanceState(spent=(Spent(AT - 100),))
SHOP = instance(stranded(2))
A, B = InstanceId("/srv/a/shop/fifo"), InstanceId("/srv/b/shop/fifo")


def at(fifo: str, name: str = "shop", number: int = 50) -> Instance:
    return instance(name=name, fifo=fifo, master=pid(number))


def seen(*instances: Instance) -> Snapshot:
    return replace(snapshot(SHOP), instances=instances)


def test_what_the_first_edition_remembered_by_name_is_the_instances_of_that_name() -> None:
    state = claimed(State(unclaimed={"shop": IN_FLIGHT, "blog": QUIET}), seen(SHOP))
    assert state.instances == {SHOP_ID: IN_FLIGHT}
    assert state.unclaimed == {"blog": QUIET}


def test_a_reload_in_flight_of_the_first_edition_is_followed_and_not_sent_again() -> None:
    ticks = Ticks()
    ticks.state = State(unclaimed={"shop": IN_FLIGHT})
    ticks.see(SHOP, leftover(2))
    assert (ticks.phase(), ticks.sent) == (Phase.RELOADING, None)
    assert ticks.shop.reload == RELOAD


def test_of_two_folders_of_one_name_the_one_whose_master_was_reloaded_gets_the_reload() -> None:
    """The first edition called them `shop` and `shop-2` as it found them, and mixed them up at its next start."""
    a, b = at(A, number=60), at(B, number=1)
    for names in (("shop", "shop-2"), ("shop-2", "shop")):
        state = claimed(State(unclaimed={names[0]: IN_FLIGHT, names[1]: QUIET}), seen(a, b))
        assert state.instances == {A: QUIET, B: IN_FLIGHT}
        assert not state.unclaimed


def test_without_a_master_to_go_by_the_numbers_of_the_first_edition_are_in_the_order_of_the_paths() -> None:
    other = replace(QUIET, spent=())
    found = seen(at(B, "b/shop", 61), at(A, "a/shop", 60))
    state = claimed(State(unclaimed={"shop-2": other, "shop": QUIET}), found)
    assert state.instances == {A: QUIET, B: other}


def test_nothing_is_claimed_of_another_name_or_of_what_is_remembered_already() -> None:
    state = State({SHOP_ID: QUIET}, unclaimed={"shop": IN_FLIGHT})
    assert claimed(state, seen(replace(SHOP, master=pid(9)))) == state
    state = State(unclaimed={"shop": QUIET})
    assert claimed(state, seen(at(BLOG_FIFO, "blog"))) == state


def test_who_is_configured_under_another_path_keeps_the_reload_that_its_master_got() -> None:
    elsewhere = replace(SHOP, fifo="/var/run/uwsgi/app/shop/fifo")
    state = claimed(State({SHOP_ID: IN_FLIGHT, BLOG_ID: QUIET}), seen(elsewhere))
    assert state.instances == {elsewhere.id: IN_FLIGHT, BLOG_ID: QUIET}


def test_what_is_unclaimed_is_forgotten_once_nothing_of_it_counts() -> None:
    ticks = Ticks()
    ticks.state = State(unclaimed={"gone": QUIET})
    ticks.see(SHOP)
    assert ticks.state.unclaimed == {"gone": QUIET}, "it counts against its budget for an hour"
    ticks.see(SHOP, after=3600)
    assert ticks.state.unclaimed == {}
