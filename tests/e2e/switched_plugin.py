"""A plugin whose devices are as a file says: one line each, an id and `Healthy` or `Unhealthy`."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from devplugin import Device, DevicePluginBase, Health, run

RESOURCE = "e2e.example/switched"
LOOK_EVERY_S = 0.1


class Switched(DevicePluginBase):
    resource_name = RESOURCE

    def __init__(self, file: Path) -> None:
        self._file = file

    async def devices(self) -> AsyncIterator[Sequence[Device]]:
        while True:
            lines = [line.split() for line in self._file.read_text().splitlines()]
            yield [Device(identity, health=Health(health)) for identity, health in lines]
            await asyncio.sleep(LOOK_EVERY_S)


if __name__ == "__main__":
    run(Switched(Path(sys.argv[1])))
