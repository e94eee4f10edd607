"""When an author looks again: at once, after every change, never late, and with nothing left behind."""

import asyncio
import importlib
import logging
import math
import os
import resource
import socket
import struct
import sys
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from devplugin import ConfigurationError, Device, DevicePluginBase, _watch, sources
from devplugin.sources import changes_in, every, udev_events
from devplugin.testing import FakeKubelet
from tests.conftest import Serve, eventually
from tests.support_pages import ROOT, blocks_of

pytestmark = pytest.mark.asyncio

HOUR_S = 3600.0


async def woken(wakeups: AsyncGenerator[None, None], within_s: float = 5) -> None:
    """The next wake-up comes."""
    async with asyncio.timeout(within_s):
        await anext(wakeups)


async def not_woken(wakeups: AsyncGenerator[None, None]) -> None:
    """No wake-up comes; it ends the generator, as every cancellation does."""
    with pytest.raises(TimeoutError):
        await woken(wakeups, 0.2)
    with pytest.raises(StopAsyncIteration):
        await anext(wakeups)


def descriptors() -> Counter[str]:
    """What this process has open, and how often."""
    return Counter(str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink())


@pytest_asyncio.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """What a test opens is closed when the test and its generators have ended; what others left may go meanwhile."""
    before = descriptors()
    yield
    await eventually(lambda: descriptors() <= before, 5)
    assert _watch._hubs == {}


# changes_in -----------------------------------------------------------------------------------------------------------


async def test_the_first_wake_up_comes_at_once_and_then_one_for_each_change(directory: Path) -> None:
    """Changes that come while the body runs are one wake-up after it."""
    async with aclosing(changes_in(directory, at_least_every_s=HOUR_S)) as wakeups:
        await woken(wakeups)
        (directory / "a").touch()
        await woken(wakeups)
        for name in "bcd":
            (directory / name).touch()
        await asyncio.sleep(0)  # events come while the body waits for something else
        await woken(wakeups)
        await not_woken(wakeups)


async def test_no_change_is_lost(directory: Path) -> None:
    """Whenever a file comes, the last look sees it: before the first, during a look, between two."""
    seen: list[set[str]] = []
    async with aclosing(changes_in(directory, at_least_every_s=HOUR_S)) as wakeups:
        await woken(wakeups)
        for number in range(200):
            writing = asyncio.create_task(asyncio.to_thread((directory / str(number)).touch))
            seen.append({path.name for path in directory.iterdir()})
            if number % 3:
                await writing
            async with asyncio.timeout(5):
                while str(number) not in seen[-1]:
                    await anext(wakeups)
                    seen.append({path.name for path in directory.iterdir()})
            await writing


