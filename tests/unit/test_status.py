import dataclasses
import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.world.pieces import ALICE
from tests.world.schemas import strict
from tests.world.values import values
from watchdogd import __version__
from watchdogd.config import Config, DeploymentConfig, Mode
from watchdogd.model.base import WORKERS, Endpoint, Incarnation, InstanceId, Interval, MemberId, ProcessId
from watchdogd.model.decided import Blocked, Decision, Outlook
from watchdogd.model.found import Evidence, Finding, Kind, Verdict
from watchdogd.model.remembered import (
    Ending,
    Incident,
    InstanceState,
    LastReload,
    PastIncident,
    Pause,
    Phase,
    ReloadOutcome,
    State,
)
from watchdogd.model.seen import (
    Access,
    Area,
    Backend,
    Blindness,
    Health,
    Instance,
    Member,
    MemberState,
    Mule,
    Role,
    Round,
    Scope,
    Snapshot,
    SocketsFrom,
    Trust,
    Worker,
)
from watchdogd.model.text import THREADS_OFF, Outside
from watchdogd.model.told import Tell, ThreadsOff
from watchdogd.report.events import sentence
from watchdogd.report.status import Watch, document, exit_code, line, render, sees_all
from watchdogd.report.words import NO_INSTANCE

VALIDATOR = strict("status")

AT, WALL = 1000.0, 1795341600.0  # 2026-11-22T10:00:00Z
BORN = Interval(AT - 120, AT - 119)
MAIN = MemberId("main", "127.0.0.1:27017")
UP = Member(MAIN, MemberState.UP, is_serving=True, process_id="65f1c0ffee", born=BORN, since=AT - 60, restarts=1)
STUCK, IDLE, SPOOLER = ProcessId(101, 1), ProcessId(102, 2), ProcessId(104, 4)
SHOP = Instance(
    "shop",
    "/run/uwsgi/app/shop/fifo",
    ("main",),
    master=ProcessId(100, 0),
    workers=(Worker(STUCK, Interval(0, 1)), Worker(IDLE, Interval(0, 1)), Worker(ProcessId(103, 3))),
    mules=(Mule(SPOOLER, Interval(0, 1), role=Role.SPOOLER),),
)
BLOG = dataclasses.replace(SHOP, name="blog", fifo="/run/uwsgi/app/blog/fifo")
FINDING = Finding(
    SHOP.id,
    verdicts={STUCK: Verdict.STRANDED, IDLE: Verdict.IDLE, SPOOLER: Verdict.STRANDED},
    counted={STUCK: 2, IDLE: 1, SPOOLER: 1},
)
QUIET = Outlook(Phase.WATCHING, reloads_left=3)
HELD = Outlook(
    Phase.DUE,
    "reload w",
    AT + 1200,
    (Blocked("budget", "3 unproven reloads, of 3 allowed", AT + 1200), Blocked("mode", "mode is observe")),
)
LAST = LastReload("shop-1", WORKERS, AT - 300, WALL - 300, ReloadOutcome.FAILED, detail="2 old workers are still there")
LOCKED = (
    "127.0.0.1:27017 has access control on since 2026-11-22T09:59:30.000Z (30 s ago), and had not before: every "
    "request without credentials fails"
)
WATCH = Watch(AT - 86400 * 31, AT)
CONFIG = Config(deployments=(DeploymentConfig("main", "mongodb://user:secret@127.0.0.1/"),))


def seen(*instances: Instance, **other: Any) -> Snapshot:  # noqa: ANN401 - whatever a Snapshot has
    return Snapshot(**{"at": AT, "wall": WALL, "members": {MAIN: UP}, "instances": instances, **other})


def decided(outlook: Outlook = QUIET, state: InstanceState = InstanceState(), **of_all: Any) -> Decision:  # noqa: ANN401, B008
    return Decision(State({SHOP.id: state}, **of_all), (), None, {SHOP.id: outlook})


def shown(snapshot: Snapshot, decision: Decision, config: Config = CONFIG) -> dict[str, Any]:
    made = document(snapshot, {SHOP.id: FINDING}, decision, config, WATCH)
    VALIDATOR.validate(made)
    assert json.loads(json.dumps(made)) == made
    return made


