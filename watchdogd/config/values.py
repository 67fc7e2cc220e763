"""The configuration as frozen values. This module must never do I/O; a repr must never show a URI."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

from watchdogd.config.probe_url import ProbeUrl
from watchdogd.model.base import CHAIN, WORKERS, InstanceId, Way
from watchdogd.model.found import Kind
from watchdogd.model.text import Outside

DEFAULT_PATH = Path("/etc/mongo-watchdog/config.yaml")
DEFAULT_STATE_DIR = Path("/var/lib/mongo-watchdog")
DEFAULT_CONTROL_SOCKET = Path("/run/mongo-watchdog/control.sock")


class Mode(enum.Enum):
    """`observe`: everything but the write."""

    ACT = "act"
    OBSERVE = "observe"


class Idle(enum.Enum):
    """What to do with workers that hold leftovers and have not used MongoDB since."""

    RELOAD = "reload"
    LEAVE = "leave"


class Cause(enum.Enum):
    """Which CLOSE_WAIT counts: only that of an outage, or any."""

    OUTAGE = "outage"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class DeploymentConfig:
    """One entry under `mongodb:`. `uri` may carry a password: it is never shown (repr leaves it out)."""

    name: str
    uri: str = field(repr=False)
    endpoints: tuple[tuple[str, int], ...] = ()  # further host, port that workers connect to
    learn_addresses: bool = True
    probe_access: bool = True


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """`health:` of an instance: the request that shows how its app is, and which answers are good.

    `timeout_s`: for all of it, from the connect to the end of the answer. `expect`: the lowest and the highest status
    that is good. `host`: what the request names as its host, and whose certificate it must be; empty: that of the URL.
    `verify`: whether the certificate is checked.
    """

    url: ProbeUrl
    timeout_s: float = 5.0
    expect: tuple[int, int] = (200, 399)
    host: str = ""
    verify: bool = True


@dataclass(frozen=True, slots=True)
class InstanceConfig:
    """One entry under `uwsgi:`, or what holds for an instance that was found.

    `deployments` is empty where none is named and there are several. `trust_owners`: the users whose symbolic links in
    the path count, beside root and the owner of the FIFO. `health` None: the app is not asked how it is.
    """

    name: str
    master_fifo: Path
    deployments: tuple[str, ...]
    reloads: frozenset[Way] = frozenset({WORKERS, CHAIN})
    mercy_s: float = 60.0
    trust_owners: frozenset[int] = frozenset()
    health: HealthConfig | None = None

    @property
    def id(self) -> InstanceId:
        """Who it is: its path as it is configured, or as its master names it, which no link in it changes."""
        return InstanceId(Outside(self.master_fifo))


@dataclass(frozen=True, slots=True)
class Budget:
    """Reloads in `per_s` seconds: those that did not end in proven recovery, and all."""

    unproven: int = 3
    total: int = 12
    per_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """`policy:`; seconds."""

    linger_s: float = 15.0
    idle: Idle = Idle.RELOAD
    cause: Cause = Cause.OUTAGE
    cooldown_s: float = 60.0
    budget: Budget = Budget()
    half_open_after_s: float = 1800.0
    max_parallel: int = 4
    tell_only: tuple[Kind, ...] = ()


@dataclass(frozen=True, slots=True)
class HistoryConfig:
    """`history:`; for how many seconds the record of an incident is kept. 0: none is made."""

    keep_s: float = 90 * 86400.0


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. `instances` None: every uWSGI instance on the host that has a master FIFO."""

    deployments: tuple[DeploymentConfig, ...]
    instances: tuple[InstanceConfig, ...] | None = None
    mode: Mode = Mode.ACT
    interval_s: float = 1.0
    policy: PolicyConfig = PolicyConfig()
    history: HistoryConfig = HistoryConfig()
    state_dir: Path = DEFAULT_STATE_DIR
    control_socket: Path = DEFAULT_CONTROL_SOCKET
    path: Path = DEFAULT_PATH
