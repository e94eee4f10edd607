"""What a container had better get, held against trying everything."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devplugin import Device, DevicePluginBase, PreferredAllocationRequest, policies
from devplugin.policies import _best_nodes, aligned, linked, packed, spread
from devplugin.testing import FakeKubelet
from tests.conftest import Serve
from tests.support_pages import ROOT, blocks_of

Request = PreferredAllocationRequest[Device]


def request(available: Iterable[Device], size: int, must_include: Sequence[Device] = ()) -> Request:
    """A question of the kubelet's, which shuffles."""
    shuffled = [*available]
    random.Random(len(shuffled)).shuffle(shuffled)
    return PreferredAllocationRequest(shuffled, must_include, size)


def ids(devices: Iterable[Device]) -> list[str]:
    return [device.id for device in devices]


def board_of(device: Device) -> str:
    return device.id.partition("-")[0]


def on_boards(*numbers: int) -> list[Device]:
    """So many devices on each board: a-0, a-1, b-0 …"""
    return [Device(f"{'abcdefghij'[board]}-{n}") for board, number in enumerate(numbers) for n in range(number)]


@st.composite
def questions(draw: st.DrawFn, devices: st.SearchStrategy[list[Device]]) -> Request:
    """Any question about some devices: a size, and some that are chosen already."""
    available = draw(devices)
    size = draw(st.integers(0, len(available)))
    must = draw(st.permutations(available))[: draw(st.integers(0, size))]
    return PreferredAllocationRequest(tuple(available), tuple(must), size)


def choices(request: Request) -> Iterable[tuple[Device, ...]]:
    """Every answer that there could be."""
    free = [device for device in request.available if device not in request.must_include]
    for more in combinations(free, request.size - len(request.must_include)):
        yield (*request.must_include, *more)


def on_nodes(*nodes: Iterable[int]) -> list[Device]:
    return [Device(f"d{number}", numa_nodes=tuple(some)) for number, some in enumerate(nodes)]


any_devices = st.lists(st.sets(st.integers(0, 3), max_size=2), max_size=8).map(lambda nodes: on_nodes(*nodes))
on_any_boards = st.lists(st.integers(1, 3), max_size=4).map(lambda numbers: on_boards(*numbers))


def number_of(device: Device) -> int:
    return int("".join(filter(str.isdecimal, device.id)))


def quads(one: Device, other: Device) -> float:
    """Links as on machines with switches: four devices on each, two switches near each other."""
    a, b = number_of(one), number_of(other)
    return 10.0 if a // 4 == b // 4 else 3.0 if a // 8 == b // 8 else 1.0


POLICIES: dict[str, Callable[[Request], list[Device]]] = {
    "aligned": aligned,
    "packed": lambda request: packed(request, by=board_of),
    "spread": lambda request: spread(request, by=board_of),
    "linked": lambda request: linked(request, weight=quads),
}
each_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


@each_policy
@given(question=questions(any_devices), seed=st.randoms(use_true_random=False))
def test_every_answer(policy: Callable[[Request], list[Device]], question: Request, seed: random.Random) -> None:
    """What must be included first, then others on offer, as many as asked; the same in any order of the question."""
    answer = policy(question)
    must = len(question.must_include)
    assert answer[:must] == [*question.must_include]
    assert len(set(ids(answer))) == len(answer) == question.size
    assert set(ids(answer)) <= set(ids(question.available))
    shuffled = seed.sample(question.available, len(question.available))
    assert policy(PreferredAllocationRequest(shuffled, question.must_include, question.size)) == answer


@each_policy
def test_questions_at_the_edge(policy: Callable[[Request], list[Device]]) -> None:
    """More than there is, less than is chosen, nothing, and devices that are chosen and not on offer."""
    a, b, c = devices = on_nodes([0], [0], [1])
    assert policy(request(devices, 7)) == devices
    assert policy(request([], 2)) == []
    assert policy(request(devices, 0)) == []
    assert policy(request(devices, 1, [b, c])) == [b, c]
    assert policy(request([a], 2, [c])) == [c, a]


