"""What the edges share that ask somebody and wait, each in a thread: how long still, what came of it, and why not."""

from __future__ import annotations

import time
from queue import SimpleQueue
from typing import TypeVar

from watchdogd.model.base import Mono
from watchdogd.model.text import Outside

T = TypeVar("T")


def left_s(until: Mono) -> float:
    """Return how many seconds there still are; raises TimeoutError where there are none."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def taken(answers: SimpleQueue[T]) -> list[T]:
    """Return all that is in a queue, without waiting. For the one thread that takes."""
    found = []
    while not answers.empty():
        found.append(answers.get_nowait())
    return found


def reason(error: Exception) -> str:
    """Say why, by the error alone: the kernel's words where it has some."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else error
    return f"{Outside(said)}"
