"""What a plugin says and what it is asked: frozen values, validated when they are built."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic

from devplugin._frozendict import FrozenDict
from devplugin.errors import AllocationError, ConfigurationError

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import TypeVar

    D = TypeVar("D", bound="Device", default="Device")
else:
    from typing import TypeVar

    D = TypeVar("D", bound="Device")

__all__ = ["Allocation", "Device", "DeviceNode", "Health", "Mount", "PreferredAllocationRequest", "check_resource_name"]

_INT64_MAX = 2**63 - 1
# The syntax of a qualified device name in the CDI specification: vendor/class=name; but the library of container runtimes
# panics over a vendor or a class of one character. Compiled by who needs it.
_CDI_NAME = (
    r"[A-Za-z][A-Za-z0-9_.-]*[A-Za-z0-9]"
    r"/[A-Za-z][A-Za-z0-9_.-]*[A-Za-z0-9]"
    r"=[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?"
)
_DNS_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_RESOURCE_PREFIX = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
_RESOURCE_NAME = re.compile(r"(?:[A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
# "requests." + prefix has at most 253 characters: quota names are made of it (the kubelet's IsExtendedResourceName).
_RESOURCE_PREFIX_MAX = 244
_RESOURCE_NAME_MAX = 63


class Health(StrEnum):
    """Whether a device can be given to new containers; on the wire the value is sent as it is."""

    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"


def _refuse(what: str, value: object, rule: str) -> ConfigurationError:
    return ConfigurationError(f"{what} {value!r} is not usable: {rule}")


def _check_text(what: str, value: object) -> str:
    if not isinstance(value, str) or "\0" in value or not _encodes(value):
        raise _refuse(what, value, "it must be a string that UTF-8 can carry, without NUL")
    return value


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_path(what: str, value: object) -> None:
    if not _check_text(what, value).startswith("/"):
        raise _refuse(what, value, "it must be an absolute path")


def _check_items(what: str, items: object, kind: type) -> tuple[object, ...]:
    if items == ():
        return ()
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
        raise _refuse(what, items, f"it must be a sequence of {kind.__name__}")
    found = tuple(items)
    for item in found:
        if not isinstance(item, kind):
            raise _refuse(f"{what} item", item, f"it must be of type {kind.__name__}")
    return found


def _check_mapping(what: str, items: object) -> Mapping[str, str]:
    if isinstance(items, FrozenDict):  # it has been here before
        return items
    if not isinstance(items, Mapping):
        raise _refuse(what, items, "it must map names to strings")
    for name, value in items.items():
        if not _check_text(f"{what} name", name):
            raise _refuse(f"{what} name", name, "it must not be empty")
        _check_text(f"{what} value of {name!r}:", value)
    return FrozenDict(items)


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path that is mounted into the container.

    Args:
        container_path: Where the container sees it: absolute.
        host_path: What it sees there: absolute.
        read_only: Whether the container may not write to it.

    Raises:
        ConfigurationError: A path is not absolute, or ``read_only`` is no bool.
    """

    container_path: str
    host_path: str
    read_only: bool = False

    def __post_init__(self) -> None:
        _check_path("host path", self.host_path)
        _check_path("container path", self.container_path)
        if not isinstance(self.read_only, bool):  # "rw" would be true
            raise _refuse("read_only", self.read_only, "it must be True or False")


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device node that the container may open.

    Args:
        container_path: Where the container sees it: absolute.
        host_path: The node on the host: absolute.
        permissions: Some of ``r`` (read), ``w`` (write) and ``m`` (mknod), each at most once.

    Raises:
        ConfigurationError: A path is not absolute, or the permissions are others.
    """

    container_path: str
    host_path: str
    permissions: str = "rw"

    def __post_init__(self) -> None:
        _check_path("host path", self.host_path)
        _check_path("container path", self.container_path)
        letters = self.permissions
        if (
            not isinstance(letters, str)
            or not letters
            or len(set(letters)) < len(letters)
            or not set(letters) <= {*"rwm"}
        ):
            raise _refuse("permissions", letters, "they must be some of r, w and m, each at most once")


def _check_places(what: str, items: Sequence[Mount | DeviceNode]) -> None:
    found: dict[str, Mount | DeviceNode] = {}
    for item in items:
        if found.setdefault(item.container_path, item) != item:
            raise _refuse(what, items, f"the container path {item.container_path} can have only one of them")


_EMPTY: Mapping[str, str] = FrozenDict()


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What a container is given: the answer to Allocate for one container.

    The kubelet stores it on disk for the life of the pod, and uses it again when the container restarts: put no secrets
    here.

    Args:
        env: Environment variables.
        mounts: Host paths.
        device_nodes: Device nodes.
        annotations: What the container runtime is told, for runtimes with hooks.
        cdi_devices: Fully qualified CDI names, ``vendor/class=name`` (kubelets from 1.29 on resolve them by default).

    Raises:
        ConfigurationError: A name or a value cannot reach the container, or two mounts or two device nodes would be at one
            place in it.
    """

    env: Mapping[str, str] = _EMPTY
    mounts: Sequence[Mount] = ()
    device_nodes: Sequence[DeviceNode] = ()
    annotations: Mapping[str, str] = _EMPTY
    cdi_devices: Sequence[str] = ()

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "env", _check_mapping("environment", self.env))
        for name in self.env:
            if "=" in name:
                raise _refuse("environment name", name, "a container runtime accepts no '=' in it")
        put(self, "mounts", _check_items("mounts", self.mounts, Mount))
        put(self, "device_nodes", _check_items("device nodes", self.device_nodes, DeviceNode))
        _check_places("mounts", self.mounts)
        _check_places("device nodes", self.device_nodes)
        put(self, "annotations", _check_mapping("annotation", self.annotations))
        put(self, "cdi_devices", _check_items("CDI devices", self.cdi_devices, str))
        for name in self.cdi_devices:
            if not re.fullmatch(_CDI_NAME, name):
                raise _refuse(
                    "CDI device",
                    name,
                    "it must be of the form vendor/class=name, vendor and class with two characters or more",
                )

    def __repr__(self) -> str:
        shown = [f"{name}={value!r}" for name in self.__slots__ if (value := getattr(self, name))]
        return f"Allocation({', '.join(shown)})"