def in_one_line(snapshot: Snapshot, decision: Decision, config: Config = CONFIG, finding: Finding = FINDING) -> str:
    return line(snapshot, {finding.instance: finding}, decision, config)


INCIDENT = InstanceState(incident=Incident("shop-i1", AT - 60), last=LAST)


def held() -> dict[str, Any]:
    """An instance with everything: due, held, with a last reload."""
    return shown(seen(SHOP), decided(HELD, INCIDENT))


# ------------------------------------------------------------------------------------------------- the document


def test_the_document_is_what_section_8_of_the_design_says() -> None:
    assert held() == {
        "$schema": "urn:mongo-watchdog:status:1",
        "version": 1,
        "at": "2026-11-22T10:00:00.000Z",
        "daemon": {"version": __version__, "pid": os.getpid(), "since": "2026-10-22T10:00:00.000Z"},
        "seen_whole_at": "2026-11-22T10:00:00.000Z",
        "last_incident": None,
        "mode": "act",
        "paused": None,
        "deployments": [
            {
                "name": "main",
                "serving": True,
                "members": [
                    {
                        "address": "127.0.0.1:27017",
                        "state": "up",
                        "serving": True,
                        "process_id": "65f1c0ffee",
                        "born": "2026-11-22T09:58:00.000Z",
                        "since": "2026-11-22T09:59:00.000Z",
                        "restarts": 1,
                        "detail": None,
                        "learned": [],
                        "access_control": None,
                        "access_control_turned_on": None,
                    }
                ],
            }
        ],
        "instances": [
            {
                "name": "shop",
                "fifo": "/run/uwsgi/app/shop/fifo",
                "deployments": ["main"],
                "state": "due",
                "only_shown": None,
                "blocked_by": [
                    {
                        "gate": "budget",
                        "reason": "3 unproven reloads, of 3 allowed",
                        "until": "2026-11-22T10:20:00.000Z",
                    },
                    {"gate": "mode", "reason": "mode is observe", "until": None},
                ],
                "blind": [],
                "master": {"pid": 100},
                "threads_off": False,
                "workers": [
                    {"pid": 101, "verdict": "stranded", "leftovers": 2},
                    {"pid": 102, "verdict": "idle", "leftovers": 1},
                    {"pid": 103, "verdict": None, "leftovers": 0},
                ],
                "mules": [{"pid": 104, "role": "spooler", "verdict": "stranded", "leftovers": 1}],
                "evidence": [],
                "health": None,
                "next": {"what": "reload w", "at": "2026-11-22T10:20:00.000Z"},
                "incident": "shop-i1",
                "last_reload": {
                    "id": "shop-1",
                    "command": "w",
                    "at": "2026-11-22T09:55:00.000Z",
                    "outcome": "failed",
                    "proven": False,
                    "detail": "2 old workers are still there",
                    "by": None,
                    "now": False,
                },
                "reloads_left": 0,
                "sockets": None,
            }
        ],
        "not_covered": [],
        "blind": [],
        "degraded": None,
        "sockets": {"read_from": "sock_diag", "why": None},
    }


@given(
    values(Snapshot),
    values(State),
    st.data(),
    st.sampled_from(Mode),
)
def test_whatever_is_seen_and_decided_fits_the_schema_and_is_shown(
    snapshot: Snapshot, state: State, data: st.DataObject, mode: Mode
) -> None:
    snapshot = dataclasses.replace(snapshot, at=AT, wall=WALL)
    outlooks = {one.id: data.draw(values(Outlook)) for one in snapshot.instances}
    findings = {one.id: data.draw(values(Finding)) for one in snapshot.instances}
    decision = Decision(state, (), None, outlooks)
    made = document(
        snapshot,
        findings,
        decision,
        dataclasses.replace(CONFIG, mode=mode),
        Watch(AT - 60, data.draw(st.sampled_from([None, AT - 9, AT]))),
    )
    VALIDATOR.validate(made)
    assert all(one.isprintable() for one in render(made).split("\n"))
    for instance in snapshot.instances:
        assert render(made, instance.name)
    assert exit_code(made) in (0, 1)
    assert line(snapshot, findings, decision, CONFIG)


