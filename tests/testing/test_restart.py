"""The kubelet's life: what a stop leaves, what a start brings back."""

import asyncio
import json
import logging
import socket
from pathlib import Path

import pytest

from devplugin.testing import Clock, Container, FakeKubelet, Resource
from devplugin.testing._checkpoint import write_checkpoint
from tests.testing.conftest import Serve
from tests.testing.grpcio_plugin import RESOURCE, GrpcioPlugin, device

pytestmark = pytest.mark.asyncio

CHECKPOINT = "kubelet_internal_checkpoint"


@pytest.mark.parametrize("way", ["stop", "kill"])
async def test_a_stale_socket_stays(kubelet: FakeKubelet, plugin: GrpcioPlugin, way: str) -> None:
    """A kubelet that is gone leaves kubelet.sock, where nobody answers, and its streams end."""
    await getattr(kubelet, way)()
    await plugin.stream_ended.wait()
    assert not kubelet.is_running
    assert kubelet.socket.is_socket()
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(kubelet.socket))
    await kubelet.stop()
    await kubelet.kill()


async def test_a_start_makes_everything_anew(kubelet: FakeKubelet, plugin: GrpcioPlugin, plugins: Serve) -> None:
    """kubelet.sock is another file, the plugins' sockets are gone, what was known has capacity 0 until it is back."""
    before = kubelet.socket.stat()
    await kubelet.restart()
    after = kubelet.socket.stat()
    assert (before.st_ino, before.st_ctime_ns) != (after.st_ino, after.st_ctime_ns)
    assert sorted(path.name for path in kubelet.directory.iterdir()) == ["kubelet.sock", CHECKPOINT]
    assert kubelet.resources == {RESOURCE: Resource(capacity=0, allocatable=0)}
    again = await plugins("again.sock")
    await again.register()
    await kubelet.allocatable(RESOURCE, 4)


