"""Live sets of plugins: started and withdrawn without touching each other, and without leaving anything behind."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from devplugin import ConfigurationError, Device, DevicePluginBase
from devplugin.live import PluginSet, run_live, serve_live
from devplugin.testing import FakeKubelet
from tests.conftest import eventually

pytestmark = pytest.mark.asyncio


class Pool(DevicePluginBase):
    """A pool of devices; it fails when it is told, and its tear-down takes as long as the test says."""

    def __init__(self, name: str, size: int = 1) -> None:
        self.resource_name = f"example.com/{name}"
        self.size = size
        self.failure: asyncio.Future[None] | None = None
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.is_ending = self.is_down = False

    async def devices(self) -> AsyncIterator[list[Device]]:
        self.failure = asyncio.get_running_loop().create_future()
        try:
            yield [Device(f"{self.resource_name}-{n}") for n in range(self.size)]
            await self.failure
        finally:
            self.is_ending = True
            await self.may_end.wait()
            self.is_down = True

    def fail(self) -> None:
        assert self.failure is not None
        self.failure.set_exception(OSError("the bus is gone"))


@dataclass
class Sized(DevicePluginBase):
    """A plugin that says by its value whether it is another one."""

    resource_name: str
    size: int

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device(f"{self.resource_name}-{n}") for n in range(self.size)]


async def test_plugins_come_and_go(directory: Path) -> None:
    """Each is there from start() to withdraw(), another one is not touched, and all end with the set."""
    a, b = Pool("a"), Pool("b")
    async with FakeKubelet(directory) as kubelet:
        async with PluginSet(kubelet_dir=directory) as plugins:
            plugins.start(a)
            await kubelet.allocatable("example.com/a", 1)
            plugins.start(b)
            await kubelet.allocatable("example.com/b", 1)
            assert list(plugins.plugins) == [a, b]
            assert repr(plugins) == "PluginSet(example.com/a, example.com/b)"
            await plugins.withdraw(b)
            assert b.is_down
            await kubelet.allocatable("example.com/b", 0)
            assert list(plugins.plugins) == [a]
            await kubelet.allocatable("example.com/a", 1)
            assert [registration.resource for registration in kubelet.registrations] == [
                "example.com/a",
                "example.com/b",
            ]
        assert a.is_down
        assert [path.name for path in directory.iterdir() if path.is_socket()] == ["kubelet.sock"]


async def test_a_resource_can_come_back(directory: Path) -> None:
    """With the same plugin or with another one."""
    async with FakeKubelet(directory) as kubelet, PluginSet(kubelet_dir=directory) as plugins:
        for size in (1, 2):
            pool = Pool("a", size)
            plugins.start(pool)
            await kubelet.allocatable("example.com/a", size)
            await plugins.withdraw(pool)
            plugins.start(pool)
            await kubelet.allocatable("example.com/a", size)
            await plugins.withdraw(pool)


async def test_to_withdraw_what_is_not_there_does_nothing(directory: Path) -> None:
    """Nor does it withdraw another plugin of the same resource."""
    pool = Pool("a")
    async with PluginSet(kubelet_dir=directory) as plugins:
        await plugins.withdraw(pool)
        plugins.start(pool)
        await plugins.withdraw(Pool("a"))
        assert plugins.plugins == (pool,)


async def test_it_becomes_what_is_wanted(directory: Path) -> None:
    """What is new starts, what is not wanted ends, and what stays is the very same session."""
    a, b, c = Pool("a"), Pool("b"), Pool("c")
    async with FakeKubelet(directory) as kubelet, PluginSet(kubelet_dir=directory) as plugins:
        await plugins.become([a, b])
        await kubelet.allocatable("example.com/a", 1)
        await kubelet.allocatable("example.com/b", 1)
        await plugins.become([b, c])
        assert a.is_down
        assert list(plugins.plugins) == [b, c]
        await kubelet.allocatable("example.com/c", 1)
        assert sorted(r.resource for r in kubelet.registrations) == [f"example.com/{name}" for name in "abc"]
        await plugins.become([])
        assert list(plugins.plugins) == []


async def test_a_plugin_of_equal_value_stays_and_another_one_replaces_it(directory: Path) -> None:
    """So a source may build its plugins anew each time."""
    async with FakeKubelet(directory) as kubelet, PluginSet(kubelet_dir=directory) as plugins:
        first = Sized("example.com/a", 1)
        await plugins.become([first])
        await kubelet.allocatable("example.com/a", 1)
        await plugins.become([Sized("example.com/a", 1)])
        assert plugins.plugins[0] is first
        await plugins.become([Sized("example.com/a", 2)])
        await kubelet.allocatable("example.com/a", 2)
        assert len(kubelet.registrations) == 2


async def test_new_plugins_do_not_wait_for_those_that_end(directory: Path) -> None:
    """A tear-down that takes its time holds up its own resource, and no other; what ends is no more in the set."""
    slow, new = Pool("slow"), Pool("new")
    slow.may_end.clear()
    async with FakeKubelet(directory) as kubelet, PluginSet(kubelet_dir=directory) as plugins:
        await plugins.become([slow])
        await kubelet.allocatable("example.com/slow", 1)
        another = Pool("slow", 2)
        becoming = asyncio.create_task(plugins.become([another, new]))
        await kubelet.allocatable("example.com/new", 1)
        assert plugins.plugins == (new,)
        assert repr(plugins) == "PluginSet(example.com/slow (ending), example.com/new)"
        with pytest.raises(
            ConfigurationError, match=r"example\.com/slow cannot be started: the resource is being withdrawn"
        ):
            plugins.start(another)
        await eventually(lambda: slow.is_ending)
        assert not becoming.done()
        slow.may_end.set()
        await becoming
        await kubelet.allocatable("example.com/slow", 2)


async def test_what_cannot_be_started(directory: Path) -> None:
    """Each refusal says what to do, and leaves the set as it was."""
    pool, nameless = Pool("a"), Pool("b")
    nameless.resource_name = "b"
    plugins = PluginSet(kubelet_dir=directory)
    with pytest.raises(ConfigurationError, match="a PluginSet serves inside its 'async with'"):
        plugins.start(pool)
    async with plugins:
        plugins.start(pool)
        with pytest.raises(ConfigurationError, match="the resource is served already: withdraw its plugin first"):
            plugins.start(Pool("a"))
        with pytest.raises(ConfigurationError, match="resource name 'b' is not usable"):
            plugins.start(nameless)
        with pytest.raises(ConfigurationError, match="is a pair of brackets missing"):
            plugins.start(Pool)  # type: ignore[arg-type]
        for mistake in ([Pool("c"), nameless], [Pool("c"), Pool("c")], [Pool("c"), 7]):
            with pytest.raises(ConfigurationError):
                await plugins.become(mistake)  # type: ignore[arg-type]
        assert plugins.plugins == (pool,)
    with pytest.raises(ConfigurationError, match="a PluginSet serves inside its 'async with'"):
        plugins.start(Pool("d"))


async def test_one_that_fails_ends_all(directory: Path) -> None:
    """The body is cancelled, the others end in order, and the error comes out."""
    a, b = Pool("a"), Pool("b")

    async def serve() -> None:
        async with PluginSet(kubelet_dir=directory) as plugins:
            await plugins.become([a, b])
            await kubelet.allocatable("example.com/a", 1)
            await kubelet.allocatable("example.com/b", 1)
            a.fail()
            await asyncio.Event().wait()

    async with FakeKubelet(directory) as kubelet:
        with pytest.raises(ExceptionGroup) as caught:
            await serve()
        [error] = caught.value.exceptions
        assert str(error) == "the bus is gone"
        assert b.is_down
        assert [path.name for path in directory.iterdir() if path.is_socket()] == ["kubelet.sock"]


async def test_the_end_of_the_set_does_not_cut_a_tear_down_short(directory: Path) -> None:
    """A plugin that is being withdrawn when the set is cancelled ends as if nothing had happened."""
    slow = Pool("slow")
    slow.may_end.clear()

    async def serve() -> None:
        async with PluginSet(kubelet_dir=directory) as plugins:
            plugins.start(slow)
            await kubelet.allocatable("example.com/slow", 1)
            await plugins.withdraw(slow)

    async with FakeKubelet(directory) as kubelet:
        serving = asyncio.create_task(serve())
        await eventually(lambda: slow.is_ending)
        serving.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not serving.done()
        slow.may_end.set()
        await asyncio.wait([serving])
        assert serving.cancelled()
        assert slow.is_down
        assert [path.name for path in directory.iterdir() if path.is_socket()] == ["kubelet.sock"]


def held() -> tuple[int, int]:
    """Open descriptors and tasks."""
    return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())  # noqa: PTH208


async def test_hundreds_of_rounds_leave_nothing(directory: Path) -> None:
    """No task, no descriptor, no socket and no plugin, while another resource goes on in one session."""
    stays = Pool("stays")
    async with FakeKubelet(directory) as kubelet, PluginSet(kubelet_dir=directory) as plugins:
        await plugins.become([stays])
        await kubelet.allocatable("example.com/stays", 1)
        before = None
        for n in range(200):
            comes = Pool("comes", 1 + n % 2)
            await plugins.become([stays, comes])
            await kubelet.allocatable("example.com/comes", 1 + n % 2)
            await plugins.become([stays])
            await kubelet.allocatable("example.com/comes", 0)
            before = before or held()  # the first round is the kubelet's first as well
        comes = stays
        await eventually(lambda: held() == before)
        assert [r.resource for r in kubelet.registrations].count("example.com/stays") == 1
        assert len([path for path in directory.iterdir() if path.is_socket()]) == 2
        gc.collect()
        pools = [thing for thing in gc.get_objects() if isinstance(thing, Pool)]
        assert [pool for pool in pools if pool.resource_name == "example.com/comes"] == []


# From a source of lists -----------------------------------------------------------------------------------------------


async def test_a_source_of_lists(directory: Path) -> None:
    """Each list is whole, the last one stays when there are no more, and the source is closed at the end."""
    lists: asyncio.Queue[list[DevicePluginBase] | None] = asyncio.Queue()
    closed = asyncio.Event()

    async def source() -> AsyncIterator[list[DevicePluginBase]]:
        try:
            while (wanted := await lists.get()) is not None:
                yield wanted
        finally:
            closed.set()

    async with FakeKubelet(directory) as kubelet:
        serving = asyncio.create_task(serve_live(source(), kubelet_dir=directory))
        lists.put_nowait([Sized("example.com/a", 1)])
        await kubelet.allocatable("example.com/a", 1)
        lists.put_nowait([Sized("example.com/a", 1), Sized("example.com/b", 2)])
        await kubelet.allocatable("example.com/b", 2)
        lists.put_nowait([Sized("example.com/b", 2)])
        await kubelet.allocatable("example.com/a", 0)
        lists.put_nowait(None)
        await closed.wait()
        assert not serving.done()
        assert len(kubelet.registrations) == 2
        serving.cancel()
        await asyncio.wait([serving])
        assert serving.cancelled()


async def test_a_source_is_closed_when_it_is_cancelled(directory: Path) -> None:
    """Its finally runs before serve_live() is over."""
    seen: list[str] = []

    async def source() -> AsyncIterator[list[DevicePluginBase]]:
        try:
            yield []
            seen.append("waiting")
            await asyncio.Event().wait()
        finally:
            seen.append("closed")

    serving = asyncio.create_task(serve_live(source(), kubelet_dir=directory))
    await eventually(lambda: seen)
    serving.cancel()
    await asyncio.wait([serving])
    assert seen == ["waiting", "closed"]
    assert serving.cancelled()


async def test_a_source_is_closed_while_its_list_is_carried_out(directory: Path) -> None:
    """Also then its finally has run when serve_live() is over."""
    slow = Pool("slow")
    seen: list[str] = []
    slow.may_end.clear()

    async def source() -> AsyncIterator[list[DevicePluginBase]]:
        try:
            yield [slow]
            await kubelet.allocatable("example.com/slow", 1)
            yield []
        finally:
            seen.append("closed")

    async with FakeKubelet(directory) as kubelet:
        serving = asyncio.create_task(serve_live(source(), kubelet_dir=directory))
        await eventually(lambda: slow.is_ending)
        serving.cancel()
        slow.may_end.set()
        await asyncio.wait([serving])
        assert seen == ["closed"]


async def test_a_source_that_fails_ends_all(directory: Path) -> None:
    """Its error comes out when the plugins have ended."""
    pool = Pool("a")

    async def source() -> AsyncIterator[list[DevicePluginBase]]:
        yield [pool]
        await kubelet.allocatable("example.com/a", 1)
        raise OSError("the configuration is gone")

    async with FakeKubelet(directory) as kubelet:
        with pytest.raises(ExceptionGroup) as caught:
            await serve_live(source(), kubelet_dir=directory)
        assert [str(error) for error in caught.value.exceptions] == ["the configuration is gone"]
        assert pool.is_down


async def test_a_source_may_be_any_async_iterator(directory: Path) -> None:
    """An object with __anext__ will do; what is none is refused in words."""

    class Once:
        def __init__(self) -> None:
            self.left = [[Sized("example.com/a", 1)]]

        def __aiter__(self) -> "Once":
            return self

        async def __anext__(self) -> list[Sized]:
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop()

    async with FakeKubelet(directory) as kubelet:
        serving = asyncio.create_task(serve_live(Once(), kubelet_dir=directory))
        await kubelet.allocatable("example.com/a", 1)
        serving.cancel()
        await asyncio.wait([serving])
    with pytest.raises(
        ConfigurationError, match=r"an async iterator of lists of plugins is needed, and .* brackets missing"
    ):
        await serve_live(Once.__anext__, kubelet_dir=directory)  # type: ignore[arg-type]


PROGRAM = """
import asyncio, sys
from devplugin import Device, DevicePluginBase
from devplugin.live import run_live

