import copy
import re
from dataclasses import replace

import pytest

from tests.world.apps import Kind
from tests.world.pieces import (
    ALICE,
    AT,
    BACK,
    BLOG_FIFO,
    BLOG_ID,
    SHOP_ID,
    config,
    connection,
    down,
    exactly,
    idle,
    instance,
    leftover,
    member,
    pid,
    snapshot,
    stranded,
    well,
    worker,
)
from tests.world.ticks import Ticks
from tests.world.world import busy_app
from watchdogd.config import Idle, Mode
from watchdogd.core.detect import detect
from watchdogd.core.tick import decide
from watchdogd.model.base import CHAIN, RESTART, WORKERS, InstanceId, Interval, Mono
from watchdogd.model.decided import Answer
from watchdogd.model.done import Result, SendFifo
from watchdogd.model.remembered import InstanceState, Pause, Phase, Spent, Stand, State
from watchdogd.model.seen import Area, Blindness, Instance, Member, Operator, Request, Scope, Snapshot, Verb
from watchdogd.model.text import Outside, shown
from watchdogd.model.told import Event, Paused, ReloadAsked, Resumed, Tell, WentBlind

STUCK = instance(stranded(2), stranded(3))
HELD = (leftover(2, 3), connection(1))
FINE = instance(well(2), well(3))


def asked(*requests: Request, at: float = AT, state: State | None = None) -> tuple[State, list[object]]:
    """What a tick decides on these requests, with nothing else to do."""
    seen = replace(snapshot(FINE), at=at, requests=requests)
    decision = decide(state or State(), detect(seen, config()), seen, config())
    return decision.state, list(decision.effects)


# ---- an operator's reload


def test_an_operators_reload_is_begun_by_the_same_checks_and_can_be_watched() -> None:
    ticks = Ticks()
    assert ticks.see(FINE, ask=Verb.RELOAD) == [Event.RELOAD_ASKED]
    assert ticks.sent
    assert ticks.sent.command == CHAIN
    assert (ticks.answer.ok, ticks.answer.reload) == (True, ticks.sent.id)
    assert (ticks.phase(), ticks.outlook.phase) == (Phase.RELOADING, Phase.RELOADING)
    assert ticks.shop.reload
    assert ticks.shop.reload.operator == "request"
    assert ticks.see(FINE) == [Event.RELOAD_SENT]


def test_it_is_verified_like_any_other() -> None:
    ticks = Ticks()
    ticks.see(FINE, ask=Verb.RELOAD)
    ticks.see(FINE)
    assert ticks.see(instance(worker(4, ready=AT), worker(5, ready=AT))) == [Event.RELOADED]
    fresh = instance(worker(4, ready=AT, used=AT + 3, reached=["10.0.0.1"]), worker(5, ready=AT))
    assert ticks.see(fresh) == [Event.RECOVERED]


def test_a_reload_that_is_held_is_answered_with_every_reason() -> None:
    ticks = Ticks()
    ticks.see(FINE, ask=Verb.PAUSE)
    ticks.see(replace(FINE, fifo_problem="deleted: it is gone"), ask=Verb.RELOAD)
    assert ticks.sent is None
    assert not ticks.answer.ok
    assert ticks.answered == (
        "held by paused: paused by alice until `mongo-watchdog resume`: maintenance; fifo: deleted: it is gone"
    )


def test_a_second_reload_is_held_by_the_first() -> None:
    ticks = Ticks()
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD, ask=Verb.RELOAD)
    assert not ticks.answer.ok
    assert re.fullmatch(r"held by in_flight: a reload is in flight, until 20\S+Z \(in 41 s\)", ticks.answered)


def test_one_that_becomes_due_in_the_same_tick_is_the_one() -> None:
    ticks = Ticks()
    ticks.see(STUCK, *HELD, ask=Verb.RELOAD)
    assert not ticks.answer.ok
    assert ticks.shop.reload
    assert ticks.shop.reload.operator is None


