"""The loop with a real store, control socket, FIFO and notify socket; time and the world that it sees are fakes."""

import contextlib
import fcntl
import json
import os
import pwd
import selectors
import signal
import socket
import struct
import termios
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.world.host import MAIN, Host, config_of, work
from tests.world.processes import FakeProcess
from tests.world.schemas import strict
from tests.world.sinks import FakeKeeper, FakeSink
from watchdogd.config import Config, ConfigError, InstanceConfig, Mode, PolicyConfig
from watchdogd.core.instance import Tick
from watchdogd.model.base import CHAIN, WORKERS, Mono
from watchdogd.model.done import Result, SendFifo
from watchdogd.model.remembered import InstanceState, Phase, ReloadOutcome, State
from watchdogd.model.seen import Access, Connection
from watchdogd.model.told import Event, ReloadAsked, Tell
from watchdogd.observe.observer import Observer
from watchdogd.report.history import History
from watchdogd.report.journal import Journal
from watchdogd.report.notify import Notifier
from watchdogd.report.sinks import Sinks
from watchdogd.service.control import Server
from watchdogd.service.daemon import Daemon
from watchdogd.service.store import Store, StoreError

ME = pwd.getpwuid(os.getuid()).pw_name
ANSWER, STATUS, SAVED = strict("control", "answer"), strict("status"), strict("state")


class Waiting(selectors.DefaultSelector):
    """Waits by moving the clock. Before each wait in which nothing is ready it does the next step of the test."""

    def __init__(self, stage: "Stage", steps: Iterator[object]) -> None:
        super().__init__()
        self._stage, self._steps = stage, steps
        self.waits: list[float] = []

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "a wait without an end"
        self.waits.append(timeout)
        self._stage.notifications()  # no more than ten wait in a datagram socket
        if ready := super().select(0):
            return ready
        next(self._steps)
        if ready := super().select(0):
            return ready
        self._stage.host.pass_time(timeout)
        return super().select(0)


@dataclass
class Output:
    """Keeps what the journal writes."""

    told: list[Tell] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def write(self, tell: Tell, wall: float, message: str) -> bool:
        self.told.append(tell)
        self.log.append(tell.event.value)
        return True

    def close(self) -> None:
        pass


class SeenStore(Store):
    """Notes each save and how many bytes were in the FIFO then; fails while there is an `error`."""

    def __init__(self, folder: Path, stage: "Stage", runtime: Path | None = None) -> None:
        super().__init__(folder, runtime_dir=runtime)
        self._stage = stage
        self.error: Exception | None = None

    def save(
        self, state: State, observed: Iterable[Connection], now: Mono, wall: float, access: Iterable[Access] = ()
    ) -> None:
        self._stage.saved.append((state, self._stage.in_fifo()))
        if self.error:
            raise self.error
        super().save(state, observed, now, wall, access)


def remembered(state: State) -> InstanceState:
    """What it remembers of the only instance."""
    (shop,) = state.instances.values()
    return shop


