"""A kubelet that is left in another task than it was entered in, and plugins for it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest_asyncio

from devplugin._proto import v1beta1 as pb
from devplugin.testing import FakeKubelet
from tests.testing.grpcio_plugin import GrpcioPlugin


class Serve(Protocol):
    """Serves a plugin on a socket until the test is over."""

    async def __call__(self, socket: str = ..., *devices: pb.Device) -> GrpcioPlugin: ...


@pytest_asyncio.fixture
async def kubelet(directory: Path) -> AsyncIterator[FakeKubelet]:
    """A kubelet of the newest version that has the traps of the older ones."""
    async with FakeKubelet(directory) as kubelet:
        yield kubelet


@pytest_asyncio.fixture
async def plugins(directory: Path) -> AsyncIterator[Serve]:
    """Plugins that do not register by themselves."""
    stack = AsyncExitStack()

    async def start(socket: str = "grpcio.sock", *devices: pb.Device) -> GrpcioPlugin:
        return await stack.enter_async_context(GrpcioPlugin(directory, socket, *devices))

    yield start
    await stack.aclose()


@pytest_asyncio.fixture
async def plugin(kubelet: FakeKubelet, plugins: Serve) -> GrpcioPlugin:
    """A plugin whose four devices the kubelet knows."""
    plugin = await plugins()
    await plugin.register()
    await kubelet.allocatable("demo/sample-device", 4)
    return plugin
