"""Prints for people at a terminal: what the commands answer, and what keeps the daemon from starting.

Nothing else in mongo-watchdog may print. It must never let through a text that drives the terminal or breaks a line,
nor fail because the terminal's encoding lacks a character.
"""

from __future__ import annotations

import sys
from typing import TextIO

from watchdogd import codec
from watchdogd.report import words


def say(*lines: str, file: TextIO | None = None) -> None:
    """Print each as one line, at once, on standard output or `file`."""
    out = sys.stdout if file is None else file
    encoding = out.encoding or "utf-8"
    written = "".join([f"{words.plain(line)}\n" for line in lines])
    out.write(written.encode(encoding, "backslashreplace").decode(encoding))
    out.flush()


def say_json(document: codec.Document) -> None:
    """Print a document for programs."""
    sys.stdout.write(codec.text(words.tree(document), indent=2) + "\n")
