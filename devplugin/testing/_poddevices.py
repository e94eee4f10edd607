"""Which container has which devices, and what the plugin answered for it (``cm/devicemanager/pod_devices.go``)."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from devplugin._proto.v1beta1 import ContainerAllocateResponse

__all__ = ["DeviceSpec", "Holding", "Mount", "PodDevices", "RunOptions"]


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount that a plugin asked for."""

    container_path: str
    host_path: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """A device node that a plugin asked for."""

    container_path: str
    host_path: str
    permissions: str


@dataclass(slots=True)
class RunOptions:
    """What the container runtime is told, of all resources of a container together."""

    envs: dict[str, str] = field(default_factory=dict)
    mounts: list[Mount] = field(default_factory=list)
    devices: list[DeviceSpec] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)
    cdi_devices: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Holding:
    """The devices of one resource that one container has.

    Attributes:
        by_node: The ids by NUMA node; -1 (0 before 1.25) for those that name none.
        response: What the plugin answered.
    """

    by_node: Mapping[int, list[str]]
    response: ContainerAllocateResponse

    @property
    def ids(self) -> set[str]:
        """All ids."""
        return {device for ids in self.by_node.values() for device in ids}


class PodDevices:
    """Holdings by pod, container and resource."""

    def __init__(self) -> None:
        self._pods: dict[str, dict[str, dict[str, Holding]]] = {}

    def __repr__(self) -> str:
        return f"<PodDevices of {len(self._pods)} pods>"

    def insert(self, pod: str, container: str, resource: str, holding: Holding) -> None:
        """Note an answer."""
        self._pods.setdefault(pod, {}).setdefault(container, {})[resource] = holding

    def keep_only(self, pods: Collection[str]) -> bool:
        """Drop all other pods, and say whether there were any."""
        gone = set(self._pods) - set(pods)
        for pod in gone:
            del self._pods[pod]
        return bool(gone)

    def has_pod(self, pod: str) -> bool:
        """Whether a pod has anything."""
        return pod in self._pods

    def of_container(self, pod: str, container: str) -> Mapping[str, Holding]:
        """The holdings of a container by resource."""
        return self._pods.get(pod, {}).get(container, {})

    def devices(self) -> dict[str, set[str]]:
        """All ids that are held, by resource."""
        held: dict[str, set[str]] = {}
        for _, _, resource, holding in self:
            held.setdefault(resource, set()).update(holding.ids)
        return held

    def __iter__(self) -> Iterator[tuple[str, str, str, Holding]]:
        for pod, containers in self._pods.items():
            for container, resources in containers.items():
                for resource, holding in resources.items():
                    yield pod, container, resource, holding

    def run_options(self, pod: str, container: str) -> RunOptions:
        """Merge the answers of a container (deviceRunContainerOptions): of what two resources name, the first stays."""
        options = RunOptions()
        device_paths: set[str] = set()
        mount_paths: set[str] = set()
        for holding in self.of_container(pod, container).values():
            response = holding.response
            options.envs = response.envs | options.envs
            options.annotations = response.annotations | options.annotations
            for device in response.devices:
                if device.container_path not in device_paths:
                    device_paths.add(device.container_path)
                    options.devices.append(DeviceSpec(device.container_path, device.host_path, device.permissions))
            for mount in response.mounts:
                if mount.container_path not in mount_paths:
                    mount_paths.add(mount.container_path)
                    options.mounts.append(Mount(mount.container_path, mount.host_path, mount.read_only))
            for cdi in response.cdi_devices:
                if cdi.name not in options.cdi_devices:
                    options.cdi_devices.append(cdi.name)
        return options
