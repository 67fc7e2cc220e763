"""The daemon as it is, but without a pause between its ticks: `python -m rig.bench.ticks --config FILE`."""

import argparse
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

from watchdogd.config import Config, load
from watchdogd.observe.observer import Observer
from watchdogd.service import start


def main() -> None:
    """Runs it until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    path = parser.parse_args().config

    def read() -> Config:
        return replace(load(path), interval_s=0.0)  # shorter than a configuration may say

    start.Observer = partial(Observer, walk_share=math.inf)  # type: ignore[attr-defined, assignment] # and each tick walks
    start._run(read)  # noqa: SLF001 - what `run` does, with that one difference


if __name__ == "__main__":
    main()
