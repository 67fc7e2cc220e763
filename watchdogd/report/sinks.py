"""Gives every event that is told to each place where events go: the journal is one of them.

A sink that fails keeps neither the others nor the loop from going on, and is told as blind by those that work. This
module must never drop, change or delay an event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from watchdogd.config import Config
from watchdogd.model.base import InstanceId
from watchdogd.model.decided import Decision
from watchdogd.model.found import Finding
from watchdogd.model.seen import Area, Blindness, Scope, Snapshot
from watchdogd.model.text import fault
from watchdogd.model.told import Tell


class Sink(Protocol):
    """A place where events are told. `name`: what people know it by."""

    name: str

    def tell(self, tell: Tell, wall: float) -> None:
        """Take one event, told at this Unix time. It must never wait and never raise."""


@runtime_checkable
class Keeper(Sink, Protocol):
    """A sink that also takes what each tick has found, and writes when its effects are performed.

    `deaf`: why it cannot write now, with the mend; it keeps what it has and tries again in each tick.
    """

    deaf: str | None

    def look(
        self, snapshot: Snapshot, findings: Mapping[InstanceId, Finding], decision: Decision, config: Config
    ) -> None:
        """Take it, and touch no disk: a byte may be waiting for its moment."""

    def flush(self) -> None:
        """Write what there is to write. It must never wait and never raise."""


class Sinks:
    """All of them, as one: each gets every event, in the order in which they are given here."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks
        self._keepers = [one for one in sinks if isinstance(one, Keeper)]
        self._failed: dict[tuple[str, str], str] = {}

    def tell(self, tell: Tell, wall: float) -> None:
        """Give the event to each sink; what one of them raises is kept for `blind`."""
        for sink in self._sinks:
            self._give(sink, "an event", tell.event.value, lambda sink=sink: sink.tell(tell, wall))  # type: ignore[misc]

    def look(
        self, snapshot: Snapshot, findings: Mapping[InstanceId, Finding], decision: Decision, config: Config
    ) -> None:
        """Give what one tick has come to, before its effects are performed, to those who keep it."""
        for one in self._keepers:
            what = "what was found"
            self._give(one, what, what, lambda one=one: one.look(snapshot, findings, decision, config))  # type: ignore[misc]

    def flush(self) -> None:
        """Have those write who wait with that until a tick's effects are performed."""
        for one in self._keepers:
            self._give(one, "the end of a tick", "the end of a tick", one.flush)

    def blind(self) -> tuple[Blindness, ...]:
        """Return each sink that did not take what it was given last, or cannot write it; nothing is blocked by it."""
        whys = {one.name: one.deaf for one in self._keepers if one.deaf}
        whys |= {name: why for (name, _), why in self._failed.items()}
        return tuple([Blindness(Scope(Area.SINK, name), why) for name, why in whys.items()])

    def _give(self, sink: Sink, kind: str, what: str, give: Callable[[], None]) -> None:
        try:
            give()
        except Exception as error:  # noqa: BLE001 - a bug in one must not hide it from the others
            why = f"it did not take {what}, and nothing else depends on it: {fault(error)}"
            self._failed[sink.name, kind] = why
        else:
            self._failed.pop((sink.name, kind), None)
