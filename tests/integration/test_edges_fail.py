"""The Observer on the real kernel and a real uWSGI, where an edge gives nothing: blind there, and nowhere else."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rig import fetch
from rig.mongod import Mongod
from rig.netns import Namespace, NamespaceError
from rig.processes import wait_for
from rig.uwsgi import App, Uwsgi
from tests.world.host import config_of
from watchdogd.core import detect as detecting
from watchdogd.core.detect import detect
from watchdogd.core.instance import Tick
from watchdogd.core.look import Look
from watchdogd.core.tick import decide
from watchdogd.model.base import Endpoint, ProcessId
from watchdogd.model.decided import Decision, Outlook
from watchdogd.model.found import Finding
from watchdogd.model.remembered import Phase, State
from watchdogd.model.seen import Backend, Blind, Connection, Instance, Snapshot, SocketsFrom, Tcp
from watchdogd.model.told import Event, Tell
from watchdogd.observe.observer import Edges, Observer, open_edges
from watchdogd.observe.processes import Process, ProcProcesses
from watchdogd.observe.tcp.sockets import SockDiag

WITHIN_S = 30.0


@pytest.fixture
def at_end() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def edges(at_end: ExitStack) -> Edges:
    real = open_edges(lambda: None)
    at_end.callback(real.heartbeats.close)
    at_end.callback(real.sockets.close)
    return real


def watching(edges: Edges, mongod: Mongod, *apps: Uwsgi) -> Observer:
    """An observer that has heard of its member."""
    observer = Observer(config_of(*(str(app.fifo) for app in apps), uri=mongod.uri), edges)
    wait_for(lambda: observer.look(full=False).members and not observer.unheard(), "mongod is known", within=WITHIN_S)
    return observer


def instance(snapshot: Snapshot, name: str) -> Instance:
    return next(one for one in snapshot.instances if one.name == name)


def held_by(snapshot: Snapshot, app: Uwsgi) -> list[Connection]:
    pids = {app.master, *app.workers()}
    return [one for one in snapshot.connections if pids & {holder.pid for holder in one.holders}]


def quick(folder: Path, uri: str, version: str = fetch.DEFAULT_UWSGI) -> Uwsgi:
    settings: dict[str, Any] = {"app": App.FIRST_REQUEST, "processes": 2, "heartbeat_ms": 1000, "selection_ms": 1000}
    return Uwsgi(folder, uri, version=version, **settings)


def test_a_netlink_socket_that_is_lost_is_opened_again(edges: Edges, at_end: ExitStack, tmp_path: Path) -> None:
    assert isinstance(edges.sockets, SockDiag)
    mongod = at_end.enter_context(Mongod(tmp_path / "mongod"))
    app = at_end.enter_context(quick(tmp_path / "shop", mongod.uri))
    observer = watching(edges, mongod, app)
    before = {one.cookie for one in held_by(observer.look(full=True), app)}
    assert len(before) >= len(app.workers())
    netlink: Any = edges.sockets._netlink  # noqa: SLF001 - what a bug, or a seccomp filter, could do to it
    netlink.close()
    blind = observer.look(full=True)
    assert [str(one.scope) for one in blind.blind] == ["sockets"]
    assert {one.tcp for one in held_by(blind, app)} == {Tcp.ESTABLISHED}  # what is not read is not gone
    again = observer.look(full=True)
    assert again.blind == ()
    assert before & {one.cookie for one in held_by(again, app)}


def test_a_master_that_vanishes_between_two_looks_makes_nobody_blind(
    edges: Edges, at_end: ExitStack, tmp_path: Path
) -> None:
    mongod = at_end.enter_context(Mongod(tmp_path / "mongod"))
    shop = at_end.enter_context(quick(tmp_path / "shop", mongod.uri))
    blog = at_end.enter_context(quick(tmp_path / "blog", mongod.uri))
    observer = watching(edges, mongod, shop, blog)
    assert held_by(observer.look(full=True), shop)
    shop.kill()
    seen = observer.look(full=True)
    assert (instance(seen, "shop").master, instance(seen, "shop").blind, seen.blind) == (None, (), ())
    assert held_by(seen, blog)
    assert {holder.pid for one in seen.connections for holder in one.holders} <= {blog.master, *blog.workers()}


@pytest.mark.netns
def test_an_instance_in_another_namespace_is_read_there_and_forgotten_with_its_end(
    edges: Edges, at_end: ExitStack, tmp_path: Path
) -> None:
    """Both have a mongod on the same loopback address and port: a row of one must not pass for the other's."""
    try:
        namespace = at_end.enter_context(Namespace())
    except NamespaceError as error:
        pytest.skip(str(error))
    mongod = at_end.enter_context(Mongod(tmp_path / "mongod"))
    near = at_end.enter_context(quick(tmp_path / "near", mongod.uri))
    with namespace.entered():
        twin = at_end.enter_context(Mongod(tmp_path / "twin", port=mongod.port))
        # Without threads a driver closes what has ended when it is used next: not here.
        far = at_end.enter_context(quick(tmp_path / "far", twin.uri, "2.0.26"))
    observer = watching(edges, mongod, near, far)
    seen = observer.look(full=True)
    assert seen.blind == ()
    for app in (near, far):
        assert {worker for one in held_by(seen, app) for worker in one.holders} == {
            worker.id for worker in instance(seen, app.folder.name).workers
        }
    assert all(one.cookie >= 2**64 for one in held_by(seen, far))
    assert all(one.cookie < 2**64 for one in held_by(seen, near))
    assert {one.remote for one in seen.connections} == {Endpoint(*mongod.address)}
    assert (seen.sockets, instance(seen, "near").sockets) == (SocketsFrom(Backend.SOCK_DIAG), None)
    sockets = instance(seen, "far").sockets
    assert sockets is not None
    assert sockets.backend is Backend.PROC
    assert "lives in another network namespace, and SOCK_DIAG shows the daemon's own alone" in sockets.why
    with namespace.entered():
        twin.stop()
    wait_for(lambda: ended(observer, far), "the end of the far connections is seen", within=WITHIN_S)
    assert {one.tcp for one in held_by(observer.look(full=True), near)} == {Tcp.ESTABLISHED}
    far.kill()
    after = observer.look(full=True)
    assert held_by(after, near)
    assert not any(one.cookie >= 2**64 for one in after.connections)


