"""Many devices, many resources, long lists: with plugins of ours."""

from devplugin import Device
from devplugin._wire import LIST_BYTES_MAX, encode_device
from tests.conformance.lab import Lab
from tests.conformance.registry import case
from tests.conformance.widgets import IDS, RESOURCE, Widgets, widget
from tests.kubelets.answers import Pod


def filling(size_bytes: int) -> list[Device]:
    """64 devices whose list takes exactly so many bytes; their ids are far longer than they should be."""
    each = size_bytes // 64
    overhead = len(encode_device(Device("x" * each))) - each
    sizes = [each - overhead] * 63 + [size_bytes - 63 * each - overhead]
    return [Device(f"{number:02}".ljust(size, "x")) for number, size in enumerate(sizes)]


@case()
async def the_longest_list_is_sent(lab: Lab) -> None:
    """A list of 4 MiB less one byte, and one of 4 MiB, reach the kubelet."""
    plugin = Widgets(devices=filling(LIST_BYTES_MAX - 1))
    assert sum(len(encode_device(each)) for each in plugin._devices) == LIST_BYTES_MAX - 1
    await lab.serve(plugin)
    await lab.registered(RESOURCE, 1)
    await lab.offers(RESOURCE, 64)
    plugin.show(*filling(LIST_BYTES_MAX))
    await lab.listed(RESOURCE, 2)
    await lab.offers(RESOURCE, 64)
    assert len(lab.kubelet.registered(RESOURCE)) == 1


@case()
async def a_list_that_is_too_long_is_not_sent(lab: Lab) -> None:
    """A list of one byte over 4 MiB would end the registration: the last one stays, and the next one is sent again."""
    plugin = Widgets()
    await lab.serve(plugin)
    await lab.registered(RESOURCE, 1)
    await lab.offers(RESOURCE, 4)
    plugin.show(*filling(LIST_BYTES_MAX + 1))
    await lab.run(Pod.of("a", RESOURCE, 1))
    plugin.show(*map(widget, (*IDS, "w5")))
    await lab.offers(RESOURCE, 5)
    assert (len(lab.kubelet.registered(RESOURCE)), lab.kubelet.lists(RESOURCE)) == (1, 2)


@case()
async def a_hundred_thousand_devices(lab: Lab) -> None:
    """100,000 devices are counted, one that falls ill as well, and pods get theirs."""
    devices = [Device(f"d{number:06}") for number in range(100_000)]
    plugin = Widgets(devices=devices)
    await lab.serve(plugin)
    await lab.offers(RESOURCE, 100_000)
    admission, _ = await lab.run(Pod.of("a", RESOURCE, 100))
    assert len(set(admission.devices(RESOURCE))) == 100
    plugin.show(*devices[1:])
    await lab.offers(RESOURCE, 99_999)


@case()
async def a_hundred_resources_in_one_process(lab: Lab) -> None:
    """A hundred plugins in one process are all there, each serves its pods, and all are back after the kubelet's restart."""
    names = [f"example.com/widget-{number}" for number in range(100)]
    for name in names:
        await lab.serve(Widgets(name))

    for name in names:
        await lab.offers(name, 4)
    await lab.run(Pod.of("a", names[0], 1))
    await lab.run(Pod.of("b", names[99], 4))
    await lab.kubelet.kill()
    await lab.kubelet.start()
    for name in names:
        await lab.offers(name, 4)
