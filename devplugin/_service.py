"""The DevicePlugin service of one session: the calls of the kubelet, answered from the newest snapshot and by the
hooks.

Rules: no answer leaves here that a pod's owner cannot understand, no hook runs without a deadline (the kubelet brings none,
and admits no other pod of the node while it waits), and what is wrong with one call harms no other.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Generic, Protocol

from grpclib import GRPCError, Status
from grpclib.const import Cardinality
from grpclib.const import Handler as MappedHandler
from grpclib.server import Stream

from devplugin._cell import Latest
from devplugin._claims import Claims
from devplugin._snapshot import Snapshot
from devplugin._wire import (
    LIST_BYTES_MAX,
    MalformedMessage,
    PreferredAllocationIds,
    decode_allocate,
    decode_pre_start_container,
    decode_preferred_allocation,
    encode_allocate,
    encode_device,
    encode_preferred_allocation,
)
from devplugin.errors import AllocationError, UnhealthyDevice, UnknownDevice
from devplugin.model import Allocation, D, Device, Health, PreferredAllocationRequest

log = logging.getLogger("devplugin.service")

# What reaches an event of a pod; the kubelet adds its own words and the API server cuts at 1,024.
_MESSAGE_MAX = 800
# How often a list is looked at again whose devices are being allocated, though it leaves them out.
_CLAIMED_S = 0.2

RawStream = Stream[bytes, bytes]


class Hooks(Protocol[D]):
    """What the service needs of a plugin."""

    resource_name: str
    allocate_timeout_s: float
    preferred_allocation_timeout_s: float
    pre_start_container_timeout_s: float

    async def allocate(self, devices: Sequence[D], /) -> Allocation: ...
    async def preferred_allocation(self, request: PreferredAllocationRequest[D], /) -> Sequence[D]: ...
    async def pre_start_container(self, devices: Sequence[D], /) -> None: ...


class Service(Generic[D]):
    """The service, and what a session must know of it: the kubelet's stream, and the calls that are under way.

    The first stream is taken for the kubelet's: nobody else knows the socket's name before the kubelet has been told.
    """

    def __init__(
        self, hooks: Hooks[D], snapshots: Latest[Snapshot[D]], options: bytes, *, on_stream: Callable[[], None]
    ) -> None:
        self._hooks = hooks
        self._snapshots = snapshots
        self._options = options
        self._claims = Claims()
        self._streams: set[asyncio.Task[object]] = set()
        self._ending = False
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._on_stream = on_stream
        self.stream_seen = False
        self.stream_ended = False

    def __repr__(self) -> str:
        return f"Service({self._hooks.resource_name!r}, {len(self._streams)} streams, {self._calls} calls)"

    def __mapping__(self) -> dict[str, MappedHandler]:
        def unary(answer: Callable[[bytes], Awaitable[bytes]]) -> MappedHandler:
            async def handle(stream: RawStream) -> None:
                await self._answer(stream, answer)

            return MappedHandler(handle, Cardinality.UNARY_UNARY, bytes, bytes)

        return {
            "/v1beta1.DevicePlugin/GetDevicePluginOptions": unary(self._get_device_plugin_options),
            "/v1beta1.DevicePlugin/ListAndWatch": MappedHandler(
                self._list_and_watch, Cardinality.UNARY_STREAM, bytes, bytes
            ),
            "/v1beta1.DevicePlugin/GetPreferredAllocation": unary(self._get_preferred_allocation),
            "/v1beta1.DevicePlugin/Allocate": unary(self._allocate),
            "/v1beta1.DevicePlugin/PreStartContainer": unary(self._pre_start_container),
        }

    def end_streams(self) -> None:
        """Let each stream end with status OK."""
        self._ending = True
        for stream in self._streams:
            stream.cancel()

    async def calls_done(self, within_s: float) -> None:
        """Return when no call is under way, or after ``within_s`` seconds."""
        with suppress(TimeoutError):  # asyncio.wait_for would lose a cancellation on Python 3.11
            async with asyncio.timeout(within_s):
                await self._idle.wait()

    async def _answer(self, stream: RawStream, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._calls += 1
        self._idle.clear()
        try:
            await stream.send_message(await answer(await _receive(stream)))
        except MalformedMessage as error:
            raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from error
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def _get_device_plugin_options(self, _: bytes) -> bytes:
        self._log(logging.DEBUG, "get_device_plugin_options")
        return self._options

    async def _list_and_watch(self, stream: RawStream) -> None:
        self._log(logging.DEBUG, "list_and_watch")
        await _receive(stream)
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        is_the_kubelets, self.stream_seen = not self.stream_seen, True
        self._on_stream()
        try:
            await self._send_snapshots(stream)
        except asyncio.CancelledError:
            if not self._ending:  # it is the peer that went away
                raise
            task.uncancel()
        finally:
            self._streams.discard(task)
            self.stream_ended |= is_the_kubelets
            self._on_stream()

    async def _send_snapshots(self, stream: RawStream) -> None:
        self._log(logging.INFO, "list_and_watch.start")
        version, snapshot = await self._snapshots.newer()
        sent = None
        while True:
            claimed = self._claims.left_out(snapshot.by_id)
            message = b"".join(
                [snapshot.message, *(encode_device(Device(i, health=Health.UNHEALTHY)) for i in claimed)]
            )
            if message != sent and len(message) <= LIST_BYTES_MAX:
                sent = message
                self._log(logging.DEBUG, "list_and_watch.send", devices=len(snapshot.devices) + len(claimed))
                await stream.send_message(sent)
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLAIMED_S if claimed else None):
                    version, snapshot = await self._snapshots.newer(version)

    async def _allocate(self, request: bytes) -> bytes:
        return encode_allocate([await self._allocate_for(ids) for ids in decode_allocate(request)])

    async def _allocate_for(self, ids: list[str]) -> Allocation:
        self._log(logging.INFO, "allocate", ids=ids)
        hooks = self._hooks
        async with self._refusing("allocate", ids, hooks.allocate_timeout_s):
            devices = self._resolve(ids, healthy=True)
            with self._claims.on(ids):
                allocation = await hooks.allocate(devices)
            if not isinstance(allocation, Allocation):
                raise TypeError(f"allocate() returned {allocation!r}, which is no Allocation")
            return allocation

    async def _pre_start_container(self, request: bytes) -> bytes:
        ids = decode_pre_start_container(request)
        self._log(logging.INFO, "pre_start_container", ids=ids)
        hooks = self._hooks
        async with self._refusing("pre_start_container", ids, hooks.pre_start_container_timeout_s):
            await hooks.pre_start_container(self._resolve(ids, healthy=False))
        return b""

    async def _get_preferred_allocation(self, request: bytes) -> bytes:
        return encode_preferred_allocation([await self._prefer(ids) for ids in decode_preferred_allocation(request)])

    async def _prefer(self, ids: PreferredAllocationIds) -> list[str]:
        """The preferred ids; none when the hook fails, since an error would fail the pod and no preference does not."""
        self._log(logging.DEBUG, "get_preferred_allocation", available=len(ids.available), size=ids.size)
        hooks, by_id = self._hooks, self._by_id()
        question = PreferredAllocationRequest(
            tuple(by_id[i] for i in ids.available if i in by_id),
            tuple(by_id[i] for i in ids.must_include if i in by_id),
            ids.size,
        )
        try:
            async with asyncio.timeout(hooks.preferred_allocation_timeout_s):
                return [device.id for device in await hooks.preferred_allocation(question)]
        except Exception:  # what the author's code raises is not known
            log.warning(
                "%s: preferred_allocation failed: the kubelet will choose", self._hooks.resource_name, exc_info=True
            )
            return []

    def _by_id(self) -> Mapping[str, D]:
        snapshot = self._snapshots.get()
        return snapshot.by_id if snapshot else {}

    def _resolve(self, ids: list[str], *, healthy: bool) -> list[D]:
        """The devices with these ids, as the author yielded them.

        Raises:
            UnknownDevice: The newest snapshot has no such device.
            UnhealthyDevice: A device must be healthy and is not.
        """
        name, by_id = self._hooks.resource_name, self._by_id()
        unknown = [i for i in ids if i not in by_id]
        if unknown:
            raise UnknownDevice(f"{name} has no device {', '.join(unknown)} on this node any more")
        devices = [by_id[i] for i in ids]
        unhealthy = [device.id for device in devices if device.health is not Health.HEALTHY] if healthy else []
        if unhealthy:
            raise UnhealthyDevice(
                f"{name} device {', '.join(unhealthy)} is unhealthy and cannot be given to a container"
            )
        return devices

    @asynccontextmanager
    async def _refusing(self, hook: str, ids: list[str], within_s: float) -> AsyncIterator[None]:
        """A bound on the hook's time, and a sentence for the pod's owner about whatever goes wrong in it."""
        name = self._hooks.resource_name
        bound = asyncio.timeout(within_s)
        try:
            async with bound:
                yield
        except AllocationError as error:
            log.warning("%s: %s refused %s: %s", name, hook, ids, error)
            text = _short(str(error)) or f"the device plugin of {name} refused ({hook})"
            raise GRPCError(_status_of(error), text) from error
        except Exception as error:
            log.exception("%s: %s failed for %s", name, hook, ids)
            if bound.expired():
                raise GRPCError(
                    Status.DEADLINE_EXCEEDED, f"the device plugin of {name} did not answer in {within_s:g} s ({hook})"
                ) from error
            raise GRPCError(
                Status.INTERNAL,
                f"the device plugin of {name} failed ({hook}, {type(error).__name__}); its log says why",
            ) from error

    def _log(self, level: int, event: str, **details: object) -> None:
        log.log(level, "DevicePlugin.%s", event, extra={"details": {"resource": self._hooks.resource_name, **details}})


async def _receive(stream: RawStream) -> bytes:
    """The request of a unary call.

    Raises:
        GRPCError: It is missing, or compressed.
    """
    try:
        request = await stream.recv_message()
    except NotImplementedError as error:  # how grpclib says it
        raise GRPCError(Status.UNIMPLEMENTED, "compressed messages are not supported") from error
    if request is None:
        raise GRPCError(Status.INVALID_ARGUMENT, "the request has no message")
    return request


def _status_of(error: AllocationError) -> Status:
    if isinstance(error, UnknownDevice):
        return Status.NOT_FOUND
    return Status.UNAVAILABLE if isinstance(error, UnhealthyDevice) else Status.FAILED_PRECONDITION


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= _MESSAGE_MAX else f"{one_line[: _MESSAGE_MAX - 1]}…"
