"""A real mongod, alone or in a replica set, that can be stopped, killed, frozen and started on the same port.

It must never share its data or its port with another one: each has a folder and a port of its own.
"""

import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rig import fetch, wire
from rig.ports import free_port
from rig.processes import Process, wait_for

# Ready in 0.4-0.9 s on a quiet machine; the rest is for a loaded one (load 20-40 on two cores).
START_WITHIN_S = 60.0
# What a small server for tests can do without: a cache of half the memory, files of diagnostics, and a journal of
# 300 MB that is written ahead (4 MB are left, measured with 4.2.6 and 6.0.27).
SMALL = (
    *("--wiredTigerCacheSizeGB", "0.25"),
    *("--wiredTigerEngineConfigString", "log=(file_max=4MB,prealloc=false)"),
    *("--setParameter", "diagnosticDataCollectionEnabled=false"),
    "--nounixsocket",
)


class Mongod:
    """One mongod with its data in a folder; as a context manager it starts it and kills it.

    `also`: further addresses that it listens on, beside its `host`. `prefix` goes before the command, and executes it.
    """

    def __init__(  # noqa: PLR0913 - settings by keyword
        self,
        folder: Path,
        *,
        port: int | None = None,
        version: str = fetch.DEFAULT_MONGOD,
        replica_set: str | None = None,
        also: Sequence[str] = (),
        extra: Sequence[str] = (),
        prefix: Sequence[str] = (),
    ) -> None:
        self.port = port if port is not None else free_port()
        self.folder = folder
        self.also = also
        self.log = folder / "mongod.log"
        binary = fetch.mongod(version)
        data = folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        place = ("--dbpath", str(data), "--bind_ip", ",".join(self.addresses), "--port", str(self.port))
        extra = ("--ipv6", *extra) if any(":" in one for one in also) else extra
        member = () if replica_set is None else ("--replSet", replica_set, "--oplogSize", "16")
        argv = [*prefix, str(binary.path), *place, *SMALL, *member, *extra]
        self._process = Process(argv, log=self.log, env=binary.env)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def host(self) -> str:
        """The address it listens on."""
        return "127.0.0.1"

    @property
    def addresses(self) -> Sequence[str]:
        """All addresses that it listens on."""
        return [self.host, *self.also]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, as a socket takes them."""
        return (self.host, self.port)

    @property
    def uri(self) -> str:
        """A connection string without options."""
        return f"mongodb://{self.host}:{self.port}/"

    @property
    def pid(self) -> int:
        """The operating system's process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there, frozen or not."""
        return self._process.running

    def start(self) -> None:
        """Starts it and returns when it answers."""
        with contextlib.ExitStack() as failed:
            failed.callback(self.kill)
            self._process.start()
            self._process.wait_until(self.answers, f"mongod answers on port {self.port}", within=START_WITHIN_S)
            failed.pop_all()

    def stop(self) -> None:
        """Shuts it down cleanly (SIGTERM) and returns when the process is gone."""
        self._process.end(signal.SIGTERM, grace=30)

    def kill(self) -> None:
        """Ends it at once (SIGKILL), as a crash does; nothing when it does not run."""
        self._process.end(signal.SIGKILL)

    def restart(self) -> None:
        """A clean restart without a pause, about as long as `systemctl restart mongod`."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """It goes on accepting connections (the kernel does) and answers nothing."""
        self._process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Ends `freeze`."""
        self._process.send(signal.SIGCONT)

    def answers(self) -> bool:
        """Whether it answers a hello now."""
        with contextlib.suppress(OSError):
            wire.hello(self.address)
            return True
        return False

    def process_id(self) -> str | None:
        """The server's own name for this run of it, another after every restart; 4.2 has none."""
        version = wire.hello(self.address).get("topologyVersion")
        return str(version["processId"]) if version else None

    def command(self, name: str, value: object = 1, **arguments: object) -> dict[str, Any]:
        """Runs an admin command on it."""
        return wire.command(self.address, {name: value, **arguments}, within=30)


class ReplicaSet:
    """Some mongods as one replica set that elects fast; as a context manager it starts and kills them."""

    def __init__(
        self, folder: Path, *, members: int = 3, version: str = fetch.DEFAULT_MONGOD, name: str = "rig"
    ) -> None:
        self.name = name
        self.members = [
            Mongod(folder / f"member{number}", version=version, replica_set=name) for number in range(members)
        ]

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as started:
            for member in self.members:
                started.enter_context(member)
            self._initiate()
            self.wait_primary()
            self.wait_secondaries(len(self.members) - 1)
            started.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.ExitStack() as ended:
            for member in self.members:
                ended.push(member)

    @property
    def uri(self) -> str:
        """A connection string with all members."""
        seeds = ",".join(f"{member.host}:{member.port}" for member in self.members)
        return f"mongodb://{seeds}/?replicaSet={self.name}"

    def primary(self) -> Mongod | None:
        """The member that says it is the writable primary now, if one does."""
        return next((member for member in self.members if _state(member) == "ismaster"), None)

    def secondaries(self) -> list[Mongod]:
        """The members that say they are secondaries now."""
        return [member for member in self.members if _state(member) == "secondary"]

    def wait_primary(self, *, other_than: Mongod | None = None, within: float = 60) -> Mongod:
        """The primary, once there is one (and once it is another than the given one)."""

        def elected() -> Mongod | None:
            primary = self.primary()
            return None if primary is other_than else primary

        return wait_for(elected, f"a primary of {self.name}", within=within, log=self.members[0].log)

    def wait_secondaries(self, count: int, *, within: float = 60) -> None:
        """Returns once that many members have caught up and are secondaries."""
        wait_for(
            lambda: len(self.secondaries()) >= count,
            f"{count} secondaries of {self.name}",
            within=within,
            log=self.members[-1].log,
        )

    def step_down(self) -> Mongod:
        """Has the primary give up its role for 60 s, without an outage, and gives the new primary."""
        old = self.wait_primary()
        old.command("replSetStepDown", 60, secondaryCatchUpPeriodSecs=10)
        return self.wait_primary(other_than=old)

    def may_lead_again(self, member: Mongod) -> None:
        """Lets one stand for election that stepped down less than 60 s ago."""
        member.command("replSetFreeze", 0)

    def _initiate(self) -> None:
        # The defaults (10 s without a primary, heartbeats every 2 s) would only make every story longer.
        settings = {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 500}
        members = [
            {"_id": number, "host": f"{member.host}:{member.port}"} for number, member in enumerate(self.members)
        ]
        configuration = {"_id": self.name, "members": members, "settings": settings}
        self.members[0].command("replSetInitiate", configuration)


def _state(member: Mongod) -> str | None:
    with contextlib.suppress(OSError):
        reply = wire.hello(member.address)
        return next((state for state in ("ismaster", "secondary") if reply.get(state)), None)
    return None
