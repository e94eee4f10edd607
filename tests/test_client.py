"""The client on the side shows what a plugin announces, and says what is wrong in a sentence."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from devplugin import Device, DevicePluginBase, Health
from devplugin._proto import v1beta1 as pb
from devplugin.testing import FakeKubelet
from tests.support_pages import ROOT

pytestmark = pytest.mark.asyncio

FILE = str(ROOT / "examples" / "sample_device" / "client.py")
MODULE = ("-m", "examples.sample_device.client")
HEALTHY = "  1  Healthy\n  2  Healthy\n  3  Healthy\n  4  Healthy\n"


class Client:
    """The client as a process, and its lines as they come."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def lines(self, count: int) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            return "".join([(await self.process.stdout.readline()).decode() for _ in range(count)])

    async def end(self) -> tuple[int, str, str]:
        """Its exit status, the rest of its output, and its complaints."""
        async with asyncio.timeout(20):
            output, complaints = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, output.decode(), complaints.decode()


@asynccontextmanager
async def client(*arguments: str | Path, program: tuple[str, ...] = MODULE) -> AsyncIterator[Client]:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *program, *map(str, arguments), stdout=-1, stderr=-1, cwd=ROOT, env=buffered
    )
    try:
        yield Client(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@asynccontextmanager
async def sample(directory: Path) -> AsyncIterator[tuple[FakeKubelet, asyncio.subprocess.Process]]:
    """The sample plugin as a process, registered."""
    async with FakeKubelet(directory) as kubelet:
        plugin = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "examples.sample_device", "--kubelet-dir", str(directory), cwd=ROOT
        )
        try:
            await kubelet.allocatable("demo/sample-device", 4)
            yield kubelet, plugin
        finally:
            if plugin.returncode is None:
                plugin.kill()
            await plugin.wait()


@pytest.mark.parametrize("program", [MODULE, (FILE,)], ids=["module", "file"])
async def test_the_samples_socket_is_found_and_its_devices_are_listed(
    directory: Path, program: tuple[str, ...]
) -> None:
    """Without a path the client finds the sample; when the plugin ends, so does the client, with status 0."""
    async with sample(directory) as (kubelet, plugin), client("--kubelet-dir", directory, program=program) as it:
        name = kubelet.registrations[-1].endpoint
        assert await it.lines(6) == (
            f"{name}: pre_start_required=False get_preferred_allocation_available=False\n{name}: list 1, devices: 4\n"
            + HEALTHY
        )
        plugin.terminate()
        assert await it.end() == (0, f"{name}: the plugin has ended\n", "")


async def test_a_killed_plugin_is_an_end_too(directory: Path) -> None:
    """A plugin that says no good-bye has ended all the same."""
    async with sample(directory) as (_, plugin), client("--kubelet-dir", directory) as it:
        await it.lines(6)
        plugin.kill()
        status, output, complaints = await it.end()
        assert (status, complaints) == (0, "")
        assert output.endswith(": the plugin has ended\n")


@pytest.mark.parametrize("interrupt", ["SIGINT", "SIGTERM"])
async def test_a_signal_ends_it_quietly(directory: Path, interrupt: str) -> None:
    """Ctrl-C is how one leaves, and no error."""
    async with sample(directory), client("--kubelet-dir", directory) as it:
        await it.lines(6)
        it.process.send_signal(signal.Signals[interrupt])
        assert await it.end() == (0, "", "")


async def test_a_reader_that_goes_away_ends_it_quietly(directory: Path) -> None:
    """``client | head`` leaves no traceback."""
    changing = Changing()
    async with FakeKubelet(directory) as kubelet, asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(changing.serve(kubelet_dir=directory))
        name = (await kubelet.registered("example.com/changing")).endpoint
        reading, writing = os.pipe()
        process = await asyncio.create_subprocess_exec(
            sys.executable, *MODULE, str(directory / name), stdout=writing, stderr=-1, cwd=ROOT
        )
        os.close(writing)
        with os.fdopen(reading) as output:
            await asyncio.to_thread(output.readline)
        changing.changed.set()  # the next list meets a closed pipe
        async with asyncio.timeout(20):
            _, complaints = await process.communicate()
        assert (process.returncode, complaints) == (0, b"")
        serving.cancel()


class Changing(DevicePluginBase):
    """Two lists, the second when a test says so."""

    resource_name = "example.com/changing"

    def __init__(self) -> None:
        self.changed = asyncio.Event()

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device("a", numa_nodes=[0, 1]), Device("longer")]
        await self.changed.wait()
        yield [Device("a", numa_nodes=[0, 1]), Device("longer", health=Health.UNHEALTHY)]

    async def pre_start_container(self, devices: object) -> None:
        pass


async def test_each_list_is_shown(directory: Path) -> None:
    """With health and NUMA nodes, and again when it has changed."""
    changing = Changing()
    async with FakeKubelet(directory) as kubelet, asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(changing.serve(kubelet_dir=directory))
        name = (await kubelet.registered("example.com/changing")).endpoint
        async with client(directory / name) as it:
            assert await it.lines(4) == (
                f"{name}: pre_start_required=True get_preferred_allocation_available=False\n"
                f"{name}: list 1, devices: 2\n"
                "  a       Healthy  NUMA node 0  NUMA node 1\n  longer  Healthy\n"
            )
            changing.changed.set()
            assert await it.lines(3) == (
                f"{name}: list 2, devices: 2\n  a       Healthy  NUMA node 0  NUMA node 1\n  longer  Unhealthy\n"
            )
            serving.cancel()
            assert (await it.end())[0] == 0


