"""The pump: what an author's ``devices()`` yields is checked and becomes the newest snapshot."""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from typing import Generic

from devplugin._cell import Latest
from devplugin._snapshot import ListTooLong, Snapshot
from devplugin.errors import ConfigurationError
from devplugin.model import D

log = logging.getLogger("devplugin.plugin")


class Enumeration(Generic[D]):
    """One run of a plugin's ``devices()``."""

    def __init__(self, resource_name: str, snapshots: Latest[Snapshot[D]]) -> None:
        self._name = resource_name
        self._snapshots = snapshots
        self._refused: str | None = None
        self._warned_of_id = False

    async def pump(self, lists: object) -> None:
        """Take each list until there is none any more; ``lists`` is what the author's ``devices()`` returned.

        Raises:
            ConfigurationError: It yields no lists of devices.
            RuntimeError: It was cancelled, and not by us.
            Exception: What it raises.
        """
        if not isinstance(lists, AsyncIterator):
            if inspect.iscoroutine(lists):
                lists.close()
            raise ConfigurationError(
                "devices() must be an async generator: 'async def' with a 'yield' of a whole list of devices"
            )
        async with AsyncExitStack() as stack:
            if inspect.isasyncgen(lists):
                stack.push_async_callback(lists.aclose)
            try:
                async for devices in lists:
                    await self._take(devices)
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                raise RuntimeError("devices() was cancelled from inside") from error
        if self._snapshots.get() is None:
            log.warning("%s: devices() ended without a list: the node will not have this resource", self._name)

    async def _take(self, devices: object) -> None:
        if not isinstance(devices, Iterable):
            raise ConfigurationError(f"devices() must yield a whole list of devices each time, and yielded {devices!r}")
        last = self._snapshots.get()
        try:
            snapshot = await Snapshot.take(devices, last)
        except ListTooLong as error:
            self._refuse(str(error), "the last list that was short enough stays" if last else "no list is offered yet")
            return
        self._refused = None
        if snapshot.long_id and not self._warned_of_id:
            self._warned_of_id = True
            log.warning("%s: device id %r has more than 63 characters", self._name, snapshot.long_id)
        if snapshot is last:
            await asyncio.sleep(0)  # a generator that never waits must not stop the world
        else:
            self._snapshots.set(snapshot)

    def _refuse(self, why: str, consequence: str) -> None:
        """Log it, unless the list before was refused for the same."""
        if why != self._refused:
            self._refused = why
            log.error("%s: %s: %s", self._name, why, consequence)
