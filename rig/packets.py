"""What becomes of the packets of a network namespace: led to another address, as containers do it, or dropped.

Written in netfilter's own messages (include/uapi/linux/netfilter/nf_tables.h), since neither nft nor iptables is on
every machine that tests run on. It needs root and must only be used inside of a `rig.netns.Namespace`, with which it
vanishes.
"""

import contextlib
import itertools
import os
import socket
import struct
from collections.abc import Iterable, Iterator

from rig.netns import NamespaceError

_NETFILTER, _SUBSYSTEM = 12, 10  # NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES
_BEGIN, _END = 0x10, 0x11  # NFNL_MSG_BATCH_*
_TABLE, _CHAIN, _RULE = (_SUBSYSTEM << 8 | kind for kind in (0, 3, 6))  # NFT_MSG_NEW*
_NO_TABLE = _SUBSYSTEM << 8 | 2  # NFT_MSG_DELTABLE
_REQUEST, _ACK, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_NESTED = 0x8000
_ERROR = 2
_LOCAL_IN, _LOCAL_OUT, _BEFORE_FILTER, _FILTER = 1, 3, -100, 0
_DROP = 0
_NETWORK, _TRANSPORT = 1, 2  # headers
_DNAT = 1
_names = itertools.count(1)


def publish(address: tuple[str, int], to: tuple[str, int]) -> None:
    """Leads what this namespace sends to an IPv4 address and port to another one. Raises NamespaceError."""
    name = f"rig{next(_names)}".encode()
    chain = _text(1, name) + _text(3, b"out") + _hook(_LOCAL_OUT, _BEFORE_FILTER) + _text(7, b"nat")
    register = {"address": 1, "port": 2}
    expressions = [
        _expression(b"payload", _number(1, 1), _number(2, _NETWORK), _number(3, 16), _number(4, 4)),
        _expression(b"cmp", _number(1, 1), _number(2, 0), _nested(3, _attribute(1, socket.inet_aton(address[0])))),
        _expression(b"payload", _number(1, 1), _number(2, _TRANSPORT), _number(3, 2), _number(4, 2)),
        _expression(b"cmp", _number(1, 1), _number(2, 0), _nested(3, _attribute(1, struct.pack(">H", address[1])))),
        _expression(b"immediate", _number(1, register["address"]), _value(socket.inet_aton(to[0]))),
        _expression(b"immediate", _number(1, register["port"]), _value(struct.pack(">H", to[1]))),
        _expression(
            b"nat",
            *(_number(1, _DNAT), _number(2, socket.AF_INET)),
            *(_number(3, register["address"]), _number(4, register["address"])),
            *(_number(5, register["port"]), _number(6, register["port"])),
        ),
    ]
    rule = _text(1, name) + _text(2, b"out") + _nested(4, b"".join(expressions))
    _send([(_TABLE, 0, _text(1, name)), (_CHAIN, 0, chain), (_RULE, _APPEND, rule)])


@contextlib.contextmanager
def cut() -> Iterator[None]:
    """No packet reaches this namespace, and none leaves it, for as long as the `with` lasts. Raises NamespaceError.

    Nobody is told: a host that is gone does not answer, and does not say so.
    """
    name = f"rig{next(_names)}".encode()
    policy = _text(7, b"filter") + _number(5, _DROP)
    chains = [
        (_CHAIN, 0, _text(1, name) + _text(3, word) + _hook(where, _FILTER) + policy)
        for word, where in ((b"in", _LOCAL_IN), (b"out", _LOCAL_OUT))
    ]
    _send([(_TABLE, 0, _text(1, name)), *chains])
    try:
        yield
    finally:
        _send([(_NO_TABLE, 0, _text(1, name))])


def _send(changes: Iterable[tuple[int, int, bytes]]) -> None:
    batch = struct.pack(">BBH", 0, 0, _SUBSYSTEM)
    ours = struct.pack(">BBH", socket.AF_INET, 0, 0)
    messages = [_message(_BEGIN, _REQUEST, batch)]
    messages += [_message(kind, _REQUEST | _ACK | _CREATE | more, ours + body) for kind, more, body in changes]
    messages.append(_message(_END, _REQUEST, batch))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as netlink:
        netlink.settimeout(5)
        netlink.send(b"".join(messages))
        for _ in range(len(messages) - 2):
            _, kind, *_, code = struct.unpack_from("=IHHIIi", netlink.recv(65536))
            if kind != _ERROR or code != 0:
                raise NamespaceError(f"cannot lead packets: {os.strerror(-code)} (it needs root and nf_tables)")


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def _expression(name: bytes, *data: bytes) -> bytes:
    return _nested(1, _text(1, name) + _nested(2, b"".join(data)))


def _hook(where: int, priority: int) -> bytes:
    return _nested(4, _number(1, where) + _attribute(2, struct.pack(">i", priority)))


def _value(data: bytes) -> bytes:
    return _nested(2, _attribute(1, data))


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack(">I", value))


def _text(kind: int, text: bytes) -> bytes:
    return _attribute(kind, text + b"\0")


def _nested(kind: int, data: bytes) -> bytes:
    return _attribute(kind | _NESTED, data)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
