"""Plugins that break a promise."""

import asyncio
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from devplugin import (
    Allocation,
    ConfigurationError,
    Device,
    Health,
    KubeletUnavailable,
    _claims,
    _kubelet,
    _server,
    _service,
    _session,
    _siblings,
    _snapshot,
    _wire,
)
from devplugin._calls import Methods, Send
from devplugin._grpc import CallError, Status
from tests.conformance.mutants import mutant


class _Instead:
    """A module with something else in the place of one of its names."""

    def __init__(self, module: ModuleType, **others: object) -> None:
        self._module = module
        self.__dict__.update(others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _lingering(seconds: float) -> Callable[..., Any]:
    """`serving()` that ends its connections only so much later."""
    real, left = _server.serving, set[asyncio.Task[None]]()

    async def close_late(stack: AsyncExitStack) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            await stack.aclose()

    @asynccontextmanager
    async def serving(directory: str, name: str, methods: Methods) -> AsyncIterator[_server.Server]:
        stack = AsyncExitStack()
        server = await stack.enter_async_context(real(directory, name, methods))
        try:
            yield server
        finally:
            left.add(asyncio.create_task(close_late(stack)))

    return serving


def _does_nothing(*_: object) -> None:
    return


async def _returns_at_once(*_: object) -> None:
    return


@mutant("a_pod_gets_its_devices", "fake-1.36", "4 of example.com/widget|Counts", subject="ours")
def registers_before_it_serves(patch: pytest.MonkeyPatch) -> None:
    """The kubelet dials back inside Register, and nobody listens."""

    class Nobody:
        name = prefix = path = "nobody.sock"
        siblings = set
        owns_its_file = staticmethod(lambda: True)
        replies_sent = streaming_peers_gone = staticmethod(_returns_at_once)

    @asynccontextmanager
    async def serving(*_: object) -> AsyncIterator[Nobody]:
        yield Nobody()

    patch.setattr(_session, "serving", serving)


@mutant("every_registration_has_a_socket_of_its_own", "fake-1.36", "assert 3 == 1")
def uses_one_name_for_its_socket(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_server, "os", _Instead(os, urandom=bytes))


@mutant("its_own_socket_is_removed", "real-1.36", "2 == |== 2|3 of example.com/widget|Counts")
def registers_anew_before_the_old_stream_has_ended(patch: pytest.MonkeyPatch) -> None:
    """The trap of 1.25 to 1.36: the late end takes the new registration with it."""
    patch.setattr(_service.Service, "end_streams", _does_nothing)
    patch.setattr(_session, "serving", _lingering(0.5))


@mutant("a_plugin_that_ends_is_away", "real-1.36", r"no Counts\(capacity=4, allocatable=0\)", subject="ours")
def leaves_its_connections_open(patch: pytest.MonkeyPatch) -> None:
    """As gRPC servers do that are only told to listen no more: the kubelet notices nothing."""
    patch.setattr(_service.Service, "end_streams", _does_nothing)
    patch.setattr(_session, "serving", _lingering(3600))


@mutant("the_kubelet_stops_and_starts", "fake-1.36", "allocatable after s of ksc", subject="ours")
def registers_only_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_session.Registration, "_another_kubelet", lambda *_: asyncio.Event().wait())


@mutant("the_kubelet_stops_and_starts", "real-1.37", "allocatable after s of ksc", subject="ours")
def looks_at_nothing_once_it_is_registered(patch: pytest.MonkeyPatch) -> None:
    """Neither at kubelet.sock, nor at its own socket, nor at the stream."""
    patch.setattr(_session.Registration, "_over", _does_nothing)


@mutant("a_second_instance_takes_over", "real-1.36", "no 3 registrations", subject="ours")
def does_not_notice_the_end_of_its_stream(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_service.Service, "stream_ended", property(lambda _: False, _does_nothing), raising=False)


@mutant("a_second_instance_leaves_again", "real-1.36", "no 3 registrations", subject="ours")
def does_not_care_for_its_siblings(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_siblings.Siblings, "all_gone_s", lambda _: math.inf)


@mutant("its_own_socket_is_removed", "fake-1.36", "2 registrations|No such file")
def does_not_notice_that_its_socket_is_gone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_server.Server, "owns_its_file", lambda _: True)


@mutant("every_registration_has_a_socket_of_its_own", "real-1.36", r"== set\(\)")
def leaves_its_socket_behind(patch: pytest.MonkeyPatch) -> None:
    real = _server.serving

    @asynccontextmanager
    async def serving(directory: str, name: str, methods: Methods) -> AsyncIterator[_server.Server]:
        path = directory
        try:
            async with real(directory, name, methods) as server:
                path = server.path
                yield server
        finally:
            _server._listen(path).close()

    patch.setattr(_session, "serving", serving)


