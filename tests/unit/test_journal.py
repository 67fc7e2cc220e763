import json
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.model.base import WORKERS
from watchdogd.model.told import FieldValue, Reloaded, Replaced, Resumed, SeeingAgain, Stopping, Tell
from watchdogd.report.journal import Journal, is_journal_stream, line

AT = 1795341600.123
WORD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^\s"]+?)(?=\s|: )')


def fields_of(text: str) -> dict[str, str]:
    """Reads a line back as a log collector would."""
    return {name: json.loads(value) if value[0] == '"' else value for name, value in WORD.findall(text)}


def test_a_line_is_time_priority_event_fields_and_sentence() -> None:
    tell = Tell(Reloaded(WORKERS, 1.5, 3), instance="shop", incident="shop-7")
    assert line(tell, AT, "Sent shop a workers reload.") == (
        "2026-11-22T10:00:00.123Z notice reloaded instance=shop incident=shop-7 command=w seconds=1.5 "
        "workers=3: Sent shop a workers reload.\n"
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("127.0.0.1:27017", "member=127.0.0.1:27017"),
        ("two words", 'member="two words"'),
        ('say "no"', r'member="say \"no\""'),
        ("", 'member=""'),
        ("a=b", 'member="a=b"'),
        ("ends:", 'member="ends:"'),
        ("größer", "member=größer"),
    ],
)
def test_a_value_is_quoted_where_it_would_not_be_one_word(value: str, shown: str) -> None:
    text = line(Tell(Stopping(), member=value), AT, "It answers again.")
    assert f" stopping {shown}: It answers again.\n" in text
    assert fields_of(text) == {"member": value}


@given(st.text(), st.text())
def test_whatever_is_told_is_one_line_that_drives_no_terminal(value: str, message: str) -> None:
    text = line(Tell(Replaced(value)), AT, message)
    assert text.endswith("\n")
    assert text[:-1].isprintable()


@given(st.text(st.characters(exclude_categories=["C", "Zs", "Zl", "Zp"])))
def test_a_printable_value_is_read_back_as_it_was(value: str) -> None:
    text = line(Tell(Replaced(value)), AT, "Cannot see it.")
    assert fields_of(text) == {"reason": value}


class Narrow:
    """An output that takes a message only when it is open."""

    def __init__(self) -> None:
        self.open = True
        self.messages: list[str] = []

    def write(self, tell: Tell, wall: float, message: str) -> bool:
        if self.open:
            self.messages.append(message)
        return self.open

    def close(self) -> None:
        self.open = False


def test_what_was_lost_is_counted_and_told_once_with_the_next_that_gets_through() -> None:
    output = Narrow()
    journal = Journal(output)
    for is_open in (True, False, False, True, True):
        output.open = is_open
        journal.tell(Tell(Resumed("an operator")), AT)
    assert output.messages == [
        "Reloads are allowed again, by an operator.",
        "Reloads are allowed again, by an operator. (2 messages before this one could not be written.)",
        "Reloads are allowed again, by an operator.",
    ]


def test_stderr_is_the_journal_only_when_device_and_inode_are_those_of_the_variable() -> None:
    reader, writer = os.pipe()
    try:
        seen = os.fstat(writer)
        assert is_journal_stream(f"{seen.st_dev}:{seen.st_ino}", writer)
        assert not is_journal_stream(f"{seen.st_dev}:{seen.st_ino + 1}", writer)
        assert not is_journal_stream("", writer)
    finally:
        os.close(reader)
        os.close(writer)
    assert not is_journal_stream("1:1", writer)


@pytest.mark.parametrize("value", [3, 2.5, True, "x"])
def test_any_kind_of_field_stands_in_the_line(value: FieldValue) -> None:
    assert f" scope={value}:" in line(Tell(SeeingAgain(value)), AT, "Can see.")  # type: ignore[arg-type]