def ended(observer: Observer, app: Uwsgi) -> bool:
    """By looks that are not asked to be full: the CLOSE_WAIT in the other namespace makes them so."""
    return {one.tcp for one in held_by(observer.look(full=False), app)} == {Tcp.CLOSE_WAIT}


@pytest.mark.netns
def test_a_namespace_whose_table_cannot_be_read_blinds_its_instance_alone(
    edges: Edges, at_end: ExitStack, tmp_path: Path
) -> None:
    try:
        namespace = at_end.enter_context(Namespace())
    except NamespaceError as error:
        pytest.skip(str(error))
    mongod = at_end.enter_context(Mongod(tmp_path / "mongod"))
    near = at_end.enter_context(quick(tmp_path / "near", mongod.uri))
    with namespace.entered():
        far = at_end.enter_context(Uwsgi(tmp_path / "far", app=App.NO_CLIENT, processes=1))
    gone = 2**22 + 1  # above pid_max: /proc has no such process
    blinded = replace(edges, foreign=lambda _: edges.foreign(gone))
    observer = watching(blinded, mongod, near, far)
    seen = observer.look(full=True)
    assert instance(seen, "far").blind[0].startswith(f"/proc/{gone}/net/tcp cannot be read")
    assert (instance(seen, "near").blind, seen.blind) == ((), ())
    assert held_by(seen, near)


@pytest.mark.parametrize("where", ["reading", "finding", "deciding"])
def test_a_bug_that_shows_with_one_real_instance_leaves_the_other_one_decided(
    edges: Edges, at_end: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    mongod = at_end.enter_context(Mongod(tmp_path / "mongod"))
    shop, blog = (at_end.enter_context(quick(tmp_path / name, mongod.uri)) for name in ("shop", "blog"))
    observer = watching(edges, mongod, shop, blog)
    config = config_of(str(shop.fifo), str(blog.fifo), uri=mongod.uri)

    def tick(state: State) -> tuple[Snapshot, Decision]:
        snapshot = observer.look(full=True)
        return snapshot, decide(state, detect(snapshot, config), snapshot, config)

    def whole() -> bool:
        return [len(one.workers) for one in observer.look(full=True).instances if not one.blind] == [2, 2]

    wait_for(whole, "both are seen", within=WITHIN_S)
    processes, finding, deciding = ProcProcesses.of, detecting.finding, Tick.run

    def of_shop(master: int) -> None:
        if master == shop.master:
            raise ZeroDivisionError(where)

    def read(edge: ProcProcesses, master: ProcessId) -> tuple[Process, ...] | Blind:
        of_shop(master.pid)
        return processes(edge, master)

    def find(look: Look) -> Finding:
        of_shop(look.instance.master.pid if look.instance.master else 0)
        return finding(look)

    def decided(tick: Tick) -> Outlook:
        of_shop(tick.case.instance.master.pid if tick.case.instance.master else 0)
        return deciding(tick)

    with monkeypatch.context() as patch:
        if where == "reading":
            patch.setattr(ProcProcesses, "of", read)
        elif where == "finding":
            patch.setattr(detecting, "finding", find)
        else:
            patch.setattr(Tick, "run", decided)
        snapshot, decision = tick(State())
        assert len(instance(snapshot, "blog").workers) == 2
        assert decision.outlooks[instance(snapshot, "blog").id].phase is Phase.WATCHING
        told = [one for one in decision.effects if isinstance(one, Tell)]
        assert [(one.event, one.fields["scope"]) for one in told] == [(Event.BLIND, "instance shop")]
        assert "internal error in " in str(told[0].fields["reason"])
        assert not tick(decision.state)[1].effects, "it is told once"
    assert [one.event for one in tick(decision.state)[1].effects if isinstance(one, Tell)] == [Event.SEEING_AGAIN]
