import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rig import fetch, packets, wire
from rig.hang import BESIDE, HANG, Hang
from rig.mongod import Mongod, ReplicaSet
from rig.netns import Namespace
from rig.processes import DeadlineError, EndedError, Process, all_pids, stat_fields, wait_for
from rig.traffic import Traffic
from rig.uwsgi import LOADING, App, Front, StuckFromBootError, Uwsgi, by_greenlets, hung_by_fork

OUTAGE_S = 9.0

story = pytest.mark.story
long = pytest.mark.timeout(180)


def alive(pid: int) -> bool:
    fields = stat_fields(pid)
    return fields is not None and fields[0] != "Z"


def session_of(leader: int) -> list[int]:
    return [pid for pid in all_pids() if (fields := stat_fields(pid)) and int(fields[3]) == leader and alive(pid)]


@contextmanager
def shop(folder: Path, **settings: object) -> Iterator[tuple[Mongod, Uwsgi, Traffic]]:
    """A mongod, an app on it, and people who use it."""
    with ExitStack() as stack:
        mongod = stack.enter_context(Mongod(folder / "mongod"))
        app = stack.enter_context(Uwsgi(folder / "app", mongod.uri, **settings))  # type: ignore[arg-type]
        yield mongod, app, stack.enter_context(Traffic(app.address))


def outage(mongod: Mongod) -> float:
    """When mongod was back, after a clean shutdown and the length of time that strands a prefork client."""
    mongod.stop()
    time.sleep(OUTAGE_S)
    mongod.start()
    return time.monotonic()


def test_a_restarted_mongod_answers_on_its_port_with_another_process_id(tmp_path: Path) -> None:
    with Mongod(tmp_path) as mongod:
        first, pid = mongod.process_id(), mongod.pid
        mongod.stop()
        assert not mongod.running
        assert not mongod.answers()
        mongod.start()
        assert mongod.process_id() not in {None, first}
        assert mongod.pid != pid


def test_a_killed_mongod_starts_again(tmp_path: Path) -> None:
    with Mongod(tmp_path) as mongod:
        first = mongod.process_id()
        mongod.kill()
        assert not mongod.answers()
        mongod.start()
        assert mongod.process_id() != first


def test_a_frozen_mongod_accepts_and_does_not_answer(tmp_path: Path) -> None:
    with Mongod(tmp_path) as mongod:
        first = mongod.process_id()
        mongod.freeze()
        with pytest.raises(TimeoutError):
            wire.hello(mongod.address, within=0.5)
        mongod.thaw()
        wait_for(mongod.answers, "an answer after the thaw", within=10)
        assert mongod.process_id() == first


@pytest.mark.parametrize("version", [version for version in fetch.MONGODS if version != fetch.DEFAULT_MONGOD])
def test_older_mongods_answer_and_only_4_2_has_no_process_id(version: str, tmp_path: Path) -> None:
    with Mongod(tmp_path, version=version) as mongod:
        assert mongod.command("buildInfo")["version"] == version
        assert (mongod.process_id() is None) == version.startswith("4.2.")


def test_a_replica_set_elects_another_primary(tmp_path: Path) -> None:
    with ReplicaSet(tmp_path) as replica_set:
        first = replica_set.wait_primary()
        assert len(replica_set.secondaries()) == 2
        second = replica_set.step_down()
        assert second is not first
        replica_set.wait_secondaries(2)
        second.kill()
        assert replica_set.wait_primary(other_than=second) is not second


@pytest.mark.parametrize("front", list(Front))
def test_an_app_is_asked_by_whatever_socket_it_has(front: Front, tmp_path: Path) -> None:
    with Uwsgi(tmp_path, app=App.NO_CLIENT, front=front, processes=1) as app:
        answer = app.get("/healthz?hold=0.01")
        assert answer.good
        assert [answer.worker] == app.ready_workers()
        assert app.get("/nowhere").status == 404


def test_workers_are_replaced_by_w_and_the_master_stays(tmp_path: Path) -> None:
    with Uwsgi(tmp_path, app=App.NO_CLIENT) as app:
        master, old = app.master, app.ready_workers()
        assert len(old) == 3
        assert {app.get("/healthz").worker, app.get().worker} <= set(old)
        app.send(b"w")
        new = app.wait_ready(other_than=old)
        assert len(new) == 3
        assert app.master == master
        assert app.get().worker in new


def test_r_executes_the_master_anew_in_its_place(tmp_path: Path) -> None:
    with Uwsgi(tmp_path, app=App.NO_CLIENT, version="2.0.26") as app:
        master, old = app.master, app.ready_workers()
        app.send(b"r")
        assert app.wait_ready(other_than=old)
        assert app.master == master
        assert app.get().good


def test_an_instance_whose_master_does_not_read_the_fifo_at_the_path_is_not_ready(tmp_path: Path) -> None:
    with Uwsgi(tmp_path, app=App.NO_CLIENT, processes=1) as app:
        app.fifo.unlink()
        os.mkfifo(app.fifo)
        with pytest.raises(DeadlineError):
            app.wait_ready(within=0.5)
        os.kill(app.master, signal.SIGHUP)  # it makes its own
        assert app.wait_ready(other_than=app.workers())


