import os
import pwd
import re

from rig.ports import free_port
from rig.processes import wait_for
from rig.traffic import Traffic
from rig.uwsgi import WEB
from tests.stories.stage import LINGER_S, QUICK, Stage, all_good, respawned, strand


def test_an_instance_restarted_while_it_settles_needs_no_reload(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app, policy={"linger": "12s"})  # uWSGI alone takes 4 s and more to stop
    strand(mongod, app)
    watchdog.wait_event("leftovers_found", within=30)
    app.restart()
    with Traffic(app.address):
        watchdog.wait_state("watching", within=12 + 30)
        assert watchdog.tells_none("reload_due", seconds=12 + LINGER_S)
    assert not watchdog.order("reload_due", "reload_sent")
    assert respawned(app) == 0
    assert not all_good(app)


def test_an_instance_restarted_in_the_middle_of_its_reload_gets_no_second_one(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, mercy_s=30)
    watchdog = stage.watchdog(mongod.uri, app, limits={"worker_reload_mercy": "30s"})
    # A request that does not end keeps the reload from completing.
    stage.hang(app)
    strand(mongod, app, hanging=1)
    watchdog.wait_event("reload_sent", within=LINGER_S + 30)
    assert watchdog.instance()["state"] == "reloading"
    app.restart()
    with Traffic(app.address):
        watchdog.wait_state("watching", within=60)
        assert watchdog.tells_none("reload_due", "reload_sent", seconds=2 * LINGER_S)
    assert len(watchdog.events("reload_sent")) == 1
    # Which of both depends on whether a look fell between the stop and the start.
    (ending,) = watchdog.order("replaced", "ended_by_us")
    assert watchdog.instance()["last_reload"]["outcome"] == ending
    assert not watchdog.order("gave_up", "reload_failed")
    assert not all_good(app)


def test_a_reload_by_hand_while_it_settles_needs_no_second_one(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app, policy={"linger": "15s"})
    workers = app.workers()
    strand(mongod, app)
    watchdog.wait_event("leftovers_found", within=30)
    wait_for(lambda: watchdog.instance()["next"]["at"], "the time of the reload", within=5)
    app.send(b"w")
    with Traffic(app.address):
        watchdog.wait_event("healed", within=60)
        assert watchdog.tells_none("reload_due", "reload_sent", seconds=10)
    assert respawned(app) == len(workers)


def test_a_pause_holds_the_reload_and_its_end_lets_it_go(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app)
    assert watchdog.run("pause", "--reason", "the storage is moved").returncode == 0
    strand(mongod, app)
    with Traffic(app.address):
        held = watchdog.wait_event("reload_held", within=LINGER_S + 30)
        assert held.fields["blocked_by"] == "paused"
        assert "the storage is moved" in held.sentence
        watchdog.restart()
        assert watchdog.tells_none("reload_sent", seconds=2 * LINGER_S)
        assert watchdog.run("resume").returncode == 0
        watchdog.wait_event("recovered", within=60)
    assert len(watchdog.events("reload_sent")) == 1


def test_in_mode_observe_everything_is_told_and_nothing_is_sent(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app, mode="observe")
    workers = app.workers()
    strand(mongod, app)
    with Traffic(app.address):
        held = watchdog.wait_event("reload_held", within=LINGER_S + 30)
        assert held.fields["blocked_by"] == "mode"
        assert watchdog.tells_none("reload_sent", seconds=LINGER_S)
        assert (app.workers(), respawned(app)) == (workers, 0)

        watchdog.write(mode="act")
        assert watchdog.run("reconfigure").returncode == 0
        watchdog.wait_event("recovered", within=60)
    assert len(watchdog.events("reload_sent")) == 1


