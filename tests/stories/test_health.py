"""The app's own answer, as evidence and as proof: on a real mongod, a real uWSGI, and real requests to it."""

import pytest

from rig.processes import wait_for
from rig.traffic import Traffic
from rig.uwsgi import Front, Uwsgi
from tests.stories.stage import SHIPPED, Stage, all_good, fail_a_request_of, left_alone, respawned, strand
from tests.stories.watchdog import Watchdog

LEARNED_WITHIN_S = 150  # three requests in calm, 30 s apart, each at the next full look
CURED_WITHIN_S = 90
LONG = {"linger": "5m", "cooldown": "5s"}


def health(app: Uwsgi, path: str = "/") -> dict[str, str]:
    if app.front is Front.UWSGI_UNIX:
        return {"url": f"uwsgi+unix://{app.unix}:{path}"}
    scheme = "uwsgi" if app.front is Front.UWSGI_TCP else "http"
    return {"url": f"{scheme}://{app.host}:{app.port}{path}"}


def believed(watchdog: Watchdog, trust: str) -> None:
    wait_for(
        lambda: watchdog.instance()["health"]["trust"] == trust,
        f"its answers are {trust}",
        within=LEARNED_WITHIN_S,
        log=watchdog.log,
    )


@pytest.mark.parametrize(("front", "learned"), [(Front.HTTP_SOCKET, "in calm"), (Front.UWSGI_UNIX, "in the outage")])
def test_a_stuck_app_that_answers_badly_is_cured_long_before_linger_and_proven_by_its_answers(
    stage: Stage, front: Front, learned: str
) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, front=front)  # its requests fail after 1 s, before it is seen that they wait
    watchdog = stage.watchdog(mongod.uri, app, policy=LONG, limits={"health": health(app)})
    believed(watchdog, "dependent" if learned == "in calm" else "answers")
    mongod.stop()
    fail_a_request_of(app)
    believed(watchdog, "dependent")  # at the latest now: it was good, and fails while MongoDB is away
    mongod.start()
    recovered = watchdog.wait_event("recovered", within=CURED_WITHIN_S)  # though nobody else uses it
    assert "and the app answers: 6 of 6 health requests were good" in recovered.sentence
    steps = ["reload_due", "reload_sent", "reloaded", "recovered"]
    assert watchdog.order(*steps, "healed", "gave_up", "reload_failed", "overtaken") == steps
    assert "6 of 6 health requests failed (500)" in watchdog.events("reload_due")[0].sentence
    assert respawned(app) == 3
    assert not all_good(app)


def test_a_page_that_says_200_for_ever_is_told_and_holds_nothing(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app, limits={"health": health(app, "/healthz")})
    told = watchdog.wait_event("probe_independent", "shop", within=LEARNED_WITHIN_S)
    assert f"answers its health requests well without MongoDB (http://127.0.0.1:{app.port}/healthz)" in told.sentence
    assert watchdog.instance()["health"]["trust"] == "independent"
    strand(mongod, app)
    with Traffic(app.address):
        recovered = watchdog.wait_event("recovered", within=CURED_WITHIN_S)
    assert "health requests" not in recovered.sentence
    assert not [one for one in watchdog.events("reload_held") if "answers" in one.fields["blocked_by"]]
    assert len(watchdog.events("probe_independent")) == 1
    assert not all_good(app)


def test_a_healthy_app_that_serves_a_cache_is_not_reloaded_where_its_page_depends_on_mongodb(stage: Stage) -> None:
    mongod = stage.mongod()
    # Its workers hold what the master has left them, and work without MongoDB, as stuck ones do; their first use of it
    # would be good. Without `health` they are reloaded.
    app = stage.app(mongod.uri, osafterfork=True, warm=False)
    watchdog = stage.watchdog(mongod.uri, app, policy=SHIPPED, limits={"health": health(app)})
    workers = app.workers()
    believed(watchdog, "answers")
    with Traffic(app.address, path="/healthz", rate=6):  # all that visitors want
        mongod.stop()
        believed(watchdog, "dependent")
        mongod.start()
        watchdog.wait_event("healed", within=CURED_WITHIN_S)
    left_alone(watchdog, app, workers)
    asked = watchdog.instance()["health"]["round"]
    assert asked["good"] == asked["size"] == 6
