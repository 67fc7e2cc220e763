"""What is done to an instance, and what became of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from watchdogd.model.base import Command, InstanceId, Mono, ProcessId


@dataclass(frozen=True, slots=True)
class SendFifo:
    """Write one byte, if the world still is as the decision saw it: same master, same workers, all of them ready.

    Not before and not after these times, where they are given: then uWSGI forks at a good moment (core/aim.py).
    """

    id: str
    instance: InstanceId
    fifo: str
    command: Command
    master: ProcessId
    workers: frozenset[ProcessId]
    uid: int | None
    not_before: Mono | None = None
    not_after: Mono | None = None


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
    """What became of one attempt to write the FIFO, or to end a process."""

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