_NOTHING = Allocation()


@dataclass(frozen=True, slots=True)
class Device:
    """One device of a snapshot. Subclass it (``@dataclass(frozen=True, slots=True)``) to carry what your hooks need.

    A ``__post_init__`` of yours calls ``Device.__post_init__(self)``, which holds the rules below.

    Args:
        id: Its name for the kubelet: printable ASCII without spaces, and at most 63 characters by the API's comment, though
            no kubelet enforces that. Keep it the same over restarts, and different from all other ids on the node.
        health: Whether new containers may get it.
        numa_nodes: The NUMA nodes that it is close to, each 0 or more; none when that is not known.
        grants: What a container that gets this device is given, unless ``allocate`` is overridden.

    Raises:
        ConfigurationError: A value breaks its rule.
    """

    id: str
    health: Health = field(default=Health.HEALTHY, kw_only=True)
    numa_nodes: Sequence[int] = field(default=(), kw_only=True)
    grants: Allocation = field(default=_NOTHING, kw_only=True)

    def __post_init__(self) -> None:
        text = self.id
        if not (isinstance(text, str) and text.isascii() and text.isprintable() and " " not in text and text):
            raise _refuse("device id", text, "it must be printable ASCII without spaces, and not empty")
        if self.health.__class__ is not Health:
            raise _refuse("health", self.health, "it must be Health.HEALTHY or Health.UNHEALTHY")
        if self.numa_nodes != ():
            object.__setattr__(self, "numa_nodes", _check_items("NUMA nodes", self.numa_nodes, int))
            for node in self.numa_nodes:
                if not 0 <= node <= _INT64_MAX or isinstance(node, bool):
                    raise _refuse(
                        "NUMA node", node, "it must be a number from 0 to 2**63 - 1; give none when it is not known"
                    )
        if not isinstance(self.grants, Allocation):
            raise _refuse("grants", self.grants, "it must be an Allocation")

    @classmethod
    def at(
        cls,
        path: str,
        *,
        container_path: str | None = None,
        permissions: str = "rw",
        health: Health = Health.HEALTHY,
        numa_nodes: Sequence[int] = (),
        **fields: Any,
    ) -> "Self":
        """The device behind one device node, which is also what it grants.

        Its id is the path without ``/dev/``, a further ``/`` written as ``-``.

        Args:
            path: The node on the host: absolute.
            container_path: Where the container sees it; the same path when not given.
            permissions: Some of ``r``, ``w`` and ``m``.
            health: As in the class.
            numa_nodes: As in the class.
            fields: Those of a subclass.

        Raises:
            ConfigurationError: A path or a permission breaks its rule.
        """
        node = DeviceNode(path if container_path is None else container_path, path, permissions)
        device_id = path.removeprefix("/dev/").strip("/").replace("/", "-")
        return cls(device_id, health=health, numa_nodes=numa_nodes, grants=Allocation(device_nodes=[node]), **fields)


