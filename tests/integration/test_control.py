import contextlib
import json
import os
import pwd
import selectors
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rig.processes import wait_for
from tests.integration.nobody import NOBODY, being_nobody, needs_root
from tests.world.schemas import strict
from watchdogd import codec
from watchdogd.codec import CodecError
from watchdogd.model.base import InstanceId
from watchdogd.model.seen import Operator, Request, Verb
from watchdogd.model.text import AlreadyRunning, Outside
from watchdogd.service.control import (
    DECIDE_S,
    LONGEST_PAUSE_S,
    LONGEST_REASON,
    MAX_CLIENTS,
    MAX_LINE,
    PATIENCE_S,
    Check,
    ControlError,
    Incoming,
    NotRunning,
    Pause,
    Reconfigure,
    Reload,
    Resume,
    Server,
    Status,
    Wish,
    ask,
    parse,
    request_of,
)

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = {kind: strict("control", kind) for kind in ("request", "answer")}


def valid(document: object, kind: str) -> bool:
    return SCHEMAS[kind].is_valid(document)


class Loop(threading.Thread):
    """The daemon's loop: it answers status at once, holds other requests, and moves its clock when told."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.now = 1000.0
        self.selector = selectors.DefaultSelector()
        self.server = Server(path, self.selector, clock=lambda: self.now)
        self.held: list[Incoming] = []
        self.taken: list[Incoming] = []
        self.document: dict[str, object] = {"ok": True, "text": "", "exit": 0, "status": {}}
        self.error: BaseException | None = None
        self._wake, self._woken = socket.socketpair()
        self._calls: list[Callable[[], object]] = []
        self.selector.register(self._woken, selectors.EVENT_READ, None)

    def run(self) -> None:
        try:
            while True:
                for key, mask in self.selector.select():
                    if key.data is None:
                        if self._woken.recv(1) == b"q":
                            return
                        self._calls.pop(0)()
                        continue
                    for one in self.server.on_ready(key, mask):
                        self.taken.append(one)
                        if isinstance(one.wish, Status):
                            self.server.answer(one, self.document)
                        else:
                            self.held.append(one)
        except BaseException as error:
            self.error = error
            raise

    def call(self, do: Callable[[], object]) -> None:
        """Runs something in the loop's thread and waits for it."""
        done = threading.Event()

        def run() -> None:
            do()
            done.set()

        self._calls.append(run)
        self._wake.send(b"c")
        assert done.wait(10)

    def later(self, seconds: float) -> None:
        """Moves the clock and lets the server look at it."""

        def expire() -> None:
            self.now += seconds
            self.server.expire(self.now)

        self.call(expire)

    def end(self) -> None:
        if self.is_alive():
            self._wake.send(b"q")
            self.join(10)
        self.server.close()
        self.selector.close()
        self._wake.close()
        self._woken.close()


@pytest.fixture
def path() -> Iterator[Path]:
    """Short, whatever the test's name: a socket's path has at most 107 characters."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder, "control.sock")


@pytest.fixture
def loop(path: Path) -> Iterator[Loop]:
    one = Loop(path)
    one.start()
    yield one
    one.end()
    assert one.error is None


@pytest.fixture
def dial(path: Path) -> Iterator[Callable[..., socket.socket]]:
    """Connects raw clients, which are closed at the end."""
    with ExitStack() as at_end:

        def connect(data: bytes = b"") -> socket.socket:
            client = at_end.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(10)
            client.connect(str(path))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(data)
            return client

        yield connect


def line_from(client: socket.socket) -> dict[str, Any]:
    received = b""
    while not received.endswith(b"\n"):
        chunk = client.recv(65536)
        assert chunk, received
        received += chunk
    document: dict[str, Any] = json.loads(received)
    assert valid(document, "answer"), document
    return document


def is_dropped(client: socket.socket) -> bool:
    """Waits at most 10 s for the other end to close."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def request(**fields: object) -> bytes:
    return json.dumps({"version": 2, **fields}).encode() + b"\n"


# ------------------------------------------------------------------------------------------------ one request


def test_a_request_gets_its_answer(loop: Loop, path: Path) -> None:
    assert ask(path, Status()) == {"version": 2, **loop.document}
    one = loop.taken[0]
    assert (one.wish, one.uid, one.pid) == (Status(), os.geteuid(), os.getpid())


