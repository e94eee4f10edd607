"""Sharing: a plugin that offers each device of another plugin several times.

The kubelet gives a device id to one container at a time, and so what many containers may use has many ids: the replicas.
They are the wrapped plugin's business as little as possible: its hooks get its own devices, each once.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from inspect import isasyncgen
from typing import Any, Generic

from devplugin.errors import AllocationError, ConfigurationError
from devplugin.model import Allocation, D, Device, PreferredAllocationRequest, check_resource_name
from devplugin.plugin import DevicePluginBase

__all__ = ["Replica", "Shared"]


@dataclass(frozen=True, slots=True)
class Replica(Device, Generic[D]):
    """One of several ids for a device, with its health and NUMA nodes.

    Args:
        device: The wrapped plugin's device.
    """

    device: D

    @classmethod
    def number(cls, n: int, device: D) -> "Replica[D]":
        """The replica ``n`` of the device."""
        return cls(f"{device.id}::{n}", device, health=device.health, numa_nodes=device.numa_nodes)


class Shared(DevicePluginBase[Replica[D]], Generic[D]):
    """A plugin that offers each device of another one ``replicas`` times: ``run(Shared(Gpus(), replicas=4))``.

    The kubelet is asked to choose replicas of the devices that the fewest containers have. Where several have equally few,
    the wrapped plugin's ``preferred_allocation`` decides, if it has one. A container that gets several replicas of one device
    gets that device once. Timeouts are those of the wrapped plugin.

    Nothing keeps the containers that share a device apart: neither its memory nor its time is divided.

    Args:
        plugin: The plugin whose devices are shared. It is not served beside this one.
        replicas: How many containers can have a device: 1 or more.
        suffix: What is added to the resource's name, so that pods say that they share: ``".shared"``.
        distinct: Refuse a container that was given two replicas of one device. It has asked for two, hoping for twice as
            much, and would get one.

    Raises:
        ConfigurationError: ``plugin`` is none, ``replicas`` is no number from 1 on, or the name with the suffix is no
            resource's name.
    """

    def __init__(self, plugin: DevicePluginBase[D], *, replicas: int, suffix: str = "", distinct: bool = False) -> None:
        if not isinstance(plugin, DevicePluginBase):
            raise ConfigurationError(
                f"Shared() takes a plugin object, and {plugin!r} is none: is a pair of brackets missing?"
            )
        if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 1:
            raise ConfigurationError(f"replicas {replicas!r} is not usable: it must be a number from 1 on")
        name = check_resource_name(getattr(plugin, "resource_name", None))
        self.resource_name = check_resource_name(name + suffix)
        self.allocate_timeout_s = plugin.allocate_timeout_s
        self.preferred_allocation_timeout_s = plugin.preferred_allocation_timeout_s
        self.pre_start_container_timeout_s = plugin.pre_start_container_timeout_s
        self._plugin = plugin
        self._replicas = replicas
        self._distinct = distinct

    def __repr__(self) -> str:
        return f"Shared({self._plugin!r}, replicas={self._replicas}, resource_name={self.resource_name!r})"

    def _overrides(self, hook: str) -> bool:
        # To spread is this class's own wish; what else is offered is as in the wrapped plugin.
        return hook == "preferred_allocation" or self._plugin._overrides(hook)  # noqa: SLF001  (of the same class)

    def devices(self) -> AsyncIterator[list[Replica[D]]]:
        """Each list of the wrapped plugin, with each of its devices as often as it is shared."""
        lists: Any = self._plugin.devices()
        return self._shared(lists) if isinstance(lists, AsyncIterator) else lists  # serve() says what is wrong with it

    async def _shared(self, lists: AsyncIterator[Iterable[D]]) -> AsyncIterator[list[Replica[D]]]:
        last: dict[str, list[Replica[D]]] = {}
        async with AsyncExitStack() as stack:
            if isasyncgen(lists):
                stack.push_async_callback(lists.aclose)
            async for devices in lists:
                groups = [self._replicas_of(device, last.get(device.id)) for device in devices]
                last = {group[0].device.id: group for group in groups}
                yield [replica for group in groups for replica in group]

    def _replicas_of(self, device: D, last: list[Replica[D]] | None) -> list[Replica[D]]:
        if last and last[0].device is device:  # the same objects cost the next snapshot nothing
            return last
        return [Replica.number(n, device) for n in range(self._replicas)]

    async def allocate(self, devices: Sequence[Replica[D]]) -> Allocation:
        """What the wrapped plugin answers for the devices behind these replicas, each once.

        Raises:
            AllocationError: Two of them are of one device and ``distinct`` is set, or the wrapped plugin refuses.
        """
        if self._distinct:
            for device_id, count in Counter(replica.device.id for replica in devices).items():
                if count > 1:
                    raise AllocationError(
                        f"{self.resource_name}: {count} shares of device {device_id} would go to one container, which gets no"
                        " more by them than by one: ask for fewer, or try again when another device has a share free"
                    )
        return await self._plugin.allocate(_behind(devices))

    async def pre_start_container(self, devices: Sequence[Replica[D]]) -> None:
        """As the wrapped plugin does, with the devices behind these replicas, each once."""
        await self._plugin.pre_start_container(_behind(devices))

    async def preferred_allocation(self, request: PreferredAllocationRequest[Replica[D]]) -> list[Replica[D]]:
        """Replicas of different devices as long as there are any, and of those that the fewest other containers have."""
        chosen, must = list(request.must_include), {replica.id for replica in request.must_include}
        taken = Counter(replica.device.id for replica in chosen)
        free: dict[str, list[Replica[D]]] = {replica.device.id: [] for replica in request.available}
        for replica in request.available:
            if replica.id not in must:
                free[replica.device.id].append(replica)
        others = {i: self._replicas - len(replicas) - taken[i] for i, replicas in free.items()}
        while len(chosen) < request.size and any(free.values()):
            least = min((taken[i], others[i]) for i, replicas in free.items() if replicas)
            tier = [replicas[0].device for i, replicas in free.items() if replicas and (taken[i], others[i]) == least]
            for device in await self._first(request.size - len(chosen), tier, chosen):
                chosen.append(free[device.id].pop(0))
                taken[device.id] += 1
        return chosen

    async def _first(self, count: int, tier: list[D], chosen: list[Replica[D]]) -> list[D]:
        """``count`` of these devices, which are as good as each other to this class: the wrapped plugin's favourites first."""
        if count >= len(tier) or not self._plugin._overrides("preferred_allocation"):  # noqa: SLF001  (of the same class)
            return tier[:count]
        ids = {device.id for device in tier}
        given = [device for device in _behind(chosen) if device.id not in ids]
        request = PreferredAllocationRequest((*tier, *given), given, count + len(given))
        preferred = [device for device in await self._plugin.preferred_allocation(request) if device.id in ids]
        return list({device.id: device for device in (*preferred, *tier)}.values())[:count]


def _behind(replicas: Iterable[Replica[D]]) -> list[D]:
    return list({replica.device.id: replica.device for replica in replicas}.values())
