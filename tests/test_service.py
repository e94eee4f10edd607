"""The DevicePlugin service, asked by grpcio as the kubelet asks it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest

from devplugin import (
    Allocation,
    AllocationError,
    Device,
    DeviceNode,
    DevicePluginBase,
    Health,
    Mount,
    PreferredAllocationRequest,
    UnknownDevice,
    _claims,
    _service,
)
from devplugin._calls import REQUEST_BYTES_MAX
from devplugin._cell import Latest
from devplugin._proto import v1beta1 as pb
from devplugin._server import Server, serving
from devplugin._service import Service
from devplugin._snapshot import Snapshot
from tests.conftest import eventually
from tests.grpcio_kubelet import PluginClient

pytestmark = pytest.mark.asyncio


@dataclass(frozen=True, slots=True)
class Gpu(Device):
    bus: str = ""


class Gpus(DevicePluginBase[Gpu]):
    """A plugin whose hooks are what a test says."""

    resource_name = "acme.com/gpu"

    def devices(self) -> AsyncIterator[list[Gpu]]:
        raise NotImplementedError  # the tests set snapshots themselves


class Served:
    def __init__(self, service: Service[Gpu], snapshots: Latest[Snapshot[Gpu]], server: Server) -> None:
        self.service = service
        self.snapshots = snapshots
        self.server = server
        self.kubelet = PluginClient(Path(server.path))

    async def offer(self, *devices: Gpu) -> None:
        self.snapshots.set(await Snapshot.take(devices, self.snapshots.get()))


@asynccontextmanager
async def served(plugin: DevicePluginBase[Gpu], directory: Path, *devices: Gpu) -> AsyncIterator[Served]:
    snapshots: Latest[Snapshot[Gpu]] = Latest()
    service = Service(plugin, snapshots, b"", on_stream=lambda: None)
    async with serving(str(directory), plugin.resource_name, service.methods()) as server:
        under_test = Served(service, snapshots, server)
        if devices:
            await under_test.offer(*devices)
        yield under_test
        await under_test.kubelet.channel.close()


async def _read(stream: "grpc.aio.UnaryStreamCall[bytes, bytes]") -> dict[str, str]:
    """The next list of a stream: the health of each device."""
    message = await stream.read()
    assert isinstance(message, bytes)
    return {device.id: device.health for device in pb.ListAndWatchResponse.parse(message).devices}


GPUS = (Gpu("g0", bus="0000:01"), Gpu("g1", bus="0000:02"), Gpu("sick", health=Health.UNHEALTHY))


async def refused(call: "asyncio.Future[object] | object") -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value.code(), caught.value.details() or ""


async def test_hooks_get_what_devices_yielded(directory: Path) -> None:
    """The objects that reach a hook are those of the snapshot, subclass and all."""

    class Plugin(Gpus):
        seen: Sequence[Gpu] = ()

        async def allocate(self, devices: Sequence[Gpu]) -> Allocation:
            Plugin.seen = devices
            return Allocation(env={"BUS": ",".join(device.bus for device in devices)})

    async with served(Plugin(), directory, *GPUS) as plugin:
        (answer,) = await plugin.kubelet.allocate(["g1", "g0"])
        assert answer.envs == {"BUS": "0000:02,0000:01"}
        assert [*map(id, Plugin.seen)] == [id(GPUS[1]), id(GPUS[0])]


async def test_all_that_is_granted_reaches_the_kubelet(directory: Path) -> None:
    """Environment, mounts, nodes, annotations and CDI names arrive, for any number of containers in one request."""
    grants = Allocation(
        env={"A": "ä", "EMPTY": ""},
        mounts=[Mount("/c", "/h", read_only=True), Mount("/d", "/i")],
        device_nodes=[DeviceNode("/dev/c", "/dev/h", "rwm")],
        annotations={"acme.com/x": "y"},
        cdi_devices=["acme.com/gpu=g0"],
    )
    async with served(Gpus(), directory, Gpu("g0", grants=grants), Gpu("g1")) as plugin:
        first, second, third = await plugin.kubelet.allocate(["g0"], ["g1"], [])
        assert first == pb.ContainerAllocateResponse(
            envs={"A": "ä", "EMPTY": ""},
            mounts=[
                pb.Mount(container_path="/c", host_path="/h", read_only=True),
                pb.Mount(container_path="/d", host_path="/i"),
            ],
            devices=[pb.DeviceSpec(container_path="/dev/c", host_path="/dev/h", permissions="rwm")],
            annotations={"acme.com/x": "y"},
            cdi_devices=[pb.CdiDevice(name="acme.com/gpu=g0")],
        )
        assert second == third == pb.ContainerAllocateResponse()


async def test_unknown_and_unhealthy_ids_are_refused(directory: Path) -> None:
    """A pod's owner reads which device it is and what is wrong with it."""
    async with served(Gpus(), directory, *GPUS) as plugin:
        assert await refused(plugin.kubelet.allocate(["g0", "gone", "lost"])) == (
            grpc.StatusCode.NOT_FOUND,
            "acme.com/gpu has no device gone, lost on this node any more",
        )
        assert await refused(plugin.kubelet.allocate(["sick"])) == (
            grpc.StatusCode.UNAVAILABLE,
            "acme.com/gpu device sick is unhealthy and cannot be given to a container",
        )


