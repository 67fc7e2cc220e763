"""Pieces of a Snapshot, by hand: MongoDB came back at BACK, and now it is AT.

What a test does not name is as in the plainest case: one deployment `main` of one member, one instance `shop`.
"""

# ruff: noqa: ANN401 - changes are any fields of the value

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from watchdogd.config import Config, DeploymentConfig, InstanceConfig, PolicyConfig
from watchdogd.core.detect import detect
from watchdogd.model.base import (
    CHAIN,
    WORKERS,
    Endpoint,
    Incarnation,
    InstanceId,
    Interval,
    MemberId,
    Mono,
    ProcessId,
    Way,
)
from watchdogd.model.found import Cure, Evidence, Finding, Kind
from watchdogd.model.seen import (
    Area,
    Blindness,
    Connection,
    Health,
    Instance,
    Member,
    MemberState,
    Mule,
    Operator,
    Role,
    Round,
    Scope,
    Sent,
    Snapshot,
    Tcp,
    Trust,
    Worker,
)
from watchdogd.model.text import Outside

BACK: Mono = 900.0
AT: Mono = 1000.0
FIFO = "/run/uwsgi/app/shop/fifo"
SHOP_ID = InstanceId(FIFO)
BLOG_FIFO = "/run/uwsgi/app/blog/fifo"
BLOG_ID = InstanceId(BLOG_FIFO)
MASTER = ProcessId(1, 1)
LOCAL = Endpoint("10.0.0.9", 40000)
FIRST = Incarnation("10.0.0.1#2")
ALICE = Operator(Outside("alice"), 1000, 4711)


def exactly(at: Mono) -> Interval:
    return Interval(at, at)


def pid(number: int) -> ProcessId:
    """The process with this pid; 1 is the master."""
    return ProcessId(number, number)


def pids(*numbers: int) -> frozenset[ProcessId]:
    return frozenset(map(pid, numbers))


def endpoint(host: str) -> Endpoint:
    return Endpoint(host, 27017)


def blind(scope: str, why: str = "no permission") -> Blindness:
    """What cannot be seen, as people read it: `sockets`, `deployment main`."""
    area, _, of = scope.partition(" ")
    return Blindness(Scope(Area(area), of), why)


def member(host: str = "10.0.0.1", deployment: str = "main", **changes: Any) -> Member:
    """A primary whose process was born at BACK."""
    usual = Member(
        id=MemberId(deployment, f"{host}:27017"),
        state=MemberState.UP,
        is_serving=True,
        incarnation=Incarnation(f"{host}#2"),
        process_id=f"{host}#2",
        born=exactly(BACK),
        up_since=exactly(BACK),
        served_since=exactly(BACK),
        endpoints=frozenset({endpoint(host)}),
    )
    return replace(usual, **changes)


def down(host: str = "10.0.0.1", since: Mono = 990.0, **changes: Any) -> Member:
    """A member whose outage goes on."""
    outage = Interval(since, float("inf"))
    usual = member(host, state=MemberState.DOWN, is_serving=False, served_since=None, outages=(outage,))
    return replace(usual, **changes)


def secondary(host: str, **changes: Any) -> Member:
    return member(host, is_serving=False, served_since=None, **changes)


def leftover(*holders: int, cookie: int = 7, host: str = "10.0.0.1", **changes: Any) -> Connection:
    """A connection that had its last data before BACK, and went into CLOSE_WAIT then."""
    usual = Connection(
        cookie=cookie,
        inode=cookie,
        local=LOCAL,
        remote=endpoint(host),
        tcp=Tcp.CLOSE_WAIT,
        since=exactly(BACK - 50),
        last_data=exactly(BACK - 20),
        closed=Interval(BACK - 20, BACK - 10),
        rqueue=1,
        holders=pids(*holders),
    )
    return replace(usual, **changes)


def connection(*holders: int, cookie: int = 8, host: str = "10.0.0.1", **changes: Any) -> Connection:
    """An ESTABLISHED connection that was made after BACK."""
    usual = Connection(
        cookie=cookie,
        inode=cookie,
        local=LOCAL,
        remote=endpoint(host),
        tcp=Tcp.ESTABLISHED,
        since=exactly(BACK + 5),
        last_data=exactly(AT - 1),
        holders=pids(*holders),
    )
    return replace(usual, **changes)


