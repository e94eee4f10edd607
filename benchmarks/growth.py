"""How figures grow with the number of devices, and of resources in one process."""

import statistics
import time
from collections.abc import Sequence

from .effort import Effort
from .lists import change_one, first_list_ms
from .peers import AIO, DEVPLUGIN, Peer, stage
from .processes import MIB
from .results import Results, percentile

_SETTLE_S = 1.0
_REPEATED = 5
# Of each resource when the resources are what grows: a node's worth of devices.
_DEVICES_OF_EACH = 8


def measure(effort: Effort, results: Results, peers: Sequence[Peer]) -> None:
    """Measure at each size, with a process of its own for each round."""
    compared = [peer for peer in (DEVPLUGIN, AIO) if peer in peers]
    sizes = [("devices", 1, n) for n in effort.growth_devices]
    sizes += [("resources", n, _DEVICES_OF_EACH) for n in effort.growth_resources]
    for axis, resources, devices in sizes:
        at = f"@{axis}={devices if axis == 'devices' else resources}"
        for _ in range(max(2, effort.rounds // 2)):
            for peer in compared:
                with stage() as alone:
                    plugin = alone.start(peer, resources=resources, devices=devices)
                    time.sleep(_SETTLE_S)
                    results.add(f"growth_rss{at}", peer, plugin.process.memory().rss / MIB)
                    plugin.allocate(effort.calls // 10)
                    took = plugin.allocate(effort.calls // 2)
                    results.add(f"growth_allocate{at}", peer, percentile(took, 50) / 1e3)
                    first_list_ms(alone, plugin)
                    lists = [first_list_ms(alone, plugin) for _ in range(_REPEATED)]
                    results.add(f"growth_list{at}", peer, statistics.median(lists))
                    change_one(plugin)
                    changes = [change_one(plugin)[1] for _ in range(_REPEATED)]
                    results.add(f"growth_change{at}", peer, statistics.median(changes))


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The constant and the slope of the straight line through the points, by least squares."""
    slope, constant = statistics.linear_regression(*zip(*points, strict=True))
    return constant, slope
