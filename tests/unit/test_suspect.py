"""Observer.look on the fakes: what it reads of an instance only while that is suspected."""

import pytest

from tests.world.host import FIFO, Host, Watcher, config_of
from tests.world.pieces import SHOP_ID
from tests.world.processes import FakeProcess
from watchdogd.model.base import Endpoint
from watchdogd.model.seen import DeadSocket, Instance, Mule, Role, Snapshot, Waits, Worker
from watchdogd.observe.dead import EVERY_S
from watchdogd.observe.suspect import OFF_LOOKS, MasterThreads

BLOG = "/run/uwsgi/app/blog/fifo"
DEEP = {"threads", "accepted"}


class Suspicion:
    """An instance with two workers, and an observer that is told to suspect it."""

    def __init__(self) -> None:
        self.host = Host()
        self.host.start_mongod()
        self.master, self.workers = self.host.app()
        self.other, _ = self.host.app(BLOG)
        self.observer = Watcher(self.host, config_of(FIFO, BLOG)).observer
        self.seen = Snapshot(0.0, 0.0)
        self.look(4, suspected=False)

    def look(self, times: int = 1, *, suspected: bool = True) -> Snapshot:
        for _ in range(times):
            self.host.pass_time(1.0)
            for worker in self.workers:
                worker.threads = {one: n if n is None else n + 2 for one, n in worker.threads.items()}
            self.seen = self.observer.look(full=False, suspected=[SHOP_ID] if suspected else ())
        return self.seen

    def instance(self, fifo: str = FIFO) -> Instance:
        return next(one for one in self.seen.instances if one.fifo == fifo)

    def worker(self, which: FakeProcess) -> Worker:
        return next(one for one in self.instance().workers if one.id == which.id)

    def waits(self, which: FakeProcess) -> Waits:
        waits = self.worker(which).waits
        assert waits is not None
        return waits

    def waits_for_a_server(self, worker: FakeProcess) -> int:
        """It takes a request that finds no server; returns the connection's inode."""
        socket = self.host.sockets.accept()
        worker.holds(socket.inode)
        worker.threads[0] = 1000
        return socket.inode

    def calls(self) -> set[str]:
        return {call.name for edge in ("processes", "sockets") for call in self.host.spied[edge].calls}


@pytest.fixture
def suspicion() -> Suspicion:
    return Suspicion()


def test_at_rest_nothing_of_it_is_read(suspicion: Suspicion) -> None:
    suspicion.look(30, suspected=False)
    assert not suspicion.calls() & DEEP
    assert all((one.waits, one.threads) == (None, None) for one in suspicion.instance().workers)
    assert not any(one.single for one in suspicion.instance().workers)


def test_a_request_of_a_suspected_instance_is_seen_to_wait(suspicion: Suspicion) -> None:
    stuck, well = suspicion.workers
    suspicion.look()
    suspicion.waits_for_a_server(stuck)
    suspicion.look(4)
    assert (suspicion.waits(stuck).present, suspicion.waits(stuck).longest_s) == (1, 3.0)
    assert suspicion.waits(well).requests == ()
    assert [one.single for one in suspicion.instance().workers] == [True, True]
    assert suspicion.instance().unseen == ""


def test_others_are_not_read_for_it(suspicion: Suspicion) -> None:
    suspicion.look(2)
    asked = {call.arguments[0] for call in suspicion.host.spied["processes"].calls if call.name == "threads"}
    assert asked == {suspicion.master.id.pid, *(one.id.pid for one in suspicion.workers)}
    assert all(one.waits is None for one in suspicion.instance(BLOG).workers)


def test_a_worker_that_waits_for_requests_is_not_asked_what_it_holds(suspicion: Suspicion) -> None:
    suspicion.look()
    before = len([one for one in suspicion.host.spied["processes"].calls if one.name == "descriptors"])
    suspicion.look(4)
    assert len([one for one in suspicion.host.spied["processes"].calls if one.name == "descriptors"]) == before


