import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.world.pieces import AT, SHOP_ID, blind, config, connection, down, instance, member, snapshot, well
from watchdogd.act import helper
from watchdogd.config import Config, ConfigError, Mode
from watchdogd.core.detect import detect
from watchdogd.model.decided import Blocked, Outlook
from watchdogd.model.done import Result
from watchdogd.model.found import Kind
from watchdogd.model.remembered import InstanceState, Pause, Phase, Spent, State
from watchdogd.model.seen import Instance, MemberState, Snapshot
from watchdogd.model.text import Outside
from watchdogd.service import check
from watchdogd.service.check import Checking, Helpers, Line, Seen, helpers_of, lines
from watchdogd.service.rights import Rights

ME, SHOPS = 12345, 33
ALLOWED = Rights(ME, 1 << 19 | 1 << 2, writer=True, ender=True)
WELL = instance(well(2), well(3))
MEMBER, SHOP = "ok: main: 10.0.0.1:27017: up, serving", "ok: shop: master 1, 2 workers"


def look(one: Instance = WELL, **changes: Any) -> Snapshot:  # noqa: ANN401 - fields of a Snapshot
    return snapshot(one, connection(1), connection(2, cookie=9), **changes)


def seen(at: Snapshot | None = None, using: Config | None = None, **changes: Any) -> Seen:  # noqa: ANN401 - and of a Seen
    at, using = at or look(), using or config()
    return Seen(using, at, detect(at, using), **{"uncovered": (), **changes})


def said(one: Seen, own: Rights = ALLOWED) -> list[str]:
    return [f"{line.verdict}: {line.text}" for line in lines(one, own)]


# ---- what was seen


def test_where_all_is_well_each_thing_is_named_as_ok() -> None:
    assert said(seen()) == [MEMBER, SHOP]


def test_a_member_is_a_problem_unless_nobody_needs_it() -> None:
    out = replace(down(), detail="connection refused")
    assert said(seen(look(members=[out])))[0] == "problem: main: 10.0.0.1:27017: down: connection refused"
    unneeded = replace(out, state=MemberState.UNREACHABLE, unneeded="its replica set names it so")
    text = "note: main: 10.0.0.1:27017: unreachable, and no alarm: its replica set names it so"
    assert said(seen(look(members=[unneeded])))[0] == text
    assert said(seen(look(members=[replace(member(), is_serving=False)])))[0].endswith("up, not serving")


def test_an_objection_makes_an_instance_a_problem_and_has_its_end_in_it() -> None:
    state = State({SHOP_ID: InstanceState(spent=tuple(Spent(AT - 100 * n) for n in (3, 2, 1)))})
    (line,) = [one for one in said(seen(state=state)) if ": shop: " in one]
    assert line.startswith("problem: shop: its budget is spent: 3 unproven reloads, of 3 allowed; ")
    assert line.endswith("; until 2026-09-21T15:08:20.000Z (in 55 min)")


def test_what_holds_a_reload_that_is_due_is_a_problem_where_somebody_must_mend_it() -> None:
    outlook = Outlook(Phase.DUE, blocked_by=(Blocked("not_allowed", "add `restart`"),))
    assert said(seen(outlooks={SHOP_ID: outlook}))[1] == "problem: shop: add `restart`"


def test_an_instance_that_cannot_be_decided_is_a_problem() -> None:
    assert said(seen(faults={SHOP_ID: "internal error"}))[1] == "problem: shop: internal error"


def test_blindness_missing_rights_and_having_no_instance_are_problems() -> None:
    assert said(seen(look(blind=(blind("state", "cannot be written"),))))[2:] == ["problem: state: cannot be written"]
    *_, first, second = said(seen(), Rights(ME, 0, writer=True, ender=True))
    assert first.startswith("problem: rights: CAP_SYS_PTRACE is missing to see what shop (of ")
    assert second.startswith("problem: rights: CAP_DAC_READ_SEARCH is missing ")
    assert said(seen(look(instances=())))[1:] == ["problem: no uWSGI instance with a master FIFO was found"]


def test_mode_and_pause_are_problems_whoever_chose_them_and_what_is_only_told_is_a_note() -> None:
    observe = replace(config(), mode=Mode.OBSERVE)
    text = "problem: mode is observe, so nothing is ever sent: set `mode: act`, or run it without `--observe`"
    assert said(seen(using=observe))[2:] == [text]
    state = State(paused=Pause(AT + 60, Outside("work"), Outside("ann")))
    (paused,) = said(seen(state=state))[2:]
    assert paused.startswith("problem: paused until 2026-09-21T14:14:20.000Z (in 1 min), by ann: work; ")
    assert paused.endswith("`mongo-watchdog resume` ends it")
    told = config(tell_only=(Kind.HUNG, Kind.ORPHANED))
    text = "note: what is told and not acted on, by `policy.tell_only`: hung, orphaned"
    assert said(seen(using=told))[2:] == [text]


def test_what_nothing_can_reload_is_named() -> None:
    assert said(seen(uncovered=("uWSGI master 7 has no FIFO",)))[2:] == ["not covered: uWSGI master 7 has no FIFO"]


# ---- the helpers


@pytest.mark.parametrize(
    ("own", "mode", "asked"),
    [
        (ALLOWED, Mode.ACT, [helper.FIFO, helper.END]),
        (ALLOWED, Mode.OBSERVE, []),
        (replace(ALLOWED, uid=0), Mode.ACT, []),
        (replace(ALLOWED, uid=SHOPS), Mode.ACT, []),
        (replace(ALLOWED, writer=False), Mode.ACT, [helper.END]),
        (replace(ALLOWED, ender=False), Mode.ACT, [helper.FIFO]),
        (replace(ALLOWED, capabilities=1 << 5), Mode.ACT, [helper.FIFO]),
    ],
)
def test_only_who_would_act_is_asked(own: Rights, mode: Mode, asked: list[helper.Helper]) -> None:
    assert [one for one, _ in helpers_of(replace(config(), mode=mode), look(), own)] == asked


