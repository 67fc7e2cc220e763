import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.world.schemas import schema
from watchdogd import __version__
from watchdogd.cli import main as cli
from watchdogd.codec import FORMATS
from watchdogd.model.text import Outside
from watchdogd.service.control import SAME, Incoming, Pause, Reconfigure, Reload, Resume, Server, Status, Wish
from watchdogd.service.store import Store

Answer = dict[str, Any]


class Daemon:
    """Answers on a real control socket, as the test says; `asked` has what it was asked, without the status."""

    def __init__(self, folder: Path, answer: Callable[[Incoming], Answer]) -> None:
        self.asked: list[Wish] = []
        self._answer = answer
        self._wake = os.eventfd(0)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._server = Server(folder / "c.sock", self._selector)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        os.eventfd_write(self._wake, 1)
        self._thread.join(20)
        self._server.close()
        self._selector.close()
        os.close(self._wake)

    def _serve(self) -> None:
        while True:
            for key, mask in self._selector.select():
                if key.fd == self._wake:
                    return
                for one in self._server.on_ready(key, mask):
                    if not isinstance(one.wish, Status):
                        self.asked.append(one.wish)
                    self._server.answer(one, self._answer(one))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(f"mongodb: [{{uri: 'mongodb://127.0.0.1/'}}]\ncontrol_socket: {tmp_path}/c.sock\n")
    return path


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Callable[[Incoming], Answer]], Daemon]]:
    started: list[Daemon] = []

    def start(answer: Callable[[Incoming], Answer]) -> Daemon:
        started.append(Daemon(tmp_path, answer))
        return started[-1]

    yield start
    for one in started:
        one.close()


Serve = Callable[[Callable[[Incoming], Answer]], Daemon]


def done(text: str = "done", **more: object) -> Answer:
    return {"ok": True, "text": text, "exit": 0, **more}


def document(**last: object) -> dict[str, Any]:
    """A status of two instances, the first of which has had a reload."""
    shop = {
        "name": "shop",
        "fifo": "/run/shop/fifo",
        "state": "watching",
        "blocked_by": [],
        "blind": [],
        "master": {"pid": 10},
        "workers": [{"pid": 11, "verdict": "clear", "leftovers": 0}],
        "next": None,
        "incident": None,
        "last_reload": {"command": "w", "at": "2026-11-22T10:00:00.000Z", "proven": False, **last} if last else None,
        "reloads_left": 3,
        "sockets": None,
    }
    return {
        "version": 1,
        "at": "2026-11-22T10:00:00.000Z",
        "daemon": {"version": __version__, "pid": 1, "since": "2026-11-22T09:00:00.000Z"},
        "seen_whole_at": "2026-11-22T10:00:00.000Z",
        "last_incident": None,
        "mode": "act",
        "paused": None,
        "deployments": [],
        "instances": [shop, {**shop, "name": "blog", "fifo": "/run/blog/fifo", "last_reload": None}],
        "not_covered": [],
        "blind": [],
        "sockets": {"read_from": "sock_diag", "why": None},
    }


# ---- check


