"""Plugins and fake kubelets that are broken on purpose, one promise each, and the case that catches each of them.

A mutant exists in the test's process only: it replaces something inside devplugin for one run of one case.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from grpclib import GRPCError, Status

from devplugin import Allocation, ConfigurationError, Device, Health, _kubelet, _server, _service, _session, _snapshot, _wire
from devplugin.testing import _allocation, _devices, _grpc, _poddevices, _registration, _run, _versions

__all__ = ["MUTANTS", "Mutant"]

Apply = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is broken, which case must notice, where, and in which words."""

    name: str
    case: str
    kubelet: str
    notices: str
    apply: Apply
    subject: str | None = None


MUTANTS: list[Mutant] = []


def mutant(case: str, kubelet: str, notices: str, *, subject: str | None = None) -> Callable[[Apply], Apply]:
    def register(apply: Apply) -> Apply:
        MUTANTS.append(Mutant(apply.__name__, case, kubelet, notices, apply, subject))
        return apply

    return register


class _Instead:
    """A module with something else in the place of one of its names."""

    def __init__(self, module: ModuleType, **others: object) -> None:
        self._module = module
        self.__dict__.update(others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _lingering(seconds: float) -> Callable[..., Any]:
    """`serving()` that ends its connections only so much later."""
    real, left = _session.serving, set[asyncio.Task[None]]()

    async def close_late(stack: AsyncExitStack) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            await stack.aclose()

    @asynccontextmanager
    async def serving(directory: Path, name: str, mapping: Any) -> AsyncIterator[_server.Server]:
        stack = AsyncExitStack()
        server = await stack.enter_async_context(real(directory, name, mapping))
        try:
            yield server
        finally:
            left.add(asyncio.create_task(close_late(stack)))

    return serving


def _does_nothing(*_: object) -> None:
    return


async def _returns_at_once(*_: object) -> None:
    return


# Plugins


@mutant("a_pod_gets_its_devices", "fake-1.36", "4 of example.com/widget|Counts", subject="ours")
def registers_before_it_serves(patch: pytest.MonkeyPatch) -> None:
    """The kubelet dials back inside Register, and nobody listens."""

    class Nobody:
        name = "nobody.sock"
        path = Path(name)
        owns_its_file = staticmethod(lambda: True)
        streaming_peers_gone = staticmethod(_returns_at_once)

    @asynccontextmanager
    async def serving(*_: object) -> AsyncIterator[Nobody]:
        yield Nobody()

    patch.setattr(_session, "serving", serving)


@mutant("every_registration_has_a_socket_of_its_own", "fake-1.36", "assert 3 == 1")
def uses_one_name_for_its_socket(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_server, "os", _Instead(_server.os, urandom=bytes))


@mutant("its_own_socket_is_removed", "real-1.36", "2 == |== 2|3 of example.com/widget|Counts")
def registers_anew_before_the_old_stream_has_ended(patch: pytest.MonkeyPatch) -> None:
    """The trap of 1.25 to 1.36: the late end takes the new registration with it."""
    patch.setattr(_service.Service, "end_streams", _does_nothing)
    patch.setattr(_session, "serving", _lingering(0.5))


@mutant("a_plugin_that_ends_is_away", "real-1.36", r"no Counts\(capacity=4, allocatable=0\)", subject="ours")
def leaves_its_connections_open(patch: pytest.MonkeyPatch) -> None:
    """As grpclib's own server does: the kubelet notices nothing."""
    patch.setattr(_service.Service, "end_streams", _does_nothing)
    patch.setattr(_session, "serving", _lingering(3600))


@mutant("the_kubelet_stops_and_starts", "fake-1.36", "the devices after s of ksc", subject="ours")
def registers_only_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_session.Registration, "_another_kubelet", lambda *_: asyncio.Event().wait())


@mutant("the_kubelet_stops_and_starts", "real-1.37", "the devices after s of ksc", subject="ours")
def looks_at_nothing_once_it_is_registered(patch: pytest.MonkeyPatch) -> None:
    """Neither at kubelet.sock, nor at its own socket, nor at the stream."""
    patch.setattr(_session.Registration, "_over", _does_nothing)


@mutant("a_second_instance_takes_over", "real-1.36", "no 3 registrations", subject="ours")
def does_not_notice_the_end_of_its_stream(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_service.Service, "stream_ended", property(lambda _: False, _does_nothing), raising=False)


