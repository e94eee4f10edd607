"""Health with damping: a device that fails is unhealthy at once, and healthy again when it has been well for a while.

Rules: what is decided here depends on nothing but the lists that were held and the clock. Only the way back is damped: a
device that fails, or is seen failing first, must not go to a pod. A device that is left out of a list is forgotten, and so
nothing is kept for devices that are gone.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from inspect import isasyncgen
from typing import Any

from devplugin.errors import ConfigurationError
from devplugin.model import D, Device, Health

__all__ = ["Damping", "HealthChange"]

log = logging.getLogger("devplugin.damping")

_CHANGES_KEPT = 100
_NO_REASON = "no reason given"


@dataclass(frozen=True, slots=True)
class HealthChange:
    """A change of what a device is announced as.

    Args:
        device_id: The device.
        health: What it is announced as from now on.
        reason: Why, in words.
        at_s: When, in seconds since the epoch.
    """

    device_id: str
    health: Health
    reason: str
    at_s: float

    def __str__(self) -> str:
        at = datetime.fromtimestamp(self.at_s, UTC)
        return f"{self.device_id}: {self.health} since {at:%Y-%m-%d %H:%M:%S} UTC: {self.reason}"


@dataclass(slots=True)
class _Held:
    """A device that is announced as unhealthy; ``well_since_s`` is set while it looks well."""

    change: HealthChange
    began_s: float
    well_since_s: float | None = None
    relapses: int = 0
    shown: tuple[Any, Any] = (None, None)  # the device as it was given, and as it was handed on: of the author's type

    def fails_again(self, reason: str | None) -> None:
        if reason and reason != self.change.reason:
            log.info("%s is still unhealthy: %s", self.change.device_id, reason)
            self.change = replace(self.change, reason=reason)
        if self.well_since_s is not None:
            log.debug("%s: a relapse, after it looked well", self.change.device_id)
            self.well_since_s, self.relapses = None, self.relapses + 1


class Damping:
    """Holds devices back that have failed, until they have been well for some time.

    Give each list through ``hold()`` before you yield it, and look again when ``next_change_s`` has passed, or let
    ``wakeups()`` see to that. The log has each change with its reason, and ``repr`` shows what is held and why.

    Args:
        well_for_s: How long a device must have been well, in seconds, before it is healthy again.
        clock: Seconds that never jump; for tests.
        wall_clock: Seconds since the epoch, for what people read; for tests.

    Raises:
        ConfigurationError: ``well_for_s`` is no time.
    """

    def __init__(
        self,
        well_for_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 <= well_for_s < math.inf:  # nan is not either
            raise ConfigurationError(
                f"well_for_s {well_for_s!r} is not usable: it must be a number of seconds from 0 on"
            )
        self.well_for_s = well_for_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._held: dict[str, _Held] = {}
        self._changes: deque[HealthChange] = deque(maxlen=_CHANGES_KEPT)

    def __repr__(self) -> str:
        now_s = self._clock()
        held = "; ".join(self._shown(held, now_s) for held in self._held.values()) or "nothing held"
        return f"Damping(well_for_s={self.well_for_s:g}: {held})"

    def _shown(self, held: _Held, now_s: float) -> str:
        text = str(held.change)
        if held.relapses:
            text += f", {_counted(held.relapses)}"
        if held.well_since_s is not None:
            text += f", well for {now_s - held.well_since_s:.0f} s"
        return text

    @property
    def changes(self) -> tuple[HealthChange, ...]:
        """The last 100 changes of what was announced, the newest at the end."""
        return tuple(self._changes)

    @property
    def next_change_s(self) -> float | None:
        """In how many seconds a device that is held will have been well for long enough; None when there is none.

        It is never less than 0, and stays 0 until the next ``hold()``. ``asyncio.timeout()`` takes it as it is.
        """
        since = [held.well_since_s for held in self._held.values() if held.well_since_s is not None]
        return max(0.0, min(since) + self.well_for_s - self._clock()) if since else None

    def hold(self, devices: Iterable[D], reasons: Mapping[str, str] | None = None) -> list[D]:
        """The devices as they should be announced: those that have not been well for long enough are unhealthy.

        Args:
            devices: The whole list, each device with the health that was just seen.
            reasons: Why a device is as it is, by its id, for the log and ``repr``.
        """
        listed, reasons, now_s = list(devices), reasons or {}, self._clock()
        before, self._held = self._held, {}  # only what is in the list is kept
        return [self._announced(device, before.get(device.id), reasons.get(device.id), now_s) for device in listed]

    def _announced(self, device: D, held: _Held | None, reason: str | None, now_s: float) -> D:
        if device.health is Health.HEALTHY:
            return device if held is None else self._well(device, held, now_s)
        if held is None:
            held = _Held(self._changed(device, Health.UNHEALTHY, reason or _NO_REASON), now_s)
        else:
            held.fails_again(reason)
        self._held[device.id] = held
        return device

    def _well(self, device: D, held: _Held, now_s: float) -> D:
        if held.well_since_s is None:
            held.well_since_s = now_s
        # The sum that next_change_s waits for: a difference could round to less at the very moment.
        if held.well_since_s + self.well_for_s <= now_s:
            relapses = f" with {_counted(held.relapses)}" if held.relapses else ""
            down_s = now_s - held.began_s
            reason = f"well for {self.well_for_s:g} s; it was down for {down_s:.0f} s{relapses} ({held.change.reason})"
            self._changed(device, Health.HEALTHY, reason)
            return device
        self._held[device.id] = held
        given, shown = held.shown
        if given is not device:  # the same object for the same device costs the next snapshot nothing
            shown = replace(device, health=Health.UNHEALTHY)
            held.shown = device, shown
        unhealthy: D = shown
        return unhealthy

    def _changed(self, device: Device, health: Health, reason: str) -> HealthChange:
        change = HealthChange(device.id, health, reason, self._wall_clock())
        self._changes.append(change)
        level = logging.INFO if health is Health.HEALTHY else logging.WARNING
        log.log(level, "%s is %s: %s", device.id, health.lower(), reason)
        return change

    async def wakeups(self, source: AsyncIterable[object]) -> AsyncGenerator[None, None]:
        """Those of ``source``, and one more whenever a device that is held will have been well for long enough.

        ``source`` says when to look, as ``every()`` and ``changes_in()`` of ``devplugin.sources`` do. What it yields is
        not handed on. After its end only what is held is still waited for. It is closed with this iterator.

        Raises:
            Exception: What ``source`` raises.
        """
        iterator = aiter(source)
        coming: asyncio.Task[bool] | None = asyncio.create_task(_more(iterator), name="damping: the next wake-up")
        try:
            while coming is not None or self.next_change_s is not None:
                if coming is None:
                    await asyncio.sleep(self.next_change_s or 0)
                else:
                    await asyncio.wait([coming], timeout=self.next_change_s)
                    if coming.done():
                        there_is_more, coming = coming.result(), None
                        if not there_is_more:
                            continue
                        coming = asyncio.create_task(_more(iterator), name="damping: the next wake-up")
                yield
        finally:
            await _close(coming, iterator)


def _counted(relapses: int) -> str:
    return "1 relapse" if relapses == 1 else f"{relapses} relapses"


_END = object()


async def _more(iterator: AsyncIterator[object]) -> bool:
    return await anext(iterator, _END) is not _END


async def _close(coming: asyncio.Task[bool] | None, iterator: AsyncIterator[object]) -> None:
    if coming is not None:
        coming.cancel()
        await asyncio.wait([coming])
    if isasyncgen(iterator):
        await iterator.aclose()
    if coming is not None and not coming.cancelled():
        coming.result()  # what it raised while it ended is not to be lost
