"""What an author's hooks do, and what becomes of it on the kubelet's side: with plugins of ours."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Never

import pytest

from devplugin import Allocation, AllocationError, Device, PreferredAllocationRequest
from tests.conformance.cases.health import offering
from tests.conformance.lab import Lab
from tests.conformance.registry import case
from tests.conformance.subjects import InProcess
from tests.conformance.widgets import IDS, RESOURCE, Hinting, Preparing, Widgets, unhealthy, widget
from tests.kubelets.answers import Pod
from tests.testing.grpcio_plugin import device, healthy

SOON_S = 0.2


async def for_ever(_: object) -> Never:
    """A hook that hangs."""
    await asyncio.Event().wait()
    raise AssertionError


async def serving(lab: Lab, plugin: Widgets) -> InProcess:
    """The plugin, its devices being there."""
    served = await lab.serve(plugin)
    await lab.offers(plugin.resource_name, len(IDS))
    return served


@case()
async def only_overridden_hooks_are_asked(lab: Lab) -> None:
    """A plugin that overrides neither is asked for neither preference nor preparation."""
    plugin = await offering(lab)
    pod = Pod.of("a", RESOURCE, 1)
    admission, _ = await lab.run(pod)
    await lab.started(pod)
    assert plugin.asked == [("allocate", tuple(admission.devices(RESOURCE)))]


@case()
async def allocate_says_why_not(lab: Lab) -> None:
    """The sentence of an AllocationError is what the pod's owner reads."""
    plugin = await offering(lab)

    async def refuse(devices: Sequence[Device]) -> Allocation:
        raise AllocationError(f"{len(devices)} widgets are locked by the licence server")

    plugin.on_allocate = refuse
    assert await lab.rejected(Pod.of("a", RESOURCE, 2)) == (
        "rpc error: code = FailedPrecondition desc = 2 widgets are locked by the licence server"
    )


@case()
async def allocate_breaks(lab: Lab) -> None:
    """An exception in allocate is told in a sentence, without what it says, and the next pod is served."""
    plugin = await offering(lab)
    mended = plugin.on_allocate

    async def break_down(devices: Sequence[Device]) -> Allocation:
        raise KeyError(devices[0].id)

    plugin.on_allocate = break_down
    assert await lab.rejected(Pod.of("a", RESOURCE, 1)) == (
        f"rpc error: code = Internal desc = the device plugin of {RESOURCE} failed (allocate, KeyError); its log says why"
    )
    plugin.on_allocate = mended
    await lab.run(Pod.of("b", RESOURCE, 4))


@case()
async def allocate_hangs(lab: Lab) -> None:
    """An allocate that hangs is ended by its deadline, told in a sentence, and blocks the node's pods no longer."""
    plugin = Widgets()
    plugin.allocate_timeout_s = SOON_S
    await serving(lab, plugin)
    mended, plugin.on_allocate = plugin.on_allocate, for_ever
    assert await lab.rejected(Pod.of("a", RESOURCE, 1)) == (
        f"rpc error: code = DeadlineExceeded desc = the device plugin of {RESOURCE} did not answer in {SOON_S} s (allocate)"
    )
    plugin.on_allocate = mended
    await lab.run(Pod.of("b", RESOURCE, 4))


@case()
async def a_device_left_out_while_it_is_allocated(lab: Lab) -> None:
    """What the author leaves out during its own Allocate is unhealthy in the list until the kubelet has the answer, and gone
    then: it would crash kubelets from 1.34 on.
    """
    plugin = Widgets()
    asked, may_answer, answer = asyncio.Event(), asyncio.Event(), plugin.on_allocate

    async def slowly(devices: Sequence[Device]) -> Allocation:
        asked.set()
        await may_answer.wait()
        return await answer(devices)

    plugin.on_allocate = slowly
    await serving(lab, plugin)
    admission = asyncio.create_task(lab.kubelet.admit(Pod.of("a", RESOURCE, 4)))
    await asked.wait()
    plugin.show(widget("w1"))
    await lab.offers(RESOURCE, 1, 4)
    may_answer.set()
    assert (await admission).admitted
    await lab.offers(RESOURCE, 1)


@case()
async def unknown_and_unhealthy_devices_are_refused(lab: Lab) -> None:
    """A device that the plugin does not have, or knows to be ill, is given to no container, whatever the kubelet believes."""
    liar = await lab.raw("liar.sock")
    await liar.register(RESOURCE)
    await lab.listed(RESOURCE, 1)
    plugin = Widgets(devices=[unhealthy("w1"), widget("w2")])
    await lab.serve(plugin)
    await lab.offers(RESOURCE, 1, 2)
    await liar.send(device("w9"))
    await lab.offers(RESOURCE, 1)
    assert await lab.rejected(Pod.of("a", RESOURCE, 1)) == (
        f"rpc error: code = NotFound desc = {RESOURCE} has no device w9 on this node any more"
    )
    await liar.send(device("w1"))
    await lab.listed(RESOURCE, 4)
    assert await lab.rejected(Pod.of("b", RESOURCE, 1)) == (
        f"rpc error: code = Unavailable desc = {RESOURCE} device w1 is unhealthy and cannot be given to a container"
    )
    await liar.send(*healthy("w2"))
    await lab.listed(RESOURCE, 5)
    await lab.run(Pod.of("c", RESOURCE, 1))
    assert plugin.asked == [("allocate", ("w2",))]