@asynccontextmanager
async def grpcio_plugin(path: Path, list_and_watch: Callable[..., AsyncIterator[bytes]]) -> AsyncIterator[None]:
    """A plugin that shares nothing with devplugin but the messages."""

    async def options(_: bytes, __: object) -> bytes:
        return bytes(pb.DevicePluginOptions(get_preferred_allocation_available=True))

    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "GetDevicePluginOptions": grpc.unary_unary_rpc_method_handler(options),
        "ListAndWatch": grpc.unary_stream_rpc_method_handler(list_and_watch),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("v1beta1.DevicePlugin", handlers)])
    server.add_insecure_port(f"unix://{path}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


async def test_a_plugin_that_is_not_ours(directory: Path) -> None:
    """Any implementation will do, and a list without devices is a list."""

    async def lists(_: bytes, __: object) -> AsyncIterator[bytes]:
        yield bytes(pb.ListAndWatchResponse(devices=[pb.Device(id="x", health="Broken")]))
        yield bytes(pb.ListAndWatchResponse())

    path = directory / "other.sock"
    async with grpcio_plugin(path, lists), client(path) as it:
        status, output, complaints = await it.end()
    assert (status, complaints) == (0, "")
    assert output == (
        "other.sock: pre_start_required=False get_preferred_allocation_available=True\n"
        "other.sock: list 1, devices: 1\n  x  Broken\n"
        "other.sock: list 2, devices: 0\n"
        "other.sock: the plugin has ended\n"
    )


async def test_a_plugin_whose_stream_fails(directory: Path) -> None:
    """The plugin's own words are shown."""

    async def fails(_: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> AsyncIterator[bytes]:
        yield bytes(pb.ListAndWatchResponse())
        await context.abort(grpc.StatusCode.INTERNAL, "no driver")

    path = directory / "other.sock"
    async with grpcio_plugin(path, fails), client(path) as it:
        status, _, complaints = await it.end()
        assert (status, complaints) == (1, f"{path}: the call failed (INTERNAL: no driver): is it a device plugin?\n")


async def test_one_bad_socket_does_not_hide_the_others(directory: Path) -> None:
    """Several are watched side by side; the status tells of the bad one."""
    async with sample(directory) as (kubelet, plugin):
        name = kubelet.registrations[-1].endpoint
        async with client(directory / "none.sock", directory / name) as it:
            assert (await it.lines(6)).endswith(HEALTHY)
            plugin.terminate()
            status, _, complaints = await it.end()
            assert (status, complaints) == (1, f"{directory}/none.sock: no such socket\n")


async def complaint(*arguments: str | Path) -> str:
    """What the client says when it cannot do its work; it ends with status 1 and prints nothing else."""
    async with client(*arguments) as it:
        status, output, complaints = await it.end()
    assert (status, output) == (1, "")
    return complaints


async def test_nothing_listens(directory: Path) -> None:
    """The socket of a dead process, and a file that is no socket."""
    path = directory / "dead.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert await complaint(path) == f"{path}: nothing listens there: the plugin has gone, or it is no socket\n"
    assert "it is no socket" in await complaint(FILE)


async def test_the_kubelets_own_socket(directory: Path) -> None:
    """It is no device plugin's."""
    async with FakeKubelet(directory) as kubelet:
        assert "is it a device plugin?" in await complaint(kubelet.socket)


async def test_something_that_speaks_no_grpc(directory: Path) -> None:
    """It answers, and not as a plugin would."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    path = directory / "web.sock"
    async with await asyncio.start_unix_server(answer, path):
        assert "it does not speak gRPC" in await complaint(path)


async def test_a_path_that_no_socket_can_have() -> None:
    """The system's own words."""
    assert await complaint("/" + "x" * 200) == f"/{'x' * 200}: cannot connect: AF_UNIX path too long\n"


async def test_no_sample_is_there(directory: Path) -> None:
    """Other plugins' sockets are left alone; the sentence says where it looked."""
    (directory / "other.sock").touch()
    assert await complaint("--kubelet-dir", directory) == (
        f"no sample-device-*.sock in {directory}: is the sample plugin running and registered there?\n"
    )


async def test_no_such_directory(directory: Path) -> None:
    """The sentence names the option."""
    assert await complaint("--kubelet-dir", directory / "none") == (
        f"cannot look into {directory}/none: No such file or directory; --kubelet-dir names another one\n"
    )


# The process ends without its exit handlers: coverage's could not write as nobody.
AS_NOBODY = """
import os
from examples.sample_device import client
os.setresuid(65534, 65534, 65534)
try:
    client.main()
except SystemExit as end:
    os._exit(end.code)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_no_permission(directory: Path) -> None:
    """The sentence says as whom it tried."""
    path = directory / "secret.sock"
    directory.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        path.chmod(0o600)
        async with client(path, program=("-c", AS_NOBODY)) as it:
            status, _, complaints = await it.end()
    assert (status, complaints) == (1, f"{path}: no permission to connect as user 65534: try as root\n")


async def test_help_has_an_example() -> None:
    """One command that can be copied."""
    async with client("--help") as it:
        status, output, _ = await it.end()
    assert status == 0
    assert "example: client /var/lib/kubelet/device-plugins/nvidia-gpu.sock" in output