def test_with_all_others_busy_every_request_reaches_the_worker_that_is_left(tmp_path: Path) -> None:
    with Uwsgi(tmp_path, app=App.NO_CLIENT) as app, app.busy(2) as busy:
        (left,) = set(app.ready_workers()) - set(busy)
        assert {app.get().worker for _ in range(5)} == {left}


def test_a_loading_worker_is_not_yet_a_ready_one(tmp_path: Path) -> None:
    with shop(tmp_path, lazy_apps=True, import_pause_s=1, processes=1) as (_, app, _):
        (old,) = app.ready_workers()
        app.send(b"w")
        (loading,) = wait_for(lambda: set(app.workers()) - {old}, "a new worker", within=10)
        assert app.ready_workers() == []
        assert app.wait_ready(other_than=[old]) == [loading]


@pytest.mark.parametrize("beside", [False, True], ids=["an app of its own", "beside another app"])
def test_a_worker_hangs_since_its_fork_when_a_test_wants_one(beside: bool, tmp_path: Path) -> None:
    how: dict[str, Any] = {"extra": BESIDE} if beside else {"wsgi_file": HANG}
    with Hang(tmp_path) as hang, Uwsgi(tmp_path, app=App.NO_CLIENT, warm=False, **how) as app:
        others = app.ready_workers()[:-1]
        hung = hang.worker_of(app)
        assert hung_by_fork(app.master) == []  # it might be loading still
        wait_for(lambda: hung_by_fork(app.master) == [hung], "it is old, and still not ready", within=10)
        assert app.ready_workers() == others
        assert {app.get().worker for _ in range(5)} <= set(others)
        assert app.wait_ready(other_than=[hung])[:2] == others  # which ends it


def test_first_workers_hang_when_a_test_wants_them(tmp_path: Path) -> None:
    with Hang(tmp_path) as hang, ExitStack() as stack:
        app = Uwsgi(tmp_path, app=App.NO_CLIENT, wsgi_file=HANG, processes=4)
        stack.callback(app.kill)
        hung = hang.first_of(app)
        wait_for(lambda: hung_by_fork(app.master) == hung, "they are old, and still not ready", within=20)
        others = app.ready_workers()
        hang.let_go()
        assert set(app.wait_ready()) - set(hung) >= set(others)


def test_an_app_without_its_mongod_is_stuck_from_boot_and_leaves_nothing(tmp_path: Path) -> None:
    app = Uwsgi(tmp_path, "mongodb://127.0.0.1:9/", app=App.FIRST_REQUEST, selection_ms=100, processes=1)
    with pytest.raises(StuckFromBootError, match="ServerSelectionTimeoutError"):
        app.start()
    assert not app.running


def test_a_failed_start_is_an_error_with_the_last_lines_of_the_log(tmp_path: Path) -> None:
    app = Uwsgi(tmp_path, app=App.NO_CLIENT, extra=["no-such-option = 1"])
    with pytest.raises(EndedError, match=r"uwsgi\.log: .*no-such-option"):
        app.start()
    assert not app.running


def test_every_process_is_gone_at_the_end_also_when_the_test_fails(tmp_path: Path) -> None:
    leaders: list[int] = []

    def fail() -> None:
        with shop(tmp_path) as (mongod, app, _):
            leaders.extend([mongod.pid, app.master])
            assert len(session_of(app.master)) == 4
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [session_of(leader) for leader in leaders] == [[], []]


