"""The loop: read, fold, detect, decide, save, perform, tell, ping. One thread decides, and nothing in a tick blocks.

The watchdog ping comes only from the end of a whole tick: a loop that hangs or fails is ended by systemd. It must never
decide anything itself: what depends on what was seen stands in policy.
"""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from watchdogd.act import end, fifo, helper
from watchdogd.config import Config, ConfigError
from watchdogd.core.conclude import Conclusions
from watchdogd.core.coverage import Coverage
from watchdogd.core.tick import decide
from watchdogd.model.base import InstanceId, Mono
from watchdogd.model.decided import Answer, Decision, Effect, Outlook
from watchdogd.model.done import EndProcess, Outcome, SendFifo
from watchdogd.model.found import Finding
from watchdogd.model.remembered import State
from watchdogd.model.seen import Area, Blindness, Scope, Snapshot
from watchdogd.model.text import fault
from watchdogd.model.told import ConfigRejected, ConfigReloaded, SeeingAgain, Stopping, Tell, WentBlind, What
from watchdogd.observe.observer import Observer
from watchdogd.report import answers, status, words
from watchdogd.report.notify import Notifier
from watchdogd.report.sinks import Sinks
from watchdogd.service import check
from watchdogd.service.control import Check, Incoming, Reconfigure, Server, Status
from watchdogd.service.rights import Rights
from watchdogd.service.store import Store, StoreError