def test_a_large_answer_arrives_whole(loop: Loop, path: Path) -> None:
    loop.document = {"ok": True, "text": "x" * 5_000_000, "exit": 0}
    assert ask(path, Status())["text"] == loop.document["text"]


def test_an_answer_may_come_later_and_others_are_served_meanwhile(loop: Loop, path: Path) -> None:
    answers: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(ask(path, Reload(Outside("shop")))))
    asking.start()
    wait_for(lambda: loop.held, "the request", within=10)
    assert ask(path, Status())["ok"]
    assert answers == []
    loop.call(lambda: loop.server.answer(loop.held[0], {"ok": True, "text": "begun", "exit": 0, "reload": "shop-1"}))
    asking.join(10)
    assert answers == [{"version": 2, "ok": True, "text": "begun", "exit": 0, "reload": "shop-1"}]


def test_requests_become_inputs_of_the_decision() -> None:
    def request(wish: Wish) -> Request | None:
        return Incoming("request-7", wish, uid=0, pid=1).request(100.0)

    fifo, root = InstanceId(Outside("/run/uwsgi/fifo")), Operator(Outside("root"), 0, 1)
    assert request(Reload(Outside(fifo))) == Request("request-7", Verb.RELOAD, fifo, by=root)
    now = Reload(Outside(fifo), now=True, restart=True)
    assert request(now) == Request("request-7", Verb.RELOAD, fifo, by=root, now=True, restart=True)
    pause = Pause(60, Outside("release"))
    assert request(pause) == Request("request-7", Verb.PAUSE, until=160.0, reason=Outside("release"), by=root)
    assert request(Pause()) == Request("request-7", Verb.PAUSE, by=root)
    assert request(Resume()) == Request("request-7", Verb.RESUME, by=root)
    stranger = Incoming("request-7", Resume(), uid=4_000_000, pid=1).request(0.0)
    assert stranger == Request("request-7", Verb.RESUME, by=Operator(Outside("user 4000000"), 4_000_000, 1))
    assert request(Status()) is None
    assert request(Reconfigure()) is None
    assert request(Check()) is None


@needs_root
def test_who_asks_is_who_the_kernel_says_whatever_he_writes(loop: Loop, path: Path) -> None:
    path.parent.chmod(0o711)
    path.chmod(0o666)
    line = request(verb="reload", instance="shop", now=True)
    asks = (
        "import os, socket, sys; os.setgroups([]); os.setuid(int(sys.argv[1])); one = socket.socket(socket.AF_UNIX)\n"
    )
    asks += "one.connect(sys.argv[2]); one.sendall(sys.argv[3].encode()); one.recv(9999)"
    asking = subprocess.Popen([sys.executable, "-c", asks, str(NOBODY), str(path), line])
    try:
        wait_for(lambda: loop.held, "the request", within=20)
        asked = loop.held[0].request(1.0)
        loop.call(lambda: loop.server.answer(loop.held[0], loop.document))
        assert asking.wait(20) == 0
    finally:
        asking.kill()
        asking.wait()
    name = Outside(pwd.getpwuid(NOBODY).pw_name)
    by = Operator(name, NOBODY, asking.pid)
    assert asked == Request(loop.held[0].id, Verb.RELOAD, InstanceId("shop"), by=by, now=True)


OUTSIDE = st.text().map(Outside)
WISHES: st.SearchStrategy[Wish] = st.one_of(
    st.builds(Status),
    st.builds(Reconfigure),
    st.builds(Check),
    st.builds(Reload, st.text(min_size=1).map(Outside), st.booleans(), st.booleans()),
    st.builds(
        Pause,
        st.none() | st.floats(0, LONGEST_PAUSE_S, exclude_min=True),
        st.none() | st.text(max_size=LONGEST_REASON).map(Outside),
    ),
    st.builds(Resume),
)


@given(WISHES)
def test_what_is_asked_fits_the_schema_and_is_what_is_taken(wish: Wish) -> None:
    document = request_of(wish)
    assert valid(document, "request")
    assert parse(codec.text(document).encode()) == wish