@dataclass(eq=False)
class Stage:
    """One daemon on a host of values. `play` runs it through the steps of a test, then ends it by SIGTERM."""

    folder: Path
    host: Host
    output: Output = field(default_factory=Output)
    beside: Sequence[FakeSink | History] = field(default_factory=list)  # the journal
    saved: list[tuple[State, int]] = field(default_factory=list)
    loaded: list[Config | ConfigError] = field(default_factory=list)  # what the configuration file is, from now on
    at_end: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        (self.folder / "shop").mkdir()
        self.fifo = self.folder / "shop" / "fifo"
        os.mkfifo(self.fifo)
        self.fifo_fd = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK)  # the master has it open
        self.at_end.callback(os.close, self.fifo_fd)
        self.notified = self.at_end.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self.notified.bind(str(self.folder / "notify"))
        self.notified.settimeout(0)
        self.master, self.workers = self.host.app(str(self.fifo), uid=os.geteuid())
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.host.heartbeats.wake = self.host.resolver.wake = lambda: os.eventfd_write(self.wake, 1)
        self.at_end.callback(os.close, self.wake)
        self.store = self.at_end.enter_context(contextlib.closing(SeenStore(self.folder / "state", self)))
        self.messages: list[str] = []
        self.config = replace(
            config_of(str(self.fifo)),
            instances=(InstanceConfig("shop", self.fifo, (MAIN,), mercy_s=5.0),),
            policy=PolicyConfig(linger_s=5.0, cooldown_s=10.0),
            control_socket=self.folder / "control.sock",
        )

    def play(self, steps: Iterator[object], state: State | None = None) -> Daemon:
        def all_steps() -> Iterator[object]:
            yield from steps
            os.kill(os.getpid(), signal.SIGTERM)
            yield None

        selector = self.selector = self.at_end.enter_context(Waiting(self, all_steps()))
        loaded = self.store.load(self.host.clock.now, self.host.clock.wall())
        self.observer = Observer(self.config, self.host.edges())
        self.observer.restore(loaded.observed)
        server = Server(self.config.control_socket, selector, self.host.clock)
        daemon = Daemon(
            config=self.config,
            observer=self.observer,
            store=self.store,
            server=server,
            selector=selector,
            sinks=Sinks(Journal(self.output), *self.beside),
            notifier=Notifier(self.host.clock),
            wake=self.wake,
            clock=self.host.clock,
            wall=self.host.clock.wall,
            state=state or loaded.state,
            load=self._load,
        )
        with contextlib.closing(server), contextlib.closing(daemon.notifier):
            daemon.run()
        SAVED.validate(json.loads((self.folder / "state" / "state.json").read_text()))
        return daemon

    def _load(self) -> Config:
        read = self.loaded[-1] if self.loaded else self.config
        if isinstance(read, ConfigError):
            raise read
        return read

    # -- what is seen of it

    def in_fifo(self) -> int:
        """How many bytes wait in the FIFO."""
        size = fcntl.ioctl(self.fifo_fd, termios.FIONREAD, bytes(4))
        return int(struct.unpack("i", size)[0])

    def written(self) -> str:
        """The commands that arrived, once."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.fifo_fd, 100).decode()
        return ""

    def notifications(self) -> list[str]:
        """What systemd was told, without the status line; all of it since the start."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.messages.append(self.notified.recv(4096).decode())
        return [one.partition("\n")[0] for one in self.messages if not one.startswith("STATUS=")]

    def events(self, *only: Event) -> list[str]:
        return [tell.event.value for tell in self.output.told if not only or tell.event in only]

    def scopes(self, event: Event) -> list[str]:
        return [str(tell.fields["scope"]) for tell in self.output.told if tell.event is event]

    def ask(self, verb: str, **fields: object) -> "Asked":
        """An operator asks; the answer comes in a later step."""
        client = self.at_end.enter_context(socket.socket(socket.AF_UNIX))
        client.settimeout(0)
        client.connect(str(self.config.control_socket))
        client.send(json.dumps({"version": 2, "verb": verb, **fields}).encode() + b"\n")
        return Asked(client)

    # -- what happens in it

    def break_the_app(self) -> Iterator[None]:
        """Steps: MongoDB is restarted, and the workers go on without a connection."""
        for worker in self.workers:
            self.host.connect(worker)
        yield from seconds(4)
        self.host.stop_mongod()
        yield from seconds(3)
        self.host.start_mongod()
        yield from seconds(2)
        work(self.workers)
        yield None

    def until(self, holds: Callable[[], object], within: int = 200) -> Iterator[None]:
        for _ in range(within):
            if holds():
                return
            yield
        raise AssertionError(f"not within {within} steps; told: {self.events()}")


def seconds(count: int) -> Iterator[None]:
    """So many steps in which nothing happens; at least so many intervals pass when nothing wakes the loop."""
    for _ in range(count):
        yield None


@dataclass
class Asked:
    """The client's end of one question."""

    client: socket.socket
    received: bytes = b""

    def wait(self) -> Iterator[None]:
        """Steps until the answer is there."""
        for _ in range(10):
            with contextlib.suppress(BlockingIOError):
                while chunk := self.client.recv(65536):
                    self.received += chunk
            if self.received.endswith(b"\n"):
                return
            yield
        raise AssertionError("no answer")

    def is_there(self) -> bool:
        """Whether some of the answer is there."""
        with contextlib.suppress(BlockingIOError):
            self.received += self.client.recv(65536)
        return bool(self.received)

    @property
    def answer(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.received)
        ANSWER.validate(document)
        if "status" in document:
            STATUS.validate(document["status"])
        return document


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    host = Host()
    host.start_mongod()
    one = Stage(tmp_path, host)
    with one.at_end:
        yield one
    for number, handler in before.items():
        signal.signal(number, handler)


def phase(daemon: Daemon) -> Phase:
    return remembered(daemon.state).phase


# -- the intent before the byte


def test_the_intent_is_saved_before_the_byte_is_written(stage: Stage) -> None:
    def steps() -> Iterator[object]:
        yield from stage.break_the_app()
        yield from stage.until(stage.in_fifo)

    stage.play(steps())
    assert stage.written() == "w"
    first = next(bytes_then for state, bytes_then in stage.saved if remembered(state).reload)
    assert first == 0


def test_the_outcome_is_in_the_next_tick_which_follows_at_once(stage: Stage) -> None:
    def steps() -> Iterator[object]:
        yield from stage.break_the_app()
        yield from stage.until(stage.in_fifo)
        assert stage.selector.waits[-1] == 0.0  # this is done in the wait after the tick that wrote
        assert Event.RELOAD_SENT.value not in stage.events()
        yield None
        assert Event.RELOAD_SENT.value in stage.events()

    daemon = stage.play(steps())
    reload = remembered(daemon.state).reload
    assert reload is not None
    assert reload.sent_at is not None