@mutant("a_plugin_waits_for_its_kubelet", "fake-1.36", "no kubelet", subject="ours")
def gives_up_without_a_kubelet(patch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def dial(
        directory: _kubelet.KubeletDirectory, kubelet: _kubelet.SocketId | None
    ) -> AsyncIterator[_kubelet.KubeletClient]:
        try:
            async with real(directory, kubelet) as client:
                yield client
        except KubeletUnavailable as error:
            raise ConfigurationError("no kubelet") from error

    real = _kubelet.KubeletDirectory.dial
    patch.setattr(_kubelet.KubeletDirectory, "dial", dial)


@mutant("one_device_falls_ill_and_recovers", "real-1.36", r"no Counts\(capacity=1, allocatable=0\)")
def leaves_unhealthy_devices_out(patch: pytest.MonkeyPatch) -> None:
    real = _wire.encode_device
    patch.setattr(_snapshot, "encode_device", lambda each: real(each) if each.health is Health.HEALTHY else b"")


def _with_topology(device: Device, topology: bytes) -> bytes:
    """The device's piece of a list, with a field for its topology."""
    plain = _wire.encode_device(replace(device, numa_nodes=()))
    inner = plain[1 + len(_wire._varint(len(plain))) :] if plain[1] < 0x80 else plain[3:]
    return _wire._field(1, inner + _wire._field(3, topology))


@mutant("no_device_is_hidden", "real-1.36", r"== \{'w1', 'w2'\}")
def sends_an_empty_topology(patch: pytest.MonkeyPatch) -> None:
    real = _wire.encode_device
    patch.setattr(_snapshot, "encode_device", lambda each: real(each) if each.numa_nodes else _with_topology(each, b""))


@mutant("nodes_are_sent_as_they_are", "real-1.36", r"\{'w1': None")
def takes_node_0_for_none(patch: pytest.MonkeyPatch) -> None:
    real = _wire.encode_device
    patch.setattr(
        _snapshot, "encode_device", lambda each: real(replace(each, numa_nodes=[*filter(None, each.numa_nodes)]))
    )


@mutant("unknown_and_unhealthy_devices_are_refused", "real-1.36", "admitted=True")
def does_not_check_ids(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_service.Service, "_resolve", lambda *_, **__: [])


@mutant("a_device_left_out_while_it_is_allocated", "real-1.36", r"no Counts\(capacity=4, allocatable=1\)")
def leaves_out_what_is_being_allocated(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_claims.Claims, "left_out", lambda *_: [])


@mutant("allocate_hangs", "real-1.36", "allocate was not answered")
def lets_hooks_hang(patch: pytest.MonkeyPatch) -> None:
    real = _service.Service._bounded

    async def bounded(
        service: _service.Service[Device],
        hook: str,
        ids: list[str],
        _: float,
        ask: Callable[[list[str]], Awaitable[Any]],
    ) -> Any:
        return await real(service, hook, ids, 3600.0, ask)

    patch.setattr(_service.Service, "_bounded", bounded)


@mutant("a_pod_gets_its_devices", "real-1.36", "no containers return in allocation response", subject="ours")
def answers_for_no_container(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_service, "encode_allocate", lambda _: b"")


@mutant("a_pod_gets_its_devices", "real-1.36", "mounts=|Grant", subject="ours")
def forgets_the_mounts(patch: pytest.MonkeyPatch) -> None:
    real = _wire.encode_allocate

    def encode(allocations: Iterable[Allocation]) -> bytes:
        return real([replace(each, mounts=()) for each in allocations])

    patch.setattr(_service, "encode_allocate", encode)


@mutant("a_preference_fails_or_hangs", "fake-1.36", "GetPreferredAllocation rpc failed")
def fails_the_pod_when_it_has_no_preference(patch: pytest.MonkeyPatch) -> None:
    async def prefer(*_: object) -> list[str]:
        raise CallError(Status.INTERNAL, "no idea")

    patch.setattr(_service.Service, "_prefer", prefer)


@mutant("allocate_breaks", "real-1.36", "has a defect")
def says_only_that_it_has_a_defect(patch: pytest.MonkeyPatch) -> None:
    async def bounded(
        _: object, __: str, ids: list[str], ___: float, ask: Callable[[list[str]], Awaitable[Any]]
    ) -> Any:
        return await ask(ids)

    patch.setattr(_service.Service, "_bounded", bounded)


@mutant("the_same_list_is_sent_once", "fake-1.36", "== 2")
def sends_the_same_list_again(patch: pytest.MonkeyPatch) -> None:
    async def send_all(service: _service.Service[Device], send: Send) -> None:
        version = 0
        while True:
            version, snapshot = await service._snapshots.newer(version)
            await send(snapshot.message)

    async def take(devices: Iterable[Device], _: object) -> _snapshot.Snapshot[Device]:
        return await _snapshot.Snapshot._anew(list(devices))

    patch.setattr(_service.Service, "_send_snapshots", send_all)
    patch.setattr(_snapshot.Snapshot, "take", take)


@mutant(
    "a_list_that_is_too_long_is_not_sent",
    "real-1.36",
    "UnexpectedAdmissionError",
)
def sends_lists_that_are_too_long(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_snapshot, "LIST_BYTES_MAX", math.inf)
