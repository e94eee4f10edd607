"""CDI specs: what is in one, which version it needs, and whose the file is."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft7Validator
from referencing import Registry
from referencing.jsonschema import DRAFT7

from devplugin import (
    Allocation,
    AllocationError,
    ConfigurationError,
    Device,
    DeviceNode,
    DevicePluginBase,
    Mount,
    cdi,
)
from devplugin._ownedfile import OwnedFile
from devplugin.testing import FakeKubelet
from tests.conftest import Serve, eventually
from tests.support_cdi import SPECS

KIND = "example.com/gpu"
SCHEMA = Path(__file__).parent / "cdi" / "schema"


@pytest.fixture(scope="module")
def schema() -> Draft7Validator:
    """CDI's own schema."""
    definitions = DRAFT7.create_resource(json.loads((SCHEMA / "defs.json").read_text()))
    registry: Registry[Any] = Registry().with_resource("defs.json", definitions)
    return Draft7Validator(json.loads((SCHEMA / "schema.json").read_text()), registry=registry)


def edits(**variables: str) -> cdi.ContainerEdits:
    return cdi.ContainerEdits(env=variables or {"A": "1"})


def gpu(n: int = 0) -> cdi.Device:
    return cdi.Device(f"gpu-{n}", edits(GPU=str(n)))


def listed(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))  # noqa: PTH208


# What is in a spec ----------------------------------------------------------------------------------------------------


def test_the_text_of_a_spec() -> None:
    """Names as the specification has them, and nothing that is empty but what must be there."""
    device = cdi.Device(
        "gpu-0",
        cdi.ContainerEdits(
            env={"GPU": "0", "EMPTY": ""},
            device_nodes=[cdi.DeviceNode(path="/dev/gpu", host_path="/dev/gpu0", type="c", major=195, minor=0, uid=0)],
            net_devices=[cdi.NetDevice(host_interface_name="ib0", name="net1")],
            hooks=[cdi.Hook(hook_name="createContainer", path="/bin/hook", args=["hook"], env={"B": "2"}, timeout_s=5)],
            mounts=[cdi.Mount(host_path="tmpfs", container_path="/run/gpu", options=["nosuid"], type="tmpfs")],
            intel_rdt=cdi.IntelRdt(clos_id="gold", l3_cache_schema="L3:0=f", enable_monitoring=True),
            additional_gids=[44],
        ),
        annotations={"example.com/serial": "42"},
    )
    assert json.loads(cdi.Spec(KIND, [device], edits()).to_json()) == {
        "cdiVersion": "1.1.0",
        "kind": "example.com/gpu",
        "devices": [
            {
                "name": "gpu-0",
                "containerEdits": {
                    "env": ["GPU=0", "EMPTY="],
                    "deviceNodes": [
                        {"path": "/dev/gpu", "hostPath": "/dev/gpu0", "type": "c", "major": 195, "minor": 0, "uid": 0}
                    ],
                    "netDevices": [{"hostInterfaceName": "ib0", "name": "net1"}],
                    "hooks": [
                        {
                            "hookName": "createContainer",
                            "path": "/bin/hook",
                            "args": ["hook"],
                            "env": ["B=2"],
                            "timeout": 5,
                        }
                    ],
                    "mounts": [
                        {"hostPath": "tmpfs", "containerPath": "/run/gpu", "options": ["nosuid"], "type": "tmpfs"}
                    ],
                    "intelRdt": {"closID": "gold", "l3CacheSchema": "L3:0=f", "enableMonitoring": True},
                    "additionalGids": [44],
                },
                "annotations": {"example.com/serial": "42"},
            }
        ],
        "containerEdits": {"env": ["A=1"]},
    }


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(SPECS)
def test_every_spec_holds_to_the_schema(schema: Draft7Validator, spec: cdi.Spec) -> None:
    """CDI's own, and what was said is in the text."""
    text = spec.to_json()
    schema.validate(json.loads(text))
    assert json.loads(text)["kind"] == spec.kind
    assert [device["name"] for device in json.loads(text)["devices"]] == [device.name for device in spec.devices]


def test_the_schema_can_be_broken(schema: Draft7Validator) -> None:
    """It is one that refuses."""
    broken = json.loads(cdi.Spec(KIND, [gpu()]).to_json())
    broken["devices"][0]["containerEdits"]["mounts"] = [{"hostPath": "/a"}]
    assert not schema.is_valid(broken)


