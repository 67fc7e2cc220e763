import time
from collections.abc import Iterable
from http import HTTPStatus

import pytest

from rig import packets
from rig.traffic import Traffic
from rig.uwsgi import App, Uwsgi
from tests.stories.happenings import BehindCable
from tests.stories.stage import LINGER_S, Stage, all_good, eventually, left_alone, outage

AWAY_S = 16.0
"""The kernel sends again 13 s after the first time, and then only 26 s after it."""


class SlowNetwork(BehindCable):
    """No packet comes through, for less than any driver waits for an answer."""

    def happens(self, apps: Iterable[Uwsgi]) -> float:
        with self.far.entered(), packets.cut():
            time.sleep(AWAY_S)
        return time.monotonic()


@pytest.mark.netns
def test_nobody_is_told_to_be_healed_while_requests_wait_for_a_network_that_is_back(stage: Stage) -> None:
    cable = SlowNetwork(stage)
    app = stage.app(cable.uri, app=App.FIRST_REQUEST)
    watchdog = stage.watchdog(cable.uri, app)
    workers = app.workers()
    with Traffic(app.address, timeout=60) as traffic:
        eventually(lambda: traffic.all_good_for(2), "only good requests", within=20)
        cable.happens([app])
        back = time.time()
        healed = watchdog.wait_event("healed", within=AWAY_S + 60)
        eventually(lambda: traffic.all_good_for(3), "only good requests for 3 s", within=60)
        to_wall = time.time() - time.monotonic()
        ended = [one.sent_at + one.seconds + to_wall for one in traffic.requests if not one.good]
    assert max(ended) > back + LINGER_S, "requests went on within linger: nothing was waited for"
    assert max(ended) < healed.at
    left_alone(watchdog, app, workers)


def test_of_an_idle_app_it_is_said_that_nobody_has_used_it_and_it_is_healed_once_somebody_has(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app, policy={"idle": "leave"})
    workers = app.workers()
    outage(mongod, seconds=3)
    first = watchdog.wait_event("unproven", within=LINGER_S + 30)
    assert first.sentence == "MongoDB serves; nobody of shop has used it yet."
    shown = watchdog.run("status")
    assert shown.returncode == 0
    assert "shop: watching (MongoDB serves; that it is well was not seen yet)" in shown.stdout
    assert "next: idle workers to be used" in shown.stdout

    outage(mongod, seconds=3)
    again = watchdog.wait_event("unproven", within=LINGER_S + 30, count=2)
    watchdog.restart()
    assert watchdog.tells_none("healed", "unproven", "reload_due", seconds=LINGER_S)
    assert not all_good(app)
    healed = watchdog.wait_event("healed", within=30)
    assert {one.fields["incident"] for one in (first, again, healed)} == {first.fields["incident"]}
    assert watchdog.order("healed") == ["healed"]
    left_alone(watchdog, app, workers)


def test_an_app_that_never_uses_mongodb_is_never_told_to_be_healed(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, app=App.NO_CLIENT)
    watchdog = stage.watchdog(mongod.uri, app)
    with Traffic(app.address):
        outage(mongod, seconds=3)
        told = watchdog.wait_event("unproven", within=90)
        assert "not all of shop was seen to reach it yet" in told.sentence
        assert watchdog.tells_none("healed", "reload_due", seconds=2 * LINGER_S)
        assert "next: a request to show whether it reaches MongoDB" in watchdog.run("status").stdout
    assert app.get().status == HTTPStatus.OK