def test_the_password_of_a_uri_is_nowhere() -> None:
    made = held()
    assert "secret" not in json.dumps(made) + render(made)


def test_a_pause_is_shown_with_its_end_if_it_has_one() -> None:
    made = {}
    for until, told in ((AT + 90, "2026-11-22T10:01:30.000Z"), (None, None)):
        made = shown(seen(SHOP), decided(paused=Pause(until, Outside("release"), Outside("alice"))))
        assert made["paused"] == {"until": told, "reason": "release", "by": "alice"}
    assert "\npaused until `mongo-watchdog resume`, by alice: release\n" in render(made)


def test_a_deployment_of_which_nothing_is_known_yet_does_not_serve() -> None:
    made = shown(seen(SHOP, members={}), decided())
    assert made["deployments"] == [{"name": "main", "serving": False, "members": []}]


@pytest.mark.parametrize("state", MemberState)
def test_only_a_member_that_is_up_serves(state: MemberState) -> None:
    made = shown(seen(SHOP, members={MAIN: dataclasses.replace(UP, state=state)}), decided())
    assert made["deployments"][0]["serving"] is (state is MemberState.UP)


# ------------------------------------------------------------------------------------------------- the exit code


def test_0_when_all_is_well() -> None:
    assert exit_code(shown(seen(SHOP), decided())) == 0


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in (Phase.WATCHING, Phase.ABSENT)])
def test_1_while_an_instance_is_in_any_trouble(phase: Phase) -> None:
    assert exit_code(shown(seen(SHOP), decided(Outlook(phase)))) == 1


def test_an_incident_that_only_waits_for_somebody_to_use_the_app_is_shown_and_no_trouble() -> None:
    document = shown(seen(SHOP), decided(QUIET, INCIDENT))
    assert exit_code(document) == 0
    (first, *_) = [line for line in render(document).split("\n") if line.startswith("shop: ")]
    assert first == "shop: watching (MongoDB serves; that it is well was not seen yet)"
    assert "incident shop-i1" in render(document)
    assert in_one_line(seen(SHOP), decided(QUIET, INCIDENT)) == "watching 1 instance: shop unproven"


def test_1_when_nothing_is_watched() -> None:
    assert exit_code(shown(seen(), decided())) == 1
    absent = dataclasses.replace(SHOP, master=None, workers=())
    assert exit_code(shown(seen(absent), decided(Outlook(Phase.ABSENT)))) == 1


def test_a_stopped_app_beside_a_running_one_is_no_trouble() -> None:
    blog = dataclasses.replace(BLOG, master=None, workers=())
    decision = Decision(State(), (), None, {SHOP.id: QUIET, BLOG.id: Outlook(Phase.ABSENT)})
    assert exit_code(shown(seen(SHOP, blog), decision)) == 0


def test_1_for_every_blindness() -> None:
    assert exit_code(shown(seen(SHOP, blind=(Blindness(Scope(Area.SOCKETS), "no right"),)), decided())) == 1
    blind = dataclasses.replace(SHOP, blind=("/proc/100/fd: permission denied",))
    assert exit_code(shown(seen(blind), decided())) == 1


def test_1_for_a_fifo_that_takes_no_byte_which_is_named_before_anything_is_due() -> None:
    decision = decided(Outlook(Phase.WATCHING, blocked_by=(Blocked("fifo", "deleted: it is gone"),), reloads_left=3))
    made = shown(seen(SHOP), decision)
    assert exit_code(made) == 1
    assert "  a reload would be held by fifo: deleted: it is gone\n" in render(made)
    assert in_one_line(seen(SHOP), decision) == "watching 1 instance: no reload can be sent to shop"


def test_1_while_mongodb_does_not_serve() -> None:
    down = dataclasses.replace(UP, state=MemberState.DOWN)
    assert exit_code(shown(seen(SHOP, members={MAIN: down}), decided())) == 1