@case()
async def a_preference_is_kept_to(lab: Lab) -> None:
    """preferred_allocation sees what is free, and what it chooses is given."""
    plugin = Hinting()

    async def last(request: PreferredAllocationRequest[Device]) -> Sequence[Device]:
        assert (len(request.available), request.must_include, request.size) == (4, (), 2)
        return sorted(request.available, key=lambda each: each.id)[-request.size :]

    plugin.on_preferred = last
    await serving(lab, plugin)
    admission, _ = await lab.run(Pod.of("a", RESOURCE, 2))
    assert admission.devices(RESOURCE) == ["w3", "w4"]


@case()
async def a_preference_fails_or_hangs(lab: Lab) -> None:
    """When preferred_allocation breaks or hangs, the kubelet chooses and the pod is served."""
    plugin = Hinting()
    plugin.preferred_allocation_timeout_s = SOON_S
    await serving(lab, plugin)

    async def break_down(_: object) -> Sequence[Device]:
        raise KeyError

    plugin.on_preferred = break_down
    await lab.run(Pod.of("a", RESOURCE, 1))
    plugin.on_preferred = for_ever
    await lab.run(Pod.of("b", RESOURCE, 1))
    assert [hook for hook, _ in plugin.asked] == ["preferred_allocation", "allocate"] * 2


@case()
async def each_start_is_prepared(lab: Lab) -> None:
    """pre_start_container gets the container's devices at each start."""
    plugin = Preparing()
    await serving(lab, plugin)
    pod = Pod.of("a", RESOURCE, 2)
    admission, _ = await lab.run(pod)
    await lab.started(pod)
    prepared = ("pre_start_container", tuple(admission.devices(RESOURCE)))
    assert plugin.asked == [("allocate", prepared[1]), prepared, prepared]


@case()
async def a_preparation_fails_or_hangs(lab: Lab) -> None:
    """A pre_start_container that refuses or hangs holds up its container only, with a sentence, until it succeeds."""
    plugin = Preparing()
    plugin.pre_start_container_timeout_s = SOON_S
    mended = plugin.on_pre_start
    await serving(lab, plugin)

    async def refuse(_: object) -> None:
        raise AllocationError("the widget is being cleaned")

    plugin.on_pre_start = refuse
    pod = Pod.of("a", RESOURCE, 1)
    assert (await lab.kubelet.admit(pod)).admitted
    start = await lab.kubelet.start_container(pod)
    failed = "device plugin PreStartContainer rpc failed with err: rpc error: code ="
    assert (start.started, start.reason) == (False, "CreateContainerConfigError")
    assert start.message == f"{failed} FailedPrecondition desc = the widget is being cleaned"
    plugin.on_pre_start = for_ever
    start = await lab.kubelet.start_container(pod)
    assert start.message == (
        f"{failed} DeadlineExceeded desc = the device plugin of {RESOURCE} did not answer in {SOON_S} s (pre_start_container)"
    )
    plugin.on_pre_start = mended
    await lab.started(pod)


@case()
async def enumeration_hangs(lab: Lab) -> None:
    """While devices() has yielded nothing, the plugin is registered and the node has nothing of it; others are not held up."""

    class Silent(Widgets):
        async def devices(self) -> AsyncIterator[Sequence[Device]]:
            await asyncio.Event().wait()
            yield ()

    await lab.serve(Silent("example.com/silent"))
    await lab.serve(Widgets())
    await lab.offers(RESOURCE, 4)
    await lab.registered("example.com/silent", 1)
    assert not lab.kubelet.knows("example.com/silent")


@case()
async def enumeration_ends(lab: Lab) -> None:
    """When devices() returns, the last list stays."""

    class Short(Widgets):
        async def devices(self) -> AsyncIterator[Sequence[Device]]:
            yield [widget("w1")]
            yield [widget("w1"), widget("w2")]

    await lab.serve(Short())
    await lab.offers(RESOURCE, 2)
    await lab.run(Pod.of("a", RESOURCE, 2))


@case()
async def enumeration_breaks(lab: Lab) -> None:
    """An exception in devices() ends the plugin, and the kubelet is told so by the end of the stream."""

    class Breaking(Widgets):
        async def devices(self) -> AsyncIterator[Sequence[Device]]:
            yield [widget("w1")]
            self._changed.clear()
            await self._changed.wait()
            raise OSError("the bus is gone")

    plugin = Breaking()
    served = await lab.serve(plugin)
    await lab.offers(RESOURCE, 1)
    plugin.show()
    with pytest.raises(OSError, match="the bus is gone"):
        await served.ended()
    await lab.away(RESOURCE, 1)
