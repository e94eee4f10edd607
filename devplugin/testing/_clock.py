"""The kubelet's clock: it runs with the real time and can be pushed forward.

Every delay of the fake kubelet (the five minutes of grace, the back-off of containers, the deadlines of its calls) is
measured on this clock, so a test needs no patience: ``kubelet.clock.advance(300)``.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio

__all__ = ["Clock", "Timer"]


class Timer:
    """A callback that waits for its time. Made by `Clock.call_at`."""

    __slots__ = ("_callback", "_clock", "when_s")

    def __init__(self, clock: "Clock", when_s: float, callback: Callable[[], object]) -> None:
        self.when_s = when_s
        self._clock = clock
        self._callback: Callable[[], object] | None = callback

    def __repr__(self) -> str:
        return f"<Timer at {self.when_s:g} s, {'waiting' if self.active else 'over'}>"

    @property
    def active(self) -> bool:
        """Whether the callback is still to come."""
        return self._callback is not None

    def cancel(self) -> None:
        """Drop the callback. It does no harm to cancel twice, or too late."""
        if self.active:
            self._callback = None
            self._clock._timer_cancelled()  # noqa: SLF001 - the two are one thing in two parts

    def _run(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Clock:
    """A clock in seconds, zero when it is made, that `advance` pushes forward.

    Args:
        ticking: Whether it also runs with the real time. A clock that does not tick stands still between two calls of
            `advance`, for tests that must see every step.
    """

    def __init__(self, *, ticking: bool = True) -> None:
        self._ticking = ticking
        self._started_at = time.monotonic()
        self._advanced_s = 0.0
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._wakeup: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        waiting = sum(timer.active for *_, timer in self._timers)
        return f"<Clock at {self.now():.3f} s, {'ticking' if self._ticking else 'standing'}, {waiting} timers>"

    def now(self) -> float:
        """The seconds since the clock was made, and those it was advanced."""
        return self._advanced_s + (time.monotonic() - self._started_at if self._ticking else 0.0)

    def advance(self, seconds: float) -> None:
        """Jump forward.

        What is due by then happens at the new time, once: a retry that would have come round ten times comes once.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"A clock cannot go back: advance({seconds!r})")
        self._advanced_s += seconds
        self._fire()

    def call_at(self, when_s: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` when the clock has reached `when_s`; from the running event loop only."""
        timer = Timer(self, when_s, callback)
        heapq.heappush(self._timers, (when_s, next(self._order), timer))
        self._arm()
        return timer

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has moved by `seconds`."""
        reached = anyio.Event()
        timer = self.call_at(self.now() + seconds, reached.set)
        try:
            await reached.wait()
        finally:
            timer.cancel()

    @contextmanager
    def move_on_after(self, seconds: float) -> Iterator[anyio.CancelScope]:
        """Cancel the block when the clock has moved by `seconds`; the scope's ``cancelled_caught`` tells."""
        with anyio.CancelScope() as scope:
            timer = self.call_at(self.now() + seconds, scope.cancel)
            try:
                yield scope
            finally:
                timer.cancel()

    @contextmanager
    def fail_after(self, seconds: float) -> Iterator[None]:
        """Cancel the block when the clock has moved by `seconds`.

        Raises:
            TimeoutError: That has happened.
        """
        with self.move_on_after(seconds) as scope:
            yield
        if scope.cancelled_caught:
            raise TimeoutError

    def _fire(self) -> None:
        while self._timers and self._timers[0][0] <= self.now():
            heapq.heappop(self._timers)[2]._run()  # noqa: SLF001 - the two are one thing in two parts
        self._arm()

    def _timer_cancelled(self) -> None:
        self._arm()

    def _arm(self) -> None:
        """Have the event loop wake the clock at its next timer, and not at all when there is none."""
        if self._wakeup is not None:
            self._wakeup.cancel()
            self._wakeup = None
        while self._timers and not self._timers[0][2].active:
            heapq.heappop(self._timers)
        if self._timers and self._ticking:
            delay_s = max(0.0, self._timers[0][0] - self.now())
            self._wakeup = asyncio.get_running_loop().call_later(delay_s, self._fire)
