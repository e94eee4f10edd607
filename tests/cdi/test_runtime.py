"""CDI specs, read by the library that container runtimes read them with."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings

from devplugin import cdi
from tests.kubelets.running import run
from tests.support_cdi import SPECS

pytestmark = [pytest.mark.kubelets, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
# The go.mod of each version of the library: containerd from 2.2.1 on has the first, and 1.7.27 and 2.0 are like the second.
VERSIONS = {"1.1.0": "go.mod", "0.8.1": "0.8/go.mod"}

Read = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def read(version: str, tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Reads a directory as a runtime does, and gives a container the devices that are named."""
    program = tmp_path_factory.mktemp("cdi") / "read"
    flags = ("-mod=readonly", "-buildvcs=false", f"-modfile={HERE / VERSIONS[version]}")
    run("go", "build", *flags, "-o", program, ".", cwd=HERE)

    def read(directory: Path, *names: str) -> dict[str, Any]:
        done = subprocess.run([program, directory, *names], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return read


def filled(value: Any) -> Any:
    """What the library shows for what it has read: empty values are left out or not, in turns."""
    if isinstance(value, dict):
        return {
            key: inner for key, item in value.items() if (inner := filled(item)) not in ({}, [], "", None, 0, False)
        }
    return [filled(item) for item in value] if isinstance(value, list) else value


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(spec=SPECS)
def test_every_spec_is_read_as_it_was_meant(read: Read, version: str, tmp_path: Path, spec: cdi.Spec) -> None:
    """None is refused, each text arrives, and the version is the lowest that the library itself would ask for."""
    with cdi.SpecFile(spec.kind, edits=spec.edits, annotations=spec.annotations, directory=tmp_path) as file:
        file.write(spec.devices)
        found = read(tmp_path)
        if tuple(map(int, spec.version.split("."))) > tuple(map(int, version.split("."))):
            assert "failed to load CDI Spec" in found["Error"]
            return
        edits = [spec.edits, *(device.edits for device in spec.devices)]
        assume(
            version != "0.8.1" or not any(each.intel_rdt and each.intel_rdt.clos_id == "/" for each in edits)
        )  # 1.1.0's
        assert found["Error"] == ""
        assert sorted(found["Devices"]) == sorted(file.names(device.name for device in spec.devices))
        assert found["Minimum"] == [spec.version]
        [understood] = found["Specs"]
        assert filled(understood) == filled(json.loads(file.path.read_text()))


def test_a_container_gets_what_the_spec_says(read: Read, tmp_path: Path) -> None:
    """The edits of the kind once, those of each device that was asked for, and nothing of another."""
    devices = [
        cdi.Device(
            f"null-{n}",
            cdi.ContainerEdits(
                env={f"NULL_{n}": "yes"},
                device_nodes=[cdi.DeviceNode(path=f"/dev/null-{n}", host_path="/dev/null", permissions="r")],
                additional_gids=[44 + n],
            ),
        )
        for n in range(3)
    ]
    mount = cdi.Mount(host_path="/opt", container_path="/opt", options=["ro", "rbind"])
    with cdi.SpecFile("example.com/null", edits=cdi.ContainerEdits(mounts=[mount]), directory=tmp_path) as file:
        file.write(devices)
        found = read(tmp_path, *file.names(["null-0", "null-2"]))
    assert found["Error"] == ""
    container = found["Injected"]
    assert container["process"]["env"] == ["NULL_0=yes", "NULL_2=yes"]
    assert container["process"]["user"]["additionalGids"] == [44, 46]
    assert [(node["path"], node["major"], node["minor"]) for node in container["linux"]["devices"]] == [
        ("/dev/null-0", 1, 3),
        ("/dev/null-2", 1, 3),
    ]
    assert [rule["access"] for rule in container["linux"]["resources"]["devices"]] == ["r", "r"]
    assert container["mounts"] == [{"destination": "/opt", "source": "/opt", "options": ["ro", "rbind"]}]


def test_the_reader_refuses_what_is_wrong(read: Read, tmp_path: Path) -> None:
    """The check is one that can fail: a spec whose version is too low for it is refused."""
    device = cdi.Device("a", cdi.ContainerEdits(additional_gids=[44]))
    (tmp_path / "low.json").write_text(cdi.Spec("example.com/aa", [device]).to_json().replace("0.7.0", "0.6.0"))
    assert "the spec version must be at least v0.7.0" in read(tmp_path)["Error"]
