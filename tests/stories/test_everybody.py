"""All kinds of apps at once: whoever is stuck is cured, and nobody else reloaded; docs/promises.md has the counts."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http import HTTPStatus

import pytest

from tests.stories.everybody import CLIENT_IN_MASTER, HEALTH_CHECK, HEALTHY, LOAD, STUCK, Everybody
from tests.stories.happenings import HAPPENINGS, Happening, InNetwork
from tests.stories.stage import Stage, eventually, respawned
from tests.stories.watchdog import Watchdog

CURED_WITHIN_S = 120
# Who is stuck was seen so after 18 to 22 s mostly, and 9 of 10 after 31 s.
WATCHED_S = 30
ASKED_AFTER_S, ASKED_EVERY_S = 3, 8

TOUCHED = ("reload_due", "reload_sent", "reload_failed", "gave_up")


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "what",
    [
        pytest.param(one, id=name, marks=[pytest.mark.netns] if issubclass(one, InNetwork) else [])
        for name, one in HAPPENINGS.items()
    ],
)
def test_whoever_is_stuck_is_cured_by_one_reload_and_nobody_else_is_touched(
    stage: Stage, what: type[Happening], record_property: Callable[[str, object], None]
) -> None:
    happening = what(stage)
    everybody = Everybody(stage, happening)
    everybody.arrive()
    apps = everybody.apps
    policy = {"max_parallel": len(STUCK), "linger": f"{happening.linger_s:g}s"}
    watchdog = stage.watchdog(happening.uri, *apps.values(), policy=policy)
    first = {name: set(app.workers()) for name, app in apps.items() if app.running}
    with everybody.used():
        back = happening.happens([apps[name] for name in (*STUCK, *HEALTHY)])
        workers = {name: set(apps[name].workers()) for name in HEALTHY}
        for number in range(3):
            at = back + ASKED_AFTER_S + number * ASKED_EVERY_S
            eventually(lambda: time.monotonic() >= at, "the next burst of requests", within=2 * ASKED_EVERY_S + 10)  # noqa: B023
            everybody.ask_every_worker(["health"], HEALTH_CHECK)
            everybody.ask_every_worker(STUCK)
        eventually(
            lambda: time.monotonic() >= back + WATCHED_S and is_over(everybody, watchdog),
            "only good requests for 8 s, and the proof of every reload",
            within=CURED_WITHIN_S,
            log=watchdog.log,
        )
    answers = everybody.ask_every_worker(apps)
    # Whom somebody else has replaced does not count.
    gone = first if happening.reloads_by_somebody else {}
    counts = {name: count(everybody, watchdog, name, gone.get(name, set())) for name in apps}
    record_property("apps", json.dumps({name: asdict(one) for name, one in counts.items()}))
    assert not {name: bad for name in apps if (bad := [one for one in answers[name] if one.status != HTTPStatus.OK])}
    assert all(everybody.answered(name) for name in apps), "somebody was not used, so nothing is proven"
    assert any(counts[name].stuck for name in STUCK), "nobody was stuck, so nothing is proven"
    for name in STUCK:
        one, app = counts[name], apps[name]
        assert not watchdog.order("reload_failed", "gave_up", instance=name), name
        assert one.reloads <= 1 + one.overtaken, (name, one)
        assert not one.overtaken or happening.may_overtake, (name, one)
        assert not one.reloads or one.stuck or happening.strands_silently, (name, one)
        assert respawned(app) == app.processes * (one.reloads + happening.reloads_by_somebody), (name, one)
        assert not watchdog.instance(name)["incident"], name
    for name in HEALTHY:
        assert not counts[name].stuck, f"{name} is stuck, and so says nothing"
        assert not watchdog.order(*TOUCHED, instance=name), name
        assert workers[name] - set(counts[name].ended) <= set(apps[name].workers()), name
        assert respawned(apps[name]) == apps[name].processes * happening.reloads_by_somebody, name
    for name in LOAD:
        assert not watchdog.order(*TOUCHED, instance=name), name
        assert (len(apps[name].workers()), respawned(apps[name])) == (1, 0), name
    for name in apps:
        assert not counts[name].needless_ends, name


def is_over(everybody: Everybody, watchdog: Watchdog) -> bool:
    """Whether all who may be stuck answer well, and every reload was proven, or overtaken."""
    return all(
        everybody.traffic[name].all_good_for(8)
        and len(watchdog.order("recovered", "overtaken", instance=name)) >= len(watchdog.events("reload_sent", name))
        for name in STUCK
    )


@dataclass(frozen=True)
class Count:
    """What became of one app. `stuck`: its workers that gave only errors in the end.

    `ended`: those that the daemon ended; it was `needless` where one ever answered, or no fork of it can hang.
    """

    stuck: list[int]
    reloads: int
    overtaken: int
    why: list[str]
    ended: list[int]
    needless_ends: list[int]


def count(everybody: Everybody, watchdog: Watchdog, name: str, gone: set[int]) -> Count:
    """The counts of one app, from its users and from the daemon's log."""
    ended = [int(told.fields["pid"]) for told in watchdog.events("hung_ended", name)]
    answered = everybody.answered(name)
    return Count(
        stuck=sorted(everybody.stuck(name) - gone),
        reloads=len(watchdog.events("reload_sent", name)),
        overtaken=len(watchdog.events("overtaken", name)),
        why=[told.sentence for told in watchdog.events("reload_due", name)],
        ended=ended,
        needless_ends=[pid for pid in ended if pid in answered or name not in CLIENT_IN_MASTER],
    )
