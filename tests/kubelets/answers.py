"""What goes to a device manager and what comes back, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Container:
    """A container and how many devices of each resource it asks for."""

    name: str
    limits: Mapping[str, int] = field(default_factory=dict)
    restart_policy: str = ""
    """`Always` makes an init container a sidecar (1.28 and later)."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as the API server hands it over. A kubelet that restarts knows it again by its `uid`."""

    name: str
    containers: Sequence[Container]
    init_containers: Sequence[Container] = ()
    namespace: str = "default"
    uid: str = ""

    def __post_init__(self) -> None:
        if not self.uid:
            object.__setattr__(self, "uid", f"uid-of-{self.name}")

    @classmethod
    def of(cls, name: str, resource: str, count: int) -> Self:
        """A pod with one container, `main`, that asks for one resource."""
        return cls(name, [Container("main", {resource: count})])

    def to_json(self) -> dict[str, Any]:
        def containers(items: Sequence[Container]) -> list[dict[str, Any]]:
            return [{"name": c.name, "limits": dict(c.limits), "restart_policy": c.restart_policy} for c in items]

        return {
            "name": self.name,
            "namespace": self.namespace,
            "uid": self.uid,
            "containers": containers(self.containers),
            "init_containers": containers(self.init_containers),
        }


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the device manager did unasked, `t_s` seconds after its start."""

    name: str
    t_s: float
    fields: Json

    def __str__(self) -> str:
        return f"{self.t_s:9.3f} s {self.name} " + " ".join(f"{key}={value!r}" for key, value in self.fields.items())


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The device plugin resources in the node's status; `deleted` are those whose grace is over, shown as 0."""

    capacity: dict[str, int]
    allocatable: dict[str, int]
    deleted: list[str]


@dataclass(frozen=True, slots=True)
class Hint:
    """NUMA nodes that would do, or that the topology manager chose."""

    nodes: tuple[int, ...]
    preferred: bool

    @classmethod
    def from_json(cls, data: Json) -> Self:
        return cls(tuple(data["nodes"]), data["preferred"])


@dataclass(frozen=True, slots=True)
class Allotment:
    """What a pod's admission set aside for one container: ids by resource."""

    container: str
    init: bool
    devices: dict[str, list[str]]
    affinity: Hint | None


@dataclass(frozen=True, slots=True)
class Admission:
    """The kubelet's decision on a pod, in the words of the pod's status (`message`) and event (`event_message`)."""

    uid: str
    admitted: bool
    phase: str
    reason: str
    message: str
    event_message: str
    containers: dict[str, Allotment]

    @classmethod
    def from_json(cls, data: Json) -> Self:
        containers = {
            item["container"]: Allotment(
                item["container"],
                item["init"],
                item["devices"],
                Hint.from_json(item["affinity"]) if item["affinity"] else None,
            )
            for item in data["containers"]
        }
        return cls(**{**data, "containers": containers})

    def devices(self, resource: str, container: str = "main") -> list[str]:
        """The ids that a container got, sorted."""
        return self.containers[container].devices.get(resource, [])


@dataclass(frozen=True, slots=True)
class Mount:
    container_path: str
    host_path: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class DeviceNode:
    container_path: str
    host_path: str
    permissions: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What of the plugins' answers reaches a container."""

    envs: dict[str, str]
    mounts: list[Mount]
    device_nodes: list[DeviceNode]
    annotations: dict[str, str]
    cdi_devices: list[str]

    @classmethod
    def from_json(cls, data: Json) -> Self:
        return cls(
            data["envs"],
            [Mount(**item) for item in data["mounts"]],
            [DeviceNode(**item) for item in data["device_nodes"]],
            data["annotations"],
            data["cdi_devices"],
        )


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a container: what reached it, or why it did not start.

    `reason` and `message` are those of the container's waiting state, `error_text` is the device manager's error.
    """

    container: str
    started: bool
    devices: dict[str, list[str]]
    grant: Grant
    reason: str
    message: str
    error_text: str

    @classmethod
    def from_json(cls, data: Json) -> Self:
        return cls(
            data["container"],
            data["started"],
            data["devices"],
            Grant.from_json(data),
            data["reason"],
            data["message"],
            data["error_text"],
        )


@dataclass(frozen=True, slots=True)
class Device:
    """A device as the manager holds it.

    `health` is what was last reported, `healthy` whether it counts (not so once the stream has ended); `nodes` is None
    where no topology was reported.
    """

    health: str
    healthy: bool
    nodes: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The registration of a resource; `stopped_for_s` counts towards the five minutes of grace."""

    stopped: bool
    stopped_for_s: float


