"""The client of the pod resources API: against a server on grpcio whose messages are Google's, and against real kubelets'."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from devplugin import ConfigurationError, KubeletError, KubeletUnavailable
from devplugin.podresources import (
    ClaimedDevice,
    ContainerResources,
    DynamicResource,
    HeldDevice,
    Memory,
    PodResources,
    PodResourcesClient,
    UnknownPod,
)
from tests.generate_proto import generate
from tests.kubelets.answers import Container, Pod
from tests.kubelets.build import VERSIONS, binary
from tests.kubelets.driver import DeviceManager, Options
from tests.kubelets.stub import StubPlugin, device
from tests.support_pages import ROOT

PROTO = ROOT / "devplugin" / "_podresources"
GENERATED = [Path("message_pool.py"), Path("v1", "__init__.py")]


def test_the_committed_code_is_what_the_proto_file_gives(tmp_path: Path) -> None:
    """Who changes one of them without the other is told; ``make proto`` mends it."""
    generate(PROTO, tmp_path)
    written = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {path: (PROTO / path).read_text() for path in GENERATED}


def test_the_messages_are_loaded_with_the_first_call_only() -> None:
    """Who imports the client for its types does not pay for them, and the core never does."""
    code = "import sys, devplugin.podresources; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    unwanted = ("betterproto2", "devplugin._podresources", "devplugin._proto")
    assert [name for name in done.stdout.split() if name.startswith(unwanted)] == []
    code = "import sys, devplugin; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "devplugin.podresources" not in done.stdout.split()


# A server that is not ours ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Mapping[str, Any]], bytes]:
    """Google's encoding of a message of the .proto file, from what JSON has for it."""
    target = tmp_path_factory.mktemp("descriptors") / "all"
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTO}", f"--descriptor_set_out={target}"),
            "podresources_v1.proto",
        ],
        check=True,
    )
    files = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)

    def encode(name: str, content: Mapping[str, Any]) -> bytes:
        message = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v1.{name}"))()
        return json_format.ParseDict(dict(content), message).SerializeToString()

    return encode


Answer = Callable[[bytes, "grpc.aio.ServicerContext[bytes, bytes]"], Awaitable[bytes]]
Encode = Callable[[str, Mapping[str, Any]], bytes]


@asynccontextmanager
async def serving(socket: Path, **answers: Answer) -> AsyncIterator[PodResourcesClient]:
    """A client, and a server with these methods."""
    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        name: grpc.unary_unary_rpc_method_handler(answer) for name, answer in answers.items()
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("v1.PodResourcesLister", handlers)])
    server.add_insecure_port(f"unix://{socket}")
    await server.start()
    try:
        async with PodResourcesClient(socket, timeout_s=5) as client:
            yield client
    finally:
        await server.stop(None)


def says(text: bytes) -> Answer:
    async def answer(_: bytes, __: object) -> bytes:
        return text

    return answer


