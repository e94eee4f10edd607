"""Kubelets, plugins and containers that end and start again, in every order."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from devplugin import Allocation, Device
from tests.conformance.cases.contract import holds, ready
from tests.conformance.cases.health import offering
from tests.conformance.lab import Lab, allocation_failure
from tests.conformance.registry import case
from tests.conformance.subjects import Subject
from tests.conformance.widgets import IDS, RESOURCE, Widgets, widget
from tests.kubelets.answers import Container, Pod


async def survives(lab: Lab, plugin: Subject, events: str) -> None:
    """A pod with one device lives through `events`; it has its device all the time, and others get the rest.

    Of the letters k stops the kubelet and K kills it, s starts it; p stops the plugin and P kills it, q starts it; c ends
    and starts the container. What the capacity must be after each is waited for.
    """
    await ready(lab, plugin)
    pod = Pod.of("a", plugin.resource, 1)
    _, starts = await lab.run(pod)
    ids = frozenset(starts["main"].devices[plugin.resource])
    kubelet_runs = plugin_runs = True
    for event in events:
        match event:
            case "k" | "K":
                kubelet_runs = False
                await (lab.kubelet.stop() if event == "k" else lab.kubelet.kill())
            case "s":
                kubelet_runs = True
                await lab.kubelet.start()
            case "p" | "P":
                plugin_runs = False
                await (plugin.stop() if event == "p" else plugin.kill())
            case "q":
                plugin_runs = True
                await lab.start(plugin)
            case "c":
                assert holds(lab, plugin, await lab.started(pod), 1) == ids
        if kubelet_runs:
            await healthy(lab, plugin.resource, len(plugin.ids) if plugin_runs else 0, f"after {event} of {events}")
    assert (await lab.kubelet.decision(pod)).admitted
    assert holds(lab, plugin, await lab.started(pod), 1) == ids
    rest = len(plugin.ids) - 1
    _, others = await lab.run(Pod.of("b", plugin.resource, rest))
    assert holds(lab, plugin, others["main"], rest) == plugin.ids - ids
    assert await lab.kubelet.holders(plugin.resource) == {"a": ids, "b": plugin.ids - ids}


async def healthy(lab: Lab, resource: str, number: int, when: str) -> None:
    """Wait until so many devices are allocatable, whatever the capacity."""
    await lab.kubelet.until(lambda: lab.kubelet.counts(resource).allocatable == number, f"{number} allocatable {when}")


@case()
async def the_kubelet_stops_and_starts(lab: Lab, plugin: Subject) -> None:
    """The plugin notices, registers again, and the pod keeps its device."""
    await survives(lab, plugin, "ksc")


@case(subjects=("ours",))
async def the_kubelet_is_killed(lab: Lab, plugin: Subject) -> None:
    """Killed with SIGKILL and started, twice in a row: the same."""
    await survives(lab, plugin, "KsKsc")


@case()
async def the_plugin_stops_and_starts(lab: Lab, plugin: Subject) -> None:
    """A plugin that comes back registers, and the pod keeps its device; its container restarts meanwhile and afterwards."""
    await survives(lab, plugin, "pcqc")


@case(kills=True)
async def the_plugin_is_killed(lab: Lab, plugin: Subject) -> None:
    """Killed with SIGKILL and started, twice in a row: the same."""
    await survives(lab, plugin, "PqcPcq")


@case()
async def the_plugin_restarts_while_the_kubelet_is_down(lab: Lab, plugin: Subject) -> None:
    """The kubelet ends, the plugin ends; the kubelet is back, the plugin is back."""
    await survives(lab, plugin, "kpsqc")


@case()
async def the_kubelet_restarts_while_the_plugin_is_away(lab: Lab, plugin: Subject) -> None:
    """The plugin ends, the kubelet restarts and its container too; then the plugin is back."""
    await survives(lab, plugin, "pkscq")


@case(subjects=("ours",), kills=True)
async def both_are_killed(lab: Lab, plugin: Subject) -> None:
    """Plugin and kubelet are killed, and come back in either order."""
    await survives(lab, plugin, "KPqsPKsqc")


@case(subjects=("ours",))
async def everything_restarts(lab: Lab, plugin: Subject) -> None:
    """Kubelet, plugin and container one after the other, in several orders."""
    await survives(lab, plugin, "ckscpqcpksqckpqsc")


@case()
async def a_reboot_with_a_late_plugin(lab: Lab, plugin: Subject) -> None:
    """After a reboot, a pod that is admitted before the plugin has registered is rejected, and has no devices; others get
    them when the plugin is there.
    """
    await ready(lab, plugin)
    pod = Pod.of("a", plugin.resource, 1)
    await lab.run(pod)
    await plugin.stop()
    await lab.away(plugin.resource, len(plugin.ids))
    await lab.kubelet.reboot()
    decision = await lab.kubelet.decision(pod)
    if lab.version.checks_health_first:
        why = f"no healthy devices present; cannot allocate unhealthy devices {plugin.resource}"
        assert allocation_failure(decision, lab.version.rejected) == why
        assert await lab.kubelet.holders(plugin.resource) == {}
    else:
        assert decision.admitted
    await ready(lab, plugin)
    total = len(plugin.ids) - (not lab.version.checks_health_first)
    await lab.run(Pod.of("b", plugin.resource, total))


@case(subjects=("ours",))
async def pods_with_several_containers_survive(lab: Lab, plugin: Subject) -> None:
    """Two containers with different numbers: each has its own after the kubelet's restart."""
    await ready(lab, plugin)
    wanted = {"one": 1, "two": 2}
    pod = Pod("a", [Container(name, {plugin.resource: number}) for name, number in wanted.items()])
    _, starts = await lab.run(pod)
    await lab.kubelet.kill()
    await lab.kubelet.start()
    await lab.offers(plugin.resource, len(plugin.ids))
    for name, number in wanted.items():
        again = await lab.started(pod, name)
        assert holds(lab, plugin, again, number) == frozenset(starts[name].devices[plugin.resource])


