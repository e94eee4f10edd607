"""CDI spec files: what a container gets with a device, said to the container runtime.

Allocate can then answer with names (``Allocation(cdi_devices=…)``), and the runtime does what plain answers cannot say:
hooks, groups, network interfaces. The types are those of the Container Device Interface specification 1.1.0, with its rules
and those of the library that containerd and CRI-O read the files with (tags.cncf.io/container-device-interface): a file that
it refuses is a ``ConfigurationError`` here. A spec says the lowest version that its content needs, so that older runtimes
read it as well.
"""

import logging
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import devplugin.model
from devplugin._cdirules import (
    HOOKS,
    INT64_MAX,
    UINT32_MAX,
    check_device_name,
    check_kind,
    check_not_empty,
    check_number,
    set_annotations,
    set_environment,
    set_items,
    to_json,
)
from devplugin._frozendict import FrozenDict
from devplugin._ownedfile import OwnedFile
from devplugin.errors import AllocationError
from devplugin.model import Allocation, _check_path, _check_text, _refuse

__all__ = [
    "CDI_DIRECTORY",
    "ContainerEdits",
    "Device",
    "DeviceNode",
    "Hook",
    "IntelRdt",
    "Mount",
    "NetDevice",
    "Spec",
    "SpecFile",
    "qualified_name",
]

log = logging.getLogger("devplugin.cdi")

# Where runtimes look for specs that are made while the node runs, beside /etc/cdi.
CDI_DIRECTORY = "/var/run/cdi"

