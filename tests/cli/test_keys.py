"""The line of input, on a terminal of its own, and how work is interrupted."""

import asyncio
import os
import signal
import termios
import time

import pytest

from devplugin._sideclient import SideClient
from devplugin.cli._keys import Key, Keyboard
from devplugin.cli._output import plain, run_interruptibly
from devplugin.cli._trial import Trial
from devplugin.testing import FakeKubelet
from tests.cli.conftest import SEATS


@pytest.mark.asyncio
async def test_keys_come_one_by_one() -> None:
    """Lines, keys that are no text, and letters of which only a part has come."""
    main, other = os.openpty()
    changed = asyncio.Event()
    before = termios.tcgetattr(other)
    with Keyboard(other, changed.set) as keys:
        os.write(main, "é".encode()[:1])
        await changed.wait()
        assert keys.text == ""
        os.write(main, "é".encode()[1:] + b"a\x7fb")
        async with asyncio.timeout(10):
            while keys.text != "éb":
                changed.clear()
                await changed.wait()
            assert repr(keys) == f"<Keyboard of descriptor {other}: 'éb'>"
            os.write(main, b"\n\x12\x04")
            assert [await keys.next(), await keys.next(), await keys.next()] == ["éb", Key.RESTART, Key.QUIT]
    assert termios.tcgetattr(other) == before
    os.close(main)
    os.close(other)


@pytest.mark.asyncio
async def test_a_terminal_that_goes_away() -> None:
    """It is as if somebody quit."""
    main, other = os.openpty()
    keys = Keyboard(other, lambda: None)
    with keys:
        os.close(main)
        async with asyncio.timeout(10):
            assert await keys.next() is Key.QUIT
    os.close(other)


@pytest.mark.asyncio
@pytest.mark.parametrize("is_closed", [False, True])
async def test_input_that_ends(*, is_closed: bool) -> None:
    """The same, whether the system says so with nothing or with an error."""
    main, other = os.openpty()
    keys = Keyboard(other, lambda: None)
    with keys:
        reading, writing = os.pipe()
        os.close(writing)
        if is_closed:
            os.close(reading)
        keys._descriptor, terminal = reading, keys._descriptor
        keys._read()
        keys._descriptor = terminal
        assert await keys.next() is Key.QUIT
    for descriptor in (main, other) if is_closed else (main, other, reading):
        os.close(descriptor)


def test_work_ends_with_what_it_returns() -> None:
    """And signals are whose they were."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    async def work() -> int:
        assert signal.getsignal(signal.SIGINT) != before[0]
        return 7

    assert run_interruptibly(work) == 7
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_what_it_raises_is_raised() -> None:
    """As it is."""

    async def work() -> None:
        raise OSError("no driver")

    with pytest.raises(OSError, match="no driver"):
        run_interruptibly(work)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_it_and_the_next_breaks_in(number: signal.Signals) -> None:
    """Also out of a task beside it; what the work has opened is closed all the same."""
    closed: list[object] = []

    async def blocks() -> None:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        time.sleep(60)  # noqa: ASYNC251  (what must not be done)

    async def waits_for(other: asyncio.Task[None]) -> None:
        try:
            await asyncio.wait([other])
        finally:  # as serve() does: it raises what it has waited for
            await asyncio.sleep(0)
            other.result()

    async def work() -> None:
        beside = asyncio.create_task(waits_for(asyncio.create_task(blocks())))
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.wait([beside])
            await asyncio.sleep(0)
            closed.append(type(beside.exception()))

    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(work)
    assert closed == [KeyboardInterrupt]


def test_the_third_signal_waits_for_nothing() -> None:
    """Clearing up may hang."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        try:
            loop.call_soon(os.kill, os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            loop.call_soon(os.kill, os.getpid(), signal.SIGINT)
            loop.call_soon(os.kill, os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(work)


def test_a_signal_while_it_waits() -> None:
    """It is cancelled."""

    async def work() -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(work)


def test_an_ignored_signal_stays_ignored() -> None:
    """A shell's background job ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def work() -> None:
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN

    try:
        run_interruptibly(work)
    finally:
        signal.signal(signal.SIGINT, before)


def test_texts_of_others() -> None:
    """What would move the cursor is written out."""
    assert plain("a\x1b[2J\nb é") == "a\\x1b[2J\\nb é"


@pytest.mark.asyncio
async def test_what_things_are_called(directory: object) -> None:
    """For who debugs them."""
    kubelet = FakeKubelet(str(directory))
    names: dict[str, object] = {}
    exec(SEATS, names)
    seats = names["Seats"]()  # type: ignore[operator]
    assert repr(Trial(seats, kubelet)) == f"<Trial of {seats!r} on {kubelet!r}>"
    assert repr(SideClient(None, "x")) == "<SideClient of a plugin with x>"  # type: ignore[arg-type]
