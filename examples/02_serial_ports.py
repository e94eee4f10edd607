"""Serial ports that are plugged in and out, under the names that udev makes of vendor, product and serial number.

    python examples/02_serial_ports.py

A pod keeps its port's id wherever the port is plugged in. One that is unplugged is unhealthy, not forgotten.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from devplugin import Allocation, AllocationError, Device, DeviceNode, DevicePluginBase, Health, run
from devplugin.sources import changes_in


@dataclass(frozen=True, slots=True)
class Port(Device):
    link: Path


class SerialPorts(DevicePluginBase[Port]):
    resource_name = "example.com/serial"

    def __init__(self, directory: Path = Path("/dev/serial/by-id")) -> None:
        self._directory = directory

    async def devices(self) -> AsyncIterator[list[Port]]:
        known: set[Path] = set()
        async for _ in changes_in(self._directory, at_least_every_s=30.0):
            there = {*self._directory.glob("*")}
            known |= there
            yield [
                Port(link.name, link, health=Health.HEALTHY if link in there else Health.UNHEALTHY)
                for link in sorted(known)
            ]

    async def allocate(self, devices: Sequence[Port]) -> Allocation:
        nodes = []
        for n, port in enumerate(devices):
            if not port.link.exists():
                raise AllocationError(f"Serial port {port.id} has just been unplugged")
            nodes.append(DeviceNode(f"/dev/serial{n}", str(port.link.resolve())))
        return Allocation(device_nodes=nodes, env={"SERIAL_PORTS": str(len(nodes))})


if __name__ == "__main__":
    run(SerialPorts())
