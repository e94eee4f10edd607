"""Long runs: what happens a thousand times must leave nothing behind, and a killed plugin must need no help."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devplugin import Device, DevicePluginBase
from devplugin.testing import FakeKubelet
from tests.conftest import Serve

pytestmark = [pytest.mark.asyncio, pytest.mark.endurance, pytest.mark.timeout(900)]

RESOURCE = "demo/sample-device"


class Samples(DevicePluginBase):
    resource_name = RESOURCE

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device(f"{n}") for n in range(4)]


def held() -> tuple[int, int]:
    """Open descriptors and tasks."""
    return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())  # noqa: PTH208


@pytest.mark.parametrize("version", ["1.36", "1.37"])
async def test_a_thousand_kubelet_restarts(directory: Path, serve: Serve, version: str) -> None:
    """Every one is followed by a registration, and descriptors, tasks and sockets are as before."""
    async with FakeKubelet(directory, version=version) as kubelet:
        serve(Samples())
        await kubelet.allocatable(RESOURCE, 4)
        before = held()
        for _ in range(1000):
            await kubelet.restart()
            await kubelet.allocatable(RESOURCE, 4)
        assert held() == before
        assert len([path for path in directory.iterdir() if path.is_socket()]) == 2


async def started(directory: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "examples.sample_device", "--kubelet-dir", str(directory)
    )


async def killed(plugin: asyncio.subprocess.Process) -> None:
    plugin.kill()
    await plugin.wait()


async def test_two_hundred_kills(directory: Path) -> None:
    """Killed with -9 at any moment of its start, the plugin's next start registers, and clears what the dead ones left."""
    async with FakeKubelet(directory) as kubelet:
        began_s = time.monotonic()
        plugin = await started(directory)
        await kubelet.allocatable(RESOURCE, 4, timeout_s=60)
        start_s = time.monotonic() - began_s
        await killed(plugin)
        await kubelet.allocatable(RESOURCE, 0)
        for n in range(200):
            plugin = await started(directory)
            await asyncio.sleep(start_s * 1.2 * n / 200)  # the moment is what is tested
            await killed(plugin)
            await kubelet.allocatable(RESOURCE, 0)
            plugin = await started(directory)
            await kubelet.allocatable(RESOURCE, 4, timeout_s=60)
            sockets = [path.name for path in directory.iterdir() if path.is_socket() and not path.name.startswith(".")]
            assert len(sockets) == 2, sockets
            await killed(plugin)
            await kubelet.allocatable(RESOURCE, 0)
