"""What one look says of a worker that is not ready, and what several looks prove."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.world.host import FIFO, Host, Watcher, config_of
from tests.world.pieces import SHOP_ID
from tests.world.processes import COMPUTES, FOR_ITS_OWN, FOR_THE_GIL, SLEEPS, FakeProcess
from watchdogd.act.end import perform
from watchdogd.core.detect import SUSPECTED_FOR_S
from watchdogd.model.base import Interval, ProcessId
from watchdogd.model.done import EndProcess, Outcome, Result, Stuck
from watchdogd.model.seen import Blind, Hang, Hung, Mule, Role, Worker
from watchdogd.observe import locks
from watchdogd.observe.hung import APART_S, LOOKS, Waiting, rule
from watchdogd.observe.locks import Lock, Wait, image_at, private_futex
from watchdogd.observe.observer import FULL_EVERY_S

GIL = 0x7F8AFF94E6F0
assert isinstance(FOR_THE_GIL.lock, Lock)
ELSEWHERE = FOR_THE_GIL._replace(lock=FOR_THE_GIL.lock._replace(address=1))

# -- one look, as measured (uWSGI 2.0.30, CPython 3.11.7, Linux 6.18)


@pytest.fixture(autouse=True)
def x86_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_FUTEX", b"202")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"202 0x7f8aff94e6f0 0x89 0x0 0x7ffe1bc00840 0x0 0xffffffff 0x7ffe1bc00710 0x7f8aff2a3f16\n", (GIL, False)),
        (b"202 0x7f8aff94e6f0 0x80 0x2 0x0 0x0 0x0 0x7ffe1bc00710 0x7f8aff2a3f16\n", (GIL, True)),
        (b"202 0x7f8aff94e6f0 0x189 0x0 0x0 0x0 0xffffffff 0x7ffe1bc00710 0x7f8aff2a3f16\n", (GIL, True)),
        (b"202 0x7f8aff94e6f0 0x109 0x0 0x0 0x0 0xffffffff 0x7 0x7\n", None),  # multiprocessing.Lock: not private
        (b"202 0x7f8aff94e6f0 0x6 0x0 0x0 0x0 0xffffffff 0x7 0x7\n", None),  # uWSGI's thunder lock
        (b"202 0x7f8aff94e6f0 0x86 0x0 0x0 0x0 0xffffffff 0x7 0x7\n", None),  # a private one of that kind
        (b"202 0x7f8aff94e6f0 0x81 0x0 0x0 0x0 0xffffffff 0x7 0x7\n", None),  # it wakes others
        (b"232 0x7 0x80 0x1 0x0 0x0 0x7f8aff3f23d0 0x7ffe1bc00820 0x7f8aff326f36\n", None),  # epoll_wait
        (b"98 0x7f8aff94e6f0 0x89 0x0 0x7ffe1bc00840 0x0 0xffffffff 0x7 0x7\n", None),  # what arm64 calls futex
        (b"-1 0x7ffe1bc00710 0x7f8aff2a3f16\n", None),
        (b"running\n", None),
        (b"", None),
    ],
)
def test_a_private_futex_that_is_waited_for_is_told_from_every_other_call(
    text: bytes, found: tuple[int, bool] | None
) -> None:
    assert private_futex(text) == found


MAPS = b"""\
55d000000000-55d000001000 r--p 00000000 fe:00 11       /usr/bin/python3.11
55d000200000-55d000210000 rw-p 00200000 fe:00 11       /usr/bin/python3.11
55d000210000-55d000220000 rw-p 00000000 00:00 0
55d000220000-55d000330000 rw-p 00000000 00:00 0        [heap]
7f8aff815000-7f8aff844000 r--p 00414000 fe:00 26933    /usr/lib/libpython3.11.so.1.0 (deleted)
7f8aff844000-7f8aff978000 rw-p 00443000 fe:00 26933    /usr/lib/libpython3.11.so.1.0 (deleted)
7f8aff978000-7f8aff9ba000 rw-p 00000000 00:00 0
7f8aff9bb000-7f8affa00000 rw-p 00000000 00:00 0
7f8b00000000-7f8b00001000 rw-p 00000000 fe:00 12       /srv/my app/x.so
"""


@pytest.mark.parametrize(
    ("address", "image"),
    [
        (GIL, b"/usr/lib/libpython3.11.so.1.0 (deleted)"),
        (0x7F8AFF978000, b"/usr/lib/libpython3.11.so.1.0 (deleted)"),  # its .bss
        (0x7F8AFF9B9FFF, b"/usr/lib/libpython3.11.so.1.0 (deleted)"),
        (0x7F8AFF9BB000, b""),  # unnamed, and not right behind it
        (0x55D000210010, b"/usr/bin/python3.11"),
        (0x55D000220010, b"[heap]"),  # right behind a .bss, and has a name
        (0x7F8B00000010, b"/srv/my app/x.so"),
        (0x1000, b""),
    ],
)
def test_an_address_is_in_the_image_of_a_file_or_in_the_unnamed_mapping_right_behind_it(
    address: int, image: bytes
) -> None:
    assert image_at(MAPS, address) == image


def test_a_second_unnamed_mapping_behind_an_image_is_none_of_it() -> None:
    maps = b"10000-20000 rw-p 0 fe:00 1 /l/libpython3.so\n20000-30000 rw-p 0 00:00 0\n30000-40000 r--p 0 00:00 0\n"
    assert image_at(maps, 0x25000) == b"/l/libpython3.so"
    assert image_at(maps, 0x35000) == b""


@pytest.mark.parametrize(
    ("wait", "told"),
    [
        (FOR_THE_GIL, Hang.GIL),
        (FOR_THE_GIL._replace(lock=Lock(1, in_python=True, forever=True)), Hang.GIL),  # its mutex: 5 of 77
        (FOR_THE_GIL._replace(catches_alrm=True), Hang.GIL),
        (FOR_ITS_OWN, Hang.OWN_CODE),
        (FOR_ITS_OWN._replace(catches_alrm=True), None),
        (FOR_ITS_OWN._replace(lock=Lock(1, in_python=False, forever=False)), None),  # Event.wait(0.005)
        (SLEEPS, None),
        (COMPUTES, None),
    ],
)
def test_one_look_satisfies_a_rule_or_none(wait: Wait, told: Hang | None) -> None:
    assert rule(wait) is told


@pytest.mark.parametrize("change", [{"threads": 2}, {"tracer": 7}, {"state": "T"}, {"state": "D"}, {"state": "R"}])
@pytest.mark.parametrize("wait", [FOR_THE_GIL, FOR_ITS_OWN])
def test_no_rule_is_about_one_with_threads_or_one_that_is_held_or_not_asleep(
    wait: Wait, change: dict[str, object]
) -> None:
    assert rule(wait._replace(**change)) is None  # type: ignore[arg-type]


# -- several looks


def after(*looks: Wait | None, every: float = 1.0) -> Waiting:
    """What is known after these looks, the first at 100 s."""
    waiting = Waiting()
    for number, look in enumerate(looks):
        waiting.fold(look, 99.0 + every * number, 100.0 + every * number)
    return waiting


def test_the_third_look_at_the_same_lock_proves_it_and_its_begin_is_before_the_first() -> None:
    assert [after(*[FOR_THE_GIL] * looks).hung for looks in range(1, LOOKS)] == [None] * (LOOKS - 1)
    assert after(*[FOR_THE_GIL] * LOOKS).hung == Hung(Hang.GIL, Interval(99.0, 100.0))
    assert after(*[FOR_ITS_OWN] * 9).hung == Hung(Hang.OWN_CODE, Interval(99.0, 100.0))


def test_a_look_at_which_it_runs_is_no_evidence_either_way() -> None:
    assert after(FOR_THE_GIL, COMPUTES, FOR_THE_GIL, COMPUTES, FOR_THE_GIL).hung
    assert after(*[FOR_THE_GIL] * LOOKS, COMPUTES).hung
    assert not after(FOR_THE_GIL, COMPUTES, COMPUTES, COMPUTES).hung


@pytest.mark.parametrize(
    "other",
    [SLEEPS, ELSEWHERE, FOR_ITS_OWN, FOR_THE_GIL._replace(threads=2), COMPUTES._replace(threads=2)],
    ids=["another call", "another lock", "another rule", "a thread more", "a thread more, running"],
)
def test_whatever_else_it_is_found_at_begins_anew(other: Wait) -> None:
    assert not after(FOR_THE_GIL, FOR_THE_GIL, other, FOR_THE_GIL, FOR_THE_GIL).hung
    assert not after(*[FOR_THE_GIL] * LOOKS, other).hung
    proven = after(FOR_THE_GIL, other, *[FOR_THE_GIL] * LOOKS).hung
    assert proven == Hung(Hang.GIL, Interval(101.0, 102.0))


@pytest.mark.parametrize(
    ("look", "why"),
    [
        (SLEEPS._replace(lock=Blind("CAP_SYS_PTRACE is missing")), "CAP_SYS_PTRACE is missing"),
        (FOR_THE_GIL._replace(tracer=4711), "process 4711 is debugging it"),
        (FOR_THE_GIL._replace(state="T"), "SIGSTOP"),
        (FOR_THE_GIL._replace(state="t"), "debugger"),
        (None, "not looked at"),
    ],
)
def test_who_cannot_be_seen_or_is_held_is_neither_hung_nor_well(look: Wait | None, why: str) -> None:
    waiting = after(*[FOR_THE_GIL] * LOOKS, look)
    assert waiting.hung is None
    assert why in waiting.unjudged
    assert not waiting.suspected
    assert after(look, *[FOR_THE_GIL] * (LOOKS - 1)).hung is None
    assert after(look, *[FOR_THE_GIL] * LOOKS).hung
    assert after(look, FOR_THE_GIL).unjudged == ""


def test_looks_that_are_close_together_count_as_one() -> None:
    assert after(*[FOR_THE_GIL] * 9, every=APART_S / 10).hung is None
    assert after(*[FOR_THE_GIL] * LOOKS, every=APART_S).hung


def test_it_is_suspected_until_it_is_proven_or_found_elsewhere() -> None:
    assert [after(*[FOR_THE_GIL] * looks).suspected for looks in range(LOOKS + 1)] == [False, True, True, False]
    assert not after(FOR_THE_GIL, SLEEPS).suspected


# -- in a snapshot


def test_a_hung_worker_is_shown_after_three_looks_that_follow_at_once_and_then_it_is_calm_again() -> None:
    host = Host()
    host.start_mongod()
    master, _ = host.app(workers=1)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(4)
    host.spied["processes"].calls.clear()
    hung = host.processes.fork(master, Role.LOADING)
    hung.wait = FOR_THE_GIL._replace(ignores_hup=True)

    def shown() -> Worker:
        return next(worker for worker in watcher.snapshot.instances[0].workers if worker.id == hung.id)

    watcher.until(lambda: "of" in host.spied["processes"].names, within=int(FULL_EVERY_S) + 1)
    assert (shown().threads, shown().ignores_hup, shown().hung, shown().ready) == (1, True, None, False)
    watcher.tick(2)
    found = shown().hung
    assert found is not None
    assert found.kind is Hang.GIL
    assert found.since.hi == watcher.snapshot.at - 2.0
    watcher.tick(int(SUSPECTED_FOR_S))
    host.spied["processes"].calls.clear()
    watcher.until(lambda: "of" in host.spied["processes"].names)
    host.spied["processes"].calls.clear()
    watcher.tick(3)
    assert "of" not in host.spied["processes"].names

    hung.role = Role.READY
    watcher.tick(int(FULL_EVERY_S) + 1)
    ready = shown()
    assert ready.ready
    assert replace(ready, ready_since=None, used=None) == Worker(ready.id)


def test_a_worker_that_may_not_be_looked_at_is_said_to_be_unjudged() -> None:
    host = Host()
    host.start_mongod()
    master, _ = host.app(workers=1)
    loading = host.processes.fork(master, Role.LOADING)
    loading.wait = SLEEPS._replace(lock=Blind("CAP_SYS_PTRACE is missing"))
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick()
    (worker,) = [one for one in watcher.snapshot.instances[0].workers if one.id == loading.id]
    assert worker == Worker(loading.id, threads=1, ignores_hup=False, unjudged="CAP_SYS_PTRACE is missing")
    assert watcher.snapshot.instances[0].blind == ()


# -- the last look before the end


@dataclass
class Proven:
    """A hung worker on a host of values, found and decided about."""

    host: Host
    watcher: Watcher
    hung: FakeProcess
    effect: EndProcess

    def last_look(self) -> tuple[Result, str] | None:
        """What it says has changed; None where it gives the pidfd. It leaves none open."""
        before = set(Path("/proc/self/fd").iterdir())
        taken = self.watcher.observer.last_look_to_end(self.effect)
        if isinstance(taken, int):
            os.close(taken)
        assert set(Path("/proc/self/fd").iterdir()) == before
        return None if isinstance(taken, int) else taken


@pytest.fixture
def proven() -> Proven:
    host = Host()
    host.start_mongod()
    master, _ = host.app(workers=1)
    hung = host.processes.fork(master, Role.LOADING)
    hung.wait = FOR_THE_GIL
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(LOOKS)
    return Proven(host, watcher, hung, EndProcess("shop-1", SHOP_ID, master.id, hung.id, 33))


def test_the_last_look_gives_a_pidfd_while_it_still_hangs(proven: Proven) -> None:
    assert proven.last_look() is None
    assert proven.host.spied["processes"].names[-2:] == ["pidfd", "of"]  # in this order: what is read is of that one


@pytest.mark.parametrize(
    ("wait", "result", "why"),
    [
        (COMPUTES, Result.TRY_AGAIN, "was just running"),
        (SLEEPS, Result.CHANGED, "does not wait for Python's GIL alone any more"),
        (FOR_ITS_OWN, Result.CHANGED, "does not wait for Python's GIL alone any more"),
        (FOR_THE_GIL._replace(threads=2), Result.CHANGED, "does not wait for Python's GIL alone any more"),
        (FOR_THE_GIL._replace(tracer=4711), Result.CHANGED, "process 4711 is debugging it"),
        (FOR_THE_GIL._replace(state="T"), Result.CHANGED, "it is stopped"),
        (SLEEPS._replace(lock=Blind("CAP_SYS_PTRACE is missing")), Result.CHANGED, "CAP_SYS_PTRACE is missing"),
    ],
)
def test_what_does_not_hang_by_rule_g_now_is_not_ended(proven: Proven, wait: Wait, result: Result, why: str) -> None:
    proven.hung.wait = wait
    changed = proven.last_look()
    assert changed is not None
    assert changed[0] is result
    assert why in changed[1]


def test_a_worker_that_is_ready_by_now_is_not_ended(proven: Proven) -> None:
    proven.hung.role = Role.READY
    assert (proven.last_look() or ("", ""))[1].endswith("is no worker that is still to become ready")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"process": ProcessId(1002, 1)}, "is no child of master 1000 any more"),  # its number, of another time
        ({"process": ProcessId(7, 1)}, "process 7 has ended"),
        ({"master": ProcessId(1000, 1)}, "the master has changed"),
    ],
)
def test_another_process_of_the_same_number_is_not_ended(
    proven: Proven, change: dict[str, ProcessId], why: str
) -> None:
    assert proven.hung.id.pid == 1002
    proven.effect = replace(proven.effect, **change)  # type: ignore[arg-type]
    changed = proven.last_look()
    assert changed is not None
    assert changed[0] is Result.CHANGED
    assert why in changed[1]


# -- the last look at a mule that is stuck


@pytest.fixture
def stuck() -> Proven:
    host = Host()
    host.start_mongod()
    master, _ = host.app(workers=1)
    mule = host.processes.fork(master, Role.MULE)
    socket = host.connect(mule)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick()
    effect = EndProcess("shop-1", SHOP_ID, master.id, mule.id, 33, Stuck("mule", frozenset({socket.inode})))
    return Proven(host, watcher, mule, effect)


def test_the_last_look_gives_a_pidfd_while_it_is_the_same_mule_with_the_same_sockets(stuck: Proven) -> None:
    assert stuck.last_look() is None


def test_a_mule_that_has_closed_them_or_is_none_any_more_is_not_ended(stuck: Proven) -> None:
    assert stuck.effect.stuck
    (inode,) = stuck.effect.stuck.inodes
    stuck.hung.refused = "no permission"
    assert stuck.last_look() == (Result.CHANGED, "no permission")
    stuck.hung.refused = None
    stuck.hung.lets_go(inode)
    assert stuck.last_look() == (Result.CHANGED, f"mule {stuck.hung.id.pid} has closed what the outage ended")
    stuck.hung.holds(inode)
    stuck.hung.role = Role.OTHER
    assert stuck.last_look() == (Result.CHANGED, f"process {stuck.hung.id.pid} is no mule any more")
    stuck.hung.role = Role.MULE
    stuck.effect = replace(stuck.effect, stuck=Stuck("mule", frozenset()))
    assert (stuck.last_look() or [None])[0] is Result.CHANGED


def test_a_mule_hangs_by_the_same_three_looks_though_it_is_ready_at_once() -> None:
    host = Host()
    host.start_mongod()
    master, _ = host.app(workers=1)
    mule = host.processes.fork(master, Role.SPOOLER)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(LOOKS)

    def shown() -> Mule:
        (one,) = watcher.snapshot.instances[0].mules
        return one

    assert (shown().hung, shown().ready, shown().role) == (None, True, Role.SPOOLER)
    mule.wait = FOR_THE_GIL
    watcher.tick(int(FULL_EVERY_S) + LOOKS)
    hung = shown().hung
    assert hung
    assert hung.kind is Hang.GIL
    mule.wait = SLEEPS
    watcher.tick(int(FULL_EVERY_S) + 1)
    assert shown().hung is None


def test_where_processes_are_hidden_nobody_is_ended(proven: Proven) -> None:
    proven.host.processes.blind = "/proc hides the processes of others"
    assert proven.last_look() == (Result.CHANGED, "/proc hides the processes of others")


@pytest.mark.parametrize("method", ["of", "pidfd"])
def test_who_cannot_be_looked_at_for_a_bug_of_ours_is_not_ended(proven: Proven, method: str) -> None:
    proven.host.spied["processes"].broken.add(method)
    changed = proven.last_look()
    assert changed is not None
    assert changed[0] is Result.CHANGED
    assert f"{method} is broken" in changed[1]


# -- perform


@pytest.mark.parametrize("result", [Result.CHANGED, Result.TRY_AGAIN, Result.REFUSED])
def test_what_the_last_look_gives_instead_of_a_pidfd_is_told_and_nothing_is_sent(
    proven: Proven, result: Result
) -> None:
    def kill(pidfd: int, effect: EndProcess) -> tuple[Result, str]:
        raise AssertionError(pidfd, effect)

    outcome = perform(proven.effect, lambda _: (result, "it is gone"), lambda: 12.5, kill)
    assert outcome == Outcome(proven.effect.id, result, 12.5, "it is gone", proven.effect.process)


def test_one_attempt_is_made_by_the_pidfd_of_the_last_look_which_is_closed(proven: Proven) -> None:
    asked: list[tuple[str, EndProcess]] = []

    def kill(pidfd: int, effect: EndProcess) -> tuple[Result, str]:
        asked.append((str(Path(f"/proc/self/fd/{pidfd}").readlink()), effect))
        return Result.TRY_AGAIN, "not yet"

    before = set(Path("/proc/self/fd").iterdir())
    outcome = perform(proven.effect, proven.watcher.observer.last_look_to_end, lambda: 1.0, kill)
    assert outcome == Outcome(proven.effect.id, Result.TRY_AGAIN, 1.0, "not yet", proven.effect.process)
    ((link, effect),) = asked
    assert "pidfd" in link
    assert effect == proven.effect
    assert set(Path("/proc/self/fd").iterdir()) == before
