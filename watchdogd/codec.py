"""The one codec: documents of JSON with their versions, and the values of the model in them.

Versions: every document has a `version`, a whole number. The versions that its Format names are read; a document of any
other is refused whole, and the refusal says whether it is from a newer mongo-watchdog or from an older one. The number
rises when what is written would be wrong for who reads the version before.

Fields that are not known: refused where something is done with the document, a saved state or a request, since to leave
out what was remembered or asked is worse than to say no (`decode`). Ignored where it is only shown, answers, a status,
connections, what is kept of incidents: these may get a field within a version.

It must never touch a file or a socket, nor let anything but CodecError come of any content. The privileged helper uses
nothing of this: what it is asked is one line (act/fifo_helper.py).
"""

from __future__ import annotations

import contextlib
import enum
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, NoReturn

from watchdogd.model.base import Mono

Document = dict[str, Any]


class CodecError(ValueError):
    """A document is not what it must be; the text names the place in it."""


class VersionError(CodecError):
    """A document is of a version that is not read here; the text says whether that is a newer or an older one."""

    def __init__(self, text: str, version: float) -> None:
        super().__init__(text)
        self.version = version


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of document: `what` it is in a sentence, the `version` that is written, the older ones that are read.

    `schema`: the name of its JSON Schema in schemas/. `names_it`: whether a document says which schema it is of.
    """

    schema: str
    what: str
    version: int
    older: tuple[int, ...] = ()
    names_it: bool = False

    @property
    def id(self) -> str:
        """The `$id` of its schema."""
        return f"urn:mongo-watchdog:{self.schema}:{self.version}"

    def document(self, **content: object) -> Document:
        """Return a document of this kind, of today's version."""
        return {**({"$schema": self.id} if self.names_it else {}), "version": self.version, **content}

    def read(self, content: bytes) -> Document:
        """Return the document that this is the text of, if it is of a version that is read; else raises CodecError."""
        try:
            document = json.loads(content, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise CodecError(f"{self.what} is not JSON: {error}") from None
        return self.checked(document)

    def checked(self, document: object) -> Document:
        """Return it as a document, if it is one of a version that is read; else raises CodecError."""
        if not isinstance(document, dict):
            raise CodecError(f"{self.what} is not a JSON object")
        known = (*self.older, self.version)
        read = f"this one reads version {' or '.join(map(str, known))}"
        version = document.get("version")
        if isinstance(version, bool) or not isinstance(version, int | float):
            raise CodecError(f"{self.what} has no version of a mongo-watchdog; {read}")
        if version not in known:
            whose = "a newer" if version > self.version else "an older"
            raise VersionError(f"{self.what} is of version {version}, from {whose} mongo-watchdog; {read}", version)
        return document


# Version 1 remembered instances by their names; version 2 and 1 had flags for what is now the standing.
STATE = Format("state", "the saved state", 3, older=(1, 2))
# Of the control protocol. Version 1 called an instance by its name; now reload has the path of its FIFO, as the status.
REQUEST = Format("control", "the request", 2)
ANSWER = Format("control", "the answer", 2)
# What `status --json` and `connections --json` print.
STATUS = Format("status", "the status", 1, names_it=True)
# Version 1 of the connections called the time since the last data, or since the FIN, an age.
CONNECTIONS = Format("connections", "the list of connections", 2, names_it=True)
# What is kept of an incident: each line is a document. And what `incidents --json` prints.
RECORD = Format("record", "a line of the record of an incident", 1)
INCIDENTS = Format("incidents", "the list of incidents", 1, names_it=True)

FORMATS = (STATE, REQUEST, ANSWER, STATUS, CONNECTIONS, RECORD, INCIDENTS)


def text(document: Mapping[str, object], *, indent: int | None = None) -> str:
    """Write a document as JSON: in one line, or indented for who looks at it."""
    return json.dumps(document, allow_nan=False, indent=indent, separators=None if indent else (",", ":"))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


# -------------------------------------------------------------------------------------------- values of the model


def encode(value: object) -> Any:  # noqa: ANN401, PLR0911 - JSON; one return for each kind
    """Write a value of the model as JSON: dataclasses as objects, named tuples as lists, infinity as `"inf"`."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value):
        return {one.name: encode(getattr(value, one.name)) for one in _fields(value.__class__)}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted((encode(item) for item in value), key=json.dumps)
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    raise TypeError(f"{value!r} is not a value of the model")


def decode(kind: Any, data: Any, where: str, shift_s: float = 0.0) -> Any:  # noqa: ANN401, PLR0911 - as `kind` says; one return for each
    """Read a value of the type `kind` back; every time of CLOCK_MONOTONIC in it is moved by `shift_s` seconds.

    Strict: raises CodecError for whatever `encode` would not have written. `where` names the value in it; "" is for
    the document itself.
    """
    if kind == Mono:
        return _float(data, where) + shift_s
    if isinstance(kind, typing.NewType):
        return decode(kind.__supertype__, data, where, shift_s)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {typing.Union, types.UnionType}:
        (inner,) = (one for one in arguments if one is not types.NoneType)
        return None if data is None else decode(inner, data, where, shift_s)
    if origin in {tuple, frozenset}:
        items = _of(list, data, where)
        return origin([decode(arguments[0], item, f"{where}[{i}]", shift_s) for i, item in enumerate(items)])
    if origin is not None and issubclass(origin, Mapping):
        pairs = _of(dict, data, where).items()
        return {key: decode(arguments[1], item, _in(where, key), shift_s) for key, item in pairs}
    if isinstance(kind, type) and issubclass(kind, str) and kind is not str:  # Outside, Incarnation
        return kind(_of(str, data, where))
    if is_dataclass(kind):
        return _decode_dataclass(kind, _of(dict, data, where), where, shift_s)
    if issubclass(kind, tuple):
        return _decode_named_tuple(kind, _of(list, data, where), where, shift_s)
    if issubclass(kind, enum.Enum):
        return _decode_enum(kind, data, where)
    return _float(data, where) if kind is float else _of(kind, data, where)


def _decode_dataclass(kind: Any, data: dict[str, Any], where: str, shift_s: float) -> Any:  # noqa: ANN401
    known = {one.name: one for one in _fields(kind)}
    if unknown := data.keys() - known.keys():
        _wrong(where, f"none of {', '.join(sorted(unknown))}", data)
    needed = {n for n, one in known.items() if one.default is MISSING and one.default_factory is MISSING}
    if missing := needed - data.keys():
        _wrong(where, f"{', '.join(sorted(missing))} in it", data)
    hints = _hints(kind)
    return kind(**{name: decode(hints[name], item, _in(where, name), shift_s) for name, item in data.items()})


def _decode_named_tuple(kind: Any, data: list[Any], where: str, shift_s: float) -> Any:  # noqa: ANN401
    hints = _hints(kind)
    if len(data) != len(hints):
        _wrong(where, f"{len(hints)} values", data)
    return kind(*[decode(hints[name], item, _in(where, name), shift_s) for name, item in zip(hints, data, strict=True)])


def _decode_enum(kind: type[enum.Enum], data: Any, where: str) -> enum.Enum:  # noqa: ANN401
    try:
        return kind(data)
    except ValueError:
        return _wrong(where, f"one of {', '.join(str(one.value) for one in kind)}", data)


def _float(data: Any, where: str) -> float:  # noqa: ANN401
    if data in ("inf", "-inf"):
        return float(data)
    if isinstance(data, int | float) and not isinstance(data, bool):
        with contextlib.suppress(OverflowError):  # of a whole number
            if math.isfinite(data):
                return float(data)
    return _wrong(where, "a number", data)


def _of(kind: type, data: Any, where: str) -> Any:  # noqa: ANN401
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        _wrong(where, kind.__name__, data)
    return data


def _in(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _wrong(where: str, expected: str, data: object) -> NoReturn:
    raise CodecError(f"{where or 'the document'}: expected {expected}, found {str(data)[:80]!r}")


@functools.cache
def _fields(kind: Any) -> tuple[Field[Any], ...]:  # noqa: ANN401
    return fields(kind)  # makes the tuple anew, and of a generator, each time it is asked


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)
