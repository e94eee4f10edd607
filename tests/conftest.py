"""What many tests need: a short directory for sockets, and plugins that end with the test."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import pytest_asyncio

from devplugin import DevicePluginBase

# A shell's background job ignores SIGINT, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

Serve = Callable[..., asyncio.Task[None]]


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, with ``-n auto``: a test that waits leaves its core to another one."""
    return len(os.sched_getaffinity(0)) + 1


def kept_mypy_cache(purpose: str, worker_id: str) -> Path:
    """What mypy has read of the libraries is read once, as long as they stay the same; two at once do not share one."""
    return Path(__file__).parents[1] / ".mypy_cache" / f"{purpose}-{worker_id}"


def unmeasured() -> dict[str, str]:
    """The environment of a process that coverage need not see: other tests run the same lines.

    Coverage costs each process a quarter of a second, ten times what Python itself takes to start.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory for kubelet.sock whose path is short enough for any socket in it."""
    with TemporaryDirectory(prefix="dp-") as path:
        yield Path(path)


@pytest_asyncio.fixture
async def serve(directory: Path) -> AsyncIterator[Serve]:
    """Serve a plugin in a task of its own, which is cancelled and seen to end after the test."""
    tasks: list[asyncio.Task[None]] = []

    def start(plugin: DevicePluginBase[Any], kubelet_dir: Path = directory) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(plugin.serve(kubelet_dir=kubelet_dir), name="serve"))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def eventually(condition: Callable[[], Awaitable[object] | object], timeout_s: float = 10) -> None:
    """Wait until a condition holds that sends no event, such as a file's absence."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = condition()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(0.002)
