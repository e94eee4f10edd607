"""The clock: it runs with the real time, and jumps."""

import asyncio

import anyio
import pytest

from devplugin.testing import Clock


@pytest.mark.asyncio
async def test_standing_still_but_for_advance() -> None:
    """A clock that does not tick moves by what it is advanced, and no further."""
    clock = Clock(ticking=False)
    await asyncio.sleep(0)
    assert clock.now() == 0
    clock.advance(1.5)
    clock.advance(0)
    assert clock.now() == 1.5
    with pytest.raises(ValueError, match=r"A clock cannot go back: advance\(-1\)"):
        clock.advance(-1)


@pytest.mark.asyncio
async def test_timers_fire_in_their_order() -> None:
    """What is due fires by its time, not by when it was set; the rest waits."""
    clock = Clock(ticking=False)
    fired: list[str] = []
    clock.call_at(2, lambda: fired.append("second"))
    clock.call_at(1, lambda: fired.append("first"))
    late = clock.call_at(3, lambda: fired.append("late"))
    clock.call_at(2, lambda: fired.append("third"))
    clock.advance(2)
    assert fired == ["first", "second", "third"]
    assert late.active
    assert repr(late) == "<Timer at 3 s, waiting>"
    assert repr(clock) == "<Clock at 2.000 s, standing, 1 timers>"


@pytest.mark.asyncio
async def test_a_cancelled_timer_is_gone() -> None:
    """A cancelled timer does not fire, cancelling it again does no harm, and it keeps no event loop awake."""
    clock = Clock()
    fired: list[str] = []
    timer = clock.call_at(clock.now() + 10, lambda: fired.append("it"))
    timer.cancel()
    timer.cancel()
    clock.advance(20)
    assert not fired
    assert repr(timer).endswith("over>")
    assert repr(clock).endswith("ticking, 0 timers>")


@pytest.mark.asyncio
async def test_a_timer_cancelled_by_an_earlier_one() -> None:
    """A timer may cancel another that is due at the same moment."""
    clock = Clock(ticking=False)
    fired: list[str] = []
    second = clock.call_at(1, lambda: fired.append("it"))
    clock.call_at(0.5, second.cancel)
    clock.advance(1)
    assert not fired


@pytest.mark.asyncio
async def test_ticking_with_the_real_time() -> None:
    """A ticking clock wakes a sleeper by itself."""
    clock = Clock()
    async with asyncio.timeout(5):
        await clock.sleep(0.01)
    assert clock.now() >= 0.01


@pytest.mark.asyncio
async def test_advance_wakes_sleepers() -> None:
    """A jump wakes who sleeps until a time that is over."""
    clock = Clock()
    async with asyncio.timeout(5), anyio.create_task_group() as tasks:
        tasks.start_soon(clock.sleep, 300)
        await anyio.wait_all_tasks_blocked()
        clock.advance(300)


@pytest.mark.asyncio
async def test_blocks_with_a_deadline() -> None:
    """A block is cancelled by the clock, and only when it takes longer."""
    clock = Clock(ticking=False)
    with clock.move_on_after(1) as scope:
        clock.advance(1)
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    with clock.move_on_after(1) as scope:
        pass
    assert not scope.cancelled_caught
    with clock.fail_after(1):
        pass
    asyncio.get_running_loop().call_soon(clock.advance, 1)
    with pytest.raises(TimeoutError), clock.fail_after(1):
        await anyio.sleep_forever()
    assert repr(clock).endswith("0 timers>")
