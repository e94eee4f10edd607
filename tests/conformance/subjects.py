"""The plugins under test: ours in this process or in its own, and Kubernetes' sample plugin."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from devplugin import DevicePluginBase
from devplugin.model import merge_grants
from tests.conformance.widgets import IDS, RESOURCE, Widgets, widget
from tests.kubelets.answers import DeviceNode, Grant, Mount
from tests.kubelets.build import SAMPLE, binary

__all__ = ["InProcess", "Ours", "OursAlone", "Sample", "Subject"]

ROOT = Path(__file__).parents[2]
_START_S = _END_S = 20.0
_LOOK_S = 0.02


class Subject(Protocol):
    """A plugin that can be started and ended again and again."""

    resource: str
    ids: frozenset[str]

    async def start(self) -> None: ...
    async def stop(self) -> None:
        """End it in an orderly way, and see it end."""

    async def kill(self) -> None:
        """End it with SIGKILL."""

    def granted(self, ids: Collection[str]) -> Grant:
        """What a container with these devices must be given."""

    def another(self) -> "Subject":
        """A second instance, not started."""


class InProcess:
    """A plugin's `serve()` in a task."""

    def __init__(self, plugin: DevicePluginBase[Any], directory: Path) -> None:
        self.plugin = plugin
        self.directory = directory
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self.plugin.serve(kubelet_dir=self.directory), name=f"serve {self.plugin}")

    async def ended(self) -> None:
        """Wait until it ends by itself.

        Raises:
            Exception: What it ended with.
        """
        if self._task is not None:
            task, self._task = self._task, None
            async with asyncio.timeout(_END_S):
                await task

    async def stop(self) -> None:
        """Cancel it.

        Raises:
            Exception: What it ended with before, or at being cancelled.
        """
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _granted(ids: Collection[str]) -> Grant:
    allocation = merge_grants([widget(key) for key in ids])
    return Grant(
        dict(allocation.env),
        [Mount(each.container_path, each.host_path, each.read_only) for each in allocation.mounts],
        [DeviceNode(each.container_path, each.host_path, each.permissions) for each in allocation.device_nodes],
        dict(allocation.annotations),
        list(allocation.cdi_devices),
    )


class Ours(InProcess):
    """A plugin made with devplugin, in this process."""

    resource = RESOURCE
    ids = frozenset(IDS)

    def __init__(self, directory: Path) -> None:
        super().__init__(Widgets(), directory)

    async def kill(self) -> None:
        raise NotImplementedError("a case that kills its subject says kills=True")

    def granted(self, ids: Collection[str]) -> Grant:
        return _granted(ids)

    def another(self) -> "Ours":
        return Ours(self.directory)


class _Process:
    """A plugin in a process of its own; what it says is in the errors."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process: asyncio.subprocess.Process | None = None
        self._said: IO[bytes] | None = None

    def command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        raise NotImplementedError

    async def start(self) -> None:
        command, environment = self.command()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by kill()
        self._process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **environment}, stdout=self._said, stderr=self._said
        )

    async def stop(self) -> None:
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_END_S):
                await self._process.wait()
        finally:
            await self.kill()

    async def kill(self) -> None:
        if self._process is None or self._said is None:
            return
        process, self._process = self._process, None
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        self._said.close()


class OursAlone(_Process):
    """A plugin made with devplugin, in a process of its own."""

    resource = RESOURCE
    ids = frozenset(IDS)

    def command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        return [sys.executable, "-m", "tests.conformance.widgets", self.directory], {"PYTHONPATH": str(ROOT)}

    def granted(self, ids: Collection[str]) -> Grant:
        return _granted(ids)

    def another(self) -> "OursAlone":
        return OursAlone(self.directory)


class Sample(_Process):
    """Kubernetes' sample plugin.

    Its paths are the standard ones, so it has a mount namespace of its own, where the kubelet's directory is in its usual
    place. The directory's parent is bound, so that the directory itself can be removed.
    """

    resource = "example.com/resource"
    ids = frozenset({"Dev-1", "Dev-2"})
    _SCRIPT = """
        mount -t tmpfs private /var/lib && mkdir /var/lib/kubelet && touch /var/lib/plugin &&
        mount --bind "$1" /var/lib/kubelet && mount --bind "$2" /var/lib/plugin && mount -t tmpfs private /tmp &&
        PLUGIN_SOCK_DIR=/var/lib/kubelet/device-plugins exec /var/lib/plugin
    """  # what it writes to /tmp is its own, too

    def command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        program = binary(SAMPLE)
        if not program.exists():
            raise FileNotFoundError(f"Kubernetes' sample plugin is not built: run 'tests/kubelets/build {SAMPLE}'")
        alone = [shutil.which("unshare") or "unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        return [*alone, "sh", "-c", self._SCRIPT, "sh", self.directory.parent, program], {}

    async def start(self) -> None:
        """Start it, and wait for its socket, whose name is the second of the start: two need two seconds."""
        await self._when(lambda: not (self.directory / f"dp.{int(time.time())}").exists())
        there = set(self.directory.glob("dp.*"))
        await super().start()
        await self._when(lambda: set(self.directory.glob("dp.*")) - there)

    async def _when(self, holds: Callable[[], object]) -> None:
        """Look at the directory until something holds: nobody tells of another process's files."""
        async with asyncio.timeout(_START_S):
            while not holds():  # noqa: ASYNC110 - nobody would set an event
                await asyncio.sleep(_LOOK_S)

    def granted(self, ids: Collection[str]) -> Grant:
        paths = [f"/tmp/{key}" for key in ids]
        return Grant({}, [Mount(path, path, read_only=False) for path in paths], [], {}, [])

    def another(self) -> "Sample":
        return Sample(self.directory)
