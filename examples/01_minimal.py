"""The smallest plugin: four serial ports, each for one container at a time.

    python examples/01_minimal.py

It waits for a kubelet where there is none; Ctrl-C ends it.
"""

from collections.abc import AsyncIterator

from devplugin import Device, DevicePluginBase, run


class SerialPorts(DevicePluginBase):
    resource_name = "example.com/serial"

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device.at(f"/dev/ttyUSB{n}") for n in range(4)]


if __name__ == "__main__":
    run(SerialPorts())