def test_a_task_of_a_mule_is_seen_to_wait_by_its_only_thread(suspicion: Suspicion) -> None:
    mule = suspicion.host.processes.fork(suspicion.master, Role.MULE)
    suspicion.workers.append(mule)  # its threads switch as theirs

    def seen() -> Mule:
        (one,) = suspicion.instance().mules
        return one

    suspicion.look(4)
    assert ((seen().waits or Waits(0, 0)).requests, seen().waited, seen().threads) == ((), False, 1)
    mule.threads = {0: 1000}
    suspicion.look(4)
    waits = seen().waits
    assert waits
    assert (waits.present, waits.longest_s, seen().waited) == (1, 3.0, True)
    assert "descriptors" not in {call.name for call in suspicion.host.spied["processes"].calls[-8:]}
    mule.threads = {0: None}
    suspicion.look(70)
    assert (seen().waits or Waits(0, 0)).requests == ()
    assert seen().waited  # whoever waited uses MongoDB, for as long as it is suspected

    mule.threads = {0: 1000, 1: None}
    suspicion.look(suspected=False)
    suspicion.look(5)
    assert not seen().waited  # with more threads nobody can see which one does the task


def test_when_it_is_no_longer_suspected_what_was_seen_is_forgotten_at_once(suspicion: Suspicion) -> None:
    suspicion.look()
    suspicion.waits_for_a_server(suspicion.workers[0])
    suspicion.look(3)
    assert suspicion.waits(suspicion.workers[0]).requests
    suspicion.look(suspected=False)
    assert suspicion.worker(suspicion.workers[0]).waits is None
    suspicion.look()
    assert suspicion.waits(suspicion.workers[0]).requests == ()


def test_a_connection_to_a_member_is_no_request(suspicion: Suspicion) -> None:
    (stuck, _) = suspicion.workers
    suspicion.host.connect(stuck)
    stuck.threads[0] = 1000
    suspicion.look(4)
    assert suspicion.waits(stuck).requests == ()


def test_what_a_worker_sends_to_mongodb_meanwhile_says_that_it_found_it(suspicion: Suspicion) -> None:
    (worker, _) = suspicion.workers
    own = suspicion.host.connect(worker)
    suspicion.look()
    suspicion.waits_for_a_server(worker)
    for _ in range(4):
        own.sends()
        suspicion.look()
    assert suspicion.waits(worker).requests == ()
    suspicion.look()
    assert suspicion.waits(worker).requests


def test_a_worker_with_a_monitor_is_not_single(suspicion: Suspicion) -> None:
    suspicion.workers[0].threads[1] = None
    suspicion.look()
    assert [(one.threads, one.single) for one in suspicion.instance().workers] == [(2, False), (1, True)]


def test_where_it_may_not_be_read_that_is_said_and_blocks_nothing(suspicion: Suspicion) -> None:
    suspicion.look()
    suspicion.waits_for_a_server(suspicion.workers[0])
    suspicion.look()
    suspicion.host.sockets.blind = "no netlink"
    suspicion.look()
    assert suspicion.instance().unseen == "no netlink"
    assert suspicion.instance().blind == ()
    assert suspicion.worker(suspicion.workers[0]).waits is None
    assert suspicion.waits(suspicion.workers[1]).requests == ()
    suspicion.host.sockets.blind = None
    suspicion.look(2)
    assert suspicion.instance().unseen == ""
    suspicion.workers[1].refused = "no right"
    suspicion.look()
    assert suspicion.instance().unseen == "no right"


