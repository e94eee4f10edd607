"""The numbered examples do what they say, and run as they say."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from devplugin import DevicePluginBase
from devplugin.testing import FakeKubelet, Serve, check_plugin
from tests.conftest import unmeasured
from tests.support_pages import ROOT

# The reader's machine may have a kubelet.
ELSEWHERE = """
import runpy, sys
from devplugin import run
file, run.__kwdefaults__["kubelet_dir"] = sys.argv[1:]
runpy.run_path(file, run_name="__main__")
"""
FILES = sorted((ROOT / "examples").glob("*.py"))
NUMBERED = [path for path in FILES if path.name[0].isdigit()]


def example(name: str) -> Any:
    return importlib.import_module(f"examples.{name}")


# 01 -------------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_minimal(kubelet: FakeKubelet, serve: Serve) -> None:
    """Four ports, of which a pod gets one."""
    await serve(example("01_minimal").SerialPorts())
    await kubelet.allocatable("example.com/serial", 4)
    pod = await kubelet.create_pod("pod", {"example.com/serial": 1}).running()
    [node] = pod.containers["main"].options.devices
    assert re.fullmatch("/dev/ttyUSB[0-3]", node.host_path)


# 02 -------------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_serial_ports(kubelet: FakeKubelet, serve: Serve, tmp_path: Path) -> None:
    """A port that comes is found, one that is unplugged is unhealthy until it is back, under the same id."""
    by_id = tmp_path / "by-id"
    await serve(example("02_serial_ports").SerialPorts(by_id))
    by_id.mkdir()
    (tmp_path / "ttyUSB7").touch()
    (by_id / "usb-scale").symlink_to("../ttyUSB7")
    await kubelet.allocatable("example.com/serial", 1)
    (by_id / "usb-scale").unlink()
    assert (await kubelet.allocatable("example.com/serial", 0)).capacity == 1
    (by_id / "usb-scale").symlink_to("../ttyUSB7")
    await kubelet.allocatable("example.com/serial", 1)

    pod = await kubelet.create_pod("pod", {"example.com/serial": 1}).running()
    assert pod.device_ids("example.com/serial") == {"usb-scale"}
    options = pod.containers["main"].options
    [node] = options.devices
    assert (node.container_path, node.host_path) == ("/dev/serial0", f"{tmp_path}/ttyUSB7")
    assert options.envs == {"SERIAL_PORTS": "1"}


@pytest.mark.asyncio
async def test_a_serial_port_that_has_just_gone(kubelet: FakeKubelet, serve: Serve, tmp_path: Path) -> None:
    """A link that leads nowhere is refused with a sentence."""
    by_id = tmp_path / "by-id"
    by_id.mkdir()
    (by_id / "usb-scale").symlink_to("../ttyUSB7")
    await serve(example("02_serial_ports").SerialPorts(by_id))
    pod = await kubelet.create_pod("pod", {"example.com/serial": 1}).failed()
    assert "Serial port usb-scale has just been unplugged" in pod.message


# 03 -------------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_health(kubelet: FakeKubelet, serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A disk whose command fails is unhealthy, with the command's last line as the reason, and comes back."""
    for name in ("a", "b"):
        (tmp_path / name).touch()
    paths = [str(tmp_path / name) for name in ("a", "b")]
    disks = example("03_health").Disks(paths, ["ls", "-d"], interval_s=0.05, well_for_s=0.05)
    await serve(disks)
    await kubelet.allocatable("example.com/disk", 2)
    (tmp_path / "b").unlink()
    assert (await kubelet.allocatable("example.com/disk", 1)).capacity == 2
    assert re.search(r"-b is unhealthy: ls ended with 2: ls: .*/b.*: No such file", caplog.text)
    (tmp_path / "b").touch()
    await kubelet.allocatable("example.com/disk", 2)


