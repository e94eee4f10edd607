"""Which devices one container had better get: policies for ``preferred_allocation``.

Each takes the kubelet's question and answers it; an author's override is one line::

    async def preferred_allocation(self, request: PreferredAllocationRequest) -> Sequence[Device]:
        return aligned(request)

Rules for all of them. The answer begins with ``must_include``, which counts in everything below, and has ``size`` devices,
or all that there are. The same question has the same answer, whatever the order of its devices: where nothing else
decides, the lowest id is taken (``gpu-9`` before ``gpu-10``).

They run on the event loop while the kubelet waits, so what each of them tries is bounded: its docstring says where.
"""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import cache
from itertools import combinations
from operator import itemgetter

from devplugin.model import D, Device, PreferredAllocationRequest

__all__ = ["aligned", "linked", "packed", "spread"]

_NODE_SETS_MAX = 2**16
_DEVICE_SETS_MAX = 20_000
_WEIGHTS_MAX = 50_000

_Nodes = frozenset[int]
_UNKNOWN = -1  # as sysfs calls it
_NOT_KNOWN: _Nodes = frozenset([_UNKNOWN])


def aligned(request: PreferredAllocationRequest[D]) -> list[D]:
    """The devices that lie on the fewest NUMA nodes.

    Devices whose node is not known count as if they lay together on one more node, which is used last. Of several choices
    it is the one from the nodes that have the fewest devices left, so that other nodes stay whole for a container that
    needs more. A device that is close to several nodes lies on whichever of them helps.

    Exact up to 16 nodes: 65,536 sets of nodes are tried at most. Beyond that, nodes are taken one by one, the one that adds
    the most devices first.
    """
    chosen, free, missing = _split(request)
    if missing == len(free):
        return chosen + free
    used = _best_nodes({_nodes_of(device) for device in chosen}, Counter(map(_nodes_of, free)), missing)
    left = Counter(node for device in free for node in _nodes_of(device) & used)
    fullest_first = sorted(used, key=lambda node: (node == _UNKNOWN, -left[node], node))
    rank = {node: number for number, node in enumerate(fullest_first)}
    covered = [device for device in free if _nodes_of(device) & used]
    covered.sort(key=lambda device: min(rank[node] for node in _nodes_of(device) & used))
    return chosen + covered[:missing]


def packed(request: PreferredAllocationRequest[D], by: Callable[[D], Hashable]) -> list[D]:
    """The devices from the fewest groups, so that the other groups stay whole.

    A group that the container has a device of already comes first. Of several choices, the last group is the one with the
    fewest devices left that are enough: for replicas, the device that is shared the most. Exact for any number.

    Args:
        request: What the kubelet asks.
        by: The group of a device: its board, its physical function, the device that it is a replica of.
    """
    chosen, free, missing = _split(request)
    groups = _groups(free, by)
    answer = list(chosen)
    for key in dict.fromkeys(map(by, chosen)):
        answer += groups.pop(key, [])
    end = len(chosen) + missing
    largest_first = sorted(groups.values(), key=len, reverse=True)
    for number, largest in enumerate(largest_first):
        need = end - len(answer)
        if len(largest) >= need:  # one is enough now
            smallest = min((group for group in largest_first[number:] if len(group) >= need), key=len)
            answer += smallest
            break
        answer += largest
    return answer[:end]


def spread(request: PreferredAllocationRequest[D], by: Callable[[D], Hashable]) -> list[D]:
    """The devices from as many groups as possible, as evenly as possible.

    They are taken one by one from the group that the container has the fewest devices of, and among those the one with the
    most devices left: for replicas, the device that is shared the least. Exact for any number.

    Args:
        request: What the kubelet asks.
        by: The group of a device: its board, its physical function, the device that it is a replica of.
    """
    chosen, free, missing = _split(request)
    has = Counter(map(by, chosen))
    turns = [
        (has[key], -len(group), number, group[::-1]) for number, (key, group) in enumerate(_groups(free, by).items())
    ]
    heapq.heapify(turns)
    answer = list(chosen)
    for _ in range(missing):
        count, left, number, group = turns[0]
        answer.append(group.pop())
        if group:
            heapq.heapreplace(turns, (count + 1, left + 1, number, group))
        else:
            heapq.heappop(turns)
    return answer


def linked(request: PreferredAllocationRequest[D], weight: Callable[[D, D], float]) -> list[D]:
    """The devices with the best links among them: the sum of the weights of all pairs is the greatest.

    Of several choices it is the one with the weakest links to the devices that are left, which then have the best among
    them.

    Exact as long as there are at most 20,000 choices (any number of 16 devices, 4 of 27, 2 of 200). Beyond that, a choice is
    grown from each device in turn, the one with the best links to it added each time, and the best of them is taken; 50,000
    weights are looked at and no more.

    Args:
        request: What the kubelet asks.
        weight: How well two devices are linked, the more the better, and the same both ways: lanes of NVLink, or a number
            for what is between them (one PCIe switch, one host bridge, one NUMA node, the machine).
    """
    chosen, free, missing = _split(request)
    if missing in (0, len(free)):
        return chosen + free[:missing]
    devices = chosen + free
    few = len(devices) ** 2 <= 2 * _DEVICE_SETS_MAX and math.comb(len(free), missing) <= _DEVICE_SETS_MAX
    choose = _best_linked if few else _grown
    picks = choose(devices, len(chosen), missing, weight)
    return chosen + [devices[number] for number in sorted(picks)]


