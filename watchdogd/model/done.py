"""What is done to an instance, and what became of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from watchdogd.model.base import Command, InstanceId, Mono, ProcessId


class Moment(NamedTuple):
    """When to write a byte, so that uWSGI forks well (core/aim.py): not before and not after, by CLOCK_MONOTONIC."""

    not_before: Mono
    not_after: Mono


@dataclass(frozen=True, slots=True)
class SendFifo:
    """Write one byte, if the world still is as the decision saw it: same master, same workers, all of them ready.

    `moment` None: at any time.
    """

    id: str
    instance: InstanceId
    fifo: str
    command: Command
    master: ProcessId
    workers: frozenset[ProcessId]
    uid: int | None
    moment: Moment | None = None


@dataclass(frozen=True, slots=True)
class Stuck:
    """A mule or a spooler that is stuck. `role`: its word; `inodes`: the ended sockets that it holds."""

    role: str
    inodes: frozenset[int]


@dataclass(frozen=True, slots=True)
class EndProcess:
    """SIGKILL one process, if it still is the same one of the same master, and what it was ended for is still so.

    `uid`: the effective one of the master, as Instance.uid; for the sentence where that may not be done. `stuck`: as
    which mule or spooler it is stuck, by which sockets (inodes); None where it hangs by rule G.
    """

    id: str
    instance: InstanceId
    master: ProcessId
    process: ProcessId
    uid: int | None
    stuck: Stuck | None = None


class Result(enum.Enum):
    """What became of one attempt to write the FIFO, or to end a process, or of the question whether it would be."""

    WILLING = "willing"  # the answer to a question: nothing was done, and it would be
    ENDED = "ended"  # the process is dead, as its pidfd says
    WRITTEN = "written"  # the byte is in the pipe; that proves delivery, not execution
    TRY_AGAIN = "try_again"  # ENOENT, ENXIO, EPIPE, EAGAIN: the master makes its FIFO anew; too late; not dead yet
    CHANGED = "changed"  # the last look did not find what the decision was made on
    REFUSED = "refused"  # not a FIFO, another owner, no permission: will not mend itself


@dataclass(frozen=True, slots=True)
class Outcome:
    """What act did with the effect `id`; `process`: whom it was to end."""

    id: str
    result: Result
    at: Mono
    detail: str = ""
    process: ProcessId | None = None