def test_of_one_instance_the_others_do_not_count() -> None:
    decision = Decision(State(), (), None, {SHOP.id: QUIET, BLOG.id: HELD})
    made = shown(seen(SHOP, BLOG), decision)
    assert [exit_code(made), exit_code(made, "shop"), exit_code(made, "blog")] == [1, 0, 1]


# --------------------------------------------------------------------------------------------- how sockets are read


def test_sockets_that_sock_diag_gives_are_no_news_to_people() -> None:
    made = shown(seen(SHOP), decided())
    assert made["sockets"] == {"read_from": "sock_diag", "why": None}
    assert made["instances"][0]["sockets"] is None
    assert "sockets" not in render(made)


def test_why_they_are_read_from_proc_is_shown_and_is_no_trouble() -> None:
    made = shown(seen(SHOP, sockets=SocketsFrom(Backend.PROC, "netlink is forbidden: allow it")), decided())
    assert made["sockets"] == {"read_from": "proc", "why": "netlink is forbidden: allow it"}
    assert render(made).splitlines()[-1] == (
        "sockets: read from /proc/net/tcp, which knows no ages and costs more: netlink is forbidden: allow it"
    )
    assert exit_code(made) == 0


def test_of_an_instance_in_another_network_namespace_it_is_shown_with_the_instance() -> None:
    far = dataclasses.replace(SHOP, sockets=SocketsFrom(Backend.PROC, "another network namespace"))
    made = shown(seen(far), decided())
    assert made["instances"][0]["sockets"] == {"read_from": "proc", "why": "another network namespace"}
    assert "  sockets: read from /proc/net/tcp, which knows no ages and costs more: another network" in render(made)


def test_where_nothing_can_be_read_the_blindness_says_it_to_people() -> None:
    nothing = SocketsFrom(Backend.NONE, "neither by netlink nor from /proc")
    made = shown(seen(SHOP, sockets=nothing, blind=(Blindness(Scope(Area.SOCKETS), nothing.why),)), decided())
    assert made["sockets"] == {"read_from": "none", "why": nothing.why}
    assert render(made).count(nothing.why) == 1


def test_a_state_that_is_kept_elsewhere_is_shown_as_that_and_not_as_blind() -> None:
    made = shown(seen(SHOP, degraded="no room"), decided())
    assert (made["degraded"], made["blind"], exit_code(made)) == ("no room", [], 1)
    assert "degraded: the state is not in the state folder: no room" in render(made)
    assert in_one_line(seen(SHOP, degraded="no room"), decided()).endswith(": degraded: state")
    assert exit_code({key: value for key, value in made.items() if key != "degraded"}) == 0  # of a daemon of before


@pytest.mark.parametrize(
    ("now", "told"),
    [(False, "(5 min ago), for alice (uid 1000, pid 4711): failed"), (True, "pid 4711), now: failed")],
)
def test_who_asked_for_the_last_reload_is_shown(*, now: bool, told: str) -> None:
    last = dataclasses.replace(LAST, by=ALICE, now=now)
    made = shown(seen(SHOP), decided(state=InstanceState(last=last)))
    one = made["instances"][0]["last_reload"]
    assert (one["by"], one["now"]) == ({"name": "alice", "uid": 1000, "pid": 4711}, now)
    assert told in render(made)


# ----------------------------------------------------------------------------------------------------- threads off


def test_a_master_without_python_threads_is_shown_by_the_words_of_its_event() -> None:
    made = shown(seen(dataclasses.replace(SHOP, threads_off=True), BLOG), decided())
    assert [one["threads_off"] for one in made["instances"]] == [True, False]
    words = THREADS_OFF.format(pid=100)
    assert render(made).count(f"\n  {words}\n") == 1
    assert sentence(Tell(ThreadsOff(100), "shop")) == f"shop: {words}."
    assert "`enable-threads = true`" in words


# ------------------------------------------------------------------------------------------- what somebody can mend