def test_an_absent_instance_cannot_be_reloaded() -> None:
    ticks = Ticks()
    ticks.see(instance(master=None), ask=Verb.RELOAD)
    assert (ticks.answer.ok, ticks.answer.text) == (False, "absent: nobody has its FIFO open")


def test_an_instance_that_is_not_known_is_answered_with_those_that_are() -> None:
    _, effects = asked(Request("1", Verb.RELOAD, InstanceId("shp")))
    text = "no instance has the FIFO shp; there is: /run/uwsgi/app/shop/fifo"
    assert effects == [Answer("1", ok=False, text=text, wrong_use=True)]


def test_an_instance_is_reloaded_by_its_fifo_as_the_status_shows_it_and_written_to_as_it_is() -> None:
    fifo = Outside("/run/uwsgi/app/a\x1b\n\udcff/fifo")
    for named in (fifo, shown(fifo)):
        request = Request("1", Verb.RELOAD, InstanceId(named))
        seen = replace(snapshot(replace(FINE, fifo=fifo)), requests=(request,))
        effects = decide(State(), detect(seen, config()), seen, config()).effects
        assert [effect.fifo for effect in effects if isinstance(effect, SendFifo)] == [
            "/run/uwsgi/app/a\x1b\n\udcff/fifo"
        ]


def test_what_is_shown_of_a_fifo_means_it_unless_another_one_is_called_just_that() -> None:
    hostile, literal = replace(FINE, fifo="/run/a\x1b/fifo"), replace(FINE, fifo=r"/run/a\x1b/fifo", master=pid(9))
    ask = Request("1", Verb.RELOAD, InstanceId(r"/run/a\x1b/fifo"))
    for instances, meant in (((hostile,), hostile), ((hostile, literal), literal)):
        seen = replace(snapshot(FINE), instances=instances, requests=(ask,))
        decision = decide(State(), detect(seen, config()), seen, config())
        assert [one.id for one in instances if decision.state.instances[one.id].reload] == [meant.id]


def test_while_linger_goes_on_an_operator_may_not_hurry_it() -> None:
    ticks = Ticks()
    ticks.see(FINE, members=[member(served_since=exactly(AT - 1))], ask=Verb.RELOAD)
    assert re.search(r"linger: .*, until 20\S+Z \(in 14 s\)", ticks.answered)


def test_that_mongodb_came_back_is_said_only_where_that_was_seen() -> None:
    back = member(served_since=exactly(AT - 1), outages=(Interval(AT - 9, AT - 1),))
    for one, why in ((back, "MongoDB has only just come back"), (None, "has not been watched for as long as linger")):
        ticks = Ticks()
        ticks.see(FINE, members=[one or member(served_since=exactly(AT - 1))], ask=Verb.RELOAD)
        assert why in ticks.answered


def test_an_operators_reload_that_was_dropped_does_not_come_back_by_itself() -> None:
    ticks = Ticks(result=Result.CHANGED)
    ticks.see(FINE, ask=Verb.RELOAD)
    for _ in range(5):
        ticks.see(FINE)
        assert ticks.sent is None
    assert ticks.phase() is Phase.WATCHING


@pytest.mark.parametrize("phase", [Phase.VERIFYING, Phase.GAVE_UP])
def test_an_operator_may_reload_what_the_daemon_leaves_alone(phase: Phase) -> None:
    ticks = Ticks()
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD)
    fresh = instance(worker(4, ready=AT), worker(5, ready=AT))
    ticks.see(fresh)
    if phase is Phase.GAVE_UP:
        fresh = instance(worker(4, ready=AT, used=AT), worker(5, ready=AT, used=AT))
        ticks.see(fresh, after=20)
    assert ticks.phase() is phase
    ticks.see(fresh, ask=Verb.RELOAD, after=60)
    assert ticks.answer.ok
    assert ticks.phase() is Phase.RELOADING


# ---- now


JUST_BACK = member(served_since=exactly(AT - 5))
SENT_SINCE = connection(1, since=exactly(AT - 4))


