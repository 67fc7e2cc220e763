import http.server
import json
import os
import signal
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from rig.ports import free_port
from rig.traffic import Traffic
from rig.uwsgi import App, Uwsgi
from tests.stories.stage import LINGER_S, Stage, all_good, cured_once, respawned, strand
from tests.stories.watchdog import Watchdog

SECRET = "sesame-0pen"


@pytest.fixture
def app(stage: Stage) -> Uwsgi:
    """An instance that has nothing to do with MongoDB: what goes wrong here must never reload it."""
    return stage.app("", app=App.NO_CLIENT)


def still_works(watchdog: Watchdog, app: Uwsgi) -> None:
    """Claims that the daemon goes on, answers, and left the app alone."""
    assert watchdog.running
    assert watchdog.instance()["name"] == "shop"
    assert not watchdog.order("reload_due", "reload_sent")
    assert respawned(app) == 0


def test_without_any_mongod_at_the_start_it_waits_and_sees_it_come(stage: Stage, app: Uwsgi) -> None:
    port = free_port()
    watchdog = stage.watchdog(f"mongodb://127.0.0.1:{port}/", app)
    down = watchdog.wait_event("member_down", within=20)
    assert down.fields["member"] == f"127.0.0.1:{port}"
    (member,) = watchdog.status()["deployments"][0]["members"]
    assert (member["state"], member["serving"]) == ("down", False)
    still_works(watchdog, app)

    stage.mongod(port=port)
    watchdog.wait_event("member_up", within=30)
    assert watchdog.tells_none("reload_due", seconds=LINGER_S + 1)
    assert watchdog.status()["deployments"][0]["serving"] is True
    still_works(watchdog, app)


def test_a_wrong_port_is_told_and_once_it_is_mended_the_cure_follows(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(f"mongodb://127.0.0.1:{free_port()}/", app)
    down = watchdog.wait_event("member_down", within=20)
    assert "refused; start mongod there, or mend host and port in the URI" in down.sentence
    strand(mongod, app)
    with Traffic(app.address):
        assert watchdog.tells_none("reload_due", seconds=2 * LINGER_S)
        watchdog.uri = mongod.uri
        watchdog.write()
        watchdog.send(signal.SIGHUP)
        watchdog.wait_event("config_reloaded", within=10)
        cured_once(watchdog, app)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("mongodb://no-such-host.invalid:27017/", "DNS"),
        ("{uri}?tls=true&tlsAllowInvalidCertificates=true", "TLS"),
    ],
    ids=["DNS", "TLS"],
)
def test_an_address_that_cannot_be_reached_is_blindness_and_no_outage(
    stage: Stage, app: Uwsgi, options: str, says: str
) -> None:
    mongod = stage.mongod()
    watchdog = stage.watchdog(options.format(uri=mongod.uri), app)
    blind = watchdog.wait_event("blind", within=30)
    assert says in blind.sentence
    assert not watchdog.events("member_down")
    assert watchdog.run("status").returncode == 1
    assert any(says in json.dumps(one) for one in watchdog.status()["blind"])
    still_works(watchdog, app)


def test_a_web_server_on_the_port_is_told_as_such(stage: Stage, app: Uwsgi) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        watchdog = stage.watchdog(f"mongodb://127.0.0.1:{server.server_port}/", app)
        blind = watchdog.wait_event("blind", within=30)
        server.shutdown()
    assert "does not speak the MongoDB protocol" in blind.sentence
    still_works(watchdog, app)


def test_a_mongod_that_asks_for_a_password_is_watched_without_one_and_never_shows_it(stage: Stage) -> None:
    mongod = stage.mongod(extra=["--auth"])
    mongod.command("createUser", "shop", pwd=SECRET, roles=["root"])
    uri = mongod.uri.replace("//", f"//shop:{SECRET}@")
    app = stage.app(uri)
    watchdog = stage.watchdog(uri, app)
    strand(mongod, app)
    with Traffic(app.address):
        cured_once(watchdog, app)
    shown = [*watchdog.lines(), json.dumps(watchdog.status()), watchdog.run("status").stdout]
    assert not any(SECRET in line for line in shown)


