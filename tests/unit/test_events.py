import re
import string
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.model.base import CHAIN, RESTART, WORKERS
from watchdogd.model.told import Event, FieldValue, Tell
from watchdogd.report.events import CATALOG, Priority, sentence
from watchdogd.report.words import count, duration, timestamp

# As policy and the daemon send them: every field of every event.
FIELDS: dict[Event, dict[str, FieldValue]] = {
    Event.STARTED: {"version": "0.1.0", "mode": "act", "deployments": 1, "instances": 2},
    Event.SOCKETS_FROM_PROC: {"reason": "netlink is forbidden: add AF_NETLINK to RestrictAddressFamilies= of the unit"},
    Event.MEMBER_DOWN: {"reason": "connection refused"},
    Event.MEMBER_UP: {"seconds": 12.3, "restarted": True},
    Event.MEMBER_RESTARTED: {"process_id": "65f1c0ffee"},
    Event.LEFTOVERS_FOUND: {"leftovers": 4, "workers": 3, "until_s": 15.0},
    Event.HEALED: {"seconds": 9.5, "reconnected": 2},
    Event.RELOAD_DUE: {"stranded": 2, "idle": 1, "leftovers": 4, "why": "2 of 3 workers are stranded"},
    Event.RELOAD_HELD: {"reason": "3 unproven reloads, of 3 allowed", "until_s": 1800.0},
    Event.RELOAD_SENT: {"fifo": "/run/uwsgi/app/shop/fifo", "workers": 3, "why": "stranded", "resent": False},
    Event.RELOADED: {"seconds": 1.2, "workers": 3},
    Event.RECOVERED: {"seconds": 21.0},
    Event.RELOAD_FAILED: {"reason": "2 old workers are still there after 63 s"},
    Event.OVERTAKEN: {"reason": "127.0.0.1:27017 is down"},
    Event.REPLACED: {"reason": "uWSGI was stopped"},
    Event.GAVE_UP: {"reason": "the reload did not help", "until_s": 1800.0},
    Event.BLIND: {"scope": "sockets", "reason": "netlink: operation not permitted; add CAP_NET_ADMIN"},
    Event.SEEING_AGAIN: {"scope": "sockets"},
    Event.INSTANCE_ABSENT: {"fifo": "/run/uwsgi/app/shop/fifo"},
    Event.INSTANCE_BACK: {"pid": 4711},
    Event.CONFIG_RELOADED: {"instances": 2, "deployments": 1},
    Event.CONFIG_REJECTED: {"mistakes": "config.yaml:3:1: intervall: unknown key; did you mean interval"},
    Event.PAUSED: {"until": "2026-11-22T12:00:00.000Z", "reason": "release", "by": "uid 0"},
    Event.RESUMED: {"by": "uid 0"},
    Event.STOPPING: {},
}
MESSAGE_IDS = {
    "started": "51a486bb9f06487e8e9ac3d22a8ccade",
    "sockets_from_proc": "4b7bb504f87b4633b723dc9a66685ae8",
    "member_down": "b37006225464499d9ef8c3f3f045d348",
    "member_up": "827e022204364cd1b2d29be344c37d18",
    "member_restarted": "7b76c5f2cc994d579ecdfcdc877ba24e",
    "leftovers_found": "7c26e14f1fa0456a9d87d48d001fbc5f",
    "healed": "2194870b9d8e44abbeacbe7a7500a21d",
    "reload_due": "7db66547e3c74cc0b6ba9ea19058d317",
    "reload_held": "332f2dd23ebd435986b3319ca275eb9d",
    "reload_sent": "6d28ba5cd20c4020af35862fe1265e85",
    "reloaded": "fcd0483d516244da88ad351d2e3dbca0",
    "recovered": "b55d36224135485e8957faf7bcd7ada7",
    "reload_failed": "0b6fba765a594818af03030ad9841721",
    "overtaken": "92593566c40f4628bbf04edfc44b8943",
    "replaced": "b165c16fb4ff4a0dab8307e01f0c3cc5",
    "gave_up": "3cc28e39a51e4b6f98b2ae63b21caf69",
    "blind": "288777a3e07347b1a4f25c1136fae172",
    "seeing_again": "c73fd5def051435082544d0ef45c87d8",
    "instance_absent": "da26ec943bb4429c9a6c5b6689e96a17",
    "instance_back": "64ab5eb8c70f4f5eb788f692578ebac4",
    "config_reloaded": "ba0591ea71ef47de90fd54901ea3b109",
    "config_rejected": "a80bd32bd3634a449309a35c4f46954a",
    "paused": "50fb6344e0bd4176bb7b761b1d43f067",
    "resumed": "05c937c221bb4649944632feba435abe",
    "stopping": "ceabfa4c7ded49128935a80627678743",
}
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


def told(event: Event, **fields: FieldValue) -> str:
    return sentence(Tell(event, "shop", "127.0.0.1:27017", "shop-1", WORKERS, "budget", fields))


def placeholders(template: str) -> set[str]:
    return {name.partition(":")[0] for name in re.findall(r"\{([^}]+)\}", template)} | set(
        re.findall(r"\[(\w+)(?:=\w+)?\?", template)
    )


def test_every_event_has_its_entry() -> None:
    assert set(CATALOG) == set(Event) == set(FIELDS)


def test_message_ids_are_128_random_bits_each_its_own() -> None:
    ids = [entry.message_id for entry in CATALOG.values()]
    assert len(set(ids)) == len(ids)
    assert all(uuid.UUID(hex=one).version == 4 and uuid.UUID(hex=one).hex == one for one in ids)


