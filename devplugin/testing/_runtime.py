"""The container runtime: a container is a plain process, or nothing but an entry in a list."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO

import anyio
from anyio.abc import TaskGroup

from devplugin.testing._containers import Container, Process
from devplugin.testing._poddevices import RunOptions

__all__ = ["Runtime"]

Exited = Callable[[int], None]


class Runtime:
    """Starts containers and tells how they end. They outlive a restart of the kubelet."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks

    async def start(self, container: Container, options: RunOptions, label: str, exited: Exited) -> Process:
        """Start a container.

        Args:
            container: What to run.
            options: What the plugins gave for it.
            label: The name for the task that waits for its end.
            exited: Called once with the exit code.

        Raises:
            OSError: The command cannot be run.
        """
        environment = {"PATH": os.environ.get("PATH", os.defpath), **container.env, **options.envs}
        if container.command is None:
            return _Nothing(environment, exited)
        log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the container
        try:
            process = await anyio.open_process(
                container.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        except BaseException:
            log.close()
            raise
        running = _Running(process, environment, log, exited)
        self._tasks.start_soon(running.wait, name=f"fake kubelet: container {label}")
        return running


class _Nothing:
    def __init__(self, environment: Mapping[str, str], exited: Exited) -> None:
        self._environment = environment
        self._exited: Exited | None = exited

    def kill(self, exit_code: int) -> None:
        exited, self._exited = self._exited, None
        if exited is not None:
            exited(exit_code)

    def output(self) -> str:
        return ""

    def environment(self) -> Mapping[str, str]:
        return self._environment


class _Running:
    def __init__(
        self, process: anyio.abc.Process, environment: Mapping[str, str], log: IO[bytes], exited: Exited
    ) -> None:
        self._process = process
        self._environment = environment
        self._log = log
        self._exited = exited
        self._written = ""
        self._over = False

    async def wait(self) -> None:
        """See the process end; when cancelled, kill it and all that it started."""
        try:
            status = await self._process.wait()
        finally:
            self.kill(137)
            self._over = True
            with anyio.CancelScope(shield=True):
                await self._process.wait()
            self._written = self.output()
            self._log.close()
        self._exited(status if status >= 0 else 128 - status)

    def kill(self, exit_code: int) -> None:
        del exit_code  # the process has its own
        if not self._over:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def output(self) -> str:
        if self._log.closed:
            return self._written
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def environment(self) -> Mapping[str, str]:
        return self._environment