HUNG = Evidence(
    Kind.HUNG, STUCK, AT - 9, AT - 9, "worker 101 hangs since its fork: it waits for Python's GIL", frozenset()
)
SAFE = "`kill -9 101` is safe: it has no request"


def test_a_worker_that_hangs_is_shown_with_what_ends_it_and_is_a_problem() -> None:
    finding = dataclasses.replace(FINDING, evidence=(HUNG,))
    decision = decided(dataclasses.replace(QUIET, ends={STUCK: SAFE}))
    made = document(seen(SHOP), {SHOP.id: finding}, decision, CONFIG, WATCH)
    VALIDATOR.validate(made)
    assert [one["end"] for one in made["instances"][0]["evidence"]] == [SAFE]
    text = render(made).splitlines()
    assert "shop: watching (a process of it hangs)" in text
    assert f"  hung: {HUNG.sentence}; {SAFE}" in text
    assert exit_code(made) == 1
    assert in_one_line(seen(SHOP), decision, finding=finding) == (
        "watching 1 instance: hangs since its fork: process 101 of shop"
    )


def test_an_instance_whose_deployment_is_not_known_is_shown_so_and_is_a_problem() -> None:
    unknown, decision = dataclasses.replace(SHOP, deployments=()), decided(dataclasses.replace(QUIET, only_shown="why"))
    made = shown(seen(unknown), decision)
    assert (made["instances"][0]["deployments"], made["instances"][0]["only_shown"]) == ([], "why")
    text = render(made).splitlines()
    assert "shop: watching (only shown)" in text
    assert "  only shown: why" in text
    assert exit_code(made) == 1
    assert in_one_line(seen(unknown), decision) == ("watching 1 instance: deployment not known, so only shown: shop")


def test_an_instance_that_is_only_shown_for_another_reason_is_no_problem_and_not_nothing_to_do() -> None:
    decision = decided(dataclasses.replace(QUIET, only_shown="root runs it"))
    assert exit_code(shown(seen(SHOP), decision)) == 0
    assert in_one_line(seen(SHOP), decision) == "watching 1 instance: only shown: shop"


@pytest.mark.parametrize(
    ("changes", "meaning"),
    [
        ({}, "nothing to do"),
        ({"blind": ("no permission",)}, "not all of it is seen"),
        ({"threads_off": True}, "only a restart would help it"),
    ],
)
def test_nothing_to_do_stands_only_at_an_instance_that_is_well(changes: dict[str, Any], meaning: str) -> None:
    assert f"shop: watching ({meaning})" in render(shown(seen(dataclasses.replace(SHOP, **changes)), decided()))


def test_the_worst_that_is_known_comes_first_in_the_line_of_systemd() -> None:
    silent = MemberId("other", "10.0.0.9:27017")
    other = DeploymentConfig("other", "mongodb://10.0.0.9/")
    snapshot = seen(
        dataclasses.replace(SHOP, threads_off=True, deployments=()),
        dataclasses.replace(BLOG, master=None),
        members={MAIN: dataclasses.replace(UP, state=MemberState.DOWN), silent: Member(silent, MemberState.UNKNOWN)},
        blind=(Blindness(Scope(Area.SOCKETS), "y"),),
        not_covered=("uWSGI master 7 has no FIFO", "uWSGI master 8 has none"),
    )
    gave_up = Outlook(Phase.GAVE_UP, blocked_by=(Blocked("fifo", "deleted"),), only_shown="why")
    decision = Decision(State(paused=Pause(None)), (), None, {SHOP.id: gave_up, BLOG.id: Outlook(Phase.ABSENT)})
    config = dataclasses.replace(CONFIG, deployments=(*CONFIG.deployments, other), mode=Mode.OBSERVE)
    finding = dataclasses.replace(FINDING, evidence=(HUNG,))
    assert in_one_line(snapshot, decision, config, finding).split("; ") == [
        "watching 1 instance: shop gave up",
        "blind: sockets",
        "MongoDB does not serve: main",
        "MongoDB has not answered yet: other",
        "hangs since its fork: process 101 of shop",
        "no reload can be sent to shop",
        "runs without Python threads: shop",
        "deployment not known, so only shown: shop",
        "does not run: blog",
        "not covered: uWSGI master 7 has no FIFO and 1 more",
        "paused until `mongo-watchdog resume`",
        "mode observe: nothing is ever reloaded",
    ]


