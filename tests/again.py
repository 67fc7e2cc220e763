"""Tests that are played again: those in which uWSGI forked a worker that hangs, which nobody could have prevented."""

import pytest

HUNG_BY_FORK = "hung since they were forked"

# With 3 forks after each of some 40 reloads, 2 plays failed one run of four; 4 fail one of some hundred.
PLAYS = 4


class HungByForkError(AssertionError):
    """The test failed, and a fork is to blame."""


def play_again(item: pytest.Item) -> None:
    """Has the test played anew, with all its fixtures, when it fails by a worker that hangs; and for nothing else."""
    item.add_marker(pytest.mark.flaky(reruns=PLAYS - 1, only_rerun=HungByForkError))