def test_now_passes_linger_cooldown_and_budget_and_says_so() -> None:
    spent = tuple(Spent(AT - 100 * n) for n in (3, 2, 1))
    ticks = Ticks(state=State({SHOP_ID: InstanceState(spent=spent, retry_at=AT + 60)}))
    ticks.see(STUCK, *HELD, ask=Verb.RELOAD)
    assert ticks.sent is None
    assert re.match(r"held by cooldown: .*; budget: .*; `reload --now` goes past that$", ticks.answered)
    assert ticks.see(STUCK, *HELD, ask=Verb.RELOAD, now=True) == [Event.RELOAD_ASKED]
    assert ticks.sent
    assert ticks.answered == "reload begun for alice (uid 1000, pid 4711), past cooldown, budget"
    (told,) = ticks.tells
    assert told.what == ReloadAsked(WORKERS, "alice", 1000, 4711, now=True, past="cooldown, budget")
    assert len(ticks.shop.spent) == len(spent) + 1


def test_now_is_not_offered_where_it_would_be_held_too() -> None:
    ticks = Ticks(state=State({SHOP_ID: InstanceState(retry_at=AT + 60)}))
    ticks.see(replace(STUCK, fifo_problem="deleted: it is gone"), *HELD, ask=Verb.RELOAD)
    assert "cooldown" in ticks.answered
    assert "--now" not in ticks.answered
    ticks.see(replace(STUCK, fifo_problem="deleted: it is gone"), *HELD, ask=Verb.RELOAD, now=True)
    assert ticks.answered == "held by fifo: deleted: it is gone"


def test_now_is_for_an_app_that_somebody_has_mended_while_mongodb_is_only_just_back() -> None:
    ticks = Ticks()
    ticks.see(FINE, SENT_SINCE, members=[JUST_BACK], ask=Verb.RELOAD, now=True)
    assert ticks.sent
    assert ticks.answer.past == ("linger",)


def test_a_reload_now_that_waits_for_its_moment_is_not_held_by_what_it_went_past() -> None:
    ticks = Ticks()
    fine = replace(FINE, master_threads=3)
    ticks.see(fine, SENT_SINCE, members=[JUST_BACK], ask=Verb.RELOAD, now=True)
    assert (ticks.answer.ok, ticks.sent) == (True, None)
    ticks.see(fine, SENT_SINCE, members=[JUST_BACK], after=2)
    assert ticks.sent


def test_now_goes_never_past_an_unsafe_fork_but_a_restart_that_is_allowed_does() -> None:
    ticks = Ticks(config([WORKERS, RESTART]))
    stuck = replace(STUCK, held_by_master=frozenset({"main"}))
    just_sent = connection(1, since=exactly(AT - 0.5))
    ticks.see(stuck, leftover(2, 3), just_sent, ask=Verb.RELOAD, now=True)
    assert re.match(r"held by fork_unsafe: .*, until 20\S+Z", ticks.answered)
    ticks.see(stuck, leftover(2, 3), just_sent, after=0.1, ask=Verb.RELOAD, now=True, restart=True)
    assert ticks.sent
    assert ticks.sent.command is RESTART


def test_a_restart_that_the_configuration_does_not_allow_is_refused_with_the_line_to_add() -> None:
    ticks = Ticks()
    ticks.see(FINE, ask=Verb.RELOAD, now=True, restart=True)
    assert ticks.sent is None
    assert ticks.answered == (
        "held by not_allowed: a restart was asked for; add `restart` to `reloads` of shop to allow it"
    )


