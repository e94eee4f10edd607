"""A plugin on grpcio with no manners of its own: it does what a test says, and records what it was asked."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from devplugin._proto import v1beta1 as pb

_numbers = itertools.count(1)


def device(key: str, *, healthy: bool = True, node: int | None = None) -> pb.Device:
    topology = None if node is None else pb.TopologyInfo(nodes=[pb.NumaNode(id=node)])
    return pb.Device(id=key, health="Healthy" if healthy else "Unhealthy", topology=topology)


class StubPlugin:
    """Serves `resource` in a kubelet's directory; `register` makes it known, `devices` is its list."""

    def __init__(
        self,
        directory: Path,
        resource: str,
        devices: Sequence[pb.Device],
        options: pb.DevicePluginOptions | None = None,
    ) -> None:
        self.directory = directory
        self.resource = resource
        self.devices = list(devices)
        self.options = options or pb.DevicePluginOptions()
        self.calls: list[tuple[str, Any]] = []
        self.held = asyncio.Event()
        """While it is not set, Allocate hangs."""
        self.held.set()
        self.refusal = ""
        """What Allocate and PreStartContainer fail with, if anything."""
        self.changed = asyncio.Event()
        self.endpoint = f"stub-{next(_numbers)}.sock"
        self._server = grpc.aio.server()

    async def __aenter__(self) -> Self:
        def unary(kind: Any, method: Callable[[Any], Awaitable[Any]]) -> "grpc.RpcMethodHandler[Any, Any]":
            async def handle(request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
                self.calls.append((method.__name__, request))
                if self.refusal and method in (self.allocate, self.pre_start):
                    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.refusal)
                return await method(request)

            return grpc.unary_unary_rpc_method_handler(
                handle, request_deserializer=kind.parse, response_serializer=bytes
            )

        handlers = {
            "GetDevicePluginOptions": unary(pb.Empty, self.get_options),
            "Allocate": unary(pb.AllocateRequest, self.allocate),
            "GetPreferredAllocation": unary(pb.PreferredAllocationRequest, self.prefer),
            "PreStartContainer": unary(pb.PreStartContainerRequest, self.pre_start),
            "ListAndWatch": grpc.unary_stream_rpc_method_handler(self.watch, response_serializer=bytes),
        }
        service = grpc.method_handlers_generic_handler("v1beta1.DevicePlugin", handlers)
        self._server.add_generic_rpc_handlers((service,))
        self._server.add_insecure_port(f"unix://{self.directory / self.endpoint}")
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End all streams and connections at once."""
        await self._server.stop(None)

    async def register(self) -> None:
        request = pb.RegisterRequest(
            version="v1beta1", endpoint=self.endpoint, resource_name=self.resource, options=self.options
        )
        async with grpc.aio.insecure_channel(f"unix://{self.directory}/kubelet.sock") as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/v1beta1.Registration/Register")
            await call(bytes(request), timeout=20)

    def update(self, *devices: pb.Device) -> None:
        self.devices = list(devices)
        self.changed.set()

    async def get_options(self, _: pb.Empty) -> pb.DevicePluginOptions:
        return self.options

    async def watch(
        self, _request: bytes, _context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[pb.ListAndWatchResponse]:
        while True:
            self.changed.clear()
            yield pb.ListAndWatchResponse(devices=self.devices)
            await self.changed.wait()

    async def allocate(self, request: pb.AllocateRequest) -> pb.AllocateResponse:
        await self.held.wait()
        (wanted,) = request.container_requests
        ids = sorted(wanted.devices_ids)
        answer = pb.ContainerAllocateResponse(
            envs={"IDS": ",".join(ids)},
            mounts=[pb.Mount(container_path="/c", host_path="/h", read_only=True)],
            devices=[pb.DeviceSpec(container_path="/dev/c", host_path="/dev/h", permissions="rw")],
            annotations={"note": "x"},
            cdi_devices=[pb.CdiDevice(name="vendor.com/class=1")],
        )
        return pb.AllocateResponse(container_responses=[answer])

    async def prefer(self, request: pb.PreferredAllocationRequest) -> pb.PreferredAllocationResponse:
        (wanted,) = request.container_requests
        answer = pb.ContainerPreferredAllocationResponse(
            device_i_ds=sorted(wanted.available_deviceIDs, reverse=True)[: wanted.allocation_size]
        )
        return pb.PreferredAllocationResponse(container_responses=[answer])

    async def pre_start(self, _: pb.PreStartContainerRequest) -> pb.PreStartContainerResponse:
        return pb.PreStartContainerResponse()
