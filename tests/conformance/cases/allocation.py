"""Admission, Allocate, GetPreferredAllocation and PreStartContainer: raw plugins, so that the kubelet alone is seen."""

import asyncio

import grpc
import pytest

from devplugin._proto import v1beta1 as pb
from tests.conformance.cases.registration import RESOURCE
from tests.conformance.lab import Lab
from tests.conformance.registry import case, in_real_ones, since
from tests.kubelets.answers import Container, DeviceNode, Mount, Pod
from tests.kubelets.driver import DriverError
from tests.testing.grpcio_plugin import GrpcioPlugin, Refusal, healthy


async def offering(lab: Lab, options: pb.DevicePluginOptions | None = None) -> GrpcioPlugin:
    """A registered plugin whose devices 1 to 4 are there."""
    plugin = await lab.raw("a.sock")
    plugin.options = options or pb.DevicePluginOptions()
    await plugin.register(RESOURCE)
    await lab.offers(RESOURCE, 4)
    return plugin


@case()
async def the_whole_answer_arrives(lab: Lab) -> None:
    """Environment, mounts, device nodes, annotations and CDI names reach the container, the first of each path."""
    plugin = await offering(lab)
    plugin.allocate = lambda _: pb.ContainerAllocateResponse(
        envs={"A": "1", "EMPTY": ""},
        mounts=[
            pb.Mount(container_path="/c", host_path="/h", read_only=True),
            pb.Mount(container_path="/c", host_path="/other"),
            pb.Mount(container_path="/d", host_path="/h"),
        ],
        devices=[
            pb.DeviceSpec(container_path="/dev/c", host_path="/dev/h", permissions="rwm"),
            pb.DeviceSpec(container_path="/dev/c", host_path="/dev/other", permissions="r"),
            pb.DeviceSpec(container_path="/dev/d", host_path="/dev/h", permissions="mr"),
        ],
        annotations={"k": "v", "empty": ""},
        cdi_devices=[pb.CdiDevice(name="v.com/c=n"), pb.CdiDevice(name="v.com/c=m"), pb.CdiDevice(name="v.com/c=n")],
    )
    _, starts = await lab.run(Pod.of("a", RESOURCE, 1))
    grant = starts["main"].grant
    assert grant.envs == {"A": "1", "EMPTY": ""}
    assert grant.mounts == [Mount("/c", "/h", read_only=True), Mount("/d", "/h", read_only=False)]
    assert grant.device_nodes == [DeviceNode("/dev/c", "/dev/h", "rwm"), DeviceNode("/dev/d", "/dev/h", "mr")]
    assert grant.annotations == {"k": "v", "empty": ""}
    assert grant.cdi_devices == (["v.com/c=n", "v.com/c=m"] if lab.version.knows_cdi else [])


@case()
async def what_two_resources_give_is_joined(lab: Lab) -> None:
    """A container of two resources gets what both plugins answered."""
    for number, resource in enumerate(("example.com/one", "example.com/two")):
        plugin = await lab.raw(f"{number}.sock")
        plugin.allocate = lambda ids, n=number: pb.ContainerAllocateResponse(envs={f"ENV{n}": ids[0]})  # type: ignore[misc]
        await plugin.register(resource)
        await lab.offers(resource, 4)
    pod = Pod("a", [Container("main", {"example.com/one": 1, "example.com/two": 1})])
    _, starts = await lab.run(pod)
    held = starts["main"].devices
    assert starts["main"].grant.envs == {"ENV0": held["example.com/one"][0], "ENV1": held["example.com/two"][0]}


@case()
async def a_plugins_refusal_is_the_pods(lab: Lab) -> None:
    """What Allocate fails with is what the pod's owner reads, and the devices are free again."""
    plugin = await offering(lab)

    def refuse(_: list[str]) -> pb.ContainerAllocateResponse:
        raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "no way; günther")

    plugin.allocate = refuse
    reason = await lab.rejected(Pod.of("a", RESOURCE, 4))
    assert reason == "rpc error: code = FailedPrecondition desc = no way; günther"
    plugin.allocate = lambda _: pb.ContainerAllocateResponse()
    await lab.run(Pod.of("b", RESOURCE, 4))


