"""Text that others choose, from each way in to each way out of a real daemon: it is shown, and does nothing else.

The ways in are real: folders and FIFOs that processes with a master's signal handlers have open, servers that answer a
heartbeat with such an error or such names, a URI in a file, the control socket, the configuration. So are the ways out:
what a log, a journald, systemd's socket and the commands get. One daemon gets all of it, and each test reads one way.
"""

import contextlib
import json
import os
import re
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bson
import pytest
import yaml

from rig.processes import Process, wait_for
from tests.integration.test_journal import BOX_CONF, JOURNALD, Journald
from tests.world.schemas import strict
from watchdogd import codec
from watchdogd.codec import REQUEST
from watchdogd.report.journal import SOCKET
from watchdogd.service.control import Status, ask

pytestmark = pytest.mark.timeout(240)  # the first test has the whole scene in its time: 10 s on a quiet machine
PROGRAM = (sys.executable, "-P", "-m", "watchdogd")
WITHIN_S = 40.0
LONG = 100_000
SAID = 250  # characters of a reason, of which 300 are taken
LONGEST_LINE = 4100  # characters of any line or value that is written
NOTIFY_BUFFER_MAX = 4096  # bytes: systemd drops a message that is longer

FORGED = "2026-01-01T00:00:00.000Z notice recovered instance=shop: shop recovered."
HOSTILE: Mapping[str, bytes] = {
    "escape": b"\x1b[31mred\x1b[2J\x1b]0;title\x07\x7f\b",
    "newline": f"a\n{FORGED}\nPRIORITY=0\nMW_EVENT=recovered\n<0>all is well\r\v\f\t".encode(),
    "nul": b"a\0b",
    "c1": b"".join(chr(code).encode() for code in range(0x80, 0xA0)),
    "bidi": "\u202egpj\u2066\u200f\u061c\u2028\u2029\u00ad\ufeff\U000e0041\u00a0".encode(),
    "broken": b"\xff\x80\xc3(\xed\xa0\x80",
    "long": b"x" * LONG,
}
SHOWN: Mapping[str, str] = {  # some of what becomes of it
    "escape": r"\x1b[31mred",
    "newline": r"a\n2026",
    "nul": r"a\x00b",
    "c1": r"\x80\x81",
    "bidi": r"\u202egpj\u2066",
    "broken": r"\xff\x80\xc3(",
    "long": "",
}
IN_A_PATH = tuple(one for one in HOSTILE if one != "nul")
IN_A_URI_FILE = ("escape", "nul", "long")  # what is neither ASCII nor one word is refused
SECRET = "kept-secret"


def mark(way: str, which: str) -> str:
    """What a text begins with, to be found again: of this process, since apps of other runs are discovered too."""
    return f"{way}-{which}-{os.getpid()}:"


def hostile(way: str, which: str, most: int = LONG) -> bytes:
    """The text as it comes in by this way."""
    return mark(way, which).encode() + HOSTILE[which][:most]


def found(way: str, which: str) -> str:
    """The mark with some of what must follow it."""
    return mark(way, which) + SHOWN[which]


# ------------------------------------------------------------------------------------------------------ ways in

MASTERS = """
import os, signal, sys
for fifo in open(sys.argv[1], "rb").read().split(bytes(1)):
    if os.fork() == 0:
        for one in "HUP", "QUIT", "USR1", "TERM", "TSTP":
            signal.signal(getattr(signal, "SIG" + one), lambda *_: os._exit(0))
        open("/proc/self/comm", "wb").write(b"a) S 1\\n\\x1b[31m")
        os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        while True:
            signal.pause()
signal.pause()
"""


def fifos_below(folder: Path) -> list[Path]:
    """A FIFO in a folder of each name; the long one is as long as a path may be."""
    deep = Path(folder, *["x" * 200] * 15)
    names = {which: os.fsdecode(hostile("folder", which, 200)) for which in IN_A_PATH}
    made = [(deep if which == "long" else folder) / name / "fifo" for which, name in names.items()]
    for path in made:
        path.parent.mkdir(parents=True)
        os.mkfifo(path)
    return made


