"""Gives every event that is told to each place where events go: the journal is one of them.

A sink that fails keeps neither the others nor the loop from going on, and is told as blind by those that work. This
module must never drop, change or delay an event.
"""

from __future__ import annotations

from typing import Protocol

from watchdogd.model.seen import Area, Blindness, Scope
from watchdogd.model.text import fault
from watchdogd.model.told import Tell


class Sink(Protocol):
    """A place where events are told. `name`: what people know it by."""

    name: str

    def tell(self, tell: Tell, wall: float) -> None:
        """Take one event, told at this Unix time. It must never wait and never raise."""


class Sinks:
    """All of them, as one: each gets every event, in the order in which they are given here."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks
        self._failed: dict[str, str] = {}

    def tell(self, tell: Tell, wall: float) -> None:
        """Give the event to each sink; what one of them raises is kept for `blind`."""
        for sink in self._sinks:
            try:
                sink.tell(tell, wall)
            except Exception as error:  # noqa: BLE001 - a bug in one must not hide the event from the others
                why = f"it did not take {tell.event.value}, and nothing else depends on it: {fault(error)}"
                self._failed[sink.name] = why
            else:
                self._failed.pop(sink.name, None)

    def blind(self) -> tuple[Blindness, ...]:
        """Return each sink that did not take the last event, and why; nothing is blocked by it."""
        return tuple([Blindness(Scope(Area.SINK, name), why) for name, why in self._failed.items()])
