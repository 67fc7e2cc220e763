"""What is told: everything that a person ever reads of it, in the journal or elsewhere."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from watchdogd.model.base import Command


class Event(enum.Enum):
    """Everything that is ever told; report/events.py holds the sentence and the MESSAGE_ID of each."""

    STARTED = "started"
    SOCKETS_FROM_PROC = "sockets_from_proc"
    MEMBER_DOWN = "member_down"
    MEMBER_UP = "member_up"
    MEMBER_RESTARTED = "member_restarted"
    LEFTOVERS_FOUND = "leftovers_found"
    HEALED = "healed"
    RELOAD_DUE = "reload_due"
    RELOAD_HELD = "reload_held"
    RELOAD_SENT = "reload_sent"
    RELOADED = "reloaded"
    RECOVERED = "recovered"
    RELOAD_FAILED = "reload_failed"
    OVERTAKEN = "overtaken"
    REPLACED = "replaced"
    GAVE_UP = "gave_up"
    BLIND = "blind"
    SEEING_AGAIN = "seeing_again"
    INSTANCE_ABSENT = "instance_absent"
    INSTANCE_BACK = "instance_back"
    CONFIG_RELOADED = "config_reloaded"
    CONFIG_REJECTED = "config_rejected"
    PAUSED = "paused"
    RESUMED = "resumed"
    STOPPING = "stopping"


FieldValue = str | int | float | bool | tuple[str, ...] | None
"""A tuple is several lines: the only line breaks that report lets through."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Say one event. The fields fill its sentence and become the journal's MW_* fields."""

    event: Event
    instance: str | None = None
    member: str | None = None
    incident: str | None = None
    command: Command | None = None
    blocked_by: str | None = None
    fields: Mapping[str, FieldValue] = field(default_factory=dict)
