"""ListAndWatch, as the kubelet takes it: with a plugin that has no manners of its own."""

import asyncio

import grpc

from devplugin._proto import v1beta1 as pb
from tests.conformance.cases.registration import RESOURCE
from tests.conformance.kubelet import Counts
from tests.conformance.lab import Lab
from tests.conformance.registry import case, in_real_ones, since
from tests.testing.grpcio_plugin import GrpcioPlugin, Refusal, device, healthy

LIMIT_BYTES = 4 * 1024 * 1024  # what grpc-go receives in a message


async def offering(lab: Lab, *devices: pb.Device) -> GrpcioPlugin:
    """A registered plugin, its first list received."""
    plugin = await lab.raw("a.sock", *devices)
    await plugin.register(RESOURCE)
    await lab.listed(RESOURCE, 1)
    return plugin


@case()
async def a_stream_that_ends_at_once(lab: Lab) -> None:
    """A stream that ends before its first list leaves a resource with nothing: 0 of 0."""
    plugin = await lab.raw("a.sock")
    await plugin.end_streams()
    await plugin.register(RESOURCE)
    await lab.kubelet.until(lambda: lab.kubelet.knows(RESOURCE), "the resource in the node's status")
    assert lab.kubelet.counts(RESOURCE) == Counts(0, 0)


@case()
async def a_stream_that_ends_later(lab: Lab) -> None:
    """A stream that ends with status OK leaves 0 of all, for five minutes, and then 0 of 0. It is never asked for again."""
    plugin = await offering(lab)
    await lab.offers(RESOURCE, 4)
    await plugin.end_streams()
    await lab.away(RESOURCE, 4)
    await lab.forgotten(RESOURCE)
    assert len(plugin.asked("ListAndWatch")) == 1


@case()
async def a_stream_that_ends_with_an_error(lab: Lab) -> None:
    """An error is an end like any other."""
    plugin = await offering(lab)
    await lab.offers(RESOURCE, 4)
    await plugin.end_streams(Refusal(grpc.StatusCode.INTERNAL, "broken"))
    await lab.away(RESOURCE, 4)
    await lab.forgotten(RESOURCE)


@case()
async def no_list_no_resource(lab: Lab) -> None:
    """Until the first list has come, the resource is not there."""
    plugin = await lab.raw("a.sock")
    first = asyncio.Event()
    plugin.hold = {"ListAndWatch": first}
    await plugin.register(RESOURCE)
    await asyncio.wait_for(plugin.called("ListAndWatch"), lab.kubelet.timeout_s)
    other = await lab.raw("b.sock")
    await other.register("example.com/other")
    await lab.offers("example.com/other", 4)
    assert not lab.kubelet.knows(RESOURCE)
    first.set()
    await lab.offers(RESOURCE, 4)


@case()
async def an_empty_list(lab: Lab) -> None:
    """A plugin without devices has a resource with 0 of 0."""
    plugin = await lab.raw("a.sock")
    plugin.devices = []
    await plugin.register(RESOURCE)
    await lab.listed(RESOURCE, 1)
    await lab.kubelet.until(lambda: lab.kubelet.knows(RESOURCE), "the resource in the node's status")
    assert lab.kubelet.counts(RESOURCE) == Counts(0, 0)


@case()
async def a_list_replaces_the_list(lab: Lab) -> None:
    """What a list does not have is gone."""
    plugin = await offering(lab, *healthy("1", "2", "3"))
    await plugin.send(*healthy("4", "1"))
    await lab.offers(RESOURCE, 2)
    assert set(await lab.kubelet.books(RESOURCE)) == {"1", "4"}
    await plugin.send()
    await lab.offers(RESOURCE, 0)


@case()
async def only_healthy_is_healthy(lab: Lab) -> None:
    """Health is the word Healthy and nothing like it."""
    await offering(
        lab, device("1"), *(device(f"{n}", word) for n, word in enumerate(("healthy", "", "OK", "Healthy "), 2))
    )
    await lab.offers(RESOURCE, 1, 5)


@case()
async def one_id_twice(lab: Lab) -> None:
    """The same id with the same health counts once, with both healths twice."""
    plugin = await offering(lab, *healthy("1", "1", "2"))
    await lab.offers(RESOURCE, 2)
    await plugin.send(device("1"), device("1", "Unhealthy"))
    await lab.offers(RESOURCE, 1, 2)


def filling(size_bytes: int) -> list[pb.Device]:
    """64 devices whose list takes exactly so many bytes."""
    each = size_bytes // 64

    def weight(key_bytes: int) -> int:
        return len(bytes(pb.ListAndWatchResponse(devices=[device("x" * key_bytes)])))

    overhead = weight(each) - each
    sizes = [each - overhead] * 63
    sizes.append(size_bytes - 63 * each - overhead)
    return [device(f"{number:02}".ljust(size, "x")) for number, size in enumerate(sizes)]


@case()
async def a_list_of_exactly_four_mebibytes(lab: Lab) -> None:
    """A list of 4 MiB, and one that is a byte shorter, are received."""
    for size in (LIMIT_BYTES - 1, LIMIT_BYTES):
        assert len(bytes(pb.ListAndWatchResponse(devices=filling(size)))) == size
    plugin = await offering(lab, *filling(LIMIT_BYTES - 1))
    await lab.offers(RESOURCE, 64)
    await plugin.send(*filling(LIMIT_BYTES)[1:])
    await lab.offers(RESOURCE, 63)
    await plugin.send(*filling(LIMIT_BYTES))
    await lab.offers(RESOURCE, 64)


@case()
async def a_list_over_four_mebibytes(lab: Lab) -> None:
    """A list that is a byte longer than 4 MiB ends the plugin's registration, and the last list does not count any more."""
    plugin = await offering(lab, *healthy("1", "2"))
    await lab.offers(RESOURCE, 2)
    await plugin.send(*filling(LIMIT_BYTES + 1))
    await lab.away(RESOURCE, 2)
    await asyncio.wait_for(plugin.stream_ended.wait(), lab.kubelet.timeout_s)


@case()
async def numa_nodes_arrive(lab: Lab) -> None:
    """A device's nodes arrive as they were sent: one, several, node 0, none."""
    await offering(
        lab, device("0", "Healthy", 0), device("1", "Healthy", 1), device("01", "Healthy", 0, 1), device("-")
    )
    await lab.offers(RESOURCE, 4)
    books = await lab.kubelet.books(RESOURCE)
    assert {key: seen.nodes for key, seen in books.items()} == {"0": (0,), "1": (1,), "01": (0, 1), "-": None}


@case(needs=[in_real_ones("serves no pod resources API"), since("1.21", "lists no allocatable devices")])
async def an_empty_topology_hides_the_device(lab: Lab) -> None:
    """A device with a topology of no nodes is not listed as allocatable in the pod resources API."""
    await offering(lab, device("1"), pb.Device(id="2", health="Healthy", topology=pb.TopologyInfo()))
    await lab.offers(RESOURCE, 2)
    assert await lab.kubelet.allocatable_in_pod_resources(RESOURCE) == {"1"}
