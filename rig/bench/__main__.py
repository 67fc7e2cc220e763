"""The whole bench, or the parts that are named: `python -m rig.bench [looks] [--write]`."""

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import psutil
import pymongo

from rig import RigError, fetch
from rig.bench import daemons, growth, looks, moments, packages, report_daemons, report_looks
from rig.bench.page import Page, between, verdict_table
from rig.bench.sites import Load, many_descriptors, own_network

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
PICTURE = PAGE.with_suffix(".svg")

QUICK = looks.Effort(sizes=(100, 1_000), loads=(Load(), Load(closing=64)), budget_s=0.5, least=1)


class _Part(Protocol):
    def __call__(self, page: Page, *, quick: bool, picture: Path | None) -> None: ...


def _looks(page: Page, *, quick: bool, picture: Path | None) -> None:
    page.title("One observation")
    cells = []
    for one in looks.measure(QUICK if quick else looks.Effort(), _progress):
        if isinstance(one, str):
            page.say(f"not measured: {one}")
        else:
            cells.append(one)
    report_looks.tell(cells, page, picture)


def _daemons(page: Page, *, quick: bool, picture: Path | None) -> None:  # noqa: ARG001 - a part like the others
    page.title("The whole daemon")
    effort = daemons.Effort((1, 3), (1,), over_s=3.0) if quick else daemons.Effort()
    report_daemons.tell(daemons.measure(effort, _progress), effort, page)


def _suspicion(page: Page, *, quick: bool, picture: Path | None) -> None:  # noqa: ARG001
    workers, over_s = ((8,), 3.0) if quick else (daemons.SUSPECTED_WORKERS, daemons.OVER_S)
    report_daemons.tell_suspicion(daemons.suspicion(_progress, workers=workers, over_s=over_s), over_s, page)


def _memory(page: Page, *, quick: bool, picture: Path | None) -> None:  # noqa: ARG001
    report_daemons.tell_memory(daemons.memory(_progress, over_s=1.0 if quick else 20.0), page)


def _moments(page: Page, *, quick: bool, picture: Path | None) -> None:  # noqa: ARG001
    page.title("How soon")
    starts, rounds = (2, 2) if quick else (moments.STARTS, moments.ROUNDS)
    report_daemons.tell_moments(moments.measure(_progress, starts=starts, rounds=rounds), page)


def _growth(page: Page, *, quick: bool, picture: Path | None) -> None:  # noqa: ARG001
    page.title("Growth")
    report_daemons.tell_growth(growth.measure(_progress, 3_000 if quick else growth.TICKS), page)


PARTS: Mapping[str, _Part] = {
    "looks": _looks,
    "daemons": _daemons,
    "suspicion": _suspicion,
    "memory": _memory,
    "moments": _moments,
    "growth": _growth,
}


def _progress(what: str) -> None:
    print(f"  … {what}", file=sys.stderr, flush=True)


def _machine(network: str) -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = names[0].partition(":")[2].strip() if names else platform.machine()
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores ({processor}), Linux {platform.release()}, CPython {platform.python_version()}, "
        f"pymongo {pymongo.version}; {len(psutil.pids())} processes and load {load:.1f} at the start; {network}; "
        f"{time.strftime('%Y-%m-%d')}."
    )


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Prints everything; 1 when a component cannot be had here, or something that must hold does not."""
    parser = argparse.ArgumentParser(prog="python -m rig.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; everything if left out")
    parser.add_argument("--quick", action="store_true", help="a smoke test: small, and with figures that mean little")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and README's figures")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupted)
    page = Page()
    try:
        fetch.fetch_defaults(_progress)
        if {"daemons", "memory"} & {*(asked.parts or PARTS)}:
            packages.get()
        with own_network() as network, many_descriptors():  # from here on nothing can be fetched
            page.say(
                f"Printed and written by `make bench`: everything in one run, on this machine: {_machine(network)}"
            )
            for name in asked.parts or PARTS:
                PARTS[name](page, quick=asked.quick, picture=PICTURE if asked.write else None)
            page.title("What must hold")
            page.verdicts()
    except RigError as error:
        print(f"it cannot be measured here: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if asked.write:
        PAGE.write_text(page.markdown("What mongo-watchdog costs"))
        README.write_text(between(README.read_text(), "bench", verdict_table(page.claims)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
