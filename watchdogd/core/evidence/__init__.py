"""Evidence: why one worker is believed to be stuck. One file for each kind, all of one shape: Look -> Evidence.

Each file says what its kind rests on and what speaks against it. None says what comes of it: which evidence counts, and
which command it asks for, stands in due.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from watchdogd.core.evidence import born_early, hung, leftover, mule, orphaned, unanswered, unconnected, waiting
from watchdogd.core.look import Look
from watchdogd.model.found import Evidence, Kind

KINDS: Mapping[Kind, Callable[[Look], Iterable[Evidence]]] = {
    Kind.LEFTOVER: leftover.evidence,
    Kind.WAITING: waiting.evidence,
    Kind.ORPHANED: orphaned.evidence,
    Kind.UNANSWERED: unanswered.evidence,
    Kind.BORN_EARLY: born_early.evidence,
    Kind.HUNG: hung.evidence,
    Kind.MULE: mule.evidence,
    Kind.UNCONNECTED: unconnected.evidence,
}
