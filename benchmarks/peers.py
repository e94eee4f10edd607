"""The plugins that are compared, and a stage on which they run."""

import contextlib
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import environments
from .environments import HERE, PLUGINS, ROOT
from .kubelet import Kubelet
from .processes import BenchmarkError, Process

_START_S = 120.0

Command = list[str | Path]


@dataclass(frozen=True)
class Peer:
    """A plugin's program.

    Args:
        name: What tables call it.
        python: Makes its environment and returns the Python in it, or the program itself.
        script: What that runs.
        prefix: How its resources are named, before their number; or its only resource.
        ids: The devices that Allocate asks for; by default the second of its list, since the first is what changes.
        options: Further arguments.
    """

    name: str
    python: Callable[[], Path]
    script: Path
    prefix: str
    ids: tuple[str, ...] = ("device-000000001",)
    options: tuple[str, ...] = ()

    @property
    def only_one(self) -> bool:
        """Whether its resource and its devices are what they are."""
        return not self.prefix.endswith("-")

    def resources(self, count: int) -> list[str]:
        return [self.prefix] if self.only_one else [f"{self.prefix}{n:03}" for n in range(count)]

    def command(self, directory: Path, resources: int, devices: int) -> Command:
        python = self.python()
        if self is GO:
            return [sys.executable, "-I", self.script, directory, python]
        if self is SAMPLE:
            return [python, self.script, "--kubelet-dir", directory]
        if self is FLOOR:
            return [python, self.script, directory]
        return [python, self.script, directory, str(resources), str(devices), *self.options]


_installed = functools.cache(environments.devplugin)
_grpcio = functools.cache(environments.grpcio)
_NO_RESOURCE = "none"

DEVPLUGIN = Peer("devplugin", _installed, PLUGINS / "devplugin_plugin.py", "bench.example/devplugin-")
QUIET = Peer("devplugin, no log", _installed, DEVPLUGIN.script, DEVPLUGIN.prefix, options=("quiet",))
UVLOOP = Peer(
    "devplugin on uvloop", lambda: _installed("uvloop"), PLUGINS / "uvloop_plugin.py", "bench.example/uvloop-"
)
SAMPLE = Peer(
    "devplugin's sample", _installed, ROOT / "examples" / "sample_device" / "__main__.py", "demo/sample-device", ("1",)
)
AIO = Peer("grpc.aio", _grpcio, PLUGINS / "grpc_aio_plugin.py", "bench.example/grpc-aio-")
SYNC = Peer("grpcio", _grpcio, PLUGINS / "grpcio_plugin.py", "bench.example/grpcio-")
GO = Peer(
    "Go sample", functools.cache(environments.go_sample), HERE / "isolated.py", "example.com/resource", ("Dev-1",)
)
FLOOR = Peer("asyncio alone", functools.cache(environments.floor), PLUGINS / "floor.py", _NO_RESOURCE)

PLUGIN_PEERS = (SAMPLE, DEVPLUGIN, UVLOOP, AIO, SYNC, GO)
MEASURED = (DEVPLUGIN, UVLOOP, AIO, SYNC)
"""Those that can have any number of devices and resources."""


@dataclass
class Plugin:
    """A peer that is running and registered."""

    peer: Peer
    process: Process
    resources: list[str]
    started_ns: int
    registered_ns: int = 0
    listed_ns: int = 0
    """When the last of its resources had sent its first list."""
    ids: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        self.ids = self.peer.ids

    @property
    def resource(self) -> str:
        return self.resources[0]


class Stage:
    """A kubelet's directory with a kubelet, on which plugins can be started."""

    def __init__(self, kubelet: Kubelet, directory: Path, exits: contextlib.ExitStack) -> None:
        self.kubelet = kubelet
        self.directory = directory
        self._exits = exits

    def start(self, peer: Peer, *, resources: int = 1, devices: int = 4, wrapper: Command | None = None) -> Plugin:
        """Start the peer and wait until each of its resources is registered and has sent its list."""
        command = [*(wrapper or []), *peer.command(self.directory, resources, devices)]
        variables = {"PYTHONHASHSEED": "0"} if wrapper else {}  # a wrapper counts instructions, which it makes the same
        process = self._exits.enter_context(Process(command, self.directory.parent / "log", **variables))
        started_ns = int(process.heard()) if peer is GO else process.started_ns
        plugin = Plugin(peer, process, peer.resources(resources), started_ns)
        kubelet = self.kubelet
        for resource in plugin.resources:
            kubelet.registered.pop(resource, None)
            kubelet.forget(resource)

        def ready() -> bool:
            if not process.running():
                raise BenchmarkError(f"{peer.name} has ended; the end of its log:\n{process.tail()}")
            return all(name in kubelet.registered and kubelet.lists[name] for name in plugin.resources)

        kubelet.wait_until(ready, f"{peer.name} is registered", _START_S * (10 if wrapper else 1))
        plugin.registered_ns = max(kubelet.registered[name] for name in plugin.resources)
        plugin.listed_ns = max(kubelet.next_list(name).decoded_ns for name in plugin.resources)
        return plugin


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """A stage with a kubelet that listens; when it ends, so do all plugins on it."""
    with tempfile.TemporaryDirectory(prefix="devplugin-bench-") as work, contextlib.ExitStack() as exits:
        directory = Path(work) / "d"
        directory.mkdir()
        kubelet = exits.enter_context(Kubelet(environments.kubelet(), directory))
        kubelet.start()
        yield Stage(kubelet, directory, exits)
