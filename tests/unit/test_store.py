import contextlib
import dataclasses
import errno
import fcntl
import functools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from rig.processes import wait_for
from tests.world.pieces import SHOP_ID
from tests.world.schemas import schema, strict
from tests.world.values import ANY_JSON, values
from tests.world.watch import IN_MEMORY
from watchdogd.codec import STATE as SAVED
from watchdogd.codec import decode, encode
from watchdogd.model.base import CHAIN, WORKERS, Endpoint, Incarnation, Interval, MemberId, ProcessId
from watchdogd.model.remembered import (
    FINE,
    Ending,
    Incident,
    InstanceState,
    LastReload,
    PastIncident,
    Pause,
    Phase,
    Reload,
    ReloadOutcome,
    Spent,
    Stand,
    Standing,
    State,
)
from watchdogd.model.seen import Access, Area, Blindness, Connection, Scope, Tcp
from watchdogd.model.text import AlreadyRunning, Outside
from watchdogd.service.store import Loaded, Store, StoreError, shift

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = schema("state")
VALIDATOR = strict("state")
BOOT, OTHER_BOOT = "boot-1", "boot-2"
NOW, WALL = 5000.0, 1795341600.0
MASTER, WORKER = ProcessId(100, 7), ProcessId(101, 8)

RELOAD = Reload(
    id="shop-1",
    command=WORKERS,
    master=MASTER,
    old=frozenset({WORKER}),
    cookies=frozenset({2**64 + 5}),
    incarnations=frozenset({Incarnation("65f1")}),
    asked_at=4990.0,
    progress_at=4991.0,
    deadline=5060.0,
    left=1,
    sent_at=4990.5,
)
SHOP = InstanceState(
    phase=Phase.RELOADING,
    reload=RELOAD,
    spent=(Spent(4000.0, proven=True), Spent(4990.0)),
    tried=frozenset({Incarnation("65f0")}),
    retry_at=5100.0,
    incident=Incident("shop-i1", since=4900.0, leftovers_told=True, unproven_told=True),
    last=LastReload("shop-1", WORKERS, 4990.0, WALL - 10, ReloadOutcome.RELOADING),
    held=("budget",),
)
STATE = State(
    {SHOP_ID: SHOP},
    paused=Pause(6000.0, Outside("release")),
    blind=frozenset({Blindness(Scope(Area.SOCKETS), "no right")}),
    serial=3,
    last_incident=PastIncident("shop-i0", "shop", WALL - 900, WALL - 840, Ending.RECOVERED),
)
DEAD = Connection(
    cookie=12,
    inode=34,
    local=Endpoint("::1", 50000),
    remote=Endpoint("127.0.0.1", 27017),
    tcp=Tcp.CLOSE_WAIT,
    since=Interval.ever_until(4000.0),
    last_data=Interval(3000.0, 3001.0),
    closed=Interval(3900.0, math.inf),
    rqueue=1,
    holders=frozenset({MASTER, WORKER}),
    last_sent=Interval(3900.5, 3901.0),
)

