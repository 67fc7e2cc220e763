"""Text from outside: raw where it is compared or opened, shown where it is put into a sentence."""

import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.codec import decode, encode
from watchdogd.config.addresses import parse_endpoint
from watchdogd.model.remembered import Pause
from watchdogd.model.text import LONGEST, SHOWN, Outside, shown
from watchdogd.observe.mongod.heartbeats import peers_of
from watchdogd.report.say import say, say_json
from watchdogd.report.words import MANY_LINES, count, lines, plain, tree

# Hypothesis draws few characters that matter here, so they are drawn for themselves, too.
WORST = st.text(st.characters(categories=["Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"]) | st.sampled_from("a\\ …"))
TEXTS = st.text() | WORST | st.builds(lambda one, times: one * times, WORST, st.integers(1, 200))


# -- what is shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shop", "shop"),
        ("größer → 東京 😀", "größer → 東京 😀"),
        ("", ""),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("a\0b\x7f", r"a\x00b\x7f"),
        ("\x80\x9b\x85", r"\x80\x9b\x85"),
        ("\u202egpj", r"\u202egpj"),
        ("\u2066\u200f\u061c\ufeff\u00ad", r"\u2066\u200f\u061c\ufeff\xad"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("a\u00a0b\u3000c", r"a\xa0b\u3000c"),  # what looks like a space is none
        (os.fsdecode(b"\xff\x80"), r"\xff\x80"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("\\n is no newline", r"\n is no newline"),
    ],
)
def test_what_drives_a_terminal_or_hides_stands_as_its_number(text: str, expected: str) -> None:
    assert shown(text) == expected
    assert f"<{Outside(text)}>" == f"<{expected}>"


@given(TEXTS, st.integers(60, 400))
def test_whatever_is_shown_is_one_short_printable_line_and_stays_as_it_is(text: str, most: int) -> None:
    once = shown(text, most)
    assert once.isprintable()
    assert len(once) <= most
    assert shown(once, most) == once
    assert type(once) is str


@given(TEXTS)
def test_what_is_printable_and_short_is_shown_as_it_is(text: str) -> None:
    if text.isprintable() and len(text) <= SHOWN:
        assert shown(text) == text


@given(st.text(min_size=SHOWN + 1))
def test_what_is_left_out_is_counted(text: str) -> None:
    kept, _, left_out = shown(text).rpartition(" … (")
    number = int(left_out.removesuffix(" characters left out)"))
    assert shown(text[:-number], 10 * len(text)) == kept


def test_of_a_long_text_no_more_is_looked_at_than_fits() -> None:
    text = "\x1b" * 10_000_000
    assert shown(text) == r"\x1b" * 66 + " … (9999934 characters left out)"


# -- the type


@given(TEXTS, st.sampled_from(["", ">20", "<400"]))
def test_in_a_sentence_it_is_shown_and_everywhere_else_it_is_raw(text: str, spec: str) -> None:
    outside = Outside(text)
    assert f"{outside:{spec}}" == format(shown(text), spec)
    assert "{}".format(outside) == shown(text)  # noqa: UP032 - it is about this way, too
    assert outside == text
    assert hash(outside) == hash(text)
    assert {text: 1}[outside] == 1
    assert (str(outside), outside + "", json.dumps(outside)) == (text, text, json.dumps(text))


def test_what_has_a_hostile_name_is_opened_and_not_what_is_named_as_it_is_shown(tmp_path: Path) -> None:
    raw, decoy = Outside(f"{tmp_path}/a\x1b\udcff"), tmp_path / r"a\x1b\xff"
    Path(raw).write_text("the one")  # the Path() of Python 3.11 asks str()
    decoy.write_text("the other")
    assert Path(raw).read_text() == "the one"
    with open(raw, encoding="utf-8") as opened:  # noqa: PTH123 - it is about this way, too
        assert opened.read() == "the one"
    assert os.fsencode(raw).endswith(b"/a\x1b\xff")


def test_it_is_saved_as_it_was_said_and_is_one_again_when_it_is_read() -> None:
    saved = json.loads(json.dumps(encode(Pause(None, Outside("a\n\x1b")))))
    assert saved["reason"] == "a\n\x1b"
    read = decode(Pause, saved, "paused")
    assert isinstance(read.reason, Outside)
    assert read == Pause(None, Outside("a\n\x1b"))


# -- the second line: what report writes, whatever type it has


DOCUMENTS = st.recursive(
    TEXTS | st.none() | st.integers(), lambda one: st.lists(one) | st.dictionaries(st.text("abc"), one)
)


@given(DOCUMENTS)
def test_every_text_of_a_document_is_shown(document: object) -> None:
    def strings(value: object) -> list[str]:
        if isinstance(value, dict | list):
            items = value.values() if isinstance(value, dict) else value
            return [text for item in items for text in strings(item)]
        return [value] if isinstance(value, str) else []

    written = tree(document)
    assert [one for one in strings(written) if not one.isprintable() or len(one) > LONGEST] == []
    assert len(strings(written)) == len(strings(document))
    assert tree(written) == written


def test_a_text_from_outside_is_cut_shorter_than_one_of_ours() -> None:
    long = "x" * 10_000
    assert plain(Outside(long)) == tree([Outside(long)])[0] == shown(long, SHOWN)
    assert plain(long) == tree([long])[0] == shown(long, LONGEST)


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_only_several_texts_are_several_lines(texts: list[str]) -> None:
    written = plain(tuple(texts))
    assert written == lines(texts)
    assert count(tuple(texts), "mistake").count("\n") == len(texts) - 1
    assert written.split("\n") == [plain(text) for text in texts]


@pytest.mark.parametrize(("number", "last"), [(MANY_LINES, "mistake"), (MANY_LINES + 1, "… (2 lines left out)")])
def test_of_many_lines_the_first_are_written(number: int, last: str) -> None:
    written = lines(["mistake"] * number).split("\n")
    assert len(written) == MANY_LINES
    assert written[-1] == last


def test_a_command_prints_lines_and_one_for_each_text() -> None:
    out = io.StringIO()
    say("größer", "a\nb\x1b[2J", "\udcff", file=out)
    assert out.getvalue() == "größer\n" + r"a\nb\x1b[2J" + "\n" + r"\xff" + "\n"


def test_a_terminal_of_another_encoding_gets_what_it_has() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    say("größer", "東京", file=out)
    out.seek(0)
    assert out.read() == "größer\n" + r"\u6771\u4eac" + "\n"


def test_a_document_for_programs_is_safe_for_who_takes_its_values_out(capsys: pytest.CaptureFixture[str]) -> None:
    say_json({"why": ["a\x1b[2J\nb"]})
    assert json.loads(capsys.readouterr().out) == {"why": [r"a\x1b[2J\nb"]}


# -- addresses, which stand in every sentence about a member


@pytest.mark.parametrize("zone", ["\x1b[31m", "a\nb", "", "a b", "\u202e", "x" * 65, "a/b", "a%b"])
def test_a_zone_that_is_no_name_of_an_interface_is_no_address(zone: str) -> None:
    with pytest.raises(ValueError, match="is not an IPv6 address"):
        parse_endpoint(f"[fe80::1%{zone}]:27017")
    assert peers_of({"hosts": [f"[fe80::1%{zone}]:27017", "b:1"]}) == {"b:1"}


def test_a_zone_that_is_one_stays() -> None:
    assert parse_endpoint("[fe80::1%eth0.100]:27017") == ("fe80::1%eth0.100", 27017)
