import json
from typing import Any

from rig.processes import wait_for
from rig.traffic import Traffic
from tests.stories.stage import CURED_WITHIN_S, LINGER_S, Stage, strand
from tests.stories.watchdog import Told, Watchdog, parse
from tests.world.schemas import strict

LISTED = strict("incidents")


def incidents(watchdog: Watchdog, *arguments: str) -> list[dict[str, Any]]:
    """What `incidents --json` gives."""
    answer = watchdog.run("incidents", *arguments, "--json")
    assert (answer.returncode, answer.stderr) == (0, "")
    document = json.loads(answer.stdout)
    LISTED.validate(document)
    assert document["problems"] == []
    listed: list[dict[str, Any]] = document["incidents"]
    return listed


def told_of(watchdog: Watchdog, id_: str) -> list[Told]:
    """What the log has of the first incident, and since it began of its instance and of all that concerns everybody."""
    since = watchdog.events("member_down")[0].at
    everybodys = {"member_down", "member_up", "paused", "resumed", "started"}
    return [
        one
        for one in watchdog.told()
        if one.fields.get("incident") == id_ or (one.at >= since and (one.name in everybodys or one.instance == "shop"))
    ]


def test_the_record_tells_what_the_log_told_over_a_crash_and_a_pause(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, selection_ms=3000)
    watchdog = stage.watchdog(mongod.uri, app)
    assert incidents(watchdog) == []
    strand(mongod, app)
    watchdog.wait_event("leftovers_found", within=LINGER_S + 30)
    (one,) = incidents(watchdog)
    assert (one["ending"], one["goes_on"]) == (None, True)
    assert watchdog.run("pause", "--reason", "deploy").returncode == 0
    # What its last tick told is the price of a crash.
    wait_for(lambda: incidents(watchdog)[0]["operators"], "the pause in the record", within=10, log=watchdog.log)
    watchdog.kill()
    watchdog.start()
    assert watchdog.run("resume").returncode == 0
    with Traffic(app.address):
        ended = watchdog.wait_event("recovered", within=CURED_WITHIN_S)
        watchdog.wait_state("watching", within=30)

    id_ = ended.fields["incident"]
    (one,) = incidents(watchdog)
    assert (one["id"], one["instance"], one["ending"], one["goes_on"]) == (id_, "shop", "recovered", False)
    assert one["seconds"] == float(ended.fields["seconds"])
    assert (one["left_out"], one["broken"]) == (0, 0)
    (sent,) = watchdog.events("reload_sent")
    assert [(each["command"], each["outcome"]) for each in one["reloads"]] == [(sent.fields["command"], "recovered")]
    assert {(each["event"], each["by"]) for each in one["operators"]} == {
        (each.name, each.fields["by"]) for each in watchdog.told() if each.name in {"paused", "resumed"}
    }
    (whole,) = incidents(watchdog, id_)
    kept = [line["told"] for line in whole["lines"] if "told" in line]
    log = told_of(watchdog, id_)
    assert [each["event"] for each in kept] == [each.name for each in log]
    assert [each["text"] for each in kept] == [each.sentence for each in log]
    assert [line["at"] for line in whole["lines"] if "told" in line] == [
        line.split()[0] for line in watchdog.lines() if (told := parse(line)) is not None and told in log
    ]
    phases = [line["seen"]["phase"] for line in whole["lines"] if "seen" in line]
    assert {"outage", "settling", "verifying"} <= set(phases)

    answer = watchdog.run("incidents", id_)
    assert answer.returncode == 0
    assert [line for line in answer.stdout.splitlines() if len(line) > 80] == []
    text = "".join(answer.stdout.split())  # a long path is broken between two lines
    for each in log:
        assert "".join(each.sentence.split()) in text
