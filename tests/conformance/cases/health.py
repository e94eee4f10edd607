"""Healthy, unhealthy, gone, back: with a plugin of ours."""

import asyncio

from devplugin import Health
from tests.conformance.kubelet import Counts
from tests.conformance.lab import Lab
from tests.conformance.registry import case, in_real_ones, since
from tests.conformance.widgets import IDS, RESOURCE, Widgets, unhealthy, widget
from tests.kubelets.answers import Pod
from tests.kubelets.driver import Options


async def offering(lab: Lab, *ids: str) -> Widgets:
    """A plugin of ours whose devices are there."""
    plugin = Widgets(devices=[widget(key) for key in ids or IDS])
    await lab.serve(plugin)
    await lab.registered(RESOURCE, 1)
    await lab.offers(RESOURCE, len(ids or IDS))
    return plugin


@case()
async def one_device_falls_ill_and_recovers(lab: Lab) -> None:
    """Healthy, unhealthy, healthy: allocatable 1, 0, 1, capacity always 1."""
    plugin = await offering(lab, "w1")
    plugin.show(unhealthy("w1"))
    await lab.offers(RESOURCE, 0, 1)
    plugin.show(widget("w1"))
    await lab.offers(RESOURCE, 1)


@case()
async def some_of_four_fall_ill(lab: Lab) -> None:
    """Each change among four devices counts for itself, and only healthy ones are given to pods."""
    plugin = await offering(lab)
    plugin.show(unhealthy("w1"), widget("w2"), unhealthy("w3"), widget("w4"))
    await lab.offers(RESOURCE, 2, 4)
    books = await lab.kubelet.books(RESOURCE)
    assert {key for key, seen in books.items() if seen.healthy} == {"w2", "w4"}
    _, starts = await lab.run(Pod.of("a", RESOURCE, 2))
    assert starts["main"].devices[RESOURCE] == ["w2", "w4"]
    lack = f"requested number of devices unavailable for {RESOURCE}. Requested: 1, Available: 0"
    assert await lab.rejected(Pod.of("b", RESOURCE, 1)) == lack
    plugin.show(unhealthy("w1"), widget("w2"), widget("w3"), widget("w4"))
    await lab.offers(RESOURCE, 3, 4)
    _, starts = await lab.run(Pod.of("c", RESOURCE, 1))
    assert starts["main"].devices[RESOURCE] == ["w3"]


@case()
async def none_is_healthy(lab: Lab) -> None:
    """While every device is unhealthy, a pod is rejected with the kubelet's words."""
    plugin = await offering(lab)
    plugin.show(*map(unhealthy, IDS))
    await lab.offers(RESOURCE, 0, 4)
    unavailable = f"requested number of devices unavailable for {RESOURCE}. Requested: 1, Available: 0"
    ill = f"no healthy devices present; cannot allocate unhealthy devices {RESOURCE}"
    assert await lab.rejected(Pod.of("a", RESOURCE, 1)) == (ill if lab.version.checks_health_first else unavailable)


@case()
async def a_pod_keeps_an_unhealthy_device(lab: Lab) -> None:
    """A pod that runs on a device that falls ill keeps it: over a start of its container and a start of the kubelet."""
    plugin = await offering(lab)
    pod = Pod.of("a", RESOURCE, 4)
    await lab.run(pod)
    plugin.show(*map(unhealthy, IDS))
    await lab.offers(RESOURCE, 0, 4)
    assert set((await lab.started(pod)).devices[RESOURCE]) == set(IDS)
    await lab.kubelet.kill()
    await lab.kubelet.start()
    await lab.offers(RESOURCE, 0, 4)
    assert (await lab.kubelet.decision(pod)).admitted
    assert set((await lab.started(pod)).devices[RESOURCE]) == set(IDS)


@case()
async def devices_come_and_go(lab: Lab) -> None:
    """Hot-plug: what is listed anew can be had, what is not listed any more cannot."""
    plugin = await offering(lab, "w1", "w2")
    plugin.show(widget("w2"), widget("w3"), widget("w4"))
    await lab.offers(RESOURCE, 3)
    _, starts = await lab.run(Pod.of("a", RESOURCE, 3))
    assert starts["main"].devices[RESOURCE] == ["w2", "w3", "w4"]
    plugin.show()
    await lab.offers(RESOURCE, 0, 0)


@case()
async def a_device_that_flaps(lab: Lab) -> None:
    """However often a device changes, what counts in the end is its last state, and no more lists come than changes."""
    plugin = await offering(lab)
    for n in range(500):
        health = Health.UNHEALTHY if n % 2 == 0 else Health.HEALTHY
        plugin.show(widget("w1", health=health), *map(widget, IDS[1:]))
        await asyncio.sleep(0)
    plugin.show(unhealthy("w1"), *map(widget, IDS[1:]))
    await lab.offers(RESOURCE, 3, 4)
    plugin.show(*map(widget, IDS))
    await lab.offers(RESOURCE, 4)
    assert lab.kubelet.lists(RESOURCE) <= 1 + 500 + 2
    assert len(lab.kubelet.registered(RESOURCE)) == 1


@case()
async def the_same_list_is_sent_once(lab: Lab) -> None:
    """Each list has the kubelet write its checkpoint, so one that says nothing new is not sent."""
    plugin = await offering(lab)
    for _ in range(20):
        plugin.show(*map(widget, IDS))
        await asyncio.sleep(0)
    plugin.show(*map(widget, IDS[:3]))
    await lab.offers(RESOURCE, 3)
    assert lab.kubelet.lists(RESOURCE) == 2


@case(
    options=Options(feature_gates={"ResourceHealthStatus": True}),
    needs=[
        in_real_ones("shows no device health in a pod's status"),
        since("1.31", "shows no device health in a pod's status"),
    ],
)
async def health_shows_in_the_pods_status(lab: Lab) -> None:
    """The pod's status says how its devices are, now and when that changes."""
    plugin = await offering(lab)
    pod = Pod.of("a", RESOURCE, 1)
    admission, _ = await lab.run(pod)
    [key] = admission.devices(RESOURCE)
    assert await lab.kubelet.device_health(pod, RESOURCE) == {key: "Healthy"}
    plugin.show(*(unhealthy(each) if each == key else widget(each) for each in IDS))
    await lab.offers(RESOURCE, 3, 4)
    assert await lab.kubelet.device_health(pod, RESOURCE) == {key: "Unhealthy"}
    plugin.show(*map(widget, IDS))
    await lab.offers(RESOURCE, 4)
    assert await lab.kubelet.device_health(pod, RESOURCE) == {key: "Healthy"}
    assert lab.kubelet.counts(RESOURCE) == Counts(4, 4)