def test_a_second_daemon_ends_with_75_and_the_first_goes_on(stage: Stage, app: Uwsgi) -> None:
    first = stage.watchdog("mongodb://127.0.0.1:9/", app)
    answer = first.run("run")
    assert answer.returncode == 75
    assert "another mongo-watchdog" in answer.stderr
    still_works(first, app)


@pytest.mark.parametrize(
    "content", ["", "mongodb: [", "mongodb: []\nintervall: 1s\n"], ids=["empty", "broken", "wrong"]
)
def test_a_configuration_with_mistakes_ends_it_with_78_and_names_them(stage: Stage, app: Uwsgi, content: str) -> None:
    watchdog = stage.watchdog("mongodb://127.0.0.1:9/", app, start=False)
    watchdog.config.write_text(content)
    answer = watchdog.run("run")
    assert answer.returncode == 78
    assert f"{watchdog.config}:" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_state_folder_that_cannot_be_written_ends_it_with_a_sentence(stage: Stage, app: Uwsgi) -> None:
    # Below a file: that stops root, too.
    watchdog = stage.watchdog("mongodb://127.0.0.1:9/", app, start=False, top={"state_dir": f"{app.log}/state"})
    answer = watchdog.run("run")
    assert answer.returncode == 78
    assert "state_dir" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_state_folder_that_vanishes_under_the_daemon_is_told_and_holds_no_cure(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app)
    kept = watchdog.state_dir.rename(watchdog.state_dir.with_name("kept"))
    watchdog.state_dir.write_text("not a folder")
    strand(mongod, app)
    with Traffic(app.address):
        elsewhere = watchdog.wait_event("state_elsewhere", within=30)
        assert str(watchdog.state_dir) in elsewhere.sentence
        watchdog.wait_event("recovered", within=60)

        watchdog.state_dir.unlink()
        kept.rename(watchdog.state_dir)
        watchdog.wait_event("state_back", within=30)
    assert len(watchdog.events("reload_sent")) == 1


@pytest.mark.parametrize("content", ["{", '{"version": 99}'], ids=["damaged", "of-the-future"])
def test_a_state_that_cannot_be_read_is_kept_aside_and_blocks_reloads_until_it_is_taken_away(
    stage: Stage, content: str
) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app, start=False)
    watchdog.state_dir.mkdir()
    (watchdog.state_dir / "state.json").write_text(content)
    watchdog.start()
    blind = watchdog.wait_event("blind", within=10)
    (aside,) = watchdog.state_dir.glob("state.json.*-*")
    assert blind.fields["scope"] == "state"
    assert str(aside) in blind.sentence
    assert aside.read_text() == content
    strand(mongod, app)
    with Traffic(app.address):
        held = watchdog.wait_event("reload_held", within=LINGER_S + 30)
        assert held.fields["blocked_by"] == "blind"
        watchdog.restart()  # what tells is the file itself
        assert watchdog.tells_none("reload_sent", seconds=2 * LINGER_S)
        aside.rename(app.folder / aside.name)
        watchdog.wait_event("recovered", within=60)
    assert len(watchdog.events("reload_sent")) == 1


