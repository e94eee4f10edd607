"""Waiting for conditions."""

import anyio
import pytest

from devplugin.testing import ConditionNotMet
from devplugin.testing._changes import Changes


@pytest.mark.asyncio
async def test_what_holds_is_not_waited_for() -> None:
    """A condition that is so already needs no change."""
    assert await Changes().until(lambda: 7, timeout_s=0, unmet=lambda: "never") == 7


@pytest.mark.asyncio
async def test_what_holds_for_a_moment_is_seen() -> None:
    """A condition is looked at on every change, at once, and its first result stays."""
    changes = Changes()
    value: list[int] = []

    async def wait() -> None:
        assert await changes.until(lambda: value[0] if value else None, timeout_s=5, unmet=lambda: "never") == 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert repr(changes) == "<Changes, 1 waiting>"
        for now in ([], [1], [2], []):
            value[:] = now
            changes.notify()
    assert repr(changes) == "<Changes, 0 waiting>"


@pytest.mark.asyncio
async def test_what_does_not_come_says_what_was_there() -> None:
    """The error has the sentence of the one who waited, and is a TimeoutError."""
    changes = Changes()
    with pytest.raises(ConditionNotMet, match="it was blue") as caught:
        await changes.until(lambda: None, timeout_s=0.01, unmet=lambda: "it was blue")
    assert isinstance(caught.value, TimeoutError)
    assert repr(changes) == "<Changes, 0 waiting>"