def test_a_reload_that_an_operator_asks_for_is_verified_like_every_other(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app, policy={"linger": "10m"})
    old = app.workers()
    with Traffic(app.address):
        # By the same gates as every reload: not before MongoDB was seen to serve for as long as `linger`.
        refused = watchdog.run("reload", "shop")
        assert refused.returncode == 1
        assert "MongoDB has not been watched for as long as linger yet, until 20" in refused.stderr
        watchdog.policy = QUICK
        watchdog.write()
        assert watchdog.run("reconfigure").returncode == 0
        wait_for(
            lambda: watchdog.run("reload", "shop", "--wait").returncode == 0, "a reload", within=30, log=watchdog.log
        )
        watchdog.wait_event("recovered", within=30)
        assert watchdog.order("reload_sent", "reloaded", "recovered") == [
            "reload_sent",
            "reloaded",
            "recovered",
        ]
    assert respawned(app) == len(old)
    assert set(app.ready_workers()).isdisjoint(old)


def test_an_instance_that_was_given_up_is_mended_and_reloaded_now(stage: Stage) -> None:
    mongod = stage.mongod()
    code, wrong = stage.folder / "code.py", stage.folder / "wrong"
    # Whoever is forked while that file is there asks a MongoDB that does not exist: no reload helps.
    code.write_text(
        f"{WEB.read_text()}\nimport uwsgi\n\ndef forked():\n    if Path({str(wrong)!r}).exists():\n"
        f"        os.environ['MONGO_URI'] = 'mongodb://127.0.0.1:{free_port()}/'\n\nuwsgi.post_fork_hook = forked\n"
    )
    app = stage.app(mongod.uri, wsgi_file=code)
    watchdog = stage.watchdog(mongod.uri, app, policy={"cooldown": "10m"})
    wrong.touch()
    strand(mongod, app)
    with Traffic(app.address):
        gave_up = watchdog.wait_event("gave_up", within=LINGER_S + 90)
        assert all_good(app)
        wrong.unlink()  # somebody mends it
        refused = watchdog.run("reload", "shop")
        assert refused.returncode == 1
        assert re.match(r"held by cooldown: .*, until 20\S+Z .*; `reload --now` goes past that$", refused.stderr)
        begun = watchdog.run("reload", "shop", "--now", "--wait")
        assert begun.returncode == 0, begun.stderr
        who = f"{pwd.getpwuid(os.geteuid()).pw_name} (uid {os.geteuid()}, pid "
        assert begun.stdout.startswith(f"reload begun for {who}")
        assert ", past cooldown, gave_up\n" in begun.stdout
        recovered = watchdog.wait_event("recovered", within=60)
    assert recovered.fields["incident"] == gave_up.fields["incident"]
    (asked,) = watchdog.events("reload_asked")
    assert f": {who}{asked.fields['pid']}) asked for it." in asked.sentence
    last = watchdog.instance()["last_reload"]
    assert (last["outcome"], last["by"]["pid"], last["now"]) == ("recovered", int(asked.fields["pid"]), True)
    assert watchdog.order("gave_up", "reload_asked", "reload_sent", "recovered") == [
        "reload_sent", "gave_up", "reload_asked", "reload_sent", "recovered",
    ]  # fmt: skip
    assert not all_good(app)


def test_a_reload_that_ends_uwsgi_since_its_app_does_not_load_any_more_is_told_as_what_it_is(stage: Stage) -> None:
    mongod = stage.mongod()
    code = stage.folder / "code.py"
    code.write_text(WEB.read_text())
    app = stage.app(mongod.uri, wsgi_file=code, lazy_apps=True, extra=("need-app = true",))
    watchdog = stage.watchdog(mongod.uri, app)
    with Traffic(app.address):
        wait_for(lambda: watchdog.run("reload", "shop").returncode == 0, "a reload", within=30, log=watchdog.log)
        watchdog.wait_event("recovered", within=60)
    code.write_text("raise RuntimeError('a release that does not load')\n")
    wait_for(lambda: watchdog.run("reload", "shop").returncode == 0, "a reload", within=90, log=watchdog.log)
    ended = watchdog.wait_event("ended_by_us", within=30)
    assert "uWSGI of shop is gone: it ended while a" in ended.sentence
    watchdog.wait_state("absent", within=10)
    assert watchdog.instance()["last_reload"]["outcome"] == "ended_by_us"
    assert not watchdog.order("replaced", "gave_up")