async def test_what_does_not_come_back_is_forgotten(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """Five minutes after the start, the checkpoint forgets a resource as well."""
    await kubelet.restart()
    assert RESOURCE in json.loads((kubelet.directory / CHECKPOINT).read_text())["Data"]["RegisteredDevices"]
    kubelet.clock.advance(300)
    assert json.loads((kubelet.directory / CHECKPOINT).read_text())["Data"]["RegisteredDevices"] == {}


async def test_twice_is_once(kubelet: FakeKubelet) -> None:
    """A kubelet that runs cannot be started, nor one whose context was not entered or is left."""
    with pytest.raises(RuntimeError, match="cannot be started: it runs"):
        await kubelet.start()
    other = FakeKubelet(kubelet.directory / "other")
    with pytest.raises(RuntimeError, match="its context is not entered"):
        await other.start()
    async with other:
        pass
    with pytest.raises(RuntimeError, match="its context is not entered"):
        await other.start()


async def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    """The kernel's limit for the path of a socket is told in a sentence, by entering the context."""
    with pytest.raises(ValueError, match=r"kubelet\.sock has \d+ bytes; the path of a socket may have 107"):
        async with FakeKubelet(tmp_path / ("x" * 100)):
            pass


async def test_a_directory_that_cannot_be_made(directory: Path) -> None:
    """What the system refuses reaches the one who enters."""
    (directory / "file").touch()
    with pytest.raises(OSError, match="file"):
        async with FakeKubelet(directory / "file"):
            pass


async def test_a_start_that_fails_can_be_tried_again(kubelet: FakeKubelet) -> None:
    """A failed start leaves a stopped kubelet."""
    await kubelet.stop()
    kubelet.socket.unlink()
    kubelet.socket.mkdir()
    with pytest.raises(OSError, match="in use"):
        await kubelet.start()
    assert not kubelet.is_running
    kubelet.socket.rmdir()
    await kubelet.start()


async def test_entering_that_is_cancelled(directory: Path) -> None:
    """Who is cancelled while entering leaves nothing running."""
    kubelet = FakeKubelet(directory)
    entering = asyncio.create_task(kubelet.__aenter__())
    await asyncio.sleep(0)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert not kubelet.is_running
    assert [task for task in asyncio.all_tasks() if "fake kubelet" in task.get_name()] == []


async def test_containers_do_not_notice(kubelet: FakeKubelet, plugin: GrpcioPlugin, plugins: Serve) -> None:
    """A restart touches no container, and the pods keep their devices."""
    pod = await kubelet.create_pod("demo", {RESOURCE: 2}).running()
    held, state = pod.device_ids(RESOURCE), pod.containers["main"].state
    await kubelet.restart()
    await plugin.stop()
    again = await plugins("again.sock")
    await again.register()
    await kubelet.allocatable(RESOURCE, 4)
    assert pod.containers["main"].state is state
    assert pod.device_ids(RESOURCE) == held
    assert again.asked("Allocate") == []
    assert kubelet.resources[RESOURCE].allocated == held
    pod.stop_container()
    await kubelet.until(lambda: pod.restarts == 1, "The restart")
    assert pod.device_ids(RESOURCE) == held


@pytest.mark.parametrize("version", ["1.20", "1.36"])
async def test_a_container_that_ended_meanwhile(directory: Path, plugins: Serve, version: str) -> None:
    """It must be admitted again, while nothing is healthy yet; 1.20 does not mind."""
    async with FakeKubelet(directory, version) as kubelet:
        plugin = await plugins()
        await plugin.register()
        await kubelet.allocatable(RESOURCE, 4)
        pod = await kubelet.create_pod("demo", {RESOURCE: 2}).running()
        await kubelet.stop()
        assert kubelet.resources == {}
        assert pod.device_ids(RESOURCE) == frozenset()
        pod.stop_container()
        await kubelet.start()
        if version == "1.20":
            await pod.running()
            assert pod.restarts == 1
        else:
            await pod.failed()
            assert f"no healthy devices present; cannot allocate unhealthy devices {RESOURCE}" in pod.message


async def test_pods_that_came_meanwhile(kubelet: FakeKubelet, plugin: GrpcioPlugin, plugins: Serve) -> None:
    """What was asked for while the kubelet was away is admitted after its start."""
    await kubelet.stop()
    waiting, given = kubelet.create_pod("waiting", {RESOURCE: 1}), kubelet.create_pod("given", {}, bound=True)
    assert (waiting.status, waiting.events, given.status) == ("Pending", [], "Pending")
    await kubelet.start()
    await given.running()
    await waiting.event("FailedScheduling")
    again = await plugins("again.sock")
    await again.register()
    await waiting.running()


@pytest.mark.parametrize("way", ["stop", "kill"])
async def test_calls_in_flight(kubelet: FakeKubelet, plugin: GrpcioPlugin, plugins: Serve, way: str) -> None:
    """What a kubelet was waiting for when it ended does not fail the pod; the next one asks again."""
    plugin.hold = {"Allocate": asyncio.Event()}
    pod = kubelet.create_pod("demo", {RESOURCE: 1})
    await asyncio.wait_for(plugin.called("Allocate"), 5)
    await getattr(kubelet, way)()
    assert pod.status == "Pending"
    assert kubelet.calls == []
    await kubelet.start()
    again = await plugins("again.sock")
    await again.register()
    await kubelet.allocatable(RESOURCE, 4)
    await pod.failed()
    assert "no healthy devices present" in pod.message


@pytest.mark.parametrize("way", ["stop", "kill"])
async def test_registering_while_the_kubelet_ends(
    kubelet: FakeKubelet, plugins: Serve, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A Register call in flight ends with the kubelet, and nothing is logged about it."""
    plugin = await plugins()
    plugin.hold = {"GetDevicePluginOptions": asyncio.Event()}
    registering = asyncio.create_task(plugin.register())
    await asyncio.wait_for(plugin.called("GetDevicePluginOptions"), 5)
    await getattr(kubelet, way)()
    with pytest.raises(Exception, match=r"UNAVAILABLE|CANCELLED"):
        await registering
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_the_checkpoint_is_as_the_real_one(kubelet: FakeKubelet, plugins: Serve) -> None:
    """Its layout is the kubelet's: entries with their NUMA nodes, the plugin's answer, the healthy ids."""
    plugin = await plugins("grpcio.sock", device("1", "Healthy", 0, 1), device("2"))
    await plugin.register()
    await kubelet.allocatable(RESOURCE, 2)
    pod = await kubelet.create_pod("demo", {RESOURCE: 2}).running()
    path = kubelet.directory / CHECKPOINT
    data = json.loads(path.read_text())["Data"]
    [entry] = data["PodDeviceEntries"]
    assert {node: sorted(ids) for node, ids in entry["DeviceIDs"].items()} == {"0": ["1"], "1": ["1"], "-1": ["2"]}
    assert (entry["PodUID"], entry["ContainerName"], entry["ResourceName"]) == (pod.uid, "main", RESOURCE)
    assert data["RegisteredDevices"] == {RESOURCE: ["1", "2"]}
    assert path.stat().st_mode & 0o777 == 0o600


# Written by the device manager of Kubernetes 1.36.3.
REAL = (
    '{"Data":{"PodDeviceEntries":[{"PodUID":"uid-p","ContainerName":"c","ResourceName":"demo/sample-device",'
    '"DeviceIDs":{"-1":["2"],"0":["1"],"1":["1"]},"AllocResp":"ChMKDlNBTVBMRV9ERVZJQ0UyEgExChMKDlNBTVBMRV9ERVZJQ0UxEgEx"},'
    '{"PodUID":"uid-p2","ContainerName":"c","ResourceName":"a/q","DeviceIDs":{"-1":["x"]},'
    '"AllocResp":"ChMKDlNBTVBMRV9ERVZJQ0V4EgEx"}],"RegisteredDevices":{"a/q":["x","y"],"demo/sample-device":["1","2"]}},'
    '"Checksum":2699590491}'
)


async def test_a_checkpoint_of_a_real_kubelet(directory: Path) -> None:
    """It is read, and written with the same checksum."""
    (directory / CHECKPOINT).write_text(REAL)
    async with FakeKubelet(directory) as kubelet:
        assert set(kubelet.resources) == {"a/q", RESOURCE}
        run = kubelet._node.run
        assert run is not None
        assert run.manager.pod_devices.devices() == {"a/q": {"x"}, RESOURCE: {"1", "2"}}
        assert run.manager.pod_devices.run_options("uid-p2", "c").envs == {"SAMPLE_DEVICEx": "1"}
        write_checkpoint(directory, run.manager.pod_devices, {"a/q": ["x", "y"], RESOURCE: ["1", "2"]})
        assert (directory / CHECKPOINT).read_text() == REAL


@pytest.mark.parametrize(
    "content",
    [
        '{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{}},"Checksum":1}',
        "",
        "[]",
        "{}",
        '{"Data": {}, "Checksum": 1}',
        '{"Data": null, "Checksum": 0}',
        '{"Data": 1}',
    ],
)
async def test_a_checkpoint_that_is_broken(directory: Path, content: str) -> None:
    """The kubelet goes on without a checkpoint that it cannot use."""
    (directory / CHECKPOINT).write_text(content)
    async with FakeKubelet(directory) as kubelet:
        assert kubelet.resources == {}


async def test_another_kubelet_on_the_same_directory(directory: Path, plugins: Serve) -> None:
    """The books are in the directory: the next kubelet knows the resource."""
    async with FakeKubelet(directory) as kubelet:
        plugin = await plugins()
        await plugin.register()
        await kubelet.allocatable(RESOURCE, 4)
    async with FakeKubelet(directory, clock=Clock(ticking=False)) as kubelet:
        assert kubelet.resources == {RESOURCE: Resource(capacity=0, allocatable=0)}
        assert kubelet.create_pod("demo", containers=[Container("a")]).name == "demo"
