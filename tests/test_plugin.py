"""The base class: what an author may get wrong, and what becomes of the devices that are yielded."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest

from devplugin import ConfigurationError, Device, DevicePluginBase, Health, RegistrationRejected
from tests.conftest import Serve, eventually
from tests.grpcio_kubelet import grpcio_kubelet

pytestmark = pytest.mark.asyncio


class Scripted(DevicePluginBase):
    """Yields what a test puts in; an exception is raised."""

    resource_name = "acme.com/widget"

    def __init__(self, *lists: Any) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        for each in lists:
            self.queue.put_nowait(each)
        self.torn_down = False

    async def devices(self) -> AsyncIterator[Iterable[Device]]:
        try:
            while (item := await self.queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            await asyncio.sleep(0)  # tear-down may await
            self.torn_down = True


class FailsAtTheEnd(Scripted):
    async def devices(self) -> AsyncIterator[Iterable[Device]]:
        try:
            async for each in super().devices():
                yield each
        finally:
            raise OSError("cannot release")


async def test_snapshots_reach_the_kubelet(directory: Path, serve: Serve) -> None:
    """Each list replaces the one before; when devices() returns the last one stays; tear-down follows the end."""
    pair = [Device("a"), Device("b")]
    plugin = Scripted(pair, pair, [Device("a", health=Health.UNHEALTHY)], (), None)
    async with grpcio_kubelet(directory) as kubelet:
        task = serve(plugin)
        await kubelet.until(lambda k: k.lists and k.lists[-1] == {})
        await eventually(lambda: plugin.torn_down)
        await kubelet.restart()
        await kubelet.until(lambda k: len(k.plugins) == 2 and k.lists[-1] == {})
        assert not task.done()


async def test_registers_before_the_first_list(directory: Path, serve: Serve) -> None:
    """Enumeration may be slow: registration does not wait for it, and the stream sends the list when it is there."""
    plugin = Scripted()
    async with grpcio_kubelet(directory) as kubelet:
        serve(plugin)
        await kubelet.until(lambda k: k.plugins)
        assert kubelet.lists == []
        plugin.queue.put_nowait([Device("a")])
        await kubelet.until(lambda k: k.lists == [{"a": "Healthy"}])


async def test_tear_down_may_await_when_cancelled(directory: Path, serve: Serve) -> None:
    """The author's finally runs to its end, after the session, however serve() is cancelled."""
    plugin = Scripted([Device("a")])
    async with grpcio_kubelet(directory) as kubelet:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: plugin.serve(kubelet_dir=directory))
            await kubelet.until(lambda k: k.lists)
            group.cancel_scope.cancel()
        assert plugin.torn_down
        await kubelet.until(lambda k: k.stream_ends == [grpc.StatusCode.OK])

    plugin = Scripted([Device("a")])
    async with grpcio_kubelet(directory) as kubelet:
        task = serve(plugin)
        await kubelet.until(lambda k: k.lists)
        task.cancel()
        await asyncio.wait([task])
        assert plugin.torn_down


async def test_what_devices_raises_ends_serve(directory: Path, serve: Serve) -> None:
    """After a clean end of the session, the author's own exception comes out of serve()."""
    plugin = Scripted([Device("a")])
    async with grpcio_kubelet(directory) as kubelet:
        task = serve(plugin)
        await kubelet.until(lambda k: k.lists)
        plugin.queue.put_nowait(OSError("the bus is gone"))
        with pytest.raises(OSError, match="the bus is gone"):
            await task
        await kubelet.until(lambda k: k.stream_ends == [grpc.StatusCode.OK])
        assert [path.name for path in directory.iterdir()] == ["kubelet.sock"]


async def test_a_cancellation_from_inside_devices_is_an_error(directory: Path, serve: Serve) -> None:
    """An enumeration that is cancelled by its own doing must not end unnoticed."""
    with pytest.raises(RuntimeError, match=r"devices\(\) was cancelled from inside"):
        await serve(Scripted(asyncio.CancelledError()))


async def test_what_tear_down_raises_is_not_lost(directory: Path, serve: Serve) -> None:
    """An error in the author's finally comes out of a cancelled serve()."""
    async with grpcio_kubelet(directory) as kubelet:
        task = serve(FailsAtTheEnd([Device("a")]))
        await kubelet.until(lambda k: k.lists)
        task.cancel()
        with pytest.raises(OSError, match="cannot release"):
            await task


