"""A plugin for each rule of `check_plugin` that breaks it, and no other."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc

from devplugin import (
    Allocation,
    AllocationError,
    Device,
    DevicePluginBase,
    Health,
    Mount,
    PreferredAllocationRequest,
)
from devplugin._proto import v1beta1 as pb
from tests.conftest import eventually
from tests.testing.grpcio_plugin import GrpcioPlugin, Refusal, sample_answer


class Good(DevicePluginBase):
    """Breaks nothing, and overrides everything.

    Attributes:
        unplugged: Set when a device is taken away, where the options say so.
    """

    resource_name = "example.com/good"

    def __init__(self, count: int = 4) -> None:
        self.count = count
        self.unplugged = asyncio.Event()

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device(f"d{n}", grants=Allocation(env={f"D{n}": "1"})) for n in range(self.count)]

    async def preferred_allocation(self, request: PreferredAllocationRequest) -> Sequence[Device]:
        others = [device for device in request.available if device not in request.must_include]
        return [*request.must_include, *others][: request.size]

    async def pre_start_container(self, devices: Sequence[Device]) -> None:
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """How a rule is broken.

    Attributes:
        code: The rule's.
        meaning: What the finding's meaning must match somewhere.
        subject: What its subject must match as a whole: ``{name}`` is the class, ``{here}`` a place in this file.
        plugin: The class, which is made without arguments.
        unplugged: Whether a device is taken away.
        options: Further arguments of `check_plugin`.
    """

    code: str
    meaning: str
    subject: str
    plugin: type[Good]
    unplugged: bool
    options: Mapping[str, Any]


BREACHES: list[Breach] = []
P = TypeVar("P", bound=Good)


def breaks(
    code: str, meaning: str, subject: str = "{name}", *, unplugged: bool = False, **options: Any
) -> Callable[[type[P]], type[P]]:
    """Adds a class to the breaches."""

    def add(plugin: type[P]) -> type[P]:
        subject_here = subject.replace("{name}", plugin.__name__).replace("{here}", rf"\({__file__}:\d+\)")
        BREACHES.append(
            Breach(
                code=code,
                meaning=meaning,
                subject=subject_here,
                plugin=plugin,
                unplugged=unplugged,
                options={"watch_s": 0.0, **options},
            )
        )
        return plugin

    return add


# The class ------------------------------------------------------------------------------------------------------------


@breaks("DP101", "nearly that of 'allocate'", r"{name}\.alocate {here}")
class Misspelt(Good):
    async def alocate(self, devices: Sequence[Device]) -> Allocation:
        return await self.allocate(devices)


@breaks("DP101", "nearly that of 'allocate'", r"{name}\.Allocate {here}")
class InGo(Good):
    @staticmethod
    def Allocate(request: object) -> object:  # noqa: N802  (what is tested)
        return request


@breaks("DP101", "nearly that of 'allocate_timeout_s'", r"{name}\.allocate_timeout")
class WithoutUnit(Good):
    def __init__(self) -> None:
        super().__init__()
        self.allocate_timeout = 3


@breaks("DP102", "too many positional arguments", r"{name}\.pre_start_container {here}")
class TakesNothing(Good):
    async def pre_start_container(self) -> None:  # type: ignore[override]  # what is tested
        pass


@breaks("DP102", "missing a required argument: 'more'", r"{name}\.preferred_allocation {here}")
class WantsMore(Good):
    @staticmethod
    async def preferred_allocation(request: object, more: object) -> Sequence[Device]:  # type: ignore[override]
        return [request, more]  # type: ignore[list-item]  # never called


@breaks("DP102", "it is no method, but 3", r"{name}\.allocate")
class HookIsANumber(Good):
    allocate = 3  # type: ignore[assignment]  # what is tested


@breaks("DP102", "hides the hook", r"{name}\.devices")
class HidesItsHook(Good):
    def __init__(self) -> None:
        super().__init__()
        self.devices = [Device("a")]  # type: ignore[method-assign, assignment]  # what is tested


@breaks("DP103", "not a coroutine function", r"{name}\.allocate {here}")
class NotAsync(Good):
    def allocate(self, devices: Sequence[Device]) -> Allocation:  # type: ignore[override]  # what is tested
        return Allocation(env={device.id: "1" for device in devices})


@breaks("DP103", "not an async generator", r"{name}\.devices {here}")
class NoYield(Good):
    async def devices(self) -> list[Device]:  # type: ignore[override]  # what is tested
        return [Device("a")]


@breaks("DP103", "not an async generator", r"{name}\.devices {here}")
class PlainGenerator(Good):
    def devices(self):  # type: ignore[no-untyped-def]  # noqa: ANN201  (what is tested)
        yield [Device("a")]


@breaks("DP103", "returned list, which is no async iterator")
class SaysThatItIs(Good):
    def devices(self) -> AsyncIterator[list[Device]]:
        return [Device("a")]  # type: ignore[return-value]  # what is tested


@breaks("DP103", "returned coroutine, which is no async iterator")
class SaysThatItWill(Good):
    def devices(self) -> AsyncIterator[list[Device]]:
        async def nothing() -> None:
            pass

        return nothing()  # type: ignore[return-value]  # what is tested


@breaks("DP104", "it must be a string of the form", r"{name}\.resource_name")
class OfNoVendor(Good):
    resource_name = "good"


@breaks("DP104", "None is not usable", r"{name}\.resource_name")
class Nameless(Good):
    resource_name = None  # type: ignore[assignment]  # what is tested


# The list -------------------------------------------------------------------------------------------------------------


@breaks("DP201", r"no list, or did not end, within 0\.1 s", patience_s=0.1)
class NeverYields(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        await asyncio.Event().wait()
        yield []


@breaks("DP201", "ended without a list")
class EndsAtOnce(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        for _ in range(0):
            yield []


@breaks("DP201", r"served, devices\(\) yielded no list within 1\.5 s", patience_s=1.5)
class YieldsOnce(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        if self.count:
            self.count = 0
            yield [Device("a")]
        await asyncio.Event().wait()


@breaks("DP202", r"took \d+\.\d s to yield")
class Slow(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        await asyncio.sleep(1.1)
        async for lists in super().devices():
            yield lists


@breaks("DP203", r"devices\(\) raised OSError: no bus", r"devices {here}")
class Raises(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        if self.count:
            raise OSError("no bus")
        yield []


@breaks("DP203", r"devices\(\) raised OSError: no bus", r"devices {here}")
class RaisesAtOnce(Good):
    def devices(self) -> AsyncIterator[list[Device]]:
        raise OSError("no bus")


@breaks("DP203", r"serve\(\) raised OSError: it has gone", r"devices {here}", watch_s=10.0)
class RaisesLater(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        async for lists in super().devices():
            yield lists
        raise OSError("it has gone")


@breaks("DP203", r"serve\(\) raised OSError: it is not back", r"devices {here}", unplugged=True)
class RaisesMuchLater(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        async for lists in super().devices():
            yield lists
        await self.unplugged.wait()
        raise OSError("it is not back")


@breaks("DP203", r"serve\(\) raised OSError: burnt", r"devices {here}", patience_s=1.5)
class EndsWhileItIsUsed(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        async for lists in super().devices():
            yield lists
        await self.unplugged.wait()
        raise OSError("burnt")

    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        self.unplugged.set()
        return await super().allocate(devices)


@breaks("DP203", r"serve\(\) raised OSError: not twice", r"devices {here}")
class RaisesTheSecondTime(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        if not self.count:
            raise OSError("not twice")
        self.count = 0
        yield []


@breaks("DP203", "two devices with the id 'a'")
class Twins(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device("a"), Device("a")]


@breaks("DP203", "yielded Device and not a list")
class YieldsDevices(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        yield Device("a")  # type: ignore[misc]  # what is tested


@breaks("DP204", "of two enumerations only one has n-0, n-1")
class Counted(Good):
    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count()

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device(f"n-{next(self._numbers)}")]


@breaks("DP204", "none of the ids of the list before it: y and not x", unplugged=True)
class Renamed(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device("x")]
        await self.unplugged.wait()
        yield [Device("y")]


@breaks("DP205", "two enumerations have the same ids in another order: a, b, c and c, b, a")
class Turned(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        self.count = -self.count
        yield [Device(each) for each in ("cba" if self.count > 0 else "abc")]


@breaks("DP205", "two lists have the same ids in another order: a, b and b, a", unplugged=True)
class TurnedLater(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device("a"), Device("b")]
        await self.unplugged.wait()
        yield [Device("b"), Device("a")]


@breaks("DP206", "ids of more than 63 characters: l{64}")
class LongId(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device("l" * 64), Device("s" * 63)]


@breaks("DP208", "a list lacks a of the list before it", unplugged=True)
class Forgets(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device("a"), Device("b")]
        await self.unplugged.wait()
        yield [Device("b")]


class Many(Good):
    """Many devices, of which two are healthy; they are made before anything is checked."""

    digits: int

    def __init__(self, count: int) -> None:
        super().__init__()
        self.all = [
            Device(f"{n:0{self.digits}}", health=Health.HEALTHY if n < 2 else Health.UNHEALTHY) for n in range(count)
        ]

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield self.all


@breaks("DP209", r"a list of 44000 devices takes 3\d{6} bytes, 8\d% of the limit", patience_s=60)
class Long(Many):
    digits = 63

    def __init__(self) -> None:
        super().__init__(44_000)


@breaks("DP209", "a kubelet receives at most 4194304: 59918 of them would fit")
class TooLong(Many):
    digits = 55

    def __init__(self) -> None:
        super().__init__(60_000)


@breaks("DP211", "none of its 1 devices is healthy")
class AllIll(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device("a", health=Health.UNHEALTHY)]


@breaks("DP211", "it has no devices here")
class HasNone(Good):
    def __init__(self) -> None:
        super().__init__(0)


@breaks("DP212", r"no list came within 1\.5 s of the change", unplug=lambda: None, patience_s=1.5)
class LooksOnce(Good):
    pass


# The hooks ------------------------------------------------------------------------------------------------------------


@breaks("DP301", "something else the second time", r"{name}, device d0, d1, d2 and 1 more")
class Numbered(Good):
    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        self.count += 1
        return Allocation(env={f"N{device.id}": str(self.count) for device in devices} if len(devices) == 1 else {})


@breaks("DP302", r"an Allocate took \d+\.\d s")
class SlowAllocate(Good):
    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        if devices[0].id == "d0" and len(devices) == 1:
            await asyncio.sleep(1.1)
        return await super().allocate(devices)


@breaks("DP302", r"not answered within 1\.5 s", r"{name}, device d0", patience_s=1.5)
class HangingAllocate(Good):
    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        await asyncio.Event().wait()
        return await super().allocate(devices)


@breaks("DP303", "healthy, and refused: .* d0 is reserved", r"{name}, device d0")
class Refuses(Good):
    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        raise AllocationError(f"{devices[0].id} is reserved")


@breaks("DP303", "healthy, and refused: .* one at a time", r"{name}, devices d0 and d1")
class RefusesPairs(Good):
    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        if len(devices) > 1:
            raise AllocationError("one at a time")
        return await super().allocate(devices)


@breaks("DP303", "healthy, and refused: .* given away", r"{name}, device d0")
class GivesOnce(Good):
    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        if not self.count:
            raise AllocationError("given away")
        self.count = 0
        return await super().allocate(devices)


@breaks("DP303", r"allocate\(\) of d0 raised KeyError: 'd0'", r"allocate {here}")
class FailsToAllocate(Good):
    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        known: dict[str, Allocation] = {}
        return known[devices[0].id]


@breaks("DP303", "a pod was not admitted: .* not a third time")
class RefusesThePod(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device("a")]

    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        self.count -= 1
        if self.count < 2:
            raise AllocationError("not a third time")
        return await super().allocate(devices)


@breaks("DP304", "a container 'b', which is unhealthy")
class GivesTheIll(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        device = Device("b", health=Health.UNHEALTHY)
        yield [Device("a"), device]
        object.__setattr__(device, "health", Health.HEALTHY)  # and says nothing


@breaks("DP305", "both set PORT, and are refused together", r"{name}, devices a and b")
class OneName(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device(each, grants=Allocation(env={"PORT": each})) for each in "abc"]


@breaks("DP305", "one value only of PORT", r"{name}, devices d0 and d1")
class LastOneWins(Good):
    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        return Allocation(env={"PORT": max(device.id for device in devices)})


@breaks("DP306", "mounts /no/firmware, which is not there", r"{name}, device a")
class MountsNothing(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device("a", grants=Allocation(mounts=[Mount(f"/{n}", "/no/firmware") for n in "ab"]))]


@breaks("DP307", "the device node /dev/no-such-node, which is not there", r"{name}, device no-such-node")
class NoNode(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device.at("/dev/no-such-node"), Device.at("/dev/null")]


@breaks("DP308", r"^the variable API_TOKEN of allocate\(\)'s answer looks like a secret$", r"{name}, device a")
class TellsByName(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device("a", grants=Allocation(env={"API_TOKEN": "s3cret", "API_TOKEN_FILE": "/run/token", "KEY": "1"}))]


@breaks("DP308", "^the annotation licence ", r"{name}, device a")
class TellsByValue(Good):
    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device("a", grants=Allocation(annotations={"licence": "https://me:s3cret@example.com"}))]


@breaks("DP309", "for 1 of 4 devices, .* answered 4 devices")
class PrefersAll(Good):
    async def preferred_allocation(self, request: PreferredAllocationRequest) -> Sequence[Device]:
        return request.available


@breaks("DP309", "for 2 of 4 devices, .* answered without d3, which must be included")
class PrefersTheFirst(Good):
    async def preferred_allocation(self, request: PreferredAllocationRequest) -> Sequence[Device]:
        return sorted(request.available, key=lambda device: device.id)[: request.size]


@breaks("DP309", "answered the same device twice")
class PrefersOne(Good):
    async def preferred_allocation(self, request: PreferredAllocationRequest) -> Sequence[Device]:
        return [request.available[0]] * request.size


@breaks("DP309", "answered what is not available: x")
class PrefersAnother(Good):
    async def preferred_allocation(self, request: PreferredAllocationRequest) -> Sequence[Device]:
        return [Device("x")] * request.size if request.size == 1 else ()


@breaks("DP309", r"preferred_allocation\(\) raised ZeroDivisionError", r"preferred_allocation {here}")
class FailsToPrefer(Good):
    async def preferred_allocation(self, request: PreferredAllocationRequest) -> Sequence[Device]:
        return [request.available[1 // 0]]


@breaks("DP309", r"not answered within 1\.5 s", patience_s=1.5)
class HangsToPrefer(Good):
    async def preferred_allocation(self, request: PreferredAllocationRequest) -> Sequence[Device]:
        if request.size != 1:
            await asyncio.Event().wait()
        return ()


@breaks("DP310", r"pre_start_container\(\) raised OSError: no clock for 1", r"pre_start_container {here}")
class FailsToStart(Good):
    async def pre_start_container(self, devices: Sequence[Device]) -> None:
        raise OSError(f"no clock for {len(devices)}")


@breaks("DP310", "a pod's container did not start: .*not ready yet")
class RefusesToStart(Good):
    async def pre_start_container(self, devices: Sequence[Device]) -> None:
        raise AllocationError(f"{devices[0].id} is not ready yet")


@breaks("DP310", r"did not start within 1\.5 s", patience_s=1.5)
class HangsAtTheStart(Good):
    async def pre_start_container(self, devices: Sequence[Device]) -> None:  # noqa: ARG002  (the hook's)
        await asyncio.Event().wait()


# The event loop, and the session --------------------------------------------------------------------------------------


@breaks("DP401", r"held for 0\.\d s or longer: time\.sleep\(0\.4\)", r"Blocks\.allocate {here}")
class Blocks(Good):
    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        if len(devices) > 1 and not self.__dict__.setdefault("blocked", False):
            self.__dict__["blocked"] = True
            time.sleep(0.4)  # noqa: ASYNC251  (what is tested)
        return await super().allocate(devices)


@breaks("DP402", r"it did not register within 0\.3 s", patience_s=0.3)
class NeverRegisters(Good):
    async def serve(self, *, kubelet_dir: Any = "") -> None:  # noqa: ARG002  (the method's)
        await asyncio.Event().wait()


class OnGrpcio(Good):
    """Served by another's library."""

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device(each) for each in "1234"]

    async def serve(self, *, kubelet_dir: Any = "") -> None:
        async with GrpcioPlugin(Path(kubelet_dir)) as served:
            served.allocate = self._allocate
            served.prefer = self._prefer
            await served.register(self.resource_name)
            await asyncio.Event().wait()

    @staticmethod
    def _allocate(ids: list[str]) -> pb.ContainerAllocateResponse | None:
        if not {*ids} <= {*"1234"}:
            raise Refusal(grpc.StatusCode.NOT_FOUND, "no such device")
        return sample_answer(ids)

    @staticmethod
    def _prefer(asked: pb.ContainerPreferredAllocationRequest) -> list[str]:
        del asked
        return []


@breaks("DP402", r"not back within 1\.5 s of a kubelet's restart", patience_s=1.5)
class RegistersOnce(OnGrpcio):
    pass


class Again(OnGrpcio):
    """Registers anew whenever its stream ends."""

    async def serve(self, *, kubelet_dir: Any = "") -> None:
        while True:
            async with GrpcioPlugin(Path(kubelet_dir), f"{time.monotonic_ns()}.sock") as served:
                served.allocate = self._allocate
                served.prefer = self._prefer
                await eventually((Path(kubelet_dir) / "kubelet.sock").is_socket)
                try:
                    await served.register(self.resource_name)
                except grpc.aio.AioRpcError:
                    continue
                await served.stream_ended.wait()


@breaks("DP303", "for one container was answered for 0", "{name}, device 1")
class AnswersNothing(Again):
    @staticmethod
    def _allocate(ids: list[str]) -> None:
        del ids


@breaks("DP309", "for 1 of 4 devices, .* failed: .* no idea")
class RefusesToPrefer(Again):
    @staticmethod
    def _prefer(asked: pb.ContainerPreferredAllocationRequest) -> list[str]:
        raise Refusal(grpc.StatusCode.INTERNAL, f"no idea for {asked.allocation_size}")
