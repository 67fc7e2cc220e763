"""A bug that shows with one instance: in reading it, in what is found of it, in what is decided of it."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.world.host import FIFO, Host, Watcher, config_of, stuck_app, work
from tests.world.pieces import (
    BLOG_FIFO,
    BLOG_ID,
    SHOP_ID,
    by_leftovers,
    config,
    connection,
    instance,
    leftover,
    pid,
    snapshot,
    stranded,
)
from tests.world.processes import FakeProcesses
from watchdogd.core import detect as detecting
from watchdogd.core import instance as deciding
from watchdogd.core import tick as ticking
from watchdogd.core.conclude import Conclusions
from watchdogd.core.detect import detect
from watchdogd.core.tick import decide
from watchdogd.model.base import ProcessId
from watchdogd.model.decided import Answer
from watchdogd.model.remembered import State
from watchdogd.model.seen import Request, Verb
from watchdogd.model.told import Event
from watchdogd.report import answers


@pytest.fixture
def host() -> Host:
    host = Host()
    host.start_mongod()
    return host


def bug(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, concerns: Callable[[Any], bool]) -> None:  # noqa: ANN401
    """Have this function raise where its first argument concerns the instance."""
    whole = getattr(owner, name)

    def broken(first: Any, *rest: Any) -> Any:  # noqa: ANN401
        if concerns(rest[0] if owner is FakeProcesses else first):
            raise ZeroDivisionError(name)
        return whole(first, *rest)

    monkeypatch.setattr(owner, name, broken)


def in_reading(monkeypatch: pytest.MonkeyPatch, host: Host) -> None:
    def of_shop(master: ProcessId) -> bool:
        known = host.uwsgi.masters.get(master)
        return known is not None and known.fifo == FIFO

    bug(monkeypatch, FakeProcesses, "of", of_shop)


def in_finding(monkeypatch: pytest.MonkeyPatch, _: Host) -> None:
    bug(monkeypatch, detecting, "finding", lambda look: look.instance.id == FIFO)


def in_decision(monkeypatch: pytest.MonkeyPatch, _: Host) -> None:
    bug(monkeypatch, deciding.Tick, "run", lambda tick: tick.case.instance.id == FIFO)


@pytest.mark.parametrize("break_it", [in_reading, in_finding, in_decision])
def test_the_others_are_decided_and_it_is_blind_told_once_with_its_place(
    monkeypatch: pytest.MonkeyPatch, host: Host, break_it: Callable[[pytest.MonkeyPatch, Host], None]
) -> None:
    _, blogs = host.app(BLOG_FIFO)
    for worker in blogs:
        host.connect(worker)
    watcher = Watcher(host, config_of(FIFO, BLOG_FIFO), faults=True)
    with monkeypatch.context() as patch:
        watcher.tick()
        break_it(patch, host)
        stuck_app(host, watcher)
        work(blogs)
        watcher.until(lambda: watcher.sent)
        watcher.tick(30)
        assert {effect.instance for effect in watcher.sent} == {BLOG_ID}
        assert watcher.scopes(Event.BLIND) == ["instance shop"]
        (reason,) = [str(tell.fields["reason"]) for tell in watcher.told if tell.event is Event.BLIND]
        assert reason.startswith("internal error in ")
        assert "ZeroDivisionError" in reason
        assert not watcher.scopes(Event.SEEING_AGAIN)
    watcher.until(lambda: SHOP_ID in {effect.instance for effect in watcher.sent})
    assert watcher.scopes(Event.SEEING_AGAIN) == ["instance shop"]


def test_its_memory_stays_as_it_was_and_who_asks_for_its_reload_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = snapshot(
        instance(stranded(2), stranded(3)),
        leftover(2, 3),
        connection(1),
        requests=(Request("1", Verb.RELOAD, SHOP_ID),),
    )
    before = decide(State(), detect(seen, config()), seen, config()).state
    bug(monkeypatch, ticking, "wake_times", lambda _: True)
    decision = decide(before, detect(seen, config()), seen, config())
    assert decision.state.instances == before.instances
    assert decision.state.serial == before.serial
    answer = decision.effects[-1]
    assert isinstance(answer, Answer)
    assert not answer.ok
    assert answers.sentence(answer, 0.0, 0.0).startswith("held by blind: internal error in ")
    assert [type(effect).__name__ for effect in decision.effects] == ["Tell", "Answer"]


def test_it_is_tried_again_at_each_tick_though_nothing_new_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, conclusions, using = snapshot(instance(stranded(2)), leftover(2)), Conclusions(), config()
    with monkeypatch.context() as patch:
        bug(patch, detecting, "finding", lambda _: True)
        _, decision = conclusions.draw(State(), seen, using)
        assert decision.faults.keys() == {SHOP_ID}
        conclusions.draw(decision.state, seen, using)
    findings, decision = conclusions.draw(decision.state, seen, using)
    assert not decision.faults
    assert by_leftovers(findings[SHOP_ID]) == {pid(2)}