@each_policy
def test_the_lowest_ids_where_nothing_else_decides(policy: Callable[[Request], list[Device]]) -> None:
    """As people count: 9 comes before 10."""
    devices = [Device(f"gpu-{n}") for n in range(8, 12)]
    assert ids(policy(request(devices, 2))) == ["gpu-8", "gpu-9"]


@pytest.mark.asyncio
async def test_the_plugins_of_the_documentation(tmp_path: Path) -> None:
    """The page about NUMA nodes shows plugins that prefer what they say."""
    shown = {block.file: block.text for block in blocks_of((ROOT / "docs/how-to/numa.md").read_text())}
    names: dict[str, Any] = {"__name__": "accelerators"}
    exec(shown["accelerators.py"], names)
    sysfs = tmp_path / "sys"
    for minor, node in ((3, 1), (5, 0)):  # /dev/null and /dev/zero
        place = sysfs / f"devices/pci{minor}/accel"
        place.mkdir(parents=True)
        (place.parent / "numa_node").write_text(f"{node}\n")
        (sysfs / "dev/char").mkdir(parents=True, exist_ok=True)
        (sysfs / f"dev/char/1:{minor}").symlink_to(place)
    for number, name in enumerate(("null", "zero", "zero")):
        (tmp_path / f"accel{number}").symlink_to(f"/dev/{name}")
    plugin = names["Accelerators"](tmp_path, str(sysfs))
    async with aclosing(plugin.devices()) as lists:
        devices = await anext(lists)
    assert [device.numa_nodes for device in devices] == [(1,), (0,), (0,)]
    assert await plugin.preferred_allocation(request(devices, 2)) == devices[1:]

    exec(shown["gpus.py"], names)
    links = {"0000:01:00.0": {}, "0000:02:00.0": {"0000:03:00.0": 4}, "0000:03:00.0": {"0000:02:00.0": 4}}
    plugin = names["Gpus"](links)
    devices = await anext(plugin.devices())
    assert await plugin.preferred_allocation(request(devices, 2)) == devices[1:]
    assert await plugin.preferred_allocation(request(devices, 1)) == devices[:1]


class Cards(DevicePluginBase):
    """What an author writes."""

    resource_name = "example.com/card"

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield on_nodes([0], [1], [0], [1], [1])

    async def preferred_allocation(self, request: Request) -> Sequence[Device]:
        return aligned(request)


@pytest.mark.asyncio
async def test_the_kubelet_follows_a_policy(directory: Path, serve: Serve) -> None:
    """Pods get what the policy says of what is left."""
    async with FakeKubelet(directory) as kubelet:
        serving = serve(Cards())
        await kubelet.allocatable("example.com/card", 5)
        two = await kubelet.create_pod("two", {"example.com/card": 2}).running()
        three = await kubelet.create_pod("three", {"example.com/card": 3}).running()
        assert two.device_ids("example.com/card") == {"d0", "d2"}
        assert three.device_ids("example.com/card") == {"d1", "d3", "d4"}
        serving.cancel()
        await asyncio.wait([serving])


# aligned --------------------------------------------------------------------------------------------------------------


def cost_of_nodes(request: Request, answer: Sequence[Device]) -> tuple[int, int, int]:
    """How many nodes, how many devices of unknown node, and how many devices those nodes have left: the least of it."""
    free = [device for device in request.available if device not in request.must_include]

    def nodes(device: Device) -> set[int]:
        return {*device.numa_nodes} or {-1}

    every = sorted(set().union(*map(nodes, request.available)))
    unknown = sum(not device.numa_nodes for device in answer if device in free)
    return min(
        (number, unknown, sum(bool(nodes(device) & {*used}) for device in free))
        for number in range(len(every) + 1)
        for used in combinations(every, number)
        if all(nodes(device) & {*used} for device in answer)
    )


@given(questions(any_devices))
def test_aligned_is_the_best(request: Request) -> None:
    """No other answer lies on fewer nodes, needs fewer unknown ones, or leaves other nodes more whole."""
    best = min(cost_of_nodes(request, answer) for answer in choices(request))
    assert cost_of_nodes(request, aligned(request)) == best


