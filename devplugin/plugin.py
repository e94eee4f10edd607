"""``DevicePluginBase``: what an author subclasses."""

import asyncio
import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Generic

from devplugin._cell import Latest
from devplugin._enumeration import Enumeration
from devplugin._kubelet import DEVICE_PLUGIN_DIRECTORY, KubeletDirectory
from devplugin._session import Registration
from devplugin._snapshot import Snapshot
from devplugin._wire import encode_options
from devplugin.model import Allocation, D, PreferredAllocationRequest, check_resource_name, merge_grants

__all__ = ["DevicePluginBase"]

log = logging.getLogger("devplugin.plugin")

_TEAR_DOWN_WITHIN_S = 10.0


class DevicePluginBase(ABC, Generic[D]):
    """A device plugin: subclass it, name the resource, and enumerate the devices.

    It is generic in your own subclass of ``Device``: ``class Gpus(DevicePluginBase[Gpu])``. Hooks get the very objects that
    ``devices()`` yielded. All hooks run on one event loop: whatever blocks in them belongs into a thread
    (``asyncio.to_thread``).

    Attributes:
        resource_name: The extended resource that pods ask for, ``vendor-domain/resource``.
        allocate_timeout_s: How long ``allocate`` may take, in seconds. The kubelet itself would wait for ever and
            admit no other pod of the node meanwhile.
        preferred_allocation_timeout_s: The same for ``preferred_allocation``.
        pre_start_container_timeout_s: The same for ``pre_start_container``; the kubelet gives up after 30 s.
    """

    resource_name: str
    allocate_timeout_s: float = 30.0
    preferred_allocation_timeout_s: float = 5.0
    pre_start_container_timeout_s: float = 30.0

    @abstractmethod
    def devices(self) -> AsyncIterator[Iterable[D]]:
        """Yield the whole list of devices, and again whenever it has changed. Write it as an async generator.

        Yielding the same list again costs next to nothing. When it returns, the last list stays. What it raises ends
        ``serve()``. Its ``finally`` is the place for tear-down. A device that is gone while a container has it is better
        called unhealthy than left out.
        """

    async def allocate(self, devices: Sequence[D]) -> Allocation:
        """What one container gets with these devices, which are known and healthy; by default what they grant,
        together.

        The kubelet keeps the answer for the pod's life, and may ask again for the same devices: answer the same.

        Raises:
            AllocationError: The container cannot have them. The pod's owner reads the text.
        """
        return merge_grants(devices)

    async def preferred_allocation(self, request: PreferredAllocationRequest[D]) -> Sequence[D]:  # noqa: ARG002  (overridden)
        """The devices that the kubelet should choose for one container; it is asked only when a subclass overrides
        this.

        When it raises or is late, the kubelet chooses by itself.
        """
        return ()

    async def pre_start_container(self, devices: Sequence[D]) -> None:
        """Prepare devices before a container starts, each time; it is asked only when a subclass overrides this.

        Raises:
            AllocationError: The container cannot start now. The kubelet tries again, so the work must bear repetition.
        """

    async def serve(self, *, kubelet_dir: str | os.PathLike[str] = DEVICE_PLUGIN_DIRECTORY) -> None:
        """Be this node's plugin for the resource until cancelled: register, announce, answer, and again after every
        restart.

        Cancelling it ends the streams, the calls under way (10 s at most), the connections and the socket.

        Args:
            kubelet_dir: The directory of kubelet.sock.

        Raises:
            ConfigurationError: The plugin, or the system's permissions, are not usable.
            RegistrationRejected: The kubelet will never accept this plugin.
            KubeletError: The directory was deleted on the host: start again to see the new one.
            Exception: What ``devices()`` raised.
        """
        check_resource_name(getattr(self, "resource_name", None))
        options = encode_options(
            pre_start=self._overrides("pre_start_container"),
            preferred_allocation=self._overrides("preferred_allocation"),
        )
        snapshots = Latest[Snapshot[D]]()
        registration = Registration(self, options, snapshots, KubeletDirectory(kubelet_dir))
        enumerating = asyncio.create_task(
            Enumeration(self.resource_name, snapshots).pump(self.devices()), name=f"{self.resource_name}: devices()"
        )
        registered = asyncio.create_task(registration.keep(), name=f"{self.resource_name}: registration")
        try:
            await asyncio.wait([enumerating, registered], return_when=asyncio.FIRST_EXCEPTION)
        finally:
            with _shield():  # hooks may need until the last call what devices() tears down
                ended = [await _end(registered, None), await _end(enumerating, _TEAR_DOWN_WITHIN_S)]
            _raise_first([failure for failure in ended if failure is not None])

    def _overrides(self, hook: str) -> bool:
        return getattr(type(self), hook) is not getattr(DevicePluginBase, hook)


def _shield() -> AbstractContextManager[object]:
    """What lets the end be awaited inside somebody's cancelled anyio scope, which would cancel every await of it again.

    Only where anyio is in use: importing it would cost every node 1.8 MiB.
    """
    anyio = sys.modules.get("anyio")
    return anyio.CancelScope(shield=True) if anyio else nullcontext()


def _raise_first(failures: list[BaseException]) -> None:
    for failure in failures[1:]:
        log.error("this failed at the end as well", exc_info=failure)
    if failures:
        raise failures[0]


async def _end(task: asyncio.Task[None], within_s: float | None) -> BaseException | None:
    """Cancel the task, see it end, and return what it raised."""
    task.cancel()
    await asyncio.wait([task], timeout=within_s)
    if not task.done():
        log.warning("%s did not end within %s s and is left behind", task.get_name(), within_s)
        return None
    return None if task.cancelled() else task.exception()
