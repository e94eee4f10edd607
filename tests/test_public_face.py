"""What an author imports, and what it costs."""

import inspect
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import devplugin
from tests.conftest import kept_mypy_cache, unmeasured

NAMES = [
    "Allocation",
    "AllocationError",
    "ConfigurationError",
    "Device",
    "DeviceNode",
    "DevicePluginBase",
    "DevicePluginError",
    "Health",
    "KubeletError",
    "KubeletUnavailable",
    "Mount",
    "PreferredAllocationRequest",
    "RegistrationRejected",
    "UnhealthyDevice",
    "UnknownDevice",
    "run",
]


def test_the_public_names() -> None:
    """A new name is a decision, and a lost one breaks somebody."""
    assert devplugin.__all__ == NAMES == sorted(NAMES)


def test_everything_else_at_the_top_is_a_module() -> None:
    """No name is public by accident."""
    others = {name for name in vars(devplugin) if not name.startswith("_")} - set(NAMES)
    assert all(inspect.ismodule(getattr(devplugin, name)) for name in others)


def test_a_star_import_gives_them_all() -> None:
    """And nothing else."""
    found: dict[str, Any] = {}
    exec("from devplugin import *", found)
    assert sorted(found.keys() - {"__builtins__"}) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_explained(name: str) -> None:
    """It has a docstring of its own, and so has each of its public methods and properties."""
    value = getattr(devplugin, name)
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}(")  # what dataclasses write where there is none
    members = vars(value) if inspect.isclass(value) else {}
    for member, thing in members.items():
        if not member.startswith("_") and (callable(thing) or isinstance(thing, classmethod | property)):
            assert thing.__doc__, f"{name}.{member}"


def test_it_is_typed() -> None:
    """Type checkers look at a package's types only where this file is."""
    assert files("devplugin").joinpath("py.typed").is_file()


def test_importing_it_does_not_bring_what_a_node_does_not_need() -> None:
    """The generated messages and Google's protobuf cost every node memory and time, and the tests' part is for tests."""
    program = "import sys, devplugin; print(*sys.modules, sep='\\n')"
    listed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "devplugin.plugin" in listed
    unwanted = re.compile(
        r"(betterproto2|google\.protobuf|grpc|hypothesis|pytest|devplugin\.testing|devplugin\._proto)(\..*)?"
    )
    assert [name for name in listed if unwanted.fullmatch(name)] == []


AUTHOR = """
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from devplugin import Allocation, Device, DevicePluginBase, Health, PreferredAllocationRequest, run

@dataclass(frozen=True, slots=True)
class Gpu(Device):
    bus: str = ""

class Plain(DevicePluginBase):
    resource_name = "example.com/plain"

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device.at("/dev/a")]

    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        return await super().allocate(reveal_type(devices))

class Gpus(DevicePluginBase[Gpu]):
    resource_name = "example.com/gpu"

    async def devices(self) -> AsyncIterator[list[Gpu]]:
        gpu = reveal_type(Gpu.at("/dev/gpu0"))
        yield [reveal_type(replace(gpu, health=Health.UNHEALTHY))]

    async def preferred_allocation(self, request: PreferredAllocationRequest[Gpu]) -> Sequence[Gpu]:
        return sorted(reveal_type(request.available), key=lambda gpu: gpu.bus)

    async def pre_start_container(self, devices: Sequence[Gpu]) -> None:
        print(devices[0].bus)

class AsTuples(DevicePluginBase[Gpu]):
    async def devices(self) -> AsyncIterator[tuple[Gpu, ...]]:
        yield ()

reveal_type(Plain().allocate)
reveal_type(Gpus().allocate)
run(Plain(), Gpus(), AsTuples())
"""

MISTAKES = """
from collections.abc import AsyncIterator, Sequence
from devplugin import Allocation, Device, DevicePluginBase, Mount, run

class Gpu(Device):
    pass

class Returns(DevicePluginBase):
    async def devices(self) -> list[Device]:  # line 9
        return [Device("a")]

class OfOthers(DevicePluginBase[Gpu]):
    async def devices(self) -> AsyncIterator[list[Device]]:  # line 13
        yield [Device("a")]

class WrongHook(DevicePluginBase[Gpu]):
    async def devices(self) -> AsyncIterator[list[Gpu]]:
        yield []

    async def pre_start_container(self, devices: Sequence[str]) -> None:  # line 20
        pass

class NoDevice(DevicePluginBase[str]):  # line 23
    pass

DevicePluginBase()  # line 26
Device("a").id = "b"  # line 27
Allocation({"A": "1"})  # line 28
Allocation(env={"A": 1})  # line 29
Device("a", health="Healthy")  # line 30
Mount("/a", "/b", "rw")  # line 31
run("plugin")  # line 32
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> dict[str, list[tuple[int, str, str]]]:
    """What mypy says of the two programs, by name: line, kind and text."""
    folder = tmp_path_factory.mktemp("typed")
    for name, program in (("author.py", AUTHOR), ("mistakes.py", MISTAKES)):
        (folder / name).write_text(program)
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary", "--hide-error-context", "."],
        cwd=folder,
        env=unmeasured()
        | {
            "MYPYPATH": str(Path(devplugin.__file__).parents[1]),
            "MYPY_CACHE_DIR": str(kept_mypy_cache("face", worker_id)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stderr == ""
    said: dict[str, list[tuple[int, str, str]]] = {"author.py": [], "mistakes.py": []}
    for line in found.stdout.splitlines():
        name, number, kind, text = re.fullmatch(r"([^:]+):(\d+): (\w+): (.*)", line).groups()  # type: ignore[union-attr]
        said[name].append((int(number), kind, text))
    return said


def test_hooks_have_the_types_of_the_authors_devices(checked: dict[str, list[tuple[int, str, str]]]) -> None:
    """Without a parameter they are Device; with one, the subclass, from enumeration to the hooks."""
    revealed = [re.sub(r"[\w.]+\.(?=[A-Z])", "", text) for _, kind, text in checked["author.py"] if kind == "note"]
    assert [text.removeprefix('Revealed type is "').rstrip('"') for text in revealed] == [
        "Sequence[Device]",
        "Gpu",
        "Gpu",
        "Sequence[Gpu]",
        "def (devices: Sequence[Device]) -> Coroutine[Any, Any, Allocation]",
        "def (devices: Sequence[Gpu]) -> Coroutine[Any, Any, Allocation]",
    ]
    assert [said for said in checked["author.py"] if said[1] != "note"] == []


def test_mistakes_are_seen_by_a_type_checker(checked: dict[str, list[tuple[int, str, str]]]) -> None:
    """Each marked line is an error and no other: a list that is returned, devices of another type, a wrong value."""
    marked = [number for number, line in enumerate(MISTAKES.splitlines(), 1) if "# line" in line]
    assert sorted({number for number, kind, _ in checked["mistakes.py"] if kind == "error"}) == marked
    assert marked == [int(number) for number in re.findall(r"# line (\d+)", MISTAKES)]