def test_every_process_is_gone_when_the_test_process_is_killed(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time; from rig.uwsgi import App, Uwsgi\n"
        "app = Uwsgi(pathlib.Path(sys.argv[1]), app=App.NO_CLIENT); app.start()\n"
        "print(app.master, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        master = int(other.stdout.readline())
        assert len(session_of(master)) == 4
        other.kill()
    wait_for(lambda: not session_of(master), "the end of what the killed process had started", within=10)


def test_a_process_that_ignores_its_end_is_killed_with_its_children(tmp_path: Path) -> None:
    deaf = "trap '' TERM; sleep 60 & echo ready; wait; wait"
    process = Process(["sh", "-c", deaf], log=tmp_path / "log")
    process.start()
    pid = process.pid
    process.wait_until(lambda: "ready" in (tmp_path / "log").read_text(), "it is deaf", within=10)
    assert len(session_of(pid)) == 2
    assert process.end(grace=0.1) == -9
    assert session_of(pid) == []


@pytest.mark.netns
def test_a_private_namespace_has_its_own_loopback_and_settings(tmp_path: Path) -> None:
    keepalive = Path("/proc/sys/net/ipv4/tcp_keepalive_time")
    with Namespace() as namespace, Mongod(tmp_path) as outside, ExitStack() as stack:
        with namespace.entered():
            inside = stack.enter_context(Mongod(tmp_path / "inside", port=outside.port))
        outer = outside.process_id()
        namespace.sysctl("net.ipv4.tcp_keepalive_time", 7)
        assert keepalive.read_text().strip() != "7"
        with namespace.entered():
            assert keepalive.read_text().strip() == "7"
            assert inside.process_id() not in {None, outer}
        inside.kill()
        assert outside.process_id() == outer


@pytest.mark.netns
def test_a_namespace_that_is_cut_off_says_nothing_until_the_cut_ends() -> None:
    here, there = "198.18.77.2", "198.18.77.1"
    with Namespace() as near, Namespace() as far, ExitStack() as stack:
        near.cable_to(far, f"{here}/30", f"{there}/30")
        with far.entered():
            server = stack.enter_context(socket.create_server((there, 0)))
        address = server.getsockname()
        with near.entered():
            client = stack.enter_context(socket.create_connection(address, timeout=10))
            far_end = stack.enter_context(server.accept()[0])
            with ExitStack() as cut:
                with far.entered():
                    cut.enter_context(packets.cut())
                client.sendall(b"there?")
                far_end.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    far_end.recv(6)
                with pytest.raises(TimeoutError):
                    socket.create_connection(address, timeout=0.5)
                with far.entered():
                    cut.close()
            far_end.settimeout(20)
            assert far_end.recv(6) == b"there?"


@pytest.mark.parametrize("how", ["sleeping", "computing", "connecting"])
def test_an_app_that_takes_its_time_to_load_is_not_ready_before(how: str, tmp_path: Path) -> None:
    loads_s = 2.0
    settings: dict[str, Any] = {"wsgi_file": LOADING, "extra": [f"pyargv = {how} {loads_s}"], "lazy_apps": True}
    app = Uwsgi(tmp_path, app=App.NO_CLIENT, processes=1, **settings)
    with ExitStack() as stack:
        stack.callback(app.kill)
        begun = time.monotonic()
        app.launch()
        app.wait_ready()
        assert time.monotonic() - begun >= loads_s
        assert app.get().good


def test_gevent_serves_requests_at_the_same_time_in_one_worker(tmp_path: Path) -> None:
    with Uwsgi(tmp_path, app=App.NO_CLIENT, processes=1, extra=by_greenlets(8)) as app:
        begun = time.monotonic()
        assert all(one.good for one in app.get_many(8, "/?hold=0.5"))
        assert time.monotonic() - begun < 8 * 0.5


@story
@long
@pytest.mark.parametrize("pymongo", ["4.14.1", "3.13.0"])
def test_a_client_made_before_fork_is_stuck_until_its_workers_are_reloaded(pymongo: str, tmp_path: Path) -> None:
    with shop(tmp_path, pymongo=pymongo) as (mongod, app, traffic):
        wait_for(lambda: traffic.all_good_for(2), "good requests before the outage", within=10)
        back = outage(mongod)
        time.sleep(15)  # longer than the driver's 10 s: what could heal by itself has healed
        assert traffic.good_since(back) == []
        assert len(traffic.failed_between(back, time.monotonic())) >= 5

        old = app.workers()
        app.send(b"w")
        app.wait_ready(other_than=old)
        wait_for(lambda: traffic.all_good_for(5), "only good requests for 5 s", within=20)
        assert {request.worker for request in traffic.good_since(back)}.isdisjoint(old)


@story
@long
def test_a_client_made_after_fork_heals_by_itself(tmp_path: Path) -> None:
    with shop(tmp_path, lazy_apps=True) as (mongod, app, traffic):
        workers = app.workers()
        back = outage(mongod)
        wait_for(lambda: traffic.all_good_for(5), "only good requests for 5 s", within=20)
        assert traffic.good_since(back)[0].sent_at < back + 10
        assert app.workers() == workers


@story
@long
def test_one_stranded_worker_among_good_ones_is_cured_by_a_chain_reload(tmp_path: Path) -> None:
    with shop(tmp_path) as (mongod, app, traffic):
        with app.busy(2) as spared:
            (stranded,) = set(app.workers()) - set(spared)
            back = outage(mongod)
        time.sleep(15)
        assert {request.worker for request in traffic.good_since(back)} == set(spared)
        assert {request.worker for request in traffic.failed_between(back, time.monotonic())} >= {stranded}

        old = app.workers()
        app.send(b"c")
        app.wait_ready(other_than=old, within=40)
        wait_for(lambda: traffic.all_good_for(5), "only good requests for 5 s", within=20)


@story
@long
def test_without_threads_in_the_master_only_a_restart_of_the_stack_heals(tmp_path: Path) -> None:
    with shop(tmp_path, version="2.0.26") as (mongod, app, traffic):
        back = outage(mongod)
        time.sleep(15)
        assert traffic.good_since(back) == []

        old = app.workers()
        app.send(b"w")
        wait_for(lambda: not set(app.workers()) & set(old), "the end of the old workers", within=20)
        time.sleep(5)
        assert app.ready_workers() == []  # the new ones wait for the GIL, which the master's thread had asked for
        assert traffic.good_since(back) == []

        app.send(b"r")
        app.wait_ready(other_than=old, within=40)
        wait_for(lambda: traffic.all_good_for(5), "only good requests for 5 s", within=30)
