"""Whom a master sends to: its MongoDB client knows again those that serve, and a fork hands that on. Never decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from watchdogd.model.base import Endpoint, MemberId, Mono
from watchdogd.model.seen import Connection, Member, MemberState, Sent, Tcp

CALM_S = 60.0
"""Of a member that has been up for so long it is counted how many connections the master uses. Longer than any client
needs to make them all, and than a connection of the app's start lives on unused."""

USED_WITHIN_S = 35.0
"""Each of a driver's two connections to a member has data every heartbeatFrequencyMS: 10 s, rarely 30 s."""

ALL_WITHIN_S = 60.0
"""After the return of a member the usual number is waited for so long: some of the master's clients may be gone."""

STREAMING, UNKNOWN_WITHIN_S = 2, 20.0
"""What a driver has to a member from MongoDB 4.4 on, where the usual number was not seen; one of before 2020 has one.
So long it is waited for: by then a monitor with the usual heartbeat of 10 s has asked again."""


class Senders:
    """One master. `sent`: the serving members that it sends to, each by as many connections as it usually has."""

    def __init__(self) -> None:
        self.sent: tuple[Sent, ...] = ()
        self._usual: dict[MemberId, int] = {}
        self._began: Mono | None = None

    def see(self, held: Iterable[Connection], members: Mapping[Endpoint, list[Member]], at: Mono) -> None:
        """Take one look at the connections that it holds.

        That it received proves nothing: mongod streams its answers into the socket of a master without threads, where
        nobody reads, and the kernel acknowledges them (313 to 6 260 bytes waited there, nothing sent for 206 s).
        "Received" called 11 of 26 such masters safe to fork, "sent, and all read" none of them, and 237 of 237 healthy
        ones. One connection is not enough: a driver measures round trips by a thread and a connection of its own, which
        comes back by itself, and says nothing of what the monitor knows.
        """
        began = self._began = at if self._began is None else self._began
        usual: Counter[MemberId] = Counter()
        again: Counter[MemberId] = Counter()  # those with data since it serves
        known = {one.member: one for one in self.sent}
        found: dict[MemberId, Sent] = {}
        for connection in held:
            if connection.tcp is not Tcp.ESTABLISHED or connection.rqueue:
                continue
            for member in members.get(connection.remote, ()):
                usual[member.id] += connection.last_data.hi >= at - USED_WITHIN_S
                serving = member.served_since if member.is_serving else None
                if serving is None:
                    continue
                last = connection.last_sent
                again[member.id] += max(last.lo, connection.last_data.lo) >= serving.hi
                # For certain: what was sent before the member served says nothing of what the driver knows now.
                other = found.get(member.id)
                if last.lo >= serving.hi and (other is None or other.last.hi < last.hi):
                    before = known.get(member.id)
                    first = before.since if before and before.since >= serving.hi else at
                    found[member.id] = Sent(member.id, first, last)
        for member in {one.id: one for several in members.values() for one in several}.values():
            up = member.up_since if member.state is MemberState.UP else None
            if up is not None and at >= max(up.hi, began) + CALM_S:
                self._usual[member.id] = usual[member.id]
            serving = member.served_since
            most, within_s = self._usual.get(member.id), ALL_WITHIN_S
            if most is None:
                most, within_s = (STREAMING if member.process_id else 1), UNKNOWN_WITHIN_S
            if serving is not None and at < serving.hi + within_s and again[member.id] < most:
                found.pop(member.id, None)
        self.sent = tuple([found[member] for member in sorted(found)])
