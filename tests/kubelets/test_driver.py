"""The driver of each version of Kubernetes, with Kubernetes' sample plugin and with a stub as its plugins."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from devplugin._proto import v1beta1 as pb

from .answers import Container, Hint, Pod
from .build import NAMES, SAMPLE, VERSIONS, binary
from .driver import DeviceManager, DriverError, Options, UnsupportedError
from .stub import StubPlugin, device

pytestmark = pytest.mark.kubelets
RESOURCE = "example.com/resource"  # the sample plugin's, with the devices Dev-1 and Dev-2


def built(name: str) -> Path:
    path = binary(name)
    assert path.exists(), f"{path} is missing: run {Path(__file__).parent / 'build'} {name}"
    return path


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def program(version: str) -> Path:
    return built(version)


CLASSIC = """
    mkdir -p /var/lib/kubelet/device-plugins && mount --bind "$1" /var/lib/kubelet/device-plugins &&
    export PLUGIN_SOCK_DIR=/var/lib/kubelet/device-plugins"""
# The file DEPRECATION, which kubelets of old made, keeps the sample from registering by itself.
WATCHED = """
    mkdir -p /var/lib/kubelet/device-plugins && touch /var/lib/kubelet/device-plugins/DEPRECATION &&
    mkdir /var/lib/kubelet/plugins_registry && mount --bind "$1" /var/lib/kubelet/plugins_registry &&
    export PLUGIN_SOCK_DIR=/var/lib/kubelet/plugins_registry"""


# Allocate makes files in /tmp, so that is private too; the program may lie there.
RUN = (
    'touch /var/lib/sample && mount --bind "$2" /var/lib/sample && mount -t tmpfs private /tmp && exec /var/lib/sample'
)


@contextlib.asynccontextmanager
async def sample(directory: Path, script: str = CLASSIC) -> AsyncIterator[asyncio.subprocess.Process]:
    """Kubernetes' sample plugin. Its paths are the standard ones, so it has a mount namespace of its own."""
    unshare = [shutil.which("unshare") or "unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    script = f"mount -t tmpfs private /var/lib && {script} && {RUN}"
    process = await asyncio.create_subprocess_exec(
        *unshare, "sh", "-c", script, "sh", directory, built(SAMPLE), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.asyncio
async def test_the_sample_plugin_serves_a_pod(program: Path, version: str, directory: Path) -> None:
    """It registers; a pod gets both devices and what Allocate answered; the next pod is refused in the kubelet's words."""
    async with DeviceManager(program, directory) as kubelet, sample(directory):
        assert kubelet.kubernetes.startswith(f"{version}.")
        await kubelet.allocatable(RESOURCE, 2, capacity=2)
        pod = Pod.of("first", RESOURCE, 2)
        admission, starts = await kubelet.run(pod)
        assert (admission.admitted, admission.devices(RESOURCE)) == (True, ["Dev-1", "Dev-2"])
        assert sorted(mount.host_path for mount in starts["main"].grant.mounts) == ["/tmp/Dev-1", "/tmp/Dev-2"]
        refused = await kubelet.allocate(Pod.of("second", RESOURCE, 1))
        lack = f"requested number of devices unavailable for {RESOURCE}. Requested: 1, Available: 0"
        why = f"Allocate failed due to {lack}, which is unexpected"
        assert (refused.admitted, refused.phase, refused.reason) == (False, "Failed", "UnexpectedAdmissionError")
        assert refused.event_message == why
        assert refused.message == ("Pod " if version == "1.20" else "Pod was rejected: ") + why
        await kubelet.free(pod)
        assert (await kubelet.allocate(Pod.of("third", RESOURCE, 1))).admitted
        assert len((await kubelet.pod_resources()).pods["third"]["main"]) == 1


@pytest.mark.asyncio
async def test_the_grace_can_be_shortened(program: Path, version: str, directory: Path) -> None:
    """The plugin gone: 0 of 2, starts from the cache; after the grace 0 of 0, and no start."""
    async with DeviceManager(program, directory) as kubelet:
        async with sample(directory) as process:
            await kubelet.allocatable(RESOURCE, 2)
            pod = Pod.of("a", RESOURCE, 1)
            await kubelet.run(pod)
            with pytest.raises(DriverError, match="has not stopped"):
                await kubelet.age(RESOURCE, 301)
            process.send_signal(signal.SIGTERM)
            await kubelet.allocatable(RESOURCE, 0, capacity=2)
        again = await kubelet.start(pod)
        assert (again.started, again.devices) == (True, {RESOURCE: (await kubelet.state()).allocated[RESOURCE]})
        assert (await kubelet.age(RESOURCE, 290)).capacity == {RESOURCE: 2}
        state = await kubelet.age(RESOURCE, 11)
        assert (state.capacity, state.allocatable, state.deleted) == ({RESOURCE: 0}, {RESOURCE: 0}, [RESOURCE])
        refused = await kubelet.start(pod)
        assert refused.reason == "CreateContainerConfigError"
        assert refused.message == f"endpoint not found in cache for a registered resource: {RESOURCE}"
        unregistered = "can't" if version == "1.20" else "cannot"
        assert (
            f"{unregistered} allocate unregistered device" in (await kubelet.allocate(Pod.of("b", RESOURCE, 1))).message
        )


@pytest.mark.asyncio
async def test_a_kubelet_that_restarts_knows_its_pods(program: Path, directory: Path) -> None:
    """Killed and started again on its directory: capacity 0 until the plugin is back, the running pod keeps its device."""
    async with DeviceManager(program, directory) as before, sample(directory):
        await before.allocatable(RESOURCE, 2)
        pod = Pod.of("a", RESOURCE, 1)
        admission, _ = await before.run(pod)
        await before.kill()
    async with before.successor() as after:
        await after.allocatable(RESOURCE, 0, capacity=0)
        (adopted,) = await after.adopt([pod])
        assert (adopted.admitted, adopted.containers) == (True, admission.containers)
        start = await after.start(pod)
        assert (start.started, start.devices) == (True, {RESOURCE: admission.devices(RESOURCE)})
        checkpoint = await after.checkpoint()
        assert checkpoint.checksum_ok
        assert [(e.uid, e.container, e.resource) for e in checkpoint.entries] == [(pod.uid, "main", RESOURCE)]
        async with sample(directory):
            await after.allocatable(RESOURCE, 2)
            other = await after.allocate(Pod.of("b", RESOURCE, 1))
            assert set(other.devices(RESOURCE)).isdisjoint(admission.devices(RESOURCE))
            assert not (await after.allocate(Pod.of("c", RESOURCE, 1))).admitted
            await after.free(pod)
            assert (await after.allocate(Pod.of("d", RESOURCE, 1))).devices(RESOURCE) == admission.devices(RESOURCE)


@pytest.mark.asyncio
async def test_all_of_an_answer_reaches_the_container(program: Path, version: str, directory: Path) -> None:
    """Environment, mount, device node, annotation, CDI; PreStartContainer at each start, and its error."""
    options = pb.DevicePluginOptions(pre_start_required=True)
    async with (
        DeviceManager(program, directory) as kubelet,
        StubPlugin(directory, "a/b", [device("1")], options) as plugin,
    ):
        await plugin.register()
        await kubelet.allocatable("a/b", 1)
        pod = Pod.of("p", "a/b", 1)
        _, starts = await kubelet.run(pod)
        grant = starts["main"].grant
        assert grant.envs == {"IDS": "1"}
        assert [(m.container_path, m.host_path, m.read_only) for m in grant.mounts] == [("/c", "/h", True)]
        assert [(d.container_path, d.host_path, d.permissions) for d in grant.device_nodes] == [
            ("/dev/c", "/dev/h", "rw")
        ]
        assert grant.annotations == {"note": "x"}
        assert grant.cdi_devices == ([] if version == "1.20" else ["vendor.com/class=1"])
        assert (await kubelet.pre_start(pod)).started
        plugin.refusal = "not today"
        refused = await kubelet.start(pod)
        assert (refused.started, refused.reason) == (False, "CreateContainerConfigError")
        assert refused.message == (
            "device plugin PreStartContainer rpc failed with err: rpc error: code = FailedPrecondition desc = not today"
        )
        assert [name for name, _ in plugin.calls if name in ("allocate", "pre_start")] == [
            "allocate",
            *["pre_start"] * 3,
        ]


@pytest.mark.asyncio
async def test_init_containers_lend_and_sidecars_keep(program: Path, version: str, directory: Path) -> None:
    """An init container's device is the app's too; a sidecar's is its own."""
    pod = Pod("p", [Container("app", {"a/b": 1})], init_containers=[Container("init", {"a/b": 1})])
    async with (
        DeviceManager(program, directory) as kubelet,
        StubPlugin(directory, "a/b", [device("1"), device("2")]) as plugin,
    ):
        await plugin.register()
        await kubelet.allocatable("a/b", 2)
        admission = await kubelet.allocate(pod)
        assert admission.devices("a/b", "init") == admission.devices("a/b", "app")
        await kubelet.free(pod)
        pod = Pod("q", [Container("app", {"a/b": 1})], init_containers=[Container("side", {"a/b": 1}, "Always")])
        if version == "1.20":
            with pytest.raises(UnsupportedError):
                await kubelet.allocate(pod)
            return
        admission = await kubelet.allocate(pod)
        assert sorted(admission.devices("a/b", "side") + admission.devices("a/b", "app")) == ["1", "2"]


@pytest.mark.asyncio
async def test_numa_nodes_are_hinted_and_aligned(program: Path, directory: Path) -> None:
    """Hints name the nodes; a policy aligns by them or refuses; the plugin's preference is asked among those."""
    devices = [device("1", node=0), device("2", node=0), device("3", node=1)]
    options = pb.DevicePluginOptions(get_preferred_allocation_available=True)
    async with (
        DeviceManager(program, directory, Options(numa_nodes=2, topology_policy="single-numa-node")) as kubelet,
        StubPlugin(directory, "a/b", devices, options) as plugin,
    ):
        await plugin.register()
        await kubelet.allocatable("a/b", 3)
        hints = await kubelet.hints(Pod.of("p", "a/b", 2))
        assert hints.containers["main"]["a/b"] == (Hint((0,), preferred=True), Hint((0, 1), preferred=False))
        one = await kubelet.allocate(Pod.of("p", "a/b", 1))
        assert one.containers["main"].affinity == Hint((0,), preferred=True)
        assert one.devices("a/b") == ["2"]  # the stub prefers the last
        asked = next(request for name, request in plugin.calls if name == "prefer").container_requests[0]
        assert (sorted(asked.available_deviceIDs), asked.must_include_deviceIDs, asked.allocation_size) == (
            ["1", "2"],
            [],
            1,
        )
        refused = await kubelet.allocate(Pod.of("q", "a/b", 2))
        assert (refused.reason, refused.event_message) == (
            "TopologyAffinityError",
            "Resources cannot be allocated with Topology locality",
        )


@pytest.mark.asyncio
async def test_a_plugin_that_hangs_blocks_admissions_and_nothing_else(program: Path, directory: Path) -> None:
    """The second admission waits for the first; the state can be had meanwhile; all go on when the plugin does."""
    async with (
        DeviceManager(program, directory) as kubelet,
        StubPlugin(directory, "a/b", [device("1"), device("2")]) as plugin,
    ):
        await plugin.register()
        await kubelet.allocatable("a/b", 2)
        plugin.held.clear()
        admissions = [asyncio.create_task(kubelet.allocate(Pod.of(name, "a/b", 1))) for name in "pq"]
        while not any(name == "allocate" for name, _ in plugin.calls):
            assert (await kubelet.state()).capacity == {"a/b": 2}
        assert not any(task.done() for task in admissions)
        assert [name for name, _ in plugin.calls].count("allocate") == 1
        plugin.held.set()
        done = await asyncio.gather(*admissions)
        assert sorted(key for admission in done for key in admission.devices("a/b")) == ["1", "2"]


@pytest.mark.asyncio
async def test_registrations_and_health_are_told(program: Path, version: str, directory: Path) -> None:
    """Events: registered, listed, refused, gone; device health in the books and in the pod's status."""
    gates = {} if version == "1.20" else {"ResourceHealthStatus": True}
    async with DeviceManager(program, directory, Options(feature_gates=gates)) as kubelet:
        async with StubPlugin(directory, "a/b", [device("1")]) as plugin:
            await plugin.register()
            await kubelet.event("connected", resource="a/b", socket=str(directory / plugin.endpoint))
            await kubelet.event("list", resource="a/b", devices=1, healthy=1)
            await kubelet.allocatable("a/b", 1)
            pod = Pod.of("p", "a/b", 1)
            await kubelet.run(pod)
            plugin.update(device("1", healthy=False))
            await kubelet.allocatable("a/b", 0, capacity=1)
            assert (await kubelet.state()).devices["a/b"]["1"].health == "Unhealthy"
            if version == "1.20":
                with pytest.raises(UnsupportedError):
                    await kubelet.resource_health(pod)
            else:
                await kubelet.event("health", uids=[pod.uid])
                assert (await kubelet.resource_health(pod)).containers == {"main": {"a/b": {"1": "Unhealthy"}}}
        await kubelet.event("disconnected", resource="a/b")
        async with StubPlugin(directory, "no-slash", []) as plugin:
            with pytest.raises(grpc.aio.AioRpcError, match='the ResourceName "no-slash" is invalid'):
                await plugin.register()
        if version != "1.20":
            refused = await kubelet.event("register", resource="no-slash")
            assert refused.fields["error"] == 'the ResourceName "no-slash" is invalid'


@pytest.mark.asyncio
async def test_the_pod_resources_api_is_served(program: Path, directory: Path) -> None:
    """The real server answers on a socket."""
    socket = directory / "pod-resources.sock"
    async with DeviceManager(program, directory, Options(pod_resources=socket)) as kubelet:
        await kubelet.state()
        async with grpc.aio.insecure_channel(f"unix://{socket}") as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/v1.PodResourcesLister/List")
            assert await call(b"", timeout=10) == b""


@pytest.mark.asyncio
async def test_the_plugin_watcher_finds_a_socket(program: Path, directory: Path) -> None:
    """A plugin in plugins_registry is found, and lost when its socket goes."""
    registry = directory / "plugins_registry"
    registry.mkdir()
    async with (
        DeviceManager(program, directory, Options(plugins_registry=registry)) as kubelet,
        sample(registry, WATCHED) as process,
    ):
        await kubelet.allocatable(RESOURCE, 2)
        process.send_signal(signal.SIGTERM)
        await kubelet.allocatable(RESOURCE, 0, capacity=2)


@pytest.mark.asyncio
async def test_errors_say_what_was_seen(program: Path, directory: Path) -> None:
    """A wait in vain, an unknown pod, an end unasked for: each with the events and the log."""
    async with DeviceManager(program, directory, Options(log_verbosity=4)) as kubelet:
        with pytest.raises(DriverError, match=r"allocatable 1 of a/b(.|\n)*started kubernetes='1\.(.|\n)*checkpoint"):
            await kubelet.allocatable("a/b", 1, timeout_s=0.2)
        with pytest.raises(DriverError, match="no pod has the uid"):
            await kubelet.start(Pod.of("p", "a/b", 1))
        waiting = asyncio.create_task(kubelet.event("connected", timeout_s=30))
        os.kill(kubelet.pid, signal.SIGKILL)
        with pytest.raises(DriverError, match="it ended before the event connected"):
            await waiting
        with pytest.raises(DriverError, match="cannot state"):
            await kubelet.state()


def test_every_name_has_a_path_of_its_own() -> None:
    """The names of build and their files."""
    assert len({binary(name) for name in NAMES}) == len(NAMES)