@dataclass(slots=True)
class Daemon:
    """Everything that one running daemon holds. `wake` is readable when a thread has put something on a queue."""

    config: Config
    observer: Observer
    store: Store
    server: Server
    selector: selectors.BaseSelector
    sinks: Sinks
    notifier: Notifier
    wake: int
    clock: Callable[[], Mono]
    wall: Callable[[], float]
    state: State
    load: Callable[[], Config]
    _outcomes: tuple[Outcome, ...] = ()
    _incoming: list[Incoming] = field(default_factory=list)
    _signals: set[int] = field(default_factory=set)
    _conclusions: Conclusions = field(default_factory=Conclusions)
    _coverage: Coverage = field(default_factory=Coverage)
    _outlooks: Mapping[InstanceId, Outlook] = field(default_factory=dict)
    _wake_at: Mono = 0.0
    _error: str = ""
    _since: Mono = 0.0
    _whole_at: Mono | None = None
    _checking: check.Checking | None = None

    def run(self) -> None:
        """Tick until SIGTERM or SIGINT; READY after the first whole tick."""
        self._since = self.clock()
        leave = {signal.SIGTERM, signal.SIGINT}
        for number in (*leave, signal.SIGHUP):
            signal.signal(number, self._take_signal)
        self.selector.register(self.wake, selectors.EVENT_READ)
        while not self._signals & leave:
            try:
                self._tick()
                self.notifier.ready()
                self.notifier.watchdog()
                if self._error:
                    self._tell(SeeingAgain("loop"))
                    self._error = ""
            except Exception as error:  # noqa: BLE001 - no ping for this tick: systemd ends a loop that goes on failing
                self._fail(fault(error))
            self.sinks.flush()
            self._incoming.clear()
            self._wait()
        self.notifier.stopping()
        self._tell(Stopping())
        self.sinks.flush()

    def _take_signal(self, number: int, _: object) -> None:
        self._signals.add(number)
        os.eventfd_write(self.wake, 1)

    def _fail(self, reason: str) -> None:
        self._wake_at = self.clock() + self.config.interval_s
        for one in self._incoming:
            self.server.answer(one, {"ok": False, "text": reason, "exit": 1})
        if reason != self._error:
            self._error = reason
            self._tell(WentBlind("loop", reason))

    def _wait(self) -> None:
        for key, mask in self.selector.select(max(0.0, self._wake_at - self.clock())):
            if key.fd == self.wake:
                os.eventfd_read(self.wake)
            else:
                self._incoming += self.server.on_ready(key, mask)
        self.server.expire(self.clock())

    def _tick(self) -> None:
        asked = [one for one in self._incoming if isinstance(one.wish, Reconfigure)]
        if asked or signal.SIGHUP in self._signals:
            self._signals.discard(signal.SIGHUP)
            answer = self._reconfigure()
            for one in asked:
                self.server.answer(one, answer)
        requests = tuple([request for one in self._incoming if (request := one.request(self.clock()))])
        asked_for = {one.instance for one in requests if one.instance is not None}
        suspected = asked_for | {key for key, one in self._outlooks.items() if one.suspected}
        soon = asked_for | {key for key, one in self._outlooks.items() if one.soon}
        full = bool(self._incoming or self._checking)
        self.observer.want_rounds([key for key, one in self._outlooks.items() if one.rounds])
        snapshot = self.observer.look(
            full=full, suspected=suspected, soon=soon, outcomes=self._outcomes, requests=requests
        )
        snapshot = self._with_our_own_troubles(snapshot)
        if any(isinstance(one.wish, Check) for one in self._incoming):
            self.store.doubt()
        findings, decision = self._conclusions.draw(self.state, snapshot, self.config)
        try:
            ended, access = self.observer.ended(), self.observer.access()
            self.store.save(decision.state, ended, snapshot.at, snapshot.wall, access)
        except StoreError as error:  # decided again with that as a blindness: then nothing is sent
            why = str(error)
            snapshot = replace(snapshot, blind=(*snapshot.blind, Blindness(Scope(Area.STATE), why)), unsaved=why)
            decision = decide(self.state, findings, snapshot, self.config)
        self._wake_helper(snapshot, decision)
        self.state, self._outlooks = decision.state, decision.outlooks
        if status.sees_all(snapshot, decision):
            self._whole_at = snapshot.at
        self.sinks.look(snapshot, findings, decision, self.config)
        performed = map(self._perform, (*snapshot.news, *decision.effects))
        self._outcomes = tuple([outcome for outcome in performed if outcome])
        for news in self._coverage.news(snapshot, decision, self.config):
            self.sinks.tell(news, self.wall())
        for one in [one for one in self._incoming if isinstance(one.wish, Status)]:
            watch = status.Watch(self._since, self._whole_at)
            self.server.answer(one, status.answer(status.document(snapshot, findings, decision, self.config, watch)))
        self._check(snapshot, findings, decision)
        self.notifier.status(status.line(snapshot, findings, decision, self.config))
        latest = snapshot.at + min(self.config.interval_s, self.notifier.interval_s or self.config.interval_s)
        latest = min(latest, snapshot.at + check.LOOK_EVERY_S) if self._checking else latest
        self._wake_at = 0.0 if self._outcomes else min(decision.wake_at or latest, latest)

    def _with_our_own_troubles(self, snapshot: Snapshot) -> Snapshot:
        """Add what this daemon cannot tell or keep."""
        blind = [*snapshot.blind, *self.sinks.blind()]
        if problem := self.store.problem():  # of what was saved: reloads are blocked while there is one
            blind.append(Blindness(Scope(Area.STATE), problem))
        if len(blind) > len(snapshot.blind) or self.store.degraded:
            return replace(snapshot, blind=tuple(blind), degraded=self.store.degraded)
        return snapshot

    def _check(self, snapshot: Snapshot, findings: Mapping[InstanceId, Finding], decision: Decision) -> None:
        """Begin what operators want checked, and answer once it can be told; no tick waits for that."""
        asked = [one for one in self._incoming if isinstance(one.wish, Check)]
        if self._checking is None and asked:
            own = Rights.of_this_process()
            whom = check.helpers_of(self.config, snapshot, own)
            helpers = check.Helpers(whom, lambda: os.eventfd_write(self.wake, 1))
            self._checking = check.Checking(snapshot.at, own, helpers)
        if self._checking is None:
            return
        self._checking.asked += asked
        try:
            answer = self._answer_to(self._checking, snapshot, findings, decision)
        except Exception as error:  # noqa: BLE001 - it is a question: no tick may fail of it
            answer = {"ok": False, "text": fault(error), "exit": 1}
        if answer is not None:
            for one in self._checking.asked:
                self.server.answer(one, answer)
            self._checking = None

    def _answer_to(
        self, checking: check.Checking, snapshot: Snapshot, findings: Mapping[InstanceId, Finding], decision: Decision
    ) -> Mapping[str, object] | None:
        """Return the answer, None while it cannot be told yet."""
        if not checking.is_over(snapshot.at, unsure=self.observer.unsure(), started=self._since):
            return None
        seen = check.Seen(
            self.config,
            replace(snapshot, degraded=self.store.degraded),  # of this very tick
            findings,
            self.observer.uncovered(),
            decision.state,
            decision.outlooks,
            decision.faults,
        )
        return check.answer(seen, checking, self.observer.unheard(), self.load)

    def _wake_helper(self, snapshot: Snapshot, decision: Decision) -> None:
        """Have it started when a byte may be written within seconds: its moment would pass meanwhile."""
        before = {key for key, one in self._outlooks.items() if one.soon}
        for instance in snapshot.instances:
            outlook = decision.outlooks.get(instance.id)
            if outlook and outlook.soon and instance.id not in before:
                helper.wake(instance.uid)

    def _perform(self, effect: Effect) -> Outcome | None:
        if isinstance(effect, SendFifo):
            return fifo.perform(effect, self.observer.last_look, self.clock, helper.attempt)
        if isinstance(effect, EndProcess):
            return end.perform(effect, self.observer.last_look_to_end, self.clock, helper.end)
        if isinstance(effect, Answer):
            self.server.reply(effect, answers.sentence(effect, self.clock(), self.wall()))
        else:
            self.sinks.tell(effect, self.wall())
        return None

    def _reconfigure(self) -> dict[str, object]:
        """Read the configuration again and answer how that went; a bad file leaves the old one in force."""
        self.notifier.reloading()
        try:
            config = self.load()
        except ConfigError as error:
            self._tell(ConfigRejected(error.mistakes))
            return {"ok": False, "text": words.lines(error.mistakes), "exit": 78}
        finally:
            self.notifier.ready()
        moved = (config.state_dir, config.control_socket) != (self.config.state_dir, self.config.control_socket)
        later = "; state_dir and control_socket take effect at the next start" if moved else ""
        self.config = config
        self.observer.reconfigure(config)
        instances = None if config.instances is None else len(config.instances)
        self._tell(ConfigReloaded(len(config.deployments), instances))
        return {"ok": True, "text": f"the configuration was read again{later}", "exit": 0}

    def _tell(self, what: What) -> None:
        self.sinks.tell(Tell(what), self.wall())