def test_clients_that_say_nonsense_nothing_or_never_listen_do_not_keep_it_from_its_work(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    watchdog = stage.watchdog(mongod.uri, app)
    with ExitStack() as clients:
        for said in (
            b"",
            b"\0\xff{[\n" * 100,
            b"x" * 200_000,
            b"[" * 60_000 + b"\n",
            b'{"version":1,"verb":"status"}\n',
        ):
            for _ in range(3):
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
                client.settimeout(1)
                client.connect(str(watchdog.socket))
                try:
                    client.sendall(said)
                except OSError:  # refused before all of it was said
                    continue
        strand(mongod, app)
        with Traffic(app.address):
            cured_once(watchdog, app)


def test_sigterm_ends_it_within_2_s_also_while_mongod_is_away(stage: Stage, app: Uwsgi) -> None:
    mongod = stage.mongod()
    watchdog = stage.watchdog(mongod.uri, app)
    mongod.freeze()
    watchdog.wait_event("member_down", within=20)
    code, seconds = watchdog.terminate()
    assert code == 0
    assert seconds < 2
    assert watchdog.told()[-1].name == "stopping"
    assert watchdog.run("status").returncode == 3
    assert not watchdog.socket.exists()


def test_sighup_takes_a_good_configuration_and_rejects_a_bad_one(stage: Stage, app: Uwsgi) -> None:
    mongod = stage.mongod()
    watchdog = stage.watchdog(mongod.uri, app)
    assert watchdog.status()["mode"] == "act"
    watchdog.write(mode="observe")
    watchdog.send(signal.SIGHUP)
    watchdog.wait_event("config_reloaded", within=10)
    assert watchdog.status()["mode"] == "observe"

    watchdog.write(mode="perhaps")
    watchdog.send(signal.SIGHUP)
    rejected = watchdog.wait_event("config_rejected", within=10)
    assert "perhaps" in rejected.sentence
    assert watchdog.status()["mode"] == "observe"
    assert watchdog.run("reconfigure").returncode == 78

    watchdog.write(mode="act")
    assert watchdog.run("reconfigure").returncode == 0
    assert watchdog.status()["mode"] == "act"
    still_works(watchdog, app)


@pytest.mark.netns
@pytest.mark.usefixtures("namespace")
def test_sigterm_ends_it_within_2_s_also_while_dns_hangs(stage: Stage) -> None:
    app = stage.app("", app=App.NO_CLIENT)
    resolv_conf = stage.folder / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:3\n")
    script = f'mount --bind {resolv_conf} /etc/resolv.conf && exec "$@"'
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 53))
        watchdog = stage.watchdog(
            {f"d{number}": f"mongodb://db{number}.example:27017/" for number in range(5)},
            app,
            start=False,
            limits={"mongodb": ["d0"]},
            prefix=["unshare", "--mount", "sh", "-c", script, "sh"],
        )
        watchdog.start(heard=False)
        silent.settimeout(20)
        assert b"example" in silent.recv(512)
        still_works(watchdog, app)
        code, seconds = watchdog.terminate()
    assert (code, seconds < 2) == (0, True), f"{seconds:.1f} s"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a disk that is full")
def test_a_full_state_disk_holds_no_cure_and_a_daemon_that_is_killed_meanwhile_repeats_none(stage: Stage) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri)
    folder = stage.folder / "full"
    fill = 'mkdir -p "$0" && mount -t tmpfs -o size=16k none "$0" && { head -c 1M /dev/zero >"$0/filler"; exec "$@"; }'
    watchdog = stage.watchdog(
        mongod.uri,
        app,
        top={"state_dir": str(folder)},
        prefix=["unshare", "--mount", "sh", "-c", fill, str(folder)],
    )
    old = app.workers()
    strand(mongod, app)
    with Traffic(app.address):
        watchdog.wait_event("reload_sent", within=LINGER_S + 30)
        watchdog.kill()
        assert (watchdog.socket.parent / "state.json").exists()
        watchdog.start()
        watchdog.wait_event("recovered", within=60)
    assert len(watchdog.events("reload_sent")) == 1
    assert respawned(app) == len(old)
    (told,) = watchdog.events("state_elsewhere")
    assert f"it is kept in {watchdog.socket.parent}" in told.sentence
    assert "No space left on device" in told.sentence
    status = watchdog.status()
    assert "No space left on device" in status["degraded"]
    assert [one["scope"] for one in status["blind"]] == ["sink history"]  # which holds no cure
    Path(f"/proc/{watchdog.pid}/root{folder}/filler").unlink()  # somebody makes room
    watchdog.wait_event("state_back", within=30)
    assert not (watchdog.socket.parent / "state.json").exists()
    assert json.loads(Path(f"/proc/{watchdog.pid}/root{folder}/state.json").read_text())["state"]["serial"] > 0
    assert not all_good(app)


def test_a_daemon_that_was_killed_leaves_nothing_that_keeps_it_from_starting(stage: Stage, app: Uwsgi) -> None:
    mongod = stage.mongod()
    watchdog = stage.watchdog(mongod.uri, app)
    watchdog.kill()
    assert watchdog.run("status").returncode == 3
    begun = time.monotonic()
    watchdog.start()
    assert time.monotonic() - begun < 10
    still_works(watchdog, app)
    assert watchdog.socket.stat().st_mode & 0o007 == 0
