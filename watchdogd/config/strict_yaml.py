"""A YAML file -> nodes that know their place -> values; each mistake is noted with line, column and key.

It must never guess: what YAML 1.1 reads otherwise than it is written (`on` is true, `1:30` is 90, `0123` is
83) is told, not mended. It must never repeat a text that may hold a password, and a small file must never
cost much time (aliases that multiply, deep nesting).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar, cast

import yaml
from yaml.constructor import SafeConstructor
from yaml.resolver import BaseResolver

from watchdogd.model.text import Outside

T = TypeVar("T")

MAX_BYTES = 256 * 1024  # PyYAML reads about 100 kB a second; 1000 instances are 150 kB
MAX_VALUES = 50_000  # with every alias counted as what it stands for
MAX_SHOWN = 60  # characters of a text in a message
MAX_DEPTH = 20  # a configuration has 4 levels

_KEY = re.compile(r"[A-Za-z0-9_-]{1,30}")  # what may stand in a key path
_YAML = "tag:yaml.org,2002:"
TEXT, _LIST, _MAPPING = (
    BaseResolver.DEFAULT_SCALAR_TAG,
    BaseResolver.DEFAULT_SEQUENCE_TAG,
    BaseResolver.DEFAULT_MAPPING_TAG,
)
_NULL, INT, FLOAT, BOOL, _MERGE = (_YAML + tag for tag in ("null", "int", "float", "bool", "merge"))


class Wrong(ValueError):
    """A value that cannot be taken. Its message: what is wrong; what would be right."""


class Mistakes:
    """What is wrong with one file, in the order of the file."""

    def __init__(self, file: str) -> None:
        self._file = Outside(file)
        self._found: list[tuple[int, int, str]] = []

    def add(self, line: int, column: int, path: str, what: str) -> None:
        """Note a mistake at `line` and `column`, both from 1; `path` is the key, "" for the file."""
        place = f"{self._file}:{line}:{column}: "
        self._found.append((line, column, f"{place}{path or 'the file'}: {what}"))

    def messages(self) -> tuple[str, ...]:
        """Return each as FILE:LINE:COLUMN: KEY.PATH: what is wrong; what would be right."""
        return tuple([message for _, _, message in sorted(self._found, key=lambda one: one[:2])])


class Reader(NamedTuple, Generic[T]):
    """How one kind of value is read. `kind` names it in messages and in the docs; `read` raises Wrong."""

    kind: str
    read: Callable[[Spot], T]


class Key(NamedTuple):
    """One key of a mapping: the attribute that it fills, how it is read, and what it is for.

    `absent`: what holds without it, where that is not the attribute's default. `required`: an example, where
    the key cannot be left out.
    """

    name: str
    attribute: str
    reader: Reader[Any]
    meaning: str
    absent: str = ""
    required: str = ""


@dataclass(frozen=True, slots=True)
class Spot:
    """A node with its key path (`uwsgi[0].master_fifo`) and the list for what is wrong with it."""

    node: yaml.Node
    path: str
    mistakes: Mistakes

    def tell(self, what: str, *, key: str = "") -> None:
        """Note a mistake at the beginning of this node, about it or about the `key` that is not in it."""
        mark = self.node.start_mark
        path = ".".join(filter(None, [self.path, key]))
        self.mistakes.add(mark.line + 1, mark.column + 1, path, what)

    def read(self, reader: Callable[[Spot], T]) -> T | None:
        """Return the value, or note why there is none and return None."""
        try:
            return reader(self)
        except Wrong as wrong:
            self.tell(str(wrong))
            return None

    def text(self, wanted: str) -> str:
        """Return the text of this node, not empty; raises Wrong where YAML reads anything else in it."""
        text, tag = self.scalar(wanted)
        if tag != TEXT:
            hint = f'if you mean the text, put it in quotes: "{Outside(text)}"' if safe(text) else "put it in quotes"
            raise Wrong(f"{as_yaml_reads(text, tag)}; {hint} (expected {wanted})")
        if not text.isprintable() or not text.strip():
            raise Wrong(f"has no text, or a character that cannot be printed; expected {wanted}")
        return text

    def scalar(self, wanted: str) -> tuple[str, str]:
        """Return the text of this scalar and the tag by which YAML reads it; raises Wrong."""
        if not isinstance(self.node, yaml.ScalarNode):
            what = "list" if isinstance(self.node, yaml.SequenceNode) else "mapping"
            raise Wrong(f"is a {what}; expected {wanted}")
        if self.node.tag == _NULL:
            raise Wrong(f"is empty; expected {wanted}, or leave the key out")
        return self.node.value, self.node.tag

    def items(self, wanted: str) -> list[Spot]:
        """Return the entries of this list; raises Wrong."""
        if isinstance(self.node, yaml.ScalarNode):
            self.scalar(wanted)
            raise Wrong(f"is a single value; expected {wanted}: put it in [brackets]")
        if not isinstance(self.node, yaml.SequenceNode) or self.node.tag != _LIST:
            raise Wrong(f"is not a plain list; expected {wanted}: begin each entry with a dash")
        return [Spot(node, f"{self.path}[{index}]", self.mistakes) for index, node in enumerate(self.node.value)]

    def entries(self, known: Sequence[str]) -> dict[str, Spot]:
        """Return the values by key, merged ones too; notes unknown and double keys; raises Wrong."""
        if not isinstance(self.node, yaml.MappingNode) or self.node.tag != _MAPPING:
            raise Wrong(f"is not a mapping; expected `key: value` with some of {', '.join(known)}")
        found: dict[str, Spot] = {}
        for key, value in self._pairs(self.node):
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if name in found:
                continue  # a merged one, which the mapping's own overrides
            if name in known:
                found[name] = self._at(value, name)
            elif value.start_mark.index == value.end_mark.index == key.end_mark.index:
                # `{uri: mongodb://a,b}`: YAML ends the text at the comma; the rest may be of a password.
                self._at(key).tell("has an entry without a colon; a value with a comma in it needs quotes")
            else:
                self._at(key, name).tell(f"unknown key; {suggestion(name, known)}")
        return found

    def _at(self, node: yaml.Node, name: str = "") -> Spot:
        name = name if _KEY.fullmatch(name) else ""
        return Spot(node, ".".join(filter(None, [self.path, name])), self.mistakes)

    def _pairs(self, mapping: yaml.MappingNode) -> Iterable[tuple[yaml.Node, yaml.Node]]:
        """Give the mapping's own pairs, then those that `<<` merges into it (composing bounded them)."""
        lines: dict[str, int] = {}
        merged: list[yaml.Node] = []
        for key, value in mapping.value:
            if key.tag == _MERGE:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
                continue
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                self._at(key, key.value).tell(f"stands in line {lines[key.value]} already; keep one of them")
                continue
            if isinstance(key, yaml.ScalarNode):
                lines[key.value] = key.start_mark.line + 1
            yield key, value
        for node in merged:
            if isinstance(node, yaml.MappingNode):
                yield from self._pairs(node)
            else:
                self._at(node).tell("`<<` merges something that is not a mapping; expected an alias of one")