def test_now_is_the_way_back_after_a_giving_up_and_what_it_leads_to_is_told_of_the_same_incident() -> None:
    ticks = Ticks()
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD)
    ticks.see(instance(worker(4, ready=AT), worker(5, ready=AT)))
    again = instance(worker(4, ready=AT, used=AT), worker(5, ready=AT, used=AT))
    assert Event.GAVE_UP in ticks.see(again, after=20)
    incident = ticks.shop.incident
    assert incident
    assert ticks.see(again, ask=Verb.RELOAD, now=True) == [Event.RELOAD_ASKED]
    assert ticks.answer.past == ("cooldown", "gave_up")
    assert ticks.see(again) == [Event.RELOAD_SENT]
    ticks.see(instance(worker(6, ready=ticks.at), worker(7, ready=ticks.at)))
    used = [worker(one, ready=ticks.at, used=ticks.at + 1, reached=["10.0.0.1"]) for one in (6, 7)]
    assert ticks.see(instance(*used)) == [Event.RECOVERED]
    assert ticks.tells[0].incident == incident.id
    assert (ticks.phase(), ticks.shop.standing.stand) == (Phase.WATCHING, Stand.FINE)


def test_who_asked_is_remembered_with_the_last_reload() -> None:
    ticks = Ticks()
    ticks.see(FINE, ask=Verb.RELOAD, now=True)
    assert ticks.shop.last
    assert (ticks.shop.last.by, ticks.shop.last.now) == (ALICE, True)
    ours = Ticks()
    ours.see(STUCK, *HELD)
    assert ours.shop.last
    assert (ours.shop.last.by, ours.shop.last.now) == (None, False)


# ---- pause


def test_a_pause_is_told_kept_and_ended_by_an_operator() -> None:
    state, effects = asked(Request("1", Verb.PAUSE, reason=Outside("backup"), by=ALICE))
    pause = Pause(None, Outside("backup"), Outside("alice"))
    assert effects == [Tell(Paused("backup", None, "alice")), Answer("1", ok=True, text="paused", pause=pause)]
    assert state.paused == pause
    state, effects = asked(Request("2", Verb.RESUME, by=Operator(Outside("bob"), 1001, 4712)), state=state)
    assert effects == [Tell(Resumed("bob")), Answer("2", ok=True, text="resumed", before=pause)]
    assert state.paused is None


FOR_EVER, AN_HOUR, TWO_HOURS = None, AT + 3600, AT + 7200


@pytest.mark.parametrize(
    ("stands", "asked_for", "stays"),
    [
        (AN_HOUR, TWO_HOURS, False),
        (AN_HOUR, FOR_EVER, False),
        (FOR_EVER, FOR_EVER, False),
        (AN_HOUR, AN_HOUR, False),
        (TWO_HOURS, AN_HOUR, True),
        (FOR_EVER, TWO_HOURS, True),
    ],
)
def test_a_pause_never_shortens_the_one_of_somebody_else(
    stands: Mono | None, asked_for: Mono | None, stays: bool
) -> None:
    before = Pause(stands, Outside("move"), Outside("bob"))
    ask = Request("1", Verb.PAUSE, until=asked_for, reason=Outside("backup"), by=ALICE)
    state, effects = asked(ask, state=State(paused=before))
    (answer,) = [one for one in effects if isinstance(one, Answer)]
    assert answer.ok
    if stays:
        assert (state.paused, len(effects), answer.before) == (before, 1, None)
        assert "a longer pause stays" in answer.text
    else:
        assert state.paused == answer.pause == Pause(asked_for, Outside("backup"), Outside("alice"))
        assert answer.before == before


@pytest.mark.parametrize("verb", [Verb.PAUSE, Verb.RESUME])
def test_what_cannot_be_saved_changes_no_pause(verb: Verb) -> None:
    pause = Pause(None, Outside("move"), Outside("bob"))
    for before in (None, pause):
        seen = replace(snapshot(FINE), requests=(Request("1", verb, by=ALICE),), unsaved="no room")
        decision = decide(State(paused=before), detect(seen, config()), seen, config())
        assert decision.state.paused == before
        assert list(decision.effects) == [
            Answer("1", ok=False, text="nothing was changed, for it cannot be saved: no room")
        ]


