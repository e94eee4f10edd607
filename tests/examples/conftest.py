"""The fixtures that authors have, in place of the suite's own of the same name."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest_asyncio

from devplugin import DevicePluginBase
from devplugin.testing import FakeKubelet


@pytest_asyncio.fixture
async def kubelet(directory: Path) -> AsyncIterator[FakeKubelet]:
    async with FakeKubelet(directory) as kubelet:
        yield kubelet


@pytest_asyncio.fixture
async def serve(kubelet: FakeKubelet) -> AsyncIterator[Callable[[DevicePluginBase[Any]], Awaitable[None]]]:
    tasks = []

    async def start(plugin: DevicePluginBase[Any]) -> None:
        tasks.append(asyncio.create_task(plugin.serve(kubelet_dir=kubelet.directory)))
        await kubelet.registered(plugin.resource_name)

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
