"""Devices that several containers may use at a time: each video encoder for four of them.

    python examples/06_sharing.py

Any plugin can be shared so. Its own hooks know nothing of it.
"""

from collections.abc import AsyncIterator

from devplugin import Device, DevicePluginBase, run
from devplugin.sharing import Shared


class Encoders(DevicePluginBase):
    resource_name = "example.com/encoder"

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device.at(f"/dev/video-encoder{n}") for n in range(2)]


if __name__ == "__main__":
    run(Shared(Encoders(), replicas=4, suffix=".shared"))  # pods ask for example.com/encoder.shared
