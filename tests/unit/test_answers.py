"""What an operator is answered: by whom, until when, and in whose place."""

from tests.world.pieces import ALICE
from watchdogd.model.decided import Answer, Blocked
from watchdogd.model.remembered import Pause
from watchdogd.model.text import Outside
from watchdogd.report.answers import sentence

AT, WALL = 1000.0, 1_795_341_600.0  # 2026-11-22T10:00:00Z
BACKUP = Pause(AT + 1800, Outside("backup"), Outside("alice"))
MOVE = Pause(None, Outside("move"), Outside("bob"))


def said(text: str, *, ok: bool = True, **more: object) -> str:
    return sentence(Answer("1", ok, text, **more), AT, WALL)  # type: ignore[arg-type]


def test_a_pause_is_answered_with_its_end_its_user_and_its_reason() -> None:
    assert said("paused", pause=BACKUP) == "paused until 2026-11-22T10:30:00.000Z (in 30 min), by alice: backup"
    assert said("paused", pause=MOVE) == "paused until `mongo-watchdog resume`, by bob: move"
    assert said("paused", pause=Pause(None)) == "paused until `mongo-watchdog resume`"


def test_whose_pause_ends_with_it_is_said() -> None:
    until = "until 2026-11-22T10:30:00.000Z (in 30 min), by alice: backup"
    assert said("paused", pause=MOVE, before=BACKUP).endswith(
        f"by bob: move; that takes the place of the pause {until}"
    )
    assert said("resumed", before=BACKUP) == f"resumed; that ends the pause {until}"


def test_for_whom_a_reload_is_begun_is_said_and_what_it_went_past() -> None:
    assert said("reload begun", by=ALICE) == "reload begun for alice (uid 1000, pid 4711)"
    assert said("reload begun", by=ALICE, past=("cooldown", "gave_up")) == (
        "reload begun for alice (uid 1000, pid 4711), past cooldown, gave_up"
    )


def test_where_now_would_help_that_is_said() -> None:
    assert said("held by", ok=False, blocked_by=(Blocked("budget", "2 of 2"),), now_helps=True) == (
        "held by budget: 2 of 2; `reload --now` goes past that"
    )


def test_every_gate_says_until_when_where_that_is_known() -> None:
    shut = (Blocked("cooldown", "the last reload is too young", AT + 5), Blocked("fifo", "it is gone"))
    assert said("held by", ok=False, blocked_by=shut) == (
        "held by cooldown: the last reload is too young, until 2026-11-22T10:00:05.000Z (in 5 s); fifo: it is gone"
    )
