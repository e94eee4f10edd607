"""Waiting for a condition, and for nothing else."""

import time
from collections.abc import Callable
from typing import TypeVar

from .errors import FailedError

T = TypeVar("T")

EVERY_S = 0.1


def until(
    what: str,
    look: Callable[[], T],
    holds: Callable[[T], object] = bool,
    *,
    timeout_s: float,
    every_s: float = EVERY_S,
) -> T:
    """Look again and again until what is seen holds, and give it.

    Args:
        what: What is awaited, for the error.
        look: Looks; an exception that it raises ends the wait.
        holds: Whether what was seen is what is awaited.
        timeout_s: Seconds until it is given up.
        every_s: Seconds between two looks.

    Raises:
        FailedError: It did not hold in time; says what was seen last.
    """
    end = time.monotonic() + timeout_s
    while True:
        seen = look()
        if holds(seen):
            return seen
        if time.monotonic() > end:
            raise FailedError(f"waited {timeout_s:g} s for {what}; seen last: {seen!r}")
        time.sleep(every_s)
