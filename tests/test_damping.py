"""Health with damping: what is held and for how long, what is said of it, and when to look again."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devplugin import ConfigurationError, Device, DevicePluginBase, Health
from devplugin.damping import Damping, HealthChange
from devplugin.testing import FakeKubelet
from tests.conftest import Serve, eventually

ILL, WELL = Health.UNHEALTHY, Health.HEALTHY


@dataclass(frozen=True, slots=True)
class Card(Device):
    bus: str = ""


class Time:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def wall(self) -> float:
        return 1_700_000_000.0 + self.now_s - 1000.0


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def damp(time: Time) -> Damping:
    return Damping(30, clock=time, wall_clock=time.wall)


def healths(devices: Iterable[Device]) -> dict[str, Health]:
    return {device.id: device.health for device in devices}


def test_a_device_that_was_never_ill_is_handed_on_as_it_is(damp: Damping) -> None:
    """The very object, and nothing is kept or said of it."""
    card = Card("a", bus="0000:01:00.0")
    assert damp.hold([card])[0] is card
    assert damp.next_change_s is None
    assert damp.changes == ()
    assert repr(damp) == "Damping(well_for_s=30: nothing held)"


def test_a_device_that_fails_is_unhealthy_at_once_and_well_after_a_while(damp: Damping, time: Time) -> None:
    """Healthy at the very moment when it has been well for as long as it must, and not before."""
    ill, well = Card("a", health=ILL, bus="b"), Card("a", bus="b")
    assert damp.hold([ill])[0] is ill
    time.now_s += 5
    assert damp.hold([well]) == [ill]
    assert damp.next_change_s == 30
    time.now_s += 29.5
    assert damp.hold([well]) == [ill]
    assert damp.next_change_s == 0.5
    time.now_s += 0.5
    assert damp.next_change_s == 0
    assert damp.hold([well])[0] is well
    assert damp.next_change_s is None


def test_a_device_that_is_first_seen_ill_is_held_as_well(damp: Damping, time: Time) -> None:
    """The first list has no history, and a device that fails in it has one from then on."""
    damp.hold([Device("a", health=ILL)])
    assert healths(damp.hold([Device("a")])) == {"a": ILL}


def test_a_device_that_flaps_stays_unhealthy(damp: Damping, time: Time) -> None:
    """Each relapse begins the time anew, and the kubelet hears of none of them."""
    damp.hold([Device("a", health=ILL)])
    for _ in range(5):
        time.now_s += 20
        assert healths(damp.hold([Device("a")])) == {"a": ILL}
        time.now_s += 20
        assert healths(damp.hold([Device("a", health=ILL)])) == {"a": ILL}
        assert damp.next_change_s is None
    damp.hold([Device("a")])
    time.now_s += 30
    assert healths(damp.hold([Device("a")])) == {"a": WELL}
    assert len(damp.changes) == 2


def test_devices_do_not_hold_each_other(damp: Damping, time: Time) -> None:
    """Each has its own time, and the next change is that of the first one due."""
    damp.hold([Device("a", health=ILL), Device("b", health=ILL), Device("c")])
    damp.hold([Device("a"), Device("b", health=ILL), Device("c")])
    time.now_s += 10
    damp.hold([Device("a"), Device("b"), Device("c")])
    assert damp.next_change_s == 20
    time.now_s += 20
    assert healths(damp.hold([Device("a"), Device("b"), Device("c")])) == {"a": WELL, "b": ILL, "c": WELL}
    assert damp.next_change_s == 10


def test_a_device_that_is_left_out_is_forgotten(damp: Damping, time: Time) -> None:
    """Nothing is kept for a device that is gone, and nobody is woken for it."""
    damp.hold([Device("a", health=ILL)])
    damp.hold([Device("a")])
    assert damp.hold([]) == []
    assert damp.next_change_s is None
    assert healths(damp.hold([Device("a")])) == {"a": WELL}


def test_no_time_at_all_is_no_damping(time: Time) -> None:
    """With 0 s a device is healthy as soon as it is well."""
    damp = Damping(0, clock=time)
    damp.hold([Device("a", health=ILL)])
    assert healths(damp.hold([Device("a")])) == {"a": WELL}


@pytest.mark.parametrize("well_for_s", [-1, float("nan"), float("inf")])
def test_what_is_no_time_is_refused(well_for_s: float) -> None:
    """It would be a device that never comes back, or one that nobody can wait for."""
    with pytest.raises(ConfigurationError, match=r"well_for_s .* is not usable: it must be a number of seconds"):
        Damping(well_for_s)


def test_a_list_that_fails_changes_nothing(damp: Damping) -> None:
    """When the author's generator raises, what was held stays held."""

    def failing() -> Iterable[Device]:
        yield Device("a")
        raise OSError("the bus is gone")

    damp.hold([Device("a", health=ILL)])
    with pytest.raises(OSError, match="the bus is gone"):
        damp.hold(failing())
    assert healths(damp.hold([Device("a")])) == {"a": ILL}


