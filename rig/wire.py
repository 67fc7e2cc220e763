"""Says one command to a mongod over a fresh TCP connection, without a driver: no pool, no monitor, no
opinion.

All mongods of the rig (4.2 to 6.0) understand OP_MSG. It must never be used where the driver's own behaviour
matters.
"""

import itertools
import socket
import struct
from collections.abc import Mapping
from typing import Any

import bson

from rig import RigError

_OP_MSG = 2013
_HEADER = struct.Struct("<iiii")
_request_ids = itertools.count(1)


class CommandError(RigError):
    """The server answered with an error; `code` is the server's."""

    def __init__(self, name: str, reply: Mapping[str, Any]) -> None:
        super().__init__(f"{name}: {reply.get('codeName')} ({reply.get('code')}): {reply.get('errmsg')}")
        self.code = reply.get("code")


def command(address: tuple[str, int], document: Mapping[str, Any], *, within: float = 2.0) -> dict[str, Any]:
    """The server's reply; the first key of the document is the command's name.

    Raises OSError when it cannot be reached, hangs up or does not answer within that many seconds, and
    CommandError when it answers with an error.
    """
    body = b"\0\0\0\0\0" + bson.encode({**document, "$db": "admin"})  # no flags, one section of kind 0
    message = _HEADER.pack(_HEADER.size + len(body), next(_request_ids), 0, _OP_MSG) + body
    with socket.create_connection(address, timeout=within) as connection:
        connection.sendall(message)
        length, _, _, _ = _HEADER.unpack(_read(connection, _HEADER.size))
        reply: dict[str, Any] = bson.decode(_read(connection, length - _HEADER.size)[5:])
    if reply.get("ok") != 1:
        raise CommandError(next(iter(document)), reply)
    return reply


def hello(address: tuple[str, int], *, within: float = 2.0) -> dict[str, Any]:
    """The reply of `isMaster`, which 4.2.6 knows too (it answers `hello` with code 59)."""
    return command(address, {"isMaster": 1}, within=within)


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionResetError("mongod hung up in the middle of a reply")
        data += chunk
    return data
