"""Addresses that answer in a world of values.

It stands for `watchdogd.observe.mongod.ask.SocketAsker`; tests/integration/test_ask.py runs the same assertions on
both.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from watchdogd.model.base import Endpoint
from watchdogd.observe.mongod.ask import Heard, Probe, Probed, Question, Said


@dataclass
class FakeAsker:
    """`processes`: who answers where, one after the other; None: a MongoDB without a name. Elsewhere nobody does.

    `access`: the members whose access control is on, or off, by address. The others do not tell.
    """

    wake: Callable[[], None] = lambda: None
    processes: dict[Endpoint, list[str | None]] = field(default_factory=dict)
    access: dict[str, bool] = field(default_factory=dict)
    asked: list[Question] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    _heard: list[Heard | Probed] = field(default_factory=list)

    def ask(self, question: Question | Probe) -> None:
        if isinstance(question, Probe):
            self.probes.append(question)
            on = self.access.get(question.member.address)
            self._heard.append(Probed(question.incarnation, on, "Connection refused" if on is None else ""))
        else:
            self.asked.append(question)
            self._heard.append(self._answer(question))
        self.wake()

    def drain(self) -> list[Heard | Probed]:
        heard, self._heard = self._heard, []
        return heard

    def _answer(self, question: Question) -> Heard:
        remote, processes = question.remote, self.processes.get(question.remote)
        if not processes:
            return Heard(remote, Said.NOTHING, why="Connection refused")
        first = processes[0]
        if first is None:
            return Heard(remote, Said.NO_NAME)
        if first in question.hosts and set(processes) != {first}:
            return Heard(remote, Said.SEVERAL)
        return Heard(remote, Said.A_PROCESS, first)
