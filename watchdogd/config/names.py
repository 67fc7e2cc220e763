"""What an instance is called where nobody has named it: after its FIFO.

A name is what people read: a path, as that is shown. It must never depend on the order in which instances were found,
and nothing is remembered, compared or sent by it (model.InstanceId is for that).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath

from watchdogd.model.text import shown

_SAYS_NOTHING = frozenset({"app", "control", "fifo", "master", "master-fifo", "master_fifo", "reload", "uwsgi", "web"})


def short_name(fifo: PurePath) -> str:
    """Return `shop` for .../shop.fifo, and for .../shop/fifo, whose own name says nothing."""
    return shown(_named_by(fifo).name) or "/"


def distinct_names(fifos: Iterable[str]) -> list[str]:
    """Return a name for each of these paths, in their order: the short one, or as much of the path as tells it apart.

    Those whose short names are the same all get a longer one, so that no name passes from one to another.
    """
    paths = [PurePath(one) for one in fifos]
    names: dict[PurePath, str] = {}
    for length in range(1, max((len(one.parts) for one in paths), default=0)):
        longer = {one: name for one in paths if one not in names and (name := _name(one, length))}
        taken = Counter(longer.values())
        names |= {one: name for one, name in longer.items() if taken[name] == 1}
    return [shown(names.get(one, str(one))) for one in paths]  # a whole path begins with /, and no other name does


def _name(fifo: PurePath, length: int) -> str:
    """Return the last so many parts; nothing where there are not so many, for that would be a shorter name."""
    _, *parts = _named_by(fifo).parts
    return "/".join(parts[-length:]) if len(parts) >= length else ""


def _named_by(fifo: PurePath) -> PurePath:
    says_something = fifo.suffix == ".fifo" and fifo.stem not in _SAYS_NOTHING
    return fifo.with_suffix("") if says_something else fifo.parent