async def test_paths_that_are_not_there_yet(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several paths, relative ones too, at any depth."""
    monkeypatch.chdir(directory)
    async with aclosing(changes_in("config.yaml", directory / "a" / "b", at_least_every_s=HOUR_S)) as wakeups:
        await woken(wakeups)
        Path("config.yaml").touch()
        await woken(wakeups)
        (directory / "a" / "b").mkdir(parents=True)
        await woken(wakeups)
        (directory / "a" / "b" / "node").touch()
        await woken(wakeups)


async def test_the_safety_net(directory: Path) -> None:
    """Without any change the wake-up comes when it is due."""
    async with aclosing(changes_in(directory, at_least_every_s=0.02)) as wakeups:
        for _ in range(3):
            await woken(wakeups)


async def test_many_generators_share_one_inotify_instance(directory: Path) -> None:
    """A user has only 128 of them."""
    many = [changes_in(directory / str(n), directory, at_least_every_s=HOUR_S) for n in range(50)]
    for wakeups in many:
        await woken(wakeups)
    assert descriptors()["anon_inode:inotify"] == 1
    for wakeups in many:
        await wakeups.aclose()
    assert descriptors()["anon_inode:inotify"] == 0


async def test_polling_without_inotify(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where there is no instance left, the paths are looked at instead, which is said once."""
    monkeypatch.setattr(_watch, "_POLL_S", 0.01)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with (
        aclosing(changes_in(directory, at_least_every_s=HOUR_S)) as one,
        aclosing(changes_in(directory / "x", at_least_every_s=HOUR_S)) as two,
    ):
        # The user's instances would be other processes', too; without a descriptor left the error is the same.
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            await woken(one)
            await woken(two)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        (directory / "x").touch()
        await woken(one)
        await woken(two)
        await not_woken(one)
    assert caplog.messages == [
        "inotify is not to be had ([Errno 24] Too many open files): looking every 0.01 s instead"
    ]


class Nodes(DevicePluginBase):
    """What an author writes."""

    resource_name = "example.com/node"

    def __init__(self, directory: Path, wakeups: Callable[[], AsyncGenerator[None, None]]) -> None:
        self.directory = directory
        self.wakeups = wakeups
        self.looks = 0

    async def devices(self) -> AsyncIterator[list[Device]]:
        async for _ in self.wakeups():
            self.looks += 1
            yield [Device.at(str(path)) for path in sorted(self.directory.glob("node*"))]


async def test_hot_plug_in_a_plugin(directory: Path, tmp_path: Path, serve: Serve) -> None:
    """A node that comes is on offer, and one that goes is not; the plugin's end closes the instance."""
    plugin = Nodes(tmp_path, lambda: changes_in(tmp_path, at_least_every_s=HOUR_S))
    async with FakeKubelet(directory) as kubelet:
        serving = serve(plugin)
        (tmp_path / "node0").touch()
        await kubelet.allocatable("example.com/node", 1)
        (tmp_path / "node1").touch()
        await kubelet.allocatable("example.com/node", 2)
        (tmp_path / "node0").unlink()
        await kubelet.allocatable("example.com/node", 1)
        assert descriptors()["anon_inode:inotify"] == 1  # with the one of the kubelet's directory
        serving.cancel()
        await asyncio.wait([serving])


async def test_the_ports_of_the_documentation(directory: Path, tmp_path: Path, serve: Serve) -> None:
    """What the page about hot-plug shows first does that."""
    page = (ROOT / "docs/how-to/health-and-hot-plug.md").read_text()
    [block] = [block for block in blocks_of(page) if block.file == "ports.py"]
    names: dict[str, Any] = {"__name__": "ports"}
    exec(block.text, names)
    async with FakeKubelet(directory) as kubelet:
        serving = serve(names["Ports"](tmp_path))
        (tmp_path / "ttyUSB0").touch()
        await kubelet.allocatable("example.com/port", 1)
        (tmp_path / "ttyUSB0").unlink()
        assert (await kubelet.allocatable("example.com/port", 0)).capacity == 1
        serving.cancel()
        await asyncio.wait([serving])


async def test_the_end_of_the_generator_around_it(tmp_path: Path) -> None:
    """Closing the author's generator, leaving its loop, and a failing body close the instance."""
    plugin = Nodes(tmp_path, lambda: changes_in(tmp_path, at_least_every_s=HOUR_S))
    lists = plugin.devices()
    assert isinstance(lists, AsyncGenerator)
    await anext(lists)
    await lists.aclose()
    await eventually(lambda: _watch._hubs == {})

    async for _ in changes_in(tmp_path, at_least_every_s=HOUR_S):
        break
    await eventually(lambda: _watch._hubs == {})

    async def fail() -> None:
        async for _ in changes_in(tmp_path, at_least_every_s=HOUR_S):
            raise RuntimeError("look failed")

    with pytest.raises(RuntimeError, match="look failed"):
        await fail()
    await eventually(lambda: _watch._hubs == {})


async def test_cancellation(tmp_path: Path) -> None:
    """A task that waits for a change is cancelled at once, and nothing of it stays."""
    wakeups = changes_in(tmp_path, at_least_every_s=HOUR_S)
    await woken(wakeups)
    task = asyncio.ensure_future(anext(wakeups))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert _watch._hubs == {}


@pytest.mark.parametrize("paths", [(), ("",), ("a\0b",), (7,), (Path("/dev"), None)], ids=repr)
async def test_paths_that_are_none(paths: tuple[Any, ...]) -> None:
    """They are refused before anything is opened."""
    with pytest.raises(ConfigurationError, match=r"path"):
        await anext(changes_in(*paths, at_least_every_s=1))


@pytest.mark.parametrize("seconds", [0, -1, math.nan, "5", None, True], ids=repr)
async def test_times_that_are_none(seconds: Any) -> None:
    """The same for times, wherever there is one."""
    for wakeups in (
        changes_in("/", at_least_every_s=seconds),
        every(seconds),
        udev_events("net", at_least_every_s=seconds),
    ):
        with pytest.raises(ConfigurationError, match="it must be a number of seconds above 0"):
            await anext(wakeups)


# every ----------------------------------------------------------------------------------------------------------------


async def test_every() -> None:
    """At once, and then after the interval, which begins when the body has ended."""
    async with aclosing(every(HOUR_S)) as wakeups:
        await woken(wakeups)
        await not_woken(wakeups)
    clock = asyncio.get_running_loop().time
    async with aclosing(every(0.05)) as wakeups:
        await woken(wakeups)
        for _ in range(2):
            await asyncio.sleep(0.06)  # a body that takes longer than the interval
            ended_s = clock()
            await woken(wakeups)
            assert clock() - ended_s > 0.049


# udev_events ----------------------------------------------------------------------------------------------------------

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make the kernel repeat an event")


def repeat_event(device: str) -> None:
    """Let the kernel send a real event, as ``udevadm trigger`` does."""
    Path(f"/sys/class/{device}/uevent").write_text("change")


@as_root
async def test_events_of_the_kernel() -> None:
    """Those of the subsystem wake, conflated, others do not."""
    async with aclosing(udev_events("net", source="kernel", at_least_every_s=HOUR_S)) as wakeups:
        await woken(wakeups)
        repeat_event("net/lo")
        await woken(wakeups)
        for _ in range(5):
            repeat_event("net/lo")
        await woken(wakeups)
        repeat_event("mem/null")
        await not_woken(wakeups)


@as_root
async def test_events_of_several_subsystems_and_of_all() -> None:
    """Each name is one more, and no name is every one."""
    for subsystems in (("net", "mem"), ()):
        async with aclosing(udev_events(*subsystems, source="kernel", at_least_every_s=HOUR_S)) as wakeups:
            await woken(wakeups)
            for device in ("net/lo", "mem/null"):
                repeat_event(device)
                await woken(wakeups)


@as_root
async def test_more_events_than_the_socket_holds(caplog: pytest.LogCaptureFixture) -> None:
    """What was lost was something, so it is a wake-up, and events go on."""
    caplog.set_level(logging.DEBUG, "devplugin.sources")
    async with aclosing(udev_events("net", source="kernel", at_least_every_s=HOUR_S)) as wakeups:
        await woken(wakeups)
        generator: Any = wakeups
        generator.ag_frame.f_locals["monitor"].set_receive_buffer_size(4096)
        for _ in range(300):
            repeat_event("net/lo")
        waiting = asyncio.ensure_future(anext(wakeups))
        for _ in range(300):  # until what was not lost has been told
            done, _ = await asyncio.wait({waiting}, timeout=0.3)
            if not done:
                break
            waiting = asyncio.ensure_future(anext(wakeups))
        assert caplog.messages == ["udev events were lost: No buffer space available"]
        repeat_event("net/lo")
        async with asyncio.timeout(5):
            await waiting


def say_as_udev(properties: bytes) -> None:
    """Send what udev sends when it is done with a device: libudev's header and the properties, to udev's group."""
    sizes = struct.pack("=III", 40, 40, len(properties))
    header = struct.pack("!8sI", b"libudev\0", 0xFEEDCAFE) + sizes + bytes(16)  # no filter: no hashes
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15) as sender:  # NETLINK_KOBJECT_UEVENT
        sender.sendto(header + properties, (0, 2))


