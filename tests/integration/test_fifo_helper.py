import ast
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from rig.processes import wait_for
from tests.integration.test_fifo import RealFifo, held
from watchdogd.act import end_helper, fifo_helper, privileged
from watchdogd.act.helper import FIFO, WITHIN_S, attempt, question, wake
from watchdogd.model.base import CHAIN, RESTART, WORKERS, Command
from watchdogd.model.done import Moment, Result

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can start the helper for another user, and own what it believes"
)

ROOT = Path(__file__).resolve().parents[2]
DAEMON = 65534  # nobody: stands for mongo-watchdog
DAEMON_NAME = "nobody"
ANSWER_WITHIN_S = 30.0  # a Python is started for it
FOREVER = 1e9


@dataclass
class Place:
    """A folder that everybody may enter, with the configuration, the socket, and the helper that listens there."""

    folder: Path
    stack: ExitStack
    program: str = "watchdogd.act.fifo_helper"

    def __post_init__(self) -> None:
        self.config = self.folder / "etc" / "config.yaml"
        self.config.parent.mkdir()
        self.socket = self.folder / "helper.socket"
        self.fifo = self.stack.enter_context(closing(RealFifo(self.folder / "fifo")))
        self.configure(f"uwsgi:\n  - master_fifo: {self.fifo.path}\n")

    def configure(self, text: str) -> None:
        """Writes the configuration, as root's."""
        self.config.write_text(text)
        self.config.chmod(0o640)

    def listen(self) -> None:
        """Listens and starts the helper on it, as systemd does."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(self.socket))
            self.socket.chmod(0o666)
            listener.listen()
            command = [sys.executable, "-m", self.program, DAEMON_NAME, str(self.config)]
            self.helper = subprocess.Popen(command, stdin=listener.fileno(), stderr=subprocess.PIPE, cwd=ROOT)
        self.stack.callback(self.helper.wait)
        self.stack.callback(self.helper.kill)
        assert self.helper.stderr is not None
        self.stack.callback(self.helper.stderr.close)

    def raw(self, message: bytes, *descriptors: int, uid: int = DAEMON) -> str:
        """Sends any message as that user, and gives the answer; empty where there is none."""
        with acting_as(uid), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.settimeout(ANSWER_WITHIN_S)
            client.connect(str(self.socket))
            socket.send_fds(client, [message], descriptors)
            return client.recv(65536).decode()

    def ask(
        self,
        command: str = "w",
        path: str | None = None,
        *,
        sent: int | None = None,
        since: float = 0,
        until: float = FOREVER,
        owner: int = 0,
        uid: int = DAEMON,
    ) -> str:
        """A well-formed request; `sent`: another descriptor than that of what is at the path."""
        path = path or self.fifo.path
        message = f"{command} {since} {until} {owner} {path}".encode()
        if sent is not None:
            return self.raw(message, sent, uid=uid)
        with held(path) as descriptor:
            return self.raw(message, descriptor, uid=uid)

    def attempt(self, command: Command, owner: int, moment: Moment | None = None) -> tuple[Result, str]:
        """One attempt of the daemon, by the descriptor that it took when the FIFO was first there."""
        with acting_as(DAEMON):
            helper = FIFO._replace(socket=str(self.socket))
            return attempt(self.fifo.fd, self.fifo.path, command, owner, moment, helper=helper)


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """This process is somebody else meanwhile."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def quiet_place() -> Iterator[Place]:
    """A place where nobody listens yet; not below pytest's folders, which are for root alone."""
    with tempfile.TemporaryDirectory(prefix="mw-helper-") as folder, ExitStack() as stack:
        Path(folder).chmod(0o755)
        yield Place(Path(folder), stack)


@pytest.fixture
def place(quiet_place: Place) -> Place:
    quiet_place.listen()
    return quiet_place


def refused(answer: str, *parts: str) -> bool:
    return answer.startswith("refused ") and all(part in answer for part in parts)


