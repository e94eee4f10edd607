"""A plugin on an embedded kubelet: what ``devplugin try`` does, without what it shows."""

from asyncio import TaskGroup
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from devplugin import DevicePluginBase, DevicePluginError
from devplugin.cli._output import counted
from devplugin.testing import ConditionNotMet, FakeKubelet, Pod, Registration, Snapshot, Waiting

__all__ = ["Trial", "TrialError", "refusal"]

# More than the deadlines of both hooks, which the plugin sets: they refuse in words before this does.
_BEYOND_DEADLINES_S = 15.0
# What a container waits for before it starts; any other reason is why it does not.
_ON_ITS_WAY = {"ContainerCreating", "PodInitializing"}


class TrialError(DevicePluginError):
    """The plugin did not get so far that it can be tried; the text says why."""


class Trial:
    """A plugin that is served to a fake kubelet of its own. Build it with `Trial.of`."""

    def __init__(self, plugin: DevicePluginBase[Any], kubelet: FakeKubelet) -> None:
        self.plugin = plugin
        self.kubelet = kubelet
        self._pods = 0

    def __repr__(self) -> str:
        return f"<Trial of {self.plugin!r} on {self.kubelet!r}>"

    @classmethod
    @asynccontextmanager
    async def of(cls, plugin: DevicePluginBase[Any], version: str) -> AsyncIterator["Trial"]:
        """Start both; they end with the context, and nothing stays behind.

        Raises:
            ExceptionGroup: The plugin ended, with what it raised in it.
        """
        with TemporaryDirectory(prefix="devplugin-") as name:
            directory = Path(name)
            async with FakeKubelet(directory, version) as kubelet, TaskGroup() as tasks:
                serving = tasks.create_task(plugin.serve(kubelet_dir=directory), name="the plugin that is tried")
                try:
                    yield cls(plugin, kubelet)
                finally:
                    # Its calls end with their connection: else the plugin's end would wait for those that hang.
                    await kubelet.kill()
                    serving.cancel()

    @property
    def resource(self) -> str:
        """The plugin's resource."""
        return self.plugin.resource_name

    @property
    def devices(self) -> Snapshot:
        """The newest list."""
        return self.kubelet.snapshots[-1]

    @property
    def options(self) -> Registration:
        """What the plugin has registered with."""
        return self.kubelet.registrations[-1]

    async def first_list(self, within_s: float) -> None:
        """Wait for the plugin's first list of devices.

        Raises:
            TrialError: None came in that time.
        """
        try:
            await self.kubelet.until(lambda: self.kubelet.snapshots, timeout_s=within_s)
        except ConditionNotMet as error:
            registered = "it has registered, but " if self.kubelet.registrations else ""
            raise TrialError(
                f"the plugin has announced no devices within {within_s:g} s: {registered}devices() has not yielded, or "
                "something blocks the event loop (a call that belongs into asyncio.to_thread)"
            ) from error

    async def allocate(self, count: int) -> Pod:
        """A new pod with so many devices, once it is clear what becomes of it: see `refusal`."""
        self._pods += 1
        pod = self.kubelet.create_pod(f"pod-{self._pods}", {self.resource: count})
        await self.kubelet.until(
            lambda: pod.containers["main"].ready or refusal(pod),
            f"An answer for {counted(count)}",
            timeout_s=self.plugin.allocate_timeout_s
            + self.plugin.preferred_allocation_timeout_s
            + self.plugin.pre_start_container_timeout_s
            + _BEYOND_DEADLINES_S,
        )
        return pod


def refusal(pod: Pod) -> str:
    """Why the pod does not run, in the words that its owner reads; nothing when it may yet."""
    if pod.failure:
        return pod.message
    state = pod.containers["main"].state
    if isinstance(state, Waiting) and state.reason not in _ON_ITS_WAY:
        return state.message
    unschedulable = [event for event in pod.events if event.reason == "FailedScheduling"]
    return unschedulable[-1].message if unschedulable and not pod.bound else ""
