"""The plugin of the benchmarks on ``grpc.aio``; the arguments and the input are those of ``devplugin_plugin.py``."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import deviceplugin_v1beta1_pb2 as pb
import deviceplugin_v1beta1_pb2_grpc as pb_grpc
import grpc.aio
from kubelet_socket import KubeletSocket
from protobuf_devices import CHANNEL_OPTIONS, REGISTER_WITHIN_S, RETRY_S, Devices, Refused, command, register_request

log = logging.getLogger("plugin")


class Plugin(pb_grpc.DevicePluginServicer):
    def __init__(self, directory: str, resource_name: str, devices: int) -> None:
        self.directory = Path(directory)
        self.resource_name = resource_name
        self.devices = Devices(devices)
        self.changed = asyncio.Event()
        self.server: grpc.aio.Server | None = None
        self.numbers = count()

    async def serve(self) -> None:
        """Serve on a new socket and register, again when the kubelet went away meanwhile."""
        while True:
            try:
                await self.serve_once()
            except grpc.aio.AioRpcError as error:
                log.warning("not registered: %s", error.details())
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def serve_once(self) -> None:
        if self.server is not None:
            await self.server.stop(None)
        endpoint = f"{self.resource_name.rpartition('/')[2]}-{next(self.numbers)}.sock"
        self.server = grpc.aio.server()
        pb_grpc.add_DevicePluginServicer_to_server(self, self.server)
        self.server.add_insecure_port(f"unix://{self.directory / endpoint}")
        await self.server.start()
        target = f"unix://{self.directory / 'kubelet.sock'}"
        async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
            kubelet = pb_grpc.RegistrationStub(channel)
            request = register_request(endpoint, self.resource_name)
            await kubelet.Register(request, timeout=REGISTER_WITHIN_S, wait_for_ready=True)

    async def GetDevicePluginOptions(self, request: pb.Empty, context: object) -> pb.DevicePluginOptions:  # noqa: N802, ARG002
        return pb.DevicePluginOptions()

    async def ListAndWatch(self, request: pb.Empty, context: object) -> AsyncIterator[pb.ListAndWatchResponse]:  # noqa: N802, ARG002
        while True:
            changed = self.changed
            yield self.devices.response
            await changed.wait()

    async def Allocate(self, request: pb.AllocateRequest, context: grpc.aio.ServicerContext) -> pb.AllocateResponse:  # noqa: N802
        try:
            return self.devices.allocate(request)
        except Refused as error:
            await context.abort(error.status, str(error))

    def obey(self) -> None:
        change, more = command(self.devices, sys.stdin.readline())
        if change:
            self.changed.set()
            self.changed = asyncio.Event()
        if not more:
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())


async def main(directory: str, prefix: str, resources: int, devices: int) -> None:
    plugins = [Plugin(directory, f"{prefix}{n:03}", devices) for n in range(resources)]
    loop = asyncio.get_running_loop()
    made = asyncio.Event()
    kubelet_socket = KubeletSocket(directory)
    loop.add_reader(kubelet_socket.fd, lambda: kubelet_socket.was_made() and made.set())
    loop.add_reader(sys.stdin.fileno(), plugins[0].obey)
    while True:
        async with asyncio.TaskGroup() as group:
            for plugin in plugins:
                group.create_task(plugin.serve())
        await made.wait()
        made.clear()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