async def test_two_failures_at_the_end(directory: Path, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """The first failure comes out of serve(), and the other one is in the log."""
    async with grpcio_kubelet(directory) as kubelet:
        kubelet.refuse_with = 'the ResourceName "acme.com/widget" is invalid'
        with pytest.raises(RegistrationRejected):
            await serve(FailsAtTheEnd([Device("a")]))
    assert "OSError: cannot release" in caplog.text


async def test_tear_down_that_does_not_end(
    directory: Path, serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finally that hangs is left behind after a while, and that is said."""
    monkeypatch.setattr("devplugin.plugin._TEAR_DOWN_WITHIN_S", 0.02)
    release = asyncio.Event()

    class Hangs(Scripted):
        async def devices(self) -> AsyncIterator[Iterable[Device]]:
            try:
                yield [Device("a")]
                await asyncio.Event().wait()
            finally:
                await release.wait()

    task = serve(Hangs())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert "acme.com/widget: devices() did not end within 0.02 s and is left behind" in caplog.text
    release.set()
    await eventually(lambda: len(asyncio.all_tasks()) == 1)


@pytest.mark.parametrize(
    ("devices", "text"),
    [
        ([Device("a"), Device("b"), Device("a")], "two devices with the id 'a'"),
        (["/dev/a"], "'/dev/a' in it, which is no Device"),
        (Device("a"), r"must yield a whole list of devices each time, and yielded Device\(id='a'"),
        (7, "and yielded 7"),
    ],
)
async def test_lists_that_are_none(directory: Path, serve: Serve, devices: Any, text: str) -> None:
    """A list with something else in it, or with one id twice, is an error and not a guess."""
    with pytest.raises(ConfigurationError, match=text):
        await serve(Scripted(devices))


async def test_a_list_that_is_too_long(directory: Path, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A list over the kubelet's limit is not sent; the log says how many would fit, and the last good one stays."""
    too_long = [Device(f"{n:063}") for n in range(60_000)]
    plugin = Scripted(too_long, too_long, [Device("a")], too_long, too_long)
    async with grpcio_kubelet(directory) as kubelet:
        serve(plugin)
        await kubelet.until(lambda k: k.lists)
        await eventually(plugin.queue.empty)
        await eventually(lambda: "the last list that was short enough stays" in caplog.text)
        refused = [text for text in caplog.messages if "55188 of them would fit" in text]
        assert [text.rpartition(": ")[2] for text in refused] == [
            "no list is offered yet",
            "the last list that was short enough stays",
        ]
        plugin.queue.put_nowait([Device("b")])
        await kubelet.until(lambda k: len(k.lists) == 2)
        assert kubelet.lists == [{"a": "Healthy"}, {"b": "Healthy"}]


async def test_a_long_id_is_warned_of_once(directory: Path, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """The API's comment asks for at most 63 characters; no kubelet minds."""
    long = "x" * 64
    plugin = Scripted(
        [Device(long)], [], [Device(long), Device("a")], [Device(long, health=Health.UNHEALTHY), Device("a")]
    )
    async with grpcio_kubelet(directory) as kubelet:
        serve(plugin)
        await kubelet.until(lambda k: k.lists and k.lists[-1].get(long) == "Unhealthy")
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [f"acme.com/widget: device id {long!r} has more than 63 characters"]


async def test_devices_that_end_without_a_list(directory: Path, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing was offered: the log says what that means."""
    serve(Scripted(None))
    await eventually(lambda: "devices() ended without a list" in caplog.text)


async def test_devices_may_be_any_async_iterator(directory: Path, serve: Serve) -> None:
    """An object with __anext__ will do."""

    class Once:
        def __init__(self) -> None:
            self.left = [[Device("a")]]

        def __aiter__(self) -> "Once":
            return self

        async def __anext__(self) -> list[Device]:
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop()

    class Plugin(DevicePluginBase):
        resource_name = "acme.com/widget"

        def devices(self) -> AsyncIterator[list[Device]]:
            return Once()

    async with grpcio_kubelet(directory) as kubelet:
        serve(Plugin())
        await kubelet.until(lambda k: k.lists)


async def test_devices_that_is_no_generator(directory: Path, serve: Serve) -> None:
    """A coroutine function, and a plain list, are refused in words."""

    class Coroutine(DevicePluginBase):
        resource_name = "acme.com/widget"

        async def devices(self) -> list[Device]:  # type: ignore[override]
            return []

    class Plain(DevicePluginBase):
        resource_name = "acme.com/widget"

        def devices(self) -> list[Device]:  # type: ignore[override]
            return []

    for plugin in (Coroutine(), Plain()):
        with pytest.raises(ConfigurationError, match=r"devices\(\) must be an async generator"):
            await serve(plugin)


async def test_a_resource_name_that_no_kubelet_accepts(directory: Path, serve: Serve) -> None:
    """The kubelet's own rule is applied before anything is done, also to a name that was forgotten."""

    class Nameless(DevicePluginBase):
        async def devices(self) -> AsyncIterator[list[Device]]:
            yield []

    with pytest.raises(ConfigurationError, match="resource name None is not usable"):
        await serve(Nameless())
    nameless = Nameless()
    nameless.resource_name = "gpu"
    with pytest.raises(ConfigurationError, match="resource name 'gpu' is not usable"):
        await serve(nameless)


async def test_a_generator_that_never_waits(directory: Path, serve: Serve) -> None:
    """It burns its processor, and is registered, heard and ended all the same."""
    same = [Device("a")]

    class Restless(DevicePluginBase):
        resource_name = "acme.com/widget"

        async def devices(self) -> AsyncIterator[list[Device]]:
            while True:
                yield same

    async with grpcio_kubelet(directory) as kubelet:
        serve(Restless())
        await kubelet.until(lambda k: k.lists)
        assert kubelet.lists == [{"a": "Healthy"}]


async def test_many_lists_while_nobody_listens(directory: Path, serve: Serve) -> None:
    """Enumeration goes on without a kubelet, and the kubelet that comes gets the newest list only."""
    plugin = Scripted(*([Device(f"{n}")] for n in range(100)), None)
    serve(plugin)
    await eventually(lambda: plugin.torn_down)
    async with grpcio_kubelet(directory) as kubelet:
        await kubelet.until(lambda k: k.lists)
        assert kubelet.lists == [{"99": "Healthy"}]
