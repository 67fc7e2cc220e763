"""What is decided: effects, what holds them, and what comes next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from watchdogd.model.base import InstanceId, Mono, ProcessId
from watchdogd.model.done import EndProcess, SendFifo
from watchdogd.model.remembered import Pause, Phase, State
from watchdogd.model.seen import Operator
from watchdogd.model.told import Tell


@dataclass(frozen=True, slots=True)
class Blocked:
    """A shut gate: its name, the reason in words, and until when, where that is known."""

    gate: str
    reason: str
    until: Mono | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The immediate answer to an operator's request; report/answers.py makes its sentence.

    `reload`: the id to watch where one was begun, `by`: for whom, `past`: what would have held another one.
    `blocked_by`: what holds it; `now_helps`: `--now` goes past all of that. `pause`: the one that stands now,
    `before`: the one that stood until now. `wrong_use`: what was asked for is not there.
    """

    request: str
    ok: bool
    text: str
    reload: str | None = None
    blocked_by: tuple[Blocked, ...] = ()
    pause: Pause | None = None
    before: Pause | None = None
    wrong_use: bool = False
    by: Operator | None = None
    past: tuple[str, ...] = ()
    now_helps: bool = False


Effect = Tell | SendFifo | EndProcess | Answer


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the status shows of an instance's future: which command is next, when, and what blocks it.

    `suspected`: there is reason to look closer, each second. `soon`: a byte may be written within seconds.
    `only_shown`: why nothing is ever done to it as it is, with what changes that; empty where it is acted on, and where
    there is no master. `ways`: what `reloads` allows, in words. `ends`: of each process that hangs, what ends it.
    `rounds`: how all its workers answer would say something now.
    """

    phase: Phase
    next_what: str = ""
    next_at: Mono | None = None
    blocked_by: tuple[Blocked, ...] = ()
    reloads_left: int = 0
    suspected: bool = False
    soon: bool = False
    only_shown: str = ""
    ways: tuple[str, ...] = ()
    ends: Mapping[ProcessId, str] = field(default_factory=dict)
    rounds: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What decide gives: the new memory (saved first), the effects in order, and when to look again at the latest.

    `faults`: why nothing could be decided, for each instance where that is so.
    """

    state: State
    effects: tuple[Effect, ...]
    wake_at: Mono | None
    outlooks: Mapping[InstanceId, Outlook]
    faults: Mapping[InstanceId, str] = field(default_factory=dict)
