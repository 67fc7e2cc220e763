"""A conclusion is kept while nothing changes but the time; that a kept one still holds is checked by every Watcher."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.world.pieces import AT, config, idle, instance, leftover, snapshot, stranded
from watchdogd.core.conclude import Conclusions
from watchdogd.model.remembered import Pause, State
from watchdogd.model.seen import Area, Blindness, Request, Scope, Snapshot, Verb
from watchdogd.model.text import Outside

ONE = snapshot(instance(idle(2)))
LATER = replace(ONE, at=ONE.at + 1, wall=ONE.wall + 1)


def settled(seen: Snapshot, state: State) -> tuple[Conclusions, State]:
    """Conclusions that have seen this twice, with what is remembered then."""
    conclusions = Conclusions()
    for _ in range(2):
        _, decision = conclusions.draw(state, seen, CONFIG)
        state = decision.state
    return conclusions, state


CONFIG = config()


def test_nothing_is_drawn_anew_while_nothing_changes_but_the_time() -> None:
    conclusions, state = settled(ONE, State())
    kept = conclusions.draw(state, ONE, CONFIG)
    assert conclusions.draw(state, LATER, CONFIG) is kept


@pytest.mark.parametrize(
    "change",
    [
        lambda seen: replace(seen, members=dict(seen.members)),
        lambda seen: replace(seen, instances=(instance(),)),
        lambda seen: replace(seen, connections=(leftover(2),)),
        lambda seen: replace(seen, blind=(Blindness(Scope(Area.SOCKETS), "why"),)),
        lambda seen: replace(seen, degraded="no room"),
        lambda seen: replace(seen, requests=(Request("r", Verb.PAUSE, None, None, Outside()),)),
    ],
)
def test_whatever_is_seen_to_change_is_thought_about(change: Callable[[Snapshot], Snapshot]) -> None:
    conclusions, state = settled(ONE, State())
    kept = conclusions.draw(state, ONE, CONFIG)
    assert conclusions.draw(state, change(LATER), CONFIG) is not kept


def test_another_memory_or_another_configuration_is_thought_about() -> None:
    conclusions, state = settled(ONE, State())
    kept = conclusions.draw(state, ONE, CONFIG)
    assert conclusions.draw(replace(state, serial=state.serial + 1), LATER, CONFIG) is not kept
    conclusions, state = settled(ONE, State())
    kept = conclusions.draw(state, ONE, CONFIG)
    assert conclusions.draw(state, LATER, config()) is not kept


def test_a_conclusion_ends_when_it_is_time_for_something() -> None:
    conclusions, state = settled(ONE, State(paused=Pause(AT + 5, Outside())))
    kept = conclusions.draw(state, ONE, CONFIG)
    assert conclusions.draw(state, replace(ONE, at=AT + 4), CONFIG) is kept
    assert conclusions.draw(state, replace(ONE, at=AT + 5), CONFIG)[1].state.paused is None


def test_nothing_is_kept_while_something_is_wrong() -> None:
    seen = snapshot(instance(stranded(2)), leftover(2))
    conclusions, state = settled(seen, State())
    drawn = conclusions.draw(state, seen, CONFIG)
    assert conclusions.draw(state, seen, CONFIG) is not drawn
