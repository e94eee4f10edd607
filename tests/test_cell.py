"""The cell for the newest value: many readers, no queue, never an old value for the newest."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.support_values  # noqa: F401  (Hypothesis' settings)
from devplugin._cell import Latest

pytestmark = pytest.mark.asyncio

pauses = st.integers(0, 4)


async def pause(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


@given(st.lists(st.tuples(st.integers(0, 2), pauses), min_size=1), st.lists(st.tuples(pauses, pauses), max_size=5))
async def test_every_reader_ends_with_the_newest_value(
    written: list[tuple[int, int]], readers: list[tuple[int, int]]
) -> None:
    """However slow a reader is and whenever it begins: versions rise, each with its value, up to the last one."""
    cell: Latest[int] = Latest()

    async def write() -> None:
        for value, turns in written:
            cell.set(value)
            await pause(turns)

    async def read(before: int, between: int) -> list[tuple[int, int]]:
        await pause(before)
        seen: list[tuple[int, int]] = []
        while not seen or seen[-1][0] < len(written):
            seen.append(await cell.newer(seen[-1][0] if seen else 0))
            await pause(between)
        return seen

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        tasks = [group.create_task(read(*reader)) for reader in readers]
        group.create_task(write())
    for task in tasks:
        versions = [version for version, _ in task.result()]
        assert versions == sorted(set(versions))
        assert all(written[version - 1][0] == value for version, value in task.result())


async def test_a_reader_waits_for_the_first_value() -> None:
    """Before it there is nothing, and an equal value is a new one."""
    cell: Latest[str] = Latest()
    assert cell.get() is None
    reader = asyncio.create_task(cell.newer())
    await pause(3)
    assert not reader.done()
    cell.set("a")
    assert await reader == (1, "a")
    assert cell.get() == "a"
    cell.set("a")
    assert await cell.newer(1) == (2, "a")


async def test_a_reader_that_is_up_to_date_waits() -> None:
    """Values in between are skipped, and nothing is told twice."""
    cell: Latest[int] = Latest()
    for value in (1, 2, 3):
        cell.set(value)
    assert await cell.newer(1) == (3, 3)
    reader = asyncio.create_task(cell.newer(3))
    await pause(3)
    assert not reader.done()
    cell.set(4)
    assert await reader == (4, 4)


async def test_a_reader_that_is_cancelled_does_not_disturb_the_others() -> None:
    """Each waits for itself."""
    cell: Latest[int] = Latest()
    readers = [asyncio.create_task(cell.newer()) for _ in range(3)]
    await pause(1)
    readers[0].cancel()
    await pause(1)
    cell.set(1)
    assert await asyncio.gather(*readers[1:]) == [(1, 1), (1, 1)]
    assert readers[0].cancelled()


async def test_nothing_may_be_a_value() -> None:
    """None is told from no value by its version."""
    cell: Latest[None] = Latest()
    cell.set(None)
    assert await cell.newer() == (1, None)


async def test_its_representation_shows_value_and_version() -> None:
    """Also when there is none."""
    cell: Latest[int] = Latest()
    assert repr(cell) == "Latest()"
    cell.set(7)
    cell.set(8)
    assert repr(cell) == "Latest(8, version=2)"
