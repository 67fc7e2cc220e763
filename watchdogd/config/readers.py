"""The kinds of values: lists, choices, numbers, durations, paths. Each says what it expected."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from watchdogd.config.durations import format_duration, parse_duration
from watchdogd.config.strict_yaml import (
    BOOL,
    FLOAT,
    INT,
    TEXT,
    Reader,
    Spot,
    Wrong,
    as_number,
    as_yaml_reads,
    quoted,
    suggestion,
)

T = TypeVar("T")
E = TypeVar("E", bound=enum.Enum)


def list_of(kind: str, reader: Reader[T]) -> Reader[tuple[T, ...]]:
    """Read a list without double entries; it may be empty. `kind` is like "a list of names"."""

    def read(spot: Spot) -> tuple[T, ...]:
        found: list[T] = []
        for item in spot.items(kind):
            value = item.read(reader.read)
            if value is not None and value in found:
                item.tell("stands twice in this list; keep one")
            elif value is not None:
                found.append(value)
        return tuple(found)

    return Reader(kind, read)


def not_empty(reader: Reader[tuple[T, ...]], otherwise: str) -> Reader[tuple[T, ...]]:
    """Read the same, and where the list has no entries say what to do `otherwise`."""

    def read(spot: Spot) -> tuple[T, ...]:
        if not spot.items(reader.kind):
            raise Wrong(f"is an empty list; {otherwise}")
        return reader.read(spot)

    return Reader(reader.kind, read)


def _value(one: enum.Enum) -> str:
    return str(one.value)


def choice(values: Iterable[E], word: Callable[[E], str] = _value) -> Reader[E]:
    """Read one of the members of an Enum, or of several, which `word` writes."""
    members = {word(one): one for one in values}
    words = list(members)
    kind = " or ".join(f"`{word}`" for word in words)

    def read(spot: Spot) -> E:
        text, tag = spot.scalar(kind)
        if tag != TEXT:
            raise Wrong(f"{as_yaml_reads(text, tag)}; expected {kind}")
        if text not in words:
            raise Wrong(f"{quoted(text)} is none of its values; {suggestion(text, words)}")
        return members[text]

    return Reader(kind, read)


def _yes_or_no(spot: Spot) -> bool:
    text, tag = spot.scalar("`true` or `false`")
    if tag != BOOL or text not in {"true", "false"}:
        told = f"{quoted(text)} is none of its values" if tag == TEXT else as_yaml_reads(text, tag)
        raise Wrong(f"{told}; expected `true` or `false`, without quotes")
    return text == "true"


FLAG = Reader("`true` or `false`", _yes_or_no)


def whole_number(lowest: int, highest: int) -> Reader[int]:
    """Read a decimal number."""
    kind = f"a whole number from {lowest} to {highest}"

    def read(spot: Spot) -> int:
        text, tag = spot.scalar(kind)
        if tag != INT or not re.fullmatch(r"-?(0|[1-9][0-9]{0,15})", text):
            told = "is a text" if tag == TEXT else as_yaml_reads(text, tag)
            raise Wrong(f"{told}; expected {kind}, in decimal digits and without quotes")
        if not lowest <= int(text) <= highest:
            raise Wrong(f"{text} is out of range; expected {kind}")
        return int(text)

    return Reader(kind, read)


def duration(lowest_s: float, highest_s: float) -> Reader[float]:
    """Read a duration like `15s`, in seconds."""
    kind = f"a duration from {format_duration(lowest_s)} to {format_duration(highest_s)}"

    def read(spot: Spot) -> float:
        text, tag = spot.scalar(kind)
        if tag == INT and ":" in text:
            raise Wrong(f"{as_yaml_reads(text, tag)}; write `{format_duration(as_number(text) or 90)}`")
        if tag not in {TEXT, INT, FLOAT}:
            raise Wrong(f"{as_yaml_reads(text, tag)}; expected {kind}")
        try:
            seconds = parse_duration(text)
        except ValueError as error:
            raise Wrong(f"{quoted(text)} {error} (expected {kind})") from None
        if not lowest_s <= seconds <= highest_s:
            raise Wrong(f"{text} is out of range; expected {kind}")
        return seconds

    return Reader(kind, read)


def absolute_path(spot: Spot) -> str:
    """Read a path from the root on."""
    text = spot.text("an absolute path")
    if not text.startswith("/"):
        raise Wrong("is a relative path; write the whole path, beginning with /")
    return text
