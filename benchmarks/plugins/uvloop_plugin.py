"""The plugin of the benchmarks on devplugin and uvloop; the arguments are those of ``devplugin_plugin.py``."""

import asyncio
import logging
import sys

import uvloop
from devplugin_plugin import plugins


async def serve(directory: str, prefix: str, resources: int, devices: int) -> None:
    async with asyncio.TaskGroup() as group:
        for plugin in plugins(prefix, resources, devices):
            group.create_task(plugin.serve(kubelet_dir=directory))


if __name__ == "__main__":
    directory, prefix, resources, devices = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    uvloop.run(serve(directory, prefix, int(resources), int(devices)))