def test_a_pause_with_an_end_ends_by_itself_and_wakes_the_daemon_for_it() -> None:
    state, effects = asked(Request("1", Verb.PAUSE, until=AT + 60))
    assert Answer("1", ok=True, text="paused", pause=Pause(AT + 60)) in effects
    seen = replace(snapshot(FINE), at=AT + 1)
    decision = decide(state, detect(seen, config()), seen, config())
    assert decision.wake_at == AT + 60
    state, effects = asked(at=AT + 60, state=state)
    assert effects == [Tell(Resumed("the end of the pause"))]
    assert asked(at=AT + 61, state=state)[1] == []


def test_to_resume_what_was_not_paused_is_no_event() -> None:
    assert asked(Request("1", Verb.RESUME))[1] == [Answer("1", ok=True, text="was not paused")]


def test_a_pause_holds_what_is_due_and_its_end_lets_it_go() -> None:
    ticks = Ticks()
    told = ticks.see(STUCK, *HELD, ask=Verb.PAUSE)
    assert told == [Event.PAUSED, Event.LEFTOVERS_FOUND, Event.RELOAD_DUE, Event.RELOAD_HELD]
    assert ticks.see(STUCK, *HELD) == []
    ticks.see(STUCK, *HELD, ask=Verb.RESUME)
    assert ticks.sent


# ---- blind


def test_each_blindness_is_told_once_and_once_when_it_ends() -> None:
    ticks = Ticks()
    hidden = replace(FINE, blind=("no permission", "and more"))
    assert ticks.see(hidden, blind="sockets") == [Event.BLIND, Event.BLIND]
    assert [tell.fields["scope"] for tell in ticks.tells] == ["instance shop", "sockets"]
    assert ticks.see(hidden, blind="sockets") == []
    assert ticks.see(hidden) == [Event.SEEING_AGAIN]
    assert ticks.see(replace(FINE, blind=("another reason",))) == []
    assert ticks.see(FINE) == [Event.SEEING_AGAIN]
    assert ticks.see(FINE) == []


def test_two_reasons_of_one_scope_are_one_blindness() -> None:
    seen = replace(snapshot(FINE), blind=(Blindness(Scope(Area.SOCKETS), "b"), Blindness(Scope(Area.SOCKETS), "a")))
    effects = decide(State(), detect(seen, config()), seen, config()).effects
    assert effects == (Tell(WentBlind("sockets", "a")),)


def test_blindness_keeps_the_phase_and_holds_the_reload() -> None:
    ticks = Ticks()
    told = ticks.see(STUCK, *HELD, blind="sockets")
    assert told == [Event.BLIND, Event.LEFTOVERS_FOUND, Event.RELOAD_DUE, Event.RELOAD_HELD]
    assert (ticks.phase(), ticks.sent) == (Phase.DUE, None)


def test_a_reload_that_is_overtaken_ends_though_its_instance_cannot_be_read() -> None:
    ticks = Ticks()
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD)
    assert Event.OVERTAKEN in ticks.see(replace(STUCK, blind=("no permission",)), *HELD, members=[down()])
    assert ticks.outlook.phase is Phase.OUTAGE


# ---- what is told of a move


def test_what_holds_a_reload_is_told_again_only_when_it_is_something_else() -> None:
    ticks = Ticks(replace(config(), mode=Mode.OBSERVE))
    assert ticks.see(STUCK, *HELD)[-1] is Event.RELOAD_HELD
    assert ticks.see(STUCK, *HELD) == []
    loading = instance(stranded(2), stranded(3), worker(4, ready=None))
    assert ticks.see(loading, *HELD) == [Event.RELOAD_HELD]
    assert ticks.tells[0].fields.get("blocked_by") == "mode,not_ready"


def test_what_holds_a_reload_after_one_that_was_dropped_is_told() -> None:
    ticks = Ticks(result=Result.CHANGED)
    ticks.see(STUCK, *HELD)
    assert ticks.see(STUCK, *HELD) == []  # a second of waiting is not worth a line
    assert ticks.see(STUCK, *HELD, after=0.1, ask=Verb.PAUSE) == [Event.PAUSED, Event.RELOAD_HELD]
    assert ticks.tells[1].fields.get("blocked_by") == "paused,cooldown"


