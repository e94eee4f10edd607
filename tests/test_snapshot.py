"""A snapshot: what is kept, what is encoded again, and what is refused."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from devplugin import Allocation, ConfigurationError, Device, DevicePluginError, Health
from devplugin._snapshot import ListTooLong, Snapshot
from devplugin._wire import LIST_BYTES_MAX, encode_device
from tests.support_protobuf import google

pytestmark = pytest.mark.asyncio


@dataclass(frozen=True, slots=True)
class Gpu(Device):
    bus: str = ""


def fresh(devices: Sequence[Device]) -> bytes:
    """The message for these devices, by Google's protobuf."""
    return bytes(
        google("ListAndWatchResponse")(
            devices=[
                {
                    "ID": device.id,
                    "health": device.health.value,
                    "topology": {"nodes": [{"ID": node} for node in device.numa_nodes]} if device.numa_nodes else None,
                }
                for device in devices
            ]
        ).SerializeToString()
    )


# For each of four ids: both healths, on no node and on node 0, two equal objects of each, and one that differs in its grants.
POOL = [
    Device(device_id, health=health, numa_nodes=nodes, grants=Allocation(env=env))
    for device_id in "abcd"
    for health in Health
    for nodes in ((), (0,))
    for env in ({}, {}, {"A": "1"})
]
lists = st.lists(st.sampled_from(POOL), unique_by=lambda device: device.id)


@given(st.lists(lists | st.permutations(POOL[::12]), max_size=8))
@example([[], []])
@example([POOL[:1], POOL[1:2], POOL[2:3], POOL[3:4]])
async def test_whatever_the_history_the_newest_list_counts(history: list[list[Device]]) -> None:
    """Message, order and objects are those of the newest list, which itself is the snapshot again only when it is the same."""
    last: Snapshot[Device] | None = None
    for devices in history:
        unchanged = last is not None and [*map(id, devices)] == [*map(id, last.devices)]
        snapshot = await Snapshot.take(devices, last)
        assert (snapshot is last) is unchanged
        assert snapshot.message == fresh(devices)
        assert [*map(id, snapshot.devices)] == [*map(id, devices)]
        assert {device_id: id(device) for device_id, device in snapshot.by_id.items()} == {d.id: id(d) for d in devices}
        last = snapshot


async def test_the_very_same_objects_are_the_same_snapshot() -> None:
    """In another list or from a generator: nothing has changed, and nothing is done."""
    devices = [Device("a"), Device("b")]
    first = await Snapshot.take(devices, None)
    assert await Snapshot.take(devices, first) is first
    assert await Snapshot.take((device for device in devices), first) is first


async def test_what_looks_the_same_keeps_its_bytes() -> None:
    """New objects replace the old ones for the hooks; only what shows on the wire is encoded again."""
    first = await Snapshot.take([Gpu("a", bus="1"), Gpu("b", bus="2"), Gpu("c", bus="3")], None)
    changed = [Gpu("a", bus="9"), first.devices[1], replace(first.devices[2], health=Health.UNHEALTHY)]
    second = await Snapshot.take(changed, first)
    assert [after is before for after, before in zip(second._pieces, first._pieces, strict=True)] == [True, True, False]
    assert [gpu.bus for gpu in second.by_id.values()] == ["9", "2", "3"]
    assert second.message == fresh(changed)
    assert first.message == fresh(first.devices)


async def test_the_authors_list_may_change_afterwards() -> None:
    """A snapshot is a copy: an author may go on with the list."""
    devices = [Device("a"), Device("b")]
    first = await Snapshot.take(devices, None)
    devices[1] = Device("b", health=Health.UNHEALTHY)
    second = await Snapshot.take(devices, first)
    devices.clear()
    assert [device.health for device in first.devices] == [Health.HEALTHY, Health.HEALTHY]
    assert [device.health for device in second.devices] == [Health.HEALTHY, Health.UNHEALTHY]


@pytest.mark.parametrize("before", [None, [], [Device("a"), Device("b")], [Device("a"), Device("c"), Device("b")]])
@pytest.mark.parametrize("stranger", ["b", None, object()])
async def test_a_list_with_something_else_in_it_is_refused(before: list[Device] | None, stranger: Any) -> None:
    """The error shows what it was, whatever the last list had been."""
    last = None if before is None else await Snapshot.take(before, None)
    with pytest.raises(ConfigurationError) as refused:
        await Snapshot.take([Device("a"), stranger], last)
    assert str(refused.value) == f"devices() yielded a list with {stranger!r} in it, which is no Device"


