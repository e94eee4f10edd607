"""The device manager's books: endpoints, devices and who has them (``cm/devicemanager/manager.go``)."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from devplugin._proto.v1beta1 import Device, DevicePluginOptions
from devplugin.testing._checkpoint import read_checkpoint, write_checkpoint
from devplugin.testing._client import KubeletError, PluginClient
from devplugin.testing._clock import Clock, Timer
from devplugin.testing._poddevices import PodDevices
from devplugin.testing._records import Records, Resource, Snapshot
from devplugin.testing._versions import Behaviour

__all__ = ["GRACE_S", "DeviceManager", "Endpoint"]

GRACE_S = 300.0
"""``endpointStopGracePeriod`` in ``cm/devicemanager/types.go``."""


@dataclass(eq=False, slots=True)
class Endpoint:
    """A plugin that registered, or, after a restart of the kubelet, one that once did (``endpoint.go``)."""

    resource: str
    client: PluginClient | None = None
    options: DevicePluginOptions | None = None
    stopped_at_s: float | None = None

    def running_client(self) -> PluginClient:
        """The client to call.

        Raises:
            KubeletError: The plugin is gone.
        """
        if self.stopped_at_s is not None or self.client is None:
            raise KubeletError(f"endpoint {self} has been stopped")
        return self.client

    def __str__(self) -> str:
        """As Go prints the structure, without its pointers."""
        return f"&{{{self.resource}}}"


@dataclass(slots=True)
class _Books:
    """What is known of one resource."""

    healthy: set[str] = field(default_factory=set)
    unhealthy: set[str] = field(default_factory=set)


class DeviceManager:
    """The state that registrations and streams change and that allocations use.

    It lives as long as one run of the kubelet; what outlives that is in the checkpoint.
    """

    def __init__(
        self,
        directory: Path,
        behaviour: Behaviour,
        clock: Clock,
        records: Records,
        changed: Callable[[], None],
        active_pods: Callable[[], Collection[str]],
    ) -> None:
        self.behaviour = behaviour
        self.endpoints: dict[str, Endpoint] = {}
        self.devices: dict[str, dict[str, Device]] = {}
        self.allocated: dict[str, set[str]] = {}
        self.pod_devices = PodDevices()
        self._directory = directory
        self._clock = clock
        self._records = records
        self._changed = changed
        self._active_pods = active_pods
        self._books: dict[str, _Books] = {}
        self._by_socket: dict[str, dict[Path, Endpoint]] = {}
        self._grace: dict[str, Timer] = {}
        self.forgotten: set[str] = set()

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{name} {len(books.healthy)}/{len(books.healthy | books.unhealthy)}" for name, books in self._books.items()
        )
        return f"<DeviceManager {counts or 'without resources'}>"

    # What a restart brings back -------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the checkpoint: each resource known by then has capacity 0 until it registers again (readCheckpoint)."""
        checkpoint = read_checkpoint(self._directory)
        if checkpoint is None:
            return
        self.pod_devices, registered = checkpoint
        self.allocated = self.pod_devices.devices()
        for resource in registered:
            self._books[resource] = _Books()
            self.endpoints[resource] = Endpoint(resource, stopped_at_s=self._clock.now())
            self._start_grace(resource)

    def save(self) -> None:
        """Write the checkpoint (writeCheckpoint)."""
        registered = {resource: sorted(books.healthy) for resource, books in self._books.items()}
        write_checkpoint(self._directory, self.pod_devices, registered)

    def close(self) -> None:
        """Stop the clocks that run."""
        for timer in self._grace.values():
            timer.cancel()

    # What registrations and streams do ------------------------------------------------------------------------------

    def connected(self, client: PluginClient, options: DevicePluginOptions | None) -> Endpoint:
        """Make a plugin the endpoint of its resource (PluginConnected).

        Raises:
            KubeletError: From 1.37 on: that socket is an endpoint of that resource already.
        """
        endpoint = Endpoint(client.resource, client, options)
        if self.behaviour.keyed_by_socket:
            sockets = self._by_socket.setdefault(client.resource, {})
            if client.socket in sockets:
                raise KubeletError(f"device plugin already connected: {client.socket}")
            sockets[client.socket] = endpoint
        self.endpoints[client.resource] = endpoint
        return endpoint

    def disconnected(self, resource: str, socket: Path) -> None:
        """Take note that a plugin is gone (PluginDisconnected)."""
        if not self.behaviour.keyed_by_socket:
            endpoint = self.endpoints.get(resource)
            if endpoint is not None:
                self.stopped(endpoint)
                self.mark_unhealthy(resource)
            return
        sockets = self._by_socket[resource]
        self.stopped(sockets.pop(socket))
        if sockets:
            self.endpoints[resource] = next(iter(sockets.values()))
        else:
            del self._by_socket[resource]
            self.mark_unhealthy(resource)

    def stopped(self, endpoint: Endpoint) -> None:
        """Let the grace of an endpoint begin (setStopTime)."""
        endpoint.stopped_at_s = self._clock.now()
        self._start_grace(endpoint.resource)

    def mark_unhealthy(self, resource: str) -> None:
        """Count every device of a resource as unhealthy (markResourceUnhealthy)."""
        books = self._books.setdefault(resource, _Books())
        books.unhealthy |= books.healthy
        books.healthy = set()
        self._changed()

    def received(self, client: PluginClient, devices: list[Device]) -> None:
        """Replace the whole list of a resource (genericDeviceUpdateCallback).

        An id that comes twice with different health counts as both.
        """
        self._books[client.resource] = _Books(
            healthy={device.id for device in devices if device.health == "Healthy"},
            unhealthy={device.id for device in devices if device.health != "Healthy"},
        )
        self.devices[client.resource] = {device.id: device for device in devices}
        self.forgotten.discard(client.resource)
        self.save()
        self._records.add(
            Snapshot(
                resource=client.resource,
                endpoint=client.socket.name,
                at_s=self._clock.now(),
                devices={device.id: device.health for device in devices},
                numa_nodes={device.id: nodes for device in devices if (nodes := numa_nodes(device))},
            )
        )

    def _start_grace(self, resource: str) -> None:
        if resource in self._grace:
            self._grace[resource].cancel()
        self._grace[resource] = self._clock.call_at(self._clock.now() + GRACE_S, self._end_graces)

    def _end_graces(self) -> None:
        """Forget the resources whose endpoint has been gone for `GRACE_S` (GetCapacity)."""
        for resource in list(self._books):
            stopped_at_s = self.endpoints[resource].stopped_at_s if resource in self.endpoints else None
            if stopped_at_s is not None and self._clock.now() - stopped_at_s >= GRACE_S:
                del self._books[resource]
                del self.endpoints[resource]
                self.forgotten.add(resource)
                self.save()
        self._changed()

    # What the node's status and the allocations ask -----------------------------------------------------------------

    def healthy(self, resource: str) -> set[str] | None:
        """The healthy ids, or None when the resource is not known."""
        return self._books[resource].healthy if resource in self._books else None

    def endpoint_of(self, resource: str, missing: str = "") -> Endpoint:
        """The endpoint that calls for a resource go to.

        Raises:
            KubeletError: There is none; `missing` is the text where it is not the usual one.
        """
        if resource not in self.endpoints:
            raise KubeletError(missing or f"endpoint not found in cache for a registered resource: {resource}")
        return self.endpoints[resource]

    def is_device_plugin_resource(self, resource: str) -> bool:
        """Whether the device manager deals with a resource (isDevicePluginResource)."""
        return resource in self._books or resource in self.allocated

    def resources(self) -> Mapping[str, Resource]:
        """The node's status; a resource whose grace is over stays in it with zeros (GetCapacity)."""
        gone = {resource: Resource(capacity=0, allocatable=0) for resource in self.forgotten}
        return gone | {
            resource: Resource(
                capacity=len(books.healthy) + len(books.unhealthy),
                allocatable=len(books.healthy),
                healthy=frozenset(books.healthy),
                unhealthy=frozenset(books.unhealthy),
                allocated=frozenset(self.allocated.get(resource, ())),
            )
            for resource, books in self._books.items()
        }

    def free_inactive(self) -> None:
        """Take the devices back from pods that are over or deleted (UpdateAllocatedDevices)."""
        if self.pod_devices.keep_only(self._active_pods()):
            self.allocated = self.pod_devices.devices()


def numa_nodes(device: Device | None) -> tuple[int, ...]:
    """The NUMA nodes that a device names."""
    if device is None or device.topology is None:
        return ()
    return tuple(node.id for node in device.topology.nodes)
