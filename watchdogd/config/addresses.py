"""Where a MongoDB can be: `host:port` and mongodb:// URIs, checked by their form alone.

`check` need not load pymongo for this (22 MB). A message must never repeat any part of a URI: where one
character is not percent-encoded, no parser can tell where the password ends.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_plus

MAX_SOCKET_PATH = 107
"""Bytes of the path of a Unix socket: sun_path of unix(7) has 108 with the NUL."""

_PORT = re.compile(r"[0-9]{1,5}")
_LONGEST_HOST = 253  # characters (RFC 1035)
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?")
_ZONE = re.compile(r"(?:%[A-Za-z0-9._~-]{1,64})?")  # RFC 6874: a server may name anything, line breaks too
_NO_DATABASE = re.compile(r'[/ "$]')  # pymongo's; `db.collection` is one name of each
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNIX_SOCKET = (
    "is a Unix socket, of which no process shows what became of it; write host and port of the same mongod, "
    "like `127.0.0.1:27017`"
)

_BOOLEAN: Mapping[str, str] = {"true": "true", "false": "false"}
_KEY_FILE = "ssl_keyfile"
_TLS_NAMES: Mapping[str, Mapping[str, str] | None] = {
    "tls": _BOOLEAN,
    "tlsAllowInvalidCertificates": _BOOLEAN,
    "tlsAllowInvalidHostnames": _BOOLEAN,
    "tlsCAFile": None,
    "tlsCertificateKeyFile": None,
    "tlsCertificateKeyFilePassword": None,
    "tlsCRLFile": None,
    "tlsDisableOCSPEndpointCheck": _BOOLEAN,
    "tlsInsecure": _BOOLEAN,
}
"""The options of pymongo 4, with the values that they may have; None: any."""
_TLS: Mapping[str, tuple[str, Mapping[str, str] | None]] = {
    **{name.lower(): (name, known) for name, known in _TLS_NAMES.items()},
    "ssl": ("tls", _BOOLEAN),
    "ssl_ca_certs": ("tlsCAFile", None),
    "ssl_cert_reqs": (
        "tlsAllowInvalidCertificates",
        {"CERT_NONE": "true", "CERT_OPTIONAL": "false", "CERT_REQUIRED": "false"},  # for a client the two are one
    ),
    "ssl_certfile": ("tlsCertificateKeyFile", None),
    "ssl_crlfile": ("tlsCRLFile", None),
    _KEY_FILE: (_KEY_FILE, None),
    "ssl_match_hostname": ("tlsAllowInvalidHostnames", {"true": "false", "false": "true"}),
    "ssl_pem_passphrase": ("tlsCertificateKeyFilePassword", None),
}
"""Every name that is taken, in small letters, with what it is called and its values are in pymongo 4."""


def parse_endpoint(text: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[IPv6]:port`; raises ValueError."""
    host, port = _host_and_port(text)
    if port is None:
        raise ValueError("has no port; write host:port, like `127.0.0.1:27017`")
    return host, port


def parse_authority(text: str) -> tuple[str, int | None]:
    """Return host and port of `host`, `host:port` or `[IPv6]:port`, None without a port; raises ValueError."""
    return _host_and_port(text)


@dataclass(frozen=True, slots=True)
class Uri:
    """What a URI says of where MongoDB is. `hosts`: each with its port, None where it names none.

    `tls`: its options for TLS by the names of pymongo 4, whatever they are called there; `tls` itself is among them
    wherever it is spoken or not spoken by their will. One of them can be the password of a key. `srv_service`: as it
    stands there.
    """

    scheme: str
    hosts: tuple[tuple[str, int | None], ...]
    tls: Mapping[str, str] = field(repr=False)
    srv_service: str | None = None


def read_uri(uri: str) -> Uri:
    """Read a MongoDB URI; raises ValueError where it cannot be right. Options but those of TLS are left to pymongo."""
    scheme, found, rest = uri.partition("://")
    if not found or scheme not in {"mongodb", "mongodb+srv"}:
        raise ValueError("is not a MongoDB URI; write mongodb://HOST:PORT/ or mongodb+srv://NAME/")
    authority, _, tail = rest.partition("/")
    bare, mark, asked = authority.partition("?")
    if mark and "@" not in asked:  # without the slash, which drivers take; with an @ it may be a password
        authority, tail = bare, f"?{asked}" + rest.removeprefix(authority)
    _check_user(authority, tail)
    database, _, after = tail.partition("?")
    if not authority and _is_socket(database):
        raise ValueError(f"host 1 of 1 {_UNIX_SOCKET}")
    if _NO_DATABASE.search(unquote_plus(database).partition(".")[0]):
        raise ValueError("has a database whose name MongoDB does not take; leave it out")
    options = _options(after)
    hosts = authority.rpartition("@")[2].split(",")
    places = []
    for number, name in enumerate(hosts, 1):
        try:
            places.append(_host_and_port(name.strip(" ")))  # drivers take `a, b`
        except ValueError as error:
            raise ValueError(f"host {number} of {len(hosts)} {error}") from None
    if scheme == "mongodb+srv" and (len(places) > 1 or places[0][1] is not None):
        raise ValueError("is a mongodb+srv:// URI with a port or several hosts; it takes one name, DNS gives the rest")
    of_tls = [(name, unquote_plus(value)) for name, value in options if name.lower().startswith(("tls", "ssl"))]
    tls = _tls_options(dict(of_tls))
    if scheme == "mongodb+srv":
        tls.setdefault("tls", "true")  # the default with SRV records (MongoDB's Initial DNS Seedlist Discovery)
    service = [value for name, value in options if name.lower() == "srvservicename"]
    return Uri(scheme, tuple(places), tls, service[0] if service else None)


