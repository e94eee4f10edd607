"""Fake kubelets that do not behave as the real ones."""

import math
from dataclasses import replace
from typing import Any

import pytest

from devplugin.testing import _allocation, _devices, _grpc, _poddevices, _registration, _run, _versions
from tests.conformance.mutants import mutant


@mutant("an_invalid_name_is_refused", "fake-1.36", "the registration was accepted")
def takes_any_name(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_registration, "is_extended_resource_name", lambda _: True)


@mutant("a_wrong_version_is_refused", "fake-1.36", "the registration was accepted")
def takes_any_version(patch: pytest.MonkeyPatch) -> None:
    class Anything:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    patch.setattr(_registration, "API_VERSION", Anything())


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
        known: dict[str, Any] = manager.devices.get(client.resource, {})
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
