"""What every plugin owes the kubelet, and the kubelet it: with ours, and with Kubernetes' sample plugin."""

from collections.abc import Awaitable, Callable

from tests.conformance.kubelet import Counts, KubeletId, plain
from tests.conformance.lab import GRACE_S, Lab, ordered
from tests.conformance.registry import Need, case, since
from tests.conformance.subjects import Subject
from tests.kubelets.answers import Container, Grant, Pod, Start


async def ready(lab: Lab, plugin: Subject) -> None:
    """Start the plugin and see all of its devices."""
    await lab.start(plugin)
    await lab.offers(plugin.resource, len(plugin.ids))


def holds(lab: Lab, plugin: Subject, start: Start, number: int) -> frozenset[str]:
    """See that a container has so many of the plugin's devices and what comes with them; gives their ids."""
    ids = frozenset(start.devices[plugin.resource])
    assert len(ids) == number
    assert ids <= plugin.ids
    assert ordered(start.grant) == ordered(arriving(lab, plugin.granted(ids)))
    return ids


def arriving(lab: Lab, grant: Grant) -> Grant:
    """What of a grant reaches a container."""
    cdi = grant.cdi_devices if lab.version.knows_cdi else []
    return Grant(grant.envs, grant.mounts, grant.device_nodes, grant.annotations, cdi)


@case()
async def a_pod_gets_its_devices(lab: Lab, plugin: Subject) -> None:
    """The plugin registers, its devices are counted, and a container gets as many as it asks for and what they grant."""
    await ready(lab, plugin)
    pod = Pod.of("a", plugin.resource, 2)
    admission, starts = await lab.run(pod)
    ids = holds(lab, plugin, starts["main"], 2)
    assert frozenset(admission.devices(plugin.resource)) == ids
    assert await lab.kubelet.holders(plugin.resource) == {"a": ids}
    assert lab.kubelet.counts(plugin.resource) == Counts(len(plugin.ids), len(plugin.ids))


@case()
async def more_than_there_is_is_refused(lab: Lab, plugin: Subject) -> None:
    """A pod that asks for more than is left is rejected with the kubelet's own words, and the next one is served."""
    await ready(lab, plugin)
    total = len(plugin.ids)
    lack = f"requested number of devices unavailable for {plugin.resource}. Requested: {{}}, Available: {{}}"
    assert await lab.rejected(Pod.of("all-and-one", plugin.resource, total + 1)) == lack.format(total + 1, total)
    await lab.run(Pod.of("one", plugin.resource, 1))
    assert await lab.rejected(Pod.of("all", plugin.resource, total)) == lack.format(total, total - 1)
    await lab.run(Pod.of("rest", plugin.resource, total - 1))


@case()
async def devices_of_two_containers_differ(lab: Lab, plugin: Subject) -> None:
    """Each container of a pod has devices of its own."""
    await ready(lab, plugin)
    pod = Pod("a", [Container("one", {plugin.resource: 1}), Container("two", {plugin.resource: 1})])
    _, starts = await lab.run(pod)
    assert not holds(lab, plugin, starts["one"], 1) & holds(lab, plugin, starts["two"], 1)


@case()
async def init_containers_lend_their_devices(lab: Lab, plugin: Subject) -> None:
    """What an init container had goes to the pod's own containers, and no other device is taken."""
    await ready(lab, plugin)
    total = len(plugin.ids)
    pod = Pod("a", [Container("app", {plugin.resource: total})], [Container("init", {plugin.resource: total})])
    _, starts = await lab.run(pod)
    assert holds(lab, plugin, starts["init"], total) == holds(lab, plugin, starts["app"], total)


@case(needs=[since("1.28", "knows no init containers that restart")])
async def sidecars_keep_their_devices(lab: Lab, plugin: Subject) -> None:
    """What a sidecar has stays its own."""
    await ready(lab, plugin)
    pod = Pod("a", [Container("app", {plugin.resource: 1})], [Container("side", {plugin.resource: 1}, "Always")])
    _, starts = await lab.run(pod)
    assert not holds(lab, plugin, starts["side"], 1) & holds(lab, plugin, starts["app"], 1)