def test_an_instance_that_is_gone_is_absent_and_not_blind() -> None:
    ticks = Ticks()
    assert ticks.see(instance(master=None)) == [Event.INSTANCE_ABSENT]
    assert ticks.see(instance(master=None), members=[down()]) == []
    assert ticks.see(instance(worker(2, ready=AT), master=pid(9))) == [Event.INSTANCE_BACK]
    assert ticks.tells[0].fields == {"pid": 9}


def test_an_outage_that_heals_is_one_incident_from_its_first_sign_to_healed() -> None:
    world = busy_app(Kind.RESIDUE)
    world.outage(10)
    world.run(60)
    assert world.events() == ["healed"]
    healed = world.last(Event.HEALED)
    assert healed.incident
    assert healed.fields["reconnected"] == 3
    assert world.phase(Kind.RESIDUE) is Phase.WATCHING


def test_an_idle_worker_that_is_used_long_after_linger_begins_a_new_incident() -> None:
    ticks = Ticks(config(idle=Idle.LEAVE))
    assert ticks.see(instance(idle(2), idle(3)), *HELD) == []
    used = instance(worker(2, used=AT + 1), idle(3))
    ticks.see(used, *HELD, after=1)
    assert ticks.phase() is Phase.WATCHING
    assert ticks.see(used, *HELD, after=5) == [Event.LEFTOVERS_FOUND]
    assert ticks.phase() is Phase.SETTLING
    assert ticks.see(used, *HELD, after=15) == [Event.RELOAD_DUE]


def test_a_flap_begins_linger_anew() -> None:
    ticks = Ticks()
    for back in (AT, AT + 12, AT + 24):
        ticks.see(STUCK, *HELD, members=[down()])
        members = [member(served_since=exactly(back), born=exactly(back))]
        ticks.see(STUCK, *HELD, after=10, members=members)
        assert ticks.phase() is Phase.SETTLING
        ticks.at = back + 11
        assert ticks.shop.last is None


# ---- the outlook, and waking


@pytest.mark.parametrize(
    ("seen", "phase", "what", "at"),
    [
        (snapshot(FINE), Phase.WATCHING, "", None),
        (snapshot(instance(master=None)), Phase.ABSENT, "uWSGI to be started", None),
        (snapshot(STUCK, *HELD, members=[down()]), Phase.OUTAGE, "MongoDB to serve again", None),
        (
            snapshot(STUCK, *HELD, members=[member(served_since=exactly(AT - 5))]),
            Phase.SETTLING,
            "linger: a healthy driver heals itself within it",
            AT + 10,
        ),
        (snapshot(STUCK, *HELD), Phase.RELOADING, "the old workers to be gone and the new ones ready", AT + 42),
        (snapshot(STUCK, leftover(2, 3)), Phase.DUE, "reload w", None),
    ],
)
def test_the_outlook_says_what_is_next_and_when(seen: Snapshot, phase: Phase, what: str, at: float | None) -> None:
    decision = decide(State(), detect(seen, config()), seen, config())
    outlook = decision.outlooks[SHOP_ID]
    assert (outlook.phase, outlook.next_what, outlook.next_at) == (phase, what, at)
    if at is not None:
        assert decision.wake_at
        assert AT < decision.wake_at <= at


def test_what_settles_is_next_when_both_mongodb_and_the_workers_have_had_their_time() -> None:
    late = (leftover(2, 3, closed=exactly(AT - 2)), connection(1))  # ended after MongoDB's return
    for served_ago, until in ((5, AT + 13), (1, AT + 14)):
        ticks = Ticks()
        ticks.see(STUCK, *late, members=[member(served_since=exactly(AT - served_ago))])
        assert (ticks.outlook.phase, ticks.outlook.next_at) == (Phase.SETTLING, until)


def test_a_reload_whose_end_cannot_be_seen_has_no_time_once_its_deadline_has_passed() -> None:
    ticks = Ticks()
    ticks.see(STUCK, *HELD)
    hidden = replace(STUCK, blind=("no permission",))
    times = []
    for after in (1.0, 100.0):
        ticks.see(hidden, *HELD, after=after)
        assert ticks.phase() is Phase.RELOADING
        times.append(ticks.outlook.next_at)
    assert times == [AT + 42, None]  # `reload --wait` ends by that