@mutant("its_own_socket_is_removed", "fake-1.36", "2 registrations|No such file")
def does_not_notice_that_its_socket_is_gone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_server.Server, "owns_its_file", lambda _: True)


@mutant("every_registration_has_a_socket_of_its_own", "real-1.36", r"== set\(\)")
def leaves_its_socket_behind(patch: pytest.MonkeyPatch) -> None:
    real = _session.serving

    @asynccontextmanager
    async def serving(directory: Path, name: str, mapping: Any) -> AsyncIterator[_server.Server]:
        path = directory
        try:
            async with real(directory, name, mapping) as server:
                path = server.path
                yield server
        finally:
            _server._listen(path).close()

    patch.setattr(_session, "serving", serving)


@mutant("a_plugin_waits_for_its_kubelet", "fake-1.36", "no kubelet", subject="ours")
def gives_up_without_a_kubelet(patch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def dial(directory: _kubelet.KubeletDirectory) -> AsyncIterator[_kubelet.KubeletClient]:
        try:
            async with real(directory) as client:
                yield client
        except _kubelet.KubeletUnavailable as error:
            raise ConfigurationError("no kubelet") from error

    real = _kubelet.KubeletDirectory.dial
    patch.setattr(_kubelet.KubeletDirectory, "dial", dial)


@mutant("one_device_falls_ill_and_recovers", "real-1.36", r"no Counts\(capacity=1, allocatable=0\)")
def leaves_unhealthy_devices_out(patch: pytest.MonkeyPatch) -> None:
    real = _snapshot.encode_device
    patch.setattr(_snapshot, "encode_device", lambda each: real(each) if each.health is Health.HEALTHY else b"")


def _with_topology(device: Device, topology: bytes) -> bytes:
    """The device's piece of a list, with a field for its topology."""
    plain = _wire.encode_device(replace(device, numa_nodes=()))
    inner = plain[1 + len(_wire._varint(len(plain))) :] if plain[1] < 0x80 else plain[3:]
    return _wire._field(1, inner + _wire._field(3, topology))


@mutant("no_device_is_hidden", "real-1.36", r"== \{'w1', 'w2'\}")
def sends_an_empty_topology(patch: pytest.MonkeyPatch) -> None:
    real = _snapshot.encode_device
    patch.setattr(_snapshot, "encode_device", lambda each: real(each) if each.numa_nodes else _with_topology(each, b""))


@mutant("nodes_are_sent_as_they_are", "real-1.36", r"\{'w1': None")
def takes_node_0_for_none(patch: pytest.MonkeyPatch) -> None:
    real = _snapshot.encode_device
    patch.setattr(_snapshot, "encode_device", lambda each: real(replace(each, numa_nodes=[*filter(None, each.numa_nodes)])))


@mutant("unknown_and_unhealthy_devices_are_refused", "real-1.36", "admitted=True")
def does_not_check_ids(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_service.Service, "_resolve", lambda *_, **__: [])


@mutant("allocate_hangs", "real-1.36", "allocate was not answered")
def lets_hooks_hang(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_service, "asyncio", _Instead(asyncio, timeout=lambda _: asyncio.timeout(None)))


@mutant("a_pod_gets_its_devices", "real-1.36", "no containers return in allocation response", subject="ours")
def answers_for_no_container(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_service, "encode_allocate", lambda _: b"")


@mutant("a_pod_gets_its_devices", "real-1.36", "mounts=|Grant", subject="ours")
def forgets_the_mounts(patch: pytest.MonkeyPatch) -> None:
    real = _service.encode_allocate

    def encode(allocations: Iterable[Allocation]) -> bytes:
        return real([replace(each, mounts=()) for each in allocations])

    patch.setattr(_service, "encode_allocate", encode)


@mutant("a_preference_fails_or_hangs", "fake-1.36", "GetPreferredAllocation rpc failed")
def fails_the_pod_when_it_has_no_preference(patch: pytest.MonkeyPatch) -> None:
    async def prefer(*_: object) -> list[str]:
        raise GRPCError(Status.INTERNAL, "no idea")

    patch.setattr(_service.Service, "_prefer", prefer)


@mutant("allocate_breaks", "real-1.36", "Server Error")
def says_internal_server_error(patch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def refusing(*_: object) -> AsyncIterator[None]:
        yield

    patch.setattr(_service.Service, "_refusing", refusing)


@mutant("the_same_list_is_sent_once", "fake-1.36", "== 2")
def sends_the_same_list_again(patch: pytest.MonkeyPatch) -> None:
    async def send(service: _service.Service[Device], stream: Any) -> None:
        version = 0
        while True:
            version, snapshot = await service._snapshots.newer(version)
            await stream.send_message(snapshot.message)

    async def take(devices: Iterable[Device], _: object) -> _snapshot.Snapshot[Device]:
        return await _snapshot.Snapshot._anew(list(devices))

    patch.setattr(_service.Service, "_send_snapshots", send)
    patch.setattr(_snapshot.Snapshot, "take", take)


@mutant("a_list_that_is_too_long_is_not_sent", "real-1.36", "no healthy devices present|unregistered|has been stopped|unavailable|registrations|Counts")
def sends_lists_that_are_too_long(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_snapshot, "LIST_BYTES_MAX", math.inf)


# Fake kubelets


@mutant("an_invalid_name_is_refused", "fake-1.36", "the registration was accepted")
def takes_any_name(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_registration, "is_extended_resource_name", lambda _: True)


@mutant("a_wrong_version_is_refused", "fake-1.36", "the registration was accepted")
def takes_any_version(patch: pytest.MonkeyPatch) -> None:
    class Any_:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    patch.setattr(_registration, "API_VERSION", Any_())


@mutant("a_plugin_that_ends_is_away", "fake-1.36", r"Counts\(capacity=4, allocatable=0\)", subject="ours")
def has_no_grace(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_devices, "GRACE_S", 0.0)


@mutant("a_stream_that_ends_later", "fake-1.36", r"Counts\(capacity=0, allocatable=0\)")
def has_grace_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_devices, "GRACE_S", 1e9)


def _behaves(patch: pytest.MonkeyPatch, version: str, **otherwise: Any) -> None:
    patch.setitem(_versions.VERSIONS, version, replace(_versions.VERSIONS[version], **otherwise))


@mutant("the_late_end_of_an_old_stream", "fake-1.36", r"Counts\(capacity=2, allocatable=0\)")
def forgives_a_late_end(patch: pytest.MonkeyPatch) -> None:
    _behaves(patch, "1.36", keyed_by_socket=True)


@mutant("a_second_instance_that_is_withdrawn", "fake-1.37", "has been stopped")
def forgives_no_late_end(patch: pytest.MonkeyPatch) -> None:
    _behaves(patch, "1.37", keyed_by_socket=False)


@mutant("no_pod_is_admitted_while_the_plugin_is_away", "fake-1.36", "can not allo", subject="ours")
def words_a_refusal_differently(patch: pytest.MonkeyPatch) -> None:
    _behaves(patch, "1.36", unregistered="can not allocate unregistered device {resource}")


@mutant("a_list_over_four_mebibytes", "fake-1.36", r"Counts\(capacity=2, allocatable=0\)")
def takes_lists_of_any_length(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_grpc, "MAX_MESSAGE_BYTES", math.inf)


@mutant("a_list_replaces_the_list", "fake-1.36", r"Counts\(capacity=2, allocatable=2\)")
def keeps_what_is_not_listed_any_more(patch: pytest.MonkeyPatch) -> None:
    real = _devices.DeviceManager.received

    def received(manager: _devices.DeviceManager, client: Any, devices: list[Any]) -> None:
        known: Mapping[str, Any] = manager.devices.get(client.resource, {})
        real(manager, client, [*{**known, **{each.id: each for each in devices}}.values()])

    patch.setattr(_devices.DeviceManager, "received", received)


@mutant("init_containers_lend_their_devices", "fake-1.36", "requested number of devices unavailable", subject="ours")
def takes_new_devices_after_the_init_containers(patch: pytest.MonkeyPatch) -> None:
    real = _allocation.Allocator._allocate_container
    patch.setattr(_allocation.Allocator, "_allocate_container", lambda self, claimant, _: real(self, claimant, {}))


@mutant("the_kubelet_stops_and_starts", "fake-1.36", "A start of .*OutOfexample.com/widget", subject="ours")
def forgets_its_allocations(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_devices, "read_checkpoint", lambda _: (_poddevices.PodDevices(), ["example.com/widget"]))


@mutant("an_allocation_that_hangs_blocks_the_node", "fake-1.36", r"== \[\]")
def admits_pods_side_by_side(patch: pytest.MonkeyPatch) -> None:
    real = _run.KubeletRun._admit

    async def admit(run: _run.KubeletRun, pod: Any) -> None:
        assert run._tasks is not None
        run._tasks.start_soon(real, run, pod)

    patch.setattr(_run.KubeletRun, "_admit", admit)
