"""Live sets of plugins: resources that come and go while the process runs.

Rules: a plugin that starts or ends touches no other; a resource has one plugin at a time, and the next one waits until the
one before has ended, because a kubelet up to 1.36 takes the late end of the old for the end of the new
(kubernetes/kubernetes#135437). A plugin that fails ends the whole set, as ``run()`` ends: half a node that looks whole is
worse than a restart.
"""

import asyncio
import inspect
import logging
import os
from collections.abc import AsyncIterable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from devplugin._kubelet import DEVICE_PLUGIN_DIRECTORY
from devplugin.errors import ConfigurationError
from devplugin.model import check_resource_name
from devplugin.plugin import DevicePluginBase
from devplugin.run import by_resource, run_until_signal

__all__ = ["PluginSet", "run_live", "serve_live"]

log = logging.getLogger("devplugin.live")

Plugin = DevicePluginBase[Any]


@dataclass(slots=True)
class _Serving:
    plugin: Plugin
    task: asyncio.Task[None]
    is_ending: bool = False

    def end(self) -> asyncio.Task[None]:
        self.is_ending = True
        self.task.cancel()
        return self.task


class PluginSet:
    """Plugins that are served while its ``async with`` lasts; at the end all of them are withdrawn.

    When one fails, the others end as well, the body is cancelled, and the ``async with`` raises an ``ExceptionGroup`` with
    what it raised, as an ``asyncio.TaskGroup`` does. Its methods are for one task at a time.

    Args:
        kubelet_dir: The directory of kubelet.sock.
    """

    def __init__(self, *, kubelet_dir: str | os.PathLike[str] = DEVICE_PLUGIN_DIRECTORY) -> None:
        self._kubelet_dir = kubelet_dir
        self._group = asyncio.TaskGroup()
        self._is_open = False
        self._serving: dict[str, _Serving] = {}

    def __repr__(self) -> str:
        return f"PluginSet({', '.join(name + ' (ending)' * s.is_ending for name, s in self._serving.items())})"

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """The plugins that are served, without those that are being withdrawn."""
        return tuple(serving.plugin for serving in self._serving.values() if not serving.is_ending)

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_open = False
        for serving in self._serving.values():
            serving.end()
        await self._group.__aexit__(kind, error, traceback)

    def start(self, plugin: Plugin) -> None:
        """Serve a plugin from now on.

        Raises:
            ConfigurationError: It is no plugin, its resource has a plugin already or one that has not ended yet, or this is
                outside of the ``async with``.
        """
        by_resource([plugin])
        name = check_resource_name(getattr(plugin, "resource_name", None))
        if not self._is_open:
            raise ConfigurationError(f"{name} cannot be started: a PluginSet serves inside its 'async with'")
        if there := self._serving.get(name):
            state = (
                "being withdrawn: await that first" if there.is_ending else "served already: withdraw its plugin first"
            )
            raise ConfigurationError(f"{name} cannot be started: the resource is {state}")
        task = self._group.create_task(_undisturbed(plugin, self._kubelet_dir), name=name)
        self._serving[name] = _Serving(plugin, task)
        task.add_done_callback(lambda _: self._serving.pop(name))
        log.info("%s: started", name)

    async def withdraw(self, plugin: Plugin) -> None:
        """Return when a plugin is served no more, which takes as long as its calls under way and its tear-down.

        The kubelet sees the resource's devices as unhealthy at once, and forgets the resource after five minutes; pods that
        run are not touched. Nothing happens when the plugin is not in the set.
        """
        serving = self._serving.get(plugin.resource_name)
        if serving and serving.plugin == plugin:
            await self._withdraw([serving])

    async def become(self, plugins: Iterable[Plugin]) -> None:
        """Serve these plugins and no others: start those that are missing, and withdraw the rest.

        A plugin that equals the one that is served for its resource stays as it is, and one that does not replaces it: new
        plugins start at once, and replacements when the plugin before has ended.

        Raises:
            ConfigurationError: Something among them is no plugin, two are for one resource, or a name is none. Then nothing
                has changed.
        """
        wanted = by_resource(plugins)
        for name in wanted:
            check_resource_name(name)
        gone = [s for name, s in self._serving.items() if s.is_ending or wanted.get(name) != s.plugin]
        self._start_missing(wanted)
        await self._withdraw(gone)
        self._start_missing(wanted)

    def _start_missing(self, wanted: dict[str, Plugin]) -> None:
        for name, plugin in wanted.items():
            if name not in self._serving:
                self.start(plugin)

    async def _withdraw(self, gone: list[_Serving]) -> None:
        if gone:
            await asyncio.wait([serving.end() for serving in gone])
            for serving in gone:
                log.info("%s: withdrawn", serving.plugin.resource_name)


async def _undisturbed(plugin: Plugin, kubelet_dir: str | os.PathLike[str]) -> None:
    """Serve it; to be cancelled a second time does not cut its tear-down short.

    A set that ends cancels a plugin that is being withdrawn once more.
    """
    serving = asyncio.create_task(plugin.serve(kubelet_dir=kubelet_dir), name=f"{plugin.resource_name}: serve()")
    while not serving.done():
        try:
            await asyncio.wait([serving])
        except asyncio.CancelledError:
            if not serving.cancelling():
                serving.cancel()
    serving.result()  # what it raised, the cancellation included


async def serve_live(
    source: AsyncIterable[Iterable[Plugin]], *, kubelet_dir: str | os.PathLike[str] = DEVICE_PLUGIN_DIRECTORY
) -> None:
    """Serve the plugins of the newest list that ``source`` yields, until cancelled.

    As with ``devices()``, each list is whole; when ``source`` returns, the last list stays, and what it raises ends all.

    Args:
        source: Lists of plugins: see ``PluginSet.become()``. It is closed at the end.
        kubelet_dir: The directory of kubelet.sock.

    Raises:
        ConfigurationError: ``source`` is no async iterator.
        ExceptionGroup: A plugin, or ``source``, has failed.
    """
    if not isinstance(source, AsyncIterable):
        raise ConfigurationError(
            f"an async iterator of lists of plugins is needed, and {source!r} is none: is a pair of brackets missing?"
        )
    async with PluginSet(kubelet_dir=kubelet_dir) as plugins, AsyncExitStack() as stack:
        if inspect.isasyncgen(source):
            stack.push_async_callback(source.aclose)
        async for wanted in source:
            await plugins.become(wanted)
        await asyncio.Event().wait()  # the plugins go on


def run_live(
    source: AsyncIterable[Iterable[Plugin]], *, kubelet_dir: str | os.PathLike[str] = DEVICE_PLUGIN_DIRECTORY
) -> None:
    """``run()`` for resources that come and go: ``serve_live()`` as a process of its own, until SIGTERM or SIGINT.

    Args:
        source: As for ``serve_live()``.
        kubelet_dir: The directory of kubelet.sock.

    Raises:
        SystemExit: With status 1 when a plugin or ``source`` cannot go on, after one line that says why.
        ConfigurationError: This is not the main thread.
    """
    run_until_signal(lambda: serve_live(source, kubelet_dir=kubelet_dir))
