"""One observation as the daemon makes it, against what people use today and against the same dump in C."""

import contextlib
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from rig import RigError
from rig.bench import rivals
from rig.bench.rivals import Dump, built_dump, dumping
from rig.bench.samples import Contender, Sample, take_turns
from rig.bench.sites import WITHIN_S, Load, Site, a_mongod, a_site, write_config
from rig.mongod import Mongod
from rig.processes import POLL_S
from rig.strangers import most_descriptors, strangers
from watchdogd.config import Config, load
from watchdogd.core.conclude import Conclusions
from watchdogd.core.detect import SUSPECTED_FOR_S
from watchdogd.model.base import Endpoint, ProcessId
from watchdogd.model.remembered import State
from watchdogd.model.seen import Blind, Snapshot, Tcp
from watchdogd.observe.observer import Observer, open_edges
from watchdogd.observe.processes import Process, Processes
from watchdogd.observe.tcp.sockets import NO_PORTS, Row, Sockets, Table
from watchdogd.observe.uwsgi import Master, Uwsgi

SIZES = (100, 1_000, 10_000, 50_000, 200_000)
BASE = Load()
LOADS = (
    BASE,
    Load(closing=64),
    Load(closing=512),
    Load(established=500),
    Load(established=5_000),
    Load(descriptors=2_000),
    Load(closing=64, descriptors=2_000),
)
HOLDERS = "our look with holders, without roles"
QUIET, FULL, NEW = "our quiet look", "our full look", "our full look with a new socket"
QUIET_FEW, FULL_FEW = "our quiet look, 20 descriptors beside it", "our full look, 20 descriptors beside it"
C_FULL = "the same dump in C as a full look's"


class _Depth:
    """Passes readings on, and remembers whether ESTABLISHED was asked for: so a look is known to be a full one."""

    def __init__(self, sockets: Sockets) -> None:
        self.backend, self.why = sockets.backend, sockets.why
        self._sockets, self.accepted, self.missing = sockets, sockets.accepted, sockets.missing
        self.full = False
        self.reads = 0

    def read(
        self, endpoints: frozenset[Endpoint], *, established: bool, ports: frozenset[int] = NO_PORTS
    ) -> Table | Blind:
        """See Sockets.read."""
        self.full |= established
        self.reads += 1
        return self._sockets.read(endpoints, established=established, ports=ports)

    def look_up(self, cookies: Iterable[int]) -> Mapping[int, Row | None] | Blind:
        """See Sockets.look_up."""
        return self._sockets.look_up(cookies)

    def close(self) -> None:
        """See Sockets.close."""
        self._sockets.close()


class _Masters:
    """Passes on, and counts what it takes to see masters."""

    def __init__(self, uwsgi: Uwsgi) -> None:
        self.find, self.discover, self.descriptor = uwsgi.find, uwsgi.discover, uwsgi.descriptor
        self.no_restart = uwsgi.no_restart
        self._uwsgi = uwsgi
        self.took_s = 0.0

    def check(self, master: Master) -> Master | Blind | None:
        """See Uwsgi.check."""
        begin = time.thread_time()
        found = self._uwsgi.check(master)
        self.took_s += time.thread_time() - begin
        return found


class _Roles:
    """Passes on, and counts what it takes to see roles: the rest is the connections'."""

    def __init__(self, processes: Processes) -> None:
        self.descriptors, self.still, self.netns = processes.descriptors, processes.still, processes.netns
        self.threads, self.runs, self.protocol = processes.threads, processes.runs, processes.protocol
        self.pidfd = processes.pidfd
        self._processes = processes
        self.took_s = 0.0

    def of(self, master: ProcessId) -> tuple[Process, ...] | Blind:
        """See Processes.of."""
        begin = time.thread_time()
        found = self._processes.of(master)
        self.took_s += time.thread_time() - begin
        return found