def test_aligned_keeps_the_larger_node_whole() -> None:
    """Two devices come from the node with two left, and what fills a node comes before what begins one."""
    devices = on_nodes([0], [0], [0], [1], [1])
    assert ids(aligned(request(devices, 2))) == ["d3", "d4"]
    assert ids(aligned(request(devices, 3))) == ["d0", "d1", "d2"]
    assert ids(aligned(request(devices, 4))) == ["d0", "d1", "d2", "d3"]
    assert ids(aligned(request(devices, 2, [devices[1]]))) == ["d1", "d0"]


def test_aligned_uses_unknown_nodes_last() -> None:
    """A device of which nothing is known is not better than one that is known to be elsewhere."""
    devices = on_nodes([], [], [1], [0])
    assert ids(aligned(request(devices, 2))) == ["d0", "d1"]
    assert ids(aligned(request(devices[1:], 2))) == ["d3", "d2"]
    assert ids(aligned(request(devices, 2, [devices[2]]))) == ["d2", "d3"]
    assert ids(aligned(request(on_nodes([], [], []), 2))) == ["d0", "d1"]


def test_aligned_on_sixteen_nodes_and_beyond() -> None:
    """Any sixteen nodes are tried out; of more, the fullest are taken, and what must be included is met."""
    two_each = on_nodes(*([node, (node + 1) % 16] for node in range(16)))
    assert len(_best_nodes((), Counter(frozenset(d.numa_nodes) for d in two_each), 16)) == 8
    many = on_nodes(*([node] for node in range(64)), [63], [60, 61])
    answer = aligned(request(many, 22, [many[0], many[-1]]))
    assert answer[:2] == [many[0], many[-1]]
    assert {"d60", "d63", "d64"} <= {*ids(answer)}
    assert len({node for device in answer for node in device.numa_nodes} - {61}) == 20


# packed and spread ----------------------------------------------------------------------------------------------------


def numbers_of(devices: Iterable[Device]) -> list[int]:
    """How many come from each board, the most first."""
    return sorted(Counter(map(board_of, devices)).values(), reverse=True)


@given(questions(on_any_boards))
def test_packed_is_the_best(request: Request) -> None:
    """No other answer has fewer boards."""
    best = min(len(numbers_of(answer)) for answer in choices(request))
    assert len(numbers_of(packed(request, by=board_of))) == best


def test_packed_fills_what_is_begun() -> None:
    """The board that the container has already, then whole boards, then the one that has just enough left."""
    devices = on_boards(3, 2, 4, 2)
    assert ids(packed(request(devices, 1), by=board_of)) == ["b-0"]
    assert ids(packed(request(devices, 3), by=board_of)) == ["a-0", "a-1", "a-2"]
    assert ids(packed(request(devices, 6), by=board_of)) == ["c-0", "c-1", "c-2", "c-3", "b-0", "b-1"]
    assert ids(packed(request(devices, 3, [devices[0]]), by=board_of)) == ["a-0", "a-1", "a-2"]
    assert ids(packed(request(devices, 4, [devices[0]]), by=board_of)) == ["a-0", "a-1", "a-2", "b-0"]


@given(questions(on_any_boards))
def test_spread_is_the_best(request: Request) -> None:
    """No other answer is more even: none has fewer devices of the board that it has the most of, and so on."""
    best = min(numbers_of(answer) for answer in choices(request))
    assert numbers_of(spread(request, by=board_of)) == best


def test_spread_takes_what_is_used_the_least() -> None:
    """Among boards that the container has the same number of, the one with the most left."""
    devices = on_boards(1, 3, 2)
    assert ids(spread(request(devices, 1), by=board_of)) == ["b-0"]
    assert ids(spread(request(devices, 3), by=board_of)) == ["b-0", "c-0", "a-0"]
    assert ids(spread(request(devices, 5), by=board_of)) == ["b-0", "c-0", "a-0", "b-1", "c-1"]
    assert ids(spread(request(devices, 2, [devices[1]]), by=board_of)) == ["b-0", "c-0"]
    assert ids(spread(request(on_boards(2, 3), 3, [devices[1]]), by=board_of)) == ["b-0", "a-0", "b-1"]