@pytest.mark.parametrize("command", [WORKERS, CHAIN])
def test_the_daemon_gets_its_byte_written(place: Place, command: Command) -> None:
    assert place.ask(command.value) == "written "
    assert place.fifo.commands == [command]


def test_one_helper_serves_one_request_after_the_other(place: Place) -> None:
    assert [place.ask("w"), place.ask("q")[:7], place.ask("c")] == ["written ", "refused", "written "]
    assert place.fifo.commands == [WORKERS, CHAIN]


@pytest.mark.parametrize("uid", [0, 1, 33])
def test_nobody_else_gets_anything_written_not_even_root(place: Place, uid: int) -> None:
    assert refused(place.ask(uid=uid), "only the user of mongo-watchdog")
    assert place.ask("c") == "written "
    assert place.fifo.commands == [CHAIN]


@pytest.mark.parametrize("command", ["q", "Q", "W", "R", "f", "C", "p", "s", "0", "ww", "", "\n", "w\n", "é"])
def test_no_other_command_is_written(place: Place, command: str) -> None:
    assert refused(place.ask(command), "COMMAND is w, c or r")
    assert place.ask("c") == "written "
    assert place.fifo.commands == [CHAIN]


@pytest.mark.parametrize(
    "message",
    [
        b"\0",
        b"w",
        b"w 0 1",
        b"w 0 1 2",
        b"w x 1 0 /fifo",
        b"w 0 x 0 /fifo",
        b"w 0 1 x /fifo",
        b"\xff\xfe \n",
        b" " * 9000,
        b"w" * 9000,
    ],
)
def test_what_is_not_a_request_is_refused_with_its_form(place: Place, message: bytes) -> None:
    assert refused(place.raw(message, place.fifo.fd), "`COMMAND NOT_BEFORE NOT_AFTER UID PATH`")
    assert place.ask() == "written "


def test_a_way_of_reloading_that_is_not_allowed_is_refused(place: Place) -> None:
    assert refused(place.ask(RESTART.value), "`reloads`")
    place.configure(f"uwsgi: [{{master_fifo: {place.fifo.path}, reloads: [restart]}}]")
    assert refused(place.ask(WORKERS.value), "`reloads`")
    assert place.ask(RESTART.value) == "written "
    assert place.fifo.commands == [RESTART]


def test_only_a_path_that_the_configuration_names_may_be_asked_for(place: Place) -> None:
    with closing(RealFifo(place.folder / "other")) as other:
        (place.folder / "link").symlink_to(place.fifo.path)
        for path in (other.path, f"{place.folder}/link", f"{place.folder}/./fifo", "/etc/shadow", "fifo", ""):
            assert refused(place.raw(f"w 0 {FOREVER} 0 {path}".encode(), place.fifo.fd), "names no"), path
        place.configure(f"uwsgi: [{{master_fifo: {place.folder}//other}}]")  # read anew each time
        assert place.ask("w", other.path) == "written "
        assert refused(place.ask("w"), "names no")
        assert other.commands == [WORKERS]


def a_file(path: Path) -> None:
    path.write_text("kept")


def a_directory(path: Path) -> None:
    path.mkdir()


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize("make", [a_file, a_directory, a_socket])
def test_a_named_path_that_is_no_fifo_is_refused_and_not_touched(place: Place, make: Callable[[Path], None]) -> None:
    it = place.folder / "it"
    make(it)
    place.configure(f"uwsgi: [{{master_fifo: {it}}}]")
    assert refused(place.ask("w", str(it)), f"{it} is not a FIFO")
    assert not it.is_file() or it.read_text() == "kept"


@pytest.mark.parametrize("make", [a_file, a_directory, a_socket])
def test_a_descriptor_of_anything_else_is_refused_beside_a_named_path(
    place: Place, make: Callable[[Path], None]
) -> None:
    it = place.folder / "it"
    make(it)
    with held(it) as descriptor:
        assert refused(place.ask(sent=descriptor), "leads to another file than what was handed over")
    assert not it.is_file() or it.read_text() == "kept"


