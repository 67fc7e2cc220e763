"""The health of apps in a world of values: what a test says that they answer."""

from collections.abc import Callable
from dataclasses import dataclass, field

from watchdogd.config import HealthConfig
from watchdogd.model.base import InstanceId, Mono
from watchdogd.observe.health import Answer, Prober


@dataclass
class FakeProber(Prober):
    """`says`: what an instance answers now, None where nobody can be asked. `slow`: answers come when a test lets them.

    A status of 200 to 399 is good, as by default. `sends`: is called when the app serves a request.
    """

    clock: Callable[[], Mono]
    says: dict[InstanceId, list[str | None]] = field(default_factory=dict)
    slow: bool = False
    most: int = 50  # half of the queue
    sends: Callable[[InstanceId], None] = lambda _: None
    asked: list[tuple[InstanceId, int, Mono]] = field(default_factory=list)
    _answers: list[tuple[InstanceId, Answer]] = field(default_factory=list)
    _late: list[tuple[InstanceId, Answer]] = field(default_factory=list)

    def ask(self, instance: InstanceId, health: HealthConfig, most: int) -> int:
        many = min(most, self.most)
        now, low_high = self.clock(), health.expect
        self.asked.append((instance, many, now))
        says = self.says.get(instance, [None])
        for number in range(many):
            one = says[number % len(says)]
            good = one is not None and one.isdigit() and low_high[0] <= int(one) <= low_high[1]
            answer = Answer(now, now, good=good, reached=one is not None, says=one or "Connection refused")
            self._late.append((instance, answer))
            self.sends(instance)
        if not self.slow:
            self.let()
        return many

    def let(self) -> None:
        """What was asked is answered."""
        self._answers, self._late = self._answers + self._late, []

    def drain(self) -> list[tuple[InstanceId, Answer]]:
        answers, self._answers = self._answers, []
        return answers