def test_groups_of_replicas_keep_the_authors_type() -> None:
    """A key of the author's own, over devices of the author's own."""
    many = [Device(f"gpu{n % 8}-{n}") for n in range(5000)]
    assert numbers_of(spread(request(many, 80), by=board_of)) == [10] * 8
    assert numbers_of(packed(request(many, 1000), by=board_of)) == [625, 375]


# linked ---------------------------------------------------------------------------------------------------------------


def sum_of_links(weight: Callable[[Device, Device], float], devices: Sequence[Device]) -> float:
    return sum(weight(one, other) for one, other in combinations(devices, 2))


@given(questions(any_devices), st.data())
def test_linked_is_the_best(request: Request, data: st.DataObject) -> None:
    """No other answer has better links, and none with as good ones leaves better links behind."""
    pairs = combinations(sorted(ids(request.available)), 2)
    weights = {frozenset(pair): data.draw(st.integers(0, 4), label=str(pair)) for pair in pairs}

    def weight(one: Device, other: Device) -> int:
        return weights[frozenset((one.id, other.id))]

    def worth(answer: Sequence[Device]) -> tuple[float, float]:
        left = [device for device in request.available if device not in answer]
        return sum_of_links(weight, answer), sum_of_links(weight, left)

    assert worth(linked(request, weight)) == max(map(worth, choices(request)))


@pytest.mark.parametrize("number", [8, 16, 32, 300])
def test_linked_on_machines_of_any_size(number: int) -> None:
    """A quad is kept together, the one that is begun first, and neighbours come next; beyond the bound of exactness, too."""
    devices = [Device(f"d{n}") for n in range(number)]
    one_taken = devices[1:]
    assert ids(linked(request(one_taken, 4), quads)) == ["d4", "d5", "d6", "d7"]
    assert ids(linked(request(one_taken, 3), quads)) == ["d1", "d2", "d3"]
    assert ids(linked(request(devices, 4, [devices[6]]), quads)) == ["d6", "d4", "d5", "d7"]
    assert ids(linked(request(devices, 8), quads)) == [f"d{n}" for n in range(8)]


def test_linked_beyond_its_bound_is_nearly_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is grown has at least 95 % of the weight of the best choice, and mostly all of it."""
    shares = []
    for seed in range(40):
        rng = random.Random(seed)
        devices = [Device(f"d{n}") for n in range(14)]
        weights = {pair: rng.randrange(10) for pair in combinations(ids(devices), 2)}

        def weight(one: Device, other: Device, weights: dict[tuple[str, str], int] = weights) -> int:
            return weights[one.id, other.id]

        question = request(devices, rng.randint(2, 8))
        best = sum_of_links(weight, linked(question, weight))
        with monkeypatch.context() as bound:
            bound.setattr(policies, "_DEVICE_SETS_MAX", 0)
            shares.append(sum_of_links(weight, linked(question, weight)) / best)
    assert min(shares) >= 0.95
    assert shares.count(1) >= 36


def test_linked_leaves_the_good_links_to_others() -> None:
    """Who needs one device gets the one that is linked the least."""
    devices = [Device(f"d{n}") for n in range(5)]
    assert ids(linked(request(devices, 1), quads)) == ["d4"]


def test_linked_looks_at_so_many_weights_and_no_more() -> None:
    """However many devices there are: a node may have thousands of replicas."""
    devices = [Device(f"d{n}") for n in range(6000)]
    calls = Counter[bool]()

    def weight(one: Device, other: Device) -> float:
        calls[True] += 1
        return quads(one, other)

    for size in (2, 64, 5000):
        calls.clear()
        answer = linked(request(devices, size), weight)
        assert ids(answer) == [f"d{n}" for n in range(size)]
        assert calls.total() <= 50_000