def worker(number: int, *, used: Mono | None = None, reached: Iterable[str] = (), ready: Mono | None = 0.0) -> Worker:
    """A worker that has been ready since 0; `reached`: hosts that it has had an own connection to since BACK."""
    return Worker(
        pid(number),
        None if ready is None else exactly(ready),
        frozenset(Incarnation(f"{host}#2") for host in reached),
        None if used is None else exactly(used),
    )


def idle(number: int) -> Worker:
    return worker(number)


def stranded(number: int) -> Worker:
    """With a leftover that it shares, that is what it is."""
    return worker(number, used=BACK + 1)


def well(number: int) -> Worker:
    return worker(number, used=BACK + 1, reached=["10.0.0.1"])


def monitored(number: int) -> Worker:
    """One whose driver's monitor runs."""
    return replace(well(number), monitored=frozenset({FIRST}), owned=True)


def mule(number: int, role: Role = Role.MULE, **changes: Any) -> Mule:
    """A mule that had used MongoDB before the outage, and has had tasks since."""
    usual = Mule(pid(number), exactly(0.0), used=exactly(BACK + 1), owned=True, role=role)
    return replace(usual, **changes)


def answering(began: Mono, bad: int = 0, trust: Trust = Trust.DEPENDENT) -> Health:
    """An app that was asked four times at once, and took 0.1 s."""
    says = "500" if bad else "200"
    asked = Round(began, began + 0.1, 4, 4 - bad, bad, says)
    return Health("/ping", trust, began, not bad, says, asked)


def instance(*workers: Worker, **changes: Any) -> Instance:
    usual = Instance("shop", FIFO, ("main",), MASTER, workers, seen_at=0.0, uid=33)
    return replace(usual, **changes)


def snapshot(
    one: Instance, *connections: Connection, members: Iterable[Member] | None = None, **changes: Any
) -> Snapshot:
    known = [member()] if members is None else list(members)
    one = one if one.master_sent else replace(one, master_sent=sent_on(one.master, connections, known))
    usual = Snapshot(AT, 1_790_000_000.0, {one.id: one for one in known}, (one,), connections)
    return replace(usual, **changes)


def sent_on(master: ProcessId | None, connections: Iterable[Connection], members: Iterable[Member]) -> tuple[Sent, ...]:
    """What a master has sent that holds these: on each one that had data since its member serves, from then on."""
    return tuple(
        Sent(one.id, max(held.since.hi, one.served_since.hi), held.last_data)
        for one in members
        if one.state is MemberState.UP and one.is_serving and one.served_since
        for held in connections
        if held.remote in one.endpoints
        and held.tcp is Tcp.ESTABLISHED
        and master in held.holders
        and held.last_data.hi >= one.served_since.lo
    )


def config(
    reloads: Iterable[Way] = (WORKERS, CHAIN), deployments: tuple[str, ...] = ("main",), **policy: Any
) -> Config:
    return Config(
        deployments=tuple(DeploymentConfig(name, "mongodb://10.0.0.1") for name in deployments),
        instances=(InstanceConfig("shop", Path(FIFO), deployments, frozenset(reloads), mercy_s=10.0),),
        policy=PolicyConfig(**policy),
    )


def by_leftovers(found: Finding) -> frozenset[ProcessId]:
    """Whom leftovers would have reloaded, now or when linger is over."""
    return frozenset(one.worker for one in _counting(found))


def ripe_at(found: Finding) -> Mono | None:
    """When linger is over for the first of them."""
    return min((one.ripe_at for one in _counting(found) if one.ripe_at is not None), default=None)


def by_restart(found: Finding) -> bool:
    """Whether only a restart ends one of them."""
    return any(one.cure is Cure.RESTART for one in _counting(found))


def _counting(found: Finding) -> list[Evidence]:
    return [one for one in found.evidence if one.kind is Kind.LEFTOVER and one.ripe_at is not None]


def find(seen: Snapshot, **policy: Any) -> Finding:
    """What detect says of the only instance."""
    return detect(seen, config(**policy))[SHOP_ID]
