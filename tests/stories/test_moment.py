"""The moment of the byte: a master whose thread holds the GIL for 0.1 s every 0.5 s, as a client does for 15 ms."""

import time
from pathlib import Path

import pytest

from rig import apps
from rig.processes import wait_for
from rig.uwsgi import App, Uwsgi
from tests.stories.stage import Stage
from watchdogd.core.aim import LATE_S

PULSE = Path(apps.__file__).with_name("pulse.py")
EVERY_S, HOLDS_S = 0.5, 0.1
RELOADS = 3
BUDGET = {"unproven": 100, "total": 100, "per": "1h"}  # nobody uses it, so nothing is proven


def pulse(app: Uwsgi) -> float:
    """When its thread last took the GIL."""
    text = wait_for((app.folder / "pulse").read_text, "a pulse", within=10, log=app.log)
    return float(text)


def send_at_a_pulse(app: Uwsgi) -> None:
    """A byte after which uWSGI forks while the thread holds the GIL."""
    at = pulse(app) + HOLDS_S / 4 - LATE_S
    while at < time.monotonic():
        at += EVERY_S
    time.sleep(at - time.monotonic())
    app.send(b"w")


@pytest.fixture
def app(stage: Stage) -> Uwsgi:
    """It does not use MongoDB, so its workers are gone at once."""
    return stage.app(stage.mongod().uri, app=App.NO_CLIENT, extra=(f"shared-py-import = {PULSE}",), processes=4)


def test_the_forks_of_its_reloads_fall_between_two_wakes_of_the_masters_threads(stage: Stage, app: Uwsgi) -> None:
    policy = {"linger": "1ms", "cooldown": "0s", "budget": BUDGET}
    watchdog = stage.watchdog(stage.mongods[0].uri, app, policy=policy, limits={"reloads": ["workers"]})
    for number in range(1, RELOADS + 1):
        old = app.workers()
        wait_for(lambda: watchdog.run("reload", "shop").returncode == 0, "it may be reloaded", within=60)
        watchdog.wait_event("reloaded", within=60, count=number)
        assert not set(old) & set(app.workers())
    assert not watchdog.events("hung_found")


def test_a_byte_at_the_wrong_moment_makes_forks_hang_which_are_ended(stage: Stage, app: Uwsgi) -> None:
    """So the story above can fail."""
    watchdog = stage.watchdog(stage.mongods[0].uri, app)

    def hung() -> bool:
        old = app.workers()
        send_at_a_pulse(app)
        wait_for(lambda: not set(old) & set(app.workers()), "new workers", within=20, log=app.log)
        # Who is forked in its place may hang too, at the same phase: uWSGI looks once a second.
        wait_for(
            lambda: watchdog.events("hung_ended") or len(app.ready_workers()) == app.processes,
            "each is ready or ended",
            within=30,
            log=app.log,
        )
        return bool(watchdog.events("hung_ended"))

    wait_for(hung, "a fork that hangs", within=120)
