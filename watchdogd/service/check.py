"""What `check --live` says: whatever would keep a cure from being made tonight, each with its mend.

`lines` says what was seen, by whoever looked. Where the daemon runs it is asked (control.Check), and adds what nobody
else can know: whether the helpers believe it, whether its state can be saved, what it remembers. It must never hold up
a tick, send anything, or call that well which was not seen.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from watchdogd.act import helper
from watchdogd.act.helper import Helper
from watchdogd.codec import Document, encode
from watchdogd.config import Config, ConfigError, InstanceConfig, Mode
from watchdogd.core.case import Case
from watchdogd.core.objections import objections
from watchdogd.core.tick import limits_of
from watchdogd.model.base import InstanceId, Mono
from watchdogd.model.decided import Outlook
from watchdogd.model.done import Result
from watchdogd.model.found import Finding
from watchdogd.model.remembered import InstanceState, State
from watchdogd.model.seen import Area, Backend, Blindness, Instance, Member, MemberState, Snapshot, Trust
from watchdogd.model.text import Outside
from watchdogd.observe.health import probe
from watchdogd.paths import user_name
from watchdogd.report.answers import until_when
from watchdogd.report.words import also_at, from_proc, timestamp, tree, when
from watchdogd.service import rights
from watchdogd.service.control import Incoming

OK, NOTE, PROBLEM, NOT_COVERED = "ok", "note", "problem", "not covered"

WITHIN_S = 6.0
"""Until then a check is answered: longer than a helper may take, and than members need to be heard of (DNS, 2 s)."""

LOOK_EVERY_S = 0.5
"""Meanwhile. A worker that hangs is told by 3 looks that are so far apart."""

OLD_ENOUGH_S = 5.0
"""So long after its start the daemon is not asked: a master without threads is told by 4 looks of its first seconds."""

_WHAT_NOT = {
    helper.FIFO: "nothing would be written to the FIFO of {}",
    helper.END: "no process of {} that hangs would be ended",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One of them: its verdict and what is so."""

    verdict: str
    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What somebody saw, and what is remembered and decided where that was the daemon. `uncovered`: of Observer."""

    config: Config
    snapshot: Snapshot
    findings: Mapping[InstanceId, Finding]
    uncovered: tuple[str, ...]
    state: State = field(default_factory=State)
    outlooks: Mapping[InstanceId, Outlook] = field(default_factory=dict)
    faults: Mapping[InstanceId, str] = field(default_factory=dict)


def lines(seen: Seen, own: rights.Rights) -> Iterator[Line]:
    """Yield what was seen of everything. `own`: the rights of who looked; the write is not tried."""
    snapshot = seen.snapshot
    yield from map(_of_member, snapshot.members.values())
    yield from [Line(NOTE, sentence) for sentence in also(snapshot)]
    yield from [_of_instance(seen, one) for one in snapshot.instances]
    yield from [Line(PROBLEM, f"{one.scope}: {one.why}") for one in snapshot.blind]
    yield from [Line(PROBLEM, f"rights: {sentence}") for sentence in _missing_rights(seen, own)]
    yield from _of_all(seen)
    yield from [Line(NOTE, sentence) for sentence in _from_proc(snapshot)]
    yield from [Line(NOT_COVERED, sentence) for sentence in seen.uncovered]
    if not snapshot.instances:
        yield Line(PROBLEM, "no uWSGI instance with a master FIFO was found")


def also(snapshot: Snapshot) -> Iterator[str]:
    """Yield a sentence for each member that was found at another address than those that name it."""
    for member in snapshot.members.values():
        if member.learned:
            yield also_at(member.id.address, sorted(str(one) for one in member.learned))


def _of_member(member: Member) -> Line:
    what = f"{member.id.deployment}: {member.id.address}"
    if member.state is MemberState.UP:
        return Line(OK, f"{what}: up, {'serving' if member.is_serving else 'not serving'}")
    if member.unneeded:
        return Line(NOTE, f"{what}: {member.state.value}, and no alarm: {member.unneeded}")
    return Line(PROBLEM, f"{what}: {member.state.value}: {member.detail}")


def _of_instance(seen: Seen, instance: Instance) -> Line:
    limits, finding = limits_of(instance, seen.config), seen.findings[instance.id]
    state = seen.state.instances.get(instance.id, InstanceState())
    case = Case(seen.snapshot, seen.config, limits, instance, finding, state, seen.state)
    outlook, fault = seen.outlooks.get(instance.id), seen.faults.get(instance.id)
    found = objections(case, outlook.blocked_by if outlook else ())
    whys = [*([fault] if fault else []), *[f"{one.why}{_until(seen.snapshot, one.until)}" for one in found]]
    workers = f"master {instance.master.pid}, {len(instance.workers)} workers" if instance.master else "absent"
    return Line(PROBLEM if whys else OK, f"{instance.name}: {'; '.join(whys) or workers}")


def _of_health(instance: Instance) -> Iterator[Line]:
    """Say what the app answered last, where it is asked."""
    health = instance.health
    if health is None or health.at is None:
        return
    yield _answered(instance.name, health.target, health.says, good=health.good)
    if health.trust is Trust.INDEPENDENT:
        mend = "name a page that uses MongoDB"
        yield Line(NOTE, f"{instance.name}: health: it answers well without MongoDB, so that says nothing; {mend}")


def answers(config: Config) -> Iterator[Line]:
    """Ask each app once that has `health`, and yield what it said: for who looks only once."""
    for one in config.instances or ():
        if one.health is not None:
            said = probe(one.health)
            yield _answered(one.name, one.health.url.shown, said.says, good=said.good)


def _answered(name: str, where: str, says: str, *, good: bool) -> Line:
    return Line(OK if good else PROBLEM, f"{name}: health: {where} says {says}")


def _of_all(seen: Seen) -> Iterator[Line]:
    """Say what holds every instance alike, though somebody may have chosen it: nobody need remember that."""
    if seen.config.mode is Mode.OBSERVE:
        yield Line(PROBLEM, "mode is observe, so nothing is ever sent: set `mode: act`, or run it without `--observe`")
    if pause := seen.state.paused:
        until = until_when(pause, seen.snapshot.at, seen.snapshot.wall)
        yield Line(PROBLEM, f"paused {until}; `mongo-watchdog resume` ends it")
    if kinds := ", ".join(one.value for one in seen.config.policy.tell_only):
        yield Line(NOTE, f"what is told and not acted on, by `policy.tell_only`: {kinds}")


def _missing_rights(seen: Seen, own: rights.Rights) -> Iterator[str]:
    """Yield a sentence for each right that is missing for the instances that run."""
    instances = seen.snapshot.instances
    found = tuple([InstanceConfig(one.name, Path(one.fifo), one.deployments) for one in instances])
    uids = {Path(one.fifo): one.uid for one in instances}

    def owner(fifo: Path) -> int | None:
        uid = uids.get(fifo)
        return rights.owner_of(fifo) if uid is None else uid  # who may not see the master may see the FIFO

    return rights.missing(replace(seen.config, instances=found), own, owner)


def _from_proc(snapshot: Snapshot) -> Iterator[str]:
    """Yield a sentence wherever sockets are not read by SOCK_DIAG, which is no problem but good to know."""
    if snapshot.sockets.backend is Backend.PROC:
        yield from_proc(snapshot.sockets.why)
    for instance in snapshot.instances:
        if instance.sockets and instance.sockets.backend is Backend.PROC:
            yield f"{instance.name}: {from_proc(instance.sockets.why)}"


def _until(snapshot: Snapshot, until: Mono | None) -> str:
    if until is None:
        return ""
    return f"; until {when(timestamp(snapshot.wall + until - snapshot.at), timestamp(snapshot.wall))}"


class Helpers:
    """Asks the helpers that would act, in a thread of its own: whoever starts one may wait for it, the daemon may not.

    `wake` is called when they have answered, from that thread.
    """

    def __init__(self, asked: Iterable[tuple[Helper, Instance]], wake: Callable[[], object]) -> None:
        self._asked, self._wake = list(asked), wake
        self._answers: dict[Helper, dict[str, list[str]]] = {one: {} for one, _ in self._asked}
        self.answered = not self._asked
        if self._asked:
            threading.Thread(target=self._ask, name="check", daemon=True).start()

    def _ask(self) -> None:
        for one, instance in self._asked:
            if instance.uid is not None:
                result, why = helper.question(one, instance.id, instance.uid)
                self._answers[one].setdefault("" if result is Result.WILLING else why, []).append(instance.name)
        self.answered = True
        self._wake()

    def lines(self) -> Iterator[Line]:
        """Yield what they said; each refusal once, with whom it is about."""
        for one, said in self._answers.items() if self.answered else ():
            for why, names in said.items():
                of = ", ".join(names)
                refused = f"{_WHAT_NOT[one].format(of)}: {why}"
                yield Line(PROBLEM, refused) if why else Line(OK, f"{one.name}: ready for {of}")
        if not self.answered:
            for name in sorted({one.name for one, _ in self._asked}):
                yield Line(PROBLEM, f"{name} has not answered within {WITHIN_S:g} s; see `systemctl status {name}`")


def helpers_of(config: Config, snapshot: Snapshot, own: rights.Rights) -> list[tuple[Helper, Instance]]:
    """Return which helper would act at which instance that runs."""
    if config.mode is Mode.OBSERVE:
        return []
    return [
        (which, one)
        for one in snapshot.instances
        if one.master and one.uid is not None
        for which in own.helpers(one.uid)
    ]


@dataclass(slots=True)
class Checking:
    """A check that the daemon is asked for, until it has been answered. `since`: when it began.

    `own`: its rights then: systemd removes the socket of a helper that it may not start, as soon as that is asked.
    """

    since: Mono
    own: rights.Rights
    helpers: Helpers
    asked: list[Incoming] = field(default_factory=list)

    def is_over(self, at: Mono, *, unsure: bool, started: Mono) -> bool:
        """Say whether to answer now. `unsure`: of Observer. `started`: when the daemon was."""
        if at >= self.since + WITHIN_S:
            return True
        return self.helpers.answered and not unsure and at >= started + OLD_ENOUGH_S


def answer(seen: Seen, checking: Checking, unheard: Iterable[Blindness], read: Callable[[], Config]) -> Document:
    """Return the daemon's answer. `read` reads its configuration anew; `unheard`: of Observer."""
    found = [*lines(seen, checking.own), *[Line(PROBLEM, f"{one.scope}: {one.why}") for one in unheard]]
    found += [line for one in seen.snapshot.instances for line in _of_health(one)]
    found += checking.helpers.lines()
    if degraded := seen.snapshot.degraded:
        found.append(Line(PROBLEM, f"state: {degraded}"))
    elif all(one.scope.area is not Area.STATE for one in seen.snapshot.blind):
        found.append(Line(OK, "state: it can be saved"))
    change = _change(seen.config, read)
    found += [Line(PROBLEM, change)] if change else []
    content = {
        "pid": os.getpid(),
        "user": user_name(checking.own.uid),
        "config": str(seen.config.path.absolute()),
        "changed": bool(change),
        "lines": encode(found),
    }
    trouble = any(one.verdict == PROBLEM for one in found)
    return {"ok": True, "text": "", "exit": int(trouble), "check": tree(content)}


def _change(config: Config, read: Callable[[], Config]) -> str:
    """Say what is not in force of the file as it is now; empty where all is."""
    path = Outside(config.path)
    try:
        now = read()
    except ConfigError as error:
        return f"{path} has mistakes now, and the service goes on by what it read before: {'; '.join(error.mistakes)}"
    if now == config:
        return ""
    return f"{path} has changed since the service read it; `systemctl reload mongo-watchdog` has it read again"