@pytest.mark.parametrize("make", [a_file, a_directory, a_socket])
def test_a_descriptor_of_anything_else_is_refused_where_nothing_is_named(
    place: Place, make: Callable[[Path], None]
) -> None:
    place.configure("mongodb: []")
    it = place.folder / "it"
    make(it)
    os.chown(it, 33, 33)
    assert refused(place.ask("w", str(it), owner=33), "is not a FIFO")
    assert not it.is_file() or it.read_text() == "kept"


def test_a_fifo_of_another_owner_than_its_reader_is_refused(place: Place) -> None:
    assert refused(place.ask(owner=33), "belongs to uid 0")


def test_in_mode_observe_nothing_is_written(place: Place) -> None:
    place.configure(f"mode: observe\nuwsgi: [{{master_fifo: {place.fifo.path}}}]")
    assert refused(place.ask(), "mode: act")


def test_a_request_that_came_too_late_is_not_carried_out(place: Place) -> None:
    for until in (time.monotonic() - 0.001, float("nan"), float("-inf")):
        assert place.ask(until=until).startswith("try_again ")
        assert place.ask(since=until, until=until)[:8] in {"try_agai", "refused "}
    assert place.ask("c") == "written "
    assert place.fifo.commands == [CHAIN]


def test_a_request_before_its_time_waits_for_it(place: Place) -> None:
    begun = time.monotonic()
    assert place.ask(since=begun + 1.0) == "written "
    assert time.monotonic() >= begun + 1.0
    assert place.fifo.commands == [WORKERS]


@pytest.mark.parametrize("ahead_s", [fifo_helper.AHEAD_S + 1, 1e6, float("inf"), float("nan")])
def test_a_request_long_before_its_time_is_refused_at_once(place: Place, ahead_s: float) -> None:
    begun = time.monotonic()
    assert refused(place.ask(since=begun + ahead_s), "before its time")
    assert time.monotonic() < begun + ANSWER_WITHIN_S
    assert place.ask("c") == "written "
    assert place.fifo.commands == [CHAIN]


def test_a_request_whose_time_is_over_before_it_begins_is_not_carried_out(place: Place) -> None:
    begun = time.monotonic()
    assert place.ask(since=begun + 0.5, until=begun + 0.4).startswith("try_again ")
    assert place.ask("c") == "written "
    assert place.fifo.commands == [CHAIN]


@pytest.mark.parametrize("count", [0, 2, 3, 50])
def test_a_request_has_one_descriptor_no_less_and_no_more(place: Place, count: int) -> None:
    message = f"w 0 {FOREVER} 0 {place.fifo.path}".encode()
    assert refused(place.raw(message, *[place.fifo.fd] * count), "with one descriptor")
    assert place.raw(message, place.fifo.fd) == "written "
    assert place.fifo.commands == [WORKERS]


def test_the_path_of_one_entry_does_not_open_the_fifo_of_another(place: Place) -> None:
    with closing(RealFifo(place.folder / "other")) as other:
        os.chown(other.path, 33, 33)
        place.configure(f"uwsgi: [{{master_fifo: {place.fifo.path}}}, {{master_fifo: {other.path}}}]")
        for owner in (0, 33):
            assert refused(place.ask(sent=other.fd, owner=owner), "another file than what was handed over")
        assert place.ask("c", other.path, owner=33) == "written "
        assert other.commands == [CHAIN]


@pytest.mark.parametrize("user", ["daemon", 1], ids=["by name", "by number"])
def test_a_link_of_another_user_counts_where_the_entry_trusts_him(place: Place, user: str | int) -> None:
    link = place.folder / "current"
    link.symlink_to(place.folder)
    os.lchown(link, 1, 1)  # daemon, on every Debian
    path = f"{link}/fifo"
    place.configure(f"uwsgi: [{{master_fifo: {path}}}]")
    assert refused(place.ask("w", path), str(link), "trust_owners: [daemon]")
    place.configure(f"uwsgi: [{{master_fifo: {path}, trust_owners: [sys]}}]")
    assert refused(place.ask("w", path), "trust_owners: [daemon]")
    place.configure(f"uwsgi: [{{master_fifo: {path}, trust_owners: [sys, '{user}']}}]")
    assert place.ask("c", path) == "written "
    assert place.fifo.commands == [CHAIN]


