"""Prints the journal's catalog, made of the catalog of events: `journalctl -x` shows these texts.

    python -m watchdogd.report.catalog >systemd/mongo-watchdog.catalog

Format: systemd.io/CATALOG. It must never name a field that an event may lack: journalctl then shows its bare name.
"""

from __future__ import annotations

import re
import sys
import textwrap

from watchdogd.model.told import Event
from watchdogd.report.events import CATALOG, Entry

WIDTH = 76
_OPTIONAL = re.compile(r"\[[^\[\]]*\]")


def catalog() -> str:
    """Return the whole file."""
    head = "# Made by `python -m watchdogd.report.catalog` of the events in watchdogd/report/events.py."
    return "\n\n".join([head, *(_entry(event, CATALOG[event]) for event in Event)]) + "\n"


def _entry(event: Event, entry: Entry) -> str:
    lines = [
        f"-- {entry.message_id}",
        f"Subject: {_subject(event, entry)}",
        "Defined-By: mongo-watchdog",
        "Documentation: man:mongo-watchdog(8)",
        "",
        *textwrap.wrap(entry.what_to_do, WIDTH, break_on_hyphens=False, break_long_words=False),
    ]
    return "\n".join(lines)


def _subject(event: Event, entry: Entry) -> str:
    """Return the event's name and whom it is about, where that is always said."""
    always = _OPTIONAL.sub("", entry.sentence)
    about = next((field for field in ("instance", "member", "scope") if f"{{{field}}}" in always), None)
    name = event.value.replace("_", " ")
    return f"{name}: @MW_{about.upper()}@" if about else name


if __name__ == "__main__":
    sys.stdout.write(catalog())
