"""ListAndWatch: what each list and each end does to the node."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpclib.const import Cardinality, Handler
from grpclib.server import Server

from devplugin._proto import v1beta1 as pb
from devplugin.testing import ConditionNotMet, FakeKubelet, Resource
from tests.testing.conftest import Serve
from tests.testing.grpcio_plugin import RESOURCE, GrpcioPlugin, Refusal, device, healthy

pytestmark = pytest.mark.asyncio

MODERN = ("1.34", "1.36")
ALL = ("1.20", *MODERN, "1.37")


async def counts(kubelet: FakeKubelet, capacity: int, allocatable: int) -> Resource:
    """Wait for both counts."""
    await kubelet.capacity(RESOURCE, capacity)
    return await kubelet.allocatable(RESOURCE, allocatable)


async def test_each_list_replaces_the_whole(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """Only "Healthy" is healthy; an empty list is zero of zero; the records have what came."""
    await plugin.send(
        *healthy("1", "2"), device("3", "Unhealthy"), device("4", "healthy"), device("5", "Healthy", 0, 1)
    )
    seen = await counts(kubelet, 5, 3)
    assert seen.healthy == frozenset({"1", "2", "5"})
    assert seen.unhealthy == frozenset({"3", "4"})
    newest = kubelet.snapshots[-1]
    assert newest.devices == {"1": "Healthy", "2": "Healthy", "3": "Unhealthy", "4": "healthy", "5": "Healthy"}
    assert newest.numa_nodes == {"5": (0, 1)}
    assert (newest.resource, newest.endpoint) == (RESOURCE, "grpcio.sock")
    await plugin.send()
    await counts(kubelet, 0, 0)
    await plugin.send(*healthy("1"))
    await counts(kubelet, 1, 1)


async def test_one_id_with_two_states_counts_twice(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """The kubelet keeps two sets, and an id can be in both."""
    await plugin.send(*healthy("1", "1"), device("1", "Unhealthy"))
    await counts(kubelet, 2, 1)


async def test_no_list_no_resource(kubelet: FakeKubelet, plugins: Serve) -> None:
    """A registered resource appears with its first list."""
    plugin = await plugins()
    plugin.hold = {"ListAndWatch": asyncio.Event()}
    await plugin.register()
    assert kubelet.resources == {}
    plugin.hold["ListAndWatch"].set()
    await counts(kubelet, 4, 4)


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, "EOF"),
        (Refusal(grpc.StatusCode.INTERNAL, "oh"), "rpc error: code = Internal desc = oh"),
        (Refusal(grpc.StatusCode.CANCELLED, "oh"), "rpc error: code = Canceled desc = oh"),
    ],
    ids=["OK", "error", "cancelled"],
)
async def test_any_end_makes_all_unhealthy(
    directory: Path, plugins: Serve, version: str, error: Refusal | None, said: str
) -> None:
    """OK or error: unhealthy at once, the stream is not tried again, and after five minutes the resource is gone."""
    async with FakeKubelet(directory, version) as kubelet:
        plugin = await plugins()
        await plugin.register()
        await counts(kubelet, 4, 4)
        await plugin.end_streams(error)
        await counts(kubelet, 4, 0)
        assert kubelet.log[-1] == f"ListAndWatch ended unexpectedly for device plugin {RESOURCE}: {said}"
        kubelet.clock.advance(290)
        assert kubelet.resources[RESOURCE].capacity == 4
        kubelet.clock.advance(10)
        assert kubelet.resources[RESOURCE] == Resource(capacity=0, allocatable=0)
        assert len(plugin.asked("ListAndWatch")) == 1


async def test_the_plugin_vanishes(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """A connection that breaks ends the stream."""
    await plugin.stop()
    await counts(kubelet, 4, 0)


async def test_registered_again_within_the_grace(kubelet: FakeKubelet, plugin: GrpcioPlugin, plugins: Serve) -> None:
    """A plugin that is back in time is not forgotten later."""
    await plugin.stop()
    await counts(kubelet, 4, 0)
    kubelet.clock.advance(299)
    other = await plugins("other.sock", *healthy("1"))
    await other.register()
    await counts(kubelet, 1, 1)
    kubelet.clock.advance(300)
    assert kubelet.resources[RESOURCE].allocatable == 1


async def test_registered_again_after_the_grace(kubelet: FakeKubelet, plugin: GrpcioPlugin, plugins: Serve) -> None:
    """A forgotten resource comes back with its next list."""
    await plugin.stop()
    await counts(kubelet, 4, 0)
    kubelet.clock.advance(300)
    await counts(kubelet, 0, 0)
    other = await plugins("other.sock")
    await other.register()
    await counts(kubelet, 4, 4)


async def test_only_the_gone_one_is_forgotten(kubelet: FakeKubelet, plugin: GrpcioPlugin, plugins: Serve) -> None:
    """The end of one resource's grace leaves the others alone."""
    other = await plugins("other.sock")
    await other.register("other/one")
    await kubelet.allocatable("other/one", 4)
    await plugin.stop()
    await counts(kubelet, 4, 0)
    kubelet.clock.advance(300)
    assert kubelet.resources["other/one"].allocatable == 4