# Filters and alerts out there are written with these: a change of one breaks them in silence.
def test_message_ids_never_change() -> None:
    assert {event.value: CATALOG[event].message_id for event in Event} == MESSAGE_IDS


@pytest.mark.parametrize("event", Event)
def test_a_full_sentence_shows_its_fields_and_no_trace_of_the_template(event: Event) -> None:
    text = told(event, **FIELDS[event])
    assert not re.search(r"[\[\]{}?]|None|  |\.\.|^\s|\s$", text), text
    assert text[0].isupper() or text.startswith(("shop", "mongo-watchdog"))
    known = FIELDS[event].keys() | {"instance", "member", "command", "blocked_by"}
    assert placeholders(CATALOG[event].sentence) <= known | {"until_s", "reason"}


@pytest.mark.parametrize("event", Event)
def test_a_sentence_without_any_field_is_still_one(event: Event) -> None:
    text = sentence(Tell(event))
    assert not re.search(r"[\[\]{}?]|None|  |\.\.|^\s|\s$|: *\.", text), text
    assert text.endswith(".") or event is Event.CONFIG_REJECTED


@pytest.mark.parametrize("event", Event)
def test_the_advice_is_two_to_four_sentences(event: Event) -> None:
    advice = CATALOG[event].what_to_do
    assert 2 <= len(re.findall(r"[.:](?: |$)", advice)) <= 5
    assert advice.endswith(".")


@given(st.sampled_from(Event), st.dictionaries(st.sampled_from([*"abc", "reason", "seconds", "until_s"]), VALUES))
def test_no_field_of_any_value_breaks_a_sentence(event: Event, fields: dict[str, FieldValue]) -> None:
    assert sentence(Tell(event, fields=fields))


@given(st.text(alphabet=string.printable.rstrip("\t\n\r\v\f") + "ö"))
def test_what_a_value_holds_is_never_taken_for_the_template(value: str) -> None:
    assert value.rstrip(".") in told(Event.RELOAD_FAILED, reason=value + "{instance}[x?y]") or not value


def test_the_sentences_people_will_see_most() -> None:
    shown = FIELDS
    assert told(Event.RELOAD_DUE, **shown[Event.RELOAD_DUE]) == (
        "shop does not heal by itself and needs a workers reload: 2 of 3 workers are stranded "
        "(2 stranded workers, 1 idle worker, 4 dead connections)."
    )
    assert told(Event.RELOAD_SENT, **shown[Event.RELOAD_SENT]) == (
        "Sent shop a workers reload for 3 workers: stranded."
    )
    assert told(Event.RELOAD_SENT, resent=True) == (
        "Sent shop a workers reload once more, because the first one was lost."
    )
    assert told(Event.RECOVERED, seconds=21.0) == (
        "shop recovered after 21 s: every worker that is used has a working connection to MongoDB."
    )
    assert told(Event.RELOAD_HELD, reason="paused by an operator: release", until_s=1800.0) == (
        "shop needs a workers reload, which is held back (budget): paused by an operator: release; for another 30 min."
    )
    assert told(Event.HEALED, seconds=9.5, reconnected=2) == (
        "shop needs no reload after 9.5 s: it is well again by itself, 2 workers reached MongoDB anew."
    )
    assert told(Event.HEALED, seconds=9.5, reconnected=0) == (
        "shop needs no reload after 9.5 s: none of its workers is stranded, "
        "though none was seen to reach MongoDB anew yet."
    )
    assert told(Event.MEMBER_UP, seconds=8.04) == "MongoDB 127.0.0.1:27017 answers again after 8 s."


def test_the_mode_is_told_when_nothing_will_be_reloaded() -> None:
    assert "only observes" in told(Event.STARTED, mode="observe")
    assert "only observes" not in told(Event.STARTED, mode="act")


@pytest.mark.parametrize(
    ("command", "words"), [(WORKERS, "workers reload"), (CHAIN, "chain reload"), (RESTART, "whole stack")]
)
def test_a_command_is_told_in_words(command: str, words: str) -> None:
    tell = Tell(Event.RELOAD_DUE, "shop", command=command)  # type: ignore[arg-type]
    assert words in sentence(tell)


def test_what_needs_somebody_is_an_error_and_what_ends_well_is_not() -> None:
    errors = {event for event in Event if CATALOG[event].priority is Priority.ERR}
    assert errors == {Event.RELOAD_FAILED, Event.GAVE_UP, Event.BLIND, Event.CONFIG_REJECTED}
    for event in (Event.HEALED, Event.RECOVERED, Event.MEMBER_UP, Event.SEEING_AGAIN):
        assert CATALOG[event].priority is Priority.NOTICE


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (15.2, "15 s"),
        (59.6, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (3780, "1 h 3 min"),
        (187200, "2 d 4 h"),
        (float("inf"), "an unknown time"),
        (float("nan"), "an unknown time"),
        (-1, "an unknown time"),
    ],
)
def test_a_duration_is_written_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_number_stands_with_its_noun() -> None:
    assert [count(one, "worker") for one in (0, 1, 2, "12, 13")] == [
        "0 workers",
        "1 worker",
        "2 workers",
        "12, 13",
    ]


def test_a_time_is_rfc_3339_in_utc_with_milliseconds() -> None:
    assert timestamp(1795341600.1239) == "2026-11-22T10:00:00.123Z"
    assert timestamp(1795341599.9999) == "2026-11-22T09:59:59.999Z"
    assert timestamp(-0.5) == "1969-12-31T23:59:59.500Z"