def test_a_dead_socket_that_several_hold_and_that_nobody_saw_alive_is_shown(suspicion: Suspicion) -> None:
    host, (one, other) = suspicion.host, suspicion.workers
    dead, alive, alone = [host.sockets.connect(Endpoint("10.0.0.99", 6379)) for _ in range(3)]
    for socket in (dead, alive):
        one.holds(socket.inode)
        other.holds(socket.inode)
    one.holds(alone.inode)
    dead.dead = alone.dead = True
    suspicion.look()
    since = host.clock.now
    assert suspicion.instance().dead == ()  # it may be about to be closed
    suspicion.look(5)
    assert suspicion.instance().dead == (DeadSocket(dead.inode, since, frozenset({one.id, other.id})),)
    one.lets_go(dead.inode)
    suspicion.look(5)
    assert suspicion.instance().dead == ()


def test_a_dead_socket_that_was_seen_to_lead_to_a_member_is_a_connection_and_no_riddle(suspicion: Suspicion) -> None:
    socket = suspicion.host.connect(*suspicion.workers)
    suspicion.look()
    socket.dead = True
    suspicion.look(12)
    assert [one.inode for one in suspicion.seen.connections] == [socket.inode]
    assert suspicion.instance().dead == ()


def test_what_keeps_dead_sockets_from_being_seen_is_said_too(suspicion: Suspicion) -> None:
    for worker in suspicion.workers:
        worker.holds(4711)
    suspicion.host.sockets.blind = "no netlink"
    suspicion.look()
    assert suspicion.instance().unseen == "no netlink"
    suspicion.host.sockets.blind = None
    suspicion.workers[0].refused = "no right"
    suspicion.look(5)
    assert suspicion.instance().unseen == "no right"


def test_descriptors_of_all_are_read_for_dead_sockets_at_every_fifth_look_alone(suspicion: Suspicion) -> None:
    suspicion.look(20)
    asked = [one.arguments[0] for one in suspicion.host.spied["processes"].calls if one.name == "descriptors"]
    assert asked.count(suspicion.master.id.pid) == 1 + 20 / EVERY_S  # once to find who holds what


def test_a_loading_worker_has_no_requests(suspicion: Suspicion) -> None:
    suspicion.workers[0].role = Role.LOADING
    suspicion.look(2)
    assert suspicion.worker(suspicion.workers[0]).waits is None


def test_of_an_instance_that_nobody_runs_nothing_is_read(suspicion: Suspicion) -> None:
    suspicion.look()
    suspicion.host.processes.end(suspicion.master)
    suspicion.look(2)
    assert suspicion.instance().master is None
    assert suspicion.instance().blind == ()


# ---- the master's threads


@pytest.mark.parametrize(
    ("rates", "off"),
    [
        ((None, 196.0, 197.0), True),  # its own waits in epoll
        ((None, 2.0, 2.0), False),  # a driver's monitor, which runs
        ((None, 196.0, 2.0), False),
        ((None,), False),
        ((196.0,), False),  # alone
    ],
)
def test_a_master_whose_threads_all_wait_for_the_gil_runs_without_threads(
    rates: tuple[float | None, ...], *, off: bool
) -> None:
    threads = MasterThreads()
    for look in range(1 + OFF_LOOKS):
        assert not threads.off
        threads.fold({n: None if rate is None else round(rate * look) for n, rate in enumerate(rates)}, float(look))
    assert threads.off is off


def test_a_look_at_which_one_of_them_runs_says_nothing_and_the_next_one_goes_on() -> None:
    threads = MasterThreads()
    for look in range(2 + OFF_LOOKS):
        assert not threads.off
        threads.fold({0: None, 1: 196 * look, 2: None if look == 2 else 196 * look}, float(look))
    assert threads.off


def test_threads_that_were_not_seen_for_a_while_must_have_waited_all_the_time() -> None:
    threads = MasterThreads()
    for look in range(OFF_LOOKS):
        threads.fold({0: None, 1: 196 * look}, float(look))
    threads.fold({0: None, 1: None}, float(OFF_LOOKS))
    threads.fold({0: None, 1: 196 * OFF_LOOKS}, float(OFF_LOOKS + 3))
    assert not threads.off