@dataclass(frozen=True, slots=True)
class PreferredAllocationRequest(Generic[D]):
    """What ``preferred_allocation`` is asked for one container.

    Args:
        available: The devices to choose from, those of ``must_include`` among them.
        must_include: The devices that are chosen already.
        size: How many devices the answer should have, those of ``must_include`` counted.
    """

    available: Sequence[D]
    must_include: Sequence[D]
    size: int


def check_resource_name(name: object) -> str:
    """``name``, when every kubelet accepts it as an extended resource (its ``IsExtendedResourceName``).

    Raises:
        ConfigurationError: A kubelet would refuse to register it.
    """
    if not isinstance(name, str) or name.count("/") != 1:
        raise _refuse("resource name", name, "it must be a string of the form vendor-domain/resource")
    prefix, _, rest = name.partition("/")
    if "kubernetes.io/" in name or name.startswith("requests."):
        raise _refuse("resource name", name, "kubernetes.io and names that start with 'requests.' are reserved")
    if len(prefix) > _RESOURCE_PREFIX_MAX or not _RESOURCE_PREFIX.fullmatch(prefix):
        raise _refuse(
            "resource name",
            name,
            f"the part before '/' must be a lower-case DNS subdomain of at most {_RESOURCE_PREFIX_MAX} characters",
        )
    if len(rest) > _RESOURCE_NAME_MAX or not _RESOURCE_NAME.fullmatch(rest):
        raise _refuse(
            "resource name",
            name,
            f"the part after '/' must be at most {_RESOURCE_NAME_MAX} letters, digits, '-', '_' or '.', "
            "with a letter or digit first and last",
        )
    return name


def merge_grants(devices: Iterable[Device]) -> Allocation:
    """What the devices grant, together: the answer of the default ``allocate``.

    Raises:
        AllocationError: Two devices grant the same variable, path, annotation or node differently.
    """
    origin: dict[tuple[str, str], Device] = {}
    merged: dict[str, dict[str, Any]] = {kind: {} for kind in _KINDS}
    for device in devices:
        for kind, granted in _granted(device.grants):
            for name, value in granted.items():
                if merged[kind].setdefault(name, value) != value:
                    first = origin[kind, name]
                    raise AllocationError(
                        f"Devices {first.id} and {device.id} cannot go to one container: they set {kind} {name} differently"
                    )
                origin.setdefault((kind, name), device)
    env, mounts, nodes, annotations, cdi = merged.values()
    return Allocation(
        env=env, mounts=[*mounts.values()], device_nodes=[*nodes.values()], annotations=annotations, cdi_devices=[*cdi]
    )


_KINDS = ("environment variable", "mount", "device node", "annotation", "CDI device")


def _granted(grants: Allocation) -> Iterable[tuple[str, Mapping[str, object]]]:
    """What is granted, of each kind, by the name that only one can have in a container."""
    return zip(
        _KINDS,
        (
            grants.env,
            {mount.container_path: mount for mount in grants.mounts},
            {node.container_path: node for node in grants.device_nodes},
            grants.annotations,
            dict.fromkeys(grants.cdi_devices),
        ),
        strict=True,
    )