@case(subjects=("ours",))
async def a_finished_init_container_costs_the_pod(lab: Lab, plugin: Subject) -> None:
    """A running pod whose init container had devices is rejected when the kubelet starts before the plugin is back (1.25):
    of a container that does not run, the kubelet wants healthy devices.
    """
    await ready(lab, plugin)
    pod = Pod("a", [Container("app", {plugin.resource: 1})], [Container("init", {plugin.resource: 1})])
    await lab.run(pod)
    await plugin.stop()
    await lab.kubelet.kill()
    await lab.kubelet.start()
    decision = await lab.kubelet.decision(pod)
    if lab.version.checks_health_first:
        why = f"no healthy devices present; cannot allocate unhealthy devices {plugin.resource}"
        assert allocation_failure(decision, lab.version.rejected) == why
    else:
        assert decision.admitted


@case(subjects=("ours",))
async def a_pod_is_deleted_while_the_kubelet_is_down(lab: Lab, plugin: Subject) -> None:
    """What an orphaned pod had is free again."""
    await ready(lab, plugin)
    pod = Pod.of("a", plugin.resource, 3)
    await lab.run(pod)
    await lab.kubelet.kill()
    await lab.kubelet.remove(pod)
    await lab.kubelet.start()
    await lab.offers(plugin.resource, len(plugin.ids))
    await lab.run(Pod.of("b", plugin.resource, len(plugin.ids)))
    assert await lab.kubelet.holders(plugin.resource) == {"b": plugin.ids}


@case()
async def the_kubelet_dies_in_allocate(lab: Lab) -> None:
    """A kubelet that is killed while it waits for Allocate finds the plugin again, and its pod is decided on anew."""
    plugin = await offering(lab)
    mended, asked = plugin.on_allocate, asyncio.Event()

    async def hang(_: Sequence[Device]) -> Allocation:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    plugin.on_allocate = hang
    pod = Pod.of("a", RESOURCE, 1)
    admission = asyncio.create_task(lab.kubelet.admit(pod))
    await asyncio.wait_for(asked.wait(), lab.kubelet.timeout_s)
    plugin.on_allocate = mended
    admission.cancel()
    await asyncio.wait([admission])
    await lab.kubelet.kill()
    await lab.kubelet.start()
    await lab.offers(RESOURCE, 4)
    assert not (await lab.kubelet.decision(pod)).admitted  # it was before the plugin was back
    await lab.run(Pod.of("b", RESOURCE, 4))


