"""What is measured: a function for each section.

In each round the peers take turns, so that a busy moment of the machine meets all of them alike.
"""

import contextlib
import subprocess
import time
from collections.abc import Callable, Sequence

from . import growth, instructions, lists
from .effort import Effort
from .peers import AIO, DEVPLUGIN, FLOOR, GO, MEASURED, QUIET, SYNC, Peer, Plugin, running, stage
from .processes import MIB
from .results import Results, percentile

_MS, _US, _S = 1e6, 1e3, 1e9
_SETTLE_S = 1.0


Measure = Callable[[Effort, Results, Sequence[Peer]], None]


def memory(effort: Effort, results: Results, peers: Sequence[Peer]) -> None:
    for _ in range(effort.rounds):
        for peer in peers:
            if peer is QUIET:
                continue
            with running(peer) as plugin:
                time.sleep(_SETTLE_S)
                found = plugin.process.memory()
            results.add("rss", peer, found.rss / MIB)
            results.add("pss", peer, found.pss / MIB)
            results.add("private", peer, found.private / MIB)


def idle(effort: Effort, results: Results, peers: Sequence[Peer]) -> None:
    """All at the same time."""
    with contextlib.ExitStack() as exits:
        plugins = [exits.enter_context(running(peer)) for peer in peers if peer is not QUIET]
        time.sleep(_SETTLE_S)
        for _ in range(max(2, effort.rounds // 2)):
            before = [(plugin.process.switches(), plugin.process.cpu_ns()) for plugin in plugins]
            time.sleep(effort.idle_s)
            per_10_s = 10 / effort.idle_s
            for plugin, (switches, cpu_ns) in zip(plugins, before, strict=True):
                results.add("switches", plugin.peer, (plugin.process.switches() - switches) * per_10_s)
                results.add("idle_cpu", plugin.peer, (plugin.process.cpu_ns() - cpu_ns) / _MS * per_10_s)
                results.add("threads", plugin.peer, plugin.process.threads())


def start(effort: Effort, results: Results, peers: Sequence[Peer]) -> None:
    for _ in range(effort.starts):
        for peer in peers:
            if peer is QUIET:
                continue
            with running(peer) as plugin:
                results.add("start", peer, (plugin.registered_ns - plugin.started_ns) / _MS)
                if peer is not GO:  # its process did other things before
                    results.add("start_cpu", peer, plugin.process.cpu_ns() / _MS)
                if peer is not FLOOR:
                    results.add("first_allocate", peer, plugin.allocate(1)[0] / _US)


def imports(effort: Effort, results: Results, peers: Sequence[Peer]) -> None:
    programs = {
        DEVPLUGIN: "import devplugin",
        AIO: "import grpc.aio, deviceplugin_v1beta1_pb2_grpc",
        SYNC: "import grpc, deviceplugin_v1beta1_pb2_grpc",
        FLOOR: "import asyncio",
    }
    for _ in range(effort.starts):
        for peer, program in programs.items():
            if peer in peers:
                nothing = _run_time_ms(peer, "pass")
                results.add("import", peer, _run_time_ms(peer, program) - nothing)


def _run_time_ms(peer: Peer, program: str) -> float:
    began_ns = time.monotonic_ns()
    subprocess.run([peer.python(), "-c", program], check=True, env={"LANG": "C.UTF-8"})
    return (time.monotonic_ns() - began_ns) / _MS


def restarts(effort: Effort, results: Results, peers: Sequence[Peer]) -> None:
    """Each with a kubelet of its own, in turns of a few restarts."""
    took_ms: dict[Peer, list[float]] = {peer: [] for peer in peers if peer not in (QUIET, FLOOR)}
    with contextlib.ExitStack() as exits:
        plugins = {peer: exits.enter_context(running(peer)) for peer in took_ms}
        for turn in range(effort.rounds):
            for peer, plugin in plugins.items():
                of_all = effort.slow_restarts if peer is GO else effort.restarts
                count = (of_all * (turn + 1)) // effort.rounds - of_all * turn // effort.rounds
                assert plugin.kubelet
                took = plugin.kubelet.command(
                    "restart", count=count, pause_s=0.2, resources=plugin.resources, timeout_s=60
                )
                took_ms[peer] += [ns / _MS for ns in took.get(plugin.resource, [])]
    for peer, values in took_ms.items():
        results.add("again_p50", peer, percentile(values, 50))
        results.add("again_p99", peer, percentile(values, 99))


def allocate(effort: Effort, results: Results, peers: Sequence[Peer]) -> None:
    """All are there at once, and are called in turns."""
    with stage() as together, contextlib.ExitStack() as exits:
        plugins = [together.start(peer) for peer in peers if peer is not FLOOR]
        floors = [exits.enter_context(running(peer)) for peer in peers if peer is FLOOR]

        def call(plugin: Plugin, count: int) -> list[int]:
            if plugin.peer is not FLOOR:
                return plugin.allocate(count)
            return list(together.kubelet.command("echo", path=f"{plugin.directory}/echo.sock", count=count))

        for plugin in [*plugins, *floors]:
            call(plugin, effort.calls // 5)
        for _ in range(effort.rounds):
            for plugin in [*plugins, *floors]:
                cpu_ns = plugin.process.cpu_ns()
                took = call(plugin, effort.calls)
                results.add("allocate_cpu", plugin.peer, (plugin.process.cpu_ns() - cpu_ns) / len(took) / _US)
                results.add("allocate_p50", plugin.peer, percentile(took, 50) / _US)
                results.add("allocate_p99", plugin.peer, percentile(took, 99) / _US)
        for _ in range(effort.rounds):
            for plugin in plugins:
                flood = together.kubelet.command(
                    "flood", resource=plugin.resource, ids=plugin.peer.ids, in_flight=16, seconds=effort.flood_s
                )
                results.add("calls", plugin.peer, flood["calls"] / flood["ns"] * _S)


def count_instructions(_: Effort, results: Results, peers: Sequence[Peer]) -> None:
    instructions.measure(results, [peer for peer in MEASURED if peer in peers])


SECTIONS: dict[str, Measure] = {
    "memory": memory,
    "idle": idle,
    "start": start,
    "import": imports,
    "restarts": restarts,
    "allocate": allocate,
    "lists": lists.first_lists,
    "changes": lists.changes,
    "stalls": lists.stalls,
    "many": lists.many,
    "flapping": lists.flapping,
    "instructions": count_instructions,
    "growth": growth.measure,
}
