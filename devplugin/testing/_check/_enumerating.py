"""One call of ``devices()``, up to its first list."""

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any

from devplugin._snapshot import ListTooLong, Snapshot
from devplugin.errors import ConfigurationError
from devplugin.plugin import DevicePluginBase
from devplugin.testing._check._found import Found
from devplugin.testing._check._lists import one_list

__all__ = ["SLOW_S", "enumerate_once"]

SLOW_S = 1.0


async def enumerate_once(plugin: DevicePluginBase[Any], found: Found, patience_s: float) -> Snapshot[Any] | None:
    """The first list, looked at: DP103, DP201, DP202, DP203, DP206, DP209. None when there is none to go on with."""
    try:
        lists: object = plugin.devices()  # an author's: it may be anything
    except Exception as error:  # noqa: BLE001  (what the author's code raises is not known)
        found.add_error("DP203", error, "devices()")
        return None
    if not isinstance(lists, AsyncIterator):
        if inspect.iscoroutine(lists):
            lists.close()
        found.add("DP103", f"devices() returned {type(lists).__name__}, which is no async iterator")
        return None
    devices = await _first(lists, found, patience_s)
    if devices is None:
        return None
    try:
        snapshot = await Snapshot[Any].take(devices, None)
    except ListTooLong as error:
        found.add("DP209", str(error))
    except ConfigurationError as error:
        found.add("DP203", str(error))
    else:
        found.add_all(one_list(snapshot))
        return snapshot
    return None


async def _first(lists: AsyncIterator[object], found: Found, patience_s: float) -> Iterable[Any] | None:
    started_at, patience = time.monotonic(), asyncio.timeout(patience_s)
    try:
        async with patience:
            devices = await anext(lists)
        took_s = time.monotonic() - started_at
        if took_s > SLOW_S:
            found.add("DP202", f"devices() took {took_s:.1f} s to yield its first list")
        if isinstance(lists, AsyncGenerator):
            patience = asyncio.timeout(patience_s)
            async with patience:
                await lists.aclose()
    except StopAsyncIteration:
        found.add("DP201", "devices() ended without a list")
    except Exception as error:  # noqa: BLE001  (as above)
        if patience.expired():
            found.add("DP201", f"devices() yielded no list, or did not end, within {patience_s:g} s")
        else:
            found.add_error("DP203", error, "devices()")
    else:
        if isinstance(devices, Iterable):
            return devices
        found.add("DP203", f"devices() yielded {type(devices).__name__} and not a list of devices")
    return None
