"""Admission: who gets which devices, and with which words a pod is refused."""

import asyncio
import random
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from devplugin._proto import v1beta1 as pb
from devplugin.testing import Call, Container, DeviceSpec, FakeKubelet, Mount, Pod
from devplugin.testing._allocation import Allocator
from devplugin.testing._client import KubeletError
from tests.testing.conftest import Serve
from tests.testing.grpcio_plugin import RESOURCE, GrpcioPlugin, Refusal, device, healthy, sample_answer

pytestmark = pytest.mark.asyncio


async def refusal_of(pod: Pod) -> str:
    """Why a pod was refused; the status and the event say it in the kubelet's frame."""
    await pod.failed()
    before, after = "Pod was rejected: Allocate failed due to ", ", which is unexpected"
    assert pod.reason == pod.status == "UnexpectedAdmissionError"
    assert pod.message.startswith(before)
    assert pod.message.endswith(after)
    assert str(pod.events[-1]) == f"Warning UnexpectedAdmissionError: {pod.message.removeprefix('Pod was rejected: ')}"
    return pod.message.removeprefix(before).removesuffix(after)


async def test_devices_for_a_pod(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """The plugin is asked once, for as many distinct devices as the pod wants, and its answer reaches the container."""
    pod = await kubelet.create_pod("demo", {RESOURCE: 2}).running()
    [ids] = plugin.asked("Allocate")
    assert pod.device_ids(RESOURCE) == frozenset(ids)
    assert len(pod.device_ids(RESOURCE, "main")) == 2
    assert pod.containers["main"].options.envs == {f"SAMPLE_DEVICE{each}": "1" for each in ids}
    assert kubelet.resources[RESOURCE].allocated == frozenset(ids)
    [call] = kubelet.calls
    assert call == Call(
        method="Allocate", resource=RESOURCE, endpoint="grpcio.sock", at_s=call.at_s, device_ids=tuple(ids)
    )
    assert [event.reason for event in pod.events] == ["Scheduled", "Created", "Started"]


async def test_everything_a_plugin_can_grant(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """What names one path twice counts once, the first time; permissions go through as they are."""
    plugin.allocate = lambda _: pb.ContainerAllocateResponse(
        envs={"A": "1"},
        annotations={"k": "v"},
        mounts=[
            pb.Mount(container_path="/c", host_path="/h", read_only=True),
            pb.Mount(container_path="/c", host_path="/other"),
        ],
        devices=[
            pb.DeviceSpec(container_path="/dev/a", host_path="/dev/b", permissions="nonsense"),
            pb.DeviceSpec(container_path="/dev/a", host_path="/dev/c", permissions="r"),
        ],
        cdi_devices=[pb.CdiDevice(name="v/c=n"), pb.CdiDevice(name="v/c=n")],
    )
    pod = await kubelet.create_pod("demo", {RESOURCE: 1}).running()
    options = pod.containers["main"].options
    assert options.envs == {"A": "1"}
    assert options.annotations == {"k": "v"}
    assert options.mounts == [Mount("/c", "/h", read_only=True)]
    assert options.devices == [DeviceSpec("/dev/a", "/dev/b", "nonsense")]
    assert options.cdi_devices == ["v/c=n"]


async def test_two_resources_of_one_container(kubelet: FakeKubelet, plugin: GrpcioPlugin, plugins: Serve) -> None:
    """One Allocate call for each; the answers are merged."""
    other = await plugins("other.sock", *healthy("x"))
    await other.register("other/one")
    await kubelet.allocatable("other/one", 1)
    pod = await kubelet.create_pod("demo", {RESOURCE: 4, "other/one": 1}).running()
    assert other.asked("Allocate") == [["x"]]
    assert set(pod.containers["main"].options.envs) == {f"SAMPLE_DEVICE{each}" for each in ("1", "2", "3", "4", "x")}
    assert pod.device_ids("other/one") == frozenset({"x"})


async def test_refused_by_the_plugin(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """The plugin's own words reach the pod, in Go's frame, and the devices stay free."""

    def refuse(_: list[str]) -> pb.ContainerAllocateResponse:
        raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "not töday")

    plugin.allocate = refuse
    pod = kubelet.create_pod("demo", {RESOURCE: 3})
    assert await refusal_of(pod) == "rpc error: code = FailedPrecondition desc = not töday"
    assert kubelet.calls[0].error == "rpc error: code = FailedPrecondition desc = not töday"
    assert kubelet.resources[RESOURCE].allocated == frozenset()
    plugin.allocate = sample_answer
    await kubelet.create_pod("next", {RESOURCE: 4}).running()


@pytest.mark.parametrize(
    ("version", "said"),
    [("1.20", "&AllocateResponse{ContainerResponses:[]*ContainerAllocateResponse{},}"), ("1.36", "")],
)
async def test_no_answer_for_the_container(directory: Path, plugins: Serve, version: str, said: str) -> None:
    """An answer without containers is an error; how Go prints it depends on the version."""
    async with FakeKubelet(directory, version) as kubelet:
        plugin = await plugins()
        plugin.allocate = lambda _: None
        await plugin.register()
        await kubelet.allocatable(RESOURCE, 4)
        pod = await kubelet.create_pod("demo", {RESOURCE: 1}).failed()
        assert f"due to no containers return in allocation response {said}, which" in pod.message
        assert pod.message.startswith({"1.20": "Pod Allocate", "1.36": "Pod was rejected: Allocate"}[version])


async def test_more_than_is_free(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """A pod that the scheduler did not keep away is refused by the device manager."""
    await kubelet.create_pod("first", {RESOURCE: 3}).running()
    pod = kubelet.create_pod("second", {RESOURCE: 2}, bound=True)
    assert await refusal_of(pod) == (
        f"requested number of devices unavailable for {RESOURCE}. Requested: 2, Available: 1"
    )


async def test_nothing_healthy(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """Nor is it admitted where no device is healthy."""
    await plugin.send(device("1", "Unhealthy"))
    await kubelet.allocatable(RESOURCE, 0)
    pod = kubelet.create_pod("demo", {RESOURCE: 1}, bound=True)
    assert await refusal_of(pod) == f"no healthy devices present; cannot allocate unhealthy devices {RESOURCE}"


async def test_unknown_to_everybody(kubelet: FakeKubelet) -> None:
    """A resource that the kubelet has never heard of is not its business."""
    pod = await kubelet.create_pod("demo", {"never/heard": 1}, bound=True).running()
    assert pod.device_ids("never/heard") == frozenset()


async def test_forgotten_but_held(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """A resource that is gone, but of which a pod still holds devices, is refused as unregistered."""
    await kubelet.create_pod("first", {RESOURCE: 1}).running()
    await plugin.stop()
    await kubelet.allocatable(RESOURCE, 0)
    kubelet.clock.advance(300)
    pod = kubelet.create_pod("second", {RESOURCE: 1}, bound=True)
    assert await refusal_of(pod) == f"cannot allocate unregistered device {RESOURCE}"


async def test_forgotten_and_free(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """Where nobody holds any, the last check of admission finds that the node has none."""
    await plugin.stop()
    await kubelet.allocatable(RESOURCE, 0)
    kubelet.clock.advance(300)
    pod = await kubelet.create_pod("demo", {RESOURCE: 1}, bound=True).failed()
    assert pod.reason == f"OutOf{RESOURCE}"
    assert pod.message == (
        f"Pod was rejected: Node didn't have enough resource: {RESOURCE}, requested: 1, used: 0, capacity: 0"
    )


async def test_the_words_of_twenty(directory: Path, plugins: Serve) -> None:
    """1.20 says it in its own way, and does not look at health."""
    async with FakeKubelet(directory, "1.20") as kubelet:
        plugin = await plugins()
        await plugin.register()
        await kubelet.allocatable(RESOURCE, 4)
        await kubelet.create_pod("first", {RESOURCE: 1}).running()
        await plugin.end_streams()
        await kubelet.allocatable(RESOURCE, 0)
        pod = await kubelet.create_pod("second", {RESOURCE: 1}, bound=True).failed()
        assert f"unavailable for {RESOURCE}. Requested: 1, Available: 0" in pod.message
        kubelet.clock.advance(300)
        pod = await kubelet.create_pod("third", {RESOURCE: 1}, bound=True).failed()
        assert f"can't allocate unregistered device {RESOURCE}" in pod.message


async def test_twenty_knows_no_cdi(directory: Path, plugins: Serve) -> None:
    """CDI names do not reach a container of 1.20."""
    async with FakeKubelet(directory, "1.20") as kubelet:
        plugin = await plugins()
        plugin.allocate = lambda _: pb.ContainerAllocateResponse(cdi_devices=[pb.CdiDevice(name="v/c=n")])
        await plugin.register()
        await kubelet.allocatable(RESOURCE, 4)
        pod = await kubelet.create_pod("demo", {RESOURCE: 1}).running()
        assert pod.containers["main"].options.cdi_devices == []


async def test_a_plugin_that_hangs_holds_up_all(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """Admissions come one after the other, without a deadline."""
    plugin.hold = {"Allocate": asyncio.Event()}
    first, second = kubelet.create_pod("first", {RESOURCE: 1}), kubelet.create_pod("second", {})
    kubelet.clock.advance(3600)
    await asyncio.sleep(0.05)
    assert (first.status, second.status) == ("Pending", "Pending")
    plugin.hold["Allocate"].set()
    await first.running()
    await second.running()


async def test_deleted_before_its_turn(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """A pod that is deleted while it waits for admission is not looked at any more."""
    plugin.hold = {"Allocate": asyncio.Event()}
    first, second = kubelet.create_pod("first", {RESOURCE: 1}), kubelet.create_pod("second", {RESOURCE: 1})
    third = kubelet.create_pod("third", {})
    await plugin.called("Allocate")
    second.delete()
    plugin.hold["Allocate"].set()
    await first.running()
    await third.running()
    assert len(plugin.asked("Allocate")) == 1
    assert second.containers["main"].reason == "ContainerCreating"


async def test_devices_of_finished_pods_are_free(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """A pod that is over, or deleted, gives its devices back when the next one needs them."""
    pod = await kubelet.create_pod("first", {RESOURCE: 4}, restart_policy="Never").running()
    pod.stop_container(exit_code=0)
    await pod.succeeded()
    second = await kubelet.create_pod("second", {RESOURCE: 4}).running()
    second.delete()
    assert "second" not in kubelet.pods
    await kubelet.create_pod("second", {RESOURCE: 4}).running()


async def test_zero_devices(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """A limit of zero asks for nothing."""
    await kubelet.create_pod("demo", {RESOURCE: 0}).running()
    assert plugin.asked("Allocate") == []


async def test_choice_by_a_given_generator(directory: Path, plugins: Serve) -> None:
    """With one seed, the kubelet's choice is the same each time."""
    chosen = []
    for run in range(2):
        async with FakeKubelet(directory / str(run), rng=random.Random(7)) as kubelet:
            plugin = GrpcioPlugin(directory / str(run))
            async with plugin:
                await plugin.register()
                await kubelet.allocatable(RESOURCE, 4)
                await kubelet.create_pod("demo", {RESOURCE: 3}).running()
            chosen.append(plugin.asked("Allocate"))
    assert chosen[0] == chosen[1]


# GetPreferredAllocation -----------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def choosy(kubelet: FakeKubelet, plugins: Serve) -> GrpcioPlugin:
    """A plugin with a wish, and six devices."""
    plugin = await plugins("grpcio.sock", *healthy(*"123456"))
    plugin.options = pb.DevicePluginOptions(get_preferred_allocation_available=True)
    await plugin.register()
    await kubelet.allocatable(RESOURCE, 6)
    return plugin


async def test_not_asked_without_the_option(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """A plugin that did not set the option is never asked for its wish."""
    await kubelet.create_pod("demo", {RESOURCE: 1}).running()
    assert plugin.asked("GetPreferredAllocation") == []
    assert plugin.asked("PreStartContainer") == []


async def test_the_wish_is_followed(kubelet: FakeKubelet, choosy: GrpcioPlugin) -> None:
    """It is asked about all free devices; unknown ids in its answer are dropped, and the rest is taken."""
    choosy.prefer = lambda _: ["4", "unknown", "2"]
    pod = await kubelet.create_pod("demo", {RESOURCE: 2}).running()
    assert pod.device_ids(RESOURCE) == frozenset({"2", "4"})
    [asked] = choosy.asked("GetPreferredAllocation")
    assert (sorted(asked.available_deviceIDs), asked.must_include_deviceIDs, asked.allocation_size) == (
        [*"123456"],
        [],
        2,
    )
    call = kubelet.calls[0]
    assert (call.method, sorted(call.available), call.must_include, call.size) == (
        "GetPreferredAllocation",
        [*"123456"],
        (),
        2,
    )
    assert call.device_ids == ("4", "unknown", "2")


@pytest.mark.parametrize(("wish", "size"), [([], 2), (["4"], 2), ([*"1234"], 2), (["1"], 6)])
async def test_a_wish_of_another_size(kubelet: FakeKubelet, choosy: GrpcioPlugin, wish: list[str], size: int) -> None:
    """A short answer is topped up, a long one cut."""
    choosy.prefer = lambda _: wish
    ids = (await kubelet.create_pod("demo", {RESOURCE: size}).running()).device_ids(RESOURCE)
    assert len(ids) == size
    assert ids >= set(wish) or ids < set(wish)


async def test_a_wish_that_fails_fails_the_pod(kubelet: FakeKubelet, choosy: GrpcioPlugin) -> None:
    """An error of GetPreferredAllocation is not forgiven."""

    def refuse(_: pb.ContainerPreferredAllocationRequest) -> list[str]:
        raise Refusal(grpc.StatusCode.INTERNAL, "oh")

    choosy.prefer = refuse
    pod = kubelet.create_pod("demo", {RESOURCE: 1})
    assert await refusal_of(pod) == (
        "device plugin GetPreferredAllocation rpc failed with err: rpc error: code = Internal desc = oh"
    )
    assert kubelet.calls[0].error == "rpc error: code = Internal desc = oh"


async def test_chosen_already(kubelet: FakeKubelet, choosy: GrpcioPlugin) -> None:
    """What an init container had must be included where the next one wants more."""
    init = Container("init", {RESOURCE: 1}, command=["true"])
    pod = await kubelet.create_pod("demo", {RESOURCE: 3}, init_containers=[init]).running()
    asked = choosy.asked("GetPreferredAllocation")[-1]
    assert frozenset(asked.must_include_deviceIDs) == pod.device_ids(RESOURCE, "init")
    assert (len(asked.available_deviceIDs), asked.allocation_size) == (6, 3)
    assert pod.device_ids(RESOURCE, "init") < pod.device_ids(RESOURCE, "main")


# PreStartContainer ----------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def preparing(kubelet: FakeKubelet, plugins: Serve) -> GrpcioPlugin:
    """A plugin that wants to be called before each start."""
    plugin = await plugins()
    plugin.options = pb.DevicePluginOptions(pre_start_required=True)
    await plugin.register()
    await kubelet.allocatable(RESOURCE, 4)
    return plugin


async def test_before_each_start(kubelet: FakeKubelet, preparing: GrpcioPlugin) -> None:
    """It gets the container's devices and thirty seconds, at the first start and at each one after."""
    pod = await kubelet.create_pod("demo", {RESOURCE: 2}).running()
    pod.stop_container()
    await kubelet.until(lambda: pod.restarts == 1, "The restart")
    for ids, remaining_s in preparing.asked("PreStartContainer"):
        assert frozenset(ids) == pod.device_ids(RESOURCE)
        assert 29 < remaining_s <= 30
    assert len(preparing.asked("PreStartContainer")) == 2
    assert len(preparing.asked("Allocate")) == 1


async def test_before_a_start_that_it_forbids(kubelet: FakeKubelet, preparing: GrpcioPlugin) -> None:
    """An error holds the start up with CreateContainerConfigError; the call comes again."""

    def refuse(_: list[str]) -> None:
        raise Refusal(grpc.StatusCode.UNAVAILABLE, "not yet")

    preparing.pre_start = refuse
    pod = await kubelet.create_pod("demo", {RESOURCE: 1}).shows("CreateContainerConfigError")
    message = "device plugin PreStartContainer rpc failed with err: rpc error: code = Unavailable desc = not yet"
    assert str(pod.events[-1]) == f"Warning Failed: Error: {message}"
    assert message in repr(pod.containers["main"])
    assert (pod.phase, pod.ready, pod.restarts) == ("Pending", "0/1", 0)
    preparing.pre_start = lambda _: None
    kubelet.clock.advance(10)
    await pod.running()
    assert pod.restarts == 0


async def test_before_a_start_that_it_sleeps_over(kubelet: FakeKubelet, preparing: GrpcioPlugin) -> None:
    """After thirty seconds of the kubelet's clock the call is given up."""
    preparing.hold = {"PreStartContainer": asyncio.Event()}
    pod = kubelet.create_pod("demo", {RESOURCE: 1})
    await kubelet.until(lambda: kubelet.calls, "Allocate")
    while not kubelet.calls[-1].error:
        kubelet.clock.advance(30)
        await asyncio.sleep(0.01)
    await pod.shows("CreateContainerConfigError")
    assert kubelet.calls[-1].error == "rpc error: code = DeadlineExceeded desc = context deadline exceeded"


async def test_before_a_start_without_the_plugin(kubelet: FakeKubelet, preparing: GrpcioPlugin) -> None:
    """A plugin that is gone cannot be called: the container does not start from the cache."""
    pod = await kubelet.create_pod("demo", {RESOURCE: 1}).running()
    await preparing.stop()
    await kubelet.allocatable(RESOURCE, 0)
    pod.stop_container()
    await pod.shows("CreateContainerConfigError")
    assert pod.events[-1].message == (
        f"Error: device plugin PreStartContainer rpc failed with err: endpoint &{{{RESOURCE}}} has been stopped"
    )


# What only a kubelet that comes back late can meet --------------------------------------------------------------------


def allocator_of(kubelet: FakeKubelet) -> Allocator:
    """The part of the running kubelet that gives devices away."""
    run = kubelet._node.run
    assert run is not None
    return run._allocator


async def test_its_own_devices_fell_ill(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """A container that must be admitted again is refused when its own devices are not healthy any more."""
    pod = await kubelet.create_pod("demo", {RESOURCE: 1}).running()
    await plugin.send(*healthy("new"))
    await kubelet.allocatable(RESOURCE, 1)
    with pytest.raises(KubeletError) as caught:
        await allocator_of(kubelet).allocate(pod.containers["main"])
    assert str(caught.value) == (
        f"previously allocated devices are no longer healthy; cannot allocate unhealthy devices {RESOURCE}"
    )


async def test_it_wants_another_number(kubelet: FakeKubelet, plugin: GrpcioPlugin) -> None:
    """A container whose limit is not what it was is refused."""
    pod = await kubelet.create_pod("demo", {RESOURCE: 1}).running()
    pod.containers["main"].spec = Container("main", {RESOURCE: 2})
    with pytest.raises(KubeletError) as caught:
        await allocator_of(kubelet).allocate(pod.containers["main"])
    assert str(caught.value) == (
        f'pod "{pod.uid}" container "main" changed request for resource "{RESOURCE}" from 1 to 2'
    )


async def test_the_endpoint_went_during_admission(kubelet: FakeKubelet, choosy: GrpcioPlugin) -> None:
    """A resource may be forgotten between two looks at it; each place has its own words."""
    pod = kubelet.create_pod("demo", {RESOURCE: 1}, bound=True)
    run = kubelet._node.run
    assert run is not None
    del run.manager.endpoints[RESOURCE]
    assert await refusal_of(pod) == f"endpoint not found in cache for a registered resource: {RESOURCE}"
    with pytest.raises(KubeletError, match=f"^unknown Device Plugin {RESOURCE}$"):
        await allocator_of(kubelet)._ask_plugin(pod.containers["main"], RESOURCE, {"1"})


async def test_started_without_devices(kubelet: FakeKubelet, plugins: Serve) -> None:
    """A resource that appears after admission is allocated at the next start, or missed by PreStartContainer."""
    pod = await kubelet.create_pod("demo", {RESOURCE: 1}, bound=True).running()
    plugin = await plugins()
    await plugin.register()
    await kubelet.allocatable(RESOURCE, 4)
    pod.stop_container()
    await kubelet.until(lambda: pod.restarts == 1, "The restart")
    assert len(pod.device_ids(RESOURCE)) == 1
    plugin.options = pb.DevicePluginOptions(pre_start_required=True)
    other = await kubelet.create_pod("other", {"other/one": 1}, bound=True).running()
    await plugin.register("other/one")
    await kubelet.allocatable("other/one", 4)
    other.stop_container()
    await other.shows("CreateContainerConfigError")
    assert other.events[-1].message == (
        f"Error: no devices found allocated in local cache for pod {other.uid}, container main, resource other/one"
    )


async def test_started_without_devices_and_refused(kubelet: FakeKubelet, plugins: Serve) -> None:
    """What is allocated at a start can be refused by the plugin: the event has the plugin's words alone."""
    pod = await kubelet.create_pod("demo", {RESOURCE: 1}, bound=True).running()
    plugin = await plugins()

    def refuse(_: list[str]) -> pb.ContainerAllocateResponse:
        raise Refusal(grpc.StatusCode.INTERNAL, "not you")

    plugin.allocate = refuse
    await plugin.register()
    await kubelet.allocatable(RESOURCE, 4)
    pod.stop_container()
    await pod.shows("CreateContainerConfigError")
    assert pod.events[-1].message == "Error: not you"
