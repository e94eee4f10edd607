"""Whether sysfs knows more of a device's place than its plugin says."""

from collections.abc import Iterator
from pathlib import Path

from devplugin._proto.v1beta1 import ContainerAllocateResponse
from devplugin.errors import ConfigurationError
from devplugin.testing._check._answers import on_host
from devplugin.testing._check._lists import Breach

__all__ = ["missing_topology"]


def missing_topology(device: str, answer: ContainerAllocateResponse, host_root: Path) -> Iterator[Breach]:
    """DP210 for a device that names no NUMA nodes; not on a machine that has but one, where it would change nothing.

    Args:
        device: Its id, which may be a PCI address.
        answer: What a container with it is given: its device nodes are looked at.
        host_root: Where the node's file system is to be seen.
    """
    sysfs = host_root / "sys"
    if len([*(sysfs / "devices/system/node").glob("node[0-9]*")]) < 2:
        return
    for what, nodes in _known(device, answer, host_root, sysfs):
        if nodes:
            yield "DP210", f"it names no NUMA nodes, and sysfs says {', '.join(map(str, nodes))} of {what}"
            return


def _known(
    device: str, answer: ContainerAllocateResponse, host_root: Path, sysfs: Path
) -> Iterator[tuple[str, tuple[int, ...]]]:
    from devplugin.topology import numa_nodes_of_path, numa_nodes_of_pci  # noqa: PLC0415  (only where there are nodes)

    for node in answer.devices:
        try:
            yield node.host_path, numa_nodes_of_path(on_host(node.host_path, host_root), sysfs=sysfs)
        except ConfigurationError:  # it is no device: another rule's
            continue
    try:
        yield device, numa_nodes_of_pci(device, sysfs=sysfs)
    except ConfigurationError:  # it is no PCI address: few ids are
        return