@case()
async def an_answer_for_no_container_is_refused(lab: Lab) -> None:
    """An AllocateResponse without a container fails the pod."""
    plugin = await offering(lab)
    plugin.allocate = lambda _: None
    empty = (
        ""
        if lab.version.dials_inside_register
        else "&AllocateResponse{ContainerResponses:[]*ContainerAllocateResponse{},}"
    )
    expected = f"no containers return in allocation response {empty}"
    assert await lab.rejected(Pod.of("a", RESOURCE, 1)) == expected


@case()
async def one_request_for_each_container(lab: Lab) -> None:
    """Allocate is called once for each container and resource, with that container's ids."""
    plugin = await offering(lab)
    pod = Pod("a", [Container("one", {RESOURCE: 1}), Container("two", {RESOURCE: 3})])
    admission, _ = await lab.run(pod)
    asked = plugin.asked("Allocate")
    assert [sorted(ids) for ids in asked] == [admission.devices(RESOURCE, "one"), admission.devices(RESOURCE, "two")]
    await lab.started(pod, "two")
    assert len(plugin.asked("Allocate")) == 2


@case()
async def a_pod_that_asks_for_nothing(lab: Lab) -> None:
    """A container without the resource, or with 0 of it, is no matter of the plugin's."""
    plugin = await offering(lab)
    await lab.run(Pod("a", [Container("none"), Container("zero", {RESOURCE: 0})]))
    assert plugin.asked("Allocate") == []


@case()
async def an_allocation_that_hangs_blocks_the_node(lab: Lab) -> None:
    """Allocate has no deadline of the kubelet's, and no other pod is admitted meanwhile: plugins must bring their own."""
    plugin = await offering(lab)
    other = await lab.raw("b.sock")
    await other.register("example.com/other")
    await lab.offers("example.com/other", 4)
    answer = asyncio.Event()
    plugin.hold = {"Allocate": answer}
    first = asyncio.create_task(lab.kubelet.admit(Pod.of("a", RESOURCE, 1)))
    await asyncio.wait_for(plugin.called("Allocate"), lab.kubelet.timeout_s)
    second = asyncio.create_task(lab.kubelet.admit(Pod.of("b", "example.com/other", 1)))
    third = await lab.raw("c.sock")  # all else goes on
    await third.register("example.com/third")
    await lab.offers("example.com/third", 4)
    await plugin.send(*healthy("1", "2", "3", "4", "5"))  # and none less: see the next case
    await lab.offers(RESOURCE, 5)
    assert not first.done()
    assert other.asked("Allocate") == []
    answer.set()
    assert (await first).admitted
    assert (await second).admitted


@case(needs=[in_real_ones("does not crash where the real one does")])
async def a_device_that_goes_while_it_is_allocated(lab: Lab) -> None:
    """Leaving a device out of the list while Allocate for it is under way crashes the kubelet (1.34 to 1.37): a device that
    may be in use is to be called unhealthy instead.
    """
    plugin = await offering(lab)
    answer = asyncio.Event()
    plugin.hold = {"Allocate": answer}
    admission = asyncio.create_task(lab.kubelet.admit(Pod.of("a", RESOURCE, 4)))
    await asyncio.wait_for(plugin.called("Allocate"), lab.kubelet.timeout_s)
    await plugin.send(*healthy("1"))
    await lab.offers(RESOURCE, 1)
    answer.set()
    if lab.version.crashes_over_a_device_that_went:
        with pytest.raises(DriverError, match="nil pointer dereference"):
            await admission
    else:
        assert (await admission).admitted