def test_a_held_device_that_is_the_same_object_stays_the_same_object(damp: Damping) -> None:
    """So the next snapshot sees at once that nothing has changed; another object is looked at anew."""
    damp.hold([Card("a", health=ILL)])
    well = Card("a", bus="1")
    first, again, other = damp.hold([well])[0], damp.hold([well])[0], damp.hold([Card("a", bus="2")])[0]
    assert first is again
    assert (first.bus, other.bus, other.health) == ("1", "2", ILL)


def test_each_change_has_its_reason_and_its_time(damp: Damping, time: Time, caplog: pytest.LogCaptureFixture) -> None:
    """In the log as it happens, in ``changes`` afterwards, and in ``repr`` while the device is held."""
    caplog.set_level(logging.DEBUG, "devplugin.damping")
    damp.hold([Device("a", health=ILL)], {"a": "the fan stands still"})
    assert repr(damp) == "Damping(well_for_s=30: a: Unhealthy since 2023-11-14 22:13:20 UTC: the fan stands still)"
    time.now_s += 10
    damp.hold([Device("a")])
    time.now_s += 10
    damp.hold([Device("a", health=ILL)], {"a": "off the bus"})
    damp.hold([Device("a", health=ILL)])  # no reason is no news
    assert repr(damp) == ("Damping(well_for_s=30: a: Unhealthy since 2023-11-14 22:13:20 UTC: off the bus, 1 relapse)")
    damp.hold([Device("a")])
    time.now_s += 10
    damp.hold([Device("a", health=ILL)])
    damp.hold([Device("a")])
    time.now_s += 10
    assert repr(damp).endswith("off the bus, 2 relapses, well for 10 s)")
    time.now_s += 20
    damp.hold([Device("a")])
    assert repr(damp) == "Damping(well_for_s=30: nothing held)"
    recovery = "well for 30 s; it was down for 60 s with 2 relapses (off the bus)"
    assert damp.changes == (
        HealthChange("a", ILL, "the fan stands still", time.wall() - 60),
        HealthChange("a", WELL, recovery, time.wall()),
    )
    assert str(damp.changes[1]) == f"a: Healthy since 2023-11-14 22:14:20 UTC: {recovery}"
    assert caplog.record_tuples == [
        ("devplugin.damping", logging.WARNING, "a is unhealthy: the fan stands still"),
        ("devplugin.damping", logging.INFO, "a is still unhealthy: off the bus"),
        ("devplugin.damping", logging.DEBUG, "a: a relapse, after it looked well"),
        ("devplugin.damping", logging.DEBUG, "a: a relapse, after it looked well"),
        ("devplugin.damping", logging.INFO, f"a is healthy: {recovery}"),
    ]


def test_a_change_without_a_reason_says_so(damp: Damping, time: Time) -> None:
    """The reason is the author's, and where there is none the text says that."""
    damp.hold([Device("a", health=ILL)])
    damp.hold([Device("a")])
    time.now_s += 30
    damp.hold([Device("a")])
    assert [change.reason for change in damp.changes] == [
        "no reason given",
        "well for 30 s; it was down for 30 s (no reason given)",
    ]


def test_changes_are_bounded(time: Time) -> None:
    """What is kept for people does not grow."""
    damp = Damping(0, clock=time)
    for _ in range(100):
        damp.hold([Device("a", health=ILL)])
        damp.hold([Device("a")])
    assert len(damp.changes) == 100


Looks = st.lists(
    st.tuples(st.sampled_from([0.1, 1, 7, 29.9, 30, 31]), st.dictionaries(st.sampled_from("abc"), st.booleans()))
)


@given(Looks)
def test_the_rule(looks: list[tuple[float, dict[str, bool]]]) -> None:
    """Whatever happens: unhealthy is unhealthy, and healthy is what was well for 30 s in each list, or never ill."""
    time = Time()
    damp = Damping(30, clock=time, wall_clock=time.wall)
    history: dict[str, list[tuple[float, bool]]] = {}
    for wait_s, seen in looks:
        time.now_s += wait_s
        history = {name: [*history.get(name, []), (time.now_s, seen[name])] for name in seen}
        held = damp.hold([Device(name, health=WELL if ok else ILL) for name, ok in seen.items()])
        due = []
        for device in held:
            looked = history[device.id]
            ill = [n for n, (_, ok) in enumerate(looked) if not ok]
            since_s = looked[ill[-1] + 1][0] if ill and ill[-1] + 1 < len(looked) else None
            recovered = since_s is not None and any(at_s >= since_s + 30 for at_s, _ in looked)
            assert (device.health is WELL) == (not ill or recovered)
            if since_s is not None and not recovered:
                due.append(since_s + 30 - time.now_s)
        assert damp.next_change_s == (min(due) if due else None)


