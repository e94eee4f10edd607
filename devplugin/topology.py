"""NUMA nodes of devices, as sysfs knows them: for ``Device(numa_nodes=…)``.

Each function answers a sorted tuple, empty when the node is not known: the kernel says -1, or nothing, on a machine with one
node, for a virtual device, and where the firmware does not tell.

A device that is not there has no known node either. That is no error, because a device can go between the moment when
``devices()`` has found it and the question here, and an error would end the plugin over it; the next look leaves the device
out. A name that no device can have is an error.

What a virtual block device or network interface stands on counts instead (``slaves`` of a device-mapper or RAID device, the
lower devices of a bond or a VLAN), and the devices of its group for a VFIO group.

All take ``sysfs``: where sysfs is mounted. In a pod that is ``/sys`` as everywhere, but for network interfaces: sysfs shows
those of the network namespace that it was mounted in.
"""

import os
import re
import stat
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from devplugin.errors import ConfigurationError

__all__ = ["numa_nodes_of_cpus", "numa_nodes_of_interface", "numa_nodes_of_path", "numa_nodes_of_pci"]

_Path = str | os.PathLike[str]

# domain:bus:device.function. NVML writes eight digits of domain, lspci none where it is 0.
_PCI = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.IGNORECASE)
# dev_valid_name() of net/core/dev.c.
_INTERFACE = re.compile(r"(?!\.{1,2}$)[^\s/:\0]{1,15}")
_CPUS = re.compile(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?")
_NODE = re.compile(r"node([0-9]+)")


def numa_nodes_of_pci(address: str, *, sysfs: _Path = "/sys") -> tuple[int, ...]:
    """The NUMA node of a PCI device or function.

    Args:
        address: Such as ``0000:3b:00.0``; as ``lspci`` (``3b:00.0``) and NVML (``00000000:3B:00.0``) write it, too.
        sysfs: Where sysfs is mounted.

    Raises:
        ConfigurationError: It is no PCI address, or there is no sysfs.
    """
    found = _PCI.fullmatch(address) if isinstance(address, str) else None
    if not found:
        raise ConfigurationError(f"PCI address {address!r} is not usable: it must be of the form 0000:3b:00.0")
    domain, bus, device, function = found.groups(default="0")
    name = f"{int(domain, 16):04x}:{bus}:{device}.{function}".lower()
    return _nodes_of(_root(sysfs), f"bus/pci/devices/{name}")


def numa_nodes_of_path(path: _Path, *, sysfs: _Path = "/sys") -> tuple[int, ...]:
    """The NUMA nodes of the device behind a device node: a disk or its partition, a serial port, a GPU, a VFIO group.

    Some drivers, NVIDIA's among them, do not tell sysfs of their device nodes: ask for the PCI address there.

    Args:
        path: The node, such as ``/dev/nvme0n1``; symbolic links are followed.
        sysfs: Where sysfs is mounted.

    Raises:
        ConfigurationError: What is there is no block or character device, or there is no sysfs.
    """
    root = _root(sysfs)
    try:
        node = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    if not stat.S_ISBLK(node.st_mode) and not stat.S_ISCHR(node.st_mode):
        raise ConfigurationError(f"{os.fspath(path)} is not usable: it must be a block or character device")
    kind = "block" if stat.S_ISBLK(node.st_mode) else "char"
    return _nodes_of(root, f"dev/{kind}/{os.major(node.st_rdev)}:{os.minor(node.st_rdev)}")


def numa_nodes_of_interface(name: str, *, sysfs: _Path = "/sys") -> tuple[int, ...]:
    """The NUMA nodes of a network interface.

    Args:
        name: Such as ``eth0``.
        sysfs: Where sysfs is mounted; it shows the interfaces of the network namespace that it was mounted in.

    Raises:
        ConfigurationError: It is no interface name, or there is no sysfs.
    """
    if not isinstance(name, str) or not _INTERFACE.fullmatch(name):
        raise ConfigurationError(
            f"interface {name!r} is not usable: it must be a name of at most 15 characters without '/', ':' and spaces"
        )
    return _nodes_of(_root(sysfs), f"class/net/{name}")


def numa_nodes_of_cpus(cpus: str, *, sysfs: _Path = "/sys") -> tuple[int, ...]:
    """The NUMA nodes of a list of CPUs; a CPU that is offline or not there has none.

    Args:
        cpus: As the kernel writes lists, such as ``0-3,8`` in a ``local_cpulist``; empty for no CPU.
        sysfs: Where sysfs is mounted.

    Raises:
        ConfigurationError: It is no list of CPUs, or there is no sysfs.
    """
    wanted = _ranges(cpus)
    nodes = []
    for directory in (_root(sysfs) / "devices/system/node").glob("node*"):
        number = _NODE.fullmatch(directory.name)
        if number and _meet(wanted, _ranges(_read(directory / "cpulist"))):
            nodes.append(int(number[1]))
    return tuple(sorted(nodes))


def _root(sysfs: _Path) -> Path:
    root = Path(sysfs).resolve()
    if not root.is_dir():  # or every device would be unknown, and nobody would know why
        raise ConfigurationError(f"there is no sysfs at {os.fspath(sysfs)}")
    return root


def _nodes_of(root: Path, name: str) -> tuple[int, ...]:
    return tuple(sorted(set(_nodes(root, (root / name).resolve()))))


def _nodes(root: Path, device: Path) -> Iterator[int]:
    """The node of the device, or of the nearest device above it that has one, or of those that it stands on."""
    for place in takewhile(lambda place: place != root, (device, *device.parents)):
        node = _read(place / "numa_node")
        if node.isdecimal():  # -1 is unknown
            yield int(node)
            return
    for lower in _lower_devices(root, device):
        yield from _nodes(root, lower)


def _lower_devices(root: Path, device: Path) -> Iterator[Path]:
    """The devices that a virtual one stands on."""
    for pattern in ("slaves/*", "lower_*"):
        yield from (entry.resolve() for entry in sorted(device.glob(pattern)))
    if device.parent == root / "devices/virtual/vfio":
        group = root / "kernel/iommu_groups" / device.name / "devices"
        yield from (entry.resolve() for entry in sorted(group.glob("*")))


def _read(path: Path) -> str:
    """What an attribute says; nothing when it is not there."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _ranges(cpus: str) -> list[tuple[int, int]]:
    """The first and the last CPU of each range."""
    if not isinstance(cpus, str):
        raise ConfigurationError(f"CPU list {cpus!r} is not usable: it must be a string of the form 0-3,8")
    ranges = []
    for part in cpus.split(",") if cpus.strip() else ():
        found = _CPUS.fullmatch(part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise ConfigurationError(f"CPU list {cpus!r} is not usable: it must be of the form 0-3,8")
        ranges.append((first, last))
    return ranges


def _meet(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> bool:
    return any(
        first <= last_other and first_other <= last for first, last in some for first_other, last_other in others
    )
