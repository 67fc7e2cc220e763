import re
import string
import typing
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.world.prose import too_long
from tests.world.values import values
from watchdogd.model.base import CHAIN, RESTART, WORKERS, Command
from watchdogd.model.told import (
    TYPES,
    AccessControlOn,
    ConfigRejected,
    ConfigReloaded,
    EndedByUs,
    Event,
    GaveUp,
    Healed,
    HungEnded,
    HungFound,
    HungLeft,
    InstanceAbsent,
    InstanceBack,
    InstanceShown,
    InstanceWatched,
    LeftoversFound,
    MemberDown,
    MemberRestarted,
    MemberUp,
    MoreInstances,
    MuleEnded,
    MuleLeft,
    MuleRenewed,
    MuleStuck,
    NoInstance,
    NotCovered,
    Overtaken,
    Paused,
    ProbeBlind,
    ProbeIndependent,
    Recovered,
    ReloadAsked,
    ReloadDue,
    Reloaded,
    ReloadFailed,
    ReloadHeld,
    ReloadSent,
    ReloadUnproven,
    ReloadUnsent,
    Replaced,
    Resumed,
    SeeingAgain,
    SocketsFromProc,
    Started,
    StateBack,
    StateElsewhere,
    StillOpen,
    Stopping,
    Tell,
    ThreadsOff,
    Unproven,
    WentBlind,
    What,
)
from watchdogd.report.events import CATALOG, Priority, sentence
from watchdogd.report.words import count, duration, timestamp