def _split(request: PreferredAllocationRequest[D]) -> tuple[list[D], list[D], int]:
    """The devices that are chosen, those to choose from by their ids, and how many of them are missing."""
    chosen = list(request.must_include)
    taken = {device.id for device in chosen}
    free = sorted(
        (device for device in request.available if device.id not in taken),
        key=lambda device: (len(device.id), device.id),
    )
    return chosen, free, max(0, min(request.size - len(chosen), len(free)))


def _nodes_of(device: Device) -> _Nodes:
    return frozenset(device.numa_nodes) or _NOT_KNOWN


def _best_nodes(must: Collection[_Nodes], free: Mapping[_Nodes, int], missing: int) -> _Nodes:
    """The fewest nodes that each of ``must`` has one of, and that have the missing devices; ``free`` counts them."""
    forced = frozenset(node for nodes in must if len(nodes) == 1 for node in nodes)
    others = sorted(frozenset().union(*must, *free) - forced, key=lambda node: (node == _UNKNOWN, node))

    def count(used: _Nodes) -> int:
        return sum(number for nodes, number in free.items() if not nodes.isdisjoint(used))

    def is_enough(used: _Nodes) -> bool:
        return count(used) >= missing and not any(nodes.isdisjoint(used) for nodes in must)

    def rank(used: _Nodes) -> tuple[int, int]:
        return max(0, missing - count(used - _NOT_KNOWN)), count(used)

    most = sorted((count(frozenset([node])) for node in others), reverse=True)
    more = next(more for more in range(len(others) + 1) if count(forced) + sum(most[:more]) >= missing)
    tried = math.comb(len(others), more)
    while tried <= _NODE_SETS_MAX:
        sets = (forced.union(nodes) for nodes in combinations(others, more))
        best = min(filter(is_enough, sets), key=rank, default=None)
        if best is not None:
            return best
        more += 1
        tried += math.comb(len(others), more)
    used = forced
    while not is_enough(used):
        unmet = [nodes for nodes in must if nodes.isdisjoint(used)]
        used |= {max(others, key=lambda node: (sum(node in nodes for nodes in unmet), count(used | {node})))}
    return used


def _groups(devices: Iterable[D], by: Callable[[D], Hashable]) -> dict[Hashable, list[D]]:
    groups: dict[Hashable, list[D]] = {}
    for device in devices:
        groups.setdefault(by(device), []).append(device)
    return groups


def _best_linked(devices: Sequence[D], first: int, missing: int, weight: Callable[[D, D], float]) -> Sequence[int]:
    """The numbers of the best devices from the ``first`` on, of all choices."""
    weights = [[0.0] * len(devices) for _ in devices]
    for one, other in combinations(range(len(devices)), 2):
        weights[one][other] = weights[other][one] = weight(devices[one], devices[other])
    to_chosen = [sum(row[:first]) for row in weights]
    to_all = [sum(row) for row in weights]

    def rank(picks: tuple[int, ...]) -> tuple[float, float]:
        inside = sum(to_chosen[pick] for pick in picks) + sum(weights[a][b] for a, b in combinations(picks, 2))
        return inside, -sum(to_all[pick] for pick in picks)

    return max(combinations(range(first, len(devices)), missing), key=rank)


def _grown(devices: Sequence[D], first: int, missing: int, weight: Callable[[D, D], float]) -> Sequence[int]:
    """The numbers of good devices from the ``first`` on: the best of the choices that grow from one device each."""
    size = first + missing
    candidates = range(first, min(len(devices), first + max(missing, _WEIGHTS_MAX // size)))
    if len(candidates) == missing:
        return candidates
    starts = candidates[: max(1, _WEIGHTS_MAX // (size * len(candidates)))]

    @cache
    def link(one: int, other: int) -> float:
        return weight(devices[one], devices[other])

    to_chosen = {pick: sum(link(number, pick) for number in range(first)) for pick in candidates}

    def grow(start: int) -> tuple[float, list[int]]:
        gains, total, picks = dict(to_chosen), 0.0, []
        pick = start
        while True:
            total += gains.pop(pick)
            picks.append(pick)
            if len(picks) == missing:
                return total, picks
            for other in gains:
                gains[other] += link(min(pick, other), max(pick, other))
            pick = max(gains, key=gains.__getitem__)

    return max(map(grow, starts), key=itemgetter(0))[1]
