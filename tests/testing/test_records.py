"""How records read: in a failing assert, in the error of a wait, and in the report of a failing test."""

from pathlib import Path
from typing import Any

import pytest

from devplugin.testing import Call, Event, FakeKubelet, Registration, Resource, Snapshot
from devplugin.testing._story import story_of

WHERE: dict[str, Any] = {"resource": "a/b", "endpoint": "p.sock", "at_s": 1.23456}
RECORDS = {
    "<Registration of a/b on p.sock: accepted (at 1.235 s)>": Registration(**WHERE, version="v1beta1"),
    "<Registration of a/b on p.sock: refused: no, pre_start_required (at 1.235 s)>": Registration(
        **WHERE, version="v1beta1", error="no", pre_start_required=True
    ),
    "<Snapshot of a/b on p.sock: x Healthy NUMA (0, 1), y Unhealthy (at 1.235 s)>": Snapshot(
        **WHERE, devices={"x": "Healthy", "y": "Unhealthy"}, numa_nodes={"x": (0, 1)}
    ),
    "<Snapshot of a/b on p.sock: none (at 1.235 s)>": Snapshot(**WHERE, devices={}),
    "<Snapshot of a/b on p.sock: 0 H, 1 H, 2 H, 3 H, 4 H, 5 H, 6 H, 7 H, and 992 more (at 1.235 s)>": Snapshot(
        **WHERE, devices={str(n): "H" for n in range(1000)}
    ),
    "<Allocate of a/b: x, y (on p.sock at 1.235 s)>": Call(**WHERE, method="Allocate", device_ids=("x", "y")),
    "<Allocate of a/b: x: failed: no (on p.sock at 1.235 s)>": Call(
        **WHERE, method="Allocate", device_ids=("x",), error="no"
    ),
    "<GetPreferredAllocation of a/b, 2 of x, y, z, y included: x, y (on p.sock at 1.235 s)>": Call(
        **WHERE,
        method="GetPreferredAllocation",
        device_ids=("x", "y"),
        available=("x", "y", "z"),
        must_include=("y",),
        size=2,
    ),
    "<GetPreferredAllocation of a/b, 1 of x, none included: failed: no (on p.sock at 1.235 s)>": Call(
        **WHERE, method="GetPreferredAllocation", available=("x",), size=1, error="no"
    ),
    "Resource(capacity=0, allocatable=0)": Resource(capacity=0, allocatable=0),
    "Resource(capacity=2, allocatable=1, healthy={'x'}, unhealthy={'y'}, allocated={'x'})": Resource(
        capacity=2, allocatable=1, healthy=frozenset("x"), unhealthy=frozenset("y"), allocated=frozenset("x")
    ),
}


@pytest.mark.parametrize(("text", "record"), RECORDS.items())
def test_a_record_is_a_line(text: str, record: object) -> None:
    """What matters, and of many devices the first."""
    assert repr(record) == text


def test_records_are_compared_by_what_they_hold() -> None:
    """Their looks do not matter."""
    assert Snapshot(**WHERE, devices={"x": "Healthy"}) == Snapshot(**WHERE, devices={"x": "Healthy"})
    assert Snapshot(**WHERE, devices={"x": "Healthy"}) != Snapshot(**WHERE, devices={"x": "Unhealthy"})


def test_a_story_is_in_order_and_ends_with_the_newest(tmp_path: Path) -> None:
    """By the kubelet's clock, with what pods went through, and not longer than somebody reads."""
    kubelet = FakeKubelet(tmp_path)
    for n in range(30):
        kubelet._records.add(
            Call(method="Allocate", resource="a/b", endpoint="p.sock", at_s=n + 0.5, device_ids=(f"c{n}",))
        )
        kubelet._records.add(Snapshot(resource="a/b", endpoint="p.sock", at_s=n, devices={f"s{n}": "Healthy"}))
        kubelet._records.add(f"line {n}")
    pod = kubelet.create_pod("shop", {"a/b": 1})
    pod.events.append(Event(type="Normal", reason="Sold", message="the shop", at_s=29.7))
    assert repr(kubelet._records) == "<Records of 0 registrations, 30 snapshots, 30 calls>"
    head, row, left_out, *lines = story_of(kubelet).splitlines()
    assert head == repr(kubelet)
    assert row == "  shop   0/1   Pending   0"
    assert left_out == "  ... and 21 more before"
    assert lines[0] == "    10.500 s  Allocate of a/b: c10"
    assert lines[39] == "    29.700 s  Pod shop: Normal Sold: the shop"
    assert lines[40] == "  log: line 0"
    assert lines[-1] == "  log: line 29"
