"""GPUs for containers that do not run as root: CDI adds the group of the device node, which Allocate alone cannot say.

    python examples/05_cdi.py

The file in /var/run/cdi says what a device's name stands for, the plugin answers with names, and the container runtime
does the rest. The file is there while the plugin runs.
"""

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from devplugin import Allocation, Device, DevicePluginBase, Health, cdi, run
from devplugin.sources import changes_in


class RenderNodes(DevicePluginBase):
    resource_name = "example.com/gpu"

    def __init__(
        self, directory: Path = Path("/dev/dri"), cdi_directory: str | os.PathLike[str] = cdi.CDI_DIRECTORY
    ) -> None:
        self._directory = directory
        self._spec = cdi.SpecFile(self.resource_name, directory=cdi_directory)

    async def devices(self) -> AsyncIterator[list[Device]]:
        with self._spec:
            known: dict[str, cdi.Device] = {}
            async for _ in changes_in(self._directory, at_least_every_s=30.0):
                there = {path.name: cdi.Device(path.name, edits_for(path)) for path in self._directory.glob("renderD*")}
                known |= there  # one that is gone is unhealthy, not left out: a pod may have it
                self._spec.write(known[name] for name in sorted(known))
                yield [
                    Device(name, health=Health.HEALTHY if name in there else Health.UNHEALTHY) for name in sorted(known)
                ]

    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        return Allocation(cdi_devices=self._spec.names(devices))


def edits_for(node: Path) -> cdi.ContainerEdits:
    group = node.stat().st_gid
    return cdi.ContainerEdits(
        device_nodes=[cdi.DeviceNode(path=str(node), permissions="rw")],
        additional_gids=[group] if group else [],
    )


if __name__ == "__main__":
    run(RenderNodes())