def test_every_request_has_an_id_of_its_own(loop: Loop, path: Path) -> None:
    for _ in range(3):
        ask(path, Status())
    assert len({one.id for one in loop.taken}) == 3


@pytest.mark.usefixtures("loop")
def test_a_request_in_pieces_is_one_request(dial: Callable[..., socket.socket]) -> None:
    client = dial()
    for byte in request(verb="status"):
        client.sendall(bytes([byte]))
    assert line_from(client)["ok"]
    assert is_dropped(client)


def test_a_client_that_has_said_its_line_may_close_its_half(loop: Loop, dial: Callable[..., socket.socket]) -> None:
    client = dial(request(verb="resume"))
    client.shutdown(socket.SHUT_WR)
    wait_for(lambda: loop.held, "the request", within=10)
    loop.call(lambda: loop.server.answer(loop.held[0], {"ok": True, "text": "resumed", "exit": 0}))
    assert line_from(client)["text"] == "resumed"


def test_an_answer_to_a_client_that_has_gone_is_dropped(loop: Loop, dial: Callable[..., socket.socket]) -> None:
    dial(request(verb="resume")).close()
    wait_for(lambda: loop.held, "the request", within=10)
    answer = {"ok": True, "text": "x" * 1_000_000, "exit": 0}
    loop.call(lambda: loop.server.answer(loop.held[0], answer))
    loop.call(lambda: loop.server.answer(loop.held[0], answer))


# ------------------------------------------------------------------------------------------- what clients do wrong

WRONG: list[tuple[bytes, str]] = [
    (b"\n", "JSON"),
    (b"hello\n", "JSON"),
    (b"\xff\xfe\n", "JSON"),
    (b"[" * 60_000 + b"\n", "JSON"),
    (b"[]\n", "JSON object"),
    (b'{"verb": "status"}\n', "version 2"),
    (
        b'{"version": 1, "verb": "status"}\n',
        "from an older mongo-watchdog; this one reads version 2: use the mongo-watchdog",
    ),
    (
        b'{"version": 3, "verb": "status"}\n',
        "from a newer mongo-watchdog; this one reads version 2: use the mongo-watchdog",
    ),
    (b'{"version": true, "verb": "status"}\n', "version 2"),
    (request(), "unknown verb None"),
    (request(verb="format"), "unknown verb 'format': there are status, reconfigure, check, reload"),
    (request(verb=["status"]), "unknown verb"),
    (request(verb="status", all=True), "status: expected none of all"),
    (request(verb="reload"), "reload: expected instance in it"),
    (request(verb="reload", instance=""), "reload.instance: expected the FIFO of an instance"),
    (request(verb="reload", instance=7), "reload.instance: expected str, found '7'"),
    (request(verb="pause", for_s="1h"), "pause.for_s: expected a number, found '1h'"),
    (request(verb="pause", for_s=True), "pause.for_s: expected a number"),
    (request(verb="pause", for_s=0), "seconds from 0"),
    (request(verb="pause", reason="x" * 301), "pause.reason: has 301 characters; at most 300 are kept"),
    (request(verb="pause", for_s=-5), "seconds from 0"),
    (request(verb="pause", for_s=10**400), "pause.for_s: expected a number"),
    (b'{"version": 2, "verb": "pause", "for_s": 1e999}\n', "pause.for_s: expected a number"),
    (b'{"version": 2, "verb": "pause", "for_s": NaN}\n', "NaN is not a number"),
]


@pytest.mark.parametrize(("sent", "said"), WRONG, ids=[repr(sent[:50]) for sent, _ in WRONG])
def test_a_wrong_request_gets_one_clear_error(
    loop: Loop, dial: Callable[..., socket.socket], sent: bytes, said: str
) -> None:
    client = dial(sent)
    answer = line_from(client)
    assert not answer["ok"]
    assert answer["exit"] == 1
    assert said in answer["text"]
    assert is_dropped(client)
    assert loop.taken == []


@pytest.mark.usefixtures("loop")
def test_a_line_without_end_gets_an_error_not_memory(dial: Callable[..., socket.socket]) -> None:
    client = dial(b"x" * (3 * MAX_LINE))
    assert "one line of at most" in line_from(client)["text"]
    assert is_dropped(client)


