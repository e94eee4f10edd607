"""The plugins made with devplugin that the suite runs; as a program, one of them in a process of its own."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from devplugin import Allocation, Device, DeviceNode, DevicePluginBase, Health, Mount, PreferredAllocationRequest, run

__all__ = ["IDS", "RESOURCE", "Hinting", "Preparing", "Widgets", "unhealthy", "widget"]

RESOURCE = "example.com/widget"
IDS = ("w1", "w2", "w3", "w4")


def widget(key: str, *, health: Health = Health.HEALTHY, nodes: Sequence[int] = ()) -> Device:
    """A widget grants one of each thing that a container can be given."""
    grants = Allocation(
        env={f"WIDGET_{key}": "yes"},
        mounts=[Mount(f"/widgets/{key}", f"/host/widgets/{key}", read_only=True)],
        device_nodes=[DeviceNode(f"/dev/{key}", f"/dev/widget-{key}", "rw")],
        annotations={f"example.com/{key}": "granted"},
        cdi_devices=[f"example.com/widget={key}"],
    )
    return Device(key, health=health, numa_nodes=nodes, grants=grants)


def unhealthy(key: str) -> Device:
    return widget(key, health=Health.UNHEALTHY)


class Widgets(DevicePluginBase[Device]):
    """Shows what it is told to, and writes down what it is asked."""

    def __init__(self, resource: str = RESOURCE, devices: Sequence[Device] | None = None) -> None:
        self.resource_name = resource
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.on_allocate: Callable[[Sequence[Device]], Awaitable[Allocation]] = super().allocate
        self._devices = [widget(key) for key in IDS] if devices is None else devices
        self._changed = asyncio.Event()

    def show(self, *devices: Device) -> None:
        """Have these devices from now on."""
        self._devices = devices
        self._changed.set()

    async def devices(self) -> AsyncIterator[Sequence[Device]]:
        while True:
            self._changed.clear()
            yield self._devices
            await self._changed.wait()

    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        self.note("allocate", devices)
        return await self.on_allocate(devices)

    def note(self, hook: str, devices: Sequence[Device]) -> None:
        """Write down that a hook was asked."""
        self.asked.append((hook, tuple(sorted(device.id for device in devices))))


class Preparing(Widgets):
    """Wants PreStartContainer."""

    def __init__(self) -> None:
        super().__init__()
        self.on_pre_start: Callable[[Sequence[Device]], Awaitable[None]] = super().pre_start_container

    async def pre_start_container(self, devices: Sequence[Device]) -> None:
        self.note("pre_start_container", devices)
        await self.on_pre_start(devices)


Request = PreferredAllocationRequest[Device]


class Hinting(Widgets):
    """Wants GetPreferredAllocation, and has the kubelet choose."""

    def __init__(self, devices: Sequence[Device] | None = None) -> None:
        super().__init__(devices=devices)
        self.on_preferred: Callable[[Request], Awaitable[Sequence[Device]]] = super().preferred_allocation

    async def preferred_allocation(self, request: Request) -> Sequence[Device]:
        self.note("preferred_allocation", request.available)
        return await self.on_preferred(request)


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    run(Widgets(), kubelet_dir=sys.argv[1])