def refuses(code: grpc.StatusCode, text: str) -> Answer:
    async def answer(_: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        await context.abort(code, text)
        raise AssertionError

    return answer


NODE_0, NODE_1 = {"nodes": [{"ID": 0}]}, {"nodes": [{"ID": 1}]}
SHOP = {
    "name": "shop",
    "namespace": "default",
    "cpu_ids": [1],
    "memory": [{"memory_type": "memory", "size": 1024, "topology": NODE_0}],
    "containers": [
        {
            "name": "main",
            "cpu_ids": [2, 3],
            "memory": [{"memory_type": "hugepages-2Mi", "size": 2**40}],
            "devices": [
                {"resource_name": "a/b", "device_ids": ["2", "1"], "topology": NODE_1},
                {"resource_name": "a/b", "device_ids": ["2"], "topology": NODE_0},
                {"resource_name": "a/a", "device_ids": ["9"]},
            ],
            "dynamic_resources": [
                {
                    "claim_name": "claim",
                    "claim_namespace": "shops",
                    "claim_resources": [
                        {
                            "driver_name": "d",
                            "pool_name": "p",
                            "device_name": "e",
                            "share_id": "s",
                            "cdi_devices": [{"name": "a/b=c"}],
                        },
                        {"driver_name": "d"},
                    ],
                }
            ],
        },
        {"name": "empty"},
    ],
}
EXPECTED = PodResources(
    name="shop",
    namespace="default",
    cpu_ids=(1,),
    memory=(Memory(type="memory", bytes=1024, numa_nodes=(0,)),),
    containers=(
        ContainerResources(
            name="main",
            cpu_ids=(2, 3),
            memory=(Memory(type="hugepages-2Mi", bytes=2**40),),
            devices={"a/a": (HeldDevice("9"),), "a/b": (HeldDevice("1", (1,)), HeldDevice("2", (0, 1)))},
            dynamic_resources=(
                DynamicResource(
                    claim="claim",
                    namespace="shops",
                    devices=(
                        ClaimedDevice(driver="d", pool="p", device="e", share_id="s", cdi_devices=("a/b=c",)),
                        ClaimedDevice(driver="d", pool="", device=""),
                    ),
                ),
            ),
        ),
        ContainerResources(name="empty"),
    ),
)


@pytest.mark.asyncio
async def test_all_of_an_answer(directory: Path, messages: Encode) -> None:
    """The entries of a device on several NUMA nodes are one device; what is not there is empty."""
    async with serving(
        directory / "s",
        List=says(messages("ListPodResourcesResponse", {"pod_resources": [SHOP]})),
        Get=says(messages("GetPodResourcesResponse", {"pod_resources": SHOP})),
        GetAllocatableResources=says(
            messages(
                "AllocatableResourcesResponse",
                {"cpu_ids": [0, 1], "memory": SHOP["memory"], "devices": SHOP["containers"][0]["devices"]},  # type: ignore[index]
            )
        ),
    ) as client:
        assert await client.pods() == [EXPECTED]
        assert await client.pod("shop") == EXPECTED
        allocatable = await client.allocatable()
        assert allocatable.devices == EXPECTED.containers[0].devices
        assert (allocatable.cpu_ids, allocatable.memory) == ((0, 1), EXPECTED.memory)
        assert repr(client) == f"PodResourcesClient('{directory}/s')"
    with pytest.raises(FrozenInstanceError):
        EXPECTED.name = "other"  # type: ignore[misc]


@pytest.mark.asyncio
async def test_the_pod_that_is_asked_for(directory: Path, messages: Encode) -> None:
    """Name and namespace reach the kubelet."""
    asked = []

    async def answer(request: bytes, _: object) -> bytes:
        asked.append(request)
        return messages("GetPodResourcesResponse", {"pod_resources": {"name": "a"}})

    async with serving(directory / "s", Get=answer) as client:
        assert (await client.pod("a", "b")).name == "a"
    assert asked == [messages("GetPodResourcesRequest", {"pod_name": "a", "pod_namespace": "b"})]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("code", "text", "error", "said"),
    [
        (grpc.StatusCode.UNKNOWN, "pod a in namespace b not found", UnknownPod, "no pod b/a on this node: pod a in"),
        (grpc.StatusCode.NOT_FOUND, "", UnknownPod, "no pod b/a on this node: NOT_FOUND"),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "rejected by rate limit",
            KubeletUnavailable,
            "is asked too often: rejected",
        ),
        (grpc.StatusCode.UNIMPLEMENTED, "unknown method", KubeletError, "does not have this call"),
        (grpc.StatusCode.UNKNOWN, "PodResources API Get method disabled", KubeletError, "the kubelet refused: Pod"),
    ],
)
async def test_refusals(
    directory: Path, code: grpc.StatusCode, text: str, error: type[KubeletError], said: str
) -> None:
    """In the kubelet's own words, and of the kind that says who must act."""
    async with serving(directory / "s", Get=refuses(code, text)) as client:
        with pytest.raises(KubeletError, match=said) as caught:
            await client.pod("a", "b")
        assert type(caught.value) is error


