"""Any value of any type of the model, read from its annotations: for tests of what must hold for all of them."""

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st

from watchdogd.model.base import Incarnation, Mono
from watchdogd.model.seen import MULE_ROLES, Mule
from watchdogd.model.text import Outside
from watchdogd.model.told import TYPES, What

MANY = 3
TIMES = st.floats(-1e9, 1e9) | st.sampled_from([math.inf, -math.inf])
PLAIN: Mapping[type, st.SearchStrategy[Any]] = {
    int: st.integers(),
    float: st.floats(0, 4e9),  # Unix time, until 2096
    str: st.text(),
    Outside: st.text().map(Outside),
    Incarnation: st.text().map(Incarnation),
    bool: st.booleans(),
}

# Narrower than their types.
NARROW: Mapping[type, Mapping[str, st.SearchStrategy[Any]]] = {Mule: {"role": st.sampled_from(MULE_ROLES)}}


def values(kind: Any) -> st.SearchStrategy[Any]:  # noqa: ANN401, PLR0911 - any type; one return for each
    """Any value of a type of the model; finite or infinite times, short collections."""
    if kind == Mono:
        return TIMES
    if isinstance(kind, typing.NewType):
        return values(kind.__supertype__)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(st.none() if one is types.NoneType else values(one) for one in arguments))
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=MANY).map(tuple)
    if origin is frozenset:
        return st.frozensets(values(arguments[0]), max_size=MANY)
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=MANY)
    if isinstance(kind, enum.EnumType):
        return st.sampled_from(list(kind))
    if kind is What:
        return st.sampled_from(list(TYPES.values())).flatmap(values)
    if kind in PLAIN:
        return PLAIN[kind]
    hints = typing.get_type_hints(kind, include_extras=True)
    assert dataclasses.is_dataclass(kind) or issubclass(kind, tuple), kind
    hints = {name: hint for name, hint in hints.items() if hint is not typing.ClassVar}
    drawn = {**{name: values(hint) for name, hint in hints.items()}, **NARROW.get(kind, {})}
    return st.builds(typing.cast("Callable[..., Any]", kind), **drawn)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["instances", "shop"]), inner),
)
