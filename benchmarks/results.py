# ruff: noqa: RUF001  (the tables are for people: the multiplication sign and the dash are meant)
"""What was measured: the figures, and their values."""

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from .peers import Peer


@dataclass(frozen=True)
class Figure:
    """Something that is measured of each peer.

    Args:
        key: Its name in the results.
        section: What measures it.
        title: What tables call it.
        unit: Of its values.
        digits: How many digits after the point are shown.
        more_is_better: Of most figures, less is.
    """

    key: str
    section: str
    title: str
    unit: str
    digits: int = 1
    more_is_better: bool = False


FIGURES = (
    Figure("rss", "memory", "RSS, idle", "MiB"),
    Figure("pss", "memory", "PSS, idle", "MiB"),
    Figure("private", "memory", "memory of its own, idle", "MiB"),
    Figure("threads", "idle", "threads", "", 0),
    Figure("switches", "idle", "context switches in 10 s idle", "", 0),
    Figure("idle_cpu", "idle", "CPU in 10 s idle", "ms", 2),
    Figure("start", "start", "process start → registered", "ms"),
    Figure("start_cpu", "start", "CPU from start to registered", "ms"),
    Figure("first_allocate", "start", "first Allocate of a process", "µs", 0),
    Figure("import", "import", "import of the library", "ms"),
    Figure("again_p50", "restarts", "new kubelet.sock → registered, p50", "ms"),
    Figure("again_p99", "restarts", "new kubelet.sock → registered, p99", "ms"),
    Figure("allocate_p50", "allocate", "Allocate, one at a time, p50", "µs", 0),
    Figure("allocate_p99", "allocate", "Allocate, one at a time, p99", "µs", 0),
    Figure("allocate_cpu", "allocate", "CPU of an Allocate", "µs", 0),
    Figure("calls", "allocate", "Allocate, 16 in flight", "calls/s", 0, more_is_better=True),
    *(Figure(f"list_{n}", "lists", f"first list of {n:,} devices", "ms", 2) for n in (100, 1_000, 10_000, 100_000)),
    Figure("device_bytes", "lists", "memory of a device", "bytes", 0),
    *(
        figure
        for n in (10_000, 100_000)
        for figure in (
            Figure(f"change_{n}", "changes", f"one changed among {n:,} → on the wire", "ms", 2),
            Figure(f"change_cpu_{n}", "changes", f"CPU of one change among {n:,}", "ms", 2),
        )
    ),
    Figure("stall_one", "stalls", "worst Allocate, one of 100,000 changes", "ms", 2),
    Figure("stall_all", "stalls", "worst Allocate, all 100,000 change", "ms", 2),
    Figure("stall_same", "stalls", "worst Allocate, 100,000 new but equal", "ms", 2),
    Figure("many_rss", "many", "16 × 1,000 devices, RSS", "MiB"),
    Figure("many_start", "many", "16 × 1,000, start → all registered and listed", "ms"),
    Figure("many_lists", "many", "16 × 1,000, all lists", "ms", 2),
    Figure("flapping", "flapping", "CPU of an hour, one of 1,000 flaps each second", "s", 2),
    Figure("encode_instructions", "instructions", "instructions to encode a device", "", 0),
    Figure("allocate_instructions", "instructions", "instructions of an Allocate", "thousand"),
    Figure("change_instructions", "instructions", "instructions of one change among 10,000", "million", 2),
    Figure("start_instructions", "instructions", "instructions from start to registered", "million"),
)

GROWTH = (
    Figure("growth_rss", "growth", "memory (RSS)", "MiB"),
    Figure("growth_list", "growth", "time to first list", "ms"),
    Figure("growth_change", "growth", "CPU of one change", "ms"),
    Figure("growth_allocate", "growth", "Allocate, p50", "µs"),
)
"""Measured at several numbers of devices, and of resources: the key has a suffix, ``@devices=100`` or ``@resources=10``."""


class Results:
    """The values of each figure for each peer, one for each round, in the figure's unit."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.left_out: dict[str, str] = {}
        """Peers that could not take part, and why."""

    def add(self, key: str, peer: Peer, *values: float) -> None:
        self.values[key][peer.name].extend(values)

    def of(self, key: str, peer: Peer) -> list[float]:
        return self.values.get(key, {}).get(peer.name, [])

    def median(self, key: str, peer: Peer) -> float | None:
        values = self.of(key, peer)
        return statistics.median(values) if values else None

    def ratios(self, key: str, peer: Peer, other: Peer) -> list[float]:
        """The quotients of the rounds, in each of which the two were measured one after the other."""
        pairs = zip(self.of(key, peer), self.of(key, other), strict=False)
        return [one / two for one, two in pairs if two]


def percentile(values: Iterable[float], percent: float) -> float:
    """The value that `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
