"""The plugin of the benchmarks on grpcio's threads; the arguments and the input are those of ``devplugin_plugin.py``."""

import logging
import select
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import deviceplugin_v1beta1_pb2 as pb
import deviceplugin_v1beta1_pb2_grpc as pb_grpc
import grpc
from kubelet_socket import KubeletSocket
from protobuf_devices import CHANNEL_OPTIONS, REGISTER_WITHIN_S, RETRY_S, Devices, Refused, command, register_request

log = logging.getLogger("plugin")

# A stream occupies a thread for as long as it lives, and the benchmarks open another one to each resource. Threads are
# started when they are needed, so that more of them cost nothing.
_THREADS_FOR_CALLS = 8


class Plugin(pb_grpc.DevicePluginServicer):
    def __init__(self, directory: str, resource_name: str, devices: int, threads: ThreadPoolExecutor) -> None:
        self.directory = Path(directory)
        self.resource_name = resource_name
        self.devices = Devices(devices)
        self.threads = threads
        self.version = 0
        self.changed = threading.Condition()
        self.server: grpc.Server | None = None
        self.numbers = count()

    def serve(self) -> None:
        """Serve on a new socket and register, again when the kubelet went away meanwhile."""
        while True:
            try:
                self.serve_once()
            except grpc.RpcError as error:
                log.warning("not registered: %s", error)
                time.sleep(RETRY_S)
            else:
                return

    def serve_once(self) -> None:
        if self.server is not None:
            self.server.stop(None).wait()
        endpoint = f"{self.resource_name.rpartition('/')[2]}-{next(self.numbers)}.sock"
        self.server = grpc.server(self.threads)
        pb_grpc.add_DevicePluginServicer_to_server(self, self.server)
        self.server.add_insecure_port(f"unix://{self.directory / endpoint}")
        self.server.start()
        target = f"unix://{self.directory / 'kubelet.sock'}"
        with grpc.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
            kubelet = pb_grpc.RegistrationStub(channel)
            request = register_request(endpoint, self.resource_name)
            kubelet.Register(request, timeout=REGISTER_WITHIN_S, wait_for_ready=True)

    def GetDevicePluginOptions(self, request: pb.Empty, context: object) -> pb.DevicePluginOptions:  # noqa: N802, ARG002
        return pb.DevicePluginOptions()

    def ListAndWatch(self, request: pb.Empty, context: grpc.ServicerContext) -> Iterator[pb.ListAndWatchResponse]:  # noqa: N802, ARG002
        context.add_callback(self.wake)
        while context.is_active():
            version = self.version
            yield self.devices.response
            with self.changed:
                self.changed.wait_for(lambda: self.version != version or not context.is_active())  # noqa: B023

    def Allocate(self, request: pb.AllocateRequest, context: grpc.ServicerContext) -> pb.AllocateResponse:  # noqa: N802
        try:
            return self.devices.allocate(request)
        except Refused as error:
            context.abort(error.status, str(error))

    def wake(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def send(self) -> None:
        self.version += 1
        self.wake()


def main(directory: str, prefix: str, resources: int, devices: int) -> None:
    threads = ThreadPoolExecutor(2 * resources + _THREADS_FOR_CALLS)
    plugins = [Plugin(directory, f"{prefix}{n:03}", devices, threads) for n in range(resources)]
    kubelet_socket = KubeletSocket(directory)
    readable: list[object] = [kubelet_socket.fd, sys.stdin]
    serve_all(plugins)
    while True:
        for ready in select.select(readable, [], [])[0]:
            if ready is not sys.stdin:
                if kubelet_socket.was_made():
                    serve_all(plugins)
                continue
            change, more = command(plugins[0].devices, sys.stdin.readline())
            if change:
                plugins[0].send()
            if not more:
                readable.remove(sys.stdin)


def serve_all(plugins: list[Plugin]) -> None:
    for plugin in plugins:
        plugin.serve()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
