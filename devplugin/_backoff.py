"""How long to wait before the next attempt."""

import os
from collections.abc import Callable

_FIRST_S = 0.05
_CAP_S = 5.0


def _random() -> float:
    """From 0 to 1. The module ``random`` would cost every node 0.2 MiB for this."""
    return os.urandom(1)[0] / 255


class Backoff:
    """Delays in seconds that double from 50 ms to 5 s, each shortened by up to half so that many plugins spread out."""

    def __init__(self, jitter: Callable[[], float] = _random) -> None:
        self._jitter = jitter
        self._next_s = _FIRST_S

    def __repr__(self) -> str:
        return f"Backoff(next at most {self._next_s:g} s)"

    def delay_s(self) -> float:
        """The next delay."""
        longest_s, self._next_s = self._next_s, min(self._next_s * 2, _CAP_S)
        return longest_s * (1 - self._jitter() / 2)

    def reset(self) -> None:
        """Begin with the first delay again."""
        self._next_s = _FIRST_S
