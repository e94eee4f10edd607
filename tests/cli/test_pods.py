"""``devplugin pods``: who holds what on this node."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from devplugin._podresources import v1
from tests.cli.conftest import Run, Start
from tests.kubelets.answers import Container, Pod
from tests.kubelets.build import binary
from tests.kubelets.driver import DeviceManager, Options
from tests.kubelets.stub import StubPlugin, device


def entry(resource: str, *ids: str, node: int | None = None) -> v1.ContainerDevices:
    topology = None if node is None else v1.TopologyInfo(nodes=[v1.NumaNode(id=node)])
    return v1.ContainerDevices(resource_name=resource, device_ids=[*ids], topology=topology)


def pod(name: str, *devices: v1.ContainerDevices) -> v1.PodResources:
    return v1.PodResources(name=name, namespace="shops", containers=[v1.ContainerResources("main", [*devices])])


@asynccontextmanager
async def kubelet(
    socket: Path, pods: list[v1.PodResources], allocatable: list[v1.ContainerDevices]
) -> AsyncIterator[None]:
    """A pod resources server on grpcio."""

    async def answer_list(_: bytes, __: object) -> bytes:
        return bytes(v1.ListPodResourcesResponse(pods))

    async def answer_allocatable(_: bytes, __: object) -> bytes:
        return bytes(v1.AllocatableResourcesResponse(allocatable, cpu_ids=[0, 1]))

    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "List": grpc.unary_unary_rpc_method_handler(answer_list),
        "GetAllocatableResources": grpc.unary_unary_rpc_method_handler(answer_allocatable),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("v1.PodResourcesLister", handlers)])
    server.add_insecure_port(f"unix://{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


async def output(start: Start, *arguments: str) -> str:
    """What it prints when all is well, without the ends of its lines."""
    with start("pods", "--socket", "s", *arguments) as process:
        said, complaints = await asyncio.to_thread(process.communicate, timeout=20)
    assert (process.returncode, complaints) == (0, "")
    return "\n".join(line.rstrip() for line in said.splitlines())


PODS = [
    pod("till", entry("a/b", "3", "1", node=0), entry("a/b", "1", node=1)),
    pod("idle"),
    pod("scale", entry("a/c", "x\x1b[2J")),
]
ALLOCATABLE = [entry("a/b", "1", "2", node=0), entry("a/d", "y")]


@pytest.mark.asyncio
async def test_tables(folder: Path, start: Start) -> None:
    """Who holds what; and what is free: a device that is held and no longer healthy is not."""
    async with kubelet(folder / "s", PODS, ALLOCATABLE):
        assert await output(start) == (
            "NAMESPACE   POD     CONTAINER   RESOURCE   DEVICES\n"
            "shops       scale   main        a/c        x\\x1b[2J\n"
            "shops       till    main        a/b        1, 3\n"
            "\n"
            "RESOURCE   HEALTHY   HELD   FREE\n"
            "a/b        2         2      1\n"
            "a/c        0         1      0\n"
            "a/d        1         0      1"
        )
        assert await output(start, "--resource", "a/d") == (
            "No pod on this node has a device of a/d.\n\nRESOURCE   HEALTHY   HELD   FREE\na/d        1         0      1"
        )
        assert await output(start, "--resource", "a/e") == "No pod on this node has a device of a/e."


@pytest.mark.asyncio
async def test_nobody_has_anything(folder: Path, start: Start) -> None:
    """A sentence instead of an empty table."""
    async with kubelet(folder / "s", [], []):
        assert await output(start) == "No pod on this node has a device."


@pytest.mark.asyncio
async def test_json(folder: Path, start: Start) -> None:
    """One document with all that the API tells; of one resource, if asked so."""
    async with kubelet(folder / "s", PODS[:1], ALLOCATABLE):
        document: dict[str, Any] = json.loads(await output(start, "--output", "json"))
        assert document == {
            "pods": [
                {
                    "namespace": "shops",
                    "name": "till",
                    "cpu_ids": [],
                    "memory": [],
                    "containers": [
                        {
                            "name": "main",
                            "devices": {"a/b": [{"id": "1", "numa_nodes": [0, 1]}, {"id": "3", "numa_nodes": [0]}]},
                            "cpu_ids": [],
                            "memory": [],
                            "dynamic_resources": [],
                        }
                    ],
                }
            ],
            "allocatable": {
                "devices": {
                    "a/b": [{"id": "1", "numa_nodes": [0]}, {"id": "2", "numa_nodes": [0]}],
                    "a/d": [{"id": "y", "numa_nodes": []}],
                },
                "cpu_ids": [0, 1],
                "memory": [],
            },
        }
        one = json.loads(await output(start, "--output", "json", "--resource", "a/d"))
        assert one["pods"][0]["containers"][0]["devices"] == {}
        assert [*one["allocatable"]["devices"]] == ["a/d"]


def test_no_kubelet_is_there(run: Run, folder: Path) -> None:
    """Status 1, and where it was looked for."""
    result = run("pods", "--socket", folder / "none")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: nobody listens on {folder}/none: No such file or directory.\n"


def test_wrong_use(run: Run) -> None:
    """Status 2."""
    assert run("pods", "nonsense").exit_code == 2


@pytest.mark.kubelets
@pytest.mark.asyncio
async def test_a_real_kubelets_server(folder: Path, start: Start) -> None:
    """The device manager of a kubelet, with a pod."""
    async with (
        DeviceManager(binary("1.36"), folder / "k", Options(pod_resources=folder / "s")) as manager,
        StubPlugin(folder / "k", "a/b", [device("1"), device("2")]) as plugin,
    ):
        await plugin.register()
        await manager.allocatable("a/b", 2)
        await manager.run(Pod("p", [Container("main", {"a/b": 1})]))
        said = await output(start)
    assert "a/b        2         1      1" in said
    assert " p     main        a/b " in said
