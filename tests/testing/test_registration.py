"""Register: its order, its refusals, and what the plugin sees of the kubelet."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived

from devplugin._proto import v1beta1 as pb
from devplugin.testing import Clock, FakeKubelet
from devplugin.testing._grpc import GoServer
from tests.testing.conftest import Serve
from tests.testing.grpcio_plugin import RESOURCE, GrpcioPlugin, Refusal, healthy

pytestmark = pytest.mark.asyncio


async def refusal_of(plugin: GrpcioPlugin, *args: str, timeout_s: float = 15) -> str:
    """Register, and give the text of the refusal, which always has the status UNKNOWN."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await plugin.register(*args, timeout_s=timeout_s)
    assert caught.value.code() == grpc.StatusCode.UNKNOWN
    return caught.value.details() or ""


async def test_dials_back_before_it_answers(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """The options are asked for inside Register, ListAndWatch after it."""
    assert [method for method, _ in plugin.seen] == ["GetDevicePluginOptions", "ListAndWatch"]
    [registration] = kubelet.registrations
    assert registration.error is None
    assert (registration.resource, registration.endpoint, registration.version) == (RESOURCE, "grpcio.sock", "v1beta1")
    assert kubelet.refusals == []


@pytest.mark.parametrize(
    ("version", "quoted"),
    [
        ("v1alpha", '"v1alpha"'),
        ("", '""'),
        ('a"\\\n\x01', r'"a\"\\\n\x01"'),
        ("ü\x85\u200b\U000e0001", r'"ü\u0085\u200b\U000e0001"'),
    ],
)
async def test_refused_version(kubelet: FakeKubelet, plugins: Serve, version: str, quoted: str) -> None:
    """Another version of the API is refused before anything else happens."""
    plugin = await plugins()
    text = await refusal_of(plugin, "not a name", version)
    assert text == f'requested API version {quoted} is not supported by kubelet. Supported version is ["v1beta1"]'
    assert plugin.seen == []
    assert [refused.error for refused in kubelet.refusals] == [text]


async def test_refused_name(kubelet: FakeKubelet, plugins: Serve) -> None:
    """A name that is none is refused before the dial."""
    plugin = await plugins()
    assert await refusal_of(plugin, "no-slash") == 'the ResourceName "no-slash" is invalid'
    assert plugin.seen == []
    assert kubelet.resources == {}


async def test_nobody_listens(kubelet: FakeKubelet, directory: Path) -> None:
    """A socket on which nobody listens is tried for ten seconds of the kubelet's clock."""
    registering = asyncio.create_task(refusal_of(GrpcioPlugin(directory)))
    await kubelet.until(lambda: len(kubelet.log) == 2, "The dial")
    kubelet.clock.advance(9.5)
    await asyncio.sleep(0)
    assert not registering.done()
    kubelet.clock.advance(0.5)
    assert await registering == "failed to dial device plugin: context deadline exceeded"
    assert 10 <= kubelet.refusals[0].at_s < 11


async def test_listens_late(kubelet: FakeKubelet, directory: Path, plugins: Serve) -> None:
    """A plugin that begins to listen within those ten seconds is found."""
    registering = asyncio.create_task(GrpcioPlugin(directory).register())
    await kubelet.until(lambda: len(kubelet.log) == 2, "The dial")
    await plugins()
    kubelet.clock.advance(1)
    await registering
    await kubelet.allocatable(RESOURCE, 4)


async def test_accepts_but_says_nothing(kubelet: FakeKubelet, directory: Path) -> None:
    """A peer that never sends its SETTINGS is no plugin: the dial ends after ten seconds."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(directory / "grpcio.sock"))
        silent.listen()
        registering = asyncio.create_task(refusal_of(GrpcioPlugin(directory)))
        accepted, _ = await asyncio.to_thread(silent.accept)
        with accepted:
            kubelet.clock.advance(10)
            assert await registering == "failed to dial device plugin: context deadline exceeded"


async def test_hangs_up_at_once(kubelet: FakeKubelet, directory: Path) -> None:
    """A peer that closes the connection before it says anything is tried again."""
    with socket.socket(socket.AF_UNIX) as rude:
        rude.bind(str(directory / "grpcio.sock"))
        rude.listen()
        registering = asyncio.create_task(refusal_of(GrpcioPlugin(directory)))
        (await asyncio.to_thread(rude.accept))[0].close()
        again = asyncio.create_task(asyncio.to_thread(rude.accept))
        while not again.done():
            kubelet.clock.advance(0.5)
            await asyncio.wait([again], timeout=0.02)
        accepted, _ = await again
        with accepted:
            kubelet.clock.advance(10)
            assert await registering == "failed to dial device plugin: context deadline exceeded"


@pytest.mark.parametrize("endpoint", ["/grpcio.sock", "./sub/../grpcio.sock", "//grpcio.sock"])
async def test_endpoint_is_joined_as_go_does(kubelet: FakeKubelet, plugins: Serve, endpoint: str) -> None:
    """The endpoint is taken below the directory, even when it looks absolute."""
    plugin = await plugins()
    await plugin.register(socket=endpoint)
    await kubelet.allocatable(RESOURCE, 4)
    assert kubelet.registrations[0].endpoint == endpoint
    assert kubelet.snapshots[0].endpoint == "grpcio.sock"


async def test_options_fail(kubelet: FakeKubelet, plugins: Serve) -> None:
    """A plugin whose options cannot be had is refused, with Go's text of its error, and never appears."""
    plugin = await plugins()
    plugin.options = Refusal(grpc.StatusCode.UNIMPLEMENTED, "ünknown")
    text = await refusal_of(plugin)
    assert text == "failed to get device plugin options: rpc error: code = Unimplemented desc = ünknown"
    assert plugin.streams == 0
    assert kubelet.resources == {}


async def test_options_by_rpc_count(kubelet: FakeKubelet, plugins: Serve) -> None:
    """The record has the options that the plugin answered."""
    plugin = await plugins()
    plugin.options = pb.DevicePluginOptions(pre_start_required=True)
    await plugin.register()
    assert kubelet.registrations[0].pre_start_required
    assert not kubelet.registrations[0].get_preferred_allocation_available


async def test_caller_gives_up(directory: Path, plugins: Serve) -> None:
    """Since 1.35 a registration ends with its caller; in 1.34 it goes on, and the plugin is there all the same."""
    for version, survives in (("1.34", True), ("1.36", False)):
        async with FakeKubelet(directory, version) as kubelet:
            plugin = await plugins(f"{version}.sock")
            plugin.hold = {"GetDevicePluginOptions": asyncio.Event()}
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await plugin.register(timeout_s=0.1)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            await kubelet.until(lambda: kubelet.refusals, "The refusal")
            assert kubelet.refusals[0].error == "the caller did not wait for an answer"
            plugin.hold["GetDevicePluginOptions"].set()
            if survives:
                await kubelet.allocatable(RESOURCE, 4)
        assert plugin.seen[1:] == ([("ListAndWatch", pb.Empty())] if survives else [])


async def test_refused_without_its_caller(directory: Path, plugins: Serve) -> None:
    """1.34 refuses what it went on with, as well."""
    async with FakeKubelet(directory, "1.34"):
        plugin = await plugins()
        plugin.options = Refusal(grpc.StatusCode.INTERNAL, "no")
        assert await refusal_of(plugin) == "failed to get device plugin options: rpc error: code = Internal desc = no"


async def test_twenty_answers_first(directory: Path, plugins: Serve) -> None:
    """1.20 answers, and dials after that; the options are those of the request."""
    async with FakeKubelet(directory, "1.20") as kubelet:
        plugin = await plugins()
        plugin.options = pb.DevicePluginOptions(pre_start_required=True)
        await plugin.register()
        await kubelet.allocatable(RESOURCE, 4)
        assert [method for method, _ in plugin.seen] == ["ListAndWatch"]
        assert kubelet.registrations[0].pre_start_required


async def test_twenty_does_not_say_that_it_cannot_dial(directory: Path) -> None:
    """1.20 accepts a plugin that nobody serves, and only logs that it cannot be reached."""
    async with FakeKubelet(directory, "1.20", clock=Clock(ticking=False)) as kubelet:
        await GrpcioPlugin(directory).register()
        assert kubelet.refusals == []
        while len(kubelet.log) == 1:
            kubelet.clock.advance(1)
            await asyncio.sleep(0)
        assert kubelet.log == [
            f"Got registration request from device plugin with resource {RESOURCE}",
            f"Failed to dial device plugin with request {RESOURCE}: failed to dial device plugin: context deadline exceeded",
        ]
        assert kubelet.resources == {}


@pytest.mark.parametrize("version", ["1.20", "1.37"])
async def test_authority(directory: Path, version: str) -> None:
    """Whom the kubelet says it calls: localhost, and before 1.26 the path."""
    path = directory / "raw.sock"
    seen: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        while not seen.done():
            writer.write(connection.data_to_send())
            for event in connection.receive_data(await reader.read(65536)):
                if isinstance(event, RequestReceived):
                    seen.set_result({str(name): str(value) for name, value in event.headers})
        writer.close()

    async with FakeKubelet(directory, version), await asyncio.start_unix_server(serve, path):
        registering = asyncio.create_task(GrpcioPlugin(directory, "raw.sock").register())
        headers = await seen
        await asyncio.wait([registering])
        assert (registering.exception() is None) == (version == "1.20")
    assert headers[":authority"] == {"1.20": str(path), "1.37": "localhost"}[version]


async def test_request_above_four_mebibytes(kubelet: FakeKubelet, plugins: Serve) -> None:
    """grpc-go's limit holds for what the kubelet receives, with its text."""
    plugin = await plugins()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await plugin.register("a/b", "v" * 5_000_000)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (caught.value.details() or "").startswith("grpc: received message larger than max (50000")
    assert kubelet.registrations == []


async def test_malformed_request(kubelet: FakeKubelet) -> None:
    """What is no message is refused as grpc-go does."""
    async with grpc.aio.insecure_channel(f"unix://{kubelet.socket}") as channel:
        call: Any = channel.unary_unary("/v1beta1.Registration/Register")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\x0a\x01\xff", timeout=5)
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert (caught.value.details() or "").startswith("grpc: error unmarshalling request: ")


@pytest.mark.parametrize("abruptly", [True, False])
async def test_accepted_when_the_kubelet_ends(directory: Path, abruptly: bool) -> None:  # noqa: FBT001
    """A connection that was accepted, but not yet set up when the kubelet ended, is dropped as soon as it is."""
    server = GoServer([])
    await server.listen(directory / "kubelet.sock")
    connection = server._protocol_factory()
    server.hang_up(abruptly=abruptly)
    await server.closed()
    ours, theirs = socket.socketpair()
    with theirs:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, ours)
        with theirs.makefile("rb") as stream:
            await asyncio.to_thread(stream.read)  # comes to its end


