"""A master FIFO in a world of values: it takes commands, and fails in the ways that a test scripts.

It stands for `watchdogd.act.fifo.attempt`; tests/integration/test_fifo.py runs the same assertions on both.
"""

from dataclasses import KW_ONLY, dataclass, field

from watchdogd.model.base import Command
from watchdogd.model.done import Moment, Result


@dataclass
class FakeFifo:
    """One FIFO; `attempt` is the edge. `scripted` results are used up first, then the state below decides."""

    path: str
    owner: int = 33
    _: KW_ONLY
    exists: bool = True
    read: bool = True  # a master has it open
    is_fifo: bool = True
    scripted: list[Result] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)  # what arrived

    def attempt(
        self, fifo: int, path: str, command: Command, uid: int | None, moment: Moment | None = None
    ) -> tuple[Result, str]:
        result = self.scripted.pop(0) if self.scripted else self._result(path, uid)
        if result is Result.WRITTEN:
            self.commands.append(command)
            return result, ""
        return result, f"{path}: {result.value} in the world of this test"

    def _result(self, path: str, uid: int | None) -> Result:
        if path != self.path or not self.exists:
            return Result.TRY_AGAIN
        if not self.is_fifo or uid != self.owner:
            return Result.REFUSED
        return Result.WRITTEN if self.read else Result.TRY_AGAIN