class Server(socketserver.ThreadingTCPServer):
    """Answers every question of a driver's monitor with the same document."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, document: bytes) -> None:
        self.document = document
        self.ended = threading.Event()
        super().__init__(("127.0.0.1", 0), Answering)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.server_address[1]}/"

    def close(self) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()


class Answering(socketserver.StreamRequestHandler):
    """One connection: OP_MSG is answered in kind, OP_QUERY by OP_REPLY (wire protocol of MongoDB)."""

    def handle(self) -> None:
        with contextlib.suppress(OSError, struct.error):
            while True:
                size, asked, _, kind = struct.unpack("<4i", self.rfile.read(16))
                self.rfile.read(size - 16)
                document = self.server.document  # type: ignore[attr-defined]
                query = kind == 2004
                body = (struct.pack("<iqii", 8, 0, 0, 1) if query else bytes(5)) + document
                self.wfile.write(struct.pack("<4i", 16 + len(body), 1, asked, 1 if query else 2013) + body)
                self.server.ended.wait(0.2)  # type: ignore[attr-defined] # a server would wait for news


def document_with(text: bytes, **fields: object) -> bytes:
    """BSON with the text for each `TEXT`, whether it is UTF-8 or not, which no encoder would write."""
    body = b""
    for name, value in fields.items():
        if value == "TEXT":
            body += b"\x02%s\0%s%s\0" % (name.encode(), struct.pack("<i", len(text) + 1), text)
        else:
            body += bson.encode({name: value})[4:-1]
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def failing(which: str) -> bytes:
    return document_with(hostile("mongod", which), ok=0.0, code=91, codeName="ShutdownInProgress", errmsg="TEXT")


def naming(which: str) -> bytes:
    """A member whose process id, set name and companions are such texts."""
    text = hostile("process", which).decode()
    return bson.encode(
        {
            "ok": 1.0,
            "ismaster": True,
            "setName": text,
            "hosts": [f"[fe80::1%{text}]:27017", f"{text}:27017"],
            "me": f"[::1%{text}]:27017",
            "minWireVersion": 0,
            "maxWireVersion": 17,
            "topologyVersion": {"processId": text, "counter": 0},
        }
    )


# ----------------------------------------------------------------------------------------------------- ways out


@dataclass
class Out:
    """Everything that came out, by its way: the lines of a text, or the values of documents."""

    lines: dict[str, list[str]] = field(default_factory=dict)
    documents: dict[str, list[Any]] = field(default_factory=dict)
    exports: bytes = b""
    entries: list[dict[str, Any]] = field(default_factory=list)
    notified: list[bytes] = field(default_factory=list)
    asked: dict[str, int] = field(default_factory=dict)  # how often each was done, by its event

    def text(self, way: str) -> str:
        """All of one way, to look for marks in."""
        whole = [*self.lines.get(way, ()), *map(str, strings_of(self.documents.get(way, [])))]
        return "\n".join(whole)


def strings_of(document: object) -> Iterator[str]:
    """Every string in a document, the names of its fields too."""
    if isinstance(document, str):
        yield document
    for one in document if isinstance(document, list) else ():
        yield from strings_of(one)
    if isinstance(document, dict):
        yield from strings_of([*document.keys(), *document.values()])


@dataclass
class Scene:
    """One daemon, with all that it is told and all that comes out."""

    folder: Path
    prefix: tuple[str, ...] = ()
    out: Out = field(default_factory=Out)

    def __post_init__(self) -> None:
        self.socket = self.folder / "control.sock"
        self.config = self.folder / "config.yaml"
        self.log = self.folder / "daemon.log"
        self.log.touch()
        self.uris: dict[str, dict[str, str]] = {}
        self.saved: dict[str, Any] = {}

    def write(self, **changes: object) -> None:
        keys = {"mode": "observe", "state_dir": str(self.folder / "state"), "control_socket": str(self.socket)}
        mongodb = [{"name": name, **uri} for name, uri in self.uris.items()]
        self.config.write_text(yaml.safe_dump({**keys, "mongodb": mongodb, **changes}))

    def run(self, *verb: "str | bytes", config: "Path | bytes | None" = None) -> None:
        """Run a command and keep what it prints."""
        command = [*PROGRAM, *verb, "--config", config or self.config]
        ran = subprocess.run(command, capture_output=True, check=False, timeout=50)
        known = verb[0] if isinstance(verb[0], str) else "usage"
        way = f"{known} --json" if "--json" in verb else known
        printed = (ran.stdout + ran.stderr).decode()  # what it prints is UTF-8
        self.out.lines.setdefault(way, []).extend(printed.removesuffix("\n").split("\n"))
        if "--json" in verb and ran.stdout:
            self.out.documents.setdefault(way, []).append(json.loads(ran.stdout))

    def ask(self, verb: str, **fields: object) -> None:
        """Ask the daemon by its socket, past the command, for what the command would not."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(WITHIN_S)
            client.connect(str(self.socket))
            client.sendall(codec.text(REQUEST.document(verb=verb, **fields)).encode() + b"\n")
            with client.makefile() as answers:
                self.out.documents.setdefault("control", []).append(json.loads(answers.readline()))

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = ask(self.socket, Status(), timeout_s=WITHIN_S)["status"]
        return document

    def knows(self, *marks: str) -> bool:
        whole = "\n".join(strings_of(self.status()))
        return all(mark in whole for mark in marks)