@pytest.mark.usefixtures("loop")
def test_a_client_that_closes_before_its_line_is_whole_is_dropped(
    path: Path, dial: Callable[..., socket.socket]
) -> None:
    client = dial(b'{"version": 2')
    client.shutdown(socket.SHUT_WR)
    assert is_dropped(client)
    assert ask(path, Status())["ok"]


def test_a_client_that_sends_nothing_is_dropped_after_its_time(loop: Loop, dial: Callable[..., socket.socket]) -> None:
    client = dial()
    with dial(request(verb="status")) as other:  # the silent one is accepted, for it came before
        line_from(other)
    loop.later(PATIENCE_S - 0.1)
    client.settimeout(0)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    client.settimeout(10)
    loop.later(0.2)
    assert is_dropped(client)


def test_a_client_that_never_reads_is_dropped_after_its_time(loop: Loop, dial: Callable[..., socket.socket]) -> None:
    loop.document = {"ok": True, "text": "x" * 5_000_000, "exit": 0}
    client = dial(request(verb="status"))
    wait_for(lambda: loop.taken, "the request", within=10)
    loop.later(PATIENCE_S + 0.1)
    received = 0
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(1 << 20):
            received += len(chunk)
    assert 0 < received < 5_000_000


def test_a_request_that_is_being_decided_waits_longer_but_not_for_ever(
    loop: Loop, dial: Callable[..., socket.socket]
) -> None:
    client = dial(request(verb="reconfigure"))
    wait_for(lambda: loop.held, "the request", within=10)
    loop.later(PATIENCE_S * 2)
    loop.call(lambda: loop.server.answer(loop.held[0], {"ok": True, "text": "read", "exit": 0}))
    assert line_from(client)["ok"]
    late = dial(request(verb="reconfigure"))
    wait_for(lambda: len(loop.held) == 2, "the request", within=10)
    loop.later(DECIDE_S + 0.1)
    assert is_dropped(late)
    loop.call(lambda: loop.server.answer(loop.held[1], {"ok": True, "text": "read", "exit": 0}))


def test_more_clients_than_are_served_at_once_are_told_so_and_later_served_again(
    loop: Loop, path: Path, dial: Callable[..., socket.socket]
) -> None:
    silent = [dial() for _ in range(MAX_CLIENTS)]
    assert "try again" in ask(path, Status())["text"]
    loop.later(PATIENCE_S + 0.1)
    assert all(is_dropped(client) for client in silent)
    assert ask(path, Status())["ok"]


@pytest.mark.usefixtures("loop")
def test_clients_of_every_bad_kind_at_once_never_keep_a_good_one_waiting(
    path: Path, dial: Callable[..., socket.socket]
) -> None:
    for _ in range(7):
        dial()
        dial(b"{")
        dial(b"x" * (2 * MAX_LINE))
        dial(request(verb="resume"))
    began = time.monotonic()
    assert ask(path, Status())["ok"]
    assert time.monotonic() - began < 5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "version": st.just(2) | JSON,
        "verb": st.sampled_from(["status", "reconfigure", "reload", "pause", "resume", "x"]) | JSON,
        "instance": st.text() | JSON,
        "for_s": st.floats() | st.integers() | st.none() | JSON,
        "reason": st.text() | st.none() | JSON,
        "other": JSON,
    },
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_line_of_any_content_raises_but_an_error_for_its_sender(line: bytes) -> None:
    with contextlib.suppress(CodecError):
        parse(line)


@given(FIELDS)
def test_what_the_server_takes_is_what_the_schema_allows(document: dict[str, object]) -> None:
    line = json.dumps(document).encode()
    try:
        wish = parse(line)
    except CodecError:
        taken = False
    else:
        taken = True
        assert (Incoming("1", wish, 0, 0).request(1.0) is None) == isinstance(wish, Status | Reconfigure)
    try:
        known = json.loads(line, parse_constant=float.fromhex)  # NaN and Infinity are not JSON
    except ValueError:
        known = None
    allowed = valid(known, "request") and not any(word in line for word in (b"NaN", b"Infinity"))
    assert taken == allowed


# ------------------------------------------------------------------------------------------------- the socket file


def test_the_socket_is_for_its_owner_and_group_whatever_the_umask(path: Path) -> None:
    for umask in (0o000, 0o077):
        before = os.umask(umask)
        try:
            loop = Loop(path)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        loop.end()
        assert not path.exists()