@dataclass(frozen=True, slots=True)
class State:
    """The device manager's books. `deleted` are the resources whose grace is over; they show as 0 in the node's status."""

    capacity: dict[str, int]
    allocatable: dict[str, int]
    deleted: list[str]
    allocated: dict[str, list[str]]
    endpoints: dict[str, Endpoint]
    devices: dict[str, dict[str, Device]]

    @classmethod
    def from_json(cls, data: Json) -> Self:
        devices = {
            resource: {
                key: Device(d["health"], d["healthy"], None if d["nodes"] is None else tuple(d["nodes"]))
                for key, d in items.items()
            }
            for resource, items in data.get("devices", {}).items()
        }
        endpoints = {resource: Endpoint(**item) for resource, item in data["endpoints"].items()}
        return cls(data["capacity"], data["allocatable"], data["deleted"], data["allocated"], endpoints, devices)


@dataclass(frozen=True, slots=True)
class Hints:
    """NUMA hints by resource: None means anywhere, an empty tuple nowhere."""

    pod: dict[str, tuple[Hint, ...] | None]
    containers: dict[str, dict[str, tuple[Hint, ...] | None]]

    @classmethod
    def from_json(cls, data: Json) -> Self:
        def read(items: Json) -> dict[str, tuple[Hint, ...] | None]:
            return {r: None if hints is None else tuple(map(Hint.from_json, hints)) for r, hints in items.items()}

        return cls(read(data["pod"]), {name: read(items) for name, items in data["containers"].items()})


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """One container's devices of one resource, by NUMA node (-1: none; in 1.20 these are under 0), and the stored answer."""

    uid: str
    container: str
    resource: str
    devices: dict[int, list[str]]
    grant: Grant


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """kubelet_internal_checkpoint, read with the kubelet's own code. `registered` has the healthy ids."""

    exists: bool
    checksum_ok: bool
    registered: dict[str, list[str]]
    entries: list[CheckpointEntry]

    @classmethod
    def from_json(cls, data: Json) -> Self:
        entries = [
            CheckpointEntry(
                item["uid"],
                item["container"],
                item["resource"],
                {int(node): ids for node, ids in item["devices"].items()},
                Grant.from_json(item["grant"]),
            )
            for item in data["entries"]
        ]
        return cls(data["exists"], data["checksum_ok"], data["registered"], entries)


@dataclass(frozen=True, slots=True)
class ListedDevice:
    """One ContainerDevices message of the pod resources API; `nodes` is None where it has no topology."""

    resource: str
    ids: list[str]
    nodes: list[int] | None


@dataclass(frozen=True, slots=True)
class PodResources:
    """What List and GetAllocatableResources answer; the latter is not in 1.20 (None)."""

    pods: dict[str, dict[str, list[ListedDevice]]]
    """By the pod's name and the container's."""
    allocatable: list[ListedDevice] | None

    @classmethod
    def from_json(cls, data: Json) -> Self:
        def read(items: Sequence[Json]) -> list[ListedDevice]:
            return [ListedDevice(**item) for item in items]

        pods = {pod["name"]: {c["name"]: read(c["devices"]) for c in pod["containers"]} for pod in data["pods"]}
        return cls(pods, None if data["allocatable"] is None else read(data["allocatable"]))


@dataclass(frozen=True, slots=True)
class ResourceHealth:
    """`containers[name][resource][id]` is the device's health in the pod's status; `enabled`: the feature gate is on."""

    enabled: bool
    containers: dict[str, dict[str, dict[str, str]]]