def test_what_cannot_be_saved_is_not_sent_and_that_is_told(stage: Stage) -> None:
    shown: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []

    def steps() -> Iterator[object]:
        yield from stage.break_the_app()
        stage.store.error = StoreError("state.json: No space left on device")
        yield from seconds(60)
        assert stage.in_fifo() == 0
        asked = stage.ask("status")
        yield from asked.wait()
        shown.append(asked.answer["status"])
        asked = stage.ask("pause", reason="deploy")
        yield from asked.wait()
        refused.append(asked.answer)
        stage.store.error = None
        yield from stage.until(stage.in_fifo)

    daemon = stage.play(steps())
    why = "nothing was changed, for it cannot be saved: state.json: No space left on device"
    assert [(one["ok"], one["exit"], one["text"]) for one in refused] == [(False, 1, why)]
    assert daemon.state.paused is None
    assert stage.scopes(Event.BLIND) == stage.scopes(Event.SEEING_AGAIN) == ["state"]
    (document,) = shown
    assert document["blind"] == [{"scope": "state", "why": "state.json: No space left on device"}]
    assert {one["gate"] for one in document["instances"][0]["blocked_by"]} >= {"blind"}


def test_a_state_folder_that_takes_nothing_holds_no_cure_and_is_told_once(stage: Stage) -> None:
    runtime, shown = stage.folder / "run", []
    runtime.mkdir(mode=0o755)
    stage.store.close()
    stage.store = SeenStore(stage.folder / "state", stage, runtime)
    blocked = stage.folder / "state" / "state.json.new"

    def status() -> Iterator[object]:
        asked = stage.ask("status")
        yield from asked.wait()
        shown.append(asked.answer["status"])

    def steps() -> Iterator[object]:
        blocked.mkdir()
        yield from stage.break_the_app()
        yield from stage.until(stage.in_fifo)
        reload = json.loads((runtime / "state.json").read_text())["state"]["instances"][str(stage.fifo)]["reload"]
        assert reload["command"] == stage.written()
        yield from status()
        blocked.rmdir()
        yield from stage.until(lambda: stage.events(Event.STATE_BACK))
        yield from status()

    stage.play(steps())
    assert stage.events(Event.STATE_ELSEWHERE, Event.STATE_BACK, Event.BLIND) == ["state_elsewhere", "state_back"]
    degraded, whole = shown
    assert (degraded["blind"], degraded["instances"][0]["blocked_by"]) == ([], [])
    assert str(runtime) in degraded["degraded"]
    assert whole["degraded"] is None
    assert list(runtime.iterdir()) == []


def test_a_state_that_cannot_be_read_blocks_reloads_until_it_is_moved_away(stage: Stage) -> None:
    (stage.folder / "state" / "state.json").write_text("{")

    def steps() -> Iterator[object]:
        yield from stage.break_the_app()
        yield from seconds(60)
        assert stage.in_fifo() == 0
        (aside,) = (stage.folder / "state").glob("state.json.corrupt-*")
        aside.rename(stage.folder / aside.name)
        yield from stage.until(stage.in_fifo)

    stage.play(steps())
    assert stage.scopes(Event.BLIND) == stage.scopes(Event.SEEING_AGAIN) == ["state"]


# -- edges that fail


@pytest.mark.parametrize(
    ("edge", "method"),
    [
        ("heartbeats", "drain"),
        ("resolver", "drain"),
        ("sockets", "read"),
        ("uwsgi", "check"),
        ("processes", "of"),
    ],
)
def test_an_edge_that_raises_ends_no_tick_and_nothing_is_sent(stage: Stage, edge: str, method: str) -> None:
    def steps() -> Iterator[object]:
        yield from stage.break_the_app()
        stage.host.spied[edge].broken.add(method)
        pings = stage.notifications().count("WATCHDOG=1")
        yield from seconds(30)
        assert stage.in_fifo() == 0
        assert stage.notifications().count("WATCHDOG=1") >= pings + 30
        stage.host.spied[edge].broken.clear()
        yield from stage.until(stage.in_fifo)

    stage.play(steps())
    assert len(stage.scopes(Event.BLIND)) == len(stage.scopes(Event.SEEING_AGAIN)) == 1


def test_a_comparison_that_raises_is_told_as_what_changed_and_nothing_is_written(stage: Stage) -> None:
    compare = Spy(stage)

    def steps() -> Iterator[object]:
        stage.observer.last_look = compare  # type: ignore[method-assign]
        yield from stage.break_the_app()
        yield from stage.until(lambda: compare.called)
        assert stage.in_fifo() == 0
        yield from stage.until(stage.in_fifo)

    stage.play(steps())
    assert stage.written() == "w"
    first, second = compare.said
    assert not isinstance(first, int)
    assert first[1].endswith("RuntimeError('of is broken'); please report it")
    assert isinstance(second, int)