@pytest.mark.usefixtures("loop")
def test_a_second_daemon_is_refused_and_the_first_goes_on(path: Path) -> None:
    with selectors.DefaultSelector() as selector, pytest.raises(AlreadyRunning, match=str(path)):
        Server(path, selector)
    assert ask(path, Status())["ok"]


def test_a_daemon_that_hangs_with_a_full_backlog_still_counts_as_running(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as hangs, ExitStack() as at_end:
        hangs.bind(str(path))
        hangs.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                client = at_end.enter_context(socket.socket(socket.AF_UNIX))
                client.settimeout(0)
                client.connect(str(path))
        with selectors.DefaultSelector() as selector, pytest.raises(AlreadyRunning):
            Server(path, selector)


def test_the_socket_that_a_killed_daemon_left_is_replaced(path: Path) -> None:
    killed = "import os, pathlib, selectors, sys; from watchdogd.service.control import Server\n"
    killed += "Server(pathlib.Path(sys.argv[1]), selectors.DefaultSelector()); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", killed, str(path)], cwd=ROOT, check=False, timeout=60)
    assert path.is_socket()
    with pytest.raises(NotRunning):
        ask(path, Status())
    loop = Loop(path)
    loop.start()
    assert ask(path, Status())["ok"]
    loop.end()


def test_another_thing_at_the_path_is_never_removed(path: Path) -> None:
    path.write_text("precious")
    with selectors.DefaultSelector() as selector, pytest.raises(ControlError, match="not a socket"):
        Server(path, selector)
    assert path.read_text() == "precious"


def test_a_missing_folder_is_named_with_the_mend(path: Path) -> None:
    with (
        selectors.DefaultSelector() as selector,
        pytest.raises(ControlError, match=r"folder .* does not exist"),
    ):
        Server(path.parent / "none" / "control.sock", selector)


def test_a_path_that_is_too_long_for_a_socket_is_said(path: Path) -> None:
    with selectors.DefaultSelector() as selector, pytest.raises(ControlError, match="too long"):
        Server(path.parent / ("x" * 120), selector)


@needs_root
def test_a_folder_that_is_not_ours_is_named_with_the_user(path: Path) -> None:
    with selectors.DefaultSelector() as selector:
        match = f"uid {NOBODY} may not make a socket"
        with being_nobody(), pytest.raises(ControlError, match=match):
            Server(path, selector)


def test_only_our_own_socket_is_removed_at_the_end(path: Path) -> None:
    first = Loop(path)
    moved = path.with_name("moved")
    path.rename(moved)
    second = Loop(path)
    first.end()
    assert path.is_socket()
    second.end()
    assert not path.exists()


def test_a_closed_server_leaves_nothing_at_the_selector(path: Path) -> None:
    with selectors.DefaultSelector() as selector:
        server = Server(path, selector)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            server.on_ready(*selector.select(10)[0])
            assert len(selector.get_map()) == 2
            server.close()
        assert len(selector.get_map()) == 0


# ------------------------------------------------------------------------------------------------------ the client


def test_without_a_daemon_the_client_says_that_none_runs(path: Path) -> None:
    with pytest.raises(NotRunning, match=str(path)):
        ask(path, Status())


@needs_root
@pytest.mark.usefixtures("loop")
def test_a_user_who_may_not_ask_gets_a_permission_error(path: Path) -> None:
    path.parent.chmod(0o711)
    with being_nobody(), pytest.raises(PermissionError):
        ask(path, Status())


@pytest.mark.usefixtures("loop")
def test_a_daemon_that_does_not_answer_in_time_is_a_timeout(path: Path) -> None:
    with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
        ask(path, Resume(), timeout_s=0.2)


@pytest.mark.parametrize(
    "answer", [b"", b'{"version": 2', b"hello\n", b"[]\n", b'{"version": 1}\n', b"[" * 9999 + b"\n"]
)
def test_an_answer_that_is_none_is_a_connection_error(path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def reply() -> None:
            client, _ = server.accept()
            with client:
                client.recv(1000)
                client.sendall(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(ConnectionError):
            ask(path, Status())
        thread.join(10)