# Wake-ups -------------------------------------------------------------------------------------------------------------


class Bell:
    """Wake-ups that the test rings, and that say how they ended."""

    def __init__(self) -> None:
        self.rung: asyncio.Queue[BaseException | None] = asyncio.Queue()
        self.is_closed = False

    def ring(self, error: BaseException | None = None) -> None:
        self.rung.put_nowait(error)

    async def rings(self) -> AsyncIterator[None]:
        try:
            while True:
                error = await self.rung.get()
                if error is not None:
                    raise error
                yield
        finally:
            self.is_closed = True


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.mark.asyncio
async def test_the_sources_wake_ups_are_handed_on(bell: Bell) -> None:
    """Also those that come while nobody waits; the source is closed with the iterator."""
    async with aclosing(Damping(30).wakeups(bell.rings())) as wakeups:
        bell.ring()
        bell.ring()
        await anext(wakeups)
        await anext(wakeups)
        assert bell.rung.empty()
    assert bell.is_closed
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.asyncio
async def test_a_recovery_wakes(bell: Bell) -> None:
    """A device that is held is looked at again when it is due, though the source says nothing."""
    damp = Damping(0.02)
    damp.hold([Device("a", health=ILL)])
    damp.hold([Device("a")])
    async with aclosing(damp.wakeups(bell.rings())) as wakeups:
        await anext(wakeups)
    assert healths(damp.hold([Device("a")])) == {"a": WELL}


@pytest.mark.asyncio
async def test_a_wake_up_that_comes_while_a_recovery_is_waited_for_is_not_lost(bell: Bell) -> None:
    """Waiting for the one does not drop the other."""
    damp = Damping(0.02)
    damp.hold([Device("a", health=ILL)])
    damp.hold([Device("a")])
    async with aclosing(damp.wakeups(bell.rings())) as wakeups:
        await anext(wakeups)  # the recovery
        damp.hold([Device("a")])
        bell.ring()
        await anext(wakeups)


@pytest.mark.asyncio
async def test_the_end_of_the_source(time: Time) -> None:
    """What is held is still waited for, and then it is over."""

    class Once:
        def __init__(self) -> None:
            self.left = 1

        def __aiter__(self) -> "Once":
            return self

        async def __anext__(self) -> None:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1

    damp = Damping(0.02)
    damp.hold([Device("a", health=ILL)])
    seen = [healths(damp.hold([Device("a")])) async for _ in damp.wakeups(Once())]
    assert seen == [{"a": ILL}, {"a": WELL}]


@pytest.mark.asyncio
async def test_what_the_source_raises_comes_out(bell: Bell) -> None:
    """And nothing is left behind."""
    bell.ring(OSError("no more watches"))
    with pytest.raises(OSError, match="no more watches"):
        await anext(Damping(30).wakeups(bell.rings()))
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.asyncio
async def test_what_the_source_raises_at_its_end_comes_out() -> None:
    """A source that fails while it is closed is not hushed up."""

    async def source() -> AsyncIterator[None]:
        try:
            yield
            await asyncio.Event().wait()
        finally:
            raise OSError("cannot close")

    async def look() -> None:
        async with aclosing(Damping(30).wakeups(source())) as wakeups:
            await anext(wakeups)
            await asyncio.sleep(0)

    with pytest.raises(OSError, match="cannot close"):
        await look()


@pytest.mark.asyncio
async def test_a_plugin_that_holds_its_devices(directory: Path, serve: Serve, bell: Bell) -> None:
    """The kubelet sees the device go at once, and come back by itself when it has been well for long enough."""
    state = {"health": WELL}

    class Cards(DevicePluginBase):
        resource_name = "example.com/card"

        async def devices(self) -> AsyncIterator[list[Device]]:
            damp = Damping(0.05)
            async for _ in damp.wakeups(bell.rings()):
                yield damp.hold([Device("card-0", health=state["health"])])

    async with FakeKubelet(directory) as kubelet:
        serving = serve(Cards())
        bell.ring()
        await kubelet.allocatable("example.com/card", 1)
        state["health"] = ILL
        bell.ring()
        await kubelet.allocatable("example.com/card", 0)
        state["health"] = WELL
        bell.ring()
        await kubelet.allocatable("example.com/card", 1)
        assert [snapshot.devices["card-0"] for snapshot in kubelet.snapshots] == [WELL, ILL, WELL]
        serving.cancel()
        await asyncio.wait([serving])
    await eventually(lambda: bell.is_closed)
