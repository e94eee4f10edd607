"""Tests for a plugin, with the fixtures that devplugin brings for pytest: a kubelet, and what serves a plugin on it.

    python -m pytest examples/08_tests.py

The plugin stands here too, so that the whole is in one file: printers that are switched off and on. pytest.ini beside it says
that tests may be coroutines.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devplugin import Device, DevicePluginBase, Health
from devplugin.sources import changes_in
from devplugin.testing import FakeKubelet, Serve

PRINTER = "example.com/printer"


class Printers(DevicePluginBase):
    """Two printers. The file ``off`` names those that are switched off."""

    resource_name = PRINTER

    def __init__(self, off: Path) -> None:
        self._off = off

    async def devices(self) -> AsyncIterator[list[Device]]:
        async for _ in changes_in(self._off, at_least_every_s=30.0):
            off = self._off.read_text().split()
            yield [
                Device.at(f"/dev/usb/{name}", health=Health.UNHEALTHY if name in off else Health.HEALTHY)
                for name in ("lp0", "lp1")
            ]


@pytest.fixture
def off(tmp_path: Path) -> Path:
    file = tmp_path / "off"
    file.write_text("")
    return file


def switch_off(off: Path, *names: str) -> None:
    off.write_text(" ".join(names))


async def test_a_hook_without_a_kubelet(off: Path) -> None:
    """Hooks are coroutines and generators of a plain object."""
    first = await anext(Printers(off).devices())
    assert [device.id for device in first] == ["usb-lp0", "usb-lp1"]


async def test_a_pod_gets_a_printer(kubelet: FakeKubelet, serve: Serve, off: Path) -> None:
    await serve(Printers(off))
    pod = await kubelet.create_pod("office", {PRINTER: 1}).running()
    [node] = pod.containers["main"].options.devices
    assert node.host_path in {"/dev/usb/lp0", "/dev/usb/lp1"}


async def test_a_printer_that_is_off_is_not_to_be_had(kubelet: FakeKubelet, serve: Serve, off: Path) -> None:
    await serve(Printers(off))
    switch_off(off, "lp0")
    await kubelet.allocatable(PRINTER, 1)
    pod = await kubelet.create_pod("office", {PRINTER: 1}).running()
    assert pod.device_ids(PRINTER) == {"usb-lp1"}

    switch_off(off)
    assert (await kubelet.allocatable(PRINTER, 2)).capacity == 2


async def test_more_than_there_are(kubelet: FakeKubelet, serve: Serve, off: Path) -> None:
    await serve(Printers(off))
    event = await kubelet.create_pod("school", {PRINTER: 3}).event("FailedScheduling")
    assert f"Insufficient {PRINTER}" in event.message


@pytest.mark.parametrize("kubernetes_version", ["1.36", "1.37"])
async def test_back_after_a_restart_of_the_kubelet(
    kubernetes_version: str, kubelet: FakeKubelet, serve: Serve, off: Path
) -> None:
    assert kubelet.version == kubernetes_version
    await serve(Printers(off))
    pod = await kubelet.create_pod("office", {PRINTER: 2}).running()
    await kubelet.restart()
    await kubelet.allocatable(PRINTER, 2)
    assert pod.status == "Running"