ACCESS = Access(MemberId("main", "127.0.0.1:27017"), Incarnation("65f1"), on=True, turned_on=4000.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with closing(Store(folder, BOOT)) as one:
        yield one


def loaded(folder: Path, boot: str = BOOT, now: float = NOW, wall: float = WALL) -> Loaded:
    """What the next daemon finds."""
    with closing(Store(folder, boot)) as one:
        return one.load(now, wall)


def save(folder: Path, state: State = STATE, observed: tuple[Connection, ...] = (DEAD,)) -> None:
    with closing(Store(folder, BOOT)) as one:
        one.save(state, observed, NOW, WALL, (ACCESS,))


# -------------------------------------------------------------------------------------------- what comes back


def test_without_a_saved_state_everything_is_new(folder: Path) -> None:
    assert loaded(folder) == Loaded(State(), (), None)


def test_what_was_saved_comes_back(folder: Path) -> None:
    save(folder)
    assert loaded(folder, now=NOW + 100, wall=WALL + 100) == Loaded(STATE, (DEAD,), None, (ACCESS,))


@given(values(State), st.lists(values(Connection), max_size=3))
def test_every_state_comes_back_as_it_was_and_fits_the_schema(state: State, observed: list[Connection]) -> None:
    text = json.dumps({"state": encode(state), "observed": encode(tuple(observed))}, allow_nan=False)
    document = json.loads(text)
    assert decode(State, document["state"], "state") == state
    assert decode(tuple[Connection, ...], document["observed"], "observed") == tuple(observed)
    saved = {"monotonic": 1.0, "wall": 2.0}
    VALIDATOR.validate(SAVED.document(boot_id=BOOT, saved=saved, **document))


def test_the_file_fits_the_schema(folder: Path) -> None:
    save(folder)
    VALIDATOR.validate(json.loads((folder / "state.json").read_text()))


def in_schema(*where: str) -> set[str]:
    """The fields of an object of the schema, by where it stands."""
    found = SCHEMA
    for name in where:
        found = found[name]
    return set(found["properties"])


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        (State, ("properties", "state")),
        (Pause, ("properties", "state", "properties", "paused")),
        (Blindness, ("properties", "state", "properties", "blind", "items")),
        (PastIncident, ("properties", "state", "properties", "last_incident")),
        (InstanceState, ("$defs", "instance")),
        (Spent, ("$defs", "instance", "properties", "spent", "items")),
        (Incident, ("$defs", "instance", "properties", "incident")),
        (LastReload, ("$defs", "instance", "properties", "last")),
        (Reload, ("$defs", "reload")),
        (Connection, ("$defs", "connection")),
        (Access, ("properties", "access", "items")),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_schema_has_every_field_that_is_saved_and_no_other(kind: Any, where: tuple[str, ...]) -> None:  # noqa: ANN401
    assert in_schema(*where) == {one.name for one in dataclasses.fields(kind)}


def test_a_state_from_before_a_field_existed_takes_its_default(folder: Path) -> None:
    save(folder)
    document = json.loads((folder / "state.json").read_text())
    del document["state"]["instances"][SHOP_ID]["held"]
    del document["access"]
    (folder / "state.json").write_text(json.dumps(document))
    assert loaded(folder).access == ()
    assert loaded(folder).state.instances[SHOP_ID] == dataclasses.replace(SHOP, held=())


# ------------------------------------------------------------------------------------------------ another boot


def test_on_another_boot_every_time_is_as_long_ago_as_before(folder: Path) -> None:
    save(folder)
    found = loaded(folder, OTHER_BOOT, now=30.0, wall=WALL + 600)
    moved = 30.0 - (NOW + 600)
    shop = found.state.instances[SHOP_ID]
    assert shop.spent == (Spent(4000.0 + moved, proven=True), Spent(4990.0 + moved))
    assert shop.retry_at == 5100.0 + moved
    assert shop.incident == Incident("shop-i1", 4900.0 + moved, leftovers_told=True, unproven_told=True)
    assert found.state.paused == Pause(6000.0 + moved, Outside("release"))  # 400 s of it are left
    assert found.access == (dataclasses.replace(ACCESS, turned_on=4000.0 + moved),)
    assert found.problem is None


def test_on_another_boot_a_reload_is_replaced_and_no_connection_is_known(folder: Path) -> None:
    save(folder)
    found = loaded(folder, OTHER_BOOT, now=30.0, wall=WALL + 600)
    shop = found.state.instances[SHOP_ID]
    assert found.observed == ()
    assert shop.reload is None
    assert shop.phase is Phase.WATCHING
    assert shop.last is not None
    assert (shop.last.id, shop.last.outcome, shop.last.wall) == ("shop-1", ReloadOutcome.REPLACED, WALL - 10)


def test_on_another_boot_an_earlier_reload_keeps_its_outcome(folder: Path) -> None:
    quiet = dataclasses.replace(
        SHOP,
        phase=Phase.GAVE_UP,
        reload=None,
        standing=Standing(Stand.GAVE_UP, 4000.0, "why"),
        last=LastReload("shop-0", CHAIN, 3900.0, WALL, ReloadOutcome.FAILED),
    )
    save(folder, State({SHOP_ID: quiet}))
    shop = loaded(folder, OTHER_BOOT, now=30.0, wall=WALL).state.instances[SHOP_ID]
    assert (shop.phase, shop.standing.since) == (Phase.GAVE_UP, 4000.0 + 30.0 - NOW)
    assert shop.last is not None
    assert shop.last.outcome is ReloadOutcome.FAILED


def test_a_clock_that_is_behind_after_a_boot_makes_no_time_pass(folder: Path) -> None:
    save(folder)
    found = loaded(folder, OTHER_BOOT, now=30.0, wall=0.0)
    assert found.state.instances[SHOP_ID].retry_at == 5100.0 - NOW + 30.0


def test_a_monotonic_clock_that_went_back_is_another_boot_whatever_its_id(folder: Path) -> None:
    save(folder)
    assert loaded(folder, BOOT, now=30.0, wall=WALL + 600).state.instances[SHOP_ID].reload is None


@given(values(State), st.floats(-1e6, 1e6))
def test_a_shift_moves_the_times_and_nothing_else(state: State, seconds: float) -> None:
    moved = shift(state, seconds)
    assert moved.serial == state.serial
    assert moved.instances.keys() == state.instances.keys()
    for name, before in state.instances.items():
        after = moved.instances[name]
        assert after.retry_at == (None if before.retry_at is None else before.retry_at + seconds)
        if before.last and after.last:
            assert (after.last.wall, after.last.at) == (before.last.wall, before.last.at + seconds)
        if before.reload and after.reload:
            assert after.reload.deadline == before.reload.deadline + seconds
            assert after.reload.left == before.reload.left
    assert shift(state, 0) == state


# -------------------------------------------------------------------------------------- when it is written, and how


def test_only_a_change_is_written(folder: Path, store: Store) -> None:
    store.save(STATE, (DEAD,), NOW, WALL)
    before = (folder / "state.json").stat().st_ino, (folder / "state.json").stat().st_mtime_ns
    store.save(STATE, [DEAD], NOW + 10, WALL + 10)
    assert ((folder / "state.json").stat().st_ino, (folder / "state.json").stat().st_mtime_ns) == before
    store.save(STATE, [], NOW + 10, WALL + 10)
    assert json.loads((folder / "state.json").read_text())["observed"] == []
    store.save(STATE, [], NOW + 10, WALL + 10, [ACCESS])
    assert json.loads((folder / "state.json").read_text())["access"] == [encode(ACCESS)]


def test_a_state_in_doubt_is_written_whatever_has_changed_until_it_was(folder: Path, store: Store) -> None:
    store.save(STATE, (), NOW, WALL)
    (folder / "state.json.new").mkdir()
    store.save(STATE, (), NOW + 1, WALL + 1)
    store.doubt()
    for seconds in (2, 3):
        with pytest.raises(StoreError):
            store.save(STATE, (), NOW + seconds, WALL + seconds)
    (folder / "state.json.new").rmdir()
    before = (folder / "state.json").stat().st_ino
    store.save(STATE, (), NOW + 4, WALL + 4)
    written = (folder / "state.json").stat().st_ino
    store.save(STATE, (), NOW + 5, WALL + 5)
    assert (folder / "state.json").stat().st_ino == written != before


def test_a_wall_clock_that_was_set_is_a_change(folder: Path, store: Store) -> None:
    store.save(STATE, (), NOW, 0.0)  # a machine that booted without a clock
    store.save(STATE, (), NOW + 10, WALL)
    assert json.loads((folder / "state.json").read_text())["saved"] == {"monotonic": NOW + 10, "wall": WALL}


def test_no_other_file_stays(folder: Path, store: Store) -> None:
    store.save(STATE, (), NOW, WALL)
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "state.json"]