@pytest.mark.parametrize("trusted", ["daemon", "{daemon: 1}", "[1.5]", "[[daemon]]", "[nobody-of-this-name]", "[-1]"])
def test_a_trust_that_cannot_be_read_is_none(place: Place, trusted: str) -> None:
    link = place.folder / "current"
    link.symlink_to(place.folder)
    os.lchown(link, 1, 1)
    place.configure(f"uwsgi: [{{master_fifo: {link}/fifo, trust_owners: {trusted}}}]")
    assert refused(place.ask("w", f"{link}/fifo"), "trust_owners: [daemon]")


def test_a_link_that_is_turned_to_the_fifo_of_somebody_else_leads_nowhere(place: Place) -> None:
    """A daemon that was taken over sends the descriptor of the one with the path of the other."""
    with ExitStack() as stack:
        fifos = []
        for uid in (1, 33):
            folder = place.folder / str(uid)
            folder.mkdir()
            fifos.append(stack.enter_context(closing(RealFifo(folder / "fifo"))))
            os.chown(fifos[-1].path, uid, uid)
        own, other = fifos
        link = place.folder / "1" / "link"
        link.symlink_to(own.path)
        os.lchown(link, 1, 1)
        place.configure(f"uwsgi: [{{master_fifo: {link}}}, {{master_fifo: {other.path}}}]")
        assert place.ask(path=str(link), sent=own.fd, owner=1) == "written "
        link.unlink()
        link.symlink_to(other.path)
        os.lchown(link, 1, 1)
        for owner in (1, 33):
            assert refused(
                place.ask(path=str(link), sent=other.fd, owner=owner), "is a symbolic link of daemon", str(link)
            )
            assert refused(place.ask(path=str(link), sent=own.fd, owner=owner), "another file")
        assert own.commands == [WORKERS]
        assert place.ask("c", other.path, owner=33) == "written "
        assert other.commands == [CHAIN]


