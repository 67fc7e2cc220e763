"""Where a MongoDB can be: `host:port` and mongodb:// URIs, checked by their form alone.

`check` need not load pymongo for this (22 MB). A message must never repeat any part of a URI: where one
character is not percent-encoded, no parser can tell where the password ends.
"""

from __future__ import annotations

import re
import socket

_PORT = re.compile(r"[0-9]{1,5}")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?")
_ZONE = re.compile(r"(?:%[A-Za-z0-9._~-]{1,64})?")  # RFC 6874: a server may name anything, line breaks too
_DATABASE = re.compile(r'[^/\\. "$]*')
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def parse_endpoint(text: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[IPv6]:port`; raises ValueError."""
    host, port = _host_and_port(text)
    if port is None:
        raise ValueError("has no port; write host:port, like `127.0.0.1:27017`")
    return host, port


def check_uri(uri: str) -> None:
    """Raise ValueError where a MongoDB URI cannot be right; its options are left to pymongo."""
    scheme, found, rest = uri.partition("://")
    if not found or scheme not in {"mongodb", "mongodb+srv"}:
        raise ValueError("is not a MongoDB URI; write mongodb://HOST:PORT/ or mongodb+srv://NAME/")
    authority, _, tail = rest.partition("/")
    if "?" in authority:
        raise ValueError("has no / before the first ?; write mongodb://HOST:PORT/?OPTION=VALUE")
    hosts = authority.rpartition("@")[2]
    _check_user(authority, tail)
    database, _, options = tail.partition("?")
    if not _DATABASE.fullmatch(database):
        raise ValueError("has a database whose name MongoDB does not take; leave it out")
    if options and not all("=" in option for option in re.split("[&;]", options)):
        raise ValueError("has an option without a value; write them like ?replicaSet=rs0&tls=true")
    names = hosts.split(",")
    for number, name in enumerate(names, 1):
        try:
            _, port = _host_and_port(name)
        except ValueError as error:
            raise ValueError(f"host {number} of {len(names)} {error}") from None
        if scheme == "mongodb+srv" and (port is not None or len(names) > 1):
            raise ValueError(
                "is a mongodb+srv:// URI with a port or several hosts; it takes one name, DNS gives the rest"
            )


def _check_user(authority: str, tail: str) -> None:
    """Raise ValueError where user or password are not percent-encoded: then the @ is not where it seems to be."""
    user, at, _ = authority.rpartition("@")
    stray = "@" in (tail.partition("?")[0] if at else tail)
    if stray or "@" in user or user.count(":") > 1 or _STRAY_PERCENT.search(user):
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
        return host, rest[1:] if rest else None
    if text.count(":") > 1:
        raise ValueError("looks like an IPv6 address; write it in brackets, like `[::1]:27017`")
    host, colon, port = text.partition(":")
    if not host:
        raise ValueError("has no name; write host:port, like `127.0.0.1:27017`")
    if host.lower().endswith(".sock"):
        raise ValueError("is a Unix socket, of which no process shows what became of it; write host:port")
    if not _HOST.fullmatch(host) or (host.rpartition(".")[2].isdigit() and not _is_address(socket.AF_INET, host)):
        raise ValueError("is neither a host name nor an IP address")
    return host, port if colon else None


def _is_address(family: socket.AddressFamily, text: str) -> bool:
    try:
        socket.inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True
