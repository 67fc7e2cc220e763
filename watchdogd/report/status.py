"""What the daemon sees and will do: as a document for programs, and as text for people.

schemas/status.schema.json is the document. It must never say more than was seen: what is not known is null. Here
and in the journal alone a time becomes wall-clock time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from watchdogd import __version__
from watchdogd.codec import STATUS, Document, encode
from watchdogd.config import Config, Mode
from watchdogd.model.base import Command, InstanceId, Mono
from watchdogd.model.decided import Blocked, Decision, Outlook
from watchdogd.model.found import Finding, Kind
from watchdogd.model.remembered import Ending, InstanceState, LastReload, PastIncident, Phase
from watchdogd.model.seen import Backend, Health, Instance, Member, MemberState, Snapshot, SocketsFrom, Trust
from watchdogd.model.text import THREADS_OFF
from watchdogd.report.words import (
    COMMANDS,
    NO_INSTANCE,
    UNSEEN,
    also_at,
    count,
    duration,
    from_proc,
    plain,
    table,
    timestamp,
    tree,
    when,
)

_QUIET = frozenset({Phase.WATCHING.value, Phase.ABSENT.value})

_MEANING: Mapping[str, str] = {
    Phase.RELOADING.value: "a reload is under way",
    Phase.VERIFYING.value: "reloaded; whether it reaches MongoDB is not seen yet",
    Phase.GAVE_UP.value: "nothing that may be done here helps: somebody must look at it",
    Phase.ABSENT.value: "it does not run",
    Phase.OUTAGE.value: "MongoDB does not serve",
    Phase.SETTLING.value: "it gets time to heal by itself",
    Phase.DUE.value: "it needs a reload",
    Phase.WATCHING.value: "nothing to do",
}

UNPROVEN = "MongoDB serves; that it is well was not seen yet"
"""What is shown of an instance at rest whose incident goes on."""

_ENDINGS: Mapping[str, str] = {
    Ending.HEALED.value: "needed no reload",
    Ending.RECOVERED.value: "reached MongoDB again by a reload",
    Ending.REPLACED.value: "somebody else ended or replaced what it was about",
    Ending.ENDED_BY_US.value: "uWSGI ended while a reload was at work",
}

_TRUST: Mapping[str, str] = {
    Trust.UNKNOWN.value: "not known yet",
    Trust.BLIND.value: "it never answered well, which says nothing",
    Trust.INDEPENDENT.value: "it answers well without MongoDB, which says nothing",
    Trust.ANSWERS.value: "whether its answers depend on MongoDB is not known yet",
    Trust.DEPENDENT.value: "its answers depend on MongoDB",
}

_NAMED_AT_MOST = 5


@dataclass(frozen=True, slots=True)
class Watch:
    """Since when this daemon watches, and when all of it was last seen; None: not yet."""

    since: Mono
    whole: Mono | None


def sees_all(snapshot: Snapshot, decision: Decision) -> bool:
    """Say whether no part of what is watched is blind, or not heard of yet."""
    unheard = any(one.state is MemberState.UNKNOWN and not one.unneeded for one in snapshot.members.values())
    return not (unheard or snapshot.blind or decision.faults or any(one.blind for one in snapshot.instances))


# ----------------------------------------------------------------------------------------------- for programs


def document(
    snapshot: Snapshot, findings: Mapping[InstanceId, Finding], decision: Decision, config: Config, watch: Watch
) -> Document:
    """Return what `status --json` prints, of one tick: its Snapshot, Findings and Decision, and what it decided by."""
    paused, last = decision.state.paused, decision.state.last_incident
    seen = STATUS.document(
        at=timestamp(snapshot.wall),
        daemon={"version": __version__, "pid": os.getpid(), "since": _wall(snapshot, watch.since)},
        seen_whole_at=_wall(snapshot, watch.whole),
        last_incident=last and _past(last),
        mode=config.mode,
        paused=paused and {"until": _wall(snapshot, paused.until), "reason": paused.reason, "by": paused.by or None},
        deployments=_deployments(snapshot, config),
        instances=[
            _instance(snapshot, instance, findings.get(instance.id, Finding(instance.id)), decision)
            for instance in snapshot.instances
        ],
        not_covered=snapshot.not_covered,
        blind=[{"scope": str(one.scope), "why": one.why} for one in snapshot.blind],
        degraded=snapshot.degraded,
        sockets=_sockets(snapshot.sockets),
    )
    shown: Document = tree(encode(seen))
    return shown


def answer(document: Document) -> Document:
    """Return it as the answer to who asked for it."""
    return {"ok": True, "text": "", "exit": exit_code(document), "status": document}


def exit_code(document: Document, instance: str | None = None) -> int:
    """Return 0 when all is well, 1 for trouble, blindness, or nothing to watch; for a FIFO or a disk that takes
    nothing, a worker that hangs, and an instance whose deployment is not known.
    """
    instances = _chosen(document, instance)
    watched = any(one["state"] != Phase.ABSENT.value for one in instances)
    troubled = any(
        one["blind"]
        or one["blocked_by"]
        or one["state"] not in _QUIET
        or not one.get("deployments", True)  # a daemon of before does not say
        or _hangs(one)
        for one in instances
    )
    serving = all(one["serving"] for one in document["deployments"])
    return 0 if watched and serving and not troubled and not (document["blind"] or document.get("degraded")) else 1


def line(snapshot: Snapshot, findings: Mapping[InstanceId, Finding], decision: Decision, config: Config) -> str:
    """Return it all in one line, for `systemctl status`: the worst first; `nothing to do` only where all is well."""
    running = sum(one.master is not None for one in snapshot.instances)
    watching = f"watching {count(running, 'instance')}" if running else "nothing is watched"
    wrong = [before + _some(those) for before, those in _wrong(snapshot, findings, decision, config) if those]
    notes = []
    if paused := decision.state.paused:
        notes.append(f"paused until {_wall(snapshot, paused.until) or '`mongo-watchdog resume`'}")
    if config.mode is Mode.OBSERVE:
        notes.append("mode observe: nothing is ever reloaded")
    return f"{watching}: {'; '.join([*(wrong or ['nothing to do']), *notes])}"


def _wrong(
    snapshot: Snapshot, findings: Mapping[InstanceId, Finding], decision: Decision, config: Config
) -> Iterator[tuple[str, list[str]]]:
    """Yield all that is known and not well, the worst first: what it is, and whom it is about."""
    names = {one.id: one.name for one in snapshot.instances}
    outlooks = [(names.get(id_, id_), outlook) for id_, outlook in decision.outlooks.items()]
    elsewhere = [one.elsewhere for one in snapshot.instances if one.elsewhere]
    unseen = [
        one.name
        for one in snapshot.instances
        if (one.blind and one.blind != (one.elsewhere,)) or one.id in decision.faults
    ]
    busy = [(name, one.phase.value) for name, one in outlooks if one.phase.value not in _QUIET]
    hung = [(one, names.get(id_, id_)) for id_, of_it in findings.items() for one in of_it.evidence]
    yield "", [f"{name} {phase.replace('_', ' ')}" for name, phase in busy]
    yield "", _first(elsewhere)
    yield "blind: ", [*[str(one.scope) for one in snapshot.blind], *unseen]
    yield "degraded: ", ["state"] if snapshot.degraded else []
    members = _members(snapshot, config)
    silent = [name for name, of_it in members.items() if all(one.state is MemberState.UNKNOWN for one in of_it)]
    dead = [name for name, of_it in members.items() if not any(one.serves for one in of_it) and name not in silent]
    yield "MongoDB does not serve: ", dead
    yield "MongoDB has not answered yet: ", silent
    yield (
        "hangs since its fork: ",
        [f"process {one.worker.pid} of {name}" for one, name in hung if one.kind is Kind.HUNG],
    )
    yield "no reload can be sent to ", [name for name, one in outlooks if any(b.gate == "fifo" for b in one.blocked_by)]
    yield "runs without Python threads: ", [one.name for one in snapshot.instances if one.threads_off]
    unknown = [one.name for one in snapshot.instances if one.master and not one.deployments]
    yield "deployment not known, so only shown: ", unknown
    incidents = {id_ for id_, one in decision.state.instances.items() if one.incident}
    at_rest = [id_ for id_, one in decision.outlooks.items() if one.phase is Phase.WATCHING and id_ in incidents]
    yield "", [f"{names.get(id_, id_)} unproven" for id_ in at_rest]
    yield "only shown: ", [name for name, one in outlooks if one.only_shown and name not in unknown]
    yield "does not run: ", [name for name, one in outlooks if one.phase is Phase.ABSENT]
    yield "", [] if snapshot.instances or config.instances is not None else [NO_INSTANCE]
    yield "not covered: ", _first(list(snapshot.not_covered))


def _first(sentences: list[str]) -> list[str]:
    """Return the first one alone, with how many more there are: they are long."""
    return [_some(sentences, most=1)] if sentences else []


def _members(snapshot: Snapshot, config: Config) -> dict[str, list[Member]]:
    """Return the members of each deployment."""
    members: dict[str, list[Member]] = {one.name: [] for one in config.deployments}
    for id_, member in snapshot.members.items():
        members.setdefault(id_.deployment, []).append(member)
    return members


def _deployments(snapshot: Snapshot, config: Config) -> list[Document]:
    return [
        {
            "name": name,
            "serving": any(one.serves for one in of_it),
            "members": [_member(snapshot, one) for one in of_it],
        }
        for name, of_it in _members(snapshot, config).items()
    ]


def _sockets(sockets: SocketsFrom) -> Document:
    return {"read_from": sockets.backend.value, "why": sockets.why or None}


def _member(snapshot: Snapshot, member: Member) -> Document:
    return {
        "address": member.id.address,
        "state": member.state,
        "serving": member.serves,
        "process_id": member.process_id,
        "born": _wall(snapshot, member.born and member.born.lo),
        "since": _wall(snapshot, member.since),
        "restarts": member.restarts,
        "detail": (member.unneeded and f"no alarm: {member.unneeded}") or member.detail or None,
        "learned": sorted(str(one) for one in member.learned),
        "access_control": member.access and ("on" if member.access.on else "off"),
        "access_control_turned_on": _wall(snapshot, member.access.turned_on if member.access else None),
    }


def _instance(snapshot: Snapshot, instance: Instance, finding: Finding, decision: Decision) -> Document:
    state = decision.state.instances.get(instance.id, InstanceState())
    outlook = decision.outlooks.get(instance.id) or Outlook(state.phase)
    fault = decision.faults.get(instance.id)
    return {
        "name": instance.name,
        "fifo": str(instance.fifo),  # whole: `reload` sends it back
        "deployments": instance.deployments,
        "state": outlook.phase,
        "blocked_by": [_blocked(snapshot, one) for one in outlook.blocked_by],
        "only_shown": outlook.only_shown or None,
        "blind": [*instance.blind, *filter(None, [fault])],
        "master": instance.master and {"pid": instance.master.pid},
        "threads_off": instance.threads_off,
        "workers": [
            {
                "pid": worker.id.pid,
                "verdict": finding.verdicts.get(worker.id),
                "leftovers": finding.counted.get(worker.id, 0),
            }
            for worker in instance.workers
        ],
        "mules": [
            {
                "pid": mule.id.pid,
                "role": mule.role,
                "verdict": finding.verdicts.get(mule.id),
                "leftovers": finding.counted.get(mule.id, 0),
            }
            for mule in instance.mules
        ],
        "evidence": [
            {
                "kind": one.kind,
                "pid": one.worker.pid,
                "since": _wall(snapshot, one.since),
                "ripe_at": _wall(snapshot, one.ripe_at),
                "sentence": one.sentence,
                "end": outlook.ends.get(one.worker) if one.kind is Kind.HUNG else None,
            }
            for one in finding.evidence
            if one.kind is not Kind.UNCONNECTED
        ],
        "health": instance.health and _health(snapshot, instance.health),
        "next": {"what": outlook.next_what, "at": _wall(snapshot, outlook.next_at)} if outlook.next_what else None,
        "incident": state.incident and state.incident.id,
        "last_reload": state.last and _last_reload(state.last),
        "reloads_left": outlook.reloads_left,
        "sockets": instance.sockets and _sockets(instance.sockets),
    }


def _health(snapshot: Snapshot, health: Health) -> Document:
    asked = health.round
    return {
        "url": health.target,
        "trust": health.trust,
        "at": _wall(snapshot, health.at),
        "good": None if health.at is None else health.good,
        "says": health.says or None,
        "round": asked
        and {
            "at": _wall(snapshot, asked.ended),
            "size": asked.size,
            "good": asked.good,
            "bad": asked.bad,
            "says": asked.says,
        },
    }


def _blocked(snapshot: Snapshot, blocked: Blocked) -> Document:
    return {"gate": blocked.gate, "reason": blocked.reason, "until": _wall(snapshot, blocked.until)}


def _past(last: PastIncident) -> Document:
    return {
        "id": last.id,
        "instance": last.instance,
        "since": timestamp(last.began),
        "until": timestamp(last.over),
        "ending": last.ending,
    }


def _last_reload(last: LastReload) -> Document:
    return {
        "id": last.id,
        "command": last.command,
        "at": timestamp(last.wall),
        "outcome": last.outcome,
        "proven": last.proven,
        "detail": last.detail or None,
        "by": last.by,
        "now": last.now,
    }


def _wall(snapshot: Snapshot, at: Mono | None) -> str | None:
    """Turn a time of CLOCK_MONOTONIC into RFC 3339; None for what is not known or has no end."""
    if at is None or not math.isfinite(at):
        return None
    return timestamp(snapshot.wall + at - snapshot.at)


# ------------------------------------------------------------------------------------------------- for people


def render(document: Document, instance: str | None = None) -> str:
    """Return the document as text: MongoDB with all instances, or with one."""
    instances = _chosen(document, instance)
    daemon = document["daemon"]
    lines = [f"mongo-watchdog {daemon['version']} (pid {daemon['pid']}), {document['at']}"]
    lines += _history_lines(document)
    if document["mode"] != "act":
        lines.append(f"mode {document['mode']}: nothing is ever reloaded")
    if paused := document["paused"]:
        until = _when(document, paused["until"]) or "`mongo-watchdog resume`"
        by = f", by {who}" if (who := paused.get("by")) else ""  # a daemon of before says nothing of it
        lines.append(f"paused until {until}{by}: {paused['reason'] or 'no reason given'}")
    lines += ["", *table(_member_rows(document)), *_member_lines(document)]
    for one in instances:
        lines += ["", *_instance_lines(document, one)]
    if not instances:
        lines += ["", NO_INSTANCE]
    rest = [f"blind: {one['scope']}: {one['why']}" for one in document["blind"]]
    if degraded := document.get("degraded"):  # a daemon of before does not say
        rest.append(f"degraded: the state is not in the state folder: {degraded}")
    rest += _socket_lines(document["sockets"])
    rest += [f"not covered: {one}" for one in document["not_covered"]] if instance is None else []
    if rest:
        lines += ["", *rest]
    return "\n".join(plain(text).rstrip() for text in lines)


def _history_lines(document: Document) -> Iterator[str]:
    """Say what a calm daemon has seen, which else looks like one that sees nothing."""
    if (since := document["daemon"].get("since")) is None:  # a daemon of before says nothing of it
        return
    whole = document["seen_whole_at"]
    seen = f"not all of it is seen; it last was {_when(document, whole)}"
    if whole is None:
        seen = "not all of it has been seen yet"
    elif whole == document["at"]:
        seen = "all of it is seen"
    yield f"watching since {_when(document, since)}; {seen}"
    if last := document["last_incident"]:
        how = f"{_ENDINGS[last['ending']]}, after {_span(last['since'], last['until'])}"
        yield f"last incident: {last['instance']}, {_when(document, last['since'])}: {how}"
    else:
        yield "last incident: none is remembered"


def _chosen(document: Document, instance: str | None) -> list[Document]:
    return [one for one in document["instances"] if instance in (None, one["name"])]


def _member_rows(document: Document) -> Iterator[tuple[str, ...]]:
    yield "MONGODB", "MEMBER", "STATE", "SERVING", "FOR", "RESTARTS", "STARTED", "AUTH"
    for deployment in document["deployments"]:
        if not deployment["members"]:
            yield deployment["name"], "-", "unknown", "no", "-", "-", "-", "-"
        for member in deployment["members"]:
            started = _span(member.get("born"), document["at"])  # a daemon of before does not say it
            yield (
                deployment["name"],
                member["address"],
                member["state"],
                "yes" if member["serving"] else "no",
                _span(member["since"], document["at"]),
                str(member["restarts"]),
                started if started == "-" else f"{started} ago",
                member.get("access_control") or "-",
            )


def _member_lines(document: Document) -> Iterator[str]:
    for member in (member for deployment in document["deployments"] for member in deployment["members"]):
        if member["detail"]:
            yield f"{member['address']} is {member['state']}: {member['detail']}"
        if member["learned"]:
            yield also_at(member["address"], member["learned"])
        if turned_on := member.get("access_control_turned_on"):
            yield (
                f"{member['address']} has access control on since {_when(document, turned_on)}, and had not before: "
                "every request without credentials fails"
            )


def _instance_lines(document: Document, one: Document) -> Iterator[str]:
    yield f"{one['name']}: {one['state'].replace('_', ' ')} ({_meaning(one)})"
    master = f"master {one['master']['pid']}" if one["master"] else "no master"
    yield f"  {master}, FIFO {one['fifo']}" + (f", incident {one['incident']}" if one["incident"] else "")
    rows = [(str(worker["pid"]), worker["verdict"] or "unknown", str(worker["leftovers"])) for worker in one["workers"]]
    if rows:
        yield from (f"  {row}" for row in table([("WORKER", "VERDICT", "LEFTOVERS"), *rows]))
    for mule in one.get("mules", ()):  # a daemon of before has none
        holds = f", {count(mule['leftovers'], 'leftover')}" if mule["leftovers"] else ""
        yield f"  {mule['role']} {mule['pid']}: {mule['verdict'] or 'unknown'}{holds}"
    for blind in one["blind"]:
        yield f"  blind: {blind}"
    if one.get("only_shown"):  # same
        yield f"  only shown: {one['only_shown']}"
    if one.get("threads_off") and one["master"]:  # a daemon of before does not say
        yield "  " + THREADS_OFF.format(pid=one["master"]["pid"])
    yield from (f"  {line}" for line in _evidence_lines(one))
    yield from _health_lines(document, one.get("health"))  # a daemon of before does not ask
    yield from (f"  {line}" for line in _socket_lines(one["sockets"]))
    if following := one["next"]:
        at = _when(document, following["at"])
        yield f"  next: {_in_words(following['what'])}" + (f", {at}" if at else "")
    for blocked in one["blocked_by"]:
        until = _when(document, blocked["until"])
        held = "held by" if one["state"] == Phase.DUE.value else "a reload would be held by"
        yield f"  {held} {blocked['gate']}: {blocked['reason']}" + (f"; until {until}" if until else "")
    if last := one["last_reload"]:
        yield _last_line(document, last)
    yield f"  {count(one['reloads_left'], 'reload')} left in the budget"


def _last_line(document: Document, last: Document) -> str:
    proven = f"; {UNSEEN}" if last["proven"] else ""
    detail = f": {last['detail']}" if last["detail"] else ""
    asked = ""
    if by := last.get("by"):  # a daemon of before does not say
        asked = f", for {by['name']} (uid {by['uid']}, pid {by['pid']}){', now' if last['now'] else ''}"
    command = COMMANDS[Command(last["command"])]
    return f"  last: {command} {_when(document, last['at'])}{asked}: {last['outcome']}{proven}{detail}"


def _evidence_lines(one: Document) -> Iterator[str]:
    for evidence in one.get("evidence", ()):  # a daemon of before has none
        if evidence["kind"] != Kind.LEFTOVER.value:  # which the table shows
            end = f"; {evidence['end']}" if evidence.get("end") else ""
            yield f"{evidence['kind']}: {evidence['sentence']}{end}"


def _hangs(one: Document) -> bool:
    """Say whether a process of it does; a daemon of before has no evidence."""
    return any(evidence["kind"] == Kind.HUNG.value for evidence in one.get("evidence", ()))


def _meaning(one: Document) -> str:
    if one["state"] != Phase.WATCHING.value:
        return _MEANING[one["state"]]
    meanings = (
        ("a process of it hangs", _hangs(one)),
        ("not all of it is seen", one["blind"]),
        ("no reload can be sent to it", one["blocked_by"]),
        (UNPROVEN, one["incident"]),
        ("only shown", one.get("only_shown")),
        ("only a restart would help it", one.get("threads_off")),
    )
    return next((meaning for meaning, is_so in meanings if is_so), _MEANING[one["state"]])


def _health_lines(document: Document, health: Document | None) -> Iterator[str]:
    if health is None:
        return
    yield f"  health: {_TRUST[health['trust']]}"
    if health["at"]:
        how = "good" if health["good"] else "bad"
        yield f"  last health request: {how} ({health['says']}), {_when(document, health['at'])}"
    if asked := health["round"]:
        yield f"  health requests at once: {asked['good']} of {asked['size']} good, {_when(document, asked['at'])}"


def _socket_lines(sockets: Document | None) -> list[str]:
    return [from_proc(sockets["why"])] if sockets and sockets["read_from"] == Backend.PROC.value else []


def _in_words(what: str) -> str:
    """Name the command of `reload w`, which nobody knows by its letter."""
    return next((f"{what} ({words})" for one, words in COMMANDS.items() if what == f"reload {one.value}"), what)


def _when(document: Document, at: str | None) -> str:
    """Write a time with what it means now; empty for None."""
    return "" if at is None else when(at, document["at"])


def _span(since: str | None, at: str) -> str:
    if since is None:
        return "-"
    return duration(max(0.0, (datetime.fromisoformat(at) - datetime.fromisoformat(since)).total_seconds()))


def _some(names: list[str], *, most: int = _NAMED_AT_MOST) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
