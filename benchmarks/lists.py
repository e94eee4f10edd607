"""What is measured of lists: how soon they come, what a change costs, and who waits meanwhile."""

import time
from collections.abc import Sequence

from .effort import Effort
from .peers import MEASURED, Peer, Plugin, Stage, stage
from .processes import MIB
from .results import Results

_MS, _S = 1e6, 1e9
_SETTLE_S = 1.0


def first_lists(effort: Effort, results: Results, peers: Sequence[Peer]) -> None:
    rss: dict[tuple[Peer, int], int] = {}
    for length in effort.list_lengths:
        with stage() as together:
            plugins = start_measured(together, peers, length)
            time.sleep(_SETTLE_S)
            for plugin in plugins:
                rss[plugin.peer, length] = plugin.process.memory().rss
            for _ in range(effort.rounds):
                for plugin in plugins:
                    results.add(f"list_{length}", plugin.peer, first_list_ms(together, plugin))
    few, most = effort.list_lengths[0], effort.list_lengths[-1]
    for peer, length in rss:
        if length == most:
            results.add("device_bytes", peer, (rss[peer, most] - rss[peer, few]) / (most - few))


def first_list_ms(together: Stage, plugin: Plugin) -> float:
    """From the kubelet's opening streams to its having the lists of all resources of the plugin."""
    watched = together.kubelet.command("watch", resources=plugin.resources, count=1, pause_s=0.1)
    return float(watched["decoded_ns"][0]) / _MS


def changes(effort: Effort, results: Results, peers: Sequence[Peer]) -> None:
    for length in effort.change_lengths:
        with stage() as together:
            plugins = start_measured(together, peers, length)
            for turn in range(effort.rounds + 1):
                for plugin in plugins:
                    took_ms, cpu_ms = change_one(plugin)
                    if turn:  # the first time is one of its own
                        results.add(f"change_{length}", plugin.peer, took_ms)
                        results.add(f"change_cpu_{length}", plugin.peer, cpu_ms)


def change_one(plugin: Plugin) -> tuple[float, float]:
    """How long a changed device takes to the wire, and how much CPU, in milliseconds."""
    process = plugin.process
    process.say("prepare one")
    process.heard()
    plugin.forget_lists()
    time.sleep(0.05)
    cpu_ns, began_ns = process.cpu_ns(), time.monotonic_ns()
    process.say("change")
    arrived_ns = plugin.next_list().arrived_ns
    time.sleep(0.05)  # what is left to do after it has been sent counts too
    return (arrived_ns - began_ns) / _MS, (process.cpu_ns() - cpu_ns) / _MS


def stalls(effort: Effort, results: Results, peers: Sequence[Peer]) -> None:
    with stage() as together:
        plugins = start_measured(together, peers, effort.stall_length)
        together.kubelet.command("decode_lists", on=False)
        for plugin in plugins:
            plugin.allocate(100)
        for _ in range(effort.rounds):
            for kind in ("one", "all", "same"):
                for plugin in plugins:
                    results.add(f"stall_{kind}", plugin.peer, _worst_allocate_ms(together, plugin, kind))


def _worst_allocate_ms(together: Stage, plugin: Plugin, kind: str) -> float:
    kubelet, process = together.kubelet, plugin.process
    process.say(f"prepare {kind}")
    process.heard()
    plugin.forget_lists()
    kubelet.command("begin_allocating", resource=plugin.resource, ids=plugin.peer.ids)
    time.sleep(0.1)
    began_ns = time.monotonic_ns()
    process.say("change")
    if kind == "same":  # nothing may be sent
        time.sleep(1.0)
    else:
        plugin.next_list()
        time.sleep(0.1)
    calls = kubelet.command("end_allocating")["calls"]
    return float(max(ns for at_ns, ns in calls if at_ns + ns >= began_ns)) / _MS


def many(effort: Effort, results: Results, peers: Sequence[Peer]) -> None:
    for _ in range(effort.rounds):
        for peer in measured(peers):
            with stage() as alone:
                plugin = alone.start(peer, resources=16, devices=1_000)
                results.add("many_start", peer, (plugin.listed_ns - plugin.started_ns) / _MS)
                time.sleep(_SETTLE_S)
                results.add("many_rss", peer, plugin.process.memory().rss / MIB)
                first_list_ms(alone, plugin)
                results.add("many_lists", peer, first_list_ms(alone, plugin))


def flapping(effort: Effort, results: Results, peers: Sequence[Peer]) -> None:
    """As many changes as an hour has seconds, one after the other."""
    with stage() as together:
        plugins = start_measured(together, peers, 1_000)
        flaps = effort.flaps // effort.rounds
        for _ in range(effort.rounds):
            for plugin in plugins:
                plugin.forget_lists()
                cpu_ns = plugin.process.cpu_ns()
                for _ in range(flaps):
                    plugin.process.say("flap")
                    plugin.next_list()
                results.add("flapping", plugin.peer, (plugin.process.cpu_ns() - cpu_ns) / _S * 3600 / flaps)


def measured(peers: Sequence[Peer]) -> list[Peer]:
    return [peer for peer in MEASURED if peer in peers]


def start_measured(together: Stage, peers: Sequence[Peer], devices: int) -> list[Plugin]:
    return [together.start(peer, devices=devices) for peer in measured(peers)]
