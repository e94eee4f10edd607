"""Accelerators on PCI, and pods that get theirs from as few NUMA nodes as possible, beside their CPUs and memory.

    python examples/04_numa.py

The devices' NUMA nodes let the kubelet's topology manager weigh them, where it has a policy. Where it has none, and among
what it leaves to choose, the plugin says which devices it would take.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

from devplugin import Allocation, Device, DeviceNode, DevicePluginBase, Health, PreferredAllocationRequest, run
from devplugin.policies import aligned
from devplugin.sources import every
from devplugin.topology import numa_nodes_of_pci


class Accelerators(DevicePluginBase):
    resource_name = "example.com/accelerator"

    def __init__(self, sysfs: Path = Path("/sys")) -> None:
        self._sysfs = sysfs

    async def devices(self) -> AsyncIterator[list[Device]]:
        known: dict[str, Device] = {}
        async for _ in every(60.0):
            there = {device.id: device for device in map(self._device, self._sysfs.glob("class/accel/accel*"))}
            known |= there  # one that is gone is unhealthy, not left out: a pod may have it
            yield [known[i] if i in there else replace(known[i], health=Health.UNHEALTHY) for i in sorted(known)]

    def _device(self, node: Path) -> Device:
        address = (node / "device").resolve().name
        path = f"/dev/accel/{node.name}"
        return Device(
            address,  # where it is plugged in: the number of accel<n> may be another one after a reboot
            numa_nodes=numa_nodes_of_pci(address, sysfs=self._sysfs),
            grants=Allocation(device_nodes=[DeviceNode(path, path)]),
        )

    async def preferred_allocation(self, request: PreferredAllocationRequest) -> Sequence[Device]:
        return aligned(request)


if __name__ == "__main__":
    run(Accelerators())