async def test_before_the_first_snapshot_no_device_is_known(directory: Path) -> None:
    """Calls that come before the first list are answered too."""
    async with served(Gpus(), directory) as plugin:
        assert (await refused(plugin.kubelet.allocate(["g0"])))[0] == grpc.StatusCode.NOT_FOUND
        assert await plugin.kubelet.prefer(["g0"], [], 1) == []


async def test_devices_that_contradict_each_other(directory: Path) -> None:
    """Two devices that set one variable differently cannot go to one container, and the sentence names both."""
    one, two = Gpu("g0", grants=Allocation(env={"X": "1"})), Gpu("g1", grants=Allocation(env={"X": "2"}))
    async with served(Gpus(), directory, one, two) as plugin:
        code, text = await refused(plugin.kubelet.allocate(["g0", "g1"]))
        assert code == grpc.StatusCode.FAILED_PRECONDITION
        assert text == ("Devices g0 and g1 cannot go to one container: they set environment variable X differently")


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (AllocationError("No licence\nis left"), grpc.StatusCode.FAILED_PRECONDITION, "No licence is left"),
        (
            AllocationError(),
            grpc.StatusCode.FAILED_PRECONDITION,
            "the device plugin of acme.com/gpu refused (allocate)",
        ),
        (type("Lost", (UnknownDevice,), {})("it is lost"), grpc.StatusCode.NOT_FOUND, "it is lost"),
        (AllocationError("x" * 2000), grpc.StatusCode.FAILED_PRECONDITION, "x" * 799 + "…"),
        (
            ZeroDivisionError("secret"),
            grpc.StatusCode.INTERNAL,
            "the device plugin of acme.com/gpu failed (allocate, ZeroDivisionError); its log says why",
        ),
        (
            TimeoutError("the hook's own"),
            grpc.StatusCode.INTERNAL,
            "the device plugin of acme.com/gpu failed (allocate, TimeoutError); its log says why",
        ),
    ],
)
async def test_what_a_hook_raises(
    directory: Path, raised: Exception, code: grpc.StatusCode, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An AllocationError reaches the pod's owner in its own words, anything else in safe ones with a traceback in the log."""

    class Plugin(Gpus):
        async def allocate(self, devices: Sequence[Gpu]) -> Allocation:  # noqa: ARG002
            raise raised

    async with served(Plugin(), directory, *GPUS) as plugin:
        assert await refused(plugin.kubelet.allocate(["g0"])) == (code, text)
        tracebacks = [record for record in caplog.records if record.exc_info]
        assert bool(tracebacks) == (not isinstance(raised, AllocationError))
        assert not [record for record in caplog.records if record.name.startswith("grpclib")]


async def test_a_hook_that_returns_something_else(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A forgotten return is said in the log, and does not give a container nothing."""

    class Plugin(Gpus):
        async def allocate(self, devices: Sequence[Gpu]) -> Allocation:  # noqa: ARG002
            return None  # type: ignore[return-value]

    async with served(Plugin(), directory, *GPUS) as plugin:
        assert (await refused(plugin.kubelet.allocate(["g0"])))[0] == grpc.StatusCode.INTERNAL
        assert "allocate() returned None, which is no Allocation" in caplog.text


async def test_a_hook_that_hangs(directory: Path) -> None:
    """The kubelet brings no deadline for Allocate, so the plugin's own one answers."""

    class Plugin(Gpus):
        allocate_timeout_s = pre_start_container_timeout_s = preferred_allocation_timeout_s = 0.02

        async def allocate(self, devices: Sequence[Gpu]) -> Allocation:  # noqa: ARG002
            await asyncio.Event().wait()
            raise AssertionError

        async def pre_start_container(self, devices: Sequence[Gpu]) -> None:  # noqa: ARG002
            await asyncio.Event().wait()

        async def preferred_allocation(self, request: PreferredAllocationRequest[Gpu]) -> Sequence[Gpu]:  # noqa: ARG002
            await asyncio.Event().wait()
            raise AssertionError

    async with served(Plugin(), directory, *GPUS) as plugin:
        late = "the device plugin of acme.com/gpu did not answer in 0.02 s"
        assert await refused(plugin.kubelet.allocate(["g0"])) == (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            f"{late} (allocate)",
        )
        assert await refused(plugin.kubelet.pre_start("g0")) == (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            f"{late} (pre_start_container)",
        )
        assert await plugin.kubelet.prefer(["g0"], [], 1) == []


async def test_preferred_allocation(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The hook sees devices, the kubelet ids; unknown ids are dropped, and a failing hook is no preference."""

    class Plugin(Gpus):
        async def preferred_allocation(self, request: PreferredAllocationRequest[Gpu]) -> Sequence[Gpu]:
            if request.size > 2:
                raise ValueError("too many")
            return [*request.must_include, *reversed(request.available)][: request.size]

    async with served(Plugin(), directory, *GPUS) as plugin:
        assert await plugin.kubelet.prefer(["g0", "g1", "gone"], ["g0"], 2) == ["g0", "g1"]
        assert await plugin.kubelet.prefer(["g0", "g1"], [], 3) == []
        assert "preferred_allocation failed: the kubelet will choose" in caplog.text


async def test_pre_start_container(directory: Path) -> None:
    """The hook gets the container's devices, unhealthy ones too; an id that is gone is refused."""

    class Plugin(Gpus):
        started: Sequence[Gpu] = ()

        async def pre_start_container(self, devices: Sequence[Gpu]) -> None:
            Plugin.started = devices

    async with served(Plugin(), directory, *GPUS) as plugin:
        await plugin.kubelet.pre_start("g1", "sick")
        assert Plugin.started == [GPUS[1], GPUS[2]]
        assert (await refused(plugin.kubelet.pre_start("gone")))[0] == grpc.StatusCode.NOT_FOUND


async def test_hooks_that_are_not_overridden_answer_neutrally(directory: Path) -> None:
    """A kubelet that asks all the same gets no preference and no error."""
    async with served(Gpus(), directory, *GPUS) as plugin:
        assert await plugin.kubelet.prefer(["g0"], [], 1) == []
        await plugin.kubelet.pre_start("g0")


async def test_every_stream_gets_the_newest_list(directory: Path) -> None:
    """Any number of streams see each change, and an unchanged list is not sent again."""
    async with served(Gpus(), directory) as plugin:
        streams = [plugin.kubelet.list_and_watch() for _ in range(3)]
        reads = [asyncio.create_task(_read(stream)) for stream in streams]
        await plugin.offer(GPUS[0])
        assert await asyncio.gather(*reads) == [{"g0": "Healthy"}] * 3
        await plugin.offer(Gpu("g0", bus="another object that looks the same"))
        await plugin.offer(Gpu("g0", health=Health.UNHEALTHY))
        for stream in streams:
            assert await _read(stream) == {"g0": "Unhealthy"}
            stream.cancel()


async def test_a_slow_reader_gets_the_newest_list_and_no_queue(directory: Path) -> None:
    """While a reader does not read, lists replace each other."""
    many = [Gpu(f"{n:060}") for n in range(50_000)]  # more than the windows of a connection hold
    async with served(Gpus(), directory, *many) as plugin:
        stream = plugin.kubelet.list_and_watch()
        await stream.initial_metadata()
        for count in (30, 20, 10):
            await plugin.offer(*many[:count])
            await asyncio.sleep(0)
        counts = []
        while 10 not in counts:
            counts.append(len(await _read(stream)))
        assert counts == [50_000, 10]
        stream.cancel()


async def test_a_device_stays_listed_while_it_is_allocated(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that leaves it out says Unhealthy until the kubelet must have the answer: kubelets crash over less."""
    monkeypatch.setattr(_claims, "_AFTER_THE_ANSWER_S", 0.3)
    asked, answer = asyncio.Event(), asyncio.Event()

    class Slow(Gpus):
        async def allocate(self, devices: Sequence[Gpu]) -> Allocation:  # noqa: ARG002
            asked.set()
            await answer.wait()
            return Allocation()

    async with served(Slow(), directory, *GPUS) as plugin:
        stream = plugin.kubelet.list_and_watch()
        assert await _read(stream) == {"g0": "Healthy", "g1": "Healthy", "sick": "Unhealthy"}
        allocating = asyncio.create_task(plugin.kubelet.allocate(["g0"]))
        await asked.wait()
        await plugin.offer(GPUS[2])
        assert await _read(stream) == {"sick": "Unhealthy", "g0": "Unhealthy"}
        await plugin.offer(GPUS[1])
        assert await _read(stream) == {"g1": "Healthy", "g0": "Unhealthy"}
        assert repr(plugin.service._claims) == "Claims(['g0'])"
        next_list = asyncio.create_task(_read(stream))
        answer.set()
        await allocating
        assert not next_list.done()
        assert await next_list == {"g1": "Healthy"}
        stream.cancel()


async def test_a_list_without_room_for_a_device_that_is_allocated(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a list waits."""
    monkeypatch.setattr(_claims, "_AFTER_THE_ANSWER_S", 0.3)
    monkeypatch.setattr(_service, "LIST_BYTES_MAX", 60)
    many = [Gpu("f" * 20), Gpu("e" * 9)]
    async with served(Gpus(), directory, Gpu("g0")) as plugin:
        stream = plugin.kubelet.list_and_watch()
        assert await _read(stream) == {"g0": "Healthy"}
        await plugin.kubelet.allocate(["g0"])
        await plugin.offer(*many)
        assert plugin.service._claims.left_out(()) == ["g0"]
        assert await _read(stream) == {device.id: "Healthy" for device in many}
        assert plugin.service._claims.left_out(()) == []
        stream.cancel()


async def test_ended_streams_end_with_ok(directory: Path) -> None:
    """The end of a session is an orderly end of each stream, also before a first list."""
    async with served(Gpus(), directory) as plugin:
        stream = plugin.kubelet.list_and_watch()
        reading = asyncio.create_task(stream.read())
        await eventually(lambda: plugin.service.stream_seen)
        assert repr(plugin.service) == "Service('acme.com/gpu', 1 streams)"
        plugin.service.end_streams()
        assert await reading is grpc.aio.EOF
        assert await stream.code() == grpc.StatusCode.OK
        assert plugin.service.stream_ended


@pytest.mark.parametrize("data", [b"\x0a\x05\x0a\x01", b"\x0a\x03\x0a\x01\xff", b"\x0b", b"\xff" * 11])
async def test_malformed_messages_harm_no_other_call(directory: Path, data: bytes) -> None:
    """A message that is none is refused, and the next call on the connection works."""
    async with served(Gpus(), directory, *GPUS) as plugin:
        code, text = await refused(plugin.kubelet.call("Allocate", data))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert "message" in text
        assert await plugin.kubelet.allocate(["g0"])


async def test_a_request_over_the_limit(directory: Path) -> None:
    """A request over 16 MiB is refused by its length."""
    async with served(Gpus(), directory, *GPUS) as plugin:
        code, text = await refused(plugin.kubelet.call("Allocate", bytes(REQUEST_BYTES_MAX + 1)))
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert text == "a message of 16777217 bytes is over the limit of 16777216 bytes"
        assert await plugin.kubelet.allocate(["g0"])
        code, _ = await refused(plugin.kubelet.call("Allocate", bytes(REQUEST_BYTES_MAX)))
        assert code == grpc.StatusCode.INVALID_ARGUMENT  # read, and found to be no message


async def test_an_unknown_method(directory: Path) -> None:
    """What later APIs may ask is UNIMPLEMENTED."""
    async with served(Gpus(), directory, *GPUS) as plugin:
        assert (await refused(plugin.kubelet.call("Deallocate")))[0] == grpc.StatusCode.UNIMPLEMENTED


async def test_a_compressed_message(directory: Path) -> None:
    """Compression is refused in words."""
    async with served(Gpus(), directory, *GPUS) as plugin:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = plugin.kubelet.channel.unary_unary(
            "/v1beta1.DevicePlugin/Allocate"
        )
        code, text = await refused(method(bytes(1000), compression=grpc.Compression.Gzip))
        assert (code, text) == (grpc.StatusCode.UNIMPLEMENTED, "compressed messages are not supported")


async def test_a_call_without_a_message(directory: Path) -> None:
    """A request stream that ends at once is refused."""
    async with served(Gpus(), directory, *GPUS) as plugin:
        call: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = plugin.kubelet.channel.stream_unary(
            "/v1beta1.DevicePlugin/Allocate"
        )

        async def nothing() -> AsyncIterator[bytes]:
            return
            yield

        assert await refused(call(nothing())) == (grpc.StatusCode.INVALID_ARGUMENT, "there is no message")


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancellation_while_calls_are_awaited_is_not_lost(directory: Path, turns: int) -> None:
    """At whatever turn of the loop it comes: on Python 3.11 asyncio.wait_for() would lose it, and serve() never end."""
    async with served(Gpus(), directory, *GPUS) as plugin:
        waiting = asyncio.create_task(plugin.server.replies_sent(10))
        for _ in range(turns):
            await asyncio.sleep(0)
        requested = waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled() == requested


async def test_calls_are_independent(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A call that waits holds up no other, and replies_sent() waits for it."""
    caplog.set_level(logging.DEBUG, "devplugin")
    release = asyncio.Event()

    class Plugin(Gpus):
        async def allocate(self, devices: Sequence[Gpu]) -> Allocation:
            if devices[0].id == "g0":
                await release.wait()
            return Allocation()

    async with served(Plugin(), directory, *GPUS) as plugin:
        slow = asyncio.create_task(plugin.kubelet.allocate(["g0"]))
        await asyncio.gather(*(plugin.kubelet.allocate(["g1"]) for _ in range(50)))
        await plugin.server.replies_sent(0.01)
        assert not slow.done()
        done = asyncio.create_task(plugin.server.replies_sent(10))
        release.set()
        await asyncio.gather(slow, done)
    details = [vars(record)["details"] for record in caplog.records if record.message == "DevicePlugin.allocate"]
    assert {"resource": "acme.com/gpu", "ids": ["g0"]} in details