def test_without_any_instance_the_line_of_systemd_says_what_to_do() -> None:
    assert in_one_line(seen(), Decision(State(), (), None, {})) == f"nothing is watched: {NO_INSTANCE}"


# ------------------------------------------------------------------------------------------------------ for people


def test_people_see_what_is_what_comes_next_and_what_holds_it() -> None:
    assert render(held()) == "\n".join(
        [
            f"mongo-watchdog {__version__} (pid {os.getpid()}), 2026-11-22T10:00:00.000Z",
            "watching since 2026-10-22T10:00:00.000Z (31 d ago); all of it is seen",
            "last incident: none is remembered",
            "",
            "MONGODB  MEMBER           STATE  SERVING  FOR    RESTARTS  STARTED    AUTH",
            "main     127.0.0.1:27017  up     yes      1 min  1         2 min ago  -",
            "",
            "shop: due (it needs a reload)",
            "  master 100, FIFO /run/uwsgi/app/shop/fifo, incident shop-i1",
            "  WORKER  VERDICT   LEFTOVERS",
            "  101     stranded  2",
            "  102     idle      1",
            "  103     unknown   0",
            "  spooler 104: stranded, 1 leftover",
            "  next: reload w (workers reload), 2026-11-22T10:20:00.000Z (in 20 min)",
            "  held by budget: 3 unproven reloads, of 3 allowed; until 2026-11-22T10:20:00.000Z (in 20 min)",
            "  held by mode: mode is observe",
            "  last: workers reload 2026-11-22T09:55:00.000Z (5 min ago): failed: 2 old workers are still there",
            "  0 reloads left in the budget",
        ]
    )


def test_people_see_what_the_app_answers_and_what_that_is_worth() -> None:
    asked = Round(AT - 20, AT - 15, 6, 4, 2, "500")
    health = Health("http://127.0.0.1/ping", Trust.DEPENDENT, AT - 15, good=False, says="500", round=asked)
    made = shown(seen(dataclasses.replace(SHOP, health=health)), decided())
    assert (
        "  health: its answers depend on MongoDB\n"
        "  last health request: bad (500), 2026-11-22T09:59:45.000Z (15 s ago)\n"
        "  health requests at once: 4 of 6 good, 2026-11-22T09:59:45.000Z (15 s ago)\n"
    ) in render(made)
    assert exit_code(made) == 0  # the evidence says whether that is a trouble


@pytest.mark.parametrize("trust", Trust)
def test_what_no_answer_has_come_to_yet_is_shown_too(trust: Trust) -> None:
    made = shown(seen(dataclasses.replace(SHOP, health=Health("http://127.0.0.1/ping", trust))), decided())
    assert "  health: " in render(made)
    assert "last health request" not in render(made)


@pytest.mark.parametrize(
    ("whole", "told"),
    [
        (AT, "all of it is seen"),
        (AT - 60, "not all of it is seen; it last was 2026-11-22T09:59:00.000Z (1 min ago)"),
        (None, "not all of it has been seen yet"),
    ],
)
def test_people_see_since_when_it_watches_and_when_all_was_last_seen(whole: float | None, told: str) -> None:
    made = document(seen(SHOP), {}, decided(), CONFIG, Watch(AT - 120, whole))
    VALIDATOR.validate(made)
    assert render(made).split("\n")[1] == f"watching since 2026-11-22T09:58:00.000Z (2 min ago); {told}"


@pytest.mark.parametrize("ending", Ending)
def test_people_see_the_last_incident_and_how_it_ended(ending: Ending) -> None:
    past = PastIncident("shop-i1", "shop", WALL - 3600, WALL - 3540, ending)
    (line,) = [one for one in render(shown(seen(SHOP), decided(last_incident=past))).split("\n") if "last inc" in one]
    assert line.startswith("last incident: shop, 2026-11-22T09:00:00.000Z (1 h ago): ")
    assert line.endswith(", after 1 min")