@case()
async def pods_that_are_over_free_their_devices(lab: Lab, plugin: Subject) -> None:
    """The devices of a pod that has finished, and of one that was deleted, go to others."""
    await ready(lab, plugin)
    total = len(plugin.ids)
    finished, deleted = Pod.of("finished", plugin.resource, total), Pod.of("deleted", plugin.resource, total)
    await lab.run(finished)
    await lab.kubelet.finish(finished)
    await lab.run(deleted)
    await lab.kubelet.remove(deleted)
    _, starts = await lab.run(Pod.of("next", plugin.resource, total))
    holds(lab, plugin, starts["main"], total)
    assert await lab.kubelet.holders(plugin.resource) == {"next": plugin.ids}


@case()
async def a_container_restarts_with_what_it_had(lab: Lab, plugin: Subject) -> None:
    """A container that ends is started again with the same devices and all that came with them."""
    await ready(lab, plugin)
    pod = Pod.of("a", plugin.resource, 1)
    _, starts = await lab.run(pod)
    again = await lab.started(pod)
    assert holds(lab, plugin, again, 1) == frozenset(starts["main"].devices[plugin.resource])


@case()
async def a_plugin_that_ends_is_away(lab: Lab, plugin: Subject) -> None:
    """A plugin that is told to end leaves 0 allocatable at once, its capacity for five minutes, and then nothing."""
    await ready(lab, plugin)
    await plugin.stop()
    await lab.away(plugin.resource, len(plugin.ids))
    await lab.kubelet.pass_grace(plugin.resource, GRACE_S - 20)
    assert lab.kubelet.counts(plugin.resource) == Counts(len(plugin.ids), 0)
    await lab.forgotten(plugin.resource)
    assert lab.kubelet.knows(plugin.resource)  # a node's status forgets no resource


@case(kills=True)
async def a_plugin_that_is_killed_is_away(lab: Lab, plugin: Subject) -> None:
    """Death with SIGKILL is the same to the kubelet, and the next plugin comes in spite of the socket that was left."""
    await ready(lab, plugin)
    await plugin.kill()
    await lab.away(plugin.resource, len(plugin.ids))
    await ready(lab, plugin)
    await lab.run(Pod.of("a", plugin.resource, 1))


@case()
async def a_container_restarts_while_the_plugin_is_away(lab: Lab, plugin: Subject) -> None:
    """For five minutes from the kubelet's memory, then not, with the kubelet's words, and again once the plugin is back."""
    await ready(lab, plugin)
    pod = Pod.of("a", plugin.resource, 1)
    _, starts = await lab.run(pod)
    ids = frozenset(starts["main"].devices[plugin.resource])
    await plugin.stop()
    await lab.away(plugin.resource, len(plugin.ids))
    assert holds(lab, plugin, await lab.started(pod), 1) == ids
    await lab.forgotten(plugin.resource)
    refused = await lab.kubelet.start_container(pod)
    assert (refused.started, refused.reason) == (False, "CreateContainerConfigError")
    assert refused.message == f"endpoint not found in cache for a registered resource: {plugin.resource}"
    await ready(lab, plugin)
    assert holds(lab, plugin, await lab.started(pod), 1) == ids


@case()
async def no_pod_is_admitted_while_the_plugin_is_away(lab: Lab, plugin: Subject) -> None:
    """A pod that comes while the plugin is away is rejected: in its grace as unhealthy, later as unregistered."""
    await ready(lab, plugin)
    await lab.run(Pod.of("holder", plugin.resource, 1))
    await plugin.stop()
    await lab.away(plugin.resource, len(plugin.ids))
    resource = plugin.resource
    unavailable = f"requested number of devices unavailable for {resource}. Requested: 1, Available: 0"
    unhealthy = f"no healthy devices present; cannot allocate unhealthy devices {resource}"
    in_grace = unhealthy if lab.version.checks_health_first else unavailable
    assert await lab.rejected(Pod.of("early", resource, 1)) == in_grace
    await lab.forgotten(resource)
    assert plain(await lab.rejected(Pod.of("late", resource, 1))) == f"{lab.version.unregistered} {resource}"


