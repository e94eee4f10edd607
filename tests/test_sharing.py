"""Sharing: replicas of a plugin's devices, and what the plugin behind them is asked."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devplugin import (
    Allocation,
    AllocationError,
    ConfigurationError,
    Device,
    DevicePluginBase,
    Health,
    PreferredAllocationRequest,
)
from devplugin.sharing import Replica, Shared
from devplugin.testing import FakeKubelet
from tests.conftest import Serve


@dataclass(frozen=True, slots=True)
class Gpu(Device):
    bus: str = ""


class Gpus(DevicePluginBase[Gpu]):
    """Two GPUs; what it is asked is written down, and each list of ``queue`` replaces the one before."""

    resource_name = "example.com/gpu"
    allocate_timeout_s = 7.0
    preferred_allocation_timeout_s = 8.0
    pre_start_container_timeout_s = 9.0

    def __init__(self, count: int = 2) -> None:
        self.gpus = [
            Gpu(f"gpu-{n}", f"bus-{n}", numa_nodes=[n], grants=Allocation(env={f"GPU_{n}": "yes"}))
            for n in range(count)
        ]
        self.asked: list[list[Gpu]] = []
        self.queue: asyncio.Queue[list[Gpu]] = asyncio.Queue()
        self.torn_down = False

    async def devices(self) -> AsyncIterator[list[Gpu]]:
        try:
            yield self.gpus
            while True:
                yield await self.queue.get()
        finally:
            self.torn_down = True

    async def allocate(self, devices: Sequence[Gpu]) -> Allocation:
        self.asked.append(list(devices))
        return await super().allocate(devices)


class LastFirst(Gpus):
    """Prefers what comes last, and prepares containers."""

    def __init__(self, count: int = 2) -> None:
        super().__init__(count)
        self.requests: list[PreferredAllocationRequest[Gpu]] = []

    async def preferred_allocation(self, request: PreferredAllocationRequest[Gpu]) -> Sequence[Gpu]:
        self.requests.append(request)
        return list(reversed(request.available))[: request.size]

    async def pre_start_container(self, devices: Sequence[Gpu]) -> None:
        self.asked.append(list(devices))


async def first(shared: Shared[Any]) -> list[Replica[Any]]:
    return await anext(shared.devices())


async def prefer(shared: Shared[Any], available: Sequence[str], size: int, must: Sequence[str] = ()) -> list[str]:
    by_id = {replica.id: replica for replica in await first(shared)}
    request = PreferredAllocationRequest([by_id[i] for i in available], [by_id[i] for i in must], size)
    return [replica.id for replica in await shared.preferred_allocation(request)]


@pytest.mark.asyncio
async def test_each_device_is_offered_several_times() -> None:
    """With its health and NUMA nodes, and an id that names it."""
    gpus = Gpus()
    gpus.gpus[1] = replace(gpus.gpus[1], health=Health.UNHEALTHY)
    replicas = await first(Shared(gpus, replicas=2))
    assert [(r.id, r.health, r.numa_nodes, r.device) for r in replicas] == [
        ("gpu-0::0", Health.HEALTHY, (0,), gpus.gpus[0]),
        ("gpu-0::1", Health.HEALTHY, (0,), gpus.gpus[0]),
        ("gpu-1::0", Health.UNHEALTHY, (1,), gpus.gpus[1]),
        ("gpu-1::1", Health.UNHEALTHY, (1,), gpus.gpus[1]),
    ]


def test_the_name_and_the_times_are_those_of_the_plugin() -> None:
    """Unless the name is to say that the devices are shared."""
    gpus = Gpus()
    shared = Shared(gpus, replicas=2)
    assert shared.resource_name == "example.com/gpu"
    assert shared.allocate_timeout_s == 7
    assert shared.preferred_allocation_timeout_s == 8
    assert shared.pre_start_container_timeout_s == 9
    assert Shared(gpus, replicas=2, suffix=".shared").resource_name == "example.com/gpu.shared"
    assert repr(shared) == f"Shared({gpus!r}, replicas=2, resource_name='example.com/gpu')"


@pytest.mark.asyncio
async def test_a_device_that_is_the_same_has_the_same_replicas() -> None:
    """So a list that says nothing new costs nothing; a device that has changed has new ones."""
    gpus = Gpus()
    lists = Shared(gpus, replicas=2).devices()
    before = await anext(lists)
    gpus.queue.put_nowait([gpus.gpus[0], replace(gpus.gpus[1], health=Health.UNHEALTHY)])
    after = await anext(lists)
    assert [a is b for a, b in zip(before, after, strict=True)] == [True, True, False, False]
    assert [replica.health for replica in after[2:]] == [Health.UNHEALTHY] * 2


@pytest.mark.asyncio
async def test_the_plugins_tear_down_comes_with_the_end() -> None:
    """Also while a list waits to be taken."""
    gpus = Gpus()
    lists: Any = Shared(gpus, replicas=2).devices()
    await anext(lists)
    await lists.aclose()
    assert gpus.torn_down


@pytest.mark.asyncio
async def test_the_plugins_hooks_get_its_own_devices_each_once() -> None:
    """However many replicas of them a container has."""
    gpus = LastFirst()
    shared = Shared(gpus, replicas=3)
    replicas = await first(shared)
    assert (await shared.allocate(replicas[1:5])).env == {"GPU_0": "yes", "GPU_1": "yes"}
    await shared.pre_start_container([replicas[4], replicas[5]])
    assert gpus.asked == [gpus.gpus, gpus.gpus[1:]]
    assert gpus.asked[0][0] is gpus.gpus[0]


@pytest.mark.asyncio
async def test_two_shares_of_one_device_can_be_refused() -> None:
    """In a sentence for the pod's owner; shares of different devices are given."""
    gpus = Gpus()
    shared = Shared(gpus, replicas=2, suffix=".shared", distinct=True)
    replicas = await first(shared)
    with pytest.raises(AllocationError) as caught:
        await shared.allocate(replicas[1:])
    assert str(caught.value) == (
        "example.com/gpu.shared: 2 shares of device gpu-1 would go to one container, which gets no more by them than by one:"
        " ask for fewer, or try again when another device has a share free"
    )
    assert gpus.asked == []
    assert (await shared.allocate([replicas[0], replicas[2]])).env == {"GPU_0": "yes", "GPU_1": "yes"}