@case()
async def a_plugin_that_dies_in_allocate(lab: Lab) -> None:
    """The pod of an Allocate whose plugin dies is rejected, and the kubelet goes on with the next plugin."""
    plugin = await offering(lab)
    plugin.hold = {"Allocate": asyncio.Event()}
    admission = asyncio.create_task(lab.rejected(Pod.of("a", RESOURCE, 1)))
    await asyncio.wait_for(plugin.called("Allocate"), lab.kubelet.timeout_s)
    await plugin.stop()
    assert (await admission).startswith("rpc error: code = ")
    await lab.away(RESOURCE, 4)
    again = await lab.raw("b.sock")
    await again.register(RESOURCE)
    await lab.offers(RESOURCE, 4)
    await lab.run(Pod.of("b", RESOURCE, 4))


_PREFERS = pb.DevicePluginOptions(get_preferred_allocation_available=True)


@case()
async def the_preference_is_asked_for_and_kept_to(lab: Lab) -> None:
    """GetPreferredAllocation gets what is free and how many are wanted; the answer is used, what is unknown is left out,
    what is missing is filled up, what is too much is cut.
    """
    plugin = await offering(lab, _PREFERS)
    plugin.prefer = lambda _: ["4", "unknown", "2"]
    pod = Pod.of("a", RESOURCE, 2)
    admission, _ = await lab.run(pod)
    assert admission.devices(RESOURCE) == ["2", "4"]
    [asked] = plugin.asked("GetPreferredAllocation")
    assert (sorted(asked.available_deviceIDs), asked.must_include_deviceIDs, asked.allocation_size) == (
        ["1", "2", "3", "4"],
        [],
        2,
    )
    await lab.kubelet.remove(pod)
    plugin.prefer = lambda _: ["4"]
    pod = Pod.of("b", RESOURCE, 3)
    admission, _ = await lab.run(pod)
    assert "4" in admission.devices(RESOURCE)
    assert len(admission.devices(RESOURCE)) == 3
    await lab.kubelet.remove(pod)
    plugin.prefer = lambda _: ["1", "3", "4"]
    admission, _ = await lab.run(Pod.of("c", RESOURCE, 2))
    assert set(admission.devices(RESOURCE)) < {"1", "3", "4"}


@case()
async def what_an_init_container_had_must_be_in_the_preference(lab: Lab) -> None:
    """Devices that the container gets anyway come as must_include, counted in the size."""
    plugin = await offering(lab, _PREFERS)
    pod = Pod("a", [Container("app", {RESOURCE: 2})], [Container("init", {RESOURCE: 1})])
    admission, _ = await lab.run(pod)
    first, second = plugin.asked("GetPreferredAllocation")
    assert (first.must_include_deviceIDs, first.allocation_size) == ([], 1)
    assert (second.must_include_deviceIDs, second.allocation_size) == (admission.devices(RESOURCE, "init"), 2)
    assert sorted(second.available_deviceIDs) == ["1", "2", "3", "4"]


@case()
async def a_preference_that_fails_fails_the_pod(lab: Lab) -> None:
    """An error of GetPreferredAllocation rejects the pod, in these words."""
    plugin = await offering(lab, _PREFERS)

    def refuse(_: pb.ContainerPreferredAllocationRequest) -> list[str]:
        raise Refusal(grpc.StatusCode.INTERNAL, "no idea")

    plugin.prefer = refuse
    assert await lab.rejected(Pod.of("a", RESOURCE, 1)) == (
        "device plugin GetPreferredAllocation rpc failed with err: rpc error: code = Internal desc = no idea"
    )


_PREPARES = pb.DevicePluginOptions(pre_start_required=True)


@case()
async def each_start_is_announced(lab: Lab) -> None:
    """PreStartContainer gets the container's ids at each start, with 30 s of time."""
    plugin = await offering(lab, _PREPARES)
    pod = Pod.of("a", RESOURCE, 2)
    admission, _ = await lab.run(pod)
    await lab.started(pod)
    calls = plugin.asked("PreStartContainer")
    assert [ids for ids, _ in calls] == [admission.devices(RESOURCE)] * 2
    assert all(29 < left_s <= 31 for _, left_s in calls), calls


