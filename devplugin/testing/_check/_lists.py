"""What lists of devices say by themselves, and beside one another."""

from collections.abc import Iterator, Sequence

from devplugin._snapshot import Snapshot
from devplugin._wire import LIST_BYTES_MAX

__all__ = ["Breach", "ids_of_two_enumerations", "next_list", "one_list", "some"]

Breach = tuple[str, str]
"""A rule's code, and what was found."""

ID_LENGTH_MAX = 63
NEAR_THE_LIMIT = 0.75
_SHOWN = 3


def one_list(snapshot: Snapshot) -> Iterator[Breach]:
    """DP206 and DP209 for one list."""
    long = [device.id for device in snapshot.devices if len(device.id) > ID_LENGTH_MAX]
    if long:
        yield "DP206", f"ids of more than {ID_LENGTH_MAX} characters: {some(long)}"
    size = len(snapshot.message)
    if size > NEAR_THE_LIMIT * LIST_BYTES_MAX:
        yield (
            "DP209",
            f"a list of {len(snapshot.devices)} devices takes {size} bytes, {size / LIST_BYTES_MAX:.0%} of the limit",
        )


def ids_of_two_enumerations(first: Sequence[str], second: Sequence[str]) -> Iterator[Breach]:
    """DP204 and DP205 for what two calls of ``devices()`` begin with."""
    different = [*_without(first, second), *_without(second, first)]
    if different:
        yield "DP204", f"of two enumerations only one has {some(different)}"
    yield from _order(first, second, "two enumerations")


def next_list(before: Sequence[str], after: Sequence[str]) -> Iterator[Breach]:
    """DP204, DP205 and DP208 for two lists that one enumeration yielded one after the other."""
    gone = _without(before, after)
    if gone and len(gone) == len(before) and after:
        yield "DP204", f"a list has none of the ids of the list before it: {some(after)} and not {some(before)}"
    elif gone:
        yield "DP208", f"a list lacks {some(gone)} of the list before it"
    yield from _order(before, after, "two lists")


def some(texts: Sequence[str]) -> str:
    """The first of them, and how many there are beside."""
    shown = ", ".join(texts[:_SHOWN])
    return f"{shown} and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else shown


def _without(ids: Sequence[str], others: Sequence[str]) -> list[str]:
    known = set(others)
    return [each for each in ids if each not in known]


def _order(before: Sequence[str], after: Sequence[str], which: str) -> Iterator[Breach]:
    common = set(before) & set(after)
    was, is_ = ([each for each in ids if each in common] for ids in (before, after))
    if was != is_:
        yield "DP205", f"{which} have the same ids in another order: {some(was)} and {some(is_)}"
