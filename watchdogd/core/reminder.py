"""An incident that stays open is told again: after 10 min, an hour, then each day. What is waited for, what helps.

Pure. How often it was told is remembered with the incident, before it is told: so never twice, over restarts too. Who
was away for several of its instants tells it once.
"""

from __future__ import annotations

from collections.abc import Mapping

from watchdogd.core.case import Case
from watchdogd.model.base import Mono
from watchdogd.model.decided import Outlook
from watchdogd.model.remembered import Incident, Phase
from watchdogd.model.told import StillOpen

AFTER_S = (600.0, 3600.0)
DAY_S = 86400.0

_HELPS: Mapping[Phase, str] = {
    Phase.GAVE_UP: "mend that, then `mongo-watchdog reload {name} --now`",
    Phase.DUE: "change what holds it, or reload it by hand",
    Phase.OUTAGE: "see to MongoDB",
    Phase.SETTLING: "a request that uses MongoDB shows more",
    Phase.VERIFYING: "a request that uses MongoDB shows more",
}
_ELSE = "`mongo-watchdog status {name}` shows more"


def next_at(incident: Incident) -> Mono:
    """Return when it is to be told the next time."""
    number = incident.told_again
    return incident.since + (AFTER_S[number] if number < len(AFTER_S) else DAY_S * (number - len(AFTER_S) + 1))


def passed(incident: Incident, at: Mono) -> int:
    """Return how many of its instants have passed."""
    open_s = at - incident.since
    return sum(open_s >= after_s for after_s in AFTER_S) + int(max(0.0, open_s) // DAY_S)


def still_open(c: Case, incident: Incident, shown: Outlook) -> StillOpen:
    """Return what is told: since when it is open, what it waits for, and what helps."""
    helps = _HELPS.get(shown.phase, _ELSE)
    gates = shown.blocked_by
    if why := c.blind:
        reason, helps = f"it cannot be seen: {why}", _ELSE
    elif shown.phase is Phase.GAVE_UP:
        reason = f"it was given up, since {c.state.standing.why}"
    elif shown.phase is Phase.DUE and gates:
        reason = f"what it needs is held ({', '.join(one.gate for one in gates)}): {gates[0].reason}"
    else:
        reason = f"it waits for {shown.next_what}" if shown.next_what else "what it was about is still there"
    until = max((one.until for one in gates if one.until is not None), default=None)
    return StillOpen(
        seconds=round(c.at - incident.since, 1),
        reason=reason,
        helps=helps.format(name=c.instance.name),
        blocked_by=",".join(one.gate for one in gates) or None,
        until_s=None if until is None else round(max(0.0, until - c.at), 1),
    )