class Looks:
    """An Observer with the real edges, which looks as the daemon's does; CPU is that of the thread that looks."""

    def __init__(self, config: Config) -> None:
        edges = open_edges(lambda: None)
        self._config = config
        self._state = State()
        self._conclusions = Conclusions()
        self._depth = _Depth(edges.sockets)
        self._masters, self._roles = _Masters(edges.uwsgi), _Roles(edges.processes)
        self._heartbeats = edges.heartbeats
        # As if all had been so for longer than a daemon looks closely after its start.
        passing = replace(
            edges,
            sockets=self._depth,
            uwsgi=self._masters,
            processes=self._roles,
            clock=lambda: edges.clock() + SUSPECTED_FOR_S,
        )
        self._observer = Observer(config, passing, walk_share=math.inf)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._heartbeats.close()
        self._depth.close()

    def wait_until(self, seen: Callable[[Snapshot], bool], what: str) -> None:
        """Looks fully until that is seen; raises RigError with what was seen last."""
        deadline = time.monotonic() + WITHIN_S
        while not seen(snapshot := self._observer.look(full=True)):
            if time.monotonic() > deadline:
                connections = Counter((one.tcp.value, len(one.holders)) for one in snapshot.connections)
                why = f"connections by state and holders: {dict(connections)}, members: {snapshot.members}"
                raise RigError(
                    f"not within {WITHIN_S:g} s: {what}; {why}, blind: {snapshot.blind}, {snapshot.instances}"
                )
            time.sleep(POLL_S)

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """The addresses that are asked for."""
        members = self._observer.look(full=True).members.values()
        return frozenset().union(*(member.endpoints for member in members))

    def _think(self, snapshot: Snapshot) -> None:
        """Draws the conclusion, as Daemon does."""
        _, decision = self._conclusions.draw(self._state, snapshot, self._config)
        self._state = decision.state

    def cpu_ms(self, *, full: bool, roles: bool = True) -> float:
        """One look and what it means; where a quiet one turns into a full one (every 10 s), the next one."""
        while True:
            self._depth.full, self._depth.reads, self._masters.took_s, self._roles.took_s = False, 0, 0.0, 0.0
            begin = time.thread_time()
            self._think(self._observer.look(full=full))
            end = time.thread_time()
            if self._depth.full is full and self._depth.reads:
                without = 0.0 if roles else self._masters.took_s + self._roles.took_s
                return (end - begin - without) * 1000


def all_seen(site: Site, *, ended: bool) -> Callable[[Snapshot], bool]:
    """Says of a Snapshot whether mongod serves, and all connections of the workers are there, some of them ended."""
    load = site.load
    expected = Counter({Tcp.ESTABLISHED: load.established + (0 if ended else load.closing)})
    if ended:
        expected[Tcp.CLOSE_WAIT] += load.closing

    def seen(snapshot: Snapshot) -> bool:
        held = Counter(one.tcp for one in snapshot.connections if one.holders)
        return any(member.is_serving for member in snapshot.members.values()) and held == +expected

    return seen


class Cell(NamedTuple):
    """A host: so many unrelated sockets, and what the workers hold."""

    sockets: int
    load: Load


@dataclass(frozen=True)
class Measured:
    """What was measured in one cell, by name, in ms of CPU; and why others were not."""

    cell: Cell
    samples: dict[str, Sample]
    skipped: dict[str, str]

    def ratio(self, name: str, to: str) -> Sample | None:
        """Of the two in each round, where both could be measured."""
        if name not in self.samples or to not in self.samples:
            return None
        return self.samples[name].over(self.samples[to])


@dataclass(frozen=True)
class Effort:
    """How much is measured: the sizes, the loads, and for how long each cell at the least.

    `least`: rounds of what is dear; on the hosts with further loads one less, for lsof on 200 000 sockets takes 5 s.
    """

    sizes: Sequence[int] = SIZES
    loads: Sequence[Load] = LOADS
    budget_s: float = 3.0
    least: int = 3
    most: int = 100


