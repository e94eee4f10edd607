"""The plugin of the benchmarks on devplugin: ``python devplugin_plugin.py KUBELET_DIR PREFIX RESOURCES DEVICES [quiet]``.

The resources are named PREFIX and a number.

Lines on standard input drive the first resource. ``prepare one``, ``prepare all`` and ``prepare same`` make the next list,
with the last device changed, with all but the first changed, or with new objects that are equal; ``change`` yields it;
``flap`` is ``prepare one`` and ``change``. What is prepared is the author's work, and answered by a line.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Sequence

from devplugin import Allocation, Device, DeviceNode, DevicePluginBase, Health, run


class BenchmarkPlugin(DevicePluginBase):
    def __init__(self, resource_name: str, count: int, *, driven: bool) -> None:
        self.resource_name = resource_name
        self.driven = driven
        self.list = [Device(f"device-{n:09}") for n in range(count)]
        self.next = self.list
        self.changed = asyncio.Event()

    async def devices(self) -> AsyncIterator[list[Device]]:
        if self.driven:
            asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self.obey)
        while True:
            self.changed.clear()
            yield self.list
            await self.changed.wait()

    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        return Allocation(
            env={"DEVICES": ",".join(device.id for device in devices)},
            device_nodes=[DeviceNode(f"/dev/{device.id}", f"/dev/{device.id}") for device in devices],
        )

    def prepare(self, what: str) -> None:
        if what == "one":
            self.next = [*self.list[:-1], flipped(self.list[-1])]
        elif what == "all":
            self.next = [*self.list[:1], *map(flipped, self.list[1:])]
        else:
            self.next = [Device(device.id, health=device.health) for device in self.list]

    def change(self) -> None:
        self.list = self.next
        self.changed.set()

    def obey(self) -> None:
        match sys.stdin.readline().split():
            case ["prepare", what]:
                self.prepare(what)
                print("prepared", flush=True)
            case ["change"]:
                self.change()
            case ["flap"]:
                self.prepare("one")
                self.change()
            case _:
                asyncio.get_running_loop().remove_reader(sys.stdin.fileno())


def flipped(device: Device) -> Device:
    return Device(device.id, health=Health.UNHEALTHY if device.health is Health.HEALTHY else Health.HEALTHY)


def plugins(prefix: str, resources: int, devices: int) -> list[BenchmarkPlugin]:
    return [BenchmarkPlugin(f"{prefix}{n:03}", devices, driven=n == 0) for n in range(resources)]


def main() -> None:
    directory, prefix, resources, devices, *quiet = sys.argv[1:]
    if quiet:
        logging.getLogger("devplugin").setLevel(logging.WARNING)
    run(*plugins(prefix, int(resources), int(devices)), kubelet_dir=directory)


if __name__ == "__main__":
    main()
