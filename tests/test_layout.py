"""What the package promises by its shape: its public face, what it costs to import, and what it says of itself."""

import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import devplugin
import devplugin.testing
from tests.conftest import unmeasured
from tests.support_pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def tracked(*patterns: str) -> list[Path]:
    """The files that are committed; all that are there where there is no git (a source distribution)."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        return [path for pattern in patterns for path in ROOT.rglob(pattern)]
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("module", [devplugin, devplugin.testing], ids=lambda module: module.__name__)
def test_the_public_face(module: object) -> None:
    """``__all__`` is sorted, all of it is there, and nothing else is public but modules."""
    names = vars(module)["__all__"]
    assert names == sorted(names)
    others = {name for name, value in vars(module).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert others == set(names)


@pytest.mark.parametrize("module", [devplugin, devplugin.testing], ids=lambda module: module.__name__)
def test_every_public_name_says_what_it_is(module: object) -> None:
    """A docstring of its own, also for the public methods of classes."""
    for name in vars(module)["__all__"]:
        value = getattr(module, name)
        assert value.__doc__, name
        if inspect.isclass(value):
            for method, function in vars(value).items():
                if not method.startswith("_") and (inspect.isfunction(function) or isinstance(function, property)):
                    assert function.__doc__, f"{name}.{method}"


def test_a_module_opens_with_what_it_is() -> None:
    """A docstring comes first, but in what is generated."""
    written = [path for path in tracked("devplugin/*.py") if not {"_proto", "_podresources"} & {*path.parts}]
    assert written
    assert [path for path in written if not path.read_text().startswith('"""')] == []


def test_a_node_does_not_pay_for_what_only_tests_use() -> None:
    """To import devplugin brings neither the generated messages, nor the fake kubelet, nor other heavy packages."""
    code = "import sys, devplugin; print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=unmeasured()
    )
    imported = set(done.stdout.split())
    assert "devplugin.plugin" in imported
    own = ("devplugin._proto", "devplugin.testing")
    others = (
        "anyio",
        "betterproto2",
        "google.protobuf",
        "grpc",
        "multidict",
        "pathlib",
        "pydantic",
        "urllib",
        "uvloop",
    )
    assert [name for name in imported if name.startswith((*own, *others))] == []


def test_type_checkers_take_the_annotations() -> None:
    """The marker of PEP 561 is in the package."""
    assert (Path(devplugin.__file__).parent / "py.typed").exists()


def test_the_lowest_python_is_the_same_everywhere() -> None:
    """In the metadata, the Makefile, the README and the type checker's configuration."""
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert f"sys.version_info < ({lowest.replace('.', ', ')})" in (ROOT / "Makefile").read_text()
    assert f"Python {lowest} or later" in (ROOT / "README.md").read_text()
    assert f"Programming Language :: Python :: {lowest}" in PROJECT["classifiers"]
    assert f'python_version = "{lowest}"' in (ROOT / "pyproject.toml").read_text()


def test_the_version_is_in_the_changelog() -> None:
    """As a release, or as what is coming."""
    assert PROJECT["version"] in (ROOT / "CHANGELOG.md").read_text()
    assert f"Version {PROJECT['version']}" in (ROOT / "README.md").read_text()


def test_the_pods_of_the_sample_differ_in_name_and_number() -> None:
    """Two devices fit, five do not: the sample has four."""
    yaml = importlib.import_module("yaml")
    pod, overflow = (
        yaml.safe_load((ROOT / f"examples/sample_device/{name}.yaml").read_text()) for name in ("pod", "overflow")
    )
    assert pod["metadata"] == {"name": "demo-dp", "namespace": "default"}
    [container] = pod["spec"]["containers"]
    assert container["resources"] == {"limits": {"demo/sample-device": 2}}
    pod["metadata"]["name"] = "demo-dp-overflow"
    container["resources"]["limits"]["demo/sample-device"] = 5
    assert overflow == pod


def test_the_ci_script_stops_at_the_first_failure(tmp_path: Path) -> None:
    """A part that fails ends it with that part's status, and the parts after it are not run."""
    (tmp_path / ".ci").mkdir()
    script = tmp_path / ".ci" / "run"
    script.write_bytes((ROOT / ".ci" / "run").read_bytes())
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    (tmp_path / "Makefile").write_text(
        "test:\n\t@echo tested\ncheck:\n\t@echo checking; exit 7\ndemo:\n\t@echo played\n"
    )
    done = subprocess.run(["bash", script], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 2  # make's
    assert "tested" in done.stdout
    assert "twice make check: FAILED" in done.stdout
    assert done.stdout.count("checking") == 2
    assert "played" not in done.stdout


HOME = re.compile(r"/(?:home|Users)/\w+|/root/\.")


@pytest.mark.parametrize("kind", ["*.py", "*.md", "*.toml", "*.yaml", "Makefile", ".ci/run"])
def test_nobodys_machine_is_named(kind: str) -> None:
    """No path of somebody's own is committed."""
    found = tracked(kind)
    assert found
    here = Path(__file__)
    assert [path for path in found if path != here and HOME.search(path.read_text())] == []
