"""The daemon as it is, but without a pause between its ticks: `python -m rig.bench.ticks --config FILE`."""

import argparse
from dataclasses import replace
from pathlib import Path

from watchdogd import start
from watchdogd.config import Config, load


def main() -> None:
    """Runs it until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    path = parser.parse_args().config

    def read() -> Config:
        return replace(load(path), interval_s=0.0)  # shorter than a configuration may say

    start._run(read)  # noqa: SLF001 - what `run` does, with that one difference


if __name__ == "__main__":
    main()
