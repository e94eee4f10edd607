"""The devices of this node, and what a container gets with them."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

from devplugin import Allocation, Device, DeviceNode, DevicePluginBase, Health
from devplugin.sources import every

# Which nodes in /dev are the devices.
PATTERN = "ttyUSB*"


class MyPlugin(DevicePluginBase):
    """Offers each device node to one container at a time."""

    resource_name = "example.com/my-device"

    def __init__(self, directory: Path | None = None, *, interval_s: float = 1.0) -> None:
        # The variable lets you try the plugin where no such device is.
        self._directory = directory or Path(os.environ.get("DEVICE_DIRECTORY", "/dev"))
        self._interval_s = interval_s

    async def devices(self) -> AsyncIterator[list[Device]]:
        known: set[Path] = set()
        async for _ in every(self._interval_s):
            there = {*self._directory.glob(PATTERN)}
            known |= there  # one that is gone is unhealthy, not left out: a pod may have it
            yield [self._device(path, is_there=path in there) for path in sorted(known)]

    def _device(self, path: Path, *, is_there: bool) -> Device:
        node = DeviceNode(f"/dev/{path.name}", str(path))
        return Device(
            path.name,
            health=Health.HEALTHY if is_there else Health.UNHEALTHY,
            grants=Allocation(device_nodes=[node]),
        )
