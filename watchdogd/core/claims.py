"""Whose memory is whose: gives an instance what is remembered of it under another key.

Two things change the key. The first edition remembered by name, and its state is taken over. And who adds `uwsgi:` to
the configuration, or takes it out, may name the path otherwise (`/var/run` for `/run`). A master that a reload was sent
to is certain; a name is only the best that is left, and what the first edition itself would have gone by.

Pure. It must never give one memory to two instances.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePath

from watchdogd.model.remembered import InstanceState, State
from watchdogd.model.seen import Instance, Snapshot

_NUMBERED = re.compile(r"(?P<name>.+)-(?P<number>[0-9]{1,9})")


def claimed(state: State, snapshot: Snapshot) -> State:
    """Return the memory with what belongs to the instances of the snapshot under their identities."""
    free = sorted((one for one in snapshot.instances if one.id not in state.instances), key=lambda one: one.id)
    if not free:  # in all ticks but an instance's first
        return state
    here = {instance.id for instance in snapshot.instances}
    instances, unclaimed = dict(state.instances), dict(state.unclaimed)
    for instance in list(free):
        old = next((key for key, one in instances.items() if key not in here and _is_of(one, instance)), None)
        name = next((name for name, one in unclaimed.items() if _is_of(one, instance)), None)
        if old is not None:
            instances[instance.id] = instances.pop(old)
        elif name is not None:
            instances[instance.id] = unclaimed.pop(name)
        else:
            continue
        free.remove(instance)
    for name in sorted(unclaimed):
        if heir := next(_heirs(name, free), None):
            instances[heir.id] = unclaimed.pop(name)
            free.remove(heir)
    return replace(state, instances=instances, unclaimed=unclaimed)


def _is_of(memory: InstanceState, instance: Instance) -> bool:
    """Say whether it is certain: the last reload was sent to this very master."""
    sent_to = memory.reload.master if memory.reload else memory.master
    return sent_to is not None and sent_to == instance.master


def _heirs(name: str, free: list[Instance]) -> Iterator[Instance]:
    """Yield who may have had this name in the first edition: that of the configuration, else of the FIFO's folder.

    A second folder of the same name had `-2`, in the order of their paths when they were found together.
    """
    yield from (one for one in free if name in {one.name, PurePath(one.fifo).parent.name})
    if numbered := _NUMBERED.fullmatch(name):
        yield from (one for one in free if PurePath(one.fifo).parent.name == numbered["name"])