@case()
async def a_start_that_the_plugin_refuses_is_tried_again(lab: Lab) -> None:
    """What PreStartContainer fails with is the container's CreateContainerConfigError, until it succeeds."""
    plugin = await offering(lab, _PREPARES)

    def refuse(_: list[str]) -> None:
        raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "not now")

    plugin.pre_start = refuse
    pod = Pod.of("a", RESOURCE, 1)
    assert (await lab.kubelet.admit(pod)).admitted
    for _ in range(2):
        refused = await lab.kubelet.start_container(pod)
        assert (refused.started, refused.reason) == (False, "CreateContainerConfigError")
        assert refused.message == (
            "device plugin PreStartContainer rpc failed with err: rpc error: code = ResourceExhausted desc = not now"
        )
    plugin.pre_start = lambda _: None
    await lab.started(pod)


@case()
async def a_start_that_hangs(lab: Lab) -> None:
    """The kubelet waits 30 s for PreStartContainer, then the container has not started, and other pods were not held up."""
    plugin = await offering(lab, _PREPARES)
    answer = asyncio.Event()
    plugin.hold = {"PreStartContainer": answer}
    pod = Pod.of("a", RESOURCE, 1)
    assert (await lab.kubelet.admit(pod)).admitted
    start = asyncio.create_task(lab.kubelet.start_container(pod))
    await asyncio.wait_for(plugin.called("PreStartContainer"), lab.kubelet.timeout_s)
    assert (await lab.kubelet.admit(Pod.of("b", RESOURCE, 1))).admitted
    assert not start.done()
    refused = await start
    assert (refused.started, refused.reason) == (False, "CreateContainerConfigError")
    failed = "device plugin PreStartContainer rpc failed with err: rpc error: code = DeadlineExceeded desc = "
    # Both sides know the deadline; who is first words it.
    assert refused.message in (f"{failed}context deadline exceeded", f"{failed}Deadline Exceeded")
    answer.set()
    await lab.started(pod)


@case()
async def no_start_without_a_plugin_that_prepares(lab: Lab) -> None:
    """Where PreStartContainer is wanted, a container cannot start again while the plugin is away, not even in its grace."""
    plugin = await offering(lab, _PREPARES)
    pod = Pod.of("a", RESOURCE, 1)
    await lab.run(pod)
    await plugin.stop()
    await lab.away(RESOURCE, 4)
    refused = await lab.kubelet.start_container(pod)
    assert (refused.started, refused.reason) == (False, "CreateContainerConfigError")
    assert refused.message.startswith("device plugin PreStartContainer rpc failed with err: endpoint ")
    assert refused.message.endswith(" has been stopped")
    again = await lab.raw("b.sock")
    again.options = _PREPARES
    await again.register(RESOURCE)
    await lab.offers(RESOURCE, 4)
    await lab.started(pod)


@case(
    needs=[
        in_real_ones("admits its pods in the moment of its start"),
        since("1.25", "does not look at the health of what a pod has"),
    ]
)
async def a_reboot_with_other_devices(lab: Lab) -> None:
    """After a reboot, a pod whose devices did not come back is rejected although others are there."""
    await offering(lab)
    await lab.run(Pod.of("a", RESOURCE, 4))
    again = GrpcioPlugin(lab.directory, "b.sock", *healthy("7", "8", "9", "10"))

    async def come_back() -> None:
        await again.serve()
        await again.register(RESOURCE)
        await lab.offers(RESOURCE, 4)

    try:
        await lab.kubelet.reboot(before_pods=come_back)
        admission = await lab.kubelet.decision(Pod.of("a", RESOURCE, 4))
    finally:
        await again.stop()
    reason = f"previously allocated devices are no longer healthy; cannot allocate unhealthy devices {RESOURCE}"
    assert admission.event_message == f"Allocate failed due to {reason}, which is unexpected"