@pytest.mark.parametrize(("extra", "taken"), [(0, True), (1, False)])
async def test_four_mebibytes(kubelet: FakeKubelet, plugins: Serve, extra: int, taken: bool) -> None:  # noqa: FBT001
    """A list of 4,194,304 bytes is taken; one byte more ends the stream."""
    filler = device("x" * 4_194_000)
    room = 4_194_304 + extra - len(bytes(pb.ListAndWatchResponse(devices=[filler])))
    filler.id += "x" * room
    plugin = await plugins("grpcio.sock", filler)
    assert len(bytes(pb.ListAndWatchResponse(devices=[filler]))) == 4_194_304 + extra
    await plugin.register()
    if taken:
        await counts(kubelet, 1, 1)
    else:
        await kubelet.until(lambda: "ended" in kubelet.log[-1], "The end of the stream")
        assert kubelet.log[-1].endswith(
            "rpc error: code = ResourceExhausted desc = grpc: received message larger than max (4194305 vs. 4194304)"
        )
        await counts(kubelet, 0, 0)


# Two plugins of one resource: the traps of the versions ---------------------------------------------------------------


async def two(kubelet: FakeKubelet, plugins: Serve) -> tuple[GrpcioPlugin, GrpcioPlugin]:
    """An old plugin with four devices and a new one with two."""
    old, new = await plugins("old.sock"), await plugins("new.sock", *healthy("5", "6"))
    await old.register()
    await counts(kubelet, 4, 4)
    await new.register()
    await counts(kubelet, 2, 2)
    return old, new


@pytest.mark.parametrize("version", MODERN)
async def test_a_late_end_disconnects_the_newest(directory: Path, plugins: Serve, version: str) -> None:
    """Until 1.36 the end of the old stream disconnects the new plugin, whose stream ends."""
    async with FakeKubelet(directory, version) as kubelet:
        old, new = await two(kubelet, plugins)
        await old.end_streams()
        await counts(kubelet, 2, 0)
        await new.stream_ended.wait()
        pod = await kubelet.create_pod("demo", {RESOURCE: 1}, bound=True).failed()
        assert "no healthy devices present" in pod.message


@pytest.mark.parametrize("version", ["1.20", "1.37"])
async def test_a_late_end_harms_nobody(directory: Path, plugins: Serve, version: str) -> None:
    """Elsewhere it leaves the list as it is, and the new plugin is asked for devices."""
    async with FakeKubelet(directory, version) as kubelet:
        old, new = await two(kubelet, plugins)
        await old.end_streams()
        await old.stream_ended.wait()
        await kubelet.create_pod("demo", {RESOURCE: 1}, bound=True).running()
        assert new.streams == 1
        assert len(new.asked("Allocate")) == 1
        assert kubelet.resources[RESOURCE].allocatable == 2


async def test_the_newest_goes_first(directory: Path, plugins: Serve) -> None:
    """Since 1.37 the one that stays takes over; its end is the end."""
    async with FakeKubelet(directory, "1.37") as kubelet:
        old, new = await two(kubelet, plugins)
        await new.end_streams()
        await kubelet.until(lambda: "ended" in kubelet.log[-1], "The end of the stream")
        assert kubelet.resources[RESOURCE].allocatable == 2
        await kubelet.create_pod("demo", {RESOURCE: 1}).running()
        assert len(old.asked("Allocate")) == 1
        await old.end_streams()
        await counts(kubelet, 2, 0)


