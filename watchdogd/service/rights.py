"""What this process may not do and will have to: said once, at the start, with what gives the right.

Only a help for who sets it up. It must never decide: a right that is missing when it is needed makes the readers blind
and the writer refuse, each with its own sentence.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from watchdogd.act import helper
from watchdogd.act.helper import Helper
from watchdogd.config import Config, Mode
from watchdogd.report.journal import is_journal_stream
from watchdogd.report.say import say

_DAC_OVERRIDE, _DAC_READ_SEARCH, _KILL, _SYS_PTRACE = 1, 2, 5, 19  # linux/capability.h
_SEES = {_SYS_PTRACE: "CAP_SYS_PTRACE", _DAC_READ_SEARCH: "CAP_DAC_READ_SEARCH"}
_UNIT = "the shipped mongo-watchdog.service gives it (`systemctl revert mongo-watchdog` removes what took it away)"
_SAME_USER = "the drop-in same-user.conf makes do without it where one user runs all instances"


@dataclass(frozen=True, slots=True)
class Rights:
    """What this process may do. `capabilities`: the effective ones as a mask.

    `writer`, `ender`: whether it may ask the program that writes FIFOs, and the one that ends hung workers.
    """

    uid: int
    capabilities: int
    writer: bool
    ender: bool

    @classmethod
    def of_this_process(cls) -> Rights:
        """Read them."""
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        mask = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
        writer, ender = (os.access(one.socket, os.W_OK) for one in (helper.FIFO, helper.END))
        return cls(os.geteuid(), int(mask, 16), writer, ender)

    def has(self, capability: int) -> bool:
        """Say whether this capability is effective."""
        return bool(self.capabilities >> capability & 1)

    def helpers(self, uid: int) -> tuple[Helper, ...]:
        """Return the programs that would act for this process at an instance of that user, of those it may ask."""
        if self.uid in {0, uid}:
            return ()
        asked = (helper.FIFO, self.writer), (helper.END, self.ender and not self.has(_KILL))
        return tuple([one for one, is_asked in asked if is_asked])


def owner_of(path: Path) -> int | None:
    """Return whose FIFO this is; None while there is none, or where it cannot be reached."""
    try:
        return path.stat().st_uid
    except OSError:
        return None


def tell(config: Config) -> None:
    """Write what is missing on stderr, as warnings where that is the journal (sd-daemon(3))."""
    level = "<4>" if is_journal_stream(os.environ.get("JOURNAL_STREAM", ""), sys.stderr.fileno()) else ""
    for sentence in missing(config, Rights.of_this_process()):
        say(f"{level}{sentence}", file=sys.stderr)


def missing(config: Config, rights: Rights, owner: Callable[[Path], int | None] = owner_of) -> Iterator[str]:
    """Yield a sentence for each right that is missing. `owner` gives the user id that a FIFO belongs to."""
    strangers = _strangers(config, rights.uid, owner)
    if not strangers:
        return
    for capability, name in _SEES.items():
        if not rights.has(capability):
            yield f"{name} is missing to see what {strangers} holds: {_UNIT}; {_SAME_USER}"
    if config.mode is Mode.OBSERVE:
        return
    if not rights.writer and not rights.has(_DAC_OVERRIDE):
        yield (f"nothing may be written to the FIFO of {strangers}: {helper.FIFO.mend()} has it written; {_SAME_USER}")
    if not rights.ender and not rights.has(_KILL):
        yield (
            f"no worker of {strangers} that hangs since its fork may be ended: "
            f"{helper.END.mend()} has it ended; {_SAME_USER}"
        )


def _strangers(config: Config, uid: int, owner: Callable[[Path], int | None]) -> str:
    """Name the instances that another user runs, as far as that is known now."""
    if config.instances is None:
        return f"any instance of another user than {_name(uid)}"
    owners = ((one.name, owner(one.master_fifo)) for one in config.instances)
    return ", ".join(f"{name} (of {_name(its)})" for name, its in owners if its is not None and its != uid)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user id {uid}"