@pytest.mark.parametrize(
    ("version", "spec"),
    {
        "0.3.0": cdi.Spec(KIND, [cdi.Device("a:b", edits())]),
        "0.4.0": cdi.Spec(
            KIND, [gpu()], cdi.ContainerEdits(mounts=[cdi.Mount(host_path="a", container_path="/a", type="tmpfs")])
        ),
        "0.5.0": cdi.Spec(KIND, [cdi.Device("0", edits())]),
        "0.5.0 ": cdi.Spec(
            KIND, [cdi.Device("a", cdi.ContainerEdits(device_nodes=[cdi.DeviceNode(path="/a", host_path="/b")]))]
        ),
        "0.6.0": cdi.Spec("example.com/gpu.shared", [gpu()]),
        "0.6.0 ": cdi.Spec(KIND, [cdi.Device("a", edits(), {"b": "c"})]),
        "0.6.0  ": cdi.Spec(KIND, [gpu()], annotations={"b": "c"}),
        "0.7.0": cdi.Spec(KIND, [cdi.Device("a", cdi.ContainerEdits(additional_gids=[1]))]),
        "0.7.0 ": cdi.Spec(KIND, [gpu()], cdi.ContainerEdits(intel_rdt=cdi.IntelRdt(clos_id="a"))),
        "1.1.0": cdi.Spec(KIND, [gpu()], cdi.ContainerEdits(intel_rdt=cdi.IntelRdt(schemata=["a"]))),
        "1.1.0 ": cdi.Spec(
            KIND,
            [cdi.Device("a", cdi.ContainerEdits(net_devices=[cdi.NetDevice(host_interface_name="a", name="b")]))],
        ),
    }.items(),
)
def test_the_version_is_the_lowest_that_has_all_of_it(version: str, spec: cdi.Spec) -> None:
    """By the specification's table of what came when."""
    assert spec.version == version.strip()
    assert json.loads(spec.to_json())["cdiVersion"] == version.strip()


def test_characters_that_yaml_does_not_take_are_escaped() -> None:
    """The runtimes' parser reads YAML, and knows no surrogates."""
    text = cdi.Spec(KIND, [cdi.Device("a", edits(A="\x7f\x85\u2028\ufeff\uffff\U0001f600\n"))]).to_json()
    assert r'"A=\u007f\u0085\u2028\ufeff\uffff😀\n"' in text


def test_what_an_answer_grants_can_be_said_to_the_runtime() -> None:
    """A plugin's device with its grants becomes one of the spec; what a spec has no place for is refused."""
    device = Device(
        "gpu-0",
        grants=Allocation(
            env={"GPU": "0"},
            device_nodes=[DeviceNode("/dev/gpu", "/dev/gpu0"), DeviceNode("/dev/ctl", "/dev/ctl", "r")],
            mounts=[Mount("/in", "/out"), Mount("/ro", "/ro", read_only=True)],
        ),
    )
    assert cdi.Device.granting(device) == cdi.Device(
        "gpu-0",
        cdi.ContainerEdits(
            env={"GPU": "0"},
            device_nodes=[
                cdi.DeviceNode(path="/dev/gpu", host_path="/dev/gpu0", permissions="rw"),
                cdi.DeviceNode(path="/dev/ctl", permissions="r"),
            ],
            mounts=[
                cdi.Mount(host_path="/out", container_path="/in", options=["rbind", "rprivate", "rw"]),
                cdi.Mount(host_path="/ro", container_path="/ro", options=["rbind", "rprivate", "ro"]),
            ],
        ),
    )
    for allocation in (Allocation(annotations={"a": "b"}), Allocation(cdi_devices=["example.com/gpu=a"])):
        with pytest.raises(ConfigurationError, match=r"annotations and CDI names stay in the answer of allocate\(\)"):
            cdi.ContainerEdits.of(allocation)