def notifications(receiver: socket.socket, keep: list[bytes]) -> None:
    """Keep what systemd would get, until an empty message."""
    while message := receiver.recv(1 << 20):
        keep.append(message)


@pytest.fixture(scope="module", params=["lines", "journald"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with contextlib.ExitStack() as at_end:
        folder = Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="mw-out-")))
        journald = at_end.enter_context(running_journald(folder)) if request.param == "journald" else None
        prefix = ("nsenter", f"--mount=/proc/{journald.pid}/ns/mnt") if journald else ()
        one = Scene(folder, prefix)
        for which in HOSTILE:
            server = Server(failing(which))
            at_end.callback(server.close)
            one.uris[f"failing-{which}"] = {"uri": server.uri}
        for which in set(HOSTILE) - {"broken"}:
            server = Server(naming(which))
            at_end.callback(server.close)
            one.uris[f"naming-{which}"] = {"uri": server.uri}
        for which in IN_A_URI_FILE:
            service = hostile("uri", which).replace(b";", b",")  # which would end the option
            uri = b"mongodb+srv://user:%s@no.invalid/?srvServiceName=%s" % (SECRET.encode(), service)
            (folder / f"uri-{which}").write_bytes(uri)
            one.uris[f"uri-{which}"] = {"uri_file": str(folder / f"uri-{which}")}
        one.write()
        receiver = at_end.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        receiver.bind(str(folder / "notify"))
        reader = threading.Thread(target=notifications, args=(receiver, one.out.notified), daemon=True)
        reader.start()
        (folder / "fifos").write_bytes(b"\0".join(map(os.fsencode, fifos_below(folder / "apps"))))
        masters = at_end.enter_context(
            Process([sys.executable, "-c", MASTERS, str(folder / "fifos")], log=folder / "masters.log")
        )
        log = one.log.stat()
        environment = {"NOTIFY_SOCKET": str(folder / "notify")}
        if journald:
            environment["JOURNAL_STREAM"] = f"{log.st_dev}:{log.st_ino}"
        command = [*prefix, *PROGRAM, "run", "--config", str(one.config)]
        said = one.out.notified
        with Process(command, log=one.log, env=environment) as daemon:
            daemon.wait_until(lambda: any(b"READY=1" in one for one in said), "it is ready", within=WITHIN_S)
            everything_happens(one, masters)
            daemon.end(signal.SIGTERM)
        one.saved = json.loads((folder / "state" / "state.json").read_text())
        receiver.shutdown(socket.SHUT_RD)
        one.out.lines["log"] = one.log.read_bytes().decode().removesuffix("\n").split("\n")
        if journald:
            wait_for(lambda: journald.entries("MW_EVENT=stopping"), "the last entry", within=WITHIN_S)
            one.out.exports = journalctl(journald, "export")
            one.out.entries = [json.loads(line) for line in journalctl(journald, "json").splitlines()]
            one.out.documents["journal"] = list(one.out.entries)
        yield one


