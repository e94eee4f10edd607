"""A device plugin on grpcio: it shares no code with the fake kubelet but the generated messages."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio

from devplugin._proto import v1beta1 as pb

RESOURCE = "demo/sample-device"


def device(name: str, health: str = "Healthy", *nodes: int) -> pb.Device:
    """A device, on NUMA nodes if there are any."""
    topology = pb.TopologyInfo(nodes=[pb.NumaNode(id=node) for node in nodes]) if nodes else None
    return pb.Device(id=name, health=health, topology=topology)


def healthy(*names: str) -> list[pb.Device]:
    """Healthy devices with these ids."""
    return [device(name) for name in names]


class Refusal(Exception):
    """How a handler ends its call with a status of its own."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def sample_answer(ids: list[str]) -> pb.ContainerAllocateResponse:
    """What the sample device answers."""
    return pb.ContainerAllocateResponse(envs={f"SAMPLE_DEVICE{name}": "1" for name in ids})


class GrpcioPlugin:
    """Serves the DevicePlugin service on a socket, and registers it.

    Every call is written down in `seen`. What is to be answered can be replaced: `allocate`, `prefer`, `pre_start` are
    plain functions, `options` a message; each may raise `Refusal`. `hold` maps a method to an event that it waits for.
    """

    def __init__(self, directory: Path, socket: str = "grpcio.sock", *devices: pb.Device) -> None:
        self.directory = directory
        self.socket = socket
        self.devices = list(devices or healthy("1", "2", "3", "4"))
        self.options: pb.DevicePluginOptions | Refusal = pb.DevicePluginOptions()
        self.allocate: Callable[[list[str]], pb.ContainerAllocateResponse | None] = sample_answer
        self.prefer: Callable[[pb.ContainerPreferredAllocationRequest], list[str]] = lambda _: []
        self.pre_start: Callable[[list[str]], None] = lambda _: None
        self.hold: Mapping[str, asyncio.Event] = {}
        self.seen: list[tuple[str, Any]] = []
        self.streams = 0
        self.stream_ended = asyncio.Event()
        self._changed = asyncio.Condition()
        self._number = 0
        self._end: Refusal | None = None
        self._ended = False
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.serve()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def serve(self) -> None:
        """Listen on the socket."""
        self._server = grpc.aio.server()
        unary = grpc.unary_unary_rpc_method_handler
        handlers: dict[str, Any] = {
            "GetDevicePluginOptions": unary(self._get_options),
            "ListAndWatch": grpc.unary_stream_rpc_method_handler(self._list_and_watch),
            "Allocate": unary(self._allocate),
            "GetPreferredAllocation": unary(self._prefer),
            "PreStartContainer": unary(self._pre_start),
        }
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("v1beta1.DevicePlugin", handlers)])
        self._server.add_insecure_port(f"unix://{self.directory / self.socket}")
        await self._server.start()

    async def stop(self) -> None:
        """Vanish, streams and all."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    async def register(
        self, resource: str = RESOURCE, version: str = "v1beta1", *, timeout_s: float = 15, socket: str | None = None
    ) -> None:
        """Register; raises grpc.aio.AioRpcError when the kubelet refuses."""
        request = pb.RegisterRequest(
            version=version,
            endpoint=socket or self.socket,
            resource_name=resource,
            options=None if isinstance(self.options, Refusal) else self.options,
        )
        async with grpc.aio.insecure_channel(f"unix://{self.directory / 'kubelet.sock'}") as channel:
            call: Any = channel.unary_unary("/v1beta1.Registration/Register")
            await call(bytes(request), timeout=timeout_s)

    async def send(self, *devices: pb.Device) -> None:
        """Send a new list to every stream."""
        async with self._changed:
            self.devices = list(devices)
            self._number += 1
            self._changed.notify_all()

    async def end_streams(self, error: Refusal | None = None) -> None:
        """End every stream, with status OK or with an error."""
        async with self._changed:
            self._end, self._ended = error, True
            self._changed.notify_all()

    async def _get_options(self, request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        await self._saw("GetDevicePluginOptions", pb.Empty.parse(request))
        await self._held("GetDevicePluginOptions")
        if isinstance(self.options, Refusal):
            await context.abort(self.options.code, str(self.options))
        assert isinstance(self.options, pb.DevicePluginOptions)
        return bytes(self.options)

    async def _list_and_watch(
        self, request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]"
    ) -> AsyncIterator[bytes]:
        await self._saw("ListAndWatch", pb.Empty.parse(request))
        self.streams += 1
        try:
            await self._held("ListAndWatch")
            sent = -1
            while True:
                async with self._changed:
                    await self._changed.wait_for(lambda: self._ended or self._number != sent)  # noqa: B023
                    if self._ended:
                        break
                    sent, message = self._number, pb.ListAndWatchResponse(devices=self.devices)
                yield bytes(message)
            if self._end is not None:
                await context.abort(self._end.code, str(self._end))
        finally:
            self.streams -= 1
            self.stream_ended.set()

    async def _allocate(self, request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        ids = pb.AllocateRequest.parse(request).container_requests[0].devices_ids
        await self._saw("Allocate", ids)
        await self._held("Allocate")
        try:
            answer = self.allocate(ids)
        except Refusal as refusal:
            await context.abort(refusal.code, str(refusal))
        return bytes(pb.AllocateResponse(container_responses=[] if answer is None else [answer]))

    async def _prefer(self, request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        asked = pb.PreferredAllocationRequest.parse(request).container_requests[0]
        await self._saw("GetPreferredAllocation", asked)
        try:
            ids = self.prefer(asked)
        except Refusal as refusal:
            await context.abort(refusal.code, str(refusal))
        answers = [pb.ContainerPreferredAllocationResponse(device_i_ds=ids)]
        return bytes(pb.PreferredAllocationResponse(container_responses=answers))

    async def _pre_start(self, request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        ids = pb.PreStartContainerRequest.parse(request).devices_ids
        await self._saw("PreStartContainer", (sorted(ids), context.time_remaining()))
        await self._held("PreStartContainer")
        try:
            self.pre_start(ids)
        except Refusal as refusal:
            await context.abort(refusal.code, str(refusal))
        return b""

    async def _held(self, method: str) -> None:
        if method in self.hold:
            await self.hold[method].wait()

    async def called(self, method: str) -> None:
        """Wait until a method has been called."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.asked(method))

    async def _saw(self, method: str, what: Any) -> None:
        async with self._changed:
            self.seen.append((method, what))
            self._changed.notify_all()

    def asked(self, method: str) -> list[Any]:
        """What the calls of a method brought."""
        return [what for name, what in self.seen if name == method]