def measure(effort: Effort, say: Callable[[str], None]) -> Iterator[Measured | str]:
    """Measures cell after cell; a text is the reason why a size cannot be had here."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mwd-")))
        program = stack.enter_context(built_dump())
        mongod = stack.enter_context(a_mongod(folder / "mongod"))
        there = 0
        for size in effort.sizes:
            say(f"{size} unrelated sockets")
            stack.enter_context(strangers(size - there))
            there = size
            for number, one in enumerate(effort.loads):
                if one.descriptors + one.established > most_descriptors():
                    yield f"{one.descriptors} descriptors in a worker: this user may have {most_descriptors()}"
                    continue
                with contextlib.ExitStack() as cell:
                    place = folder / f"{size}-{number}"
                    looks = cell.enter_context(_looking(mongod, one, place))
                    few = None
                    if one.descriptors != BASE.descriptors:
                        # On the same host and in the same rounds: what the descriptors cost is what differs.
                        fewer = replace(one, descriptors=BASE.descriptors)
                        few = cell.enter_context(_looking(mongod, fewer, place.with_name(f"{place.name}-few"))).looks
                    yield _cell(Cell(size, one), looks, few, program, effort)


class _Looking(NamedTuple):
    looks: Looks
    site: Site


@contextlib.contextmanager
def _looking(mongod: Mongod, held: Load, place: Path) -> Iterator[_Looking]:
    """Looks at a site that holds this, and has seen all of it, and the end of what ends."""
    with a_site(mongod, held) as site, Looks(load(write_config(place.with_suffix(".yaml"), site))) as looks:
        looks.wait_until(all_seen(site, ended=False), "every connection of the workers")
        site.closing.end()
        looks.wait_until(all_seen(site, ended=True), "the end of those that end")
        yield _Looking(looks, site)


def _ours(looks: Looks, load: Load, quiet: str, full: str) -> Iterator[Contender]:
    if not load.closing:
        yield Contender(quiet, lambda: looks.cpu_ms(full=False), paired=True)
    yield Contender(full, lambda: looks.cpu_ms(full=True), paired=True)


def _cell(cell: Cell, looking: _Looking, few: Looks | None, program: Path | str, effort: Effort) -> Measured:
    skipped: dict[str, str] = {}
    looks, site = looking
    with contextlib.ExitStack() as stack:
        contenders = list(_ours(looks, cell.load, QUIET, FULL))
        contenders += _ours(few, cell.load, QUIET_FEW, FULL_FEW) if few else ()
        contenders.append(Contender(HOLDERS, lambda: looks.cpu_ms(full=True, roles=False), paired=True))
        contenders.append(Contender(NEW, lambda: _with(site.steady.another_connection, looks)))
        if isinstance(program, Path):
            for name, established in ((rivals.C_DUMP, False), (C_FULL, True)):
                dump = stack.enter_context(dumping(program, looks.endpoints, established=established))
                contenders.append(Contender(name, partial(_once, dump), paired=True))
        else:
            skipped[rivals.C_DUMP] = program
        for rival in rivals.rivals(looks.endpoints, site.closing.port):
            if isinstance(rival, Contender):
                contenders.append(rival)
            else:
                skipped[rival[0]] = rival[1]
        for one in contenders:
            if one.paired:
                one.measure()  # caches and allocators are warm from here on, as in a daemon
        least = effort.least if cell.load == BASE else max(1, effort.least - 1)
        samples = take_turns(contenders, budget_s=effort.budget_s, least=least, most=effort.most)
    return Measured(cell, samples, skipped)


def _once(dump: Dump) -> float:
    (ms,) = dump.cpu_ms(1)
    return ms


def _with(during: Callable[[], AbstractContextManager[None]], looks: Looks) -> float:
    with during():
        return looks.cpu_ms(full=True)