Make = Callable[[], object]
MISTAKES: dict[str, tuple[Make, str]] = {
    "a kind without a class": (lambda: cdi.Spec("example.com", [gpu()]), "must be vendor/class"),
    "a vendor that is no DNS name": (lambda: cdi.Spec("Example_com/gpu", [gpu()]), "a lower-case DNS name"),
    "a vendor that begins with a digit": (lambda: cdi.Spec("3com.com/nic", [gpu()]), "that begins with a letter"),
    "a vendor of one character": (lambda: cdi.Spec("a/gpu", [gpu()]), "two characters or more"),
    "a vendor that is too long": (lambda: cdi.Spec(f"{'a' * 254}/gpu", [gpu()]), "a lower-case DNS name"),
    "a class of one character": (lambda: cdi.Spec("example.com/g", [gpu()]), "must be 2 to 63 letters"),
    "a class that begins with a digit": (lambda: cdi.Spec("example.com/4k", [gpu()]), "with a letter first"),
    "a class that is too long": (lambda: cdi.Spec(f"example.com/{'a' * 64}", [gpu()]), "must be 2 to 63 letters"),
    "no kind": (lambda: cdi.SpecFile(None), "must be a string"),  # type: ignore[arg-type]
    "no devices": (lambda: cdi.Spec(KIND, []), "a runtime refuses a spec without any"),
    "a device twice": (lambda: cdi.Spec(KIND, [gpu(), gpu()]), r"\['gpu-0'\] is not usable: names must differ"),
    "a plugin's device": (lambda: cdi.Spec(KIND, [Device("a")]), "must be of type Device"),  # type: ignore[list-item]
    "edits that are none": (lambda: cdi.Spec(KIND, [gpu()], {}), "must be ContainerEdits"),  # type: ignore[arg-type]
    "an annotation's name": (lambda: cdi.Spec(KIND, [gpu()], annotations={"a b": "c"}), "a Kubernetes annotation"),
    "a device's name": (lambda: cdi.Device("-a", edits()), "CDI device name '-a' is not usable"),
    "a device without edits": (lambda: cdi.Device("a", cdi.ContainerEdits()), "refuses a device without any"),
    "a device with other edits": (lambda: cdi.Device("a", "b"), "refuses a device without any"),  # type: ignore[arg-type]
    "an environment name": (lambda: edits(**{"A=B": "1"}), "accepts no '=' in it"),
    "a node's path": (lambda: cdi.DeviceNode(path="dev"), "must be an absolute path"),
    "a node's host path": (lambda: cdi.DeviceNode(path="/dev", host_path=""), "must be an absolute path"),
    "a node's type": (lambda: cdi.DeviceNode(path="/dev", type="char"), "must be b, c, u or p"),
    "a node's permissions": (lambda: cdi.DeviceNode(path="/dev", permissions="x"), "some of r, w and m"),
    "a node's major number": (lambda: cdi.DeviceNode(path="/dev", major=-1), "from 0 to 9223372036854775807"),
    "a node's mode": (lambda: cdi.DeviceNode(path="/dev", file_mode=2**32), "from 0 to 4294967295"),
    "a node's owner": (lambda: cdi.DeviceNode(path="/dev", uid=True), "from 0 to 4294967295"),
    "a mount's source": (lambda: cdi.Mount(host_path="", container_path="/a"), "must not be empty"),
    "a mount's place": (lambda: cdi.Mount(host_path="/a", container_path="a"), "must be an absolute path"),
    "a mount's options": (lambda: cdi.Mount(host_path="/a", container_path="/a", options="ro"), "a sequence of str"),
    "a mount's option": (lambda: cdi.Mount(host_path="/a", container_path="/a", options=["\0"]), "without NUL"),
    "a hook's name": (lambda: cdi.Hook(hook_name="start", path="/a"), "must be one of prestart, createRuntime"),
    "a hook's path": (lambda: cdi.Hook(hook_name="poststop", path="a"), "must be an absolute path"),
    "a hook's time": (lambda: cdi.Hook(hook_name="poststop", path="/a", timeout_s=0), "from 1 to"),
    "a class of service": (lambda: cdi.IntelRdt(clos_id="a/b"), "must be a file name, or '/'"),
    "monitoring": (lambda: cdi.IntelRdt(enable_monitoring="yes"), "must be True or False"),  # type: ignore[arg-type]
    "an interface": (lambda: cdi.NetDevice(host_interface_name="", name="a"), "must not be empty"),
    "an interface twice": (
        lambda: cdi.ContainerEdits(net_devices=[cdi.NetDevice(host_interface_name="a", name=n) for n in "ab"]),
        "each can be there once",
    ),
    "a group": (lambda: cdi.ContainerEdits(additional_gids=[0]), "from 1 to 4294967295"),
    "no IntelRdt": (lambda: cdi.ContainerEdits(intel_rdt="a"), "must be an IntelRdt"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("make", "rule"), MISTAKES.values(), ids=MISTAKES)
def test_what_a_runtime_would_refuse_is_refused_at_once(make: Make, rule: str) -> None:
    """With the value, and the rule that it breaks."""
    with pytest.raises(ConfigurationError, match=rule):
        make()


# The file -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    return tmp_path / "cdi"


def names_in(path: Path) -> list[str]:
    return [device["name"] for device in json.loads(path.read_text())["devices"]]


def test_the_file_is_there_while_there_are_devices(specs: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is made with its directory, follows the list, goes with the last device, and at the end."""
    caplog.set_level(logging.INFO, "devplugin.cdi")
    with cdi.SpecFile(KIND, directory=specs) as file:
        assert not specs.exists()
        file.write([gpu(0), gpu(1)])
        assert file.path == specs / "example.com_gpu.json"
        assert names_in(file.path) == ["gpu-0", "gpu-1"]
        assert file.path.stat().st_mode & 0o777 == 0o644
        assert repr(file) == f"SpecFile('{file.path}', 2 devices)"
        file.write([gpu(1)])
        assert names_in(file.path) == ["gpu-1"]
        file.write([])
        assert listed(specs) == []
        file.write([gpu(2)])
        assert names_in(file.path) == ["gpu-2"]
    assert listed(specs) == []
    assert caplog.messages == [f"{file.path}: {n} devices, CDI 0.3.0" for n in (2, 1, 1)]


def test_many_lists_hold_one_descriptor(specs: Path) -> None:
    """That of the file that is there, and none at the end."""

    def held() -> list[str]:
        files = (str(link.resolve()) for link in Path("/proc/self/fd").iterdir())
        return [file for file in files if file.startswith(f"{specs}/")]

    with cdi.SpecFile(KIND, directory=specs) as file:
        for n in range(100):
            file.write([gpu(n)])
            assert len(held()) == 1
    assert held() == []


def test_a_list_that_says_the_same_is_not_written(specs: Path) -> None:
    """Runtimes read the directory anew whenever a file changes."""
    with cdi.SpecFile(KIND, directory=specs) as file:
        file.write([gpu()])
        before = file.path.stat().st_ino
        file.write([gpu()])
        assert file.path.stat().st_ino == before


def test_a_file_that_was_removed_is_brought_back(specs: Path) -> None:
    """By the next list, and by the next answer to Allocate."""
    with cdi.SpecFile(KIND, directory=specs) as file:
        file.write([gpu()])
        file.path.unlink()
        file.write([gpu()])
        assert names_in(file.path) == ["gpu-0"]
        file.path.unlink()
        assert file.names([Device("gpu-0")]) == ["example.com/gpu=gpu-0"]
        assert names_in(file.path) == ["gpu-0"]
        file.path.unlink()
        specs.rmdir()
        file.write([gpu()])
        assert names_in(file.path) == ["gpu-0"]
        file.path.unlink()
        specs.rmdir()


def test_names_for_allocate(specs: Path) -> None:
    """By devices or by names; one that the spec does not have is refused, and without a list nothing is."""
    file = cdi.SpecFile(KIND, directory=specs)
    assert file.names(["gpu-9"]) == ["example.com/gpu=gpu-9"]
    with file:
        file.write([gpu(0), gpu(1)])
        assert file.names([Device("gpu-1"), Device("gpu-0")]) == ["example.com/gpu=gpu-1", "example.com/gpu=gpu-0"]
        with pytest.raises(
            AllocationError, match=r"^example\.com/gpu has no CDI device gpu-8, gpu-9 on this node any more$"
        ):
            file.names(["gpu-9", "gpu-0", "gpu-8"])
        file.write([])
        with pytest.raises(AllocationError, match="has no CDI device gpu-0 on this node any more"):
            file.names(["gpu-0"])
    assert file.names(["gpu-9"]) == ["example.com/gpu=gpu-9"]
    assert cdi.qualified_name(KIND, "gpu-0") == "example.com/gpu=gpu-0"


def test_different_kinds_have_different_files(specs: Path) -> None:
    """Also where the parts could be parted elsewhere, and where a vendor is longer than a file name."""
    long = [f"{'a' * 60}.{'b' * 60}.{'c' * 60}.{last}" for last in ("com", "org")]
    kinds = ["a-b.io/c-d", "a-b.io-c/dd", *(f"{vendor}/{'x' * 63}" for vendor in long)]
    files = [cdi.SpecFile(kind, directory=specs) for kind in kinds]
    assert len({file.path for file in files}) == 4
    for file in files:
        with file:
            file.write([gpu()])
            assert file.path.exists()


def test_the_whole_spec_is_in_the_file(specs: Path) -> None:
    """What any device brings, and what tools want to know."""
    with cdi.SpecFile(KIND, edits=edits(A="1"), annotations={"made-by": "me"}, directory=specs) as file:
        file.write([gpu()])
        spec = json.loads(file.path.read_text())
    assert (spec["containerEdits"], spec["annotations"]) == ({"env": ["A=1"]}, {"made-by": "me"})


def test_a_directory_that_may_not_be_written(specs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who must act is said; and another failure is not taken for it."""
    file = cdi.SpecFile(KIND, directory=specs)

    def refusing(error: type[OSError], number: int) -> Callable[..., int]:
        def refuse(*_: object, **__: object) -> int:
            raise error(number, os.strerror(number))

        return refuse

    monkeypatch.setattr("devplugin._ownedfile.os.write", refusing(PermissionError, 13))
    with pytest.raises(
        ConfigurationError, match=r"no permission to write .*example\.com_gpu\.json as user \d+: Permission"
    ):
        file.write([gpu()])
    assert listed(specs) == []
    monkeypatch.setattr("devplugin._ownedfile.os.write", refusing(OSError, 28))
    with pytest.raises(OSError, match="No space left on device"):
        file.write([gpu()])
    assert listed(specs) == []


def test_a_name_that_is_too_long(specs: Path) -> None:
    """It is said when the object is made, and not when a plugin is on a node."""
    with pytest.raises(ConfigurationError, match="is too long"):
        OwnedFile(specs / ("x" * 248))
    assert repr(OwnedFile(specs / ("x" * 247))) == f"OwnedFile('{specs}/{'x' * 247}', not written)"


# Two instances, and the dead ------------------------------------------------------------------------------------------

# A lock of flock(2) is the open file's, so two objects are as much two instances as two processes are; only to be killed
# takes a process.

PROCESS = """
import sys
from devplugin import cdi
cdi.SpecFile("example.com/gpu", directory=sys.argv[1]).write([cdi.Device("dead", cdi.ContainerEdits(env={"A": "1"}))])
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def process(specs: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has written its spec, and is killed at the end."""
    command = [sys.executable, "-c", PROCESS, str(specs)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "\n"
            yield started
        finally:
            started.kill()


@pytest.fixture
def instances(specs: Path) -> Iterator[tuple[cdi.SpecFile, cdi.SpecFile]]:
    """An old one and a new one, each of which has written its device."""
    with cdi.SpecFile(KIND, directory=specs) as old, cdi.SpecFile(KIND, directory=specs) as new:
        old.write([cdi.Device("old", edits())])
        new.write([cdi.Device("new", edits())])
        yield old, new


Instances = tuple[cdi.SpecFile, cdi.SpecFile]


def end(instance: cdi.SpecFile) -> None:
    instance.__exit__()


def test_what_a_killed_process_left_is_replaced(specs: Path) -> None:
    """It stays until then: containers that restart meanwhile need it."""
    with process(specs):
        pass
    with cdi.SpecFile(KIND, directory=specs) as file:
        assert names_in(file.path) == ["dead"]
        file.write([gpu()])
        assert names_in(file.path) == ["gpu-0"]
    assert listed(specs) == []


def test_what_a_killed_process_left_is_removed(specs: Path) -> None:
    """By a list without devices, and by an end without a list."""
    with process(specs):
        pass
    with cdi.SpecFile(KIND, directory=specs) as file:
        file.write([])
        assert listed(specs) == []
    with process(specs):
        pass
    with cdi.SpecFile(KIND, directory=specs):
        assert listed(specs) == ["example.com_gpu.json"]
    assert listed(specs) == []


def test_the_old_instance_has_its_file_back_when_the_new_one_is_killed(specs: Path) -> None:
    """As in an update that crashes."""
    with cdi.SpecFile(KIND, directory=specs) as old:
        old.write([cdi.Device("old", edits())])
        with process(specs):
            old.write([cdi.Device("older", edits())])
            assert names_in(old.path) == ["dead"]
        old.write([cdi.Device("older", edits())])
        assert names_in(old.path) == ["older"]
    assert listed(specs) == []


def test_the_end_of_an_old_instance_leaves_the_new_ones_file(instances: Instances) -> None:
    """As in a rolling update; and what the old one finds in its last seconds does not get in between."""
    old, new = instances
    assert names_in(new.path) == ["new"]
    for devices in ([gpu(0)], [], [gpu(1)]):
        old.write(devices)
        assert names_in(new.path) == ["new"]
    end(old)
    assert names_in(new.path) == ["new"]
    end(new)
    assert listed(new.path.parent) == []


def test_the_old_instance_has_its_file_back_when_the_new_one_goes_first(instances: Instances) -> None:
    """As in an update that is rolled back: with its next list, though that says nothing new."""
    old, new = instances
    end(new)
    assert listed(old.path.parent) == []
    old.write([cdi.Device("old", edits())])
    assert names_in(old.path) == ["old"]
    end(old)
    assert listed(old.path.parent) == []


def test_an_instance_that_starts_again_is_a_new_one(instances: Instances) -> None:
    """A plugin object that is served twice takes over as any start does."""
    old, _ = instances
    end(old)
    old.write([gpu()])
    assert names_in(old.path) == ["gpu-0"]


def test_a_file_that_was_taken_over_is_said_once(instances: Instances, caplog: pytest.LogCaptureFixture) -> None:
    """In the log, when there would have been something to write; the names are those of the own list."""
    caplog.set_level(logging.INFO, "devplugin.cdi")
    old, _ = instances
    old.write([gpu(0), gpu(1)])
    old.write([gpu(0), gpu(1)])
    assert old.names(["gpu-1"]) == ["example.com/gpu=gpu-1"]
    assert names_in(old.path) == ["new"]
    assert caplog.messages == [f"{old.path} is written by a newer instance of this plugin, and left alone"]


def test_what_died_in_the_middle_of_a_write_is_tidied_up(specs: Path) -> None:
    """And only that: others' files stay."""
    specs.mkdir()
    (specs / ".example.com_gpu.json.0a1b2c").touch()
    others = [".example.com_gpu2.json.0a1b2c", "nvidia.com-gpu.yaml"]
    for name in others:
        (specs / name).touch()
    with cdi.SpecFile(KIND, directory=specs) as file:
        file.write([gpu()])
        assert listed(specs) == [".example.com_gpu2.json.0a1b2c", "example.com_gpu.json", "nvidia.com-gpu.yaml"]
    assert listed(specs) == others


def test_a_reader_never_sees_half_a_file(instances: Instances) -> None:
    """Whenever it looks, it is a whole list."""
    _, new = instances
    gpus = [gpu(n) for n in range(100)]
    new.write(gpus[:10])
    with watched(new.path) as seen:
        for n in range(1, 11):
            new.write(gpus[: n * 10])
    assert seen.counts
    assert all(count % 10 == 0 for count in seen.counts)


class Watched:
    def __init__(self) -> None:
        self.counts: list[int] = []


@contextmanager
def watched(path: Path) -> Iterator[Watched]:
    """Reads the file again and again, in a thread."""
    seen, is_over = Watched(), threading.Event()

    def read() -> None:
        while not is_over.is_set():
            try:
                text = path.read_text()
            except FileNotFoundError:
                continue
            seen.counts.append(len(json.loads(text)["devices"]))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()


# With a plugin --------------------------------------------------------------------------------------------------------


class Gpus(DevicePluginBase):
    """Its containers get names, and the runtime the rest."""

    resource_name = KIND

    def __init__(self, specs: Path) -> None:
        self.spec = cdi.SpecFile(self.resource_name, directory=specs)

    async def devices(self) -> AsyncIterator[Iterable[Device]]:
        with self.spec:
            gpus = [Device.at(f"/dev/gpu{n}") for n in range(2)]
            self.spec.write(map(cdi.Device.granting, gpus))
            yield gpus
            await asyncio.Event().wait()

    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        return Allocation(cdi_devices=self.spec.names(devices))


@pytest.mark.asyncio
async def test_a_plugin_with_a_spec(directory: Path, specs: Path, serve: Serve) -> None:
    """The spec is there before the devices are offered, the container has its names, and the end takes the spec with it."""
    async with FakeKubelet(directory) as kubelet:
        serving = serve(Gpus(specs))
        await kubelet.allocatable(KIND, 2)
        assert names_in(specs / "example.com_gpu.json") == ["gpu0", "gpu1"]
        pod = await kubelet.create_pod("pod", {KIND: 2}).running()
        options = pod.containers["main"].options
        assert sorted(options.cdi_devices) == ["example.com/gpu=gpu0", "example.com/gpu=gpu1"]
        assert options.devices == []
        serving.cancel()
        await asyncio.wait([serving])
        assert listed(specs) == []
    await eventually(lambda: len(asyncio.all_tasks()) == 1)
