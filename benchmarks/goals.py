# ruff: noqa: RUF001  (the tables are for people: the multiplication sign and the dash are meant)
"""What was aimed at, and whether it is met."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .peers import AIO, DEVPLUGIN, FLOOR, GO, SAMPLE, SYNC, Peer
from .results import Results


@dataclass(frozen=True)
class Check:
    """One comparison. `measured` and `limit` are None when that was not measured."""

    measured: float | None
    limit: float | None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.measured is None or self.limit is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


Find = Callable[[Results], Check]


@dataclass(frozen=True)
class Goal:
    """A goal, and how its check is found."""

    text: str
    find: Find


def _at_most(key: str, peer: Peer, limit: float) -> Find:
    return lambda results: Check(results.median(key, peer), limit)


def _at_least(key: str, peer: Peer, limit: float) -> Find:
    return lambda results: Check(results.median(key, peer), limit, at_least=True)


def _no_more_than(key: str, peer: Peer, other: Peer, times: float = 1.0) -> Find:
    def find(results: Results) -> Check:
        theirs = results.median(key, other)
        return Check(results.median(key, peer), None if theirs is None else theirs * times)

    return find


def _more_than(key: str, peer: Peer, other: Peer) -> Find:
    return lambda results: Check(results.median(key, peer), results.median(key, other), at_least=True)


_allocate = partial(_no_more_than, "allocate_p50", DEVPLUGIN)

GOALS = (
    Goal("RSS of the sample, idle: ≤ 24 MiB", _at_most("rss", SAMPLE, 24)),
    Goal("… and no more than Kubernetes' Go sample's", _no_more_than("rss", SAMPLE, GO)),
    Goal("process start → registered: ≤ 120 ms", _at_most("start", SAMPLE, 120)),
    Goal("… and ≤ 1.8 × asyncio alone", _no_more_than("start", SAMPLE, FLOOR, 1.8)),
    Goal("threads: 1", _at_most("threads", SAMPLE, 1)),
    Goal("context switches in 10 s idle: ≤ 3", _at_most("switches", SAMPLE, 3)),
    Goal("new kubelet.sock → registered, p99: ≤ 100 ms", _at_most("again_p99", SAMPLE, 100)),
    Goal("Allocate, p50: ≤ 400 µs", _at_most("allocate_p50", DEVPLUGIN, 400)),
    Goal("… and no more than grpc.aio's", _allocate(AIO)),
    Goal("… and no more than grpcio's", _allocate(SYNC)),
    Goal("… and ≤ 3 × the Go sample's", _allocate(GO, 3)),
    Goal("Allocate, 16 in flight: ≥ 4,500 calls a second", _at_least("calls", DEVPLUGIN, 4_500)),
    Goal("… and more than grpc.aio's", _more_than("calls", DEVPLUGIN, AIO)),
    Goal("first list of 10,000 devices: ≤ 10 ms", _at_most("list_10000", DEVPLUGIN, 10)),
    Goal("first list of 100,000 devices: ≤ 100 ms", _at_most("list_100000", DEVPLUGIN, 100)),
    Goal("worst Allocate while one of 100,000 changes: ≤ 25 ms", _at_most("stall_one", DEVPLUGIN, 25)),
    Goal("worst Allocate while all 100,000 change: ≤ 25 ms", _at_most("stall_all", DEVPLUGIN, 25)),
    Goal("CPU of one change among 10,000: ≤ 5 ms", _at_most("change_cpu_10000", DEVPLUGIN, 5)),
    Goal("16 × 1,000 devices: ≤ 30 MiB", _at_most("many_rss", DEVPLUGIN, 30)),
    Goal("16 × 1,000 devices, all lists: ≤ 20 ms", _at_most("many_lists", DEVPLUGIN, 20)),
)
