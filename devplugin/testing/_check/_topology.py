"""Whether this machine knows more of a device's place than its plugin says."""

from collections.abc import Iterator
from pathlib import Path

from devplugin._proto.v1beta1 import ContainerAllocateResponse
from devplugin.testing._check._lists import Breach

__all__ = ["missing_topology"]


def missing_topology(answer: ContainerAllocateResponse, host_root: Path) -> Iterator[Breach]:
    """DP210 for a device that names no NUMA nodes."""
    yield from ()
    del answer, host_root
