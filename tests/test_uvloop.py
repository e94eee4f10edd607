"""The extra event loop."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import uvloop

from devplugin import Device, DevicePluginBase
from devplugin.testing import FakeKubelet


class Widgets(DevicePluginBase):
    resource_name = "acme.com/widget"

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device("a")]


def test_on_uvloop(directory: Path) -> None:
    """A plugin on uvloop is registered, asked, restarted under, and ended without remains."""

    async def play() -> None:
        async with FakeKubelet(directory) as kubelet:
            task = asyncio.create_task(Widgets().serve(kubelet_dir=directory))
            await kubelet.allocatable("acme.com/widget", 1)
            await kubelet.create_pod("demo", {"acme.com/widget": 1}).running()
            await kubelet.restart()
            await kubelet.allocatable("acme.com/widget", 1)
            task.cancel()
            await asyncio.wait([task])
            assert [path.name for path in directory.iterdir() if path.is_socket()] == ["kubelet.sock"]

    uvloop.run(play())