@case()
async def a_plugin_waits_for_its_directory(lab: Lab) -> None:
    """A plugin that is started where there is no directory yet registers when the kubelet has made it."""
    await lab.kubelet.kill()
    for path in list(lab.directory.iterdir()):
        path.unlink()
    lab.directory.rmdir()
    await lab.serve(Widgets())
    await asyncio.sleep(0)
    await lab.kubelet.start()
    await lab.offers(RESOURCE, 4)


@case()
async def another_set_of_devices_comes_back(lab: Lab) -> None:
    """A plugin that comes back with other devices replaces the old ones, and a pod keeps what it has."""
    first = Widgets()
    served = await lab.serve(first)
    await lab.offers(RESOURCE, 4)
    pod = Pod.of("a", RESOURCE, 1)
    admission, _ = await lab.run(pod)
    await served.stop()
    await lab.away(RESOURCE, 4)
    await lab.serve(Widgets(devices=[widget("n1"), widget("n2")]))
    await lab.offers(RESOURCE, 2)
    assert set(await lab.kubelet.books(RESOURCE)) == {"n1", "n2"}
    assert (await lab.started(pod)).devices[RESOURCE] == admission.devices(RESOURCE)
    other, _ = await lab.run(Pod.of("b", RESOURCE, 2))
    assert other.devices(RESOURCE) == ["n1", "n2"]


def sockets(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.is_socket()} - {"kubelet.sock"}


@case()
async def every_registration_has_a_socket_of_its_own(lab: Lab) -> None:
    """No socket's name is used twice, old sockets do not stay, and an orderly end leaves none."""
    served = await lab.serve(Widgets())
    await lab.registered(RESOURCE, 1)
    await lab.offers(RESOURCE, 4)
    for restarts in (1, 2):
        await lab.kubelet.kill()
        await lab.kubelet.start()
        await lab.registered(RESOURCE, 1 + restarts)
        await lab.offers(RESOURCE, 4)
    names = lab.kubelet.registered(RESOURCE)
    assert len(names) == len(set(names)) == 3
    assert sockets(lab.directory) == {names[-1]}
    await served.stop()
    assert sockets(lab.directory) == set()


@case()
async def its_own_socket_is_removed(lab: Lab) -> None:
    """A plugin whose socket is removed registers again on another one, having ended the old stream first, and stays."""
    plugin = await offering(lab)
    [first] = lab.kubelet.registered(RESOURCE)
    (lab.directory / first).unlink()
    await lab.registered(RESOURCE, 2)
    if lab.version.dials_inside_register:
        await lab.ended(RESOURCE, 1)  # had it ended after the registration, it would take that with it
    await lab.offers(RESOURCE, 4)
    plugin.show(*map(widget, IDS[:3]))
    await lab.offers(RESOURCE, 3)
    await lab.run(Pod.of("a", RESOURCE, 3))
    assert len(lab.kubelet.registered(RESOURCE)) == 2


@case()
async def the_directory_is_emptied_under_both(lab: Lab) -> None:
    """All sockets are removed: pods are served on what is connected, and all is well after the kubelet's next start."""
    await offering(lab)
    for path in list(lab.directory.iterdir()):
        if path.is_socket():
            path.unlink()
    await lab.run(Pod.of("a", RESOURCE, 1))
    await lab.kubelet.kill()
    await lab.kubelet.start()
    await lab.registered(RESOURCE, 2)
    await lab.offers(RESOURCE, 4)
    await lab.run(Pod.of("b", RESOURCE, 3))


@case()
async def the_directory_is_made_anew(lab: Lab) -> None:
    """The directory itself is removed, checkpoint and all, and made again by the kubelet's next start."""
    await offering(lab)
    await lab.kubelet.kill()
    for path in list(lab.directory.iterdir()):
        path.unlink()
    lab.directory.rmdir()
    await lab.kubelet.start()
    await lab.registered(RESOURCE, 2)
    await lab.offers(RESOURCE, 4)


@case()
async def only_sockets_are_cleared_away(lab: Lab) -> None:
    """The kubelet's start removes sockets and its checkpoint stays; before 1.33 it removes other files too."""
    (lab.directory / "note").write_text("mine")
    (lab.directory / "folder").mkdir()
    await offering(lab)
    await lab.kubelet.kill()
    stale = sockets(lab.directory)
    await lab.kubelet.start()
    await lab.offers(RESOURCE, 4)
    left = {path.name for path in lab.directory.iterdir()}
    assert "folder" in left
    assert ("note" in left) == lab.version.removes_sockets_only
    assert not stale & left
