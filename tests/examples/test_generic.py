"""The generic plugin: what its file may say, what comes of it, and what whoever wrote it wrongly is told."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from devplugin import ConfigurationError, Device
from devplugin.testing import FakeKubelet, Serve
from examples.generic import Generic, load
from tests.conftest import unmeasured
from tests.support_pages import ROOT


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a configuration in which DEV is a directory of the test."""

    def write(text: str) -> Path:
        file = tmp_path / "nodes.yaml"
        file.write_text(text.replace("DEV", str(tmp_path)))
        return file

    return write


Write = Callable[[str], Path]


def only(file: Path, tmp_path: Path) -> Generic:
    config = load(file)
    [resource] = config.devices
    return Generic(config.domain, resource, sysfs=tmp_path / "usb", interval_s=0.01)


async def first_list(plugin: Generic) -> list[Device]:
    return [*await anext(plugin.devices())]


def resource(groups: str) -> str:
    return f"domain: example.com\ndevices:\n- name: thing\n  groups:\n  {groups}\n"


@pytest.mark.asyncio
async def test_each_match_of_a_glob_is_a_device(
    kubelet: FakeKubelet, serve: Serve, write: Write, tmp_path: Path
) -> None:
    """Ports are found by a glob, one that is unplugged is unhealthy until it is back, and pods get them."""
    for name in ("ttyUSB0", "ttyUSB1", "other"):
        (tmp_path / name).touch()
    await serve(only(write(resource("- paths: [{path: DEV/ttyUSB*, mountPath: /dev/serial/}]")), tmp_path))
    await kubelet.allocatable("example.com/thing", 2)
    (tmp_path / "ttyUSB1").unlink()
    assert (await kubelet.allocatable("example.com/thing", 1)).capacity == 2
    (tmp_path / "ttyUSB1").touch()
    await kubelet.allocatable("example.com/thing", 2)

    pod = await kubelet.create_pod("pod", {"example.com/thing": 2}).running()
    nodes = pod.containers["main"].options.devices
    assert {node.container_path: node.host_path for node in nodes} == {
        "/dev/serial/ttyUSB0": f"{tmp_path}/ttyUSB0",
        "/dev/serial/ttyUSB1": f"{tmp_path}/ttyUSB1",
    }
    assert {node.permissions for node in nodes} == {"rwm"}


@pytest.mark.asyncio
async def test_paths_of_a_group_go_together(kubelet: FakeKubelet, serve: Serve, write: Write, tmp_path: Path) -> None:
    """A group grants a path of each, some of them as mounts, and what is optional may be missing."""
    for name in ("pcm0", "pcm1", "timer", "asound.conf"):
        (tmp_path / name).touch()
    group = """- paths:
    - {path: DEV/pcm*, permissions: r}
    - {path: DEV/timer, limit: 5}
    - {path: DEV/asound.conf, type: Mount, readOnly: true, mountPath: /etc/asound.conf, limit: 5}
    - {path: DEV/missing, optional: true}"""
    await serve(only(write(resource(group)), tmp_path))
    await kubelet.allocatable("example.com/thing", 2)
    pod = await kubelet.create_pod("pod", {"example.com/thing": 1}).running()
    options = pod.containers["main"].options
    pcm, timer = options.devices
    assert (Path(pcm.host_path).name[:3], pcm.permissions) == ("pcm", "r")
    assert timer.host_path == f"{tmp_path}/timer"
    [mount] = options.mounts
    assert (mount.host_path, mount.container_path, mount.read_only) == (
        f"{tmp_path}/asound.conf",
        "/etc/asound.conf",
        True,
    )


@pytest.mark.asyncio
async def test_the_shortest_path_of_a_group_counts(write: Write, tmp_path: Path) -> None:
    """Three microphones and one timer that may be used twice make two devices; none without what is not optional."""
    for name in ("pcm0", "pcm1", "pcm2", "timer"):
        (tmp_path / name).touch()
    both = "- paths: [{path: DEV/pcm*}, {path: DEV/timer, limit: 2}]"
    assert len(await first_list(only(write(resource(both)), tmp_path))) == 2
    assert await first_list(only(write(resource(both.replace("timer", "nothing"))), tmp_path)) == []
    # Limits make no more devices than the longest has paths.
    (tmp_path / "timer2").touch()
    again = "- paths: [{path: DEV/pcm*, limit: 2}, {path: DEV/timer*, limit: 3}]"
    assert len(await first_list(only(write(resource(again)), tmp_path))) == 3


@pytest.mark.asyncio
async def test_a_count(kubelet: FakeKubelet, serve: Serve, write: Write, tmp_path: Path) -> None:
    """One node for ten containers; a container that asks for two of it gets the node once."""
    (tmp_path / "fuse").touch()
    await serve(only(write(resource("- {count: 10, paths: [{path: DEV/fuse}]}")), tmp_path))
    await kubelet.allocatable("example.com/thing", 10)
    pod = await kubelet.create_pod("pod", {"example.com/thing": 2}).running()
    assert [node.host_path for node in pod.containers["main"].options.devices] == [f"{tmp_path}/fuse"]