@pytest.mark.asyncio
async def test_a_disk_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command is ended, and that is the fault."""
    module = example("03_health")
    monkeypatch.setattr(module, "ANSWERS_WITHIN_S", 0.05)
    assert await module.Disks([], ["sleep"])._fault_of("3600") == "no answer within 0.05 s"


# 04 -------------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_numa(kubelet: FakeKubelet, serve: Serve, tmp_path: Path) -> None:
    """A pod that asks for two accelerators gets two of one NUMA node, and the kubelet is told of the nodes."""
    for number, numa_node in enumerate((0, 1, 0, 1)):
        address = f"0000:{number}0:00.0"
        device = tmp_path / f"devices/pci0000:00/{address}"
        device.mkdir(parents=True)
        (device / "numa_node").write_text(f"{numa_node}\n")
        (tmp_path / "bus/pci/devices").mkdir(parents=True, exist_ok=True)
        (tmp_path / "bus/pci/devices" / address).symlink_to(device)
        (tmp_path / f"class/accel/accel{number}").mkdir(parents=True)
        (tmp_path / f"class/accel/accel{number}/device").symlink_to(device)
    await serve(example("04_numa").Accelerators(tmp_path))
    pods = [await kubelet.create_pod(name, {"example.com/accelerator": 2}).running() for name in ("first", "second")]
    assert {pod.device_ids("example.com/accelerator") for pod in pods} == {
        frozenset({"0000:00:00.0", "0000:20:00.0"}),
        frozenset({"0000:10:00.0", "0000:30:00.0"}),
    }
    nodes = [node.host_path for pod in pods for node in pod.containers["main"].options.devices]
    assert sorted(nodes) == [f"/dev/accel/accel{number}" for number in range(4)]


# 05 -------------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_cdi(kubelet: FakeKubelet, serve: Serve, tmp_path: Path) -> None:
    """A pod gets the name, the file says what it stands for, with the node's group, and goes with the plugin."""
    (tmp_path / "dri").mkdir()
    node = tmp_path / "dri/renderD128"
    node.touch()
    group = 107 if os.geteuid() == 0 else node.stat().st_gid
    os.chown(node, -1, group)
    plugin = example("05_cdi").RenderNodes(tmp_path / "dri", tmp_path / "cdi")
    await serve(plugin)
    pod = await kubelet.create_pod("pod", {"example.com/gpu": 1}).running()
    assert pod.containers["main"].options.cdi_devices == ["example.com/gpu=renderD128"]
    [file] = (tmp_path / "cdi").glob("*.json")
    spec = json.loads(file.read_text())
    assert (spec["kind"], spec["cdiVersion"]) == ("example.com/gpu", "0.7.0")
    [device] = spec["devices"]
    assert device["name"] == "renderD128"
    assert device["containerEdits"]["deviceNodes"] == [{"path": str(node), "permissions": "rw"}]
    assert device["containerEdits"]["additionalGids"] == [group]
    await serve.stop(plugin)
    assert not file.exists()


# 06 -------------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_sharing(kubelet: FakeKubelet, serve: Serve) -> None:
    """Two encoders for eight containers; the second pod gets the encoder that the first one has not."""
    module = example("06_sharing")
    await serve(module.Shared(module.Encoders(), replicas=4, suffix=".shared"))
    await kubelet.allocatable("example.com/encoder.shared", 8)
    nodes = set()
    for name in ("first", "second"):
        pod = await kubelet.create_pod(name, {"example.com/encoder.shared": 1}).running()
        [node] = pod.containers["main"].options.devices
        nodes.add(node.host_path)
    assert nodes == {"/dev/video-encoder0", "/dev/video-encoder1"}


# 07 -------------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_several_resources(kubelet: FakeKubelet, serve: Serve, tmp_path: Path) -> None:
    """Each resource has what its pattern finds."""
    nodes = example("07_several_resources").Nodes
    await serve(nodes("example.com/serial", "ttyUSB*", tmp_path))
    await serve(nodes("example.com/video", "video*", tmp_path))
    for name in ("ttyUSB0", "ttyUSB1", "video0"):
        (tmp_path / name).touch()
    await kubelet.allocatable("example.com/serial", 2)
    await kubelet.allocatable("example.com/video", 1)


