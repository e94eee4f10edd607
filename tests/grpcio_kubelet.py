"""A kubelet's side of the protocol on grpcio: a peer that shares no code with devplugin but the generated messages."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio

from devplugin._proto import v1beta1 as pb

_SERVICE = "/v1beta1.DevicePlugin"
_LIMIT = [
    ("grpc.max_receive_message_length", 4_194_304),
    ("grpc.default_authority", "localhost"),
    ("grpc.http2.bdp_probe", 0),  # windows stay small, so that a slow reader holds the writer up
]


class PluginClient:
    """A connection to a plugin's socket, as the kubelet makes it."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.channel = grpc.aio.insecure_channel(f"unix://{socket}", options=_LIMIT)

    async def call(self, method: str, request: bytes = b"", timeout_s: float = 20) -> bytes:
        """A unary call of bytes."""
        unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(f"{_SERVICE}/{method}")
        return await unary(request, timeout=timeout_s)

    async def options(self) -> pb.DevicePluginOptions:
        return pb.DevicePluginOptions.parse(await self.call("GetDevicePluginOptions"))

    async def allocate(self, *containers: list[str]) -> list[pb.ContainerAllocateResponse]:
        requests = [pb.ContainerAllocateRequest(devices_ids=ids) for ids in containers]
        answer = await self.call("Allocate", bytes(pb.AllocateRequest(container_requests=requests)))
        return pb.AllocateResponse.parse(answer).container_responses

    async def prefer(self, available: list[str], must_include: list[str], size: int) -> list[str]:
        request = pb.ContainerPreferredAllocationRequest(
            available_deviceIDs=available, must_include_deviceIDs=must_include, allocation_size=size
        )
        answer = await self.call(
            "GetPreferredAllocation", bytes(pb.PreferredAllocationRequest(container_requests=[request]))
        )
        return pb.PreferredAllocationResponse.parse(answer).container_responses[0].device_i_ds

    async def pre_start(self, *ids: str) -> None:
        await self.call("PreStartContainer", bytes(pb.PreStartContainerRequest(devices_ids=[*ids])))

    def list_and_watch(self) -> "grpc.aio.UnaryStreamCall[bytes, bytes]":
        stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self.channel.unary_stream(f"{_SERVICE}/ListAndWatch")
        return stream(b"")


class GrpcioKubelet:
    """Serves Registration, dials back inside Register, and watches each plugin that it accepted."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "kubelet.sock"
        self.requests: list[pb.RegisterRequest] = []
        self.options: list[pb.DevicePluginOptions] = []
        self.plugins: list[PluginClient] = []
        self.lists: list[dict[str, str]] = []
        self.stream_ends: list[grpc.StatusCode] = []
        self.refuse_with: str | None = None
        self.watches = True
        self._changed = asyncio.Condition()
        self._server: grpc.aio.Server | None = None
        self._streams: list[asyncio.Task[None]] = []

    async def until(self, condition: Callable[["GrpcioKubelet"], object], timeout_s: float = 10) -> None:
        """Wait for a condition of what was seen."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(lambda: condition(self)), timeout_s)
            except TimeoutError:
                raise AssertionError(f"not within {timeout_s} s; seen: {vars(self)}") from None

    async def lists_seen(self, count: int) -> None:
        """Wait until so many lists have come."""
        await self.until(lambda k: len(k.lists) == count)

    async def start(self) -> None:
        """Listen on a new kubelet.sock; like the kubelet, remove all other sockets first."""
        for path in self.directory.iterdir():
            if path.is_socket():
                path.unlink()
        self._server = grpc.aio.server()
        register: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self._register)
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("v1beta1.Registration", {"Register": register})]
        )
        self._server.add_insecure_port(f"unix://{self.socket}")
        await self._server.start()

    async def stop(self) -> None:
        """Drop all connections."""
        for stream in self._streams:
            stream.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)
        for plugin in self.plugins:
            await plugin.channel.close()
        if self._server is not None:
            await self._server.stop(None)
            self._server = None
        self._streams.clear()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def _note(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _register(self, data: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        request = pb.RegisterRequest.parse(data)
        self.requests.append(request)
        await self._note()
        if self.refuse_with is not None:
            await context.abort(grpc.StatusCode.UNKNOWN, self.refuse_with)
        plugin = PluginClient(self.directory / request.endpoint)
        self.options.append(await plugin.options())
        self.plugins.append(plugin)
        if self.watches:
            self._streams.append(asyncio.create_task(self._watch(plugin), name=f"watch {request.endpoint}"))
        await self._note()
        return b""

    async def _watch(self, plugin: PluginClient) -> None:
        call = plugin.list_and_watch()
        try:
            async for message in call:
                devices = pb.ListAndWatchResponse.parse(message).devices
                self.lists.append({device.id: device.health for device in devices})
                await self._note()
            self.stream_ends.append(await call.code())
        except grpc.aio.AioRpcError as error:
            self.stream_ends.append(error.code())
        await self._note()
        await plugin.channel.close(5)  # grpcio may tell of the end before it tells of an answer that came earlier

    async def drop(self, plugin: PluginClient) -> None:
        """Close the connection to a plugin, as the kubelet does when it gives up on its stream."""
        await plugin.channel.close()


@asynccontextmanager
async def grpcio_kubelet(directory: Path) -> AsyncIterator[GrpcioKubelet]:
    """A running kubelet on grpcio."""
    kubelet = GrpcioKubelet(directory)
    await kubelet.start()
    try:
        yield kubelet
    finally:
        await kubelet.stop()