_EMPTY: Mapping[str, str] = FrozenDict()
# A file name has 255 bytes at most, and the class is in it too.
_VENDOR_IN_FILE_MAX = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNode:
    """A device node in the container. What is not given is read from the host's node when the container is made.

    Args:
        path: Where the container sees it: absolute.
        host_path: The node on the host; the same path when not given.
        type: ``b`` (block), ``c`` or ``u`` (character) or ``p`` (FIFO).
        major: The device's major number.
        minor: The device's minor number.
        file_mode: The node's permission bits.
        permissions: What the container may do: some of ``r``, ``w`` and ``m``; all of them when not given.
        uid: The owner, as the container numbers users.
        gid: The group, as the container numbers groups.

    Raises:
        ConfigurationError: A value breaks its rule.
    """

    path: str
    host_path: str | None = None
    type: str = ""
    major: int | None = None
    minor: int | None = None
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None

    def __post_init__(self) -> None:
        _check_path("device node path", self.path)
        if self.host_path is not None:
            _check_path("device node host path", self.host_path)
        if self.type not in ("", "b", "c", "u", "p"):
            raise _refuse("device node type", self.type, "it must be b, c, u or p")
        if self.permissions:
            devplugin.model.DeviceNode(self.path, self.path, self.permissions)  # has the same rule
        for name in ("major", "minor"):
            if (number := getattr(self, name)) is not None:
                check_number(f"device node {name}", number, 0, INT64_MAX)
        for name in ("file_mode", "uid", "gid"):
            if (number := getattr(self, name)) is not None:
                check_number(f"device node {name}", number, 0, UINT32_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A mount in the container.

    Args:
        host_path: What is mounted: a path of the host, or what the file system of that type takes instead.
        container_path: Where the container sees it: absolute.
        options: Mount options, such as ``rbind``, ``ro`` and ``nosuid``.
        type: The file system's type, for what is no bind mount.

    Raises:
        ConfigurationError: A value breaks its rule.
    """

    host_path: str
    container_path: str
    options: Sequence[str] = ()
    type: str = ""

    def __post_init__(self) -> None:
        check_not_empty("mount host path", self.host_path)
        _check_path("mount container path", self.container_path)
        set_items(self, "options", str)
        _check_text("mount type", self.type)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A program of the host that the runtime runs.

    Args:
        hook_name: When: ``createRuntime``, ``createContainer``, ``startContainer``, ``poststart`` or ``poststop`` (and
            ``prestart``, which the OCI runtime specification deprecates).
        path: The program: absolute.
        args: All its arguments, the first one being its own name.
        env: Its environment.
        timeout_s: After how many seconds it is stopped: 1 or more; it is waited for when not given.

    Raises:
        ConfigurationError: A value breaks its rule.
    """

    hook_name: str
    path: str
    args: Sequence[str] = ()
    env: Mapping[str, str] = _EMPTY
    timeout_s: int | None = None

    def __post_init__(self) -> None:
        if self.hook_name not in HOOKS:
            raise _refuse("hook name", self.hook_name, f"it must be one of {', '.join(HOOKS)}")
        _check_path("hook path", self.path)
        set_items(self, "args", str)
        set_environment(self, self.env)
        if self.timeout_s is not None:
            check_number("hook timeout_s", self.timeout_s, 1, UINT32_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntelRdt:
    """The container's place in Linux' resctrl.

    Args:
        clos_id: The name of the class of service: a file name, or ``/`` for the root's.
        l3_cache_schema: The schema of the L3 cache.
        mem_bw_schema: The schema of the memory bandwidth.
        schemata: Lines of schemata (CDI 1.1.0).
        enable_monitoring: Whether the container has a monitoring group of its own (CDI 1.1.0).

    Raises:
        ConfigurationError: A value breaks its rule.
    """

    clos_id: str = ""
    l3_cache_schema: str = ""
    mem_bw_schema: str = ""
    schemata: Sequence[str] = ()
    enable_monitoring: bool = False

    def __post_init__(self) -> None:
        for name in ("clos_id", "l3_cache_schema", "mem_bw_schema"):
            _check_text(name, getattr(self, name))
        clos = self.clos_id
        if clos != "/" and (clos in (".", "..") or "/" in clos or "\n" in clos or len(clos.encode()) >= 4096):
            raise _refuse("clos_id", clos, "it must be a file name, or '/'")
        set_items(self, "schemata", str)
        if not isinstance(self.enable_monitoring, bool):
            raise _refuse("enable_monitoring", self.enable_monitoring, "it must be True or False")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetDevice:
    """A network interface that moves from the host into the container (CDI 1.1.0).

    Args:
        host_interface_name: Its name on the host.
        name: Its name in the container.

    Raises:
        ConfigurationError: A name is empty.
    """

    host_interface_name: str
    name: str

    def __post_init__(self) -> None:
        check_not_empty("network interface", self.host_interface_name)
        check_not_empty("network interface", self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerEdits:
    """What a container gets.

    Args:
        env: Environment variables.
        device_nodes: Device nodes.
        net_devices: Network interfaces.
        hooks: Programs that the runtime runs.
        mounts: Mounts.
        intel_rdt: Its place in resctrl.
        additional_gids: Groups that its process is in, each 1 or more.

    Raises:
        ConfigurationError: A value breaks its rule.
    """

    env: Mapping[str, str] = _EMPTY
    device_nodes: Sequence[DeviceNode] = ()
    net_devices: Sequence[NetDevice] = ()
    hooks: Sequence[Hook] = ()
    mounts: Sequence[Mount] = ()
    intel_rdt: IntelRdt | None = None
    additional_gids: Sequence[int] = ()

    def __post_init__(self) -> None:
        set_environment(self, self.env)
        kinds = {"device_nodes": DeviceNode, "net_devices": NetDevice, "hooks": Hook, "mounts": Mount}
        for name, kind in (kinds | {"additional_gids": int}).items():
            set_items(self, name, kind)
        for gid in self.additional_gids:
            check_number("additional gid", gid, 1, UINT32_MAX)  # a runtime ignores 0
        if self.intel_rdt is not None and not isinstance(self.intel_rdt, IntelRdt):
            raise _refuse("intel_rdt", self.intel_rdt, "it must be an IntelRdt")
        for names in ([d.host_interface_name for d in self.net_devices], [d.name for d in self.net_devices]):
            if len(set(names)) < len(names):
                raise _refuse("network interfaces", names, "each can be there once")

    def __bool__(self) -> bool:
        return self != _NO_EDITS

    @classmethod
    def of(cls, allocation: Allocation) -> Self:
        """What an answer to Allocate grants, said to the runtime instead.

        Raises:
            ConfigurationError: It has annotations or CDI names, which a spec cannot carry.
        """
        if allocation.annotations or allocation.cdi_devices:
            raise _refuse("allocation", allocation, "annotations and CDI names stay in the answer of allocate()")
        return cls(
            env=allocation.env,
            device_nodes=[
                DeviceNode(
                    path=node.container_path,
                    host_path=None if node.host_path == node.container_path else node.host_path,
                    permissions=node.permissions,
                )
                for node in allocation.device_nodes
            ],
            mounts=[
                Mount(
                    host_path=mount.host_path,
                    container_path=mount.container_path,
                    options=["rbind", "rprivate", "ro" if mount.read_only else "rw"],  # as for a kubelet's mount
                )
                for mount in allocation.mounts
            ],
        )


_NO_EDITS = ContainerEdits()


@dataclass(frozen=True, slots=True)
class Device:
    """A device of a spec.

    Args:
        name: Letters, digits, ``_``, ``-``, ``.`` and ``:``, with a letter or digit first and last.
        edits: What a container with this device gets: something.
        annotations: What tools may want to know of it; no container gets them.

    Raises:
        ConfigurationError: A value breaks its rule.
    """

    name: str
    edits: ContainerEdits
    annotations: Mapping[str, str] = _EMPTY

    def __post_init__(self) -> None:
        check_device_name(self.name)
        if not isinstance(self.edits, ContainerEdits) or not self.edits:
            raise _refuse(f"edits of the CDI device {self.name}", self.edits, "a runtime refuses a device without any")
        set_annotations(self, self.annotations)

    @classmethod
    def granting(cls, device: devplugin.model.Device) -> Self:
        """The device of the spec that gives a container what a plugin's device grants, under that device's id."""
        return cls(device.id, ContainerEdits.of(device.grants))


@dataclass(frozen=True, slots=True)
class Spec:
    """A spec: devices of one kind.

    Args:
        kind: ``vendor/class``: a resource's name is one, as long as both of its parts have two characters or more and begin
            with a letter.
        devices: One or more, with different names.
        edits: What a container gets with any of them, once.
        annotations: What tools may want to know of it; no container gets them.

    Raises:
        ConfigurationError: A value breaks its rule.
    """

    kind: str
    devices: Sequence[Device]
    edits: ContainerEdits = _NO_EDITS
    annotations: Mapping[str, str] = _EMPTY

    def __post_init__(self) -> None:
        check_kind(self.kind)
        set_items(self, "devices", Device)
        names = [device.name for device in self.devices]
        if not names:
            raise _refuse("devices of a CDI spec", names, "a runtime refuses a spec without any")
        if twice := {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ():
            raise _refuse("devices of a CDI spec", sorted(twice), "names must differ")
        if not isinstance(self.edits, ContainerEdits):
            raise _refuse("edits", self.edits, "they must be ContainerEdits")
        set_annotations(self, self.annotations)

    @property
    def version(self) -> str:
        """The lowest version of CDI that has all that is in it, from 0.3.0 to 1.1.0."""
        edits = [self.edits, *(device.edits for device in self.devices)]
        rdt = [each.intel_rdt for each in edits if each.intel_rdt]
        nodes = [node for each in edits for node in each.device_nodes]
        mounts = [mount for each in edits for mount in each.mounts]
        needs = {
            "1.1.0": any(each.net_devices for each in edits) or any(r.schemata or r.enable_monitoring for r in rdt),
            "0.7.0": rdt or any(each.additional_gids for each in edits),
            "0.6.0": self.annotations or any(d.annotations for d in self.devices) or "." in self.kind.partition("/")[2],
            "0.5.0": any(node.host_path for node in nodes) or any(device.name[0].isdigit() for device in self.devices),
            "0.4.0": any(mount.type for mount in mounts),
        }
        return next((version for version, is_needed in needs.items() if is_needed), "0.3.0")

    def to_json(self) -> str:
        """The text of its file."""
        return to_json(self.version, self)


def qualified_name(kind: str, name: str) -> str:
    """The name of a device in the answer to Allocate: ``vendor/class=name``."""
    return f"{kind}={name}"


class SpecFile:
    """The file of one kind of devices, for the time of a ``with`` statement, whose end removes it.

    The path is made of the kind, ``vendor_class.json``, so that a start after a ``kill -9`` finds and replaces what was left.
    Of two living instances of a plugin the one that came last has the file; the other one's ``write()`` does nothing then,
    and brings the file back when the newer instance has gone.

    Args:
        kind: ``vendor/class``: most often the resource's name; see ``Spec``.
        edits: What a container gets with any of the devices, once.
        annotations: What tools may want to know of the spec.
        directory: The host's directory for specs, which is made when it is missing.

    Raises:
        ConfigurationError: A value breaks its rule, or, from the methods, the system does not let the plugin write there.
    """

    def __init__(
        self,
        kind: str,
        *,
        edits: ContainerEdits = _NO_EDITS,
        annotations: Mapping[str, str] = _EMPTY,
        directory: str | os.PathLike[str] = CDI_DIRECTORY,
    ) -> None:
        self.kind = check_kind(kind)
        self._edits = edits
        self._annotations = annotations
        self._file = OwnedFile(Path(directory) / _file_name(kind))
        self._spec: Spec | None = None
        self._names: frozenset[str] | None = None  # of the last list; None before the first

    def __repr__(self) -> str:
        return f"SpecFile({str(self.path)!r}, {len(self._spec.devices) if self._spec else 0} devices)"

    @property
    def path(self) -> Path:
        """The file, which is there while there are devices."""
        return self._file.path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.end()
        self._spec = self._names = None

    def write(self, devices: Iterable[Device]) -> None:
        """Let these be the devices of the kind: all there are, as a list that ``devices()`` yields.

        The file is written when it says something else, or is not there any more. Without devices there is none.

        Raises:
            ConfigurationError: Two have one name, or the system does not let the plugin write.
        """
        listed, last = tuple(devices), self._spec
        self._spec = Spec(self.kind, listed, self._edits, self._annotations) if listed else None
        self._names = frozenset(device.name for device in listed)
        if self._spec is None:
            self._file.remove()
        elif self._spec != last or not self._file.is_there():
            self._write(self._spec)

    def _write(self, spec: Spec) -> None:
        if self._file.write(spec.to_json().encode()):
            log.info("%s: %d devices, CDI %s", self.path, len(spec.devices), spec.version)
        else:
            log.info("%s is written by a newer instance of this plugin, and left alone", self.path)

    def names(self, devices: Iterable[devplugin.model.Device | str]) -> list[str]:
        """What ``allocate`` answers for these devices: the qualified names of their ids, or of names of the spec.

        The file is brought back first when it has gone since.

        Raises:
            AllocationError: The last list that was written has no such device.
        """
        names = [device if isinstance(device, str) else device.id for device in devices]
        if self._names is not None and (unknown := {*names} - self._names):
            raise AllocationError(f"{self.kind} has no CDI device {', '.join(sorted(unknown))} on this node any more")
        if self._spec is not None:
            self.write(self._spec.devices)
        return [qualified_name(self.kind, name) for name in names]


def _file_name(kind: str) -> str:
    """No vendor has a ``_``, so no two kinds share a file; and none is another tool's, since those are ``vendor-class``."""
    vendor, _, kind_class = kind.partition("/")
    if len(vendor) > _VENDOR_IN_FILE_MAX:
        vendor = f"{vendor[:_VENDOR_IN_FILE_MAX]}-{zlib.crc32(vendor.encode()):08x}"
    return f"{vendor}_{kind_class}.json"
