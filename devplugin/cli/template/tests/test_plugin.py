"""The plugin on a kubelet of its own: devplugin brings the fixtures ``kubelet`` and ``serve``."""

from pathlib import Path

import pytest
from devplugin.testing import FakeKubelet, Serve

from my_plugin.plugin import PATTERN, MyPlugin


@pytest.fixture
def nodes(tmp_path: Path) -> list[Path]:
    """Two devices, in a directory that stands for /dev."""
    directory = tmp_path / "dev"
    directory.mkdir()
    found = [directory / PATTERN.replace("*", number) for number in "01"]
    for node in found:
        node.touch()
    return found


async def test_each_pod_gets_a_device_of_its_own(
    nodes: list[Path], kubelet: FakeKubelet, serve: Serve
) -> None:
    resource = await serve(MyPlugin(nodes[0].parent))
    pods = [await kubelet.create_pod(name, {resource: 1}).running() for name in ("one", "two")]
    given = [device for pod in pods for device in pod.containers["main"].options.devices]
    assert sorted(device.host_path for device in given) == [str(node) for node in nodes]
    assert {device.container_path for device in given} == {f"/dev/{node.name}" for node in nodes}


async def test_a_pod_that_wants_too_many_waits(
    nodes: list[Path], kubelet: FakeKubelet, serve: Serve
) -> None:
    resource = await serve(MyPlugin(nodes[0].parent))
    pod = kubelet.create_pod("greedy", {resource: 3})
    assert f"Insufficient {resource}" in (await pod.event("FailedScheduling")).message


async def test_a_device_that_is_gone_is_unhealthy_until_it_is_back(
    nodes: list[Path], kubelet: FakeKubelet, serve: Serve
) -> None:
    resource = await serve(MyPlugin(nodes[0].parent, interval_s=0.01))
    nodes[1].unlink()
    seen = await kubelet.allocatable(resource, 1)
    assert seen.capacity == 2
    nodes[1].touch()
    await kubelet.allocatable(resource, 2)


async def test_the_devices_are_back_after_a_restart_of_the_kubelet(
    nodes: list[Path], kubelet: FakeKubelet, serve: Serve
) -> None:
    resource = await serve(MyPlugin(nodes[0].parent))
    await kubelet.restart()
    await kubelet.allocatable(resource, 2)
