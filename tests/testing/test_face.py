"""The public face of devplugin.testing, its versions, and that nothing is left behind."""

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop

import devplugin.testing
from devplugin import Allocation, Device, DevicePluginBase
from devplugin._proto import v1beta1 as pb
from devplugin.testing import Container, FakeKubelet
from devplugin.testing._versions import VERSIONS
from tests.conftest import eventually
from tests.testing.grpcio_plugin import RESOURCE


def test_exports() -> None:
    """All public names are there, sorted, with a docstring."""
    names = devplugin.testing.__all__
    assert names == sorted(names)
    for name in names:
        assert getattr(devplugin.testing, name).__doc__, name


def test_versions(tmp_path: Path) -> None:
    """Each version with a behaviour of its own can be chosen; another one is refused with the list."""
    for version in VERSIONS:
        assert FakeKubelet(tmp_path, version).version == version
    with pytest.raises(
        ValueError, match=r"behaves as version '1\.33'; there are 1\.20, 1\.34, 1\.35, 1\.36, 1\.37, of which"
    ):
        FakeKubelet(tmp_path, "1.33")


def modules_after(statement: str) -> set[str]:
    """The modules of devplugin that a new interpreter has after a statement."""
    code = f"import sys; {statement}; print(*(name for name in sys.modules if name.startswith('devplugin.')))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_needs_nothing_of_the_plugin_side() -> None:
    """The fake kubelet is the other side: it shares nothing with devplugin but the generated messages."""
    added = modules_after("import devplugin.testing") - modules_after("import devplugin")
    assert {name for name in added if not name.startswith(("devplugin.testing", "devplugin._proto"))} == set()


def children() -> set[str]:
    """The processes that this one has started."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


class Sample(DevicePluginBase):
    """The project's own plugin side, for many restarts."""

    resource_name = RESOURCE

    async def devices(self) -> AsyncIterator[list[Device]]:
        """Four devices."""
        yield [Device(str(n), grants=Allocation(env={f"SAMPLE_DEVICE{n}": "1"})) for n in range(1, 5)]


def descriptors() -> set[str]:
    """What this process has open, without what looking at it opens."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except OSError:
            continue
    return {each for each in found if "/proc/" not in each}


@pytest.mark.asyncio
async def test_many_restarts_leave_nothing(directory: Path) -> None:
    """After many restarts there are as many tasks, descriptors and files as before, and the plugin is registered."""
    async with FakeKubelet(directory) as kubelet:
        plugin = asyncio.create_task(Sample().serve(kubelet_dir=directory))
        try:
            await kubelet.allocatable(RESOURCE, 4)
            pod = await kubelet.create_pod("demo", {RESOURCE: 2}).running()
            counts = []
            for runs in (10, 50):
                for run in range(runs):
                    await (kubelet.kill() if run % 2 else kubelet.stop())
                    await kubelet.start()
                    await kubelet.allocatable(RESOURCE, 4)
                # kubelet.sock, the checkpoint and one socket of the plugin, which has cleaned up behind itself then
                await eventually(lambda: len(list(directory.iterdir())) == 3)
                gc.collect()
                timers = repr(kubelet.clock).rpartition(", ")[2]
                counts.append((len(asyncio.all_tasks()), len(descriptors()), timers))
            assert counts[0] == counts[1]
            assert pod.row == "demo   1/1   Running   0"
        finally:
            plugin.cancel()
            await asyncio.gather(plugin, return_exceptions=True)


def test_on_uvloop(directory: Path) -> None:
    """It works on uvloop as well: connections both ways, processes, restarts."""
    plugin = grpc.server(ThreadPoolExecutor(1, "plugin on uvloop"))
    request = pb.RegisterRequest(version="v1beta1", endpoint="empty.sock", resource_name=RESOURCE)

    def register() -> str:
        with grpc.insecure_channel(f"unix://{directory / 'kubelet.sock'}") as channel:
            call: Any = channel.unary_unary("/v1beta1.Registration/Register")
            error = call.future(bytes(request), timeout=10).exception()
            assert isinstance(error, grpc.Call)
            return str(error.details())

    async def use() -> None:
        async with FakeKubelet(directory) as kubelet:
            container = Container("main", command=["sleep", "1000"])
            pod = await kubelet.create_pod("demo", containers=[container]).running()
            await kubelet.restart()
            plugin.add_insecure_port(f"unix://{directory / 'empty.sock'}")
            plugin.start()
            assert "rpc error: code = Unimplemented desc = Method not found" in await asyncio.to_thread(register)
            await kubelet.stop()
            assert kubelet.socket.is_socket()
            assert pod.ready == "1/1"

    try:
        uvloop.run(use())
    finally:
        plugin.stop(None).wait()


@pytest.mark.asyncio
async def test_leaving_ends_everything(directory: Path) -> None:
    """When the context is left, no task, no descriptor and no process of it is there, whatever went on in it."""
    gc.collect()
    before_tasks, before_descriptors, before_children = asyncio.all_tasks(), descriptors(), children()

    async def use() -> set[str]:
        async with FakeKubelet(directory) as kubelet:
            container = Container("main", command=["sleep", "1000"])
            pods = [kubelet.create_pod(name, containers=[container]) for name in ("a", "b")]
            for pod in pods:
                await pod.running()
            started = children() - before_children
            kubelet.create_pod("waiting", {RESOURCE: 1})
            pods[1].stop_container()
            return started

    started = await use()
    assert len(started) == 2
    gc.collect()
    assert asyncio.all_tasks() == before_tasks
    assert descriptors() - before_descriptors == set()
    assert not started & children()


@pytest.mark.asyncio
async def test_leaving_by_an_error_and_by_cancellation(directory: Path) -> None:
    """An error in the body passes through, and so does a cancellation; both clean up."""
    before, before_children = asyncio.all_tasks(), children()

    async def fail() -> None:
        async with FakeKubelet(directory) as kubelet:
            await kubelet.create_pod("demo", containers=[Container("main", command=["sleep", "1000"])]).running()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), FakeKubelet(directory) as kubelet:
            await kubelet.create_pod("demo", {RESOURCE: 1}).running()
    assert asyncio.all_tasks() == before
    assert children() == before_children