# One of each, with every field.
WHATS: tuple[What, ...] = (
    Started("0.1.0", "act", 1, 2),
    SocketsFromProc("netlink is forbidden: add AF_NETLINK to RestrictAddressFamilies= of the unit"),
    MemberDown("main", "connection refused", "down"),
    MemberUp("main", 12.3, restarted=True),
    MemberRestarted("main", "65f1c0ffee"),
    AccessControlOn("main"),
    LeftoversFound(4, 3, 15.0),
    Unproven(nobody=False, workers=2),
    Healed(9.5, 2),
    ReloadAsked(WORKERS, "alice", 1000, 4711, now=True, past="cooldown, gave_up"),
    ReloadDue(WORKERS, "2 of 3 workers are stranded", 2, 1, 4),
    ReloadHeld(WORKERS, "budget", "3 unproven reloads, of 3 allowed", 1800.0),
    ReloadSent(WORKERS, 3, resent=False, fifo="/run/uwsgi/app/shop/fifo"),
    Reloaded(WORKERS, 1.2, 3),
    Recovered(WORKERS, 21.0, 3),
    ReloadFailed(WORKERS, "2 old workers are still there after 63 s"),
    ReloadUnsent(WORKERS, "/run/uwsgi/app/shop/fifo may not be written by uid 990"),
    ReloadUnproven(WORKERS, "another reload was asked for before anybody had used it"),
    Overtaken(WORKERS),
    Replaced("uWSGI was stopped"),
    EndedByUs(WORKERS),
    GaveUp("the reload did not help", 1800.0),
    StillOpen(3600.0, "it was given up, since the reload did not help", "look into its log", "budget", 60.0),
    ThreadsOff(4711),
    HungFound("worker 4711", 4711, "it waits for Python's GIL"),
    HungEnded(4711),
    HungLeft("nobody may end it"),
    MuleStuck("mule 4711", 4711, "it has had tasks since MongoDB went away"),
    MuleEnded("mule 4711", 4711),
    MuleRenewed("mule 4712", reached=True),
    MuleLeft("a fork is not safe"),
    ProbeBlind("http://127.0.0.1:8080/ping", "400"),
    ProbeIndependent("http://127.0.0.1:8080/ping"),
    WentBlind("sockets", "netlink: operation not permitted; add CAP_NET_ADMIN"),
    SeeingAgain("sockets"),
    StateElsewhere("it is kept in /run/mongo-watchdog, since /var/lib/x: No space left on device"),
    StateBack(),
    InstanceAbsent("/run/uwsgi/app/shop/fifo", "perhaps /run/shop/fifo2 is meant, which uWSGI master 100 reads"),
    InstanceBack(4711),
    InstanceWatched(True, 4711, 3, "/run/uwsgi/app/shop/fifo", "workers, chain", "act"),
    InstanceShown(False, 4711, 3, "/run/uwsgi/app/shop/fifo", "root runs it"),
    MoreInstances(40, 38, 2),
    NoInstance(),
    NotCovered("uWSGI master 4711 has no master FIFO"),
    ConfigReloaded(1, 2),
    ConfigRejected(("config.yaml:3:1: intervall: unknown key; did you mean interval",)),
    Paused("release", 60.0, "uid 0"),
    Resumed("uid 0"),
    Stopping(),
)
FULL = {one.event: one for one in WHATS}
MESSAGE_IDS = {
    "started": "51a486bb9f06487e8e9ac3d22a8ccade",
    "sockets_from_proc": "4b7bb504f87b4633b723dc9a66685ae8",
    "member_down": "b37006225464499d9ef8c3f3f045d348",
    "member_up": "827e022204364cd1b2d29be344c37d18",
    "member_restarted": "7b76c5f2cc994d579ecdfcdc877ba24e",
    "access_control_on": "eb269788a515406d9d05a098e5dd28b6",
    "leftovers_found": "7c26e14f1fa0456a9d87d48d001fbc5f",
    "unproven": "c015d74e5b9344d2a0fdb8473af0fe32",
    "healed": "2194870b9d8e44abbeacbe7a7500a21d",
    "reload_asked": "f60622d00c334ad8866dd64c41547160",
    "reload_due": "7db66547e3c74cc0b6ba9ea19058d317",
    "reload_held": "332f2dd23ebd435986b3319ca275eb9d",
    "reload_sent": "6d28ba5cd20c4020af35862fe1265e85",
    "reloaded": "fcd0483d516244da88ad351d2e3dbca0",
    "recovered": "b55d36224135485e8957faf7bcd7ada7",
    "reload_failed": "0b6fba765a594818af03030ad9841721",
    "reload_unsent": "2f5fd98b726941399aae02f107603fcf",
    "reload_unproven": "b2537db1a83a4f31b69cdadf7c5838e5",
    "overtaken": "92593566c40f4628bbf04edfc44b8943",
    "replaced": "b165c16fb4ff4a0dab8307e01f0c3cc5",
    "ended_by_us": "913fc440db7045148d6cbac56cad7f0f",
    "gave_up": "3cc28e39a51e4b6f98b2ae63b21caf69",
    "still_open": "66fe62c5a3254d7483f7e75ced063ab6",
    "threads_off": "9222702be09740e790973a395d3ea069",
    "hung_found": "534394b56c88453d948a8c6d9ba0cf74",
    "hung_ended": "b76f7ad78775405a8417d31931648210",
    "hung_left": "d2638c6c705e46378b1144c34c87580c",
    "mule_stuck": "85ee125ed1bb4bab96ec7c561c22785b",
    "mule_ended": "a77f3dc324c4400d9e7ecbd75fdd2480",
    "mule_renewed": "57053030448d4d2dab88ae239084c06f",
    "mule_left": "e70cdcdee84a4ea6bbb3e26476617bfa",
    "probe_blind": "6caa942b31e14b4ea11c90f5f17534b8",
    "probe_independent": "9376ad6cfb2145e09fdf196df98ebd8c",
    "blind": "288777a3e07347b1a4f25c1136fae172",
    "seeing_again": "c73fd5def051435082544d0ef45c87d8",
    "state_elsewhere": "8b503e2b4bb34fb1808670e4e1011b38",
    "state_back": "7a4fa1a91156479d948c332a05bd8b5d",
    "instance_absent": "da26ec943bb4429c9a6c5b6689e96a17",
    "instance_back": "64ab5eb8c70f4f5eb788f692578ebac4",
    "instance_watched": "499bd1e079574122b08bb1f7a0f2dcf5",
    "instance_shown": "d7d7941efb8240948d98369a771a9b60",
    "more_instances": "d46134f5f02d449c9481476f3dea0362",
    "no_instance": "e334fe2b90e94146a7fd9f2ab8e91b26",
    "not_covered": "14bdb728e1844bc2977fbda65ba91834",
    "config_reloaded": "ba0591ea71ef47de90fd54901ea3b109",
    "config_rejected": "a80bd32bd3634a449309a35c4f46954a",
    "paused": "50fb6344e0bd4176bb7b761b1d43f067",
    "resumed": "05c937c221bb4649944632feba435abe",
    "stopping": "ceabfa4c7ded49128935a80627678743",
}


def told(what: What) -> str:
    return sentence(Tell(what, "shop", "127.0.0.1:27017", "shop-1"))