async def refused(register: Callable[[], object]) -> str:
    """The text of a refusal."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await register()  # type: ignore[misc]
    return caught.value.details() or ""


async def test_one_path_twice(directory: Path, plugins: Serve) -> None:
    """Since 1.37 a path is refused for ever after its second use: its end goes unnoticed."""
    async with FakeKubelet(directory, "1.37") as kubelet:
        plugin = await plugins()
        await plugin.register()
        await counts(kubelet, 4, 4)
        assert await refused(plugin.register) == f"device plugin already connected: {directory / 'grpcio.sock'}"
        await plugin.end_streams()
        await plugin.stream_ended.wait()
        await kubelet.until(lambda: "ended" in kubelet.log[-1], "The end of the stream")
        await counts(kubelet, 4, 4)
        assert "already connected" in await refused(plugin.register)
        await plugin.stop()
        pod = await kubelet.create_pod("late", {RESOURCE: 1}).failed()
        assert "due to rpc error: code = Unavailable desc = " in pod.message


async def test_another_path_of_another_resource(directory: Path, plugins: Serve) -> None:
    """Since 1.37, too, one path can serve two resources."""
    async with FakeKubelet(directory, "1.37") as kubelet:
        plugin = await plugins()
        await plugin.register()
        await plugin.register("other/one")
        await kubelet.allocatable("other/one", 4)
        await counts(kubelet, 4, 4)


@pytest.mark.parametrize("version", MODERN)
async def test_a_failed_registration_hides_the_end_of_a_living_one(
    directory: Path, plugins: Serve, version: str
) -> None:
    """Until 1.36 a registration that fails drops the living plugin from the books."""
    async with FakeKubelet(directory, version) as kubelet:
        plugin, broken = await plugins(), await plugins("broken.sock")
        await plugin.register()
        await counts(kubelet, 4, 4)
        broken.options = Refusal(grpc.StatusCode.UNKNOWN, "broken")
        assert "broken" in await refused(broken.register)
        await plugin.send(*healthy("1"))
        await counts(kubelet, 1, 1)
        await plugin.end_streams()
        await kubelet.until(lambda: "ended" in kubelet.log[-1], "The end of the stream")
        await counts(kubelet, 1, 1)


# What is said when a condition does not come true ---------------------------------------------------------------------


async def test_what_it_saw_instead(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """The error names the resource, the registrations, the newest list and the log."""
    with pytest.raises(ConditionNotMet) as caught:
        await kubelet.allocatable(RESOURCE, 5, timeout_s=0)
    text = str(caught.value)
    assert text.startswith(f"{RESOURCE} was to have 5 allocatable. The kubelet, running, sees Resource(capacity=4, all")
    for part in (
        "Registration of demo/sample-device on grpcio.sock: accepted",
        "Snapshot of demo/sample-device on grpcio.sock: 1 Healthy, 2 Healthy,",
        "Other resources: none",
        "Got registration request",
    ):
        assert part in text


async def test_what_it_saw_of_nothing(kubelet: FakeKubelet) -> None:
    """Where nothing has happened, the error says so."""
    await kubelet.stop()
    for waiting in (kubelet.capacity("a/b", 1, timeout_s=0), kubelet.registered("a/b", timeout_s=0)):
        with pytest.raises(ConditionNotMet) as caught:
            await waiting
        assert "The kubelet, stopped, sees no such resource. Registrations: none. Newest list: none." in str(
            caught.value
        )
        assert str(caught.value).endswith("Log: empty")


async def test_waiting_for_a_registration(kubelet: FakeKubelet, plugin: GrpcioPlugin, plugins: Serve) -> None:
    """The newest accepted one is given once there are as many."""
    other = await plugins("other.sock")
    waiting = asyncio.create_task(kubelet.registered(RESOURCE, count=2))
    await other.register()
    assert (await waiting).endpoint == "other.sock"


async def test_any_condition(kubelet: FakeKubelet) -> None:
    """A condition of the test's own fails with how things are."""
    with pytest.raises(
        ConditionNotMet, match=r"^The moon did not come true\. <FakeKubelet 1\.36 running in .*Log: empty$"
    ):
        await kubelet.until(lambda: False, "The moon", timeout_s=0)


# Peers that break the protocol ----------------------------------------------------------------------------------------


class NoAnswers:
    """A plugin whose Allocate ends well without a message, which gRPC forbids for all but streams."""

    def __mapping__(self) -> dict[str, Handler]:
        async def options(stream: Any) -> None:
            await stream.recv_message()
            await stream.send_message(pb.DevicePluginOptions())

        async def watch(stream: Any) -> None:
            await stream.recv_message()
            await stream.send_message(pb.ListAndWatchResponse(devices=healthy("1")))
            await asyncio.Event().wait()

        async def nothing(stream: Any) -> None:
            await stream.recv_message()

        calls = [
            ("GetDevicePluginOptions", options, pb.DevicePluginOptions),
            ("ListAndWatch", watch, pb.ListAndWatchResponse),
            ("Allocate", nothing, pb.AllocateResponse),
        ]
        return {
            f"/v1beta1.DevicePlugin/{name}": Handler(call, Cardinality.UNARY_STREAM, pb.Empty, answer)
            for name, call, answer in calls
        }


async def test_an_answer_that_is_none(kubelet: FakeKubelet, directory: Path) -> None:
    """What is no answer is an error, as in Go."""
    server = Server([NoAnswers()])
    await server.start(path=str(directory / "odd.sock"))
    try:
        await GrpcioPlugin(directory, "odd.sock").register()
        await counts(kubelet, 1, 1)
        pod = await kubelet.create_pod("demo", {RESOURCE: 1}).failed()
        assert "due to rpc error: code = Internal desc = cardinality violation: received no response" in pod.message
    finally:
        await kubelet.stop()
        server.close()