def _is_dialled_in_vain(kubelet: KubeletId) -> bool:
    return kubelet.version.dials_inside_register


@case(
    shortcomings={
        "sample": Need(_is_dialled_in_vain, "it serves before there is a kubelet, whose start then removes its socket")
    }
)
async def a_plugin_waits_for_its_kubelet(lab: Lab, plugin: Subject) -> None:
    """A plugin that is started over a stale kubelet.sock, where nobody listens, registers when the kubelet comes."""
    await lab.kubelet.kill()
    await lab.start(plugin)
    await lab.kubelet.start()
    await lab.offers(plugin.resource, len(plugin.ids))
    await lab.run(Pod.of("a", plugin.resource, 1))


def _loses_the_new(kubelet: KubeletId) -> bool:
    return kubelet.version.late_end_takes_the_new_registration


@case(
    shortcomings={
        "sample": Need(_loses_the_new, "the end of the first instance takes the second's registration with it")
    }
)
async def a_second_instance_takes_over(lab: Lab, plugin: Subject) -> None:
    """A rolling update: the second instance registers, the first leaves, and the devices are there and pods are served."""
    await ready(lab, plugin)
    pod = Pod.of("a", plugin.resource, 1)
    _, starts = await lab.run(pod)
    ids = frozenset(starts["main"].devices[plugin.resource])
    second = plugin.another()
    await lab.kubelet.until(lambda: True, "the first second")
    await lab.start(second)
    await lab.registered(plugin.resource, 2)
    await lab.listed(plugin.resource, 2)
    await plugin.stop()
    await _settled(lab, second)
    assert holds(lab, second, await lab.started(pod), 1) == ids
    _, others = await lab.run(Pod.of("b", plugin.resource, 1))
    assert not holds(lab, second, others["main"], 1) & ids


async def _settled(lab: Lab, plugin: Subject) -> None:
    """Wait until the first instance's end has been noticed and the devices are all there after it."""
    if lab.version.late_end_takes_the_new_registration:
        await lab.registered(plugin.resource, 3)
    await lab.offers(plugin.resource, len(plugin.ids))


def _drops_the_first(kubelet: KubeletId) -> bool:
    return not kubelet.version.knows_sockets


_LOST = {"sample": Need(_drops_the_first, "the kubelet has dropped the first instance, which does not notice")}


@case(shortcomings=_LOST)
async def a_second_instance_leaves_again(lab: Lab, plugin: Subject) -> None:
    """An update that is withdrawn: from 1.37 on the first instance serves as before; until then the kubelet has dropped it
    without telling it, and it notices by itself.
    """
    second = plugin.another()
    await _comes_and_goes(lab, plugin, second, second.stop)


@case(kills=True, shortcomings=_LOST)
async def a_second_instance_is_killed(lab: Lab, plugin: Subject) -> None:
    """An update that fails: the new version dies, and the first instance serves again, as above."""
    second = plugin.another()
    await _comes_and_goes(lab, plugin, second, second.kill)


async def _comes_and_goes(lab: Lab, plugin: Subject, second: Subject, end: Callable[[], Awaitable[None]]) -> None:
    await ready(lab, plugin)
    await lab.start(second)
    await lab.registered(plugin.resource, 2)
    await lab.listed(plugin.resource, 2)
    await end()
    if lab.version.knows_sockets:
        await lab.ended(plugin.resource, 1)
    else:
        await lab.registered(plugin.resource, 3)
    await lab.offers(plugin.resource, len(plugin.ids))
    await lab.run(Pod.of("a", plugin.resource, len(plugin.ids)))