@as_root
@pytest.mark.skipif(" - devtmpfs " not in Path("/proc/self/mountinfo").read_text(), reason="libudev refuses: no udev")
async def test_events_of_udev(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are another group of the same netlink family; where udev does not seem to run, a warning says so."""
    control = tmp_path / "control"
    monkeypatch.setattr(sources, "_UDEV_IS_RUNNING", control)
    for warnings in (1, 1):  # the second time it is there
        async with aclosing(udev_events(at_least_every_s=HOUR_S)) as wakeups:
            await woken(wakeups)
            say_as_udev(b"ACTION=add\0DEVPATH=/devices/virtual/net/lo\0SUBSYSTEM=net\0SEQNUM=1\0")
            await woken(wakeups)
        assert caplog.text.count("udev does not seem to run") == warnings
        control.touch()


async def test_without_pyudev(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra."""
    monkeypatch.setitem(sys.modules, "pyudev", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'devplugin\[udev\]'"):
        await anext(udev_events(at_least_every_s=1))


async def test_without_libudev(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image may have pyudev and not the library that it calls."""
    monkeypatch.setattr(importlib.import_module("pyudev._ctypeslib.utils"), "find_library", lambda _: None)
    with pytest.raises(ConfigurationError, match="apt-get install libudev1"):
        await anext(udev_events(at_least_every_s=1))


@pytest.mark.parametrize(
    ("subsystems", "source", "message"),
    [((), "dbus", "'udev' or 'kernel'"), (("",), "udev", "subsystem ''"), ((7,), "udev", "subsystem 7")],
)
async def test_sources_that_are_none(subsystems: tuple[Any, ...], source: Any, message: str) -> None:
    """They are refused with the rule."""
    with pytest.raises(ConfigurationError, match=message):
        await anext(udev_events(*subsystems, source=source, at_least_every_s=1))


async def test_the_rest_does_not_pay_for_udev() -> None:
    """Neither importing the sources nor the others of them brings pyudev."""
    code = "import sys, devplugin.sources; sys.exit('pyudev' in sys.modules)"
    done = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await done.wait() == 0


async def test_the_safety_net_of_udev() -> None:
    """Without any event the wake-up comes when it is due."""
    async with aclosing(udev_events("net", source="kernel", at_least_every_s=0.02)) as wakeups:
        for _ in range(3):
            await woken(wakeups)
