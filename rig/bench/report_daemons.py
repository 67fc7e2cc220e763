"""What the whole programs come to: tables, and what must hold of them."""

from collections.abc import Iterable, Iterator

from rig.bench import daemons, moments
from rig.bench.claims import Claim, worst
from rig.bench.daemons import INCIDENT, REST, Effort, Memory, Suspicion, Taken
from rig.bench.growth import Grown
from rig.bench.page import Page
from rig.bench.samples import Sample
from rig.bench.sites import WORKERS

MEMORY_GROWN = 0.5
"""MB over 90 000 ticks: a leak of a single small object in each tick would be ten times as much."""


def tell(measured: Iterable[Taken | str], effort: Effort, page: Page) -> None:
    """Adds CPU and memory of the daemons and of what runs beside them."""
    taken: list[Taken] = []
    for one in measured:
        if isinstance(one, str):
            page.say(f"not measured: {one}")
        else:
            taken.append(one)
    page.say(
        f"CPU in percent of one core over {effort.over_s:g} s, and memory at the end, with {daemons.UNRELATED} "
        f"unrelated sockets; each worker holds {daemons.HELD.closing // WORKERS} connections, which the incident ends"
    )
    rows = []
    for what, members, instances in dict.fromkeys((one.what, one.members, one.instances) for one in taken):
        of = {one.state: one for one in taken if (one.what, one.members, one.instances) == (what, members, instances)}
        cells = [f"{of[state].cpu_percent:.2f} %" if state in of else "-" for state in (REST, INCIDENT)]
        last = of.get(INCIDENT, of[REST]).memory
        size = [f"{last.pss:.1f}", f"{last.rss:.1f}", str(last.threads), str(last.descriptors)]
        rows.append([what, str(members), str(instances), *cells, *size])
    page.table(["", "members", "instances", REST, INCIDENT, "PSS, MB", "RSS, MB", "threads", "descriptors"], rows)
    page.claims += _at_rest(taken)


def _at_rest(taken: Iterable[Taken]) -> Iterator[Claim]:
    at = {
        (one.members, one.instances): one.cpu_percent
        for one in taken
        if one.state == REST and one.what == "mongo-watchdog"
    }
    one = at.get((1, 1))
    yield Claim(
        "the daemon at rest: 1 member, 1 instance, 1 000 sockets", 0.5, "% of a core", one, why_not="not asked for"
    )
    more = [
        ((cpu - one) / (members - 1), f"({members} members)")
        for (members, n), cpu in at.items()
        if one and n == 1 < members
    ]
    measured, where = worst(more)
    yield Claim("each further member", 0.6, "% of a core", measured, where=where, why_not="not asked for")
    yield Claim(
        "the daemon at rest: 50 instances of 8 workers", 2, "% of a core", at.get((1, 50)), why_not="not asked for"
    )


SUSPECTING = {8: 1.0, 64: 4.0}
"""Percent of a core more than at rest, by the number of workers."""


def tell_suspicion(measured: Iterable[Suspicion], over_s: float, page: Page) -> None:
    """Adds what suspecting takes."""
    taken = {one.workers: one for one in measured}
    page.say(
        f"CPU in percent of one core over {over_s:g} s while one instance is suspected, with {daemons.UNRELATED} "
        f"unrelated sockets: a look every second; each worker has {daemons.SUSPECTED_DESCRIPTORS} descriptors, two "
        "connections, and a request that finds no server"
    )
    page.table(
        ["workers", REST, "suspecting", "more"],
        [
            [str(one.workers), *(f"{x:.2f} %" for x in (one.at_rest, one.suspecting, one.suspecting - one.at_rest))]
            for one in taken.values()
        ],
    )
    for workers, limit in SUSPECTING.items():
        one = taken.get(workers)
        more = one.suspecting - one.at_rest if one else None
        what = f"suspecting {workers} workers, more than at rest"
        page.claims.append(Claim(what, limit, "% of a core", more, why_not="not asked for"))


def tell_memory(measured: Iterable[tuple[str, Memory] | str], page: Page) -> None:
    """Adds what a daemon takes on each pymongo."""
    page.say("Memory at rest, in MB, with 1 member and 1 instance; `alone`: PSS as if no other Python ran on the host")
    rows: dict[str, Memory] = {}
    reasons: dict[str, str] = {}
    for one in measured:
        if isinstance(one, str):
            what, _, why = one.partition(": ")
            reasons[what] = why
        else:
            rows[one[0]] = one[1]
    page.table(
        ["", "PSS alone", "PSS", "RSS", "anonymous", "threads"],
        [
            [what, f"{one.alone:.1f}", f"{one.pss:.1f}", f"{one.rss:.1f}", f"{one.anonymous:.1f}", str(one.threads)]
            for what, one in rows.items()
        ],
    )
    for what, limit in ((daemons.NEWEST, 38), (daemons.DEBIANS, 28)):
        alone, name = next(((one.alone, key) for key, one in rows.items() if key.startswith(what)), (None, what))
        yield_ = Claim(f"PSS alone on {name}", limit, "MB", alone, why_not=reasons.get(what, "not asked for"))
        page.claims.append(yield_)


def tell_moments(measured: Iterable[tuple[str, Sample]], page: Page) -> None:
    """Adds how soon what happens is seen and done."""
    samples = dict(measured)
    page.say("Seconds, over all rounds; the instance's interval is 1 s")
    page.table(
        ["", "median", "least", "most", "rounds"],
        [
            [what, f"{one.median:.3f}", f"{min(one.values):.3f}", f"{max(one.values):.3f}", str(len(one.values))]
            for what, one in samples.items()
        ],
    )
    for what, limit in (
        (moments.DOWN_TERM, 0.2),
        (moments.DOWN_KILL, 0.2),
        (moments.FROZEN, 3),
        (moments.DUE, 1),
        (moments.READY, 1),
    ):
        most = max(samples[what].values) if what in samples else None
        page.claims.append(Claim(what, limit, "s", most, why_not="no round"))


def tell_growth(grown: Grown, page: Page) -> None:
    """Adds what there was more of after many ticks."""
    page.say(
        f"{grown.ticks:,} ticks in {grown.seconds:.0f} s, with {grown.reloads} reloads of the workers and "
        f"{grown.connections:,} connections".replace(",", " ")
    )
    first, last = grown.first, grown.last
    rows = [
        [
            "memory of its own, MB",
            f"{first.anonymous:.2f}",
            f"{last.anonymous:.2f}",
            f"{last.anonymous - first.anonymous:+.2f}",
        ],
        ["descriptors", str(first.descriptors), str(last.descriptors), f"{last.descriptors - first.descriptors:+d}"],
        ["threads", str(first.threads), str(last.threads), f"{last.threads - first.threads:+d}"],
    ]
    page.table(["", "in the second tenth", "in the last tenth", "more"], rows)
    over = f"over {grown.ticks:,} ticks".replace(",", " ")
    page.claims += [
        Claim(f"growth of memory {over}", MEMORY_GROWN, "MB", last.anonymous - first.anonymous),
        Claim(f"growth of descriptors {over}", 0, "", float(last.descriptors - first.descriptors)),
        Claim(f"growth of threads {over}", 0, "", float(last.threads - first.threads)),
    ]