@pytest.mark.asyncio
async def test_the_device_that_the_fewest_have_comes_first() -> None:
    """What is not available is in use by somebody."""
    shared = Shared(Gpus(3), replicas=3)
    available = ["gpu-0::2", "gpu-1::0", "gpu-1::2", "gpu-2::1"]
    assert await prefer(shared, available, 1) == ["gpu-1::0"]
    assert await prefer(shared, available, 2) == ["gpu-1::0", "gpu-0::2"]


@pytest.mark.asyncio
async def test_a_container_gets_different_devices_as_long_as_there_are_any() -> None:
    """Though others have them, and those that it must have counted."""
    shared = Shared(Gpus(), replicas=3)
    available = ["gpu-0::0", "gpu-0::1", "gpu-0::2", "gpu-1::2"]
    assert await prefer(shared, available, 2) == ["gpu-0::0", "gpu-1::2"]
    assert await prefer(shared, available, 2, must=["gpu-0::1"]) == ["gpu-0::1", "gpu-1::2"]
    assert await prefer(shared, available, 4) == ["gpu-0::0", "gpu-1::2", "gpu-0::1", "gpu-0::2"]


@pytest.mark.asyncio
async def test_more_than_there_are() -> None:
    """All that there are is the best answer."""
    assert await prefer(Shared(Gpus(1), replicas=2), ["gpu-0::0", "gpu-0::1"], 5) == ["gpu-0::0", "gpu-0::1"]


@pytest.mark.asyncio
async def test_the_plugin_decides_between_equals() -> None:
    """It is asked about its own devices, and what the container has already is among them."""
    gpus = LastFirst(4)
    shared = Shared(gpus, replicas=2)
    available = ["gpu-0::1", "gpu-1::0", "gpu-1::1", "gpu-2::0", "gpu-2::1", "gpu-3::1"]
    assert await prefer(shared, available, 1) == ["gpu-2::0"]
    assert await prefer(shared, available, 2, must=["gpu-0::1"]) == ["gpu-0::1", "gpu-2::0"]
    of = gpus.gpus
    assert gpus.requests == [
        PreferredAllocationRequest((of[1], of[2]), [], 1),
        PreferredAllocationRequest((of[1], of[2], of[0]), [of[0]], 2),
    ]


@pytest.mark.asyncio
async def test_the_plugin_decides_about_second_shares_too() -> None:
    """Among devices that the container has already, none is one that it must have."""
    gpus = LastFirst()
    shared = Shared(gpus, replicas=2)
    available = ["gpu-0::0", "gpu-0::1", "gpu-1::0", "gpu-1::1"]
    assert await prefer(shared, available, 3) == ["gpu-0::0", "gpu-1::0", "gpu-1::1"]
    assert gpus.requests == [PreferredAllocationRequest(tuple(gpus.gpus), [], 1)]


@pytest.mark.asyncio
async def test_a_plugin_whose_preference_is_of_no_use() -> None:
    """Devices that were not to choose from, the same one twice, too few: the answer is whole all the same."""

    class Odd(LastFirst):
        async def preferred_allocation(self, _: PreferredAllocationRequest[Gpu]) -> Sequence[Gpu]:
            return [Gpu("gpu-9"), self.gpus[2], self.gpus[2]]

    available = ["gpu-0::0", "gpu-1::0", "gpu-2::0"]
    assert await prefer(Shared(Odd(3), replicas=1), available, 2) == ["gpu-2::0", "gpu-0::0"]


Usage = st.lists(st.integers(0, 3), min_size=1, max_size=6)


