"""Make a list of devices that are there into a message: ``python encode_devplugin.py DEVICES``."""

import asyncio
import sys

from devplugin import Device
from devplugin._snapshot import Snapshot

devices = [Device(f"device-{n:09}") for n in range(3_000)]
asyncio.run(Snapshot.take(devices[: int(sys.argv[1])], None))
