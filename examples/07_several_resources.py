"""Several resources in one process: a plugin object for each, here of one class.

    python examples/07_several_resources.py

They share the event loop and one inotify instance, and each has a connection to the kubelet of its own.
"""

from collections.abc import AsyncIterator
from pathlib import Path

from devplugin import Device, DevicePluginBase, Health, run
from devplugin.sources import changes_in


class Nodes(DevicePluginBase):
    """The device nodes of a directory whose names match a pattern."""

    def __init__(self, resource_name: str, pattern: str, directory: Path = Path("/dev")) -> None:
        self.resource_name = resource_name
        self._pattern = pattern
        self._directory = directory

    async def devices(self) -> AsyncIterator[list[Device]]:
        known: set[Path] = set()
        async for _ in changes_in(self._directory, at_least_every_s=30.0):
            there = {*self._directory.glob(self._pattern)}
            known |= there  # one that is gone is unhealthy, not left out: a pod may have it
            yield [
                Device.at(str(path), health=Health.HEALTHY if path in there else Health.UNHEALTHY)
                for path in sorted(known)
            ]


if __name__ == "__main__":
    run(
        Nodes("example.com/serial", "ttyUSB*"),
        Nodes("example.com/modem", "ttyACM*"),
        Nodes("example.com/video", "video*"),
    )
