"""Waiting for a condition without asking again and again."""

from collections.abc import Callable
from typing import Generic, TypeVar

import anyio

__all__ = ["Changes", "ConditionNotMet"]

T = TypeVar("T")


class ConditionNotMet(TimeoutError):
    """What a test waited for did not come to be. The text says what was seen instead."""


class _Waiter(Generic[T]):
    def __init__(self, reached: Callable[[], T | None]) -> None:
        self.reached = reached
        self.result: T | None = None
        self.event = anyio.Event()

    def look(self) -> None:
        if self.result is None:
            self.result = self.reached()
            if self.result is not None:
                self.event.set()


class Changes:
    """Those who wait for something to be so.

    Each condition is looked at on every change, at once: what was so for a moment only is not missed.
    """

    def __init__(self) -> None:
        self._waiters: list[_Waiter[object]] = []

    def __repr__(self) -> str:
        return f"<Changes, {len(self._waiters)} waiting>"

    def notify(self) -> None:
        """Look at every condition, since something has changed."""
        for waiter in self._waiters:
            waiter.look()

    async def until(self, reached: Callable[[], T | None], *, timeout_s: float, unmet: Callable[[], str]) -> T:
        """Wait until `reached` returns something other than None, and return that.

        Args:
            reached: A look at the condition, without side effects.
            timeout_s: Real seconds to wait at most, whatever the kubelet's clock does.
            unmet: The sentence for the error.

        Raises:
            ConditionNotMet: The time is over.
        """
        waiter = _Waiter(reached)
        waiter.look()
        self._waiters.append(waiter)  # type: ignore[arg-type]
        try:
            with anyio.move_on_after(timeout_s):
                await waiter.event.wait()
        finally:
            self._waiters.remove(waiter)  # type: ignore[arg-type]
        if waiter.result is None:
            raise ConditionNotMet(unmet())
        return waiter.result
