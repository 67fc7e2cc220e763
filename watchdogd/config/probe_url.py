"""Where an app is asked how it is: the `url` of `health:`, checked by its form alone.

A message must never repeat any part of a URL: its query may hold a key.
"""

from __future__ import annotations

import enum
import os
import re
from dataclasses import dataclass, field

from watchdogd.config.addresses import MAX_SOCKET_PATH, parse_authority

_PATH = re.compile(r"/[!-~]*")  # of RFC 3986; what is not ASCII is percent-encoded there
_MAX_TARGET = 2000
_DEFAULT_PORTS = {"http": 80, "https": 443}
_FORMS = "http://HOST:PORT/PATH, https://…, uwsgi://…, http+unix:///SOCKET:/PATH or uwsgi+unix:///SOCKET:/PATH"


class Scheme(enum.Enum):
    """How an app is spoken to. `uwsgi` is uWSGI's own protocol, which nginx's `uwsgi_pass` speaks."""

    HTTP = "http"
    HTTPS = "https"
    HTTP_UNIX = "http+unix"
    UWSGI = "uwsgi"
    UWSGI_UNIX = "uwsgi+unix"

    @property
    def is_unix(self) -> bool:
        """Whether it goes over a Unix socket."""
        return self in {Scheme.HTTP_UNIX, Scheme.UWSGI_UNIX}

    @property
    def is_uwsgi(self) -> bool:
        """Whether it is uWSGI's own protocol."""
        return self in {Scheme.UWSGI, Scheme.UWSGI_UNIX}


@dataclass(frozen=True, slots=True)
class ProbeUrl:
    """`host` and `port`, or `socket`: the path of a Unix socket. `target`: the path with its query, from the slash on.

    `named`: whether the URL names the port, which then stands in the Host header too.
    """

    scheme: Scheme
    host: str = ""
    port: int = 0
    socket: str = ""
    target: str = field(default="/", repr=False)
    named: bool = False

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def authority(self) -> str:
        """The host, as a Host header has it; of a Unix socket `localhost`."""
        if self.scheme.is_unix:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.named else host

    @property
    def shown(self) -> str:
        """What people read of it: all but the query."""
        place = f"{self.socket}:" if self.scheme.is_unix else self.authority
        return f"{self.scheme.value}://{place}{self.path}"


def read_probe_url(text: str) -> ProbeUrl:
    """Read it; raises ValueError with what to write."""
    name, found, rest = text.partition("://")
    schemes = {one.value: one for one in Scheme}
    if not found or name not in schemes:
        raise ValueError(f"is no URL of a health check; write {_FORMS}")
    if "#" in rest:
        raise ValueError("has a part after #, which no server gets; leave it out")
    scheme = schemes[name]
    return _over_unix(scheme, rest) if scheme.is_unix else _over_tcp(scheme, rest)


def _over_unix(scheme: Scheme, rest: str) -> ProbeUrl:
    path, colon, target = rest.partition(":/")
    if not path.startswith("/") or not colon:
        form = f"{scheme.value}:///run/uwsgi/app/shop/socket:/ping"
        raise ValueError(f"names no socket and path; write both with a colon between them, like `{form}`")
    if not path.isprintable() or len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ValueError(f"has no path of a Unix socket; the kernel takes up to {MAX_SOCKET_PATH} bytes")
    return ProbeUrl(scheme, socket=path, target=_target(f"/{target}"))


def _over_tcp(scheme: Scheme, rest: str) -> ProbeUrl:
    slash = min([at for at in (rest.find("/"), rest.find("?")) if at >= 0], default=len(rest))
    authority, target = rest[:slash], rest[slash:]
    if "@" in authority:
        raise ValueError("has a user or a password, which are not sent; give the app a path that needs none")
    host, port = parse_authority(authority)
    if port is None and scheme is Scheme.UWSGI:
        raise ValueError("has no port, and the uwsgi protocol has none by itself; write `uwsgi://HOST:PORT/PATH`")
    whole = target if target.startswith("/") else f"/{target}"
    return ProbeUrl(scheme, host, port or _DEFAULT_PORTS[scheme.value], target=_target(whole), named=port is not None)


def _target(text: str) -> str:
    if not _PATH.fullmatch(text):
        raise ValueError("has a path with a character that no URL has; percent-encode it, as %20 for a space")
    if len(text) > _MAX_TARGET:
        raise ValueError(f"has a path that is too long; expected up to {_MAX_TARGET} characters")
    return text
