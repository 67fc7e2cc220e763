"""The catalog of everything that is told: for each event its fixed MESSAGE_ID, priority, sentence and advice.

A sentence is a template. `{name}` is a field of the Tell, `{name:noun}` counts it (`1 worker`, `3 workers`),
and what stands in [brackets] is left out when a field in it is missing; `[name?...]` when that flag is not
set, `[name=value?...]` when it is something else. Fields named `seconds` or `*_s` are durations.
It must never fail on a missing field nor let a value break the line, and a MESSAGE_ID must never change: people filter
by it.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass

from watchdogd.model.base import Command
from watchdogd.model.text import THREADS_OFF
from watchdogd.model.told import Event, FieldValue, Tell
from watchdogd.report import words


class Priority(enum.IntEnum):
    """The priorities of syslog that are used."""

    ERR = 3
    WARNING = 4
    NOTICE = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One event: its MESSAGE_ID (128 bits in hex), its priority, its sentence, and what the reader can do."""

    message_id: str
    priority: Priority
    sentence: str
    what_to_do: str


CATALOG: Mapping[Event, Entry] = {
    Event.STARTED: Entry(
        "51a486bb9f06487e8e9ac3d22a8ccade",
        Priority.NOTICE,
        "mongo-watchdog {version} started and watches {deployments:MongoDB deployment} and "
        "{instances:uWSGI instance}[mode=observe?; it only observes, nothing will be reloaded].",
        "The daemon runs and has begun to watch. `mongo-watchdog status` shows what it sees, and what it would do "
        "next. In mode observe it does everything but the write: set `mode: act` to let it reload.",
    ),
    Event.SOCKETS_FROM_PROC: Entry(
        "4b7bb504f87b4633b723dc9a66685ae8",
        Priority.NOTICE,
        "Connections[ of {instance}] are read from /proc/net/tcp instead of SOCK_DIAG: {reason}. Their ages are not "
        "known, and each look costs more.",
        "The daemon works, and knows less. Without its age nobody can tell whether an outage from before the daemon's "
        "start ended a connection, so no reload comes of it. Where the reason names a mend, apply it and restart the "
        "daemon. An instance in another network namespace (a container) is always read so; nothing is to be done "
        "there.",
    ),
    Event.MEMBER_DOWN: Entry(
        "b37006225464499d9ef8c3f3f045d348",
        Priority.WARNING,
        "MongoDB {member} does not answer[: {reason}]; applications are left alone while their deployment "
        "does not serve.",
        "The heartbeats of this member fail. The daemon reloads nothing while a deployment does not serve, because new "
        "workers could not connect either. See to MongoDB. What its restart leaves behind in the applications is then "
        "the daemon's business.",
    ),
    Event.MEMBER_UP: Entry(
        "827e022204364cd1b2d29be344c37d18",
        Priority.NOTICE,
        "MongoDB {member} answers again[ after {seconds}][restarted?, as a new process].",
        "The heartbeats of this member succeed again. Applications now get the time of `policy.linger` to heal by "
        "themselves, unless it is seen before that they do not. Nothing is to be done.",
    ),
    Event.MEMBER_RESTARTED: Entry(
        "7b76c5f2cc994d579ecdfcdc877ba24e",
        Priority.NOTICE,
        "MongoDB {member} was restarted[ (it is now process {process_id})]: all connections from before "
        "are dead, and applications must open new ones.",
        "Another process answers than before, so every connection that was open has ended, even if no "
        "heartbeat failed. The daemon now looks for workers that still hold the dead ones. Nothing is to "
        "be done.",
    ),
    Event.ACCESS_CONTROL_ON: Entry(
        "eb269788a515406d9d05a098e5dd28b6",
        Priority.WARNING,
        "MongoDB {member} has access control on, and had not before: every request without credentials fails.",
        "mongod was started with `security.authorization` or a key file, which it had not when it was asked before. "
        "Where an application fails since then, this is the likely cause, and no reload helps. Give it a user, write "
        "that into its connection string and reload it; or start mongod as it was before. The daemon asked without "
        "credentials, once since that start; `probe_access: false` turns that off.",
    ),
    Event.LEFTOVERS_FOUND: Entry(
        "7c26e14f1fa0456a9d87d48d001fbc5f",
        Priority.NOTICE,
        "{instance} still holds {leftovers:dead connection} to MongoDB in {workers:worker}. If it does "
        "not heal by itself, a reload is due in {until_s}.",
        "Workers hold connections that the outage ended (CLOSE_WAIT in `ss` and `lsof`). A healthy driver "
        "closes them and connects anew by itself within some seconds. The daemon waits for that; "
        "`mongo-watchdog connections` shows each of them.",
    ),
    Event.UNPROVEN: Entry(
        "c015d74e5b9344d2a0fdb8473af0fe32",
        Priority.NOTICE,
        "MongoDB serves; [nobody?nobody of {instance} has used it yet][nobody=False?not all of {instance} was seen to "
        "reach it yet][workers?: {workers:worker} without a connection].",
        "No worker is seen to be stuck, and none was seen to be well either. The next requests that use MongoDB show "
        "it: then the incident ends with `healed`, or the daemon says what is wrong. Workers that never use it are "
        "never seen to reach it. Nothing is to be done.",
    ),
    Event.HEALED: Entry(
        "2194870b9d8e44abbeacbe7a7500a21d",
        Priority.NOTICE,
        "{instance} needs no reload after {seconds}: it is well again by itself, [reconnected?{reconnected:worker} "
        "reached MongoDB anew][reconnected=0?what does its tasks reached MongoDB anew].",
        "This was seen: all that was used since MongoDB serves again has fresh connections to it. The daemon reloaded "
        "nothing, and nothing is to be done.",
    ),
    Event.RELOAD_ASKED: Entry(
        "f60622d00c334ad8866dd64c41547160",
        Priority.NOTICE,
        "{instance} is to get a {command}[now? now][, past {past}]: {by}[ (uid {uid}, pid {pid})] asked for it.",
        "Somebody who may use the control socket asked for it; the kernel says who. It goes past a giving up and past "
        "good answers of the app, with `--now` past linger, cooldown and budget too. It is verified like every other "
        "one. Nothing is to be done.",
    ),
    Event.RELOAD_DUE: Entry(
        "7db66547e3c74cc0b6ba9ea19058d317",
        Priority.WARNING,
        "{instance} does not heal by itself and needs a {command}[: {why}] ({stranded:stranded worker}, "
        "{idle:idle worker}, {leftovers:dead connection}).",
        "MongoDB serves, and it is seen that workers do not heal by themselves: their requests fail, or the next one "
        "will. The daemon reloads the instance unless something holds it back, which it says next. Nothing is to be "
        "done.",
    ),
    Event.RELOAD_HELD: Entry(
        "332f2dd23ebd435986b3319ca275eb9d",
        Priority.WARNING,
        "{instance} needs a {command}, which is held back ({blocked_by}): {reason}[; for another {until_s}].",
        "A reload is due, and a rule forbids it for now; the reason names it. Where a time is given the "
        "daemon goes on by itself. Otherwise change what the reason says, or reload the instance by hand; "
        "`mongo-watchdog status` shows everything that blocks it.",
    ),
    Event.RELOAD_SENT: Entry(
        "6d28ba5cd20c4020af35862fe1265e85",
        Priority.WARNING,
        "Sent {instance} a {command} for {workers:worker}[resent?, once more: the first one was lost].",
        "One byte was written into the master FIFO of the instance: w reloads all workers gracefully, c "
        "one after the other, r executes the whole stack anew. Requests that are being served are "
        "finished. The daemon now watches the old processes go, and sends nothing more until it knows what "
        "became of this.",
    ),
    Event.RELOADED: Entry(
        "fcd0483d516244da88ad351d2e3dbca0",
        Priority.NOTICE,
        "{instance} was reloaded in {seconds} and has {workers:new worker}; whether they reach MongoDB is not seen "
        "yet.",
        "All old workers are gone and the new ones are ready. That proves the reload, not yet the cure: "
        "the daemon watches until the workers that are used have connections of their own. Nothing is to "
        "be done.",
    ),
    Event.RECOVERED: Entry(
        "b55d36224135485e8957faf7bcd7ada7",
        Priority.NOTICE,
        "{instance} reaches MongoDB again after {seconds}: [by_mules?what does its tasks has connections; whether they "
        "succeed is not seen][by_mules=False?every worker that is used has connections][answers?, and the app answers: "
        "{answers} of {answers} health requests were good][unseen?; " + words.UNSEEN + "][; "
        "{mules} is not cured by that, and still stuck][. If requests fail, the likely cause is that access control "
        "of {access} is on, and was off before].",
        "The new workers have fresh connections to a member that serves, so the incident is over. A request may fail "
        "all the same: for want of credentials, say, or a server error. The log of the application tells. An "
        "application that often needs this should make its MongoClient after the fork (`lazy-apps = true`).",
    ),
    Event.RELOAD_FAILED: Entry(
        "0b6fba765a594818af03030ad9841721",
        Priority.ERR,
        "The {command} of {instance} did not help: {reason}.",
        "Its old workers did not go in time, or the new ones do not reach MongoDB or answer badly. The daemon restarts "
        "the whole stack where that is allowed (`reloads: [..., restart]`), or gives up. Look into the log of the "
        "application.",
    ),
    Event.RELOAD_UNSENT: Entry(
        "2f5fd98b726941399aae02f107603fcf",
        Priority.ERR,
        "The {command} of {instance} could not be sent: {reason}. [again?It is tried again.]"
        "[again=False?An operator asked for it, and has to ask again.]",
        "No byte reached uWSGI, so nothing was reloaded and nothing counts. The reason ends with what mends it. The "
        "daemon tries its own reloads again: first after a second, then ever later, at last every minute. It tells "
        "each reason once.",
    ),
    Event.RELOAD_UNPROVEN: Entry(
        "b2537db1a83a4f31b69cdadf7c5838e5",
        Priority.NOTICE,
        "Whether the {command} of {instance} helped was not seen: {reason}.",
        "All its workers were new, and no request had shown whether they reach MongoDB. The daemon goes on with the "
        "reload that came after it. Nothing is to be done.",
    ),
    Event.OVERTAKEN: Entry(
        "92593566c40f4628bbf04edfc44b8943",
        Priority.WARNING,
        "MongoDB went away again while {instance} was being reloaded; whether that reload helped is not seen.",
        "A new outage began before the new workers were seen to reach MongoDB. The daemon sends nothing to the "
        "instance before the deadline of that reload. It starts over once MongoDB serves and the workers had their "
        "time to heal. See to MongoDB.",
    ),
    Event.REPLACED: Entry(
        "b165c16fb4ff4a0dab8307e01f0c3cc5",
        Priority.NOTICE,
        "The incident of {instance} is over: {reason}; whether what came after is well is not seen yet.",
        "Somebody else stopped uWSGI, started it anew or took the instance out of the configuration, in the middle of "
        "an incident or of a reload. Its workers are gone, and what was known of them with them. What runs "
        "now is watched from the beginning. Nothing is to be done.",
    ),
    Event.ENDED_BY_US: Entry(
        "913fc440db7045148d6cbac56cad7f0f",
        Priority.ERR,
        "uWSGI of {instance} is gone: it ended while a {command} was at work.",
        "Either the application does not load any more and uWSGI has `need-app`, so the reload ended it; or somebody "
        "stopped it at that moment. Look into the log of the application, mend it and start uWSGI. A reload that "
        "somebody does by hand would have ended it too. What runs then is watched from the beginning.",
    ),
    Event.GAVE_UP: Entry(
        "3cc28e39a51e4b6f98b2ae63b21caf69",
        Priority.ERR,
        "Gave up on {instance}: {reason}. It needs somebody to look at it; the next try is in {until_s}.",
        "Nothing that the daemon may do helps this instance now. It goes on watching, and acts again when the instance "
        "recovers, MongoDB is restarted, or `policy.half_open_after` is over. Look into its log. Where the reason "
        "names a setting, that setting is the mend; else reload or restart the instance by hand.",
    ),
    Event.STILL_OPEN: Entry(
        "66fe62c5a3254d7483f7e75ced063ab6",
        Priority.WARNING,
        "{instance} has been in an incident for {seconds}: {reason}[; for another {until_s}]. What helps: {helps}.",
        "The incident began that long ago and has had no ending. It is told again after 10 minutes, after an hour, and "
        "then each day. Do what the sentence says; `mongo-watchdog status` shows everything that is waited for.",
    ),
    Event.THREADS_OFF: Entry(
        "9222702be09740e790973a395d3ea069",
        Priority.WARNING,
        "{instance}: " + THREADS_OFF + ".",
        "The app made its MongoClient before the fork, and uWSGI before 2.0.27 does not run Python's threads unless "
        "told to. So every worker that is forked later hangs or stays stuck. Add `enable-threads = true` to its "
        "configuration, better `lazy-apps = true` as well; or allow `restart` in `reloads`.",
    ),
    Event.HUNG_FOUND: Entry(
        "534394b56c88453d948a8c6d9ba0cf74",
        Priority.WARNING,
        "In {instance} {process} hangs: {reason}.",
        "It was forked while a thread of the master held a lock, so it is never ready and takes no request. Where that "
        "lock is Python's own, the daemon ends the process, and uWSGI makes it anew. Where it is the app's own, look "
        "into what its postfork hooks and its import wait for.",
    ),
    Event.HUNG_ENDED: Entry(
        "b76f7ad78775405a8417d31931648210",
        Priority.NOTICE,
        "Ended process {pid} of {instance}, which hung since its fork; uWSGI makes it anew.",
        "The process was proven to hang and had no request, so nobody lost one. An app that makes its MongoClient "
        "after the fork (`lazy-apps = true`) has no such workers. Nothing is to be done.",
    ),
    Event.HUNG_LEFT: Entry(
        "d2638c6c705e46378b1144c34c87580c",
        Priority.ERR,
        "A process of {instance} hangs and is not ended: {reason}.",
        "It never takes a request, and holds every reload of the instance. The reason names what is missing, or why "
        "its end would not help. A process that hangs so may be ended by `kill -9` without any harm.",
    ),
    Event.MULE_STUCK: Entry(
        "85ee125ed1bb4bab96ec7c561c22785b",
        Priority.WARNING,
        "In {instance} {mule} is stuck since the outage of MongoDB: {reason}. Its tasks fail.",
        "A mule or a spooler was forked with the app's MongoClient in it, and never reaches MongoDB again by "
        "itself. A reload of the workers does not touch it. With `mules` in `reloads` the daemon ends the process, "
        "and uWSGI makes it anew; with `restart` it restarts the whole stack; else it says that it may do neither. "
        "Where the MongoClient is made in the mule itself, it does not get stuck.",
    ),
    Event.MULE_ENDED: Entry(
        "a77f3dc324c4400d9e7ecbd75fdd2480",
        Priority.WARNING,
        "Ended {mule} of {instance}, which was stuck; uWSGI makes it anew.",
        "The process was sent SIGKILL, which `mules` in `reloads` allows. What a mule was doing at that moment is "
        "lost, and a spooler does its task again. The daemon now watches whether the new one reaches MongoDB.",
    ),
    Event.MULE_RENEWED: Entry(
        "57053030448d4d2dab88ae239084c06f",
        Priority.NOTICE,
        "{instance} has {mules} in place of what was stuck[reached?, with a connection to MongoDB; "
        "whether tasks succeed is not seen][reached=False?; whether it reaches MongoDB was not seen, since it has had "
        "no task that uses it].",
        "Where the sentence says that a connection was seen, the end of the stuck process helped; else the next task "
        "will show it. The incident is over.",
    ),
    Event.MULE_LEFT: Entry(
        "e70cdcdee84a4ea6bbb3e26476617bfa",
        Priority.ERR,
        "A mule or spooler of {instance} is stuck and stays so for now: {reason}.",
        "It cannot be ended, or its end did not help; the reason says why, and mostly what mends it. Its tasks fail "
        "meanwhile. A restart of uWSGI (`r`) makes all mules and spoolers anew.",
    ),
    Event.PROBE_BLIND: Entry(
        "6caa942b31e14b4ea11c90f5f17534b8",
        Priority.WARNING,
        "{instance} never answered its health requests well ({url}): {reason}. They say nothing until it does.",
        "The daemon asks the app how it is, by `health` of the configuration, and only bad answers came, or none. Mend "
        "`url`; name the `host` that the app knows; or say by `expect` which status is good. The instance is watched "
        "and cured as if it had no `health`.",
    ),
    Event.PROBE_INDEPENDENT: Entry(
        "9376ad6cfb2145e09fdf196df98ebd8c",
        Priority.WARNING,
        "{instance} answers its health requests well without MongoDB ({url}): its answers say nothing of MongoDB.",
        "No worker was seen to send to MongoDB during several good answers, or they were good while MongoDB was away. "
        "Such a page says 200 for ever. Give `health` a `url` that reads from MongoDB. Until then the instance is "
        "watched and cured as if it had no `health`: its answers hold no reload, and bring none.",
    ),
    Event.BLIND: Entry(
        "288777a3e07347b1a4f25c1136fae172",
        Priority.ERR,
        "Cannot see {scope}: {reason}. Nothing is reloaded on what cannot be seen.",
        "Something that the daemon must read to decide could not be read, so it reloads nothing there. It never takes "
        "a failed read for an empty one. The reason ends with what mends it: mostly a missing capability, another "
        "network namespace, or an address that does not resolve. `mongo-watchdog check --live` tests all of it.",
    ),
    Event.SEEING_AGAIN: Entry(
        "c73fd5def051435082544d0ef45c87d8",
        Priority.NOTICE,
        "Can see {scope} again.",
        "What could not be read can be read again, and the daemon decides again. Nothing is to be done.",
    ),
    Event.STATE_ELSEWHERE: Entry(
        "8b503e2b4bb34fb1808670e4e1011b38",
        Priority.WARNING,
        "What is remembered is not in the state folder: {reason}.",
        "Cures go on, and none is sent twice, also where the daemon is restarted. But after a boot of the machine it "
        "would not know what it did before. Make room, or mount the file system for writing. The daemon tries it "
        "every 10 s, and says when it goes back.",
    ),
    Event.STATE_BACK: Entry(
        "7a4fa1a91156479d948c332a05bd8b5d",
        Priority.NOTICE,
        "What is remembered is kept in the state folder again.",
        "The state folder takes it again, and what was in the runtime folder is removed. Nothing is to be done.",
    ),
    Event.INSTANCE_ABSENT: Entry(
        "da26ec943bb4429c9a6c5b6689e96a17",
        Priority.NOTICE,
        "{instance} does not run: nobody has its FIFO {fifo} open[; {meant}].",
        "No process has the master FIFO of this instance open. A stopped application is left alone. If it "
        "does run, its `master-fifo` is another path than `master_fifo` in the configuration, or the file "
        "was deleted: restart the instance.",
    ),
    Event.INSTANCE_BACK: Entry(
        "64ab5eb8c70f4f5eb788f692578ebac4",
        Priority.NOTICE,
        "{instance} runs again (master {pid}).",
        "A uWSGI master has the FIFO of this instance open, and it is watched again. Nothing is to be done.",
    ),
    Event.INSTANCE_WATCHED: Entry(
        "499bd1e079574122b08bb1f7a0f2dcf5",
        Priority.NOTICE,
        "{instance} is watched ([found?found][found=False?configured][; master {pid}, {workers:worker}], FIFO {fifo}): "
        "when it is stuck it is reloaded ({ways})[mode=observe?, but never in mode observe].",
        "Where this instance does not heal by itself after an outage of MongoDB, it is reloaded in one of the ways "
        "that the sentence names. It is told at each start, and again when that has changed. To have it left alone, "
        "name those that may be reloaded under `uwsgi:` in the configuration, or write `mode: observe`.",
    ),
    Event.INSTANCE_SHOWN: Entry(
        "d7d7941efb8240948d98369a771a9b60",
        Priority.NOTICE,
        "{instance} is only shown for now ([found?found][found=False?configured][; master {pid}, {workers:worker}], "
        "FIFO {fifo}): {reason}.",
        "No reload is sent to this instance as it is, also when it is stuck. The reason says why, and what changes "
        "that. Where it does not use MongoDB, nothing is to be done.",
    ),
    Event.MORE_INSTANCES: Entry(
        "d46134f5f02d449c9481476f3dea0362",
        Priority.NOTICE,
        "Not named here: {number:more instance}, of which {watched} are watched and {shown} only shown; "
        "`mongo-watchdog status` lists them.",
        "So many instances were found or changed at once that only the first ones have a line of their own here. Those "
        "that are only shown come first. `mongo-watchdog status` shows each of them.",
    ),
    Event.NO_INSTANCE: Entry(
        "e334fe2b90e94146a7fd9f2ab8e91b26",
        Priority.WARNING,
        words.NO_INSTANCE[0].upper() + words.NO_INSTANCE[1:] + ".",
        "No process on this host is a uWSGI master that has a FIFO open, so there is nothing to be reloaded. Add "
        "the line to each application that uses MongoDB, and restart it: it is found within 10 s, which is told. A "
        "master without a FIFO is told by itself, with its pid.",
    ),
    Event.NOT_COVERED: Entry(
        "14bdb728e1844bc2977fbda65ba91834",
        Priority.NOTICE,
        "Not covered: {reason}.",
        "This uWSGI runs, and no reload can be sent to it, so it is not watched. Where it uses MongoDB, do what the "
        "sentence says and restart it. Where it does not, nothing is to be done.",
    ),
    Event.CONFIG_RELOADED: Entry(
        "ba0591ea71ef47de90fd54901ea3b109",
        Priority.NOTICE,
        "The configuration was read again and is in force: {deployments:MongoDB deployment} and "
        "{instances:uWSGI instance}.",
        "The daemon works by the new configuration; what it remembers of each instance stays. Nothing is to be done.",
    ),
    Event.CONFIG_REJECTED: Entry(
        "a80bd32bd3634a449309a35c4f46954a",
        Priority.ERR,
        "The configuration has mistakes, so the one from before stays in force: {mistakes:mistake}",
        "The configuration was read again at somebody's request and is not valid. The daemon goes on with "
        "the old one. Correct the file, try it with `mongo-watchdog check`, then `mongo-watchdog "
        "reconfigure`.",
    ),
    Event.PAUSED: Entry(
        "50fb6344e0bd4176bb7b761b1d43f067",
        Priority.NOTICE,
        "Reloads are paused[ for {until_s}] by {by}[: {reason}].",
        "An operator asked for it. The daemon watches and tells as before. It sends no reload and ends no process, "
        "also after a restart, until the time is over or `mongo-watchdog resume` is called.",
    ),
    Event.RESUMED: Entry(
        "05c937c221bb4649944632feba435abe",
        Priority.NOTICE,
        "Reloads are allowed again, by {by}.",
        "The pause is over, by its time or by `mongo-watchdog resume`. A reload that became due meanwhile "
        "may follow at once.",
    ),
    Event.STOPPING: Entry(
        "ceabfa4c7ded49128935a80627678743",
        Priority.NOTICE,
        "mongo-watchdog stops; nothing watches the applications until it runs again.",
        "The daemon was asked to end. What it remembers is saved: a reload that is under way goes on "
        "without it, and is verified at the next start, not sent again.",
    ),
}