def test_who_does_not_run_is_not_asked_about() -> None:
    assert helpers_of(config(), look(replace(WELL, master=None, uid=None)), ALLOWED) == []


Answer = Callable[[helper.Helper, str], tuple[Result, str]]


class Answers:
    """What the helpers answer; they are asked from another thread, and `woken` when all have."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
        self.woken = threading.Event()
        monkeypatch.setattr(helper, "question", lambda one, path, _: answer(one, path))

    def of(self, *asked: tuple[helper.Helper, Instance]) -> list[Line]:
        helpers = Helpers(asked, self.woken.set)
        assert self.woken.wait(30)
        assert helpers.answered
        return list(helpers.lines())


SHOP_ONE, BLOG = WELL, replace(WELL, name="blog", fifo="/run/blog")
BOTH = [(one, instance) for one in (helper.FIFO, helper.END) for instance in (SHOP_ONE, BLOG)]


def test_helpers_that_would_act_are_ok_each_with_for_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Answers(monkeypatch, lambda *_: (Result.WILLING, "")).of(*BOTH) == [
        Line("ok", "mongo-watchdog-fifo: ready for shop, blog"),
        Line("ok", "mongo-watchdog-end: ready for shop, blog"),
    ]


def test_a_refusal_is_said_once_with_all_whom_it_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(one: helper.Helper, path: str) -> tuple[Result, str]:
        if one is helper.FIFO:
            return Result.REFUSED, "it is not root's"
        return (Result.WILLING, "") if path == BLOG.fifo else (Result.TRY_AGAIN, "it did not answer")

    assert Answers(monkeypatch, answer).of(*BOTH) == [
        Line("problem", "nothing would be written to the FIFO of shop, blog: it is not root's"),
        Line("problem", "no process of shop that hangs would be ended: it did not answer"),
        Line("ok", "mongo-watchdog-end: ready for blog"),
    ]


def test_a_helper_that_says_nothing_in_time_is_a_problem_and_not_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    may = threading.Event()

    def answer(*_: object) -> tuple[Result, str]:
        assert may.wait(30)
        return Result.WILLING, ""

    answers = Answers(monkeypatch, answer)
    helpers = Helpers(BOTH[:1], answers.woken.set)
    assert not helpers.answered
    text = "mongo-watchdog-fifo has not answered within 6 s; see `systemctl status mongo-watchdog-fifo`"
    assert list(helpers.lines()) == [Line("problem", text)]
    may.set()
    assert answers.woken.wait(30)


# ---- when it is answered, and with what


def checking(*asked: tuple[helper.Helper, Instance]) -> Checking:
    return Checking(AT, ALLOWED, Helpers(asked, lambda: None))


@pytest.mark.parametrize(
    ("after_s", "unsure", "running_s", "over"),
    [
        (0.0, False, 60.0, True),
        (0.0, True, 60.0, False),
        (5.9, True, 60.0, False),
        (6.0, True, 60.0, True),
        (0.0, False, 4.9, False),
        (0.0, False, 5.0, True),
    ],
)
def test_it_waits_for_what_looks_would_show_but_not_for_ever(
    after_s: float, running_s: float, *, unsure: bool, over: bool
) -> None:
    at = AT + after_s
    assert checking().is_over(at, unsure=unsure, started=at - running_s) is over


def answered(read: Callable[[], Config], at: Snapshot | None = None) -> dict[str, Any]:
    return check.answer(seen(at), checking(), [], read)


def test_the_answer_says_who_speaks_and_by_which_file() -> None:
    document = answered(config)
    assert (document["ok"], document["exit"]) == (True, 0)
    its = document["check"]
    assert its["config"] == str(config().path)
    assert (its["pid"] > 1, its["user"], its["changed"]) == (True, str(ME), False)
    assert [f"{one['verdict']}: {one['text']}" for one in its["lines"]] == [MEMBER, SHOP, "ok: state: it can be saved"]


def test_a_state_that_cannot_be_saved_is_not_said_to_be() -> None:
    document = answered(config, look(blind=(blind("state", "cannot be written"),)))
    assert document["exit"] == 1
    assert [one["text"] for one in document["check"]["lines"] if one["text"].startswith("state: ")] == [
        "state: cannot be written"
    ]


def test_what_the_file_says_by_now_is_compared_with_what_is_in_force() -> None:
    document = answered(lambda: replace(config(), interval_s=2.0))
    assert (document["exit"], document["check"]["changed"]) == (1, True)
    assert document["check"]["lines"][-1]["text"] == (
        f"{config().path} has changed since the service read it; `systemctl reload mongo-watchdog` has it read again"
    )

    def broken() -> Config:
        raise ConfigError(("a.yaml:1:1: mode: bad",))

    document = answered(broken)
    assert (document["exit"], document["check"]["changed"]) == (1, True)
    assert document["check"]["lines"][-1]["text"] == (
        f"{config().path} has mistakes now, and the service goes on by what it read before: a.yaml:1:1: mode: bad"
    )


def test_the_path_of_a_file_is_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    using = replace(config(), path=Path("config.yaml"))
    document = check.answer(seen(using=using), checking(), [], lambda: using)
    assert document["check"]["config"] == str(tmp_path / "config.yaml")
