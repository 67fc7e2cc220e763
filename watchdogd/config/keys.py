"""Every key of the configuration: its name, how it is read, what it is for. Its default is that of values.py.

docs/configuration.md has its table from here. Must never show a part of a URI in a message.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from watchdogd.config.addresses import MAX_SOCKET_PATH, parse_authority, parse_endpoint, read_uri
from watchdogd.config.probe_url import ProbeUrl, Scheme, read_probe_url
from watchdogd.config.readers import FLAG, absolute_path, choice, duration, list_of, not_empty, whole_number
from watchdogd.config.strict_yaml import MAX_BYTES, Key, Reader, Spot, Wrong, quoted, section
from watchdogd.config.values import Budget, Cause, HealthConfig, HistoryConfig, Idle, Mode, PolicyConfig
from watchdogd.model.base import Beside, Command, Way
from watchdogd.model.found import Kind
from watchdogd.paths import user_id

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")
_BESIDE_OTHERS = frozenset({Kind.BORN_EARLY, Kind.UNCONNECTED})
"""Kinds of evidence that lead to nothing by themselves, so `tell_only` would change nothing."""
_S, _HOUR, _DAY, _WEEK = 1.0, 3600.0, 86400.0, 7 * 86400.0
_STATUSES = "a status like `200`, or a range like `200-399`"
_STATUS_RANGE = re.compile(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")


def _name(spot: Spot) -> str:
    text = spot.text("a name")
    if not _NAME.fullmatch(text):
        raise Wrong("is not a name; use letters, digits and . _ @ + -, and begin with a letter, digit or _")
    return text


def _endpoint(spot: Spot) -> tuple[str, int]:
    try:
        return parse_endpoint(spot.text("host:port"))
    except ValueError as error:
        raise Wrong(str(error)) from None


def _user(spot: Spot) -> int:
    name = spot.text("a user")
    uid = user_id(name)
    if uid is None:
        raise Wrong(f"{quoted(name)} is no user of this host; write the name or the number of one")
    return uid


def _path(spot: Spot) -> Path:
    return Path(absolute_path(spot))


def _socket_path(spot: Spot) -> Path:
    path = _path(spot)
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise Wrong(f"is too long for a Unix socket; the kernel takes up to {MAX_SOCKET_PATH} bytes")
    return path


def _budget(spot: Spot) -> Budget:
    budget = Budget(**section(spot, BUDGET).values)
    if budget.unproven > budget.total:
        raise Wrong(f"has a `total` of {budget.total}, below `unproven`; make it at least {budget.unproven}")
    return budget


def _policy(spot: Spot) -> PolicyConfig:
    return PolicyConfig(**section(spot, POLICY).values)


def _history(spot: Spot) -> HistoryConfig:
    return HistoryConfig(**section(spot, HISTORY).values)


def _health(spot: Spot) -> HealthConfig | None:
    found = section(spot, HEALTH)
    if "url" not in found.values:
        return None
    if "verify" in found.spots and found.values["url"].scheme is not Scheme.HTTPS:
        found.spots["verify"].tell("stands beside a `url` without TLS; leave it out")
    return HealthConfig(**found.values)


def _probe_url(spot: Spot) -> ProbeUrl:
    try:
        return read_probe_url(spot.text("a URL"))
    except ValueError as error:
        raise Wrong(str(error)) from None


def _statuses(spot: Spot) -> tuple[int, int]:
    text, _ = spot.scalar(_STATUSES)
    found = _STATUS_RANGE.fullmatch(text)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if low > high:
        raise Wrong(f"is no status of HTTP and no range of them; expected {_STATUSES}")
    return low, high


def _host(spot: Spot) -> str:
    text = spot.text("a host")
    try:
        parse_authority(text)
    except ValueError as error:
        raise Wrong(str(error)) from None
    return text


def _uri(spot: Spot) -> str:
    return _checked(spot.text("a MongoDB URI"), "")


def _uri_of_file(spot: Spot) -> str:
    return _checked(_only_line(_path(spot)), "the URI in it ")


def _uri_of_credential(spot: Spot) -> str:
    name = _name(spot)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise Wrong(
            "is a systemd credential, and $CREDENTIALS_DIRECTORY is not set; give the unit LoadCredential=,"
            " and to check by hand, as root, set it to /run/credentials/mongo-watchdog.service"
        )
    return _checked(_only_line(Path(folder, name)), "the URI in it ")


def _checked(uri: str, what: str) -> str:
    try:
        read_uri(uri)
    except ValueError as error:
        raise Wrong(f"{what}{error}") from None
    return uri


def _only_line(path: Path) -> str:
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            content = file.read(MAX_BYTES) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError as error:
        raise Wrong(f"cannot be read: {error.strerror}; mongo-watchdog's user needs to read it") from None
    lines = [line.strip() for line in content.decode("utf-8", "replace").splitlines() if line.strip()]
    if len(lines) != 1:
        raise Wrong("is not a file with one line; expected one with the URI in its only line")
    return lines[0]


def _without_waiting(name: str, flags: int) -> int:
    """Open as open() does, but do not wait for somebody to write a FIFO."""
    return os.open(name, flags | os.O_NONBLOCK)


def _way(one: Way) -> str:
    return one.word


def _later(spot: Spot) -> Spot:
    """Leave it to load.py, which knows the rest of the file."""
    return spot


NAME = Reader("a name", _name)
PATH = Reader("an absolute path", _path)
ONE_URI = "one of `uri`, `uri_file` and `uri_credential` is required"

TOP = (
    Key("mode", "mode", choice(Mode), "`observe` does everything but the write to the FIFO."),
    Key("interval", "interval_s", duration(0.1, 60), "How often the sockets are looked at."),
    Key(
        "mongodb",
        "deployments",
        Reader("a list of deployments", _later),
        "The MongoDB deployments.",
        required='mongodb: [{uri: "mongodb://127.0.0.1:27017/"}]',
    ),
    Key(
        "uwsgi",
        "instances",
        Reader("a list of instances", _later),
        "The uWSGI instances.",
        absent="every uWSGI instance on the host that has a master FIFO",
    ),
    Key("policy", "policy", Reader("a mapping", _policy), "When a reload is due, and how many there may be."),
    Key("history", "history", Reader("a mapping", _history), "What is kept of incidents that are over."),
    Key("state_dir", "state_dir", PATH, "Where the daemon remembers which reloads it made, and keeps its history."),
    Key(
        "control_socket",
        "control_socket",
        Reader("an absolute path", _socket_path),
        "The Unix socket that `status`, `reload` and `pause` talk to.",
    ),
)
DEPLOYMENT = (
    Key(
        "name",
        "name",
        NAME,
        "What instances, status and log call it.",
        absent="`main`; required where there are several",
    ),
    Key("uri", "uri", Reader("a MongoDB URI", _uri), "Its address.", absent=ONE_URI),
    Key(
        "uri_file",
        "uri",
        Reader(PATH.kind, _uri_of_file),
        "A file with the URI in its only line.",
        absent=ONE_URI,
    ),
    Key(
        "uri_credential",
        "uri",
        Reader(NAME.kind, _uri_of_credential),
        "A systemd credential with the URI.",
        absent=ONE_URI,
    ),
    Key(
        "endpoints",
        "endpoints",
        list_of("a list of host:port", Reader("host:port", _endpoint)),
        "Further addresses that workers connect to: proxies, load balancers.",
    ),
    Key(
        "learn_addresses",
        "learn_addresses",
        FLAG,
        "Whether to ask by `hello`, once, who answers at another address that workers are connected to.",
        absent="`true`",
    ),
    Key(
        "probe_access",
        "probe_access",
        FLAG,
        "Whether to ask each member, once after each start of it, if it wants credentials.",
        absent="`true`",
    ),
)
INSTANCE = (
    Key(
        "name",
        "name",
        NAME,
        "What status, log and `reload` call it.",
        absent="`shop` for `.../shop/fifo` and `.../shop.fifo`",
    ),
    Key(
        "master_fifo",
        "master_fifo",
        PATH,
        "The `master-fifo` of the instance.",
        required="master_fifo: /run/uwsgi/app/shop/fifo",
    ),
    Key(
        "mongodb",
        "deployments",
        not_empty(list_of("a list of names", NAME), "leave the key out, or name what its workers connect to"),
        "The deployments that its workers connect to.",
        absent="the only one; required where there are several",
    ),
    Key(
        "reloads",
        "reloads",
        not_empty(
            list_of("a list of `workers`, `chain`, `restart`, `mules`", choice((*Command, *Beside), _way)),
            "to forbid every reload write `mode: observe`",
        ),
        "The ways of reloading that may be used.",
    ),
    Key(
        "worker_reload_mercy",
        "mercy_s",
        duration(_S, 24 * _HOUR),
        "The `worker-reload-mercy` that it runs with.",
    ),
    Key(
        "trust_owners",
        "trust_owners",
        list_of("a list of users", Reader("a user", _user)),
        "Whose symbolic links in `master_fifo` count, beside root's and those of the FIFO's owner.",
        absent="nobody else's",
    ),
    Key(
        "health",
        "health",
        Reader("a mapping", _health),
        "A request that shows how the app is.",
        absent="the app is not asked",
    ),
)
HEALTH = (
    Key(
        "url",
        "url",
        Reader("a URL", _probe_url),
        "Where: `http`, `https`, `http+unix`, `uwsgi` or `uwsgi+unix`.",
        required='url: "http://127.0.0.1:8080/ping"',
    ),
    Key("timeout", "timeout_s", duration(0.1, 30), "How long all of it may take, to the end of the answer."),
    Key("expect", "expect", Reader(_STATUSES, _statuses), "Which statuses are good.", absent="`200-399`"),
    Key(
        "host",
        "host",
        Reader("a host", _host),
        "Which host it asks for, where the app knows only that; and whose certificate it must be.",
        absent="that of `url`; `localhost` of a Unix socket",
    ),
    Key("verify", "verify", FLAG, "Whether the certificate is checked.", absent="`true`"),
)
POLICY = (
    Key(
        "linger",
        "linger_s",
        duration(0.001, _HOUR),
        "How long a driver gets to heal itself before a reload is due.",
    ),
    Key(
        "idle",
        "idle",
        choice(Idle),
        "What to do with workers that hold leftovers and have not used MongoDB since.",
    ),
    Key("cause", "cause", choice(Cause), "Which CLOSE_WAIT counts: that of an outage of MongoDB, or any."),
    Key(
        "cooldown",
        "cooldown_s",
        duration(0, 24 * _HOUR),
        "The pause between the end of one reload and the next one.",
    ),
    Key("budget", "budget", Reader("a mapping", _budget), "How many reloads one instance may cost."),
    Key(
        "half_open_after",
        "half_open_after_s",
        duration(_S, _WEEK),
        "When an instance that was given up is tried again.",
    ),
    Key(
        "max_parallel",
        "max_parallel",
        whole_number(1, 1000),
        "How many instances of this host may reload at once.",
    ),
    Key(
        "tell_only",
        "tell_only",
        list_of("a list of kinds of evidence", choice(one for one in Kind if one not in _BESIDE_OTHERS)),
        "Kinds of evidence that are told and not acted on, as `[hung, orphaned]`.",
    ),
)
BUDGET = (
    Key(
        "unproven", "unproven", whole_number(1, 1000), "Reloads after which the workers were not seen to reach MongoDB."
    ),
    Key("total", "total", whole_number(1, 1000), "All reloads."),
    Key("per", "per_s", duration(_S, _WEEK), "The span of time in which both are counted."),
)
HISTORY = (
    Key(
        "keep",
        "keep_s",
        duration(0, 3650 * _DAY),
        "How long the record of an incident is kept after its last line; `0s` keeps none.",
    ),
)