@pytest.mark.parametrize(("version", "stay"), [("1.20", ["sub"]), ("1.36", ["file", "nowhere", "sub"])])
async def test_start_cleans_the_directory(directory: Path, version: str, stay: list[str]) -> None:
    """Since 1.33 only sockets are removed; before, all that is neither a directory nor the checkpoint."""
    (directory / "file").touch()
    (directory / "sub").mkdir()
    (directory / "nowhere").symlink_to("gone")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(directory / "stale.sock"))
    (directory / "kubelet_internal_checkpoint").write_text("junk")
    async with FakeKubelet(directory, version):
        left = sorted(path.name for path in directory.iterdir())
    assert left == sorted({*stay, "nowhere", "kubelet.sock", "kubelet_internal_checkpoint"})


async def test_lists_are_taken_from_all_streams(kubelet: FakeKubelet, plugins: Serve, plugin: GrpcioPlugin) -> None:
    """Two plugins of one resource: each list replaces the whole, the newest registration gets Allocate."""
    other = await plugins("other.sock", *healthy("5", "6"))
    await other.register()
    await kubelet.allocatable(RESOURCE, 2)
    await plugin.send(*healthy("1", "2", "3"))
    await kubelet.allocatable(RESOURCE, 3)
    await kubelet.create_pod("demo", {RESOURCE: 1}).running()
    assert len(other.asked("Allocate")) == 1
    assert plugin.asked("Allocate") == []
