"""``devplugin list``: what a running plugin announces."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from devplugin import Device, DevicePluginBase, Health
from devplugin.testing import FakeKubelet
from tests.cli.conftest import Process, Run, Start
from tests.conftest import Serve
from tests.support_pages import ROOT


class Changing(DevicePluginBase):
    """Two lists, the second when a test says so."""

    resource_name = "example.com/changing"

    def __init__(self) -> None:
        self.changed = asyncio.Event()

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device("a", numa_nodes=[0, 1]), Device("longer")]
        await self.changed.wait()
        yield [Device("longer", health=Health.UNHEALTHY)]
        await asyncio.Event().wait()


@asynccontextmanager
async def changing(folder: Path, serve: Serve) -> AsyncIterator[tuple[Changing, asyncio.Task[None], Path]]:
    plugin = Changing()
    async with FakeKubelet(folder / "k") as kubelet:
        serving = serve(plugin, folder / "k")
        yield plugin, serving, folder / "k" / (await kubelet.registered("example.com/changing")).endpoint


async def line(process: Process) -> str:
    assert process.stdout is not None
    return (await asyncio.to_thread(process.stdout.readline)).rstrip()


@pytest.mark.asyncio
async def test_tables(folder: Path, start: Start, serve: Serve) -> None:
    """Options, each list, and the end of the plugin, which is the end of it with status 0."""
    async with changing(folder, serve) as (plugin, serving, socket):
        with start("list", socket) as process:
            name = socket.name
            assert [await line(process) for _ in range(5)] == [
                f"{name}: pre_start_required=False get_preferred_allocation_available=False",
                f"{name}: list 1, devices: 2",
                "DEVICE   HEALTH    NUMA",
                "a        Healthy   0, 1",
                "longer   Healthy",
            ]
            plugin.changed.set()
            assert [await line(process) for _ in range(3)] == [
                f"{name}: list 2, devices: 1",
                "DEVICE   HEALTH      NUMA",
                "longer   Unhealthy",
            ]
            serving.cancel()
            output, complaints = await asyncio.to_thread(process.communicate, timeout=20)
            assert (process.returncode, output, complaints) == (0, f"{name}: the plugin has ended\n", "")


@pytest.mark.asyncio
async def test_json_lines(folder: Path, start: Start, serve: Serve) -> None:
    """Each line is a document, written as soon as it is known; the sockets of a directory are all of its plugins."""
    async with changing(folder, serve) as (plugin, serving, socket):
        with start("list", "k", "--output", "json") as process:
            where = {"socket": str(Path("k") / socket.name)}
            assert json.loads(await line(process)) == where | {
                "event": "options",
                "pre_start_required": False,
                "get_preferred_allocation_available": False,
            }
            assert json.loads(await line(process)) == where | {
                "event": "list",
                "number": 1,
                "devices": [
                    {"id": "a", "health": "Healthy", "numa_nodes": [0, 1]},
                    {"id": "longer", "health": "Healthy", "numa_nodes": []},
                ],
            }
            plugin.changed.set()
            assert json.loads(await line(process))["number"] == 2
            serving.cancel()
            assert json.loads(await line(process)) == where | {"event": "end"}
            assert await asyncio.to_thread(process.wait, 20) == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_quietly(folder: Path, start: Start, serve: Serve, number: signal.Signals) -> None:
    """Ctrl-C is how one leaves, and no error."""
    async with changing(folder, serve) as (_, _, socket):
        with start("list", socket) as process:
            await line(process)
            process.send_signal(number)
            _, complaints = await asyncio.to_thread(process.communicate, timeout=20)
            assert (process.returncode, complaints) == (0, "")


@pytest.mark.asyncio
async def test_once(folder: Path, start: Start, serve: Serve) -> None:
    """The first list is the last."""
    async with changing(folder, serve) as (_, _, socket):
        with start("list", "--once", socket) as process:
            output, complaints = await asyncio.to_thread(process.communicate, timeout=20)
            assert (process.returncode, complaints) == (0, "")
            assert output.splitlines()[1].endswith(": list 1, devices: 2")


@pytest.mark.asyncio
async def test_a_list_without_devices(folder: Path, start: Start, serve: Serve) -> None:
    """There is no table then."""

    class Empty(DevicePluginBase):
        resource_name = "example.com/empty"

        async def devices(self) -> AsyncIterator[list[Device]]:
            yield []

    async with FakeKubelet(folder / "k") as kubelet:
        serve(Empty(), folder / "k")
        await kubelet.registered("example.com/empty")
        with start("list", "--once", "k") as process:
            output, _ = await asyncio.to_thread(process.communicate, timeout=20)
    assert output.splitlines()[1:] == [f"{output.split(':')[0]}: list 1, devices: 0"]


@pytest.mark.asyncio
async def test_one_bad_socket_does_not_hide_the_others(folder: Path, start: Start, serve: Serve) -> None:
    """The status tells of it."""
    async with changing(folder, serve) as (_, _, socket):
        with start("list", "--once", "none.sock", socket) as process:
            output, complaints = await asyncio.to_thread(process.communicate, timeout=20)
            assert (process.returncode, complaints) == (1, "none.sock: no such socket\n")
            assert "list 1" in output


def test_wrong_use(run: Run, folder: Path) -> None:
    """A folder without sockets, one that cannot be read, nothing at all."""
    (folder / "empty").mkdir()
    (folder / "empty" / "kubelet.sock").touch()
    result = run("list", "empty")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "There is no plugin's socket in empty." in result.stderr
    assert run("list").exit_code == 2


def test_a_directory_that_cannot_be_read(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own words."""

    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", refuse)
    assert "Cannot look into .: Permission denied." in run("list", ".").stderr
    assert folder.is_dir()


def test_no_third_copy() -> None:
    """The sample's client and this command are one client with two faces."""
    for face in ("examples/sample_device/client.py", "devplugin/cli/_list.py"):
        text = (ROOT / face).read_text()
        assert "SideClient.connected" in text
        assert "DevicePluginStub" not in text