# ---- the file


def compose(content: bytes, mistakes: Mistakes) -> Spot | None:
    """Return the file's one document, or None after noting why it has none."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig", "replace")
        mistakes.add(*_place(before), "", "is not text in UTF-8; save the file as UTF-8")
        return None
    if len(content) > MAX_BYTES:
        mistakes.add(1, 1, "", f"is larger than {MAX_BYTES // 1024} kB; expected a configuration")
        return None
    try:
        loader = _Composer(text)
        node = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        mistakes.add(*_place(text[: error.position]), "", "has a character that cannot be printed; delete it")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        mistakes.add(line, column, "", _syntax(error))
    except (yaml.YAMLError, ValueError, OverflowError):
        # "\UFFFFFFFF": PyYAML passes the number on to chr() and says nothing of the place.
        mistakes.add(1, 1, "", r"is not YAML; look for an escape like \U or a %directive that is out of range")
    else:
        if node is not None and node.tag != _NULL:
            return Spot(node, "", mistakes)
        mistakes.add(1, 1, "", "is empty; it needs at least `mongodb:` with one `uri:`")
    return None


class _Composer(yaml.SafeLoader):
    """Composes nodes; ends early where a file nests deeply, or its aliases multiply (`[*b, *b]`)."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        before = self._values
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _too_much(event, f"nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise _too_much(event, "an alias stands inside its own anchor")
            self._values += self._sizes[id(node)]
        else:
            self._values += 1
            self._sizes[id(node)] = self._values - before
        if self._values > MAX_VALUES:
            raise _too_much(event, f"more than {MAX_VALUES} values, with each alias counted as what it stands for")
        return node


def _too_much(event: yaml.Event, what: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=cast("yaml.error.Mark", event.start_mark))


def _place(before: str) -> tuple[int, int]:
    """Return line and column of what follows this text."""
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "cannot be read"
    if error.context == "expected a single document in the stream":
        return "a second document begins here; keep one, without `---`"
    if not safe(problem):
        problem = "cannot be read"
    told = Outside(", ".join(filter(None, [error.context, problem])))
    if r"'\t'" in problem:
        return f"is not YAML: {told}; indent with spaces, not with tabs"
    if error.context == "while parsing a flow node" and "':'" in problem:
        return f'is not YAML: {told}; an IPv6 address needs quotes: "[::1]:27017"'
    return f"is not YAML: {told}; look at this line and the one before it"


# ---- mappings


class Section(NamedTuple):
    """A mapping that was read: attribute -> value where it is right, key -> spot for each known key."""

    values: dict[str, Any]
    spots: dict[str, Spot]


def section(spot: Spot, keys: Sequence[Key]) -> Section:
    """Read a mapping; notes what is unknown, wrong or missing in it, and raises Wrong where it is none."""
    found = Section({}, spot.entries([key.name for key in keys]))
    for key in keys:
        if key.name in found.spots:
            value = found.spots[key.name].read(key.reader.read)
            if value is not None:
                found.values[key.attribute] = value
        elif key.required:
            spot.tell(f"is missing; write `{key.required}`", key=key.name)
    return found


# ---- words for messages


def safe(text: str) -> bool:
    """Say whether a text may be repeated in a message: not what may be (a part of) a URI with a password."""
    return text.isprintable() and not any(sign in text for sign in ("://", "@", "%"))


def quoted(text: str) -> str:
    """Return the text for a message, shortened; not what may hold a password."""
    if not safe(text):
        return "the value (not shown: it may hold a password)"
    return f"`{text}`" if len(text) <= MAX_SHOWN else f"`{text[:MAX_SHOWN]}...`"


def suggestion(word: str, known: Sequence[str]) -> str:
    """Return `did you mean X?`, or all that is known."""
    from difflib import get_close_matches  # noqa: PLC0415 - the daemon need not keep it

    close = get_close_matches(word[:100].lower(), known, n=1)
    return f"did you mean `{close[0]}`?" if close else f"expected {', '.join(f'`{one}`' for one in known)}"


def as_number(text: str) -> float | None:
    """Return the number that YAML 1.1 reads in a text with the tag INT (`0123`, `1:30`, `0x1F`)."""
    try:
        return float(SafeConstructor().construct_yaml_int(yaml.ScalarNode(INT, text)))
    except (ValueError, OverflowError):
        return None


def as_yaml_reads(text: str, tag: str) -> str:
    """Say how YAML reads a text that a person may have meant otherwise."""
    if tag == BOOL:
        value = SafeConstructor.bool_values.get(text.lower())
        return f"{quoted(text)} is read by YAML as the boolean {str(value).lower()}"
    if tag == INT:
        number = as_number(text)
        told = "a number" if number is None else f"the number {number:.15g}"
        return f"{quoted(text)} is read by YAML as {told}"
    kind = (
        "number with a fraction"
        if tag == FLOAT
        else tag.removeprefix(_YAML)
        if tag.startswith(_YAML)
        else "special type"
    )
    return f"{quoted(text)} is read by YAML as a {kind}"