def placeholders(template: str) -> set[str]:
    return {name.partition(":")[0] for name in re.findall(r"\{([^}]+)\}", template)} | set(
        re.findall(r"\[(\w+)(?:=\w+)?\?", template)
    )


def test_every_event_has_its_entry() -> None:
    assert set(CATALOG) == set(Event) == set(FULL) == set(TYPES)


def test_message_ids_are_128_random_bits_each_its_own() -> None:
    ids = [entry.message_id for entry in CATALOG.values()]
    assert len(set(ids)) == len(ids)
    assert all(uuid.UUID(hex=one).version == 4 and uuid.UUID(hex=one).hex == one for one in ids)


# Filters and alerts out there are written with these: a change of one breaks them in silence.
def test_message_ids_never_change() -> None:
    assert {event.value: CATALOG[event].message_id for event in Event} == MESSAGE_IDS


@pytest.mark.parametrize("event", Event)
def test_a_full_sentence_shows_its_fields_and_no_trace_of_the_template(event: Event) -> None:
    text = told(FULL[event])
    assert not re.search(r"[\[\]{}?]|None|  |\.\.|^\s|\s$", text), text
    assert text[0].isupper() or text.startswith(("shop", "mongo-watchdog", "uWSGI"))


@pytest.mark.parametrize("event", Event)
def test_every_clause_of_a_sentence_can_be_filled_and_only_what_may_be_missing_stands_in_brackets(event: Event) -> None:
    template, types = CATALOG[event].sentence, typing.get_type_hints(TYPES[event])
    maybe = {name for name in types if type(None) in typing.get_args(types[name])}
    flags = {name for name, kind in types.items() if kind in {bool, str, int}}
    assert placeholders(template) <= types.keys() | {"instance", "member"}
    always = re.sub(r"\[[^\[\]]*\]", "", template)
    assert not placeholders(always) & (maybe - {"instances"})  # without a number: every one that is found
    for part in re.findall(r"\[([^\[\]]*)\]", template):
        flag = re.match(r"(\w+)(?:=\w+)?\?", part)
        assert (flag and flag[1] in flags) or placeholders(part) & (maybe | {"instance"}), part


@given(st.sampled_from(list(TYPES.values())).flatmap(values))
def test_no_field_of_any_value_breaks_a_sentence(what: What) -> None:
    assert sentence(Tell(what))
    text = sentence(Tell(what, "shop", "127.0.0.1:27017"))
    assert text.isprintable() or isinstance(what, ConfigRejected)


@pytest.mark.parametrize("event", Event)
def test_the_advice_is_two_to_four_sentences(event: Event) -> None:
    advice = CATALOG[event].what_to_do
    assert 2 <= len(re.findall(r"[.:](?: |$)", advice)) <= 5
    assert advice.endswith(".")


@pytest.mark.parametrize("event", Event)
def test_no_advice_needs_a_second_reading(event: Event) -> None:
    assert too_long([CATALOG[event].what_to_do]) == []


@given(st.text(alphabet=string.printable.rstrip("\t\n\r\v\f") + "ö"))
def test_what_a_value_holds_is_never_taken_for_the_template(value: str) -> None:
    assert value.rstrip(".") in told(ReloadFailed(WORKERS, value + "{instance}[x?y]")) or not value