def test_what_was_handed_over_is_closed_again_whatever_was_asked(place: Place) -> None:
    def held_by_the_helper() -> list[Path]:
        links = []
        for path in Path(f"/proc/{place.helper.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # just closed
                links.append(path.readlink())
        return [link for link in links if link == Path(place.fifo.path)]

    message = f"w 0 {FOREVER} 0 {place.fifo.path}".encode()
    for _ in range(40):
        place.ask()
        place.ask("q")
        place.raw(message, place.fifo.fd, place.fifo.fd)
        place.raw(message, place.fifo.fd, uid=33)
        place.raw(b"rubbish", *[place.fifo.fd] * 9)
    wait_for(lambda: not held_by_the_helper(), "the end of the last request", within=ANSWER_WITHIN_S)


def test_a_found_fifo_is_written_unless_it_is_roots(place: Place) -> None:
    place.configure("mongodb: []")
    assert refused(place.ask(), "root's", "add it under `uwsgi:`")
    os.chown(place.fifo.path, 33, 33)
    assert refused(place.ask(RESTART.value, owner=33), "not allowed")
    assert refused(place.ask(owner=34), "belongs to uid 33")
    assert refused(place.raw(f"w 0 {FOREVER} 33 fifo".encode(), place.fifo.fd), "not an absolute path")
    assert place.ask(owner=33) == "written "
    assert place.fifo.commands == [WORKERS]


@pytest.mark.parametrize(
    "text", ["", "uwsgi:", "uwsgi: 3", "uwsgi: [3]", "uwsgi: [{master_fifo: 3}]", "[", "- 1", "\t"]
)
def test_a_configuration_that_names_nothing_allows_nothing(place: Place, text: str) -> None:
    place.configure(text)
    assert place.ask().startswith("refused ")


def test_what_it_says_of_a_broken_configuration_quotes_nothing_of_it(place: Place) -> None:
    place.configure("mongodb: [{uri: mongodb://u:hunter2@h/}]\nuwsgi: {{hunter2")
    assert "hunter2" not in place.ask()


def make_writable(place: Place) -> None:
    place.config.chmod(0o660)


def give_away(place: Place) -> None:
    os.chown(place.config, DAEMON, -1)


def open_the_folder(place: Place) -> None:
    place.config.parent.chmod(0o775)


def remove(place: Place) -> None:
    place.config.unlink()


def make_a_fifo_of_it(place: Place) -> None:
    place.config.unlink()
    os.mkfifo(place.config, 0o600)


@pytest.mark.parametrize("spoil", [make_writable, give_away, open_the_folder, remove, make_a_fifo_of_it])
def test_a_configuration_that_others_may_have_written_is_not_believed(
    place: Place, spoil: Callable[[Place], None]
) -> None:
    spoil(place)
    assert place.ask().startswith("refused ")


def test_a_client_that_says_nothing_holds_nobody_up(place: Place) -> None:
    with acting_as(DAEMON), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(str(place.socket))
        begun = time.monotonic()
        assert place.ask() == "written "
    assert time.monotonic() - begun < privileged.PATIENCE_S + ANSWER_WITHIN_S / 2


def test_a_client_that_has_gone_harms_nothing(place: Place) -> None:
    with acting_as(DAEMON), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as gone:
        gone.connect(str(place.socket))
    with acting_as(DAEMON), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as gone:
        gone.connect(str(place.socket))
        socket.send_fds(gone, [f"q 0 1 0 {place.fifo.path}".encode()], [place.fifo.fd])
    assert place.ask() == "written "


def test_every_request_is_in_its_log(place: Place) -> None:
    place.ask("q")
    place.ask("w")
    place.helper.kill()
    assert place.helper.stderr is not None
    first, second = place.helper.stderr.read().decode().splitlines()
    assert first.startswith(f"<4>user id {DAEMON} asked `q ")
    assert second.startswith(f"<5>user id {DAEMON} asked `w ")
    assert second.endswith(f" {place.fifo.path}`: written ")


def test_what_is_asked_is_logged_as_text_and_in_one_line(place: Place) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(place.socket))
        client.send(b"w \xff\x1b[31m\n<0>all is well")
        client.recv(1000)
    place.helper.kill()
    assert place.helper.stderr is not None
    (line,) = place.helper.stderr.read().decode().splitlines()
    assert f"user id {os.geteuid()} asked `w \\xff\\x1b[31m\\n<0>all is well`: " in line


# ------------------------------------------------------------------------------------------------- the client


def test_the_daemon_asks_the_helper_for_the_fifo_of_somebody_else(place: Place) -> None:
    os.chown(place.fifo.path, 33, 33)
    answers = [place.attempt(one, 33) for one in (WORKERS, RESTART)]
    assert answers[0] == (Result.WRITTEN, "")
    assert answers[1][0] is Result.REFUSED
    assert "`reloads`" in answers[1][1]
    assert place.fifo.commands == [WORKERS]


def test_a_byte_that_has_a_moment_is_written_in_it_by_the_helper_too(place: Place) -> None:
    os.chown(place.fifo.path, 33, 33)
    assert place.attempt(CHAIN, 33)[0] is Result.WRITTEN  # it runs, and has read the configuration once
    begin = time.monotonic() + 0.3
    assert place.attempt(WORKERS, 33, Moment(begin, begin + 60)) == (Result.WRITTEN, "")
    assert time.monotonic() >= begin
    late, why = place.attempt(WORKERS, 33, Moment(begin - 1, begin))
    assert (late, "too late" in why) == (Result.TRY_AGAIN, True)
    assert place.fifo.commands == [CHAIN, WORKERS]