# 08 -------------------------------------------------------------------------------------------------------------------


def test_the_tests(tmp_path: Path) -> None:
    """They pass, by the command that the file names, and one fails when the plugin forgets what is switched off."""
    file = ROOT / "examples/08_tests.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    environment = {name: value for name, value in unmeasured().items() if not name.startswith("PYTEST_")}

    def run(path: Path) -> str:
        done = subprocess.run(
            [*command, str(path)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False
        )
        return done.stdout

    assert re.search(r"^6 passed in", run(file), re.MULTILINE)
    (tmp_path / "pytest.ini").write_text(file.with_name("pytest.ini").read_text())
    broken = tmp_path / "broken.py"
    text = file.read_text()
    assert "if name in off else" in text
    assert "(PRINTER, 1)\n" in text
    text = text.replace("(PRINTER, 1)\n", "(PRINTER, 1, timeout_s=1)\n")  # it never comes to that
    broken.write_text(text.replace("if name in off else", "if False else"))
    assert "1 failed, 5 passed" in run(broken)


def on_a_bench(directory: Path) -> dict[str, DevicePluginBase[Any]]:
    """The examples whose devices a folder can stand for."""
    for name in ("by-id/usb-scale", "ttyUSB0", "renderD128"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).touch()
    nodes = example("07_several_resources").Nodes("example.com/serial", "ttyUSB*", directory)
    return {
        "02": example("02_serial_ports").SerialPorts(directory / "by-id"),
        "03": example("03_health").Disks([str(directory / "ttyUSB0")], ["ls"]),
        "05": example("05_cdi").RenderNodes(directory, directory / "cdi"),
        "06": example("06_sharing").Shared(nodes, replicas=3, suffix=".shared"),
        "07": nodes,
    }


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("number", "unplugged"),
    [("02", "by-id/usb-scale"), ("03", None), ("05", "renderD128"), ("06", "ttyUSB0"), ("07", "ttyUSB0")],
)
async def test_the_check_finds_nothing(number: str, unplugged: str | None, directory: Path) -> None:
    """What authors copy from breaks no rule (ids are made of paths, so the folder's is a short one)."""
    plugin = on_a_bench(directory)[number]
    assert await check_plugin(plugin, unplug=(directory / unplugged).unlink if unplugged else None) == []


# All ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.name)
def test_it_runs_as_it_says(path: Path, directory: Path) -> None:
    """The command in the docstring is there, and starts a plugin that waits for a kubelet and ends at Ctrl-C."""
    [command] = re.findall(r"^    (python .*)$", path.read_text().split('"""')[1], re.MULTILINE)
    words = command.split()
    if words[1:3] == ["-m", "pytest"]:
        return  # which is done above
    assert words == ["python", f"examples/{path.name}"]
    command_line = [sys.executable, "-c", ELSEWHERE, words[1], str(directory)]
    with subprocess.Popen(
        command_line, cwd=ROOT, env=unmeasured(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
        finally:
            process.kill()
    assert "waiting for the kubelet" in first, first + rest
    assert process.returncode == 0, rest


def test_each_is_a_screen_or_two() -> None:
    """Nobody reads a long example."""
    assert {path.name for path in NUMBERED if len(path.read_text().splitlines()) > 100} == set()


def test_the_list_of_examples_is_whole_and_in_order() -> None:
    """The README names each file, the numbered ones in their order."""
    readme = (ROOT / "examples/README.md").read_text()
    named = re.findall(r"\]\(([\w./]+)\)", readme)
    assert [name for name in named if name[0].isdigit()] == [path.name for path in NUMBERED]
    assert all((ROOT / "examples" / name).exists() for name in named)
    assert {path.name for path in FILES if path.name != "__init__.py"} <= set(named)