def test_all_is_seen_where_nothing_is_blind_and_everybody_was_heard() -> None:
    whole = seen(SHOP)
    assert sees_all(whole, decided())
    assert not sees_all(dataclasses.replace(whole, blind=(Blindness(Scope(Area.SOCKETS), "x"),)), decided())
    assert not sees_all(seen(dataclasses.replace(SHOP, blind=("x",))), decided())
    assert not sees_all(whole, dataclasses.replace(decided(), faults={SHOP.id: "a bug"}))
    unheard = Member(MAIN, MemberState.UNKNOWN)
    assert not sees_all(seen(SHOP, members={MAIN: unheard}), decided())
    assert sees_all(seen(SHOP, members={MAIN: dataclasses.replace(unheard, unneeded="inside")}), decided())


def test_people_see_what_is_blind_not_covered_paused_and_only_observed() -> None:
    snapshot = seen(
        dataclasses.replace(SHOP, blind=("its sockets are in another network namespace",)),
        blind=(Blindness(Scope(Area.DEPLOYMENT, "main"), "DNS: no such host"),),
        not_covered=("master 4711 has no FIFO: add `master-fifo = /run/uwsgi/blog/fifo`",),
    )
    observe = dataclasses.replace(CONFIG, mode=Mode.OBSERVE)
    text = render(shown(snapshot, decided(paused=Pause(AT + 60, Outside("release"))), observe))
    assert "mode observe: nothing is ever reloaded" in text
    assert "paused until 2026-11-22T10:01:00.000Z (in 1 min): release" in text
    assert "  blind: its sockets are in another network namespace" in text
    assert "blind: deployment main: DNS: no such host" in text
    assert "not covered: master 4711 has no FIFO: add `master-fifo = /run/uwsgi/blog/fifo`" in text


def test_people_see_why_a_member_is_down() -> None:
    down = Member(MAIN, MemberState.DOWN, since=AT - 7, detail="connection refused")
    text = render(shown(seen(SHOP, members={MAIN: down}), decided(Outlook(Phase.OUTAGE, "MongoDB to serve again"))))
    assert "down   no       7 s  0         -        -\n" in text
    assert "\n127.0.0.1:27017 is down: connection refused\n" in text
    assert "shop: outage (MongoDB does not serve)" in text
    assert "next: MongoDB to serve again" in text


def test_tables_hold_in_80_columns_whatever_the_names_and_lose_nothing() -> None:
    long = MemberId("a" * 60, f"{'b' * 200}.example:27017")
    members = {MAIN: UP, long: Member(long, MemberState.UNREACHABLE, restarts=12345)}
    text = render(shown(seen(SHOP, members=members), decided()))
    table = text.split("\n\n")[1].split("\n")
    assert max(map(len, table)) <= 80
    joined = "".join(table).replace(" ", "")
    assert all(one in joined for one in (*long, "unreachable", "12345", "STARTED", "2minago"))


def test_one_instance_is_shown_alone() -> None:
    decision = Decision(State(), (), None, {SHOP.id: QUIET, BLOG.id: QUIET})
    text = render(shown(seen(SHOP, BLOG), decision), "blog")
    assert "blog: watching (nothing to do)" in text
    assert "shop" not in text
    assert "127.0.0.1:27017" in text


def test_people_see_that_nothing_is_watched() -> None:
    text = render(shown(seen(), decided())).splitlines()
    assert NO_INSTANCE in text
    assert "`master-fifo = /run/uwsgi/app/NAME/fifo`" in NO_INSTANCE


def test_a_text_of_others_drives_no_terminal() -> None:
    down = Member(MAIN, MemberState.DOWN, detail="\x1b[31mred\nline")
    assert "\x1b" not in render(shown(seen(SHOP, members={MAIN: down}), decided()))


# ------------------------------------------------------------------------------------------------ systemctl status