def test_the_helper_is_woken_before_it_is_needed_and_that_asks_for_nothing(place: Place) -> None:
    with acting_as(DAEMON):
        wake(33, helper=FIFO._replace(socket=str(place.socket)))
    assert place.ask("w") == "written "
    assert place.fifo.commands == [WORKERS]
    assert place.helper.poll() is None


def test_a_helper_that_cannot_be_woken_is_no_fault(quiet_place: Place) -> None:
    with acting_as(DAEMON):
        for path in (quiet_place.socket, quiet_place.folder):  # nobody listens; no socket at all
            wake(33, helper=FIFO._replace(socket=str(path)))


def test_a_fifo_without_a_reader_is_tried_again_through_the_helper_too(place: Place) -> None:
    os.chown(place.fifo.path, 33, 33)
    place.fifo.lose_its_reader()
    result, why = place.attempt(WORKERS, 33)
    assert result is Result.TRY_AGAIN
    assert "no reader" in why


def test_a_fifo_that_was_made_anew_since_the_look_is_tried_again_through_the_helper_too(place: Place) -> None:
    """The helper may have to be started first: that is time enough for a command of somebody else."""
    os.chown(place.fifo.path, 33, 33)
    Path(place.fifo.path).unlink()
    assert place.attempt(WORKERS, 33)[0] is Result.TRY_AGAIN  # it is just being made
    with closing(RealFifo(place.folder / "fifo")) as anew:
        os.chown(anew.path, 33, 33)
        assert place.attempt(WORKERS, 33)[0] is Result.TRY_AGAIN
        place.fifo, old = anew, place.fifo
        assert place.attempt(CHAIN, 33) == (Result.WRITTEN, "")
        assert anew.commands == [CHAIN]
        assert old.commands == []


def test_its_own_fifo_it_writes_itself(quiet_place: Place) -> None:
    os.chown(quiet_place.fifo.path, DAEMON, DAEMON)
    quiet_place.socket.touch()  # nobody listens
    assert quiet_place.attempt(CHAIN, DAEMON) == (Result.WRITTEN, "")
    assert quiet_place.fifo.commands == [CHAIN]


def test_without_a_helper_it_says_how_to_start_one(quiet_place: Place) -> None:
    result, why = quiet_place.attempt(WORKERS, 0)
    assert result is Result.REFUSED
    assert "mongo-watchdog-fifo.socket" in why


def test_a_helper_that_is_not_for_this_user_is_named(quiet_place: Place) -> None:
    quiet_place.listen()
    quiet_place.socket.chmod(0o600)
    result, why = quiet_place.attempt(WORKERS, 0)
    assert result is Result.REFUSED
    assert "SocketUser=" in why


def test_a_helper_that_is_stuck_costs_its_time_and_is_tried_again(quiet_place: Place) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(quiet_place.socket))
        quiet_place.socket.chmod(0o666)
        listener.listen()
        begun = time.monotonic()
        result, why = quiet_place.attempt(WORKERS, 0)
        assert time.monotonic() - begun >= WITHIN_S
    gone, _ = quiet_place.attempt(WORKERS, 0)
    assert (result, gone) == (Result.TRY_AGAIN, Result.TRY_AGAIN)
    assert "did not answer" in why


# ------------------------------------------------------------------------------------------------- a question


BOTH = pytest.mark.parametrize("program", ["watchdogd.act.fifo_helper", "watchdogd.act.end_helper"])


@pytest.fixture
def asked(quiet_place: Place, program: str) -> Place:
    """The one helper or the other, and a FIFO of www-data."""
    quiet_place.program = program
    os.chown(quiet_place.fifo.path, 33, 33)
    quiet_place.listen()
    return quiet_place


def answer_to(place: Place, path: str | None = None, uid: int = 33) -> tuple[Result, str]:
    """What the helper answers the daemon."""
    with acting_as(DAEMON):
        return question(FIFO._replace(socket=str(place.socket)), path or place.fifo.path, uid)


