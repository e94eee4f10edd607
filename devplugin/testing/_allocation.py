"""Giving devices to containers (``cm/devicemanager/manager.go``: Allocate and what it calls)."""

import random
from collections.abc import Collection, Mapping
from typing import Protocol

from devplugin.testing._client import KubeletError
from devplugin.testing._devices import DeviceManager, numa_nodes
from devplugin.testing._grpc import RpcError
from devplugin.testing._poddevices import Holding, RunOptions

__all__ = ["Allocator", "Claimant"]


class Claimant(Protocol):
    """A container of a pod, as far as the device manager looks at it."""

    @property
    def pod_uid(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def limits(self) -> Mapping[str, int]: ...
    @property
    def is_init(self) -> bool: ...
    @property
    def is_sidecar(self) -> bool: ...
    @property
    def runs_since_before_restart(self) -> bool: ...


class Allocator:
    """Chooses devices, asks the plugin, and remembers its answers."""

    def __init__(self, manager: DeviceManager, rng: random.Random) -> None:
        self._manager = manager
        self._rng = rng
        self._reusable: dict[str, dict[str, set[str]]] = {}

    async def allocate(self, claimant: Claimant) -> None:
        """Give a container what its limits ask for; init containers come before the others.

        Raises:
            KubeletError: The kubelet refuses.
            RpcError: The plugin does.
        """
        reusable = self._reusable.get(claimant.pod_uid, {})
        self._reusable = {claimant.pod_uid: reusable}
        await self._allocate_container(claimant, reusable)
        keeps = not claimant.is_init or claimant.is_sidecar
        for resource, holding in self._manager.pod_devices.of_container(claimant.pod_uid, claimant.name).items():
            known = reusable.setdefault(resource, set())
            if keeps:
                known -= holding.ids
            else:
                known |= holding.ids

    async def _allocate_container(self, claimant: Claimant, reusable: Mapping[str, set[str]]) -> None:
        """One Allocate call per resource (allocateContainerResources)."""
        manager = self._manager
        written = False
        for resource, needed in claimant.limits.items():
            if not manager.is_device_plugin_resource(resource):
                continue
            manager.free_inactive()
            ids = await self._choose(claimant, resource, needed, reusable.get(resource, set()))
            if not ids:
                continue
            await self._ask_plugin(claimant, resource, ids)
            written = True
        if written:
            manager.save()

    async def _ask_plugin(self, claimant: Claimant, resource: str, ids: set[str]) -> None:
        manager = self._manager
        try:
            endpoint = manager.endpoint_of(resource, missing=f"unknown Device Plugin {resource}")
            responses = await endpoint.running_client().allocate(self._shuffled(ids))
        except (KubeletError, RpcError):
            manager.allocated = manager.pod_devices.devices()
            raise
        if not responses:
            raise KubeletError(f"no containers return in allocation response {manager.behaviour.empty_answer}")
        by_node: dict[int, list[str]] = {}
        for device in ids:
            nodes = numa_nodes(manager.devices[resource].get(device)) or (manager.behaviour.plain_device_node,)
            for node in nodes:
                by_node.setdefault(node, []).append(device)
        manager.pod_devices.insert(claimant.pod_uid, claimant.name, resource, Holding(by_node, responses[0]))

    async def _choose(self, claimant: Claimant, resource: str, required: int, reusable: set[str]) -> set[str]:
        """The ids to ask the plugin for; none when the container has what it needs (devicesToAllocate)."""
        manager = self._manager
        held = manager.pod_devices.of_container(claimant.pod_uid, claimant.name).get(resource)
        held_ids = held.ids if held else set()
        if held and len(held_ids) != required:
            raise KubeletError(
                f'pod "{claimant.pod_uid}" container "{claimant.name}" changed request for resource "{resource}" '
                f"from {len(held_ids)} to {required}"
            )
        if claimant.runs_since_before_restart and manager.behaviour.checks_health_first:
            return set()
        healthy = self._check_health(resource, held_ids, needed=required - len(held_ids))
        if required == len(held_ids):
            return set()
        return await self._choose_new(resource, required, reusable, healthy)

    def _check_health(self, resource: str, held: set[str], *, needed: int) -> set[str]:
        behaviour = self._manager.behaviour
        healthy = self._manager.healthy(resource)
        if not behaviour.checks_health_first and not needed:
            return set()
        if healthy is None:
            raise KubeletError(behaviour.unregistered.format(resource=resource))
        if behaviour.checks_health_first and not healthy:
            raise KubeletError(f"no healthy devices present; cannot allocate unhealthy devices {resource}")
        if behaviour.checks_health_first and not healthy >= held:
            raise KubeletError(
                f"previously allocated devices are no longer healthy; cannot allocate unhealthy devices {resource}"
            )
        return healthy

    async def _choose_new(self, resource: str, required: int, reusable: set[str], healthy: set[str]) -> set[str]:
        """First the devices of init containers, then what the plugin prefers, then any."""
        in_use = self._manager.allocated.setdefault(resource, set())
        chosen: set[str] = set()

        def take(ids: Collection[str]) -> bool:
            taken = self._shuffled(set(ids) - chosen)[: required - len(chosen)]
            chosen.update(taken)
            self._manager.allocated.setdefault(resource, set()).update(taken)
            return len(chosen) == required

        if take(reusable):
            return chosen
        available = healthy - in_use
        if len(available) < required - len(chosen):
            raise KubeletError(
                f"requested number of devices unavailable for {resource}. "
                f"Requested: {required - len(chosen)}, Available: {len(available)}"
            )
        preferred = await self._preferred(resource, available | chosen, chosen, required)
        if not take(preferred & available):
            take(available)
        return chosen

    async def _preferred(self, resource: str, available: set[str], chosen: set[str], size: int) -> set[str]:
        """What the plugin would rather give, when it says that it has a wish (callGetPreferredAllocationIfAvailable)."""
        endpoint = self._manager.endpoint_of(resource)
        if endpoint.options is None or not endpoint.options.get_preferred_allocation_available:
            return set()
        try:
            return await endpoint.running_client().preferred(self._shuffled(available), self._shuffled(chosen), size)
        except (KubeletError, RpcError) as error:
            raise KubeletError(f"device plugin GetPreferredAllocation rpc failed with err: {error}") from error

    async def run_options(self, claimant: Claimant) -> RunOptions:
        """What a container is started with; called at each start (GetDeviceRunContainerOptions).

        Raises:
            KubeletError: The kubelet, or PreStartContainer, stands in the way.
            RpcError: A plugin refused devices that had to be allocated anew.
        """
        manager = self._manager
        missing = False
        for resource, needed in claimant.limits.items():
            if not manager.is_device_plugin_resource(resource) or not needed:
                continue
            await self._pre_start(claimant, resource)
            missing = missing or resource not in manager.pod_devices.of_container(claimant.pod_uid, claimant.name)
        if missing:
            await self.allocate(claimant)
        options = manager.pod_devices.run_options(claimant.pod_uid, claimant.name)
        if not manager.behaviour.knows_cdi:
            options.cdi_devices = []
        return options

    async def _pre_start(self, claimant: Claimant, resource: str) -> None:
        """Call PreStartContainer when the plugin wants it (callPreStartContainerIfNeeded)."""
        endpoint = self._manager.endpoint_of(resource)
        if endpoint.options is None or not endpoint.options.pre_start_required:
            return
        holding = self._manager.pod_devices.of_container(claimant.pod_uid, claimant.name).get(resource)
        if holding is None:
            raise KubeletError(
                f"no devices found allocated in local cache for pod {claimant.pod_uid}, "
                f"container {claimant.name}, resource {resource}"
            )
        try:
            await endpoint.running_client().pre_start(self._shuffled(holding.ids))
        except (KubeletError, RpcError) as error:
            raise KubeletError(f"device plugin PreStartContainer rpc failed with err: {error}") from error

    def _shuffled(self, ids: Collection[str]) -> list[str]:
        """In no order, as the iteration over a Go map."""
        shuffled = sorted(ids)
        self._rng.shuffle(shuffled)
        return shuffled
