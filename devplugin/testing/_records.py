"""What the fake kubelet writes down for tests to look at."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType

__all__ = ["Call", "Event", "Records", "Registration", "Resource", "Snapshot"]

# Of many devices so many are shown: a list of thousands would bury what went wrong.
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Registration:
    """A Register call that has been answered.

    Attributes:
        at_s: When, on the kubelet's clock.
        error: The text of the refusal, or None when it was accepted.
        pre_start_required: The option as the kubelet holds it, by now.
        get_preferred_allocation_available: The same.
    """

    resource: str
    endpoint: str
    version: str
    at_s: float
    error: str | None = None
    pre_start_required: bool = False
    get_preferred_allocation_available: bool = False

    def __str__(self) -> str:
        options = [name for name in ("pre_start_required", "get_preferred_allocation_available") if getattr(self, name)]
        outcome = "accepted" if self.error is None else f"refused: {self.error}"
        return ", ".join([f"Registration of {self.resource} on {self.endpoint}: {outcome}", *options])

    def __repr__(self) -> str:
        return f"<{self} (at {self.at_s:.3f} s)>"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Snapshot:
    """One message of a ListAndWatch stream.

    Attributes:
        endpoint: The file name of the plugin's socket.
        devices: The health of each id, as it was sent.
        numa_nodes: The NUMA nodes of each id that has any.
    """

    resource: str
    endpoint: str
    at_s: float
    devices: Mapping[str, str]
    numa_nodes: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def __str__(self) -> str:
        devices = [
            f"{device} {health}{f' NUMA {self.numa_nodes[device]}' if device in self.numa_nodes else ''}"
            for device, health in self.devices.items()
        ]
        return f"Snapshot of {self.resource} on {self.endpoint}: {_some(devices)}"

    def __repr__(self) -> str:
        return f"<{self} (at {self.at_s:.3f} s)>"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Call:
    """One call that the kubelet made on a plugin.

    Attributes:
        method: ``Allocate``, ``GetPreferredAllocation`` or ``PreStartContainer``.
        device_ids: The ids of an Allocate or PreStartContainer request; the answer to GetPreferredAllocation.
        available: The candidates that GetPreferredAllocation was given.
        must_include: The ids that GetPreferredAllocation was told to include.
        size: The number of devices that GetPreferredAllocation was asked for.
        error: The text of the failure, or None.
    """

    method: str
    resource: str
    endpoint: str
    at_s: float
    device_ids: tuple[str, ...] = ()
    available: tuple[str, ...] = ()
    must_include: tuple[str, ...] = ()
    size: int = 0
    error: str | None = None

    def __str__(self) -> str:
        said = f"{self.method} of {self.resource}"
        if self.method == "GetPreferredAllocation":
            said += f", {self.size} of {_some(self.available)}, {_some(self.must_include)} included"
        if self.device_ids or self.error is None:
            said += f": {_some(self.device_ids)}"
        return said if self.error is None else f"{said}: failed: {self.error}"

    def __repr__(self) -> str:
        return f"<{self} (on {self.endpoint} at {self.at_s:.3f} s)>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event of a pod, as ``kubectl describe pod`` shows it."""

    type: str
    reason: str
    message: str
    at_s: float

    def __str__(self) -> str:
        return f"{self.type} {self.reason}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Resource:
    """One resource of the node.

    Attributes:
        capacity: All devices, as in the node's status.
        allocatable: The healthy ones.
        healthy: Their ids.
        unhealthy: The ids of the others.
        allocated: The ids that pods hold.
    """

    capacity: int
    allocatable: int
    healthy: frozenset[str] = frozenset()
    unhealthy: frozenset[str] = frozenset()
    allocated: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        ids = (
            f"{name}={{{_some([*map(repr, sorted(each))])}}}"
            for name in ("healthy", "unhealthy", "allocated")
            if (each := getattr(self, name))
        )
        return f"Resource({', '.join([f'capacity={self.capacity}, allocatable={self.allocatable}', *ids])})"


class Records:
    """Everything that has happened, oldest first.

    Args:
        changed: Called after each new entry.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.registrations: list[Registration] = []
        self.snapshots: list[Snapshot] = []
        self.calls: list[Call] = []
        self.log: list[str] = []
        self._changed = changed

    def __repr__(self) -> str:
        return (
            f"<Records of {len(self.registrations)} registrations, {len(self.snapshots)} snapshots, "
            f"{len(self.calls)} calls>"
        )

    def add(self, record: Registration | Snapshot | Call | str) -> None:
        """Write something down; a text goes to the log."""
        match record:
            case Registration():
                self.registrations.append(record)
            case Snapshot():
                self.snapshots.append(record)
            case Call():
                self.calls.append(record)
            case _:
                self.log.append(record)
        self._changed()


def _some(texts: Collection[str]) -> str:
    """The first of them, and how many there are beside; `none` when there is none."""
    shown = ", ".join(islice(texts, _SHOWN))
    return (f"{shown}, and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else shown) or "none"