@pytest.mark.asyncio
async def test_an_answer_without_a_pod(directory: Path) -> None:
    """It is a failure, not a pod without a name."""
    async with serving(directory / "s", Get=says(b"")) as client:
        with pytest.raises(KubeletError, match="answered without a pod for default/a"):
            await client.pod("a")


@pytest.mark.asyncio
async def test_another_method_is_not_mistaken_for_a_pod(directory: Path) -> None:
    """What is not found in a call that is about no pod is a refusal like others."""
    async with serving(directory / "s", List=refuses(grpc.StatusCode.NOT_FOUND, "not found")) as client:
        with pytest.raises(KubeletError, match="the kubelet refused: not found") as caught:
            await client.pods()
        assert not isinstance(caught.value, UnknownPod)


@pytest.mark.asyncio
async def test_nobody_listens(directory: Path) -> None:
    """And after a restart of the kubelet the next call connects again."""
    async with PodResourcesClient(directory / "s") as client:
        with pytest.raises(KubeletUnavailable, match=f"nobody listens on {directory}/s: No such file"):
            await client.pods()
        async with serving(directory / "s", List=says(b"")):
            assert await client.pods() == []
        with pytest.raises(KubeletUnavailable):
            await client.pods()
        (directory / "s").unlink(missing_ok=True)
        async with serving(directory / "s", List=says(b"")):
            assert await client.pods() == []


@pytest.mark.asyncio
async def test_a_server_that_does_not_answer(directory: Path) -> None:
    """It is given up after the time that was said."""

    async def answer(_: bytes, __: object) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(directory / "s", List=answer), PodResourcesClient(directory / "s", timeout_s=0.1) as client:
        with pytest.raises(KubeletUnavailable, match=r"no answer on .* in 0\.1 s"):
            await client.pods()


@pytest.mark.asyncio
async def test_a_server_that_goes_away_during_the_call(directory: Path) -> None:
    """It hangs up, or speaks something else."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async with await asyncio.start_unix_server(hang_up, directory / "s"), PodResourcesClient(directory / "s") as client:
        with pytest.raises(KubeletUnavailable, match="went away during the call"):
            await client.pods()


@contextmanager
def as_nobody() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.asyncio
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_no_permission(directory: Path) -> None:
    """It says as whom it tried."""
    directory.chmod(0o755)
    async with serving(directory / "s", List=says(b"")) as client:
        (directory / "s").chmod(0o600)
        with as_nobody(), pytest.raises(ConfigurationError, match=r"no permission to connect to .* as user 65534"):
            await client.pods()


# The kubelets' own servers ----------------------------------------------------------------------------------------------


@pytest.mark.kubelets
@pytest.mark.asyncio
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_real_kubelets_server(directory: Path, version: str) -> None:
    """Each version's: what pods hold and what there is; one pod, where the version has the call."""
    socket = directory / "pod-resources.sock"
    options = Options(pod_resources=socket, numa_nodes=2)
    async with (
        DeviceManager(binary(version), directory, options) as kubelet,
        StubPlugin(directory, "a/b", [device("1", node=0), device("2")]) as plugin,
        PodResourcesClient(socket) as client,
    ):
        await plugin.register()
        await kubelet.allocatable("a/b", 2)
        pod = Pod("p", [Container("main", {"a/b": 2})])
        await kubelet.run(pod)
        [held] = await client.pods()
        assert (held.name, [container.name for container in held.containers]) == ("p", ["main"])
        devices = held.containers[0].devices["a/b"]
        assert [each.id for each in devices] == ["1", "2"]
        assert devices[0].numa_nodes == (0,)
        if version == "1.20":
            with pytest.raises(KubeletError, match="does not have this call"):
                await client.allocatable()
            with pytest.raises(KubeletError, match="does not have this call"):
                await client.pod("p")
            return
        assert [each.id for each in (await client.allocatable()).devices["a/b"]] == ["1", "2"]
        assert await client.pod("p", held.namespace) == held
        with pytest.raises(UnknownPod, match=f"no pod {held.namespace}/q on this node"):
            await client.pod("q", held.namespace)
