"""What the pytest plugin's fixtures give a test. It needs no pytest."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from devplugin.errors import ConfigurationError
from devplugin.plugin import DevicePluginBase
from devplugin.testing._changes import ConditionNotMet
from devplugin.testing._kubelet import FakeKubelet
from devplugin.testing._records import Registration
from devplugin.testing._story import story_of

__all__ = ["Serve", "Stage", "stage"]

_SOCKET_PATH_MAX_BYTES = 107
# The least that devplugin makes of a socket's name, with the slash before it.
_SOCKET_NAME_BYTES = 26


class Serve:
    """Starts plugins on a kubelet, and ends them with the test. The pytest fixture ``serve`` is one."""

    def __init__(self, kubelet: FakeKubelet) -> None:
        self._kubelet = kubelet
        self._served: list[tuple[DevicePluginBase[Any], asyncio.Task[None]]] = []

    def __repr__(self) -> str:
        return f"<Serve {[type(plugin).__name__ for plugin, _ in self._served]} on {self._kubelet!r}>"

    async def __call__(self, plugin: DevicePluginBase[Any], *, await_list: bool = True, timeout_s: float = 10.0) -> str:
        """Serve a plugin, and wait until it is registered and its first list has come.

        Args:
            plugin: The plugin; its `serve` runs until the test is over, or `stop`.
            await_list: Whether to wait for the list, too.
            timeout_s: Real seconds to wait at most.

        Returns:
            The name of its resource.

        Raises:
            ConditionNotMet: The time is over, or the plugin's `serve` has returned. The text says what was seen instead.
            ConfigurationError: It is no plugin.
            Exception: What the plugin's `serve` raised meanwhile.
        """
        if not isinstance(plugin, DevicePluginBase):
            raise ConfigurationError(f"serve() takes a plugin, and {plugin!r} is none: is a pair of brackets missing?")
        resource: str = getattr(plugin, "resource_name", "")  # its serve() says so when there is none
        earlier = len(self._accepted(resource))
        task = asyncio.create_task(plugin.serve(kubelet_dir=self._kubelet.directory), name=f"serve {resource}")
        self._served.append((plugin, task))
        task.add_done_callback(lambda _: self._note_end(plugin, task))

        def is_there() -> bool:
            new = self._accepted(resource)[earlier:]
            endpoints = {snapshot.endpoint for snapshot in self._kubelet.snapshots}
            return task.done() or (bool(new) and (new[-1].endpoint in endpoints or not await_list))

        awaited = "with its first list" if await_list else "without waiting for a list"
        await self._kubelet.until(is_there, f"The registration of {resource} {awaited}", timeout_s=timeout_s)
        if task.done():
            await self.stop(plugin)
            raise ConditionNotMet(f"{resource} was to be served, and serve() of {type(plugin).__name__} has returned")
        return resource

    def has_ended(self, plugin: DevicePluginBase[Any]) -> bool:
        """Whether the plugin's `serve` has ended by itself."""
        return all(task.done() for each, task in self._served if each is plugin)

    async def ended(self, plugin: DevicePluginBase[Any], *, within_s: float) -> bool:
        """Whether the plugin's `serve` ends by itself within so many real seconds."""
        await asyncio.wait([task for each, task in self._served if each is plugin], timeout=within_s)
        return self.has_ended(plugin)

    async def stop(self, *plugins: DevicePluginBase[Any]) -> None:
        """Withdraw these plugins, or all of them when none is named, and see them end.

        Raises:
            Exception: What the `serve` of one had raised; of several, a group of it.
        """
        ending = [each for each in self._served if not plugins or each[0] in plugins]
        self._served = [each for each in self._served if each not in ending]
        for _, task in ending:
            task.cancel()
        with anyio.CancelScope(shield=True):  # a cancelled scope would cancel the wait for their end again
            await asyncio.gather(*(task for _, task in ending), return_exceptions=True)
        errors = [error for _, task in ending if not task.cancelled() and (error := task.exception())]
        if len(errors) > 1:
            raise BaseExceptionGroup("several plugins have failed", errors)
        for error in errors:
            raise error

    def _accepted(self, resource: str) -> list[Registration]:
        return [each for each in self._kubelet.registrations if each.resource == resource and each.error is None]

    def _note_end(self, plugin: DevicePluginBase[Any], task: asyncio.Task[None]) -> None:
        """Write it into the kubelet's log, where a condition that is not met is explained; who waits looks again."""
        how = "was withdrawn" if task.cancelled() else f"ended with {task.exception()!r}"
        self._kubelet._records.add(f"The plugin {type(plugin).__name__} {how}")  # noqa: SLF001  (a log of ours)


@dataclass(frozen=True, slots=True)
class Stage:
    """A kubelet for one test, and what starts plugins on it."""

    kubelet: FakeKubelet
    serve: Serve

    def story(self) -> str:
        """What the kubelet has seen, for the report of a failure."""
        return story_of(self.kubelet)


@asynccontextmanager
async def stage(tmp_path: Path, version: str) -> AsyncIterator[Stage]:
    """A kubelet below `tmp_path`. At the end the plugins go first, and what they raised is raised."""
    with _directory_below(tmp_path) as directory:
        async with FakeKubelet(directory, version) as kubelet:
            serve = Serve(kubelet)
            try:
                yield Stage(kubelet, serve)
            finally:
                await serve.stop()


@contextmanager
def _directory_below(tmp_path: Path) -> Iterator[Path]:
    """A directory whose path leaves room for sockets: elsewhere, when `tmp_path` is too long."""
    directory = tmp_path / "kubelet"
    if len(os.fsencode(directory)) + _SOCKET_NAME_BYTES <= _SOCKET_PATH_MAX_BYTES:
        yield directory
        return
    with TemporaryDirectory(prefix="kubelet-") as short:
        yield Path(short)
