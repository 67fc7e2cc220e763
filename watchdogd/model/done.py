"""What is done to an instance, and what became of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from watchdogd.model.base import Command, InstanceId, Mono, ProcessId


@dataclass(frozen=True, slots=True)
class SendFifo:
    """Write one byte, if the world still is as the decision saw it: same master, same workers, all of them ready."""

    id: str
    instance: InstanceId
    fifo: str
    command: Command
    master: ProcessId
    workers: frozenset[ProcessId]
    uid: int | None


class Result(enum.Enum):
    """What became of one attempt to write the FIFO."""

    WRITTEN = "written"  # the byte is in the pipe; that proves delivery, not execution
    TRY_AGAIN = "try_again"  # ENOENT, ENXIO, EPIPE, EAGAIN: normal while the master makes its FIFO anew
    CHANGED = "changed"  # the last look did not find what the decision was made on
    REFUSED = "refused"  # not a FIFO, another owner, no permission: will not mend itself


@dataclass(frozen=True, slots=True)
class Outcome:
    """What act did with the effect `id`."""

    id: str
    result: Result
    at: Mono
    detail: str = ""