def test_check_says_what_a_good_file_has(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--config", str(config)]) == 0
    assert capsys.readouterr().out == f"{config}: ok: 1 deployment, every instance that is found\n"
    config.write_text(config.read_text() + "uwsgi: [{master_fifo: /a/b}, {master_fifo: /b/b}]\n")
    assert cli.main(["--config", str(config), "check"]) == 0
    assert capsys.readouterr().out == f"{config}: ok: 1 deployment, 2 instances\n"


@pytest.mark.parametrize("verb", ["check", "connections", "run"])
def test_every_mistake_is_told_on_stderr_with_exit_code_78(config: Path, verb: str) -> None:
    config.write_text("mode: on\nmongodb: []\n")
    command = [sys.executable, "-m", "watchdogd", verb, "--config", str(config)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert (ran.returncode, ran.stdout) == (78, "")
    first, second = ran.stderr.splitlines()
    assert first.startswith(f"{config}:1:7: mode: `on` is read by YAML as the boolean true")
    assert second.startswith(f"{config}:2:10: mongodb: is an empty list")


def test_a_file_that_is_not_there_is_exit_code_78(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--config", str(tmp_path / "nothing.yaml")]) == 78
    assert "nothing.yaml:1:1: the file: cannot be read: No such file" in capsys.readouterr().err


# ---- the daemon's answers


@pytest.mark.parametrize(
    ("argv", "asked"),
    [
        (["reconfigure"], Reconfigure()),
        (["pause"], Pause(None, Outside(""))),
        (
            ["pause", "--for", "1h30m", "--reason", "deploy"],
            Pause(5400.0, Outside("deploy")),
        ),
        (["resume"], Resume()),
    ],
)
def test_a_verb_is_one_question_and_its_answer_is_shown(
    config: Path, serve: Serve, capsys: pytest.CaptureFixture[str], argv: list[str], asked: Wish
) -> None:
    daemon = serve(lambda _: done("as you wish"))
    assert cli.main(["--config", str(config), *argv]) == 0
    assert daemon.asked == [asked]
    assert capsys.readouterr() == ("as you wish\n", "")


def test_a_refusal_is_shown_on_stderr_with_its_exit_code(
    config: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(lambda _: {"ok": False, "text": "config.yaml:1:1: mode: no", "exit": 78})
    assert cli.main(["reconfigure", "--config", str(config)]) == 78
    assert capsys.readouterr() == ("", "config.yaml:1:1: mode: no\n")


def test_status_shows_all_instances_and_ends_with_1_for_trouble(
    config: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = document()
    serve(lambda _: done(status=shown))
    assert cli.main(["status", "--config", str(config)]) == 0
    assert {"shop", "blog"} <= set(re.findall(r"\w+", capsys.readouterr().out))
    shown["instances"][0]["state"] = "gave_up"
    assert cli.main(["status", "--config", str(config)]) == 1
    assert cli.main(["status", "blog", "--config", str(config)]) == 0


def test_a_status_that_is_refused_is_told(config: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve(lambda _: {"ok": False, "text": "32 clients are being served: try again", "exit": 1})
    assert cli.main(["status", "--config", str(config)]) == 1
    assert capsys.readouterr() == ("", "32 clients are being served: try again\n")


@pytest.mark.parametrize("verb", [["status"], ["status", "--json"], ["status", "shop"]])
def test_a_status_of_another_version_is_not_read_as_if_it_were_ours(
    config: Path, serve: Serve, capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    serve(lambda _: done(status={"version": 2, "apps": []}))
    assert cli.main([*verb, "--config", str(config)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"the status is of version 2, from a newer mongo-watchdog; this one reads version 1: {SAME}\n"


def test_status_of_one_instance_shows_no_other_one(
    config: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(lambda _: done(status=document()))
    assert cli.main(["status", "blog", "--config", str(config)]) == 0
    shown = capsys.readouterr().out
    assert "blog" in shown
    assert "shop" not in shown
    assert cli.main(["status", "--json", "--config", str(config)]) == 0
    assert json.loads(capsys.readouterr().out) == document()
    assert cli.main(["status", "blog", "--json", "--config", str(config)]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["instances"]] == ["blog"]


def test_status_of_an_unknown_instance_names_the_known_ones(
    config: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(lambda _: done(status=document()))
    assert cli.main(["status", "shpo", "--config", str(config)]) == 2
    assert capsys.readouterr() == ("", "there is no instance shpo; there are: shop, blog\n")


# ---- reload


@pytest.mark.parametrize("called", ["blog", "/run/blog/fifo"])
def test_an_instance_is_called_by_its_name_or_its_fifo_and_sent_by_its_fifo(
    config: Path, serve: Serve, capsys: pytest.CaptureFixture[str], called: str
) -> None:
    daemon = serve(lambda one: done("as you wish") if isinstance(one.wish, Reload) else done(status=document()))
    assert cli.main(["--config", str(config), "reload", called]) == 0
    assert daemon.asked == [Reload(Outside("/run/blog/fifo"))]
    assert cli.main(["--config", str(config), "reload", "blgo"]) == 2
    assert capsys.readouterr() == ("as you wish\n", "there is no instance blgo; there are: shop, blog\n")


# ---- reload --wait


def reloading(*outcomes: dict[str, Any]) -> Callable[[Incoming], Answer]:
    """Begin the reload `r1`, and show these outcomes one after the other; the last one stays."""
    rest, begun = list(outcomes), []

    def answer(one: Incoming) -> Answer:
        if isinstance(one.wish, Reload):
            begun.append(one.wish.instance)
            return done("shop: workers reload sent", reload="r1")
        if begun != ["/run/shop/fifo"]:  # the name is looked up first
            return done(status=document())
        last = rest.pop(0) if len(rest) > 1 else rest[0]
        return done(status=document(**{"id": "r1", **last}))

    return answer


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "POLL_S", 0.01)


@pytest.mark.parametrize(
    ("outcomes", "code", "lines"),
    [
        (
            [{"outcome": "reloading"}, {"outcome": "reloading"}, {"outcome": "recovered", "proven": True}],
            0,
            ["shop: reloading", "shop: recovered: its workers reach MongoDB; whether requests succeed is not seen"],
        ),
        (
            [{"outcome": "reloaded"}],
            0,
            ["shop: reloaded; whether it helped shows when the workers use MongoDB"],
        ),
        (
            [{"outcome": "reloading"}, {"outcome": "failed", "detail": "2 old workers are still there"}],
            1,
            ["shop: reloading", "shop: failed: 2 old workers are still there"],
        ),
        ([{"outcome": "overtaken"}], 1, ["shop: overtaken"]),
        (
            [{"outcome": "reloading", "id": "r2"}],
            1,
            ["shop: another reload took the place of this one; see `mongo-watchdog status shop`"],
        ),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_reload_waits_for_its_outcome_and_tells_each_change_once(
    config: Path,
    serve: Serve,
    capsys: pytest.CaptureFixture[str],
    *,
    outcomes: list[dict[str, Any]],
    code: int,
    lines: list[str],
) -> None:
    serve(reloading(*outcomes))
    assert cli.main(["reload", "shop", "--wait", "--config", str(config)]) == code
    assert capsys.readouterr().out.splitlines() == ["shop: workers reload sent", *lines]


@pytest.mark.parametrize(
    ("blind", "why"),
    [
        ({"blind": ["/proc/10/fd: no permission"]}, "/proc/10/fd: no permission"),
        ({}, "MongoDB has not been heard of"),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_a_reload_whose_end_nobody_can_see_is_waited_for_until_its_deadline(
    config: Path, serve: Serve, capsys: pytest.CaptureFixture[str], *, blind: dict[str, object], why: str
) -> None:
    deadlines = ["2026-11-22T10:01:02.000Z"] * 3

    def answer(one: Incoming) -> Answer:
        if isinstance(one.wish, Reload):
            return done("reload begun", reload="r1")
        shown = document(id="r1", outcome="reloading")
        at = deadlines.pop() if deadlines else None
        following = {"what": "the old workers to be gone and the new ones ready", "at": at}
        shown["instances"][0] |= {"state": "reloading", "next": following, **blind}
        return done(status=shown)

    serve(answer)
    assert cli.main(["reload", "shop", "--wait", "--config", str(config)]) == 1
    assert deadlines == []
    assert capsys.readouterr().err == f"shop: nobody can see how the reload ends: {why}\n"


def test_a_reload_that_is_not_begun_is_not_waited_for(
    config: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(lambda _: {"ok": False, "text": "shop: held: paused", "exit": 1, "reload": None})
    assert cli.main(["reload", "shop", "--wait", "--config", str(config)]) == 1
    assert capsys.readouterr() == ("", "shop: held: paused\n")


@pytest.mark.parametrize(
    ("options", "now", "restart"),
    [([], False, False), (["--now"], True, False), (["--now", "--with", "restart"], True, True)],
)
def test_reload_asks_for_just_what_was_typed(
    config: Path, serve: Serve, *, options: list[str], now: bool, restart: bool
) -> None:
    asked: list[Wish] = []

    def answer(one: Incoming) -> Answer:
        asked.append(one.wish)
        return done("reload begun", reload="r1") if isinstance(one.wish, Reload) else done(status=document())

    serve(answer)
    assert cli.main(["reload", "shop", *options, "--config", str(config)]) == 0
    assert asked[-1] == Reload(Outside("/run/shop/fifo"), now=now, restart=restart)


@pytest.mark.parametrize("what", ["workers", "mules", ""])
def test_reload_knows_no_other_way_than_a_restart(config: Path, what: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["reload", "shop", "--now", "--with", what, "--config", str(config)])
    assert ended.value.code == 2


# ---- no answer


def test_without_a_daemon_the_exit_code_is_3(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["status"], ["pause"], ["resume"], ["reconfigure"], ["reload", "shop", "--wait"]):
        assert cli.main([*argv, "--config", str(config)]) == 3
        told = f"mongo-watchdog is not running (no answer on {config.parent}/c.sock); start it with"
        assert capsys.readouterr() == ("", f"{told} `systemctl start mongo-watchdog`\n")


def accept_and_close(listener: socket.socket) -> None:
    accepted, _ = listener.accept()
    accepted.close()


def test_a_daemon_that_still_listens_elsewhere_is_not_called_stopped(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`control_socket` was changed and taken over; what takes effect at the next start."""
    config.write_text(f"{config.read_text()}state_dir: {tmp_path}/state\n")
    holding = Store(tmp_path / "state")
    try:
        assert cli.main(["status", "--config", str(config)]) == 3
    finally:
        holding.close()
    assert capsys.readouterr().err == (
        f"mongo-watchdog runs (pid {os.getpid()}) and does not listen on {config.parent}/c.sock: `control_socket` "
        "takes effect at its start; restart it with `systemctl restart mongo-watchdog`\n"
    )
    assert cli.main(["status", "--config", str(config)]) == 3
    assert capsys.readouterr().err.startswith("mongo-watchdog is not running (no answer on ")


def test_an_answer_that_ends_early_is_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(config.parent / "c.sock"))
        listener.listen()
        thread = threading.Thread(target=accept_and_close, args=[listener])
        thread.start()
        assert cli.main(["status", "--config", str(config)]) == 3
        thread.join(20)
    assert f"mongo-watchdog gave no answer on {config.parent}/c.sock: " in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody who may not")
def test_who_may_not_talk_to_the_daemon_is_told_how(tmp_path: Path) -> None:
    """Run as `nobody`, who can read neither the configuration nor the socket's folder."""
    program = (
        "import contextlib, io, os, pathlib, sys; from watchdogd.cli import main as cli\n"
        "cli.DEFAULT_CONTROL_SOCKET = pathlib.Path(sys.argv[1], 'c.sock')\n"
        "ask = lambda: cli.main(['status', '--config', sys.argv[1] + '/config.yaml'])\n"
        "with contextlib.redirect_stderr(io.StringIO()): ask()  # imports what nobody may not read\n"
        "os.setgroups([]); os.setuid(65534)\n"
        "sys.exit(ask())"
    )
    tmp_path.chmod(0o700)
    (tmp_path / "config.yaml").write_text("")
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    first, second = ran.stderr.splitlines()
    assert (ran.returncode, ran.stdout) == (77, "")
    assert first.startswith(f"{tmp_path}/c.sock: no permission; use sudo, or become a member of its group")
    assert second.startswith("that is the default socket, since")
    assert "config.yaml:1:1: the file: cannot be read: Permission denied" in second


def test_status_needs_neither_a_right_configuration_nor_its_secrets(
    config: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(lambda _: done("resumed"))
    config.write_text(f"control_socket: {config.parent}/c.sock\nmode: on\nmongodb: [{{uri_credential: x}}]\n")
    assert cli.main(["resume", "--config", str(config)]) == 0
    assert capsys.readouterr().out == "resumed\n"


# ---- schemas


@pytest.mark.parametrize("name", sorted({one.schema for one in FORMATS}))
def test_a_schema_is_printed_as_it_is_shipped(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert cli.main(["schema", name]) == 0
    assert json.loads(capsys.readouterr().out) == schema(name)


# ---- the command line itself


def test_version_and_help_of_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"mongo-watchdog {__version__}\n"
    for verb in ("run", "check", "status", "connections", "reconfigure", "reload", "pause", "resume", "schema"):
        with pytest.raises(SystemExit, match="0"):
            cli.main([verb, "--help"])
        assert "--config FILE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "required: VERB"),
        (["relaod"], "invalid choice: 'relaod'"),
        (["reload"], "required: INSTANCE"),
        (["pause", "--for", "15"], "argument --for: `15` has no unit; write `15s`"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(argv)
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--for", "0s"], "argument --for: `0s` is no time at all; leave --for out to pause until `resume`"),
        (["--for", "0"], "argument --for: `0` is no time at all; leave --for out to pause until `resume`"),
        (["--for", "-5m"], "argument --for: `-5m` is in the past; write how long from now, like 30m"),
        (["--for=-5m"], "argument --for: `-5m` is in the past; write how long from now, like 30m"),
        (["--for", "100000h"], "argument --for: `100000h` is more than 3650 days; leave --for out to pause"),
        (["--reason", "x" * 60_000], "argument --reason: has 60000 characters; write it in 300, which is what"),
    ],
)
def test_a_pause_that_cannot_be_is_one_sentence(argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["pause", *argv])
    line, end = capsys.readouterr().err.split("\n")
    assert line.startswith(f"mongo-watchdog pause: {told}")
    assert end == ""


def test_a_reader_that_goes_away_is_no_error(config: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "watchdogd", "check", "--config", str(config)]
    ran = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=50)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, b"")


def test_an_interrupt_ends_quietly_with_130(config: Path, serve: Serve) -> None:
    daemon = serve(reloading({"outcome": "reloading"}))
    process = subprocess.Popen(
        [sys.executable, "-m", "watchdogd", "reload", "shop", "--wait", "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "shop: workers reload sent\n"
        assert process.stdout.readline() == "shop: reloading\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, out, err) == (130, "", "")
    assert len(daemon.asked) == 1


def test_who_else_holds_a_connection_is_asked_by_the_command_line_alone() -> None:
    program = (
        "import sys; import watchdogd.cli.main, watchdogd.service.start, watchdogd.service.daemon\n"
        "assert 'watchdogd.observe.observer' in sys.modules; before = 'psutil' in sys.modules\n"
        "import watchdogd.cli.live; print(before, 'psutil' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50)
    assert ran.stdout == "False True\n"


def test_a_question_loads_neither_pymongo_nor_the_daemon(config: Path, serve: Serve) -> None:
    serve(lambda _: done(status=document()))
    program = (
        "import sys; from watchdogd.cli import main as cli; code = cli.main(['status', '--config', sys.argv[1]])\n"
        "heavy = {'pymongo', 'psutil', 'watchdogd.service.daemon', 'watchdogd.cli.live'}\n"
        "sys.exit(code or sorted(heavy & set(sys.modules)) or 0)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(config)], capture_output=True, text=True, check=False, timeout=50
    )
    assert (ran.returncode, ran.stderr) == (0, "")