def test_the_sentences_people_will_see_most() -> None:
    assert told(FULL[Event.RELOAD_DUE]) == (
        "shop does not heal by itself and needs a workers reload: 2 of 3 workers are stranded "
        "(2 stranded workers, 1 idle worker, 4 dead connections)."
    )
    assert told(FULL[Event.RELOAD_ASKED]) == (
        "shop is to get a workers reload now, past cooldown, gave_up: alice (uid 1000, pid 4711) asked for it."
    )
    assert told(ReloadAsked(WORKERS, "an operator", None, None, now=False, past=None)) == (
        "shop is to get a workers reload: an operator asked for it."
    )
    assert told(StillOpen(86400.0, "it waits for MongoDB to serve again", "see to MongoDB", None, None)) == (
        "shop has been in an incident for 1 d: it waits for MongoDB to serve again. What helps: see to MongoDB."
    )
    assert told(FULL[Event.RELOAD_SENT]) == "Sent shop a workers reload for 3 workers."
    assert told(ReloadSent(WORKERS, 3, resent=True, fifo="/run/fifo")) == (
        "Sent shop a workers reload for 3 workers, once more: the first one was lost."
    )
    assert told(Recovered(WORKERS, 21.0, 3)) == (
        "shop reaches MongoDB again after 21 s: every worker that is used has connections; whether requests succeed is "
        "not seen."
    )
    assert told(Recovered(WORKERS, 21.0, 3, access="127.0.0.1:27017")) == (
        "shop reaches MongoDB again after 21 s: every worker that is used has connections; whether requests succeed is "
        "not seen. If requests fail, the likely cause is that access control of 127.0.0.1:27017 is on, and was off "
        "before."
    )
    assert told(AccessControlOn("main")) == (
        "MongoDB 127.0.0.1:27017 has access control on, and had not before: every request without credentials fails."
    )
    assert told(ReloadHeld(WORKERS, "budget", "paused by an operator: release", 1800.0)) == (
        "shop needs a workers reload, which is held back (budget): paused by an operator: release; for another 30 min."
    )
    assert told(Healed(9.5, 2)) == (
        "shop needs no reload after 9.5 s: it is well again by itself, 2 workers reached MongoDB anew."
    )
    assert told(Healed(9.5, 0)) == (
        "shop needs no reload after 9.5 s: it is well again by itself, what does its tasks reached MongoDB anew."
    )
    assert told(Unproven(nobody=True, workers=0)) == "MongoDB serves; nobody of shop has used it yet."
    assert told(Unproven(nobody=False, workers=1)) == (
        "MongoDB serves; not all of shop was seen to reach it yet: 1 worker without a connection."
    )
    assert told(MemberUp("main", 8.04, restarted=False)) == "MongoDB 127.0.0.1:27017 answers again after 8 s."


def test_what_is_watched_is_told_where_instances_are_found_too() -> None:
    assert told(Started("0.1.0", "act", 1, 2)) == (
        "mongo-watchdog 0.1.0 started and watches 1 MongoDB deployment and 2 uWSGI instances."
    )
    every = "1 MongoDB deployment and every uWSGI instance with a master FIFO that it finds."
    assert told(Started("0.1.0", "act", 1, None)) == f"mongo-watchdog 0.1.0 started and watches {every}"
    assert told(ConfigReloaded(1, None)).endswith(f"is in force: {every}")


def test_the_mode_is_told_when_nothing_will_be_reloaded() -> None:
    assert "only observes" in told(Started("0.1.0", "observe", 1, 2))
    assert "only observes" not in told(Started("0.1.0", "act", 1, 2))


def test_who_is_watched_and_who_is_only_shown_is_told_with_what_may_be_done() -> None:
    fifo = "/run/uwsgi/app/shop/fifo"
    assert told(FULL[Event.INSTANCE_WATCHED]) == (
        f"shop is watched (found; master 4711, 3 workers, FIFO {fifo}): "
        "when it is stuck it is reloaded (workers, chain)."
    )
    observed = InstanceWatched(found=False, pid=4711, workers=1, fifo=fifo, ways="workers", mode="observe")
    assert told(observed) == (
        f"shop is watched (configured; master 4711, 1 worker, FIFO {fifo}): "
        "when it is stuck it is reloaded (workers), but never in mode observe."
    )
    unseen = InstanceShown(found=False, pid=None, workers=0, fifo=fifo, reason="it cannot be seen: no permission")
    assert told(unseen) == f"shop is only shown for now (configured, FIFO {fifo}): it cannot be seen: no permission."
    assert told(MoreInstances(40, 38, 2)) == (
        "Not named here: 40 more instances, of which 38 are watched and 2 only shown; "
        "`mongo-watchdog status` lists them."
    )


@pytest.mark.parametrize(
    ("command", "words"), [(WORKERS, "workers reload"), (CHAIN, "chain reload"), (RESTART, "whole stack")]
)
def test_a_command_is_told_in_words(command: Command, words: str) -> None:
    assert words in sentence(Tell(ReloadFailed(command, "why"), "shop"))


def test_what_needs_somebody_is_an_error_and_what_ends_well_is_not() -> None:
    errors = {event for event in Event if CATALOG[event].priority is Priority.ERR}
    assert errors == {
        Event.RELOAD_FAILED,
        Event.RELOAD_UNSENT,
        Event.ENDED_BY_US,
        Event.HUNG_LEFT,
        Event.MULE_LEFT,
        Event.GAVE_UP,
        Event.BLIND,
        Event.CONFIG_REJECTED,
    }
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
