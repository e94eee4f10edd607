"""The DevicePlugin service of one session: the calls of the kubelet, answered from the newest snapshot and by the
hooks.

Rules: no answer leaves here that a pod's owner cannot understand, no hook runs without a deadline (the kubelet brings none,
and admits no other pod of the node while it waits), and what is wrong with one call harms no other.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from devplugin._calls import Methods, Send, Unary
from devplugin._cell import Latest
from devplugin._claims import Claims
from devplugin._grpc import CallError, Status
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

T = TypeVar("T")

log = logging.getLogger("devplugin.service")

_PATH = "/v1beta1.DevicePlugin"
# What reaches an event of a pod; the kubelet adds its own words and the API server cuts at 1,024.
_MESSAGE_MAX = 800
# How often a list is looked at again whose devices are being allocated, though it leaves them out.
_CLAIMED_S = 0.2


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
    """The service, and what a session must know of it: the kubelet's stream.

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
        self._on_stream = on_stream
        self.stream_seen = False
        self.stream_ended = False

    def __repr__(self) -> str:
        return f"Service({self._hooks.resource_name!r}, {len(self._streams)} streams)"

    def methods(self) -> Methods:
        """What the kubelet can call."""
        unary = {
            "GetDevicePluginOptions": self._get_device_plugin_options,
            "GetPreferredAllocation": self._get_preferred_allocation,
            "Allocate": self._allocate,
            "PreStartContainer": self._pre_start_container,
        }
        return Methods(
            {f"{_PATH}/{name}": _readable(answer) for name, answer in unary.items()},
            {f"{_PATH}/ListAndWatch": self._list_and_watch},
        )

    def end_streams(self) -> None:
        """Let each stream end with status OK."""
        self._ending = True
        for stream in self._streams:
            stream.cancel()

    async def _get_device_plugin_options(self, _: bytes) -> bytes:
        self._log(logging.DEBUG, "get_device_plugin_options")
        return self._options

    async def _list_and_watch(self, _: bytes, send: Send) -> None:
        self._log(logging.DEBUG, "list_and_watch")
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        is_the_kubelets, self.stream_seen = not self.stream_seen, True
        self._on_stream()
        try:
            await self._send_snapshots(send)
        except asyncio.CancelledError:
            if not self._ending:  # it is the peer that went away
                raise
            task.uncancel()
        finally:
            self._streams.discard(task)
            self.stream_ended |= is_the_kubelets
            self._on_stream()

    async def _send_snapshots(self, send: Send) -> None:
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
                await send(sent)
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLAIMED_S if claimed else None):
                    version, snapshot = await self._snapshots.newer(version)

    async def _allocate(self, request: bytes) -> bytes:
        return encode_allocate([await self._allocate_for(ids) for ids in decode_allocate(request)])

    async def _allocate_for(self, ids: list[str]) -> Allocation:
        self._log(logging.INFO, "allocate", ids=ids)
        return await self._bounded("allocate", ids, self._hooks.allocate_timeout_s, self._ask_to_allocate)

    async def _ask_to_allocate(self, ids: list[str]) -> Allocation:
        devices = self._resolve(ids, healthy=True)
        with self._claims.on(ids):
            allocation = await self._hooks.allocate(devices)
        if not isinstance(allocation, Allocation):
            raise TypeError(f"allocate() returned {allocation!r}, which is no Allocation")
        return allocation

    async def _pre_start_container(self, request: bytes) -> bytes:
        ids = decode_pre_start_container(request)
        self._log(logging.INFO, "pre_start_container", ids=ids)
        within_s = self._hooks.pre_start_container_timeout_s
        await self._bounded("pre_start_container", ids, within_s, self._ask_to_pre_start)
        return b""

    async def _ask_to_pre_start(self, ids: list[str]) -> None:
        await self._hooks.pre_start_container(self._resolve(ids, healthy=False))

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

    async def _bounded(self, hook: str, ids: list[str], within_s: float, ask: Callable[[list[str]], Awaitable[T]]) -> T:
        """What the hook says within its time; whatever goes wrong in it becomes a sentence for the pod's owner."""
        name = self._hooks.resource_name
        bound = asyncio.timeout(within_s)
        try:
            async with bound:
                return await ask(ids)
        except AllocationError as error:
            log.warning("%s: %s refused %s: %s", name, hook, ids, error)
            text = _short(str(error)) or f"the device plugin of {name} refused ({hook})"
            raise CallError(_status_of(error), text) from error
        except Exception as error:
            log.exception("%s: %s failed for %s", name, hook, ids)
            if bound.expired():
                raise CallError(
                    Status.DEADLINE_EXCEEDED, f"the device plugin of {name} did not answer in {within_s:g} s ({hook})"
                ) from error
            raise CallError(
                Status.INTERNAL,
                f"the device plugin of {name} failed ({hook}, {type(error).__name__}); its log says why",
            ) from error

    def _log(self, level: int, event: str, **details: object) -> None:
        log.log(level, "DevicePlugin.%s", event, extra={"details": {"resource": self._hooks.resource_name, **details}})


def _readable(answer: Unary) -> Unary:
    async def readable(request: bytes) -> bytes:
        try:
            return await answer(request)
        except MalformedMessage as error:
            raise CallError(Status.INVALID_ARGUMENT, str(error)) from error

    return readable


def _status_of(error: AllocationError) -> Status:
    if isinstance(error, UnknownDevice):
        return Status.NOT_FOUND
    return Status.UNAVAILABLE if isinstance(error, UnhealthyDevice) else Status.FAILED_PRECONDITION


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= _MESSAGE_MAX else f"{one_line[: _MESSAGE_MAX - 1]}…"