def test_a_daemon_killed_at_any_moment_of_a_save_leaves_a_whole_state(folder: Path) -> None:
    saving = """
import sys
from pathlib import Path
from watchdogd.model.remembered import InstanceState, State
from watchdogd.service.store import Store
store = Store(Path(sys.argv[1]), "boot-1")
for number in range(10**9):
    store.save(State({f"app{i}": InstanceState() for i in range(200)}, serial=number), (), 1.0, 2.0)
"""
    serials: list[int] = [-1]
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", saving, str(folder)], cwd=ROOT) as process:
            try:
                wait_for(lambda: serial_in(folder) not in {-1, serials[-1]}, "a save", within=30)
            finally:
                process.send_signal(signal.SIGKILL)
        found = loaded(folder)
        assert found.problem is None
        assert len(found.state.instances) == 200
        serials.append(found.state.serial)


def serial_in(folder: Path) -> int:
    """The serial that stands in the file now; -1 while there is none."""
    path = folder / "state.json"
    return int(json.loads(path.read_bytes())["state"]["serial"]) if path.exists() else -1


def test_a_save_that_fails_says_so_and_keeps_what_was_saved(folder: Path) -> None:
    save(folder)
    on_a_full_disk = """
import resource, sys
from pathlib import Path
from watchdogd.model.remembered import State
from watchdogd.service.store import Store, StoreError
store = Store(Path(sys.argv[1]), "boot-1")
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
try:
    store.save(State(serial=4), (), 1.0, 2.0)
except StoreError as error:
    print(error)
"""
    command = [sys.executable, "-c", on_a_full_disk, str(folder)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert re.search(r"state\.json: File too large .*`state_dir` must be .* room", said)
    assert loaded(folder).state == STATE


def test_after_a_failed_save_the_same_state_is_written_again(folder: Path, store: Store) -> None:
    (folder / "state.json.new").mkdir()
    with pytest.raises(StoreError):
        store.save(STATE, (), NOW, WALL)
    (folder / "state.json.new").rmdir()
    store.save(STATE, (), NOW, WALL)
    assert serial_in(folder) == 3


# ------------------------------------------------------------------------------------------- the runtime folder


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    made = tmp_path / "run"
    made.mkdir(mode=0o755)
    return made


@pytest.fixture
def both(folder: Path, runtime: Path) -> Iterator[Store]:
    with closing(Store(folder, BOOT, runtime_dir=runtime)) as one:
        yield one


def takes_nothing(folder: Path) -> Path:
    """Nothing can be saved in it, until what this returns is removed."""
    blocked = folder / "state.json.new"
    blocked.mkdir()
    return blocked


def found_in(folder: Path, runtime: Path, boot: str = BOOT) -> Loaded:
    with closing(Store(folder, boot, runtime_dir=runtime)) as one:
        return one.load(NOW + 100, WALL + 100)


def test_what_the_state_folder_does_not_take_is_kept_in_the_runtime_folder_and_why_is_said(
    folder: Path, runtime: Path, both: Store
) -> None:
    both.save(State(serial=1), (), NOW, WALL)
    takes_nothing(folder)
    both.save(STATE, (DEAD,), NOW + 1, WALL + 1)
    assert re.match(
        rf"it is kept in {runtime}, which the next boot of the machine empties, since {folder}/state.json: Is a direct",
        both.degraded or "",
    )
    assert serial_in(folder) == 1
    assert both.load(NOW + 100, WALL + 100) == Loaded(STATE, (DEAD,), None)


def test_it_goes_back_when_the_state_folder_works_again_also_where_nothing_has_changed(
    folder: Path, runtime: Path, both: Store
) -> None:
    blocked = takes_nothing(folder)
    both.save(STATE, (), NOW, WALL)
    blocked.rmdir()
    both.save(STATE, (), NOW + 9, WALL + 9)
    assert serial_in(folder) == -1
    both.save(STATE, (), NOW + 10, WALL + 10)
    assert (serial_in(folder), both.degraded) == (3, None)
    assert not (runtime / "state.json").exists()


def test_a_daemon_that_begins_with_what_was_kept_elsewhere_brings_it_back(folder: Path, runtime: Path) -> None:
    with closing(Store(folder, BOOT, runtime_dir=runtime)) as one:
        blocked = takes_nothing(folder)
        one.save(STATE, (), NOW, WALL)
        blocked.rmdir()
    with closing(Store(folder, BOOT, runtime_dir=runtime)) as one:
        found = one.load(NOW + 1, WALL + 1)
        assert one.degraded == f"it was kept in {runtime} when this daemon began"
        one.save(found.state, (), NOW + 1, WALL + 1)
        assert one.degraded is None
    assert serial_in(folder) == 3
    assert list(runtime.iterdir()) == []


def test_where_neither_takes_it_both_are_named_and_what_was_saved_is_still_there(
    folder: Path, runtime: Path, both: Store
) -> None:
    both.save(STATE, (DEAD,), NOW, WALL)
    takes_nothing(folder)
    takes_nothing(runtime)
    with pytest.raises(StoreError, match=rf"{folder}/state.json: .* has room; nor does {runtime} take it: Is a direct"):
        both.save(State(serial=4), (), NOW + 1, WALL + 1)
    assert both.load(NOW + 100, WALL + 100) == Loaded(STATE, (DEAD,), None)


@pytest.mark.parametrize(
    ("kept", "elsewhere", "counts"),
    [
        ((BOOT, NOW, WALL), (BOOT, NOW + 1, WALL - 900), "elsewhere"),  # the clock was set back
        ((BOOT, NOW, WALL), (BOOT, NOW - 1, WALL + 900), "kept"),
        ((BOOT, NOW, WALL), (BOOT, NOW, WALL), "kept"),
        ((OTHER_BOOT, NOW + 900, WALL), (BOOT, NOW, WALL), "elsewhere"),
        ((BOOT, NOW, WALL), (OTHER_BOOT, NOW + 900, WALL + 900), "kept"),
        (("boot-3", NOW, WALL), (OTHER_BOOT, NOW - 1, WALL + 1), "elsewhere"),
    ],
)
def test_of_two_the_newer_one_counts(
    folder: Path, runtime: Path, kept: tuple[str, float, float], elsewhere: tuple[str, float, float], counts: str
) -> None:
    for place, (boot, now, wall), name in ((folder, kept, "kept"), (runtime, elsewhere, "elsewhere")):
        with closing(Store(place, boot)) as one:
            one.save(State(paused=Pause(None, Outside(name))), (), now, wall)
    paused = found_in(folder, runtime).state.paused
    assert paused is not None
    assert paused.reason == counts


@pytest.mark.parametrize("damaged", ["state", "run"])
def test_of_two_the_one_that_can_be_read_counts_and_the_other_is_kept_aside(
    folder: Path, runtime: Path, damaged: str
) -> None:
    for place in (folder, runtime):
        with closing(Store(place, BOOT)) as one:
            one.save(STATE, (), NOW, WALL)
    place = folder if damaged == "state" else runtime
    (place / "state.json").write_text("{")
    found = found_in(folder, runtime)
    assert found.state == STATE
    assert f"kept as {place}/state.json.corrupt-" in str(found.problem)


@pytest.mark.parametrize("mode", [0o775, 0o777, 0o1777])
def test_a_runtime_folder_that_others_may_write_is_neither_read_nor_written(
    folder: Path, runtime: Path, both: Store, mode: int
) -> None:
    (runtime / "state.json").write_text("{")
    runtime.chmod(mode)
    assert both.load(NOW, WALL) == Loaded()
    takes_nothing(folder)
    with pytest.raises(StoreError, match="Is a directory"):
        both.save(STATE, (), NOW, WALL)
    assert (runtime / "state.json").read_text() == "{"


@pytest.mark.parametrize("where", ["state", "none"])
def test_a_runtime_folder_that_is_none_changes_nothing(folder: Path, where: str) -> None:
    with closing(Store(folder, BOOT, runtime_dir=folder.parent / where)) as one:
        one.save(STATE, (), NOW, WALL)
        takes_nothing(folder)
        with pytest.raises(StoreError):
            one.save(State(serial=4), (), NOW, WALL)
        assert one.load(NOW, WALL).state == STATE


class Killed(BaseException):
    """The process ends here."""


@dataclasses.dataclass
class Disk:
    """The system calls of a save, of which those in a folder of `full` fail, and the one after `calls_left` is none."""

    folders: tuple[Path, ...]
    full: set[Path] = dataclasses.field(default_factory=set)
    calls_left: int | None = None
    fails: str = "write"  # of a full one; `sync`: when it is to be on the disk, `folder`: when its name is
    _opened: dict[int, tuple[Path, bool]] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("open", "write", "fsync", "replace", "unlink"):
                patch.setattr(os, name, functools.partial(self._call, name, getattr(os, name)))
            yield

    def _call(self, name: str, real: Callable[..., Any], first: Any, *more: Any, **named: Any) -> Any:  # noqa: ANN401
        folder, itself = self._opened.get(first, (None, False)) if isinstance(first, int) else self._of(Path(first))
        if folder is None:
            return real(first, *more, **named)
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise Killed
        what = "write" if name == "write" else ("folder" if itself else "sync") if name == "fsync" else ""
        if folder in self.full and what == self.fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = real(first, *more, **named)
        if name == "open":
            self._opened[done] = folder, itself
        return done

    def _of(self, path: Path) -> tuple[Path | None, bool]:
        """The folder that it is in, and whether it is that itself."""
        return next(((one, one == path) for one in self.folders if one == path or one in path.parents), (None, False))


class Saves(RuleBasedStateMachine):
    """Whatever disk is full and wherever the daemon is killed, the next one has what was saved last.

    Where it was killed in a save it has that or the one before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="mw-store-", dir=IN_MEMORY))
        self.disk = Disk((self.base / "state", self.base / "run"))
        (self.base / "run").mkdir()
        self.serial, self.may_be, self.now = 0, {0}, NOW
        self.store = self._begun()

    def _begun(self) -> Store:
        return Store(self.base / "state", BOOT, runtime_dir=self.base / "run")

    @rule(full=st.sets(st.sampled_from(["state", "run"])), fails=st.sampled_from(["write", "sync", "folder"]))
    def disks(self, full: set[str], fails: str) -> None:
        self.disk.full, self.disk.fails = {self.base / one for one in full}, fails

    @rule(changed=st.booleans(), seconds=st.sampled_from([0.5, 5, 30]))
    def save(self, *, changed: bool, seconds: float) -> None:
        self.now += seconds
        self.serial += changed
        try:
            with self.disk.in_place():
                self.store.save(State(serial=self.serial), (), self.now, WALL + self.now)
        except StoreError:
            assert self.disk.full == set(self.disk.folders)
            self.may_be.add(self.serial)  # fsync(2) may fail of what is there all the same
        else:
            self.may_be = {self.serial}

    @rule(calls=st.integers(0, 14), changed=st.booleans())
    def save_and_be_killed(self, calls: int, *, changed: bool) -> None:
        self.now += 1
        self.serial += changed
        self.disk.calls_left = calls
        self.may_be.add(self.serial)
        try:
            with self.disk.in_place():
                self.store.save(State(serial=self.serial), (), self.now, WALL + self.now)
            self.may_be = {self.serial}
        except (Killed, StoreError):
            pass
        self.disk.calls_left = None
        self.restart()

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.now += 1
        self.store = self._begun()
        found = self.store.load(self.now, WALL + self.now)
        assert found.problem is None
        assert found.state.serial in self.may_be
        self.serial = found.state.serial
        self.may_be = {self.serial}

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.base)


def test_whatever_disk_is_full_and_wherever_it_is_killed_what_was_saved_last_comes_back() -> None:
    run_state_machine_as_test(
        Saves, settings=settings(max_examples=100, stateful_step_count=30, deadline=None, derandomize=True)
    )


# ------------------------------------------------------------------------------------- a state that cannot be read

DAMAGED: list[bytes] = [
    b"",
    b"\0" * 4096,
    b"{",
    b"[]",
    b"null",
    b'{"version": "1"}',
    b'{"version": true, "boot_id": "boot-1", "saved": {"monotonic": 1, "wall": 2}, "state": {}, "observed": []}',
    b'{"version": 2}',
    b'{"version": 2, "boot_id": "boot-1", "saved": {}, "state": {}, "observed": []}',
    b'{"version": 2, "boot_id": "boot-1", "saved": {"monotonic": 1, "wall": NaN}, "state": {}, "observed": []}',
    b'{"version": 2, "boot_id": "boot-1", "saved": {"monotonic": 1, "wall": 1%s}, "state": {}, "observed": []}'
    % (b"0" * 400),
    b"[" * 100_000,
]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_state_is_kept_aside_and_is_a_problem_until_it_is_moved_away(folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / "state.json").write_bytes(content)
    found = loaded(folder)
    aside = folder / f"state.json.corrupt-{WALL:.0f}"
    assert (found.state, found.observed) == (State(), ())
    assert found.problem is not None
    assert str(aside) in found.problem
    assert "move it out of the folder" in found.problem
    assert aside.read_bytes() == content
    save(folder)  # the daemon goes on, and is started anew
    with closing(Store(folder, BOOT)) as store:
        again = store.load(NOW, WALL)
        assert again.state == STATE
        assert again.problem is not None
        assert str(aside) in again.problem
        aside.rename(folder.parent / "looked-at")
        assert store.problem() is None
    assert loaded(folder) == Loaded(STATE, (DEAD,), None, (ACCESS,))


def test_a_daemon_that_ends_before_its_first_save_leaves_the_problem_to_the_next_one(folder: Path) -> None:
    folder.mkdir()
    (folder / "state.json").write_text("{")
    assert None not in [loaded(folder, wall=WALL + later).problem for later in range(3)]
    assert len(list(folder.glob("state.json.corrupt-*"))) == 1


def test_a_state_of_another_version_is_kept_aside_with_both_versions_named(folder: Path) -> None:
    folder.mkdir()
    (folder / "state.json").write_text('{"version": 7, "anything": true}')
    problem = loaded(folder).problem
    assert problem is not None
    assert "the saved state is of version 7, from a newer mongo-watchdog; this one reads version 1 or 2" in problem
    assert (folder / "state.json.unknown-7").read_text() == '{"version": 7, "anything": true}'


def test_a_version_of_any_length_names_a_file(folder: Path) -> None:
    folder.mkdir()
    (folder / "state.json").write_text('{"version": %s}' % ("7" * 1000))
    assert str(loaded(folder).problem).count("state.json.unknown-77777777777777777777 ") == 1


def test_what_is_kept_aside_is_never_overwritten(folder: Path) -> None:
    folder.mkdir()
    for number in range(3):
        (folder / "state.json").write_text(json.dumps({"version": 7, "number": number}))
        loaded(folder)
    kept = sorted(folder.glob("state.json.unknown-7*"))
    assert len(kept) == 3
    assert {json.loads(path.read_text())["number"] for path in kept} == {0, 1, 2}


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("serial",), "3", "state.serial: expected int, found '3'"),
        (("serial",), True, "state.serial: expected int"),
        (("instances",), [], "state.instances: expected dict"),
        (("instances", SHOP_ID, "phase"), "sleeping", f"state.instances.{SHOP_ID}.phase: expected one of reloading"),
        (("instances", SHOP_ID, "surprise"), 1, "expected none of surprise"),
        (("instances", SHOP_ID, "retry_at"), "soon", f"state.instances.{SHOP_ID}.retry_at: expected a number"),
        (
            ("instances", SHOP_ID, "reload", "master"),
            [1],
            f"state.instances.{SHOP_ID}.reload.master: expected 2 values",
        ),
        (
            ("instances", SHOP_ID, "reload", "old"),
            [[1, None]],
            "old[0].start_ticks: expected int, found 'None'",
        ),
    ],
)
def test_a_wrong_value_is_named_by_its_place(folder: Path, where: tuple[str, ...], value: object, said: str) -> None:
    save(folder)
    document = json.loads((folder / "state.json").read_text())
    *parents, last = where
    place = document["state"]
    for name in parents:
        place = place[name]
    place[last] = value
    (folder / "state.json").write_text(json.dumps(document))
    problem = loaded(folder).problem
    assert problem is not None
    assert said in problem


def test_what_no_version_has_is_refused_wherever_it_stands(folder: Path) -> None:
    save(folder)
    document = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**document, "surprise": 1}))
    assert "the document: expected none of surprise" in str(loaded(folder).problem)


def test_a_missing_value_is_named(folder: Path) -> None:
    save(folder)
    document = json.loads((folder / "state.json").read_text())
    del document["state"]["instances"][SHOP_ID]["reload"]["deadline"]
    (folder / "state.json").write_text(json.dumps(document))
    assert f"state.instances.{SHOP_ID}.reload: expected deadline in it" in str(loaded(folder).problem)


@given(st.binary(max_size=200))
def test_no_content_of_the_file_raises(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "state.json").write_bytes(content)
    assert loaded(folder).problem is not None


# --------------------------------------------------------------------------------------------------- the folder


def test_a_second_daemon_on_the_same_folder_is_refused_with_the_pid_of_the_first(folder: Path, store: Store) -> None:
    store.save(STATE, (), NOW, WALL)
    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}.*{folder}"):
        Store(folder, BOOT)


def test_the_lock_ends_with_its_process(folder: Path) -> None:
    killed = "import os, sys; from pathlib import Path; from watchdogd.service.store import Store\n"
    killed += "Store(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", killed, str(folder)], cwd=ROOT, check=False, timeout=60)
    assert loaded(folder) == Loaded()


def test_the_lock_is_not_handed_to_what_we_start(folder: Path, store: Store) -> None:
    assert fcntl.fcntl(store._lock, fcntl.F_GETFD) & fcntl.FD_CLOEXEC  # noqa: SLF001
    assert (folder / "lock").read_text() == str(os.getpid())


def test_the_boot_id_is_the_machines_own(folder: Path) -> None:
    with closing(Store(folder)) as one:
        one.save(State(), (), NOW, WALL)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert json.loads((folder / "state.json").read_text())["boot_id"] == boot


def test_a_folder_whose_parent_is_missing_is_named_with_the_mend(folder: Path) -> None:
    with pytest.raises(StoreError, match=rf"{folder}.*No such file.*`state_dir` must be a folder"):
        Store(folder / "deeper", BOOT)


def test_a_file_in_the_place_of_the_folder_is_named(folder: Path) -> None:
    folder.write_text("precious")
    with pytest.raises(StoreError, match=str(folder)):
        Store(folder, BOOT)
    assert folder.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_of_somebody_else_is_named_with_our_user(folder: Path) -> None:
    folder.mkdir()
    os.seteuid(65534)
    try:
        with pytest.raises(StoreError, match=r"Permission denied \(uid 65534\)"):
            Store(folder, BOOT)
    finally:
        os.seteuid(0)


# ------------------------------------------------------------------------------------------------ earlier versions


OLD_SHOP = InstanceState(
    phase=Phase.GAVE_UP, spent=(Spent(4000.0),), tried=frozenset({Incarnation("65f0")}), held=("budget",)
)


def older(folder: Path, version: int, by: str, **flags: object) -> None:
    """Save what that version would have written of OLD_SHOP."""
    save(folder, dataclasses.replace(STATE, instances={SHOP_ID: OLD_SHOP}))
    document = json.loads((folder / "state.json").read_text())
    state = document["state"]
    shop = state["instances"].pop(SHOP_ID)
    for name in ("name", "standing", "outrun", "unsent"):
        del shop[name]
    state["instances"][by] = {**shop, **flags}
    if version == 1:
        del state["unclaimed"]
        state["blind"].append({"scope": "instance shop", "why": "hidden"})
    (folder / "state.json").write_text(json.dumps(document | {"version": version}))


FLAGS = {"escalate": False, "doubt": False, "gave_up_at": None, "gave_up_why": "", "unsent": 0}


@pytest.mark.parametrize(
    ("flags", "standing"),
    [
        ({}, FINE),
        ({"doubt": True, "unsent": 3}, Standing(Stand.DOUBTFUL)),
        ({"doubt": True, "escalate": True}, Standing(Stand.ESCALATING)),
        ({"gave_up_at": 4500.0, "gave_up_why": "no"}, Standing(Stand.GAVE_UP, 4500.0, "no")),
        ({"gave_up_at": 4500.0, "gave_up_why": "no", "doubt": True}, Standing(Stand.GAVE_UP, 4500.0, "no", True)),
    ],
)
def test_the_flags_of_version_2_are_read_as_the_standing_they_meant(
    folder: Path, flags: dict[str, object], standing: Standing
) -> None:
    older(folder, 2, SHOP_ID, **FLAGS | flags)
    found = loaded(folder)
    assert (found.problem, found.observed) == (None, (DEAD,))
    assert found.state.instances == {SHOP_ID: dataclasses.replace(OLD_SHOP, standing=standing)}


def test_a_state_of_the_first_edition_is_taken_over_by_name_until_its_instance_is_seen(folder: Path) -> None:
    older(folder, 1, "shop", **FLAGS)
    found = loaded(folder)
    assert (found.problem, found.observed) == (None, (DEAD,))
    assert found.state == dataclasses.replace(STATE, instances={}, unclaimed={"shop": OLD_SHOP}, blind=frozenset())


@given(ANY_JSON, st.sampled_from([1, 2]))
def test_nothing_but_a_codec_error_comes_of_any_state_of_an_earlier_version(state: object, version: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        saved = {"monotonic": NOW, "wall": WALL}
        document = {"version": version, "boot_id": BOOT, "saved": saved, "state": state, "observed": []}
        (Path(name) / "state.json").write_text(json.dumps(document))
        found = loaded(Path(name))
        assert found.problem is not None or found.state.instances == {}
