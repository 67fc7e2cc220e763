from collections.abc import Sequence
from pathlib import Path

import pytest

from watchdogd.config import Config, InstanceConfig, Mode
from watchdogd.service.rights import Rights, missing

ME, ROOT, STRANGER = 12345, 0, 54321
SEES = 1 << 19 | 1 << 2  # CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH
OVERRIDE, KILL = 1 << 1, 1 << 5
ALL = (1 << 41) - 1


def said(rights: Rights, owners: Sequence[int | None] | None = (STRANGER,), mode: Mode = Mode.ACT) -> list[str]:
    """What is missing for instances of these owners (None: one that does not run); without any they are to be found."""
    names = [Path(f"/run/{number}/fifo") for number in range(len(owners or ()))]
    instances = tuple(InstanceConfig(name.parent.name, name, ("main",)) for name in names)
    config = Config(deployments=(), instances=None if owners is None else instances, mode=mode)
    return list(missing(config, rights, dict(zip(names, owners or (), strict=True)).get))


@pytest.mark.parametrize(
    ("rights", "owners"),
    [
        (Rights(ME, SEES, writer=True, ender=True), (STRANGER, ME)),
        (Rights(ME, SEES | OVERRIDE | KILL, writer=False, ender=False), (STRANGER,)),
        (Rights(ROOT, ALL, writer=False, ender=False), (STRANGER,)),
        (Rights(ROOT, ALL, writer=False, ender=False), None),
        (Rights(ME, SEES, writer=True, ender=True), None),
        (Rights(ME, 0, writer=False, ender=False), (ME, ME)),
        (Rights(ME, 0, writer=False, ender=False), (None,)),
        (Rights(ME, 0, writer=False, ender=False), ()),
    ],
)
def test_what_is_enough(rights: Rights, owners: Sequence[int | None] | None) -> None:
    assert said(rights, owners) == []


def test_each_missing_capability_is_named_with_what_gives_it() -> None:
    first, second = said(Rights(ME, 0, writer=True, ender=True))
    assert "CAP_SYS_PTRACE is missing" in first
    assert "CAP_DAC_READ_SEARCH is missing" in second
    assert all("same-user.conf" in one and "mongo-watchdog.service" in one for one in (first, second))
    assert f"0 (of user id {STRANGER})" in first
    assert len(said(Rights(ME, 1 << 19, writer=True, ender=True))) == 1


def test_that_nothing_can_be_written_or_ended_is_said_with_what_does_it() -> None:
    first, second = said(Rights(ME, SEES, writer=False, ender=False))
    assert "mongo-watchdog-fifo.socket" in first
    assert "mongo-watchdog-end.socket" in second
    assert all("same-user.conf" in one for one in (first, second))
    assert said(Rights(ME, SEES, writer=True, ender=False)) == [second]
    assert said(Rights(ME, SEES, writer=False, ender=True)) == [first]
    assert said(Rights(ME, SEES, writer=False, ender=False), mode=Mode.OBSERVE) == []


def test_for_instances_to_be_found_it_says_what_those_of_others_need() -> None:
    assert len(said(Rights(ME, 0, writer=False, ender=False), None)) == 4


def test_it_reads_those_of_this_process() -> None:
    rights = Rights.of_this_process()
    assert rights.uid >= 0
    assert rights.capabilities >= 0
