import signal

import pytest

from watchdogd.handlers import is_master
from watchdogd.model.seen import Role
from watchdogd.observe.procfs import Stat, caught, field, parse_stat
from watchdogd.observe.roles import role

# SigCgt as measured, uWSGI 2.0.30: the same for uwsgi and pyuwsgi.
MASTER, MULE, READY = 0x84687, 0x4487, 0x8085E83
LOADING = READY & ~(1 << (signal.SIGUSR2 - 1))
EMPEROR = MASTER | 1 << (signal.SIGWINCH - 1) | 1 << (signal.SIGURG - 1)

TAIL = b"S 7 4242 4242 0 -1 %d 1 2 3 4 5 6 7 8 20 0 4 0 345427 1000 200 18446744073709551615"


@pytest.mark.parametrize("name", [b"uwsgi", b"a b", b"a) S 1 (b", b")", b"(", b"uWSGI worker 1)"])
def test_the_name_of_a_process_does_not_disturb_its_stat(name: bytes) -> None:
    line = b"4242 (%s) " % name + TAIL % 0x400000 + b"\n"
    assert parse_stat(line) == Stat(ended=False, ppid=7, start_ticks=345427, forked=False)


@pytest.mark.parametrize("state", [b"Z", b"X"])
def test_a_zombie_has_ended(state: bytes) -> None:
    assert parse_stat(b"4242 (uwsgi) " + state + (TAIL % 0x400000)[1:]).ended


@pytest.mark.parametrize("state", [b"R", b"S", b"D", b"T", b"t", b"I"])
def test_a_stopped_or_waiting_process_has_not_ended(state: bytes) -> None:
    assert not parse_stat(b"4242 (uwsgi) " + state + (TAIL % 0x400000)[1:]).ended


def test_who_has_executed_nothing_since_its_fork_shows() -> None:
    assert parse_stat(b"4242 (uwsgi) " + TAIL % 0x400040).forked


def test_a_process_on_its_way_out_has_ended() -> None:
    assert parse_stat(b"4242 (uwsgi) " + TAIL % 0x400004).ended


STATUS = b"Name:\tSigCgt:\nState:\tS (sleeping)\nPPid:\t7\nUid:\t0\t33\t33\t33\nSigCgt:\t0000000000084687\n"


def test_fields_of_a_status_are_found_by_their_name_at_the_begin_of_a_line() -> None:
    assert field(STATUS, b"PPid") == b"7"
    assert field(STATUS, b"Uid").split()[1] == b"33"
    assert caught(STATUS) == MASTER


def test_a_field_that_is_not_there_is_empty() -> None:
    assert field(STATUS, b"NoNewPrivs") == b""
    assert caught(b"Name:\tuwsgi\n") == 0
    assert caught(b"") == 0


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (READY, Role.READY),
        (LOADING, Role.LOADING),
        (MULE, Role.MULE),
        (EMPEROR, Role.OTHER),
        (MASTER, Role.OTHER),
        (0, Role.OTHER),
    ],
    ids=["ready worker", "loading worker", "mule", "emperor", "master", "foreign program"],
)
def test_a_child_is_what_it_has_handlers_for(mask: int, expected: Role) -> None:
    assert role(mask, forked=True) is expected


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (MASTER, True),
        (READY, False),
        (LOADING, False),
        (MULE, False),
        (EMPEROR, False),
        (0, False),
        ((1 << 64) - 1, False),
    ],
)
def test_only_a_master_has_the_handlers_of_a_master(mask: int, expected: bool) -> None:
    assert is_master(mask) is expected