_OPTIONAL = re.compile(r"\[(?:(?P<flag>\w+)(?:=(?P<value>\w+))?\?)?(?P<text>[^\[\]]*)\]")
_FIELD = re.compile(r"\{(?P<name>\w+)(?::(?P<noun>[^}]+))?\}")

# Stands where a sentence cannot do without a field that was not given.
_UNNAMED = {
    "instance": "an instance",
    "member": "a member",
    "command": "reload",
    "leftovers": "dead connections",
    "scope": "a part of what is watched",
    "instances": "every uWSGI instance with a master FIFO that it finds",
    "mistakes": "see `mongo-watchdog check`",
}


def sentence(tell: Tell) -> str:
    """Fill the event's sentence; what is None is left out."""
    given = {**tell.fields, "instance": tell.instance, "member": tell.member}
    if command := given.get("command"):
        given["command"] = words.COMMANDS[Command(command)]
    values = {name: value for name, value in given.items() if value is not None and value != ""}
    template = CATALOG[tell.event].sentence
    # In one pass over the template, so that a value that holds brackets or braces stays as it is.
    filled, end = [], 0
    for part in _OPTIONAL.finditer(template):
        filled += [_fill(template[end : part.start()], values), _optional(part, values)]
        end = part.end()
    return "".join([*filled, _fill(template[end:], values)])


def _optional(part: re.Match[str], values: Mapping[str, FieldValue]) -> str:
    flag, wanted, text = part["flag"], part["value"], part["text"]
    if flag and (str(values.get(flag)) != wanted if wanted else not values.get(flag)):
        return ""
    if any(field["name"] not in values for field in _FIELD.finditer(text)):
        return ""
    return _fill(text, values)


def _fill(text: str, values: Mapping[str, FieldValue]) -> str:
    def shown(field: re.Match[str]) -> str:
        name, noun = field["name"], field["noun"]
        if name not in values:
            return _UNNAMED.get(name, "?")
        value = values[name]
        if isinstance(value, int | float) and (name == "seconds" or name.endswith("_s")):
            return words.duration(value)
        return words.count(value, noun) if noun else words.plain(value, words.IN_A_SENTENCE).rstrip(".")

    return _FIELD.sub(shown, text)