class Spy:
    """The last look before the byte: at its first time an edge breaks in it, and is whole again after."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.said: list[int | tuple[Result, str]] = []

    @property
    def called(self) -> int:
        return len(self.said)

    def __call__(self, effect: SendFifo) -> int | tuple[Result, str]:
        edge = self._stage.host.spied["processes"]
        if not self.called:
            edge.broken.add("of")
        self.said.append(Observer.last_look(self._stage.observer, effect))
        edge.broken.clear()
        return self.said[-1]


# -- where it is told


def test_every_sink_is_told_everything_with_its_time(stage: Stage) -> None:
    one, other = FakeSink("one"), FakeSink("other")
    stage.beside = [one, other]

    def steps() -> Iterator[object]:
        yield from stage.break_the_app()
        yield from stage.until(lambda: Event.RELOAD_SENT.value in stage.events())

    stage.play(steps())
    assert [tell for tell, _ in one.told] == stage.output.told
    assert one.told == other.told
    assert [wall for _, wall in one.told] == sorted(wall for _, wall in one.told)


def test_a_sink_that_raises_is_told_once_keeps_no_other_from_it_and_holds_no_reload(stage: Stage) -> None:
    broken = FakeSink("broken", broken=True)
    whole = FakeSink("whole")
    stage.beside = [broken, whole]
    answers: list[dict[str, Any]] = []

    def steps() -> Iterator[object]:
        yield from stage.break_the_app()
        yield from stage.until(stage.in_fifo)
        asked = stage.ask("status")
        yield from asked.wait()
        answers.append(asked.answer)
        broken.broken = False
        stage.host.stop_mongod()  # something to tell
        yield from stage.until(lambda: broken.told)
        yield from seconds(2)

    stage.play(steps())
    assert stage.written() == "w"
    assert [tell for tell, _ in whole.told] == stage.output.told
    assert stage.scopes(Event.BLIND) == stage.scopes(Event.SEEING_AGAIN) == ["sink broken"]
    (blind,) = answers[0]["status"]["blind"]
    assert blind["scope"] == "sink broken"
    assert blind["why"].startswith("it did not take ")
    assert "RuntimeError('a bug in broken')" in blind["why"]


@dataclass
class Noting(FakeKeeper):
    """Notes how many bytes were in the FIFO when it was shown a tick, and when it could write."""

    in_fifo: Callable[[], int] = int
    at_look: list[int] = field(default_factory=list)
    at_flush: list[tuple[int, int]] = field(default_factory=list)  # and how much it had been told by then

    def look(self, *seen: Any) -> None:  # noqa: ANN401 - what a Keeper takes
        FakeKeeper.look(self, *seen)
        self.at_look.append(self.in_fifo())

    def flush(self) -> None:
        FakeKeeper.flush(self)
        self.at_flush.append((self.in_fifo(), len(self.told)))


def test_who_keeps_what_was_found_writes_after_the_byte_and_at_the_end(stage: Stage) -> None:
    keeper = Noting("keeper", in_fifo=stage.in_fifo)
    stage.beside = [keeper]

    def steps() -> Iterator[object]:
        yield from stage.break_the_app()
        yield from stage.until(stage.in_fifo)
        yield None

    stage.play(steps())
    first = keeper.at_look.index(1)  # the tick after that which wrote it
    assert keeper.at_look[:first] == [0] * first
    assert [in_fifo for in_fifo, _ in keeper.at_flush[: first - 1]] == [0] * (first - 1)
    assert keeper.at_flush[first - 1][0] == 1
    assert keeper.at_flush[-1][1] == len(keeper.told)
    assert keeper.told[-1][0].event is Event.STOPPING


def test_what_a_sink_cannot_write_is_told_and_shown_and_holds_no_reload(stage: Stage) -> None:
    history = History(stage.folder / "nowhere")
    stage.beside = [history]
    answers: list[dict[str, Any]] = []

    def steps() -> Iterator[object]:
        yield from stage.break_the_app()
        yield from stage.until(stage.in_fifo)
        asked = stage.ask("status")
        yield from asked.wait()
        answers.append(asked.answer)
        (stage.folder / "nowhere").mkdir()
        yield from seconds(3)

    stage.play(steps())
    assert stage.written() == "w"
    assert stage.scopes(Event.BLIND) == stage.scopes(Event.SEEING_AGAIN) == ["sink history"]
    (blind,) = answers[0]["status"]["blind"]
    assert blind["scope"] == "sink history"
    assert "No such file or directory" in blind["why"]
    (record,) = (stage.folder / "nowhere/incidents").iterdir()
    told = [json.loads(line).get("told", {}).get("event") for line in record.read_bytes().splitlines()]
    kept = [one for one in told if one]
    assert kept[-1] == "stopping"
    told_of_it = stage.events()[stage.events().index("member_down") :]
    assert kept[: kept.index("reload_sent")] == told_of_it[: told_of_it.index("reload_sent")]


def test_a_tick_that_fails_is_told_once_and_has_no_ping_and_the_loop_goes_on(stage: Stage) -> None:
    def steps() -> Iterator[object]:
        yield from seconds(3)
        pings = stage.notifications().count("WATCHDOG=1")
        stage.store.error = RuntimeError("a bug")
        yield from seconds(5)
        assert stage.notifications().count("WATCHDOG=1") == pings
        assert min(stage.selector.waits[-4:]) > 0  # it does not spin
        stage.store.error = None
        yield from seconds(3)
        assert stage.notifications().count("WATCHDOG=1") > pings

    stage.play(steps())
    blind, again = [tell for tell in stage.output.told if tell.event in {Event.BLIND, Event.SEEING_AGAIN}]
    assert (blind.fields["scope"], again.fields) == ("loop", {"scope": "loop"})
    assert str(blind.fields["reason"]).endswith(": RuntimeError('a bug'); please report it")


def test_a_bug_that_shows_with_one_instance_keeps_neither_ready_nor_the_pings_away(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tick, "run", lambda _: 1 / 0)
    answers: list[dict[str, Any]] = []

    def steps() -> Iterator[object]:
        yield from seconds(5)
        notified = stage.notifications()
        assert notified[0] == "READY=1"
        assert notified.count("WATCHDOG=1") >= 5
        assert stage.messages[-1].endswith("blind: shop") or stage.messages[-2].endswith("blind: shop")
        asked = stage.ask("status")
        yield from asked.wait()
        answers.append(asked.answer)

    stage.play(steps())
    assert answers[0]["exit"] == 1
    (shop,) = answers[0]["status"]["instances"]
    assert [why.startswith("internal error in core/tick.py:") for why in shop["blind"]] == [True]
    assert stage.scopes(Event.BLIND) == ["instance shop"]


def test_who_asks_in_a_tick_that_fails_is_told_so(stage: Stage) -> None:
    def steps() -> Iterator[object]:
        yield from seconds(3)
        stage.store.error = RuntimeError("a bug")
        for asked in (stage.ask("status"), stage.ask("reload", instance=str(stage.fifo))):
            yield from asked.wait()
            assert (asked.answer["ok"], asked.answer["exit"]) == (False, 1)
            assert "RuntimeError('a bug'); please report it" in asked.answer["text"]

    stage.play(steps())


def test_an_outcome_is_not_lost_in_a_tick_that_fails(stage: Stage) -> None:
    def steps() -> Iterator[object]:
        yield from stage.break_the_app()
        yield from stage.until(stage.in_fifo)
        stage.store.error = RuntimeError("a bug")
        yield from seconds(2)
        assert Event.RELOAD_SENT.value not in stage.events()
        assert stage.selector.waits[-1] > 0  # nor is it a reason to spin
        stage.store.error = None
        yield from stage.until(lambda: Event.RELOAD_SENT.value in stage.events())

    stage.play(steps())
    assert stage.events(Event.RELOAD_SENT) == ["reload_sent"]
    assert stage.written() == "w"


def test_ready_comes_only_after_the_first_whole_tick(stage: Stage) -> None:
    stage.store.error = RuntimeError("a bug")

    def steps() -> Iterator[object]:
        yield from seconds(3)
        assert stage.notifications() == []
        stage.store.error = None
        yield from seconds(2)
        assert stage.notifications()[:3] == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]

    stage.play(steps())


# -- operators


def test_status_is_the_document_with_its_exit_code(stage: Stage) -> None:
    def steps() -> Iterator[object]:
        yield from seconds(3)
        asked = stage.ask("status")
        yield from asked.wait()
        assert [one["name"] for one in asked.answer["status"]["instances"]] == ["shop"]
        assert asked.answer["exit"] == 0
        stage.host.stop_mongod()
        yield from seconds(3)
        asked = stage.ask("status")
        yield from asked.wait()
        assert asked.answer["exit"] == 1

    stage.play(steps())


def test_an_operators_reload_is_sent_and_its_id_is_the_answer(stage: Stage) -> None:
    answers: list[dict[str, Any]] = []

    def steps() -> Iterator[object]:
        yield from seconds(20)  # longer than linger
        asked = stage.ask("reload", instance=str(stage.fifo))
        yield from asked.wait()
        answers.append(asked.answer)
        yield from seconds(2)

    daemon = stage.play(steps())
    reload = remembered(daemon.state).reload
    assert reload is not None
    text = f"reload begun for {ME} (uid {os.getuid()}, pid {os.getpid()})"
    assert answers == [{"version": 2, "ok": True, "text": text, "exit": 0, "reload": reload.id}]
    assert stage.written() == "c"  # nobody is in need of it, so the others go on serving


def test_now_is_sent_while_mongodb_is_only_just_back_and_told_with_who_asked(stage: Stage) -> None:
    answers: list[dict[str, Any]] = []

    def steps() -> Iterator[object]:
        for worker in stage.workers:
            stage.host.connect(worker)
        yield from seconds(3)  # less than linger
        for now in (False, True):
            asked = stage.ask("reload", instance=str(stage.fifo), now=now)
            yield from asked.wait()
            answers.append(asked.answer)
        asked = stage.ask("status")
        yield from asked.wait()
        answers.append(asked.answer)

    stage.play(steps())
    refused, begun, status = answers
    assert refused["text"].endswith("; `reload --now` goes past that")
    assert begun["text"] == f"reload begun for {ME} (uid {os.getuid()}, pid {os.getpid()}), past linger"
    assert stage.written() == "c"
    (told,) = [one for one in stage.output.told if one.event is Event.RELOAD_ASKED]
    assert told.what == ReloadAsked(CHAIN, ME, os.getuid(), os.getpid(), now=True, past="linger")
    last = status["status"]["instances"][0]["last_reload"]
    assert last["by"] == {"name": ME, "uid": os.getuid(), "pid": os.getpid()}


def test_an_operators_reload_that_is_held_says_by_what(stage: Stage) -> None:
    answers: list[dict[str, Any]] = []

    def steps() -> Iterator[object]:
        yield from seconds(3)
        stage.host.stop_mongod()
        yield from seconds(2)
        asked = stage.ask("reload", instance=str(stage.fifo))
        yield from asked.wait()
        answers.append(asked.answer)

    stage.play(steps())
    assert (answers[0]["ok"], answers[0]["exit"], answers[0]["reload"]) == (False, 1, None)
    assert answers[0]["text"].startswith("held by not_serving: MongoDB does not serve")
    assert stage.written() == ""


def test_an_unknown_instance_is_an_answer_that_names_the_known_ones(stage: Stage) -> None:
    answers: list[dict[str, Any]] = []

    def steps() -> Iterator[object]:
        yield from seconds(3)
        asked = stage.ask("reload", instance="shp")
        yield from asked.wait()
        answers.append(asked.answer)

    stage.play(steps())
    assert (answers[0]["ok"], answers[0]["exit"]) == (False, 2)
    assert answers[0]["text"] == f"no instance has the FIFO shp; there is: {stage.fifo}"


def test_a_pause_holds_reloads_until_resume_and_over_a_restart(stage: Stage) -> None:
    def first() -> Iterator[object]:
        yield from seconds(3)
        asked = stage.ask("pause", for_s=None, reason="deploy")
        yield from asked.wait()
        assert asked.answer["text"] == f"paused until `mongo-watchdog resume`, by {ME}: deploy"

    def second() -> Iterator[object]:
        yield from stage.break_the_app()
        yield from seconds(60)
        assert stage.in_fifo() == 0
        asked = stage.ask("resume")
        yield from asked.wait()
        assert asked.answer["ok"]
        yield from stage.until(stage.in_fifo)

    stage.play(first())
    stage.play(second())
    assert stage.events(Event.PAUSED, Event.RESUMED) == ["paused", "resumed"]


def test_the_last_incident_and_the_last_whole_look_are_remembered_and_shown(stage: Stage) -> None:
    documents: list[dict[str, Any]] = []

    def status() -> Iterator[object]:
        asked = stage.ask("status")
        yield from asked.wait()
        documents.append(asked.answer["status"])

    def first() -> Iterator[object]:
        yield from stage.break_the_app()
        yield from stage.until(stage.in_fifo)
        stage.host.processes.end(stage.master)  # somebody stops it, in the middle of the incident
        yield from seconds(15)
        yield from status()

    def second() -> Iterator[object]:
        yield from seconds(5)
        yield from status()

    stage.play(first())
    stage.play(second())
    past, again = [one["last_incident"] for one in documents]
    assert past == again
    assert (past["instance"], past["ending"]) in {("shop", "replaced"), ("shop", "ended_by_us")}
    assert past["since"] < past["until"] <= documents[0]["at"]
    assert documents[0]["daemon"]["since"] < documents[1]["daemon"]["since"] < documents[1]["at"]
    assert [one["seen_whole_at"] for one in documents] == [one["at"] for one in documents]


@pytest.mark.parametrize("by", ["reconfigure", "SIGHUP"])
def test_a_good_configuration_takes_effect_and_is_told(stage: Stage, by: str) -> None:
    def steps() -> Iterator[object]:
        yield from seconds(3)
        stage.loaded.append(replace(stage.config, mode=Mode.OBSERVE))
        if by == "SIGHUP":
            os.kill(os.getpid(), signal.SIGHUP)
        else:
            asked = stage.ask("reconfigure")
            yield from asked.wait()
            assert asked.answer == {"version": 2, "ok": True, "text": "the configuration was read again", "exit": 0}
        yield from stage.break_the_app()
        yield from seconds(60)

    daemon = stage.play(steps())
    assert (daemon.config.mode, phase(daemon)) == (Mode.OBSERVE, Phase.DUE)
    assert stage.written() == ""
    assert stage.events(Event.CONFIG_RELOADED, Event.CONFIG_REJECTED) == ["config_reloaded"]
    states = [one for one in stage.notifications() if one != "WATCHDOG=1"]
    assert states == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]


@pytest.mark.parametrize("by", ["reconfigure", "SIGHUP"])
def test_a_bad_configuration_leaves_the_old_one_in_force_and_is_told(stage: Stage, by: str) -> None:
    def steps() -> Iterator[object]:
        yield from seconds(3)
        stage.loaded.append(ConfigError(("a.yaml:1:1: mode: bad", "a.yaml:2:1: mongodb: worse")))
        if by == "SIGHUP":
            os.kill(os.getpid(), signal.SIGHUP)
        else:
            asked = stage.ask("reconfigure")
            yield from asked.wait()
            text = "a.yaml:1:1: mode: bad\na.yaml:2:1: mongodb: worse"
            assert asked.answer == {"version": 2, "ok": False, "text": text, "exit": 78}
        yield from seconds(3)

    daemon = stage.play(steps())
    assert daemon.config is stage.config
    assert stage.events(Event.CONFIG_RELOADED, Event.CONFIG_REJECTED) == ["config_rejected"]
    states = [one for one in stage.notifications() if one != "WATCHDOG=1"]
    assert states == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]


def test_what_takes_effect_at_the_next_start_only_is_said(stage: Stage) -> None:
    answers: list[dict[str, Any]] = []

    def steps() -> Iterator[object]:
        yield from seconds(3)
        stage.loaded.append(replace(stage.config, state_dir=Path("/elsewhere")))
        asked = stage.ask("reconfigure")
        yield from asked.wait()
        answers.append(asked.answer)

    stage.play(steps())
    assert answers[0]["text"].endswith("; state_dir and control_socket take effect at the next start")


# -- a check


def lines_of(answer: dict[str, Any]) -> list[str]:
    return [f"{one['verdict']}: {one['text']}" for one in answer["check"]["lines"]]


def test_a_check_is_answered_with_what_the_daemon_sees_and_may_do(stage: Stage) -> None:
    answers: list[dict[str, Any]] = []

    def steps() -> Iterator[object]:
        yield from seconds(10)
        for _ in range(2):
            asked = stage.ask("check")
            yield from asked.wait()
            answers.append(asked.answer)

    stage.play(steps())
    first, second = answers
    assert first == second
    assert (first["exit"], first["check"]["pid"], first["check"]["changed"]) == (0, os.getpid(), False)
    assert lines_of(first) == [
        "ok: main: 10.0.0.1:27017: up, serving",
        f"ok: shop: master {stage.master.id.pid}, {len(stage.workers)} workers",
        "ok: state: it can be saved",
    ]


def test_a_check_waits_until_members_were_heard_of_and_the_loop_goes_on(stage: Stage) -> None:
    def steps() -> Iterator[object]:
        yield from seconds(1)
        asked = stage.ask("check")
        began = stage.host.clock.now
        for _ in range(40):
            yield from seconds(1)
            if stage.host.clock.now >= began + 4:
                break
            assert not asked.is_there()
        status = stage.ask("status")
        yield from status.wait()
        yield from asked.wait()
        assert asked.answer["exit"] == 0
        assert stage.host.clock.now < began + 10

    stage.play(steps())


def test_a_check_saves_the_state_though_nothing_has_changed_and_what_it_finds_stays_told(stage: Stage) -> None:
    def steps() -> Iterator[object]:
        yield from seconds(10)
        (stage.folder / "state" / "state.json.new").mkdir()
        yield from seconds(5)
        assert stage.scopes(Event.BLIND) == []
        asked = stage.ask("check")
        yield from asked.wait()
        assert asked.answer["exit"] == 1
        assert any(line.startswith("problem: state: ") for line in lines_of(asked.answer))
        yield from seconds(5)
        assert (stage.scopes(Event.BLIND), stage.scopes(Event.SEEING_AGAIN)) == (["state"], [])
        (stage.folder / "state" / "state.json.new").rmdir()
        yield from seconds(3)

    stage.play(steps())
    assert stage.scopes(Event.BLIND) == stage.scopes(Event.SEEING_AGAIN) == ["state"]


def test_a_check_that_fails_is_answered_so_and_ends_no_tick(stage: Stage) -> None:
    def steps() -> Iterator[object]:
        yield from seconds(10)
        stage.host.spied["uwsgi"].broken.add("discover")
        asked = stage.ask("check")
        yield from asked.wait()
        assert (asked.answer["ok"], asked.answer["exit"]) == (False, 1)
        assert "internal error" in asked.answer["text"]
        pings = stage.notifications().count("WATCHDOG=1")
        yield from seconds(3)
        assert stage.notifications().count("WATCHDOG=1") >= pings + 3

    stage.play(steps())
    assert stage.scopes(Event.BLIND) == []


def test_a_check_reads_the_file_and_puts_nothing_of_it_in_force(stage: Stage) -> None:
    def steps() -> Iterator[object]:
        yield from seconds(10)
        stage.loaded.append(replace(stage.config, mode=Mode.OBSERVE))
        asked = stage.ask("check")
        yield from asked.wait()
        assert asked.answer["check"]["changed"]
        assert "has changed since the service read it" in lines_of(asked.answer)[-1]

    daemon = stage.play(steps())
    assert daemon.config is stage.config
    assert stage.events(Event.CONFIG_RELOADED, Event.CONFIG_REJECTED) == []


def test_a_check_of_a_pause_and_of_a_master_that_is_gone_is_not_well(stage: Stage) -> None:
    def steps() -> Iterator[object]:
        yield from seconds(10)
        asked = stage.ask("pause", for_s=60.0, reason="deploy")
        yield from asked.wait()
        stage.host.processes.end(stage.master)
        yield from seconds(12)
        asked = stage.ask("check")
        yield from asked.wait()
        problems = [line for line in lines_of(asked.answer) if line.startswith("problem: ")]
        assert [one.split()[1] for one in problems] == ["shop:", "paused"]
        assert problems[0].startswith("problem: shop: absent: no process has ")

    stage.play(steps())


# -- waking and leaving


def test_sigterm_leaves_the_loop_at_once(stage: Stage) -> None:
    def steps() -> Iterator[object]:
        yield from seconds(5)

    stage.play(steps())
    begun = stage.host.clock.now
    stage.play(iter(()))  # the signal comes in the first wait
    assert stage.host.clock.now - begun < 1
    assert stage.notifications()[-1] == "STOPPING=1"
    assert stage.events()[-1] == "stopping"


def test_news_of_a_member_wakes_the_loop_before_the_interval_is_over(stage: Stage) -> None:
    def steps() -> Iterator[object]:
        yield from seconds(5)
        begun = stage.host.clock.now
        stage.host.stop_mongod()
        yield from stage.until(lambda: Event.MEMBER_DOWN.value in stage.events())
        assert stage.host.clock.now == begun

    stage.play(steps())


def test_without_news_a_tick_comes_at_each_interval(stage: Stage) -> None:
    stage.config = replace(stage.config, interval_s=2.0)

    def steps() -> Iterator[object]:
        yield from seconds(10)

    stage.play(steps())
    assert stage.selector.waits[-3] == pytest.approx(2.0)


def test_the_ping_is_never_later_than_systemd_wants_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    stage.config = replace(stage.config, interval_s=60.0)

    def steps() -> Iterator[object]:
        yield from seconds(10)

    stage.play(steps())
    assert max(stage.selector.waits) == pytest.approx(15.0)


def test_it_wakes_when_the_decision_wants_it_before_the_interval_is_over(stage: Stage) -> None:
    stage.config = replace(stage.config, interval_s=30.0)

    def steps() -> Iterator[object]:
        yield from stage.break_the_app()
        yield from stage.until(stage.in_fifo)

    stage.play(steps())
    assert stage.written() == "w"
    assert any(0 < wait < 29 for wait in stage.selector.waits)


# -- the whole of it


def test_a_reload_is_followed_to_its_proof_over_a_restart_of_the_daemon(stage: Stage) -> None:
    def until_sent() -> Iterator[object]:
        yield from stage.break_the_app()
        yield from stage.until(stage.in_fifo)

    def until_recovered() -> Iterator[object]:
        yield from seconds(2)
        for worker in stage.workers:
            stage.host.processes.end(worker)
        new: list[FakeProcess] = [stage.host.processes.fork(stage.master) for _ in range(2)]
        yield from stage.until(lambda: Event.RELOADED.value in stage.events())
        for worker in new:
            worker.io += 1000
            stage.host.connect(worker)
        yield from stage.until(lambda: Event.RECOVERED.value in stage.events())

    stage.play(until_sent())
    assert stage.written() == "w"
    daemon = stage.play(until_recovered())
    assert stage.written() == ""
    assert phase(daemon) is Phase.WATCHING
    last = remembered(daemon.state).last
    assert last is not None
    assert (last.command, last.outcome, last.proven) == (WORKERS, ReloadOutcome.RECOVERED, True)