class Widgets(DevicePluginBase):
    def __init__(self, name):
        self.resource_name = name

    async def devices(self):
        yield [Device(self.resource_name)]

async def source():
    yield [Widgets("acme.com/a")]
    yield [Widgets("acme.com/a"), Widgets("acme.com/b")]
    FAIL

run_live(source(), kubelet_dir=sys.argv[1])
"""


async def test_a_process(directory: Path) -> None:
    """It serves until the first signal and ends with status 0; one line says why when it cannot go on."""
    async with FakeKubelet(directory) as kubelet:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM.replace("FAIL", ""), str(directory), stderr=asyncio.subprocess.PIPE
        )
        await kubelet.allocatable("acme.com/b", 1, timeout_s=30)
        child.send_signal(signal.SIGTERM)
        _, errors = await child.communicate()
        assert child.returncode == 0, errors
        assert b"INFO devplugin.live: acme.com/b: started" in errors
        await kubelet.allocatable("acme.com/a", 0)
        assert [path.name for path in directory.iterdir() if path.is_socket()] == ["kubelet.sock"]
    failing = PROGRAM.replace("FAIL", "yield [Widgets('a')]")
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", failing, str(directory), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await child.communicate()
    assert child.returncode == 1
    assert b"CRITICAL devplugin.run: resource name 'a' is not usable" in errors
    assert b"Traceback" not in errors


async def test_run_live_needs_the_main_thread(directory: Path) -> None:
    """As run() does."""

    async def source() -> AsyncIterator[list[DevicePluginBase]]:
        yield []

    with pytest.raises(ConfigurationError, match="needs the main thread"):
        await asyncio.to_thread(run_live, source(), kubelet_dir=directory)