def test_the_outlook_counts_the_reloads_that_are_left() -> None:
    spent = (Spent(AT - 9, proven=True), Spent(AT - 5), Spent(AT - 3700))
    seen = snapshot(FINE)
    state = State({SHOP_ID: InstanceState(spent=spent)})
    assert decide(state, detect(seen, config()), seen, config()).outlooks[SHOP_ID].reloads_left == 2


def test_a_fork_that_is_about_to_be_safe_wakes_the_daemon() -> None:
    seen = snapshot(STUCK, leftover(2, 3), connection(1, since=exactly(AT - 0.6)))
    assert decide(State(), detect(seen, config()), seen, config()).wake_at == AT + 0.4


# ---- memory


def test_an_instance_that_is_there_no_more_is_forgotten_when_nothing_of_it_counts() -> None:
    ticks = Ticks()
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD)
    other = replace(FINE, name="blog", fifo=BLOG_FIFO, master=pid(9))
    ticks.see(other)
    assert set(ticks.state.instances) == {SHOP_ID, BLOG_ID}
    ticks.see(other, after=100)
    assert SHOP_ID in ticks.state.instances, "its reload counts against its budget for an hour"
    ticks.see(other, after=3600)
    assert set(ticks.state.instances) == {BLOG_ID}


def test_a_reload_of_an_instance_that_is_there_no_more_does_not_keep_others_waiting() -> None:
    ticks = Ticks(config(max_parallel=1))
    ticks.see(STUCK, *HELD)
    blog = replace(STUCK, name="blog", fifo=BLOG_FIFO, master=pid(9))
    held = (*HELD, connection(9, cookie=9))
    ticks.see(blog, *held)
    assert ticks.decision
    assert [one.gate for one in ticks.decision.outlooks[BLOG_ID].blocked_by] == ["parallel"]
    ticks.see(blog, *held, after=42)
    assert ticks.sent
    assert ticks.sent.instance == BLOG_ID


def test_deciding_changes_nothing_that_it_is_given_and_is_the_same_every_time() -> None:
    seen = snapshot(STUCK, *HELD)
    state, using = State({SHOP_ID: InstanceState(incident=None)}), config([WORKERS, RESTART])
    found = detect(seen, using)
    before = copy.deepcopy((state, found, seen, using))
    first = decide(state, found, seen, using)
    assert (state, found, seen, using) == before
    assert decide(state, found, seen, using) == first


def test_instances_are_decided_one_after_the_other_and_share_what_is_allowed() -> None:
    blog = replace(STUCK, name="blog", fifo=BLOG_FIFO)
    seen = snapshot(STUCK, *HELD)
    (shop,) = seen.instances
    seen = replace(seen, instances=(shop, replace(blog, master_sent=shop.master_sent)))
    using = config(max_parallel=1)
    decision = decide(State(), detect(seen, using), seen, using)
    assert [one.instance for one in decision.effects if isinstance(one, SendFifo)] == [SHOP_ID]
    assert [one.last is not None for one in decision.state.instances.values()] == [True, False]


def test_linger_is_over_exactly_when_it_is() -> None:
    for later, phase in ((14.99, Phase.SETTLING), (15.0, Phase.RELOADING)):
        seen = replace(snapshot(STUCK, leftover(2, 3), connection(1, last_data=exactly(BACK + 9))), at=BACK + later)
        decision = decide(State(), detect(seen, config()), seen, config())
        assert decision.outlooks[SHOP_ID].phase is phase


