"""A mongod that comes back with access control on: the app connects as before, and every request of it fails."""

import pytest

from rig.mongod import Mongod
from rig.processes import wait_for
from rig.traffic import Traffic
from tests.stories.stage import CURED_WITHIN_S, Stage, all_good, fail_a_request_of
from tests.stories.watchdog import Watchdog

WITHIN_S = 30.0


def access(watchdog: Watchdog) -> str | None:
    """What the status says of the access control of the only member."""
    ((member,),) = [one["members"] for one in watchdog.status()["deployments"]]
    said: str | None = member["access_control"]
    return said


@pytest.mark.parametrize("away", [False, True], ids=["watched", "daemon-away"])
def test_the_cause_is_told_and_no_success_is_claimed(stage: Stage, away: bool) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app)
    wait_for(lambda: access(watchdog) == "off", "mongod told that everybody is served", within=WITHIN_S)
    if away:
        watchdog.terminate()
    mongod.stop()
    fail_a_request_of(app)
    locked = Mongod(mongod.folder, port=mongod.port, extra=["--auth"])
    stage.stack.enter_context(locked)
    stage.stack.enter_context(Traffic(app.address))
    if away:
        watchdog.start()

    told = watchdog.wait_event("access_control_on", within=WITHIN_S)
    assert told.sentence == (
        f"MongoDB 127.0.0.1:{mongod.port} has access control on, and had not before: every request without credentials "
        "fails."
    )
    recovered = watchdog.wait_event("recovered", "shop", within=CURED_WITHIN_S)
    answers = all_good(app, 6)
    assert len(answers) == 6, "every request fails"
    assert recovered.sentence.endswith(
        "every worker that is used has connections; whether requests succeed is not seen. If requests fail, the likely "
        f"cause is that access control of 127.0.0.1:{mongod.port} is on, and was off before."
    )
    assert watchdog.order("access_control_on", "recovered") == ["access_control_on", "recovered"]
    status = watchdog.run("status").stdout
    assert f"127.0.0.1:{mongod.port} has access control on since " in status
    assert "recovered; whether requests succeed is not seen" in status
    said = "\n".join([*watchdog.lines(), status])
    assert "proven" not in said
    assert "working" not in said
