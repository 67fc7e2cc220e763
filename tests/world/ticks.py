"""Ticks of the daemon by hand: each is shown what a test wants it to see, and keeps its memory for the next one."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from tests.world import pieces
from tests.world.pieces import ALICE, AT, SHOP_ID, config, snapshot
from watchdogd.config import Config
from watchdogd.core.detect import detect
from watchdogd.core.tick import decide
from watchdogd.model.base import Mono
from watchdogd.model.decided import Answer, Decision, Outlook
from watchdogd.model.done import Outcome, Result, SendFifo
from watchdogd.model.remembered import InstanceState, Phase, State
from watchdogd.model.seen import Connection, Instance, Member, Request, Verb
from watchdogd.model.text import Outside
from watchdogd.model.told import Event, Tell
from watchdogd.report import answers


@dataclass
class Ticks:
    """The memory, and what the last tick decided. `result` becomes of every byte that is sent; None: nobody knows."""

    config: Config = field(default_factory=config)
    result: Result | None = Result.WRITTEN
    at: Mono = AT - 1
    state: State = field(default_factory=State)
    decision: Decision | None = None
    detail: str = "as it is"  # of every outcome
    outcomes: tuple[Outcome, ...] = ()  # of other effects, for the next tick
    _outcomes: tuple[Outcome, ...] = ()

    def see(
        self,
        one: Instance,
        *connections: Connection,
        after: float = 1.0,
        members: Iterable[Member] | None = None,
        ask: Verb | None = None,
        now: bool = False,
        restart: bool = False,
        blind: str | None = None,
    ) -> list[Event]:
        """Let `after` seconds pass, show this, and return what is told of it."""
        self.at += after
        wish = Request("request", ask or Verb.RELOAD, one.id, None, Outside("maintenance"), ALICE, now, restart)
        seen = replace(
            snapshot(one, *connections, members=members),
            at=self.at,
            wall=1_790_000_000.0 + self.at,
            outcomes=(*self._outcomes, *self.outcomes),
            requests=(wish,) if ask else (),
            blind=(pieces.blind(blind),) if blind else (),
        )
        self.decision = decide(self.state, detect(seen, self.config), seen, self.config)
        assert not self.decision.faults
        self.outcomes = ()
        self.state = self.decision.state
        self._outcomes = (
            (Outcome(self.sent.id, self.result, self.at, self.detail),) if self.sent and self.result else ()
        )
        return self.told

    @property
    def shop(self) -> InstanceState:
        return self.state.instances[SHOP_ID]

    def phase(self) -> Phase:
        return self.shop.phase

    @property
    def outlook(self) -> Outlook:
        assert self.decision
        return self.decision.outlooks[SHOP_ID]

    @property
    def told(self) -> list[Event]:
        return [tell.event for tell in self.tells]

    @property
    def tells(self) -> list[Tell]:
        assert self.decision
        return [effect for effect in self.decision.effects if isinstance(effect, Tell)]

    @property
    def sent(self) -> SendFifo | None:
        assert self.decision
        return next((effect for effect in self.decision.effects if isinstance(effect, SendFifo)), None)

    @property
    def answer(self) -> Answer:
        assert self.decision
        return next(effect for effect in self.decision.effects if isinstance(effect, Answer))

    @property
    def answered(self) -> str:
        """The sentence of the answer."""
        return answers.sentence(self.answer, self.at, 1_790_000_000.0 + self.at)