def everything_happens(one: Scene, masters: Process) -> None:
    """Everybody says what he has to say, and every command is run."""
    out = one.out

    def heard() -> bool:
        in_folders = [mark("folder", which) for which in IN_A_PATH]
        failed = [mark("mongod", which) for which in HOSTILE if which != "broken"]
        named = [mark("process", which) for which in HOSTILE if which != "broken"]
        return one.knows(*in_folders, *failed, *named, *[mark("uri", which) for which in IN_A_URI_FILE])

    wait_for(heard, "it has seen and heard everybody", within=WITHIN_S, log=one.log)
    for which, text in HOSTILE.items():
        reason = os.fsdecode(hostile("reason", which, SAID))
        one.ask("pause", reason=reason)
        one.run("status")
        one.run("status", "--json")
        name = os.fsdecode(hostile("name", which, 50_000))
        one.ask("reload", instance=name)
        for verb, fields in (("reload", {name: 1}), (name, {}), ("pause", {"for_s": name})):
            one.ask(verb, **fields)
        if which != "nul":
            one.run("pause", "--reason", hostile("option", which, SAID))
            one.run("reload", hostile("argument", which, 50_000))
            one.run("status", hostile("argument", which, 50_000))
            one.run(hostile("verb", which))
            one.run("check", config=os.fsencode(one.folder) + b"/" + hostile("file", which))
        one.write(mode=os.fsdecode(hostile("value", which)) if which != "broken" else "value-broken:")
        if which == "broken":
            one.config.write_bytes(one.config.read_bytes() + b"# " + text)
            one.ask("reconfigure")  # in such a file the command does not find the socket
        one.run("reconfigure")
        one.run("check")
        one.write()
    out.asked = {"paused": 2 * len(HOSTILE) - 1, "config_rejected": len(HOSTILE)}
    one.run("connections")
    one.run("connections", "--json")
    for fifo in (one.folder / "fifos").read_bytes().split(b"\0"):
        Path(os.fsdecode(fifo)).unlink()
    wait_for(lambda: one.knows("deleted: "), "the FIFOs are gone", within=WITHIN_S, log=one.log)
    one.run("check", "--live")
    one.run("status")
    one.run("status", "--json")
    masters.end(signal.SIGKILL)

    def states() -> set[str]:
        return {each["state"] for each in one.status()["instances"] if f"-{os.getpid()}:" in each["name"]}

    wait_for(lambda: states() == {"absent"}, "no app is there", within=WITHIN_S, log=one.log)


@contextlib.contextmanager
def running_journald(folder: Path) -> Iterator[Journald]:
    if os.geteuid() != 0 or JOURNALD is None:
        pytest.skip("needs root, systemd-journald and unshare")
    with Journald(folder) as process:
        there = (Path(process.root + BOX_CONF), Path(process.root + SOCKET))
        process.wait_until(lambda: all(path.exists() for path in there), "journald's socket", within=20)
        yield process


def journalctl(journald: Journald, form: str) -> bytes:
    command = ["journalctl", f"--directory={journald.root}/run/log/journal", "-o", form, "-q"]
    ran = subprocess.run([*command, "SYSLOG_IDENTIFIER=mongo-watchdog"], capture_output=True, check=True, timeout=30)
    return ran.stdout


# -------------------------------------------------------------------------------------------------------- tests

PRINTED = ("log", "status", "status --json", "reload", "pause", "reconfigure", "check", "connections", "usage")
DOCUMENTS = ("status --json", "connections --json", "control", "journal")
LEADS_TO: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "folder": (IN_A_PATH, ("told", "status", "status --json", "check")),
    "mongod": (tuple(one for one in HOSTILE if one != "broken"), ("told", "status", "status --json", "check")),
    "process": (tuple(one for one in HOSTILE if one != "broken"), ("status --json",)),
    "uri": (IN_A_URI_FILE, ("told", "status", "status --json", "check")),
    "reason": (tuple(HOSTILE), ("told", "status", "status --json")),
    "option": (IN_A_PATH, ("told",)),
    "name": (tuple(HOSTILE), ("control",)),
    "argument": (IN_A_PATH, ("reload", "status")),
    "verb": (("escape", "c1", "bidi", "long"), ("usage",)),  # argparse quotes it as repr() does
    "file": (IN_A_PATH, ("check",)),
    "value": (("long",), ("told", "reconfigure", "check")),
}