@BOTH
def test_a_question_is_answered_and_nothing_is_done(asked: Place) -> None:
    assert answer_to(asked) == (Result.WILLING, "")
    assert asked.raw(b"? 33 " + asked.fifo.path.encode(), asked.fifo.fd) == "willing "
    assert asked.fifo.commands == []


@BOTH
@pytest.mark.parametrize("spoil", [make_writable, give_away, open_the_folder, remove])
def test_a_question_is_refused_where_the_configuration_is_not_believed(
    asked: Place, spoil: Callable[[Place], None]
) -> None:
    spoil(asked)
    result, why = answer_to(asked)
    assert (result, str(asked.config.parent) in why) == (Result.REFUSED, True)


@BOTH
def test_a_question_is_refused_where_it_would_not_act(asked: Place) -> None:
    assert answer_to(asked, f"{asked.folder}/other")[1] == (
        f"the configuration names no `master_fifo: {asked.folder}/other`"
    )
    assert answer_to(asked, uid=34)[1] == f"{asked.fifo.path} is no FIFO of user id 34, whom the master runs as"
    link = asked.folder / "link"
    link.symlink_to(asked.fifo.path)
    os.lchown(link, 1, 1)
    asked.configure(f"uwsgi: [{{master_fifo: {link}}}]")
    result, why = answer_to(asked, str(link))
    assert (result, "is a symbolic link of daemon" in why) == (Result.REFUSED, True)
    asked.configure(f"mode: observe\nuwsgi: [{{master_fifo: {asked.fifo.path}}}]")
    result, why = answer_to(asked)
    assert (result, "mode: act" in why) == (Result.REFUSED, True)
    asked.configure(f"uwsgi: [{{master_fifo: {asked.fifo.path}}}]")
    Path(asked.fifo.path).unlink()
    assert answer_to(asked) == (Result.TRY_AGAIN, f"{asked.fifo.path} is just being made anew, or is gone")


@BOTH
def test_a_question_about_a_found_instance_is_refused_for_roots_alone(asked: Place) -> None:
    asked.configure("mongodb: []")
    assert answer_to(asked) == (Result.WILLING, "")
    result, why = answer_to(asked, uid=0)
    assert (result, "add it under `uwsgi:`" in why) == (Result.REFUSED, True)


@BOTH
def test_a_question_has_its_form_and_its_caller(asked: Place) -> None:
    for message in (b"?", b"? 33", b"? www-data /fifo"):
        assert refused(asked.raw(message), "a question is `? UID PATH`"), message
    for uid in (0, 33):
        assert refused(asked.raw(f"? 33 {asked.fifo.path}".encode(), uid=uid), "only the user of mongo-watchdog")


# ------------------------------------------------------------------------------------------------- its size


WHAT_BOTH_GET = {
    "watchdogd",
    "watchdogd.act",
    "watchdogd.act.privileged",
    "watchdogd.model",
    "watchdogd.model.base",
    "watchdogd.model.done",
    "watchdogd.model.text",
    "watchdogd.paths",
}


@pytest.mark.parametrize(
    ("program", "more"),
    [(fifo_helper, {"watchdogd.act.fifo"}), (end_helper, {"watchdogd.act.end", "watchdogd.handlers"})],
    ids=["fifo", "end"],
)
def test_a_helper_is_small_and_gets_nothing_but_what_it_acts_with_and_yaml(program: ModuleType, more: set[str]) -> None:
    sources = [Path(str(one.__file__)).read_text() for one in (program, privileged)]
    assert all(len(source.splitlines()) <= 200 for source in sources)
    imported = {
        name.partition(".")[0]
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([str(node.module)] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
    }
    assert imported - sys.stdlib_module_names == {"yaml", "watchdogd"}
    shows = f"import sys, {program.__name__}; print(*(one for one in sys.modules if one.startswith('watchdogd')))"
    loaded = subprocess.run([sys.executable, "-c", shows], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(loaded.split()) == WHAT_BOTH_GET | {program.__name__} | more
