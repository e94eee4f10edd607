"""NUMA nodes: what a plugin of ours says of them, and what the kubelet makes of it."""

from devplugin import Device
from tests.conformance.lab import Lab
from tests.conformance.registry import case, in_real_ones, since
from tests.conformance.widgets import RESOURCE, Hinting, Widgets, widget
from tests.kubelets.answers import Hint, Pod
from tests.kubelets.driver import Options

NO_TOPOLOGY_MANAGER = in_real_ones("has no topology manager")


@case()
async def nodes_are_sent_as_they_are(lab: Lab) -> None:
    """Node 0, other nodes, several nodes, and no topology at all for a device without."""
    devices = [widget("w1", nodes=[0]), widget("w2", nodes=[1]), widget("w3", nodes=[0, 1]), widget("w4")]
    await lab.serve(Widgets(devices=devices))
    await lab.offers(RESOURCE, 4)
    books = await lab.kubelet.books(RESOURCE)
    assert {key: seen.nodes for key, seen in books.items()} == {"w1": (0,), "w2": (1,), "w3": (0, 1), "w4": None}


@case(needs=[in_real_ones("serves no pod resources API"), since("1.21", "lists no allocatable devices")])
async def no_device_is_hidden(lab: Lab) -> None:
    """A device without nodes is listed as allocatable in the pod resources API, as the others are."""
    await lab.serve(Widgets(devices=[widget("w1", nodes=[0]), widget("w2")]))
    await lab.offers(RESOURCE, 2)
    assert await lab.kubelet.allocatable_in_pod_resources(RESOURCE) == {"w1", "w2"}


@case(options=Options(numa_nodes=2), needs=[NO_TOPOLOGY_MANAGER])
async def hints_name_the_nodes(lab: Lab) -> None:
    """The topology manager gets hints for the nodes that have enough devices."""
    devices = [widget("w1", nodes=[0]), widget("w2", nodes=[0]), widget("w3", nodes=[1])]
    await lab.serve(Widgets(devices=devices))
    await lab.offers(RESOURCE, 3)
    hints = (await lab.kubelet.hints(Pod.of("a", RESOURCE, 2))).containers["main"][RESOURCE]
    assert hints is not None
    assert set(hints) == {Hint((0,), preferred=True), Hint((0, 1), preferred=False)}
    await lab.serve(Widgets("example.com/plain", [Device("p1")]))
    await lab.offers("example.com/plain", 1)
    assert (await lab.kubelet.hints(Pod.of("b", "example.com/plain", 1))).containers["main"] == {
        "example.com/plain": None
    }


@case(options=Options(numa_nodes=2, topology_policy="single-numa-node"), needs=[NO_TOPOLOGY_MANAGER])
async def devices_are_aligned(lab: Lab) -> None:
    """With the policy single-numa-node all devices of a container are of one node, the plugin chooses among those, and what
    fits on no node is refused.
    """
    devices = [widget(f"w{n}", nodes=[n // 3]) for n in range(6)]
    plugin = Hinting(devices=devices)
    await lab.serve(plugin)
    await lab.offers(RESOURCE, 6)
    admission, _ = await lab.run(Pod.of("a", RESOURCE, 2))
    nodes = {int(key[1:]) // 3 for key in admission.devices(RESOURCE)}
    assert len(nodes) == 1
    (_, offered), _ = plugin.asked
    assert {int(key[1:]) // 3 for key in offered} == nodes
    refused = await lab.kubelet.admit(Pod.of("b", RESOURCE, 4))
    assert (refused.admitted, refused.reason) == (False, "TopologyAffinityError")