def test_systemd_shows_one_line() -> None:
    assert in_one_line(seen(SHOP), decided()) == "watching 1 instance: nothing to do"
    assert in_one_line(seen(SHOP), decided(Outlook(Phase.GAVE_UP))) == "watching 1 instance: shop gave up"
    blind = seen(dataclasses.replace(SHOP, blind=("x",)), blind=(Blindness(Scope(Area.SOCKETS), "y"),))
    assert in_one_line(blind, decided(paused=Pause(None))) == (
        "watching 1 instance: blind: sockets, shop; paused until `mongo-watchdog resume`"
    )
    assert in_one_line(seen(SHOP), decided(paused=Pause(AT + 60))).endswith("; paused until 2026-11-22T10:01:00.000Z")


def test_of_many_instances_in_trouble_only_some_are_named() -> None:
    decision = Decision(State(), (), None, {InstanceId(f"app{number}"): HELD for number in range(9)})
    assert ": app0 due, app1 due, app2 due, app3 due, app4 due and 4 more" in in_one_line(seen(), decision)


def test_people_see_where_else_a_member_was_found() -> None:
    also = frozenset({Endpoint("::1", 27017), Endpoint("10.0.0.7", 27017)})
    text = render(shown(seen(SHOP, members={MAIN: dataclasses.replace(UP, learned=also)}), decided()))
    told = "127.0.0.1:27017 is also at 10.0.0.7:27017, [::1]:27017 (the same process answers there)"
    assert told in text.splitlines()


@pytest.mark.parametrize(
    ("on", "turned_on", "cell", "lines"),
    [
        (False, None, "off", []),
        (True, None, "on", []),
        (
            True,
            AT - 30,
            "on",
            [LOCKED],
        ),
    ],
)
def test_access_control_of_a_member_is_shown_and_since_when(
    on: bool, turned_on: float | None, cell: str, lines: list[str]
) -> None:
    access = Access(MAIN, Incarnation("65f1c0ffee"), on=on, turned_on=turned_on)
    made = shown(seen(SHOP, members={MAIN: dataclasses.replace(UP, access=access)}), decided())
    (member,) = made["deployments"][0]["members"]
    since = "2026-11-22T09:59:30.000Z" if turned_on else None
    assert (member["access_control"], member["access_control_turned_on"]) == (cell, since)
    text = render(made).splitlines()
    assert next(one for one in text if one.startswith("main ")).split()[-1] == cell
    assert [one for one in text if "access control" in one] == lines


def test_of_a_reload_that_is_proven_no_more_is_said_than_was_seen() -> None:
    last = dataclasses.replace(LAST, outcome=ReloadOutcome.RECOVERED, detail="", proven=True)
    text = render(shown(seen(SHOP), decided(QUIET, InstanceState(last=last))))
    assert "recovered; whether requests succeed is not seen" in text
    assert "proven" not in text


def test_whom_an_instance_talks_to_instead_stands_in_the_line_of_systemctl_and_is_a_problem() -> None:
    elsewhere = "shop talks to 127.0.0.1:27018, where another mongod answers; its deployment is main at 127.0.0.1:27017"
    wrong = dataclasses.replace(SHOP, blind=(elsewhere,), elsewhere=elsewhere)
    assert in_one_line(seen(wrong), decided()) == f"watching 1 instance: {elsewhere}"
    assert exit_code(shown(seen(wrong), decided())) == 1
    assert f"  blind: {elsewhere}" in render(shown(seen(wrong), decided())).splitlines()
    worse = dataclasses.replace(wrong, blind=("a process hides its descriptors", elsewhere))
    assert in_one_line(seen(worse), decided()).endswith(f"{elsewhere}; blind: shop")


def test_a_member_that_is_not_needed_is_shown_with_that() -> None:
    inside = MemberId("main", "mongo:27017")
    away = Member(inside, MemberState.UNREACHABLE, detail="DNS: mongo; mend the URI", unneeded="main serves without it")
    made = shown(seen(SHOP, members={MAIN: UP, inside: away}), decided())
    assert made["deployments"][0]["members"][1]["detail"] == "no alarm: main serves without it"
    assert exit_code(made) == 0