@given(Usage, st.data())
def test_the_rule_of_spreading(usage: list[int], data: st.DataObject) -> None:
    """What must be is in it, all of it is available, and nothing would have been spread better by a swap."""
    gpus = LastFirst(len(usage))
    shared = Shared(gpus, replicas=3)
    available = [f"gpu-{n}::{k}" for n, used in enumerate(usage) for k in range(used, 3)]
    must = data.draw(st.lists(st.sampled_from(available), unique=True, max_size=3)) if available else []
    size = data.draw(st.integers(len(must), len(available) + 1))
    chosen = asyncio.run(prefer(shared, available, size, must))
    assert chosen[: len(must)] == must
    assert len(set(chosen)) == len(chosen) == min(size, len(available))
    assert set(chosen) <= set(available)
    of = [[i for i in chosen if i.startswith(f"gpu-{n}::")] for n in range(len(usage))]
    for n, more in enumerate(of):
        free_to_go = [i for i in more if i not in must]
        for k, fewer in enumerate(of):
            is_free_there = len(fewer) + usage[k] < 3
            if free_to_go and is_free_there and k != n:
                assert (len(more) - 1, usage[n]) <= (len(fewer), usage[k])


@pytest.mark.asyncio
async def test_what_the_kubelet_is_told_and_asks(directory: Path, serve: Serve) -> None:
    """Four pods share two devices evenly, a fifth waits, and all ends with the plugin."""
    gpus = Gpus()
    name = "example.com/gpu.shared"
    async with FakeKubelet(directory) as kubelet:
        serving = serve(Shared(gpus, replicas=2, suffix=".shared"))
        await kubelet.allocatable(name, 4)
        [registration] = kubelet.registrations
        assert (registration.get_preferred_allocation_available, registration.pre_start_required) == (True, False)
        for n in range(4):
            await kubelet.create_pod(f"pod-{n}", {name: 1}).running()
            uses = Counter(device.id for asked in gpus.asked for device in asked)
            assert max(uses.values()) == (n + 2) // 2, "the pods are spread evenly"
        await kubelet.create_pod("fifth", {name: 1}).event("FailedScheduling")
        gpus.queue.put_nowait([replace(gpus.gpus[0], health=Health.UNHEALTHY), gpus.gpus[1]])
        await kubelet.allocatable(name, 2)
        serving.cancel()
        await asyncio.wait([serving])
    assert gpus.torn_down


@pytest.mark.asyncio
@pytest.mark.parametrize("plugin", [Gpus(), LastFirst()])
async def test_pre_start_is_offered_as_the_plugin_does(directory: Path, serve: Serve, plugin: Gpus) -> None:
    """Also through another layer of sharing."""
    async with FakeKubelet(directory) as kubelet:
        serve(Shared(Shared(plugin, replicas=2), replicas=2))
        await kubelet.allocatable("example.com/gpu", 8)
        [registration] = kubelet.registrations
        assert registration.pre_start_required is isinstance(plugin, LastFirst)


@pytest.mark.asyncio
async def test_mistakes_of_the_plugin_are_named_as_without_sharing(directory: Path, serve: Serve) -> None:
    """What is no generator, and two devices with one id."""

    class NoGenerator(DevicePluginBase):
        resource_name = "example.com/gpu"

        async def devices(self) -> list[Device]:  # type: ignore[override]
            return []

    with pytest.raises(ConfigurationError, match=r"devices\(\) must be an async generator"):
        await serve(Shared(NoGenerator(), replicas=2))
    twice = Gpus()
    twice.gpus = [twice.gpus[0], twice.gpus[0]]
    with pytest.raises(ConfigurationError, match="two devices with the id 'gpu-0::0'"):
        await serve(Shared(twice, replicas=2))


@pytest.mark.asyncio
async def test_devices_may_be_any_async_iterator() -> None:
    """An object with __anext__ will do, as it does without sharing."""

    class Once(DevicePluginBase):
        resource_name = "example.com/gpu"

        def devices(self) -> AsyncIterator[list[Device]]:
            return self

        def __aiter__(self) -> "Once":
            return self

        async def __anext__(self) -> list[Device]:
            return [Device("a")]

    assert [replica.id for replica in await first(Shared(Once(), replicas=1))] == ["a::0"]


def test_what_cannot_be_shared() -> None:
    """Each refusal says the rule."""
    with pytest.raises(ConfigurationError, match=r"Gpus'> is none: is a pair of brackets missing\?"):
        Shared(Gpus, replicas=2)  # type: ignore[arg-type]
    for replicas in (0, -1, True, "2"):
        with pytest.raises(ConfigurationError, match=r"replicas .* is not usable: it must be a number from 1 on"):
            Shared(Gpus(), replicas=replicas)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"resource name 'example\.com/gpu shared' is not usable"):
        Shared(Gpus(), replicas=2, suffix=" shared")

    class Nameless(Gpus):
        resource_name = ""

    with pytest.raises(ConfigurationError, match="resource name '' is not usable"):
        Shared(Nameless(), replicas=2, suffix="example.com/gpu")
