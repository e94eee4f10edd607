"""The plugins that are compared, and a stage on which they run."""

import contextlib
import functools
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import environments
from .environments import HERE, PLUGINS, ROOT
from .kubelet import Kubelet, List
from .processes import Process

_START_S = 120.0
_LIST_S = 120.0

Command = list[str | Path]


@dataclass(frozen=True)
class Peer:
    """A plugin's program.

    Args:
        name: What tables call it.
        python: Makes its environment and returns the Python in it, or the program itself.
        script: What that runs.
        prefix: How its resources are named, before their number; or its only resource.
        ids: The devices that Allocate asks for; by default the first of its list, since the last is what changes.
        options: Further arguments.
    """

    name: str
    python: Callable[[], Path]
    script: Path
    prefix: str
    ids: tuple[str, ...] = ("device-000000000",)
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
        return [python, self.script, directory, self.prefix, str(resources), str(devices), *self.options]


_installed = functools.cache(environments.devplugin)
_grpcio = functools.cache(environments.grpcio)
_NO_RESOURCE = "none"

DEVPLUGIN = Peer("devplugin", _installed, PLUGINS / "devplugin_plugin.py", "bench.example/devplugin-")
QUIET = Peer("devplugin, no log", _installed, DEVPLUGIN.script, "bench.example/quiet-", options=("quiet",))
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

ALL = (SAMPLE, DEVPLUGIN, QUIET, UVLOOP, AIO, SYNC, GO, FLOOR)
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
    registered_ns: int
    """When the last of its resources was registered."""
    listed_ns: int
    """When the last of its resources had sent its first list."""
    directory: Path
    kubelet: Kubelet | None = None

    @property
    def resource(self) -> str:
        return self.resources[0]

    def allocate(self, count: int) -> list[int]:
        """How long each of `count` calls took, one after the other."""
        assert self.kubelet
        return self.kubelet.allocate(self.resource, self.peer.ids, count)

    def forget_lists(self) -> None:
        assert self.kubelet
        self.kubelet.forget(self.resource)

    def next_list(self, timeout_s: float = _LIST_S) -> List:
        """The next list of its first resource after `forget_lists()`, or after the one before."""
        assert self.kubelet
        seen = self.kubelet.lists[self.resource]

        def there() -> bool:
            self.process.check_running()
            return bool(seen)

        self.kubelet.wait_until(there, f"a list of {self.resource}", timeout_s)
        return seen.pop(0)


class Stage:
    """A kubelet's directory with a kubelet, on which plugins can be started."""

    def __init__(self, kubelet: Kubelet, directory: Path, exits: contextlib.ExitStack) -> None:
        self.kubelet = kubelet
        self.directory = directory
        self._exits = exits
        self.start_within_s = _START_S

    def start(self, peer: Peer, *, resources: int = 1, devices: int = 4, wrapper: Command | None = None) -> Plugin:
        """Start the peer and wait until each of its resources is registered and has sent its list."""
        command = [*(wrapper or []), *peer.command(self.directory, resources, devices)]
        variables = {"PYTHONHASHSEED": "0"} if wrapper else {}  # a wrapper counts instructions, which it makes the same
        process = self._exits.enter_context(Process(command, self.directory.parent / "log", **variables))
        started_ns = int(process.heard()) if peer is GO else process.started_ns
        names = peer.resources(resources)
        kubelet = self.kubelet
        for name in names:
            kubelet.registered.pop(name, None)
            kubelet.forget(name)

        def ready() -> bool:
            process.check_running()
            return all(name in kubelet.registered and kubelet.lists[name] for name in names)

        kubelet.wait_until(ready, f"{peer.name} is registered", self.start_within_s * (10 if wrapper else 1))
        registered_ns = max(kubelet.registered[name] for name in names)
        listed_ns = max(kubelet.lists[name].pop(0).decoded_ns for name in names)
        return Plugin(peer, process, names, started_ns, registered_ns, listed_ns, self.directory, kubelet)


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """A stage with a kubelet that listens; when it ends, so do all plugins on it."""
    with tempfile.TemporaryDirectory(prefix="devplugin-bench-") as work, contextlib.ExitStack() as exits:
        directory = Path(work) / "d"
        directory.mkdir()
        kubelet = exits.enter_context(Kubelet(environments.kubelet(), directory))
        kubelet.start()
        yield Stage(kubelet, directory, exits)


@contextlib.contextmanager
def running(peer: Peer, *, resources: int = 1, devices: int = 4) -> Iterator[Plugin]:
    """A peer alone with a kubelet; also the floor, for which a bare socket is the kubelet."""
    if peer is not FLOOR:
        with stage() as alone:
            yield alone.start(peer, resources=resources, devices=devices)
        return
    with tempfile.TemporaryDirectory(prefix="devplugin-bench-") as directory, socket.socket(socket.AF_UNIX) as kubelet:
        kubelet.bind(f"{directory}/kubelet.sock")
        kubelet.listen()
        kubelet.settimeout(_START_S)
        with Process(peer.command(Path(directory), 0, 0), Path(directory) / "log") as process:
            connected, _ = kubelet.accept()
            with connected:
                now_ns = time.monotonic_ns()
                yield Plugin(peer, process, [], process.started_ns, now_ns, now_ns, Path(directory))
