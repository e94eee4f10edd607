"""Who holds what on this node: an asyncio client of the kubelet's pod resources API, v1.

::

    async with PodResourcesClient() as kubelet:
        for pod in await kubelet.pods():
            for container in pod.containers:
                print(pod.namespace, pod.name, container.name, container.devices)

It is the only way to learn that devices have been given back: the device plugin API does not say.
"""

import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Self

from grpclib import GRPCError
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import ProtocolError, StreamTerminatedError

from devplugin.errors import ConfigurationError, KubeletError, KubeletUnavailable

if TYPE_CHECKING:
    from devplugin._podresources import v1

__all__ = [
    "POD_RESOURCES_SOCKET",
    "AllocatableResources",
    "ClaimedDevice",
    "ContainerResources",
    "DynamicResource",
    "HeldDevice",
    "Memory",
    "PodResources",
    "PodResourcesClient",
    "UnknownPod",
]

POD_RESOURCES_SOCKET = "/var/lib/kubelet/pod-resources/kubelet.sock"
"""Where the kubelet serves it, unless it has another ``--root-dir``."""

_NOTHING: Mapping[str, Sequence["HeldDevice"]] = MappingProxyType({})


class UnknownPod(KubeletError):
    """The kubelet has no such pod."""


@dataclass(frozen=True, slots=True)
class HeldDevice:
    """A device as the kubelet knows it.

    Attributes:
        id: What the plugin called it.
        numa_nodes: The NUMA nodes that it is close to; none when the plugin did not say.
    """

    id: str
    numa_nodes: Sequence[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of one kind.

    Attributes:
        type: ``memory``, or ``hugepages-`` and their size.
        bytes: How much.
        numa_nodes: Where.
    """

    type: str
    bytes: int
    numa_nodes: Sequence[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedDevice:
    """A device of a driver for Dynamic Resource Allocation.

    Attributes:
        driver: The driver's name.
        pool: The pool that the device is from.
        device: The device in it.
        share_id: Which share of a device that several claims have; kubelets since 1.37 tell.
        cdi_devices: Its CDI names.
    """

    driver: str
    pool: str
    device: str
    share_id: str | None = None
    cdi_devices: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicResource:
    """A resource claim and what it brought."""

    claim: str
    namespace: str
    devices: Sequence[ClaimedDevice] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerResources:
    """What one container holds.

    Attributes:
        name: The container.
        devices: The devices of each resource, by its name.
        cpu_ids: CPUs that it has for itself.
        memory: Memory that it has for itself.
        dynamic_resources: Resource claims.
    """

    name: str
    devices: Mapping[str, Sequence[HeldDevice]] = field(default_factory=lambda: _NOTHING)
    cpu_ids: Sequence[int] = ()
    memory: Sequence[Memory] = ()
    dynamic_resources: Sequence[DynamicResource] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PodResources:
    """What one pod holds. The API does not tell the pod's UID.

    Attributes:
        name: The pod.
        namespace: Its namespace.
        containers: Its containers, also those that hold nothing.
        cpu_ids: CPUs of the pod as a whole; kubelets since 1.37 tell.
        memory: The same.
    """

    name: str
    namespace: str
    containers: Sequence[ContainerResources] = ()
    cpu_ids: Sequence[int] = ()
    memory: Sequence[Memory] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatableResources:
    """What the kubelet can give out: healthy devices, CPUs and memory, whether or not pods hold them now."""

    devices: Mapping[str, Sequence[HeldDevice]] = field(default_factory=lambda: _NOTHING)
    cpu_ids: Sequence[int] = ()
    memory: Sequence[Memory] = ()


class PodResourcesClient:
    """A connection to the kubelet's pod resources socket, as an async context manager.

    The kubelet answers 100 calls a second, of all clients together. The connection is made with the first call, and again
    after a restart of the kubelet with the next one.

    Args:
        socket: Where the kubelet serves it. In a container, mount its directory: the kubelet makes a new socket at each
            start.
        timeout_s: How long a call may take.
    """

    def __init__(self, socket: str | os.PathLike[str] = POD_RESOURCES_SOCKET, *, timeout_s: float = 10.0) -> None:
        self._path = Path(socket)
        self._timeout_s = timeout_s
        self._channel: Channel | None = None

    def __repr__(self) -> str:
        return f"PodResourcesClient({str(self._path)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; the next call makes a new one."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    async def pods(self) -> list[PodResources]:
        """The pods of this node, with what they hold (List).

        Raises:
            KubeletUnavailable: No kubelet answers now, or it is asked too often.
            ConfigurationError: The system does not let this process connect.
            KubeletError: It refused.
        """
        async with self._calling() as stub:
            response = await stub.list(timeout=self._timeout_s)
        return [_pod(each) for each in response.pod_resources]

    async def pod(self, name: str, namespace: str = "default") -> PodResources:
        """One pod (Get; kubelets since 1.34 have it, and since 1.27 with the feature gate ``KubeletPodResourcesGet``).

        Raises:
            UnknownPod: There is no such pod on this node.
            KubeletUnavailable: As for ``pods()``.
            ConfigurationError: As for ``pods()``.
            KubeletError: It refused, or does not have this call.
        """
        from devplugin._podresources.v1 import GetPodResourcesRequest  # noqa: PLC0415  (see _calling)

        async with self._calling(f"{namespace}/{name}") as stub:
            request = GetPodResourcesRequest(pod_name=name, pod_namespace=namespace)
            response = await stub.get(request, timeout=self._timeout_s)
        if response.pod_resources is None:
            raise KubeletError(f"the kubelet answered without a pod for {namespace}/{name}")
        return _pod(response.pod_resources)

    async def allocatable(self) -> AllocatableResources:
        """What the kubelet can give out (GetAllocatableResources).

        Raises:
            KubeletUnavailable: As for ``pods()``.
            ConfigurationError: As for ``pods()``.
            KubeletError: It refused.
        """
        async with self._calling() as stub:
            response = await stub.get_allocatable_resources(timeout=self._timeout_s)
        return AllocatableResources(
            devices=_devices(response.devices), cpu_ids=tuple(response.cpu_ids), memory=_memory(response.memory)
        )

    @asynccontextmanager
    async def _calling(self, pod: str = "") -> AsyncIterator["v1.PodResourcesListerStub"]:
        """The messages' library is loaded with the first call: who only imports the types does not pay for it."""
        from devplugin._podresources.v1 import PodResourcesListerStub  # noqa: PLC0415

        if self._channel is None:
            self._channel = Channel(path=str(self._path))
        try:
            await self._channel.__connect__()
            yield PodResourcesListerStub(self._channel)
        except GRPCError as error:
            raise _refusal(error, pod) from error
        except PermissionError as error:
            raise ConfigurationError(f"no permission to connect to {self._path} as user {os.geteuid()}") from error
        except TimeoutError as error:
            raise KubeletUnavailable(f"no answer on {self._path} in {self._timeout_s:g} s") from error
        except OSError as error:
            raise KubeletUnavailable(f"nobody listens on {self._path}: {error.strerror or error}") from error
        except (StreamTerminatedError, ProtocolError) as error:
            raise KubeletUnavailable(f"what listens on {self._path} went away during the call ({error})") from error


def _refusal(error: GRPCError, pod: str) -> KubeletError:
    text = error.message or error.status.name
    if pod and (error.status is Status.NOT_FOUND or "not found" in text):
        return UnknownPod(f"no pod {pod} on this node: {text}")
    if error.status is Status.RESOURCE_EXHAUSTED:
        return KubeletUnavailable(f"the kubelet is asked too often: {text}")
    if error.status is Status.UNIMPLEMENTED:
        return KubeletError(f"what listens there does not have this call of the pod resources API: {text}")
    return KubeletError(f"the kubelet refused: {text}")


def _pod(message: "v1.PodResources") -> PodResources:
    return PodResources(
        name=message.name,
        namespace=message.namespace,
        containers=tuple(_container(each) for each in message.containers),
        cpu_ids=tuple(message.cpu_ids),
        memory=_memory(message.memory),
    )


def _container(message: "v1.ContainerResources") -> ContainerResources:
    return ContainerResources(
        name=message.name,
        devices=_devices(message.devices),
        cpu_ids=tuple(message.cpu_ids),
        memory=_memory(message.memory),
        dynamic_resources=tuple(_claim(each) for each in message.dynamic_resources),
    )


def _devices(messages: Iterable["v1.ContainerDevices"]) -> Mapping[str, Sequence[HeldDevice]]:
    """The devices by resource. The kubelet has an entry for each device and NUMA node: one device may be in several."""
    nodes: dict[str, dict[str, set[int]]] = {}
    for message in messages:
        of_resource = nodes.setdefault(message.resource_name, {})
        for device_id in message.device_ids:
            of_resource.setdefault(device_id, set()).update(_numa_nodes(message.topology))
    return MappingProxyType(
        {
            resource: tuple(HeldDevice(each, tuple(sorted(found[each]))) for each in sorted(found))
            for resource, found in sorted(nodes.items())
        }
    )


def _memory(messages: Iterable["v1.ContainerMemory"]) -> Sequence[Memory]:
    return tuple(
        Memory(type=each.memory_type, bytes=each.size, numa_nodes=_numa_nodes(each.topology)) for each in messages
    )


def _claim(message: "v1.DynamicResource") -> DynamicResource:
    return DynamicResource(
        claim=message.claim_name,
        namespace=message.claim_namespace,
        devices=tuple(
            ClaimedDevice(
                driver=each.driver_name,
                pool=each.pool_name,
                device=each.device_name,
                share_id=each.share_id,
                cdi_devices=tuple(cdi.name for cdi in each.cdi_devices),
            )
            for each in message.claim_resources
        ),
    )


def _numa_nodes(topology: "v1.TopologyInfo | None") -> tuple[int, ...]:
    return tuple(node.id for node in topology.nodes) if topology is not None else ()
