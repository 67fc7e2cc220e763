"""What the watchdog may cost, on a host with 1000 unrelated sockets. `make cost` measures it all, and for longer."""

from collections.abc import Iterator

import pytest

from rig import cost
from watchdogd.config import load
from watchdogd.model import Tcp


@pytest.fixture(scope="module")
def host() -> Iterator[cost.Host]:
    with cost.host() as one:
        yield one


def test_a_quiet_look_takes_less_than_a_millisecond(host: cost.Host) -> None:
    with cost.Looks(load(host.config)) as looks:
        looks.wait_until(cost.all_seen(Tcp.ESTABLISHED), "every connection of the workers")
        # On a loaded machine the same code takes twice the CPU (the caches are shared): the best moment tells.
        medians = [looks.quiet(100).median for _ in range(5)]
    assert min(medians) < cost.MOST_QUIET_LOOK_MS, f"medians of 100 looks, in ms: {medians}"


def test_the_daemon_stays_small(host: cost.Host) -> None:
    with cost.daemon(host.config) as daemon:
        taken = daemon.running(3)
    assert taken.rss_mb < cost.MOST_RSS_MB, taken
