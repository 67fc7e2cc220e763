"""What all the other words are made of: times, processes, addresses, and the commands that uWSGI is sent.

Times are CLOCK_MONOTONIC seconds (`Mono`); wall time stands in `Snapshot.wall` alone, for the journal and the status.
"""

from __future__ import annotations

import enum
import math
from typing import Annotated, NamedTuple, NewType

Mono = Annotated[float, "CLOCK_MONOTONIC"]
"""Seconds of CLOCK_MONOTONIC. Annotated so that codec.py finds every such time and moves it to another boot's clock."""


class Incarnation(str):
    """One life of a member: its process id, or its address with the second of the last DOWN -> UP where the server
    gives none (mongod 4.2, proxies), or with `start` where that was before the daemon began. Two names of one mongod
    share it.
    """

    __slots__ = ()

    @classmethod
    def of_address(cls, address: str, up_at: Mono | None) -> Incarnation:
        """Return the life of a server without a process id. `up_at` None: it came up before we looked."""
        return cls(f"{address}@start" if up_at is None else f"{address}@{up_at:.3f}")

    @property
    def address(self) -> str | None:
        """Whose life it is, where the address is all that is known; else None."""
        return self.rpartition("@")[0] or None

    @property
    def began_before_us(self) -> bool:
        """Whether its beginning was before this daemon's."""
        return self.endswith("@start")


class Command(enum.Enum):
    """The byte for the master FIFO. No other one is ever sent."""

    WORKERS = "w"
    CHAIN = "c"
    RESTART = "r"  # of the stack

    @property
    def word(self) -> str:
        """What `reloads:` of the configuration calls it."""
        return self.name.lower()


class Beside(enum.Enum):
    """What `reloads:` may allow beside commands: SIGKILL of a mule or spooler that is stuck, which uWSGI makes anew."""

    MULES = "mules"

    @property
    def word(self) -> str:
        """What `reloads:` of the configuration calls it."""
        return self.value


WORKERS, CHAIN, RESTART = Command.WORKERS, Command.CHAIN, Command.RESTART
MULES = Beside.MULES
Way = Command | Beside
"""One entry of `reloads:`."""


class Interval(NamedTuple):
    """An instant that is known to lie in [lo, hi]; a late start of the daemon means wide intervals, not other code."""

    lo: Mono
    hi: Mono

    @classmethod
    def ever_until(cls, at: Mono) -> Interval:
        """Return the interval of something that happened before we looked."""
        return cls(-math.inf, at)

    def overlaps(self, other: Interval) -> bool:
        """Say whether both may be the same instant."""
        return self.lo <= other.hi and other.lo <= self.hi

    def narrowed(self, other: Interval) -> Interval:
        """Return what both readings agree on; self where they contradict (a clock step, a kernel counter reset)."""
        both = Interval(max(self.lo, other.lo), min(self.hi, other.hi))
        return both if both.lo <= both.hi else self


class ProcessId(NamedTuple):
    """A process; the start time (field 22 of /proc/PID/stat, clock ticks) tells it from a later one of the same pid."""

    pid: int
    start_ticks: int


InstanceId = NewType("InstanceId", str)
"""Who an instance is: the path of its FIFO as it is configured, or as its master names it. All that is remembered,
compared or sent of an instance goes by it; a name is for people. Its master tells one life of it from the next."""


class Endpoint(NamedTuple):
    """One side of a connection: an IP address as text (v4-mapped ones as IPv4) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class MemberId(NamedTuple):
    """One host:port of a deployment, as the configuration or `hello` names it."""

    deployment: str
    address: str