def _options(text: str) -> list[tuple[str, str]]:
    options = []
    for pair in re.split("[&;]", text) if text else ():
        name, found, value = pair.partition("=")
        if not found:
            how = "write them like ?replicaSet=rs0&tls=true, and %26 or %3B for & or ; in a value"
            raise ValueError(f"has an option without a value; {how}")
        options.append((name, value))
    return options


def _tls_options(given: Mapping[str, str]) -> dict[str, str]:
    """Return the options for TLS by the names and with the values of pymongo 4; raises ValueError.

    Those of pymongo 3 meant the same (pymongo 3.13, client_options.py and ssl_support.py). Which of them mean TLS even
    without `tls` is the same in both.
    """
    options: dict[str, str] = {}
    for name, value in given.items():
        new, known = _TLS.get(name.lower(), (None, None))
        if new is None:
            raise ValueError(f"has an option for TLS that pymongo does not take; there are {', '.join(_TLS_NAMES)}")
        if known is not None and value not in known:
            raise ValueError(f"has no valid value of {_spelt(name)}; write {' or '.join(known)}")
        meant = known[value] if known else value
        if options.setdefault(new, meant) != meant:
            raise ValueError(f"says two things of {new}; keep one of them")
    key = options.pop(_KEY_FILE, None)
    if key and key != options.get("tlsCertificateKeyFile"):
        raise ValueError(
            f"has {_KEY_FILE}, which pymongo 4 does not take; put key and certificate into one file, and write "
            "tlsCertificateKeyFile=FILE"
        )
    means_tls = any(value not in {"", "true"} for name, value in options.items() if name != "tls")
    if means_tls and options.setdefault("tls", "true") == "false":
        raise ValueError("has options for TLS beside tls=false; leave them out, or write tls=true")
    return options


def _spelt(name: str) -> str:
    """Write an option as we know it; how it is written in the URI is not repeated."""
    return name.lower() if "_" in name else _TLS[name.lower()][0]


def _check_user(authority: str, tail: str) -> None:
    """Raise ValueError where user or password are not percent-encoded: then the @ is not where it seems to be."""
    user, at, _ = authority.rpartition("@")
    stray = "@" in (tail.partition("?")[0] if at else tail)
    if stray or {"@", "?"} & {*user} or user.count(":") > 1 or _STRAY_PERCENT.search(user):
        signs = "one of : / ? # @ % in it; write %3A %2F %3F %23 %40 %25 for them"
        raise ValueError(f"has a user or password with {signs}")
    if at and not user.partition(":")[0]:
        raise ValueError("has an empty user; leave it out, with its @")


def _host_and_port(text: str) -> tuple[str, int | None]:
    host, port = _split(text)
    if port is None:
        return host, None
    if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:  # noqa: PLR2004
        raise ValueError("has no valid port; expected a number from 1 to 65535")
    return host, int(port)


def _split(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        number, sign, zone = host.partition("%")
        address = _is_address(socket.AF_INET6, number) and _ZONE.fullmatch(sign + zone)
        if not address or not closed or (rest and rest[0] != ":"):
            raise ValueError("is not an IPv6 address; write it like `[::1]:27017`")
        zone = zone[2:] if zone.startswith("25") and zone != "25" else zone  # RFC 6874: %25 is the sign itself
        return f"{number}{sign}{zone}", rest[1:] if rest else None
    if text.count(":") > 1:
        raise ValueError("looks like an IPv6 address; write it in brackets, like `[::1]:27017`")
    host, colon, port = text.partition(":")
    if not host:
        raise ValueError("has no name; write host:port, like `127.0.0.1:27017`")
    if _is_socket(host):
        raise ValueError(_UNIX_SOCKET)
    if not host.isascii():
        host = _idna(host)
    if not _HOST.fullmatch(host) or (host.rpartition(".")[2].isdigit() and not _is_address(socket.AF_INET, host)):
        raise ValueError("is neither a host name nor an IP address")
    return host, port if colon else None


def _is_socket(text: str) -> bool:
    return text.lower().endswith(".sock")


def _idna(host: str) -> str:
    """Return a name of other letters as DNS has it, by the rules of Python's drivers (RFC 3490); else what is none."""
    try:
        return host[:_LONGEST_HOST].encode("idna").decode("ascii")
    except UnicodeError:
        return ""


def _is_address(family: socket.AddressFamily, text: str) -> bool:
    try:
        socket.inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True