def plug(tmp_path: Path, port: str, **values: str) -> None:
    (tmp_path / "usb" / port).mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (tmp_path / "usb" / port / name).write_text(value + "\n")


@pytest.mark.asyncio
async def test_usb_devices(write: Write, tmp_path: Path) -> None:
    """They are found by vendor, product and serial number, whatever else is plugged in."""
    plug(tmp_path, "1-1", idVendor="1a86", idProduct="7523", busnum="1", devnum="12")
    plug(tmp_path, "1-2", idVendor="1a86", idProduct="0001", busnum="1", devnum="13")
    plug(tmp_path, "2-1", idVendor="0403", idProduct="6001", serial="A", busnum="2", devnum="3")
    plug(tmp_path, "2-2", idVendor="0403", idProduct="6001", serial="B", busnum="2", devnum="4")
    plug(tmp_path, "1-0:1.0", bInterfaceNumber="00")
    usb = '- usb: [{vendor: 1A86, product: "7523"}, {vendor: "0403", product: "6001", serial: B}]'
    found = await first_list(only(write(resource(usb)), tmp_path))
    assert [device.grants.device_nodes[0].host_path for device in found] == [
        "/dev/bus/usb/001/012",
        "/dev/bus/usb/002/004",
    ]


@pytest.mark.asyncio
async def test_a_usb_device_that_is_plugged_in_again(write: Write, tmp_path: Path) -> None:
    """It has the same id and another node; one that vanishes while it is looked at is no device."""
    plugin = only(write(resource('- usb: [{vendor: "0403", product: "6001"}]')), tmp_path)
    plug(tmp_path, "2-1", idVendor="0403", idProduct="6001", serial="A", busnum="2", devnum="3")
    [before] = await first_list(plugin)
    plug(tmp_path, "2-1", devnum="9")
    plug(tmp_path, "2-2", idVendor="0403", idProduct="6001", busnum="2", devnum="4")
    [after, other] = await first_list(plugin)
    assert other.id != after.id
    assert before.id == after.id
    assert after.grants.device_nodes[0].host_path == "/dev/bus/usb/002/009"
    (tmp_path / "usb/2-1/devnum").unlink()
    assert await first_list(plugin) == [other]


WRONG = {
    "domain: a.example\ndevices: []": "nodes.yaml.devices: [] must be a list with at least one entry",
    "[]": "nodes.yaml: [] must be a mapping with domain, devices",
    "domain: a.example": "nodes.yaml: devices is missing",
    "domian: a.example": "nodes.yaml: 'domian' is not known: did you mean domain?",
    "colour: red": "nodes.yaml: 'colour' is not known: known are domain, devices",
    "devices: [": "line 1, column 11",
    resource("- {paths: [{path: dev/fuse}]}"): "devices[0].groups[0].paths[0]: host path 'dev/fuse' is not usable",
    resource("- {paths: [{path: /dev/fuse, type: Dir}]}"): "type 'Dir' is not known: it must be Device or Mount",
    resource("- {paths: [{path: /dev/fuse, permissions: rx}]}"): "permissions 'rx' is not usable",
    resource("- {paths: [{path: /dev/fuse, mountpath: /x}]}"): "'mountpath' is not known: did you mean mountPath?",
    resource("- {paths: [{path: /dev/fuse, optional: 1}]}"): "optional: 1 must be true or false",
    resource("- {paths: [{path: /dev/fuse}], count: 0}"): "groups[0].count: 0 must be a whole number of 1 or more",
    resource("- {paths: [{path: /dev/fuse}], count: true}"): "count: True must be a whole number",
    resource("- {count: 1}"): "groups[0]: it must have either paths or usb",
    resource("- usb: [{vendor: 0403, product: '6001'}]"): "vendor: 259 must be text (in quotes",
    resource("- usb: [{vendor: '403', product: '6001'}]"): "'403' is no USB id: it must be four",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items())
def test_a_wrong_file(write: Write, text: str, message: str) -> None:
    """Whoever wrote it is told what is wrong, and where."""
    with pytest.raises(ConfigurationError) as caught:
        load(write(text))
    assert message in str(caught.value)


def test_the_example_is_right() -> None:
    """The file beside it offers four resources."""
    config = load(ROOT / "examples/generic.yaml")
    assert [resource.name for resource in config.devices] == ["serial", "capture", "fuse", "ch340"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("domian: a", "nodes.yaml: 'domian' is not known: did you mean domain?\n"),
        (resource("- paths: [{path: /x}]") + "- name: thing\n  groups: [{paths: [{path: /y}]}]", "two plugins for the"),
    ],
)
def test_the_program_with_a_wrong_file(write: Write, text: str, message: str) -> None:
    """It says one sentence, without a traceback, and exits with 2."""
    command = [sys.executable, "-m", "examples.generic", str(write(text))]
    done = subprocess.run(command, cwd=ROOT, env=unmeasured(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1


def test_it_stays_small() -> None:
    """It proves that the framework carries it, in less than 200 lines."""
    assert len((ROOT / "examples/generic.py").read_text().splitlines()) < 200
