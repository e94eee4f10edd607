"""Counting devices in an answer of the pod resources API."""

import pytest

from .podresources import Samples, count


def _field(number: int, value: bytes) -> bytes:
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value


def _devices(resource: bytes, *ids: bytes) -> bytes:
    topology = _field(3, _field(1, b"\x08\x01"))
    return _field(1, _field(1, resource) + b"".join(_field(2, identity) for identity in ids) + topology)


def test_counts_the_different_devices_of_one_resource() -> None:
    """One entry for each device and NUMA node: a device on two nodes counts once; CPUs and other resources do not."""
    message = _devices(b"a/b", b"1") + _devices(b"a/c", b"9") + b"\x10\x07" + _devices(b"a/b", b"1", b"2")
    assert count(message, "a/b") == 2
    assert count(message, "a/d") == 0


def test_refuses_what_it_does_not_know() -> None:
    """A wire type of no message of that API is an error, not a guess."""
    with pytest.raises(ValueError, match="wire type 5"):
        count(b"\x0d\x00\x00\x00\x00", "a/b")


def test_samples_keep_changes_and_tell_spells() -> None:
    """What was seen twice is kept once; the last spell has no end yet."""
    samples = Samples()
    for number in (4, 4, 0, 4, 0):
        samples.add(number)
    assert samples.numbers() == [4, 0, 4, 0]
    assert len(samples.spells_at(0)) == 1
    assert samples.asked == 5