@pytest.mark.parametrize(
    "before", [None, [], [Device("a"), Device("b"), Device("c")], [Device("b"), Device("c"), Device("a")]]
)
async def test_two_devices_with_one_id_are_refused(before: list[Device] | None) -> None:
    """Which one a kubelet would mean cannot be known, be they equal or not."""
    last = None if before is None else await Snapshot.take(before, None)
    for twin in (Device("a"), Device("a", health=Health.UNHEALTHY)):
        with pytest.raises(ConfigurationError) as refused:
            await Snapshot.take([Device("a"), Device("b"), twin], last)
        assert str(refused.value) == "devices() yielded two devices with the id 'a': ids must differ"


def device_of(size: int) -> Device:
    """A device that takes this many bytes of the list, at least 20,000."""
    return Device("x" * (size - (len(encode_device(Device("x" * size))) - size)))


async def test_a_list_of_exactly_4_mib_is_sent() -> None:
    """A kubelet receives 4,194,304 bytes, and not one more."""
    others = [Device(f"{n:04}") for n in range(1000)]
    room = LIST_BYTES_MAX - len(fresh(others))
    snapshot = await Snapshot.take([*others, device_of(room)], None)
    assert len(snapshot.message) == LIST_BYTES_MAX == 4_194_304
    with pytest.raises(ListTooLong) as refused:
        await Snapshot.take([*others, device_of(room + 1)], snapshot)
    assert str(refused.value) == (
        "a list of 1001 devices takes 4194305 bytes and a kubelet receives at most 4194304: 1000 of them would fit;"
        " shorten the ids, or offer the devices under several resources"
    )
    assert issubclass(ListTooLong, DevicePluginError)
    with pytest.raises(ListTooLong, match=r"a list of 1002 devices .* 1001 of them would fit"):
        await Snapshot.take([*snapshot.devices, Device("a")], snapshot)


async def test_a_list_that_is_too_long_says_how_many_would_fit() -> None:
    """As many as the author's first ones that a kubelet receives."""
    devices = [Device(f"{n:04000}") for n in range(2000)]
    fit = LIST_BYTES_MAX // len(encode_device(devices[0]))
    with pytest.raises(ListTooLong, match=rf"a list of 2000 devices takes \d+ bytes .* {fit} of them would fit"):
        await Snapshot.take(devices, None)
    assert len((await Snapshot.take(devices[:fit], None)).devices) == fit
    with pytest.raises(ListTooLong, match=f" {fit} of them would fit"):
        await Snapshot.take(devices[: fit + 1], None)


async def test_a_device_that_grows_over_the_limit_is_refused_too() -> None:
    """The bound holds for a list of the same ids, and the last snapshot stays what it was."""
    device = device_of(LIST_BYTES_MAX)
    first = await Snapshot.take([device], None)
    with pytest.raises(ListTooLong, match="0 of them would fit"):
        await Snapshot.take([replace(device, health=Health.UNHEALTHY)], first)
    assert first.message == fresh([device])


async def test_an_id_that_is_longer_than_it_should_be_is_noted() -> None:
    """The first of more than 63 characters, for a warning; it is kept while the ids are the same."""
    fine, longer, longest = Device("a" * 63), Device("b" * 64), Device("c" * 65)
    assert (await Snapshot.take([fine], None)).long_id is None
    first = await Snapshot.take([fine, longer, longest], None)
    assert first.long_id == longer.id
    second = await Snapshot.take([fine, replace(longer, health=Health.UNHEALTHY), longest], first)
    assert second.long_id == longer.id
    assert (await Snapshot.take([fine, longest], second)).long_id == longest.id


async def test_other_tasks_get_their_turn_during_a_long_list() -> None:
    """100,000 devices are taken, or compared, in a hundred turns: no call waits behind them."""
    healthy = [Device(f"{n:06}") for n in range(100_000)]
    unhealthy = [replace(device, health=Health.UNHEALTHY) for device in healthy]
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    first = await Snapshot.take(healthy, None)
    assert turns >= 100
    turns = 0
    await Snapshot.take(unhealthy, first)
    assert turns >= 100
    task.cancel()


async def test_its_representation_says_how_large_it_is() -> None:
    """Devices and bytes, not a list of thousands."""
    assert repr(await Snapshot.take([Device("a"), Device("b")], None)) == "Snapshot(2 devices, 28 bytes)"
