"""All kinds of apps at once, on one replica set: whoever is stuck is cured, whoever is not is not reloaded."""

import contextlib
import time
from collections.abc import Callable

import pytest

from rig.mongod import ReplicaSet
from rig.traffic import Traffic
from rig.uwsgi import App
from tests.stories.stage import Stage, all_good, eventually, respawned

SELECTION_MS = 3000
STUCK = ("import", "two")  # a client made before the fork; with one thread, and with two
HEALTHY = ("lazy", "first", "hooks", "none")
CURED_WITHIN_S = 120


def restart(replica_set: ReplicaSet) -> None:
    """The primary ends and comes back; another one is elected meanwhile."""
    old = replica_set.wait_primary()
    old.stop()
    replica_set.wait_primary(other_than=old)
    old.start()


def elections(replica_set: ReplicaSet) -> None:
    """Two in a row: who stepped down may not be elected for a minute, and there are three members."""
    for _ in range(2):
        replica_set.step_down()
        replica_set.wait_secondaries(2)


def step_down(replica_set: ReplicaSet) -> None:
    """No connection ends."""
    replica_set.step_down()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("happens", [restart, step_down, elections])
def test_whoever_is_stuck_is_cured_by_one_reload_and_nobody_else_is_touched(
    stage: Stage, happens: Callable[[ReplicaSet], None]
) -> None:
    replica_set = stage.replica_set()
    uri, quick = replica_set.uri, {"selection_ms": SELECTION_MS}
    apps = {
        "import": stage.app(uri, name="import", **quick),
        "two": stage.app(uri, name="two", threads=2, **quick),
        "lazy": stage.app(uri, name="lazy", lazy_apps=True, **quick),
        "first": stage.app(uri, name="first", app=App.FIRST_REQUEST, **quick),
        "hooks": stage.app(uri, name="hooks", osafterfork=True, **quick),
        "none": stage.app(uri, name="none", app=App.NO_CLIENT, **quick),
    }
    watchdog = stage.watchdog(uri, *apps.values(), policy={"max_parallel": 4})
    workers = {name: app.workers() for name, app in apps.items()}
    with contextlib.ExitStack() as at_end:
        users = {name: at_end.enter_context(Traffic(app.address)) for name, app in apps.items()}
        happens(replica_set)
        begun = time.monotonic()
        eventually(
            lambda: all(one.all_good_for(8) for one in users.values()),
            "only good requests for 8 s, of every app",
            within=CURED_WITHIN_S,
            log=watchdog.log,
        )
        assert time.monotonic() - begun < CURED_WITHIN_S
        for name in STUCK:
            eventually(lambda: not watchdog.instance(name)["incident"], "it is over", within=60)  # noqa: B023
    for name in HEALTHY:
        assert not watchdog.order("reload_due", "reload_sent", "hung_ended", instance=name), name
        assert apps[name].workers() == workers[name]
    for name in STUCK:
        assert len(watchdog.events("reload_sent", name)) <= 1, name
        assert not all_good(apps[name])
        assert respawned(apps[name]) == 3 * len(watchdog.events("reload_sent", name))