def test_what_was_given_up_without_any_reload_is_forgotten_with_its_master_too() -> None:
    ticks = Ticks()
    long_ago = [member(served_since=exactly(AT - 130))]
    ticks.see(STUCK, leftover(2, 3), members=long_ago)  # the master's monitor does not run, `restart` is not allowed
    assert ticks.phase() is Phase.GAVE_UP
    assert ticks.see(instance(master=None), members=long_ago) == [Event.REPLACED, Event.INSTANCE_ABSENT]
    fresh = instance(worker(12, ready=AT), worker(13, ready=AT), master=pid(9))
    assert ticks.see(fresh, members=long_ago) == [Event.INSTANCE_BACK]


# ---- incidents that end without our seeing how


@pytest.mark.parametrize("again", [True, False], ids=["at once", "later"])
def test_who_starts_uwsgi_anew_in_an_outage_ends_its_incident(*, again: bool) -> None:
    ticks = Ticks()
    ticks.see(STUCK, leftover(2, 3), members=[down()])
    assert ticks.shop.incident
    id_ = ticks.shop.incident.id
    fresh = instance(worker(12, ready=AT), master=pid(9))
    told = ticks.see(fresh if again else instance(master=None), members=[down()])
    assert told == ([Event.REPLACED] if again else [Event.REPLACED, Event.INSTANCE_ABSENT])
    assert ticks.tells[0].incident == id_
    assert ticks.shop.incident is None
    assert ticks.see(fresh, members=[down()]) == ([] if again else [Event.INSTANCE_BACK])


def test_a_restart_by_us_is_the_same_master_and_its_incident_goes_on() -> None:
    ticks = Ticks(config([WORKERS, RESTART]))
    ticks.see(STUCK, leftover(1, 2, 3))
    ticks.see(STUCK, leftover(1, 2, 3))
    before = ticks.shop.incident
    assert before
    ticks.see(instance(fifo_problem="closed"))
    assert ticks.shop.incident == before


def test_an_instance_that_is_taken_out_of_the_configuration_has_its_incident_ended() -> None:
    ticks = Ticks()
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD)  # a reload is in flight
    assert ticks.shop.incident
    id_ = ticks.shop.incident.id
    other = replace(FINE, name="blog", fifo=BLOG_FIFO, master=pid(9))
    assert ticks.see(other, blind="processes") == [Event.BLIND]
    assert ticks.see(other) == [Event.REPLACED, Event.SEEING_AGAIN]
    (told, _) = ticks.tells
    assert (told.instance, told.incident) == ("shop", id_)
    assert told.fields == {"reason": "it was taken out of the configuration"}
    assert ticks.shop.incident is None
    assert ticks.shop.reload, "it is followed, should the instance come back"
    assert ticks.see(other) == []


def test_a_fifo_that_takes_no_byte_is_shown_before_a_reload_is_due() -> None:
    ticks = Ticks()
    assert ticks.see(replace(FINE, fifo_problem="deleted: it is gone")) == []
    assert [(one.gate, one.reason) for one in ticks.outlook.blocked_by] == [("fifo", "deleted: it is gone")]
    ticks.see(FINE)
    assert not ticks.outlook.blocked_by


@pytest.mark.parametrize(
    ("now", "members", "phase"),
    [
        (STUCK, [down()], Phase.OUTAGE),
        (STUCK, [member(served_since=exactly(AT - 5))], Phase.SETTLING),
        (instance(master=None), None, Phase.ABSENT),
    ],
)
def test_a_fifo_that_takes_no_byte_is_shown_where_a_reload_may_follow(
    now: Instance, members: list[Member] | None, phase: Phase
) -> None:
    ticks = Ticks()
    ticks.see(replace(now, fifo_problem="deleted: it is gone"), *HELD, members=members)
    assert ticks.outlook.phase is phase
    assert [one.gate for one in ticks.outlook.blocked_by] == ["fifo"] * (phase is not Phase.ABSENT)


def test_a_fifo_that_is_made_anew_by_a_reload_is_no_fault() -> None:
    ticks = Ticks()
    ticks.see(FINE, ask=Verb.RELOAD)
    ticks.see(replace(FINE, fifo_problem="closed"))
    assert ticks.phase() is Phase.RELOADING
    assert not ticks.outlook.blocked_by