@pytest.mark.parametrize("way", PRINTED)
def test_what_is_printed_is_lines_that_drive_no_terminal(scene: Scene, way: str) -> None:
    assert [line for line in scene.out.lines[way] if not line.isprintable() or len(line) > LONGEST_LINE] == []


@pytest.mark.parametrize("way", DOCUMENTS)
def test_a_value_of_a_document_drives_no_terminal_that_it_is_taken_out_for(scene: Scene, way: str) -> None:
    values = list(strings_of(scene.out.documents.get(way, [])))
    assert bool(values) == (way != "journal" or bool(scene.prefix))  # there is no journal without
    assert [value for value in values if not value.isprintable() or len(value) > LONGEST_LINE] == []


@pytest.mark.parametrize(
    ("way", "name", "part"),
    [("status --json", "status", None), ("connections --json", "connections", None), ("control", "control", "answer")],
)
def test_a_document_fits_its_schema_whatever_is_in_it(scene: Scene, way: str, name: str, part: str | None) -> None:
    fits = strict(name, part)
    assert scene.out.documents[way]
    for document in scene.out.documents[way]:
        fits.validate(document)


def test_the_saved_state_fits_its_schema_whatever_is_in_it(scene: Scene) -> None:
    strict("state").validate(scene.saved)


@pytest.mark.parametrize(
    ("way", "which", "out"),
    [(way, which, out) for way, (texts, outs) in LEADS_TO.items() for which in texts for out in outs],
)
def test_a_text_gets_through_and_is_shown(scene: Scene, way: str, which: str, out: str) -> None:
    out = out if out != "told" else "journal" if scene.prefix else "log"
    assert found(way, which) in scene.out.text(out)


@pytest.mark.parametrize(("way", "out"), [("mongod", "status --json"), ("name", "control")])
def test_of_a_long_one_it_is_said_how_much_is_left_out(scene: Scene, way: str, out: str) -> None:
    assert re.search(rf"{mark(way, 'long')}x{{150,300}} … \(\d+ characters left out\)", scene.out.text(out))


def test_no_line_of_the_log_is_made_by_a_text(scene: Scene) -> None:
    if scene.prefix:
        assert scene.out.lines["log"] == [""]
        return
    events = [re.match(r"\d{4}-\S+Z (?:err|warning|notice) (\w+)[ :]", line) for line in scene.out.lines["log"]]
    told = [event[1] for event in events if event]
    assert len(told) == len(events)
    assert "recovered" not in told
    assert {name: told.count(name) for name in scene.out.asked} == scene.out.asked


def test_no_entry_and_no_field_of_the_journal_is_made_by_a_text(scene: Scene) -> None:
    if not scene.prefix:
        assert scene.out.entries == []
        return
    told = [entry["MW_EVENT"] for entry in scene.out.entries]
    assert "recovered" not in told
    assert {name: told.count(name) for name in scene.out.asked} == scene.out.asked
    assert {entry["PRIORITY"] for entry in scene.out.entries} <= {"3", "4", "5"}
    # A field that journalctl does not take for text stands by its name alone, with length and bytes in the next line.
    fields = [line for line in scene.out.exports.split(b"\n") if line]
    assert [line for line in fields if b"=" not in line] == []
    assert len(fields) > len(told) * 10


def test_what_systemd_is_told_is_one_short_line(scene: Scene) -> None:
    messages = [message.decode() for message in scene.out.notified if message.startswith(b"STATUS=")]
    assert any("folder-" in message for message in messages)
    assert [one for one in messages if not one.isprintable() or len(one.encode()) > NOTIFY_BUFFER_MAX] == []
    others = {message.split(b"\n")[0] for message in scene.out.notified} - {one.encode() for one in messages}
    assert others <= {b"READY=1", b"WATCHDOG=1", b"RELOADING=1", b"STOPPING=1"}


def test_a_password_never_comes_out(scene: Scene) -> None:
    out = scene.out
    whole = [*out.lines.values(), *out.documents.values(), out.exports, out.notified]
    assert SECRET not in repr(whole)


def test_what_is_saved_is_what_was_said(scene: Scene) -> None:
    assert scene.saved["state"]["paused"]["reason"] == os.fsdecode(hostile("option", "long", SAID))
