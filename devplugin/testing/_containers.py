"""Containers of pods: what is asked for, and what has become of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import anyio

from devplugin.testing._poddevices import PodDevices, RunOptions

__all__ = ["Container", "ContainerStatus", "Process", "Running", "Terminated", "Waiting"]


@dataclass(frozen=True, slots=True)
class Container:
    """What a pod says of a container.

    Attributes:
        name: Its name in the pod.
        limits: How many devices of each resource it gets.
        command: A program that is run as a plain process with `env` and what the plugin gave. None: there is no
            process, and the container runs until `Pod.stop_container`.
        env: Variables of the pod's own.
        restarts: For an init container: it is a sidecar (``restartPolicy: Always``).
    """

    name: str
    limits: Mapping[str, int] = field(default_factory=dict)
    command: Sequence[str] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    restarts: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """The container runs."""

    started_at_s: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """The container is to run but does not."""

    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Terminated:
    """The container has ended."""

    exit_code: int
    reason: str
    finished_at_s: float


class Process(Protocol):
    """A container's process, or what stands for it."""

    def kill(self, exit_code: int) -> None:
        """End it; `exit_code` is for a container without a process."""

    def output(self) -> str:
        """What it has written."""

    def environment(self) -> Mapping[str, str]:
        """Its variables."""


class Owner(Protocol):
    """The pod that a container belongs to."""

    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def has_init(self) -> bool: ...
    def holdings(self) -> PodDevices: ...


class ContainerStatus:
    """A container of a pod.

    Attributes:
        state: `Running`, `Waiting` or `Terminated`.
        last_state: How the container before this one ended.
        restart_count: How often it was created after the first time.
        options: What the runtime was told at the last start.
    """

    def __init__(self, owner: Owner, spec: Container, *, is_init: bool) -> None:
        self.spec = spec
        self.state: Running | Waiting | Terminated = Waiting(
            "PodInitializing" if owner.has_init else "ContainerCreating"
        )
        self.last_state: Terminated | None = None
        self.restart_count = 0
        self.options = RunOptions()
        self.process: Process | None = None
        self.exited: Terminated | None = None
        self.created = False
        self.runs_since_before_restart = False
        self._owner = owner
        self._is_init = is_init

    def __repr__(self) -> str:
        return f"<ContainerStatus {self._owner.name}/{self.name} {self.state} restarts={self.restart_count}>"

    @property
    def name(self) -> str:
        """Its name in the pod."""
        return self.spec.name

    @property
    def pod_uid(self) -> str:
        """The pod's identity."""
        return self._owner.uid

    @property
    def limits(self) -> Mapping[str, int]:
        """How many devices of each resource it gets."""
        return self.spec.limits

    @property
    def is_init(self) -> bool:
        """Whether it is an init container, sidecars included."""
        return self._is_init

    @property
    def is_sidecar(self) -> bool:
        """Whether it is an init container that keeps running."""
        return self._is_init and self.spec.restarts

    @property
    def ready(self) -> bool:
        """Whether it runs; there are no probes."""
        return isinstance(self.state, Running)

    @property
    def reason(self) -> str:
        """The reason of a state that has one."""
        return "" if isinstance(self.state, Running) else self.state.reason

    def device_ids(self, resource: str) -> frozenset[str]:
        """The ids that the kubelet gave it."""
        holding = self._owner.holdings().of_container(self.pod_uid, self.name).get(resource)
        return frozenset(holding.ids if holding else ())

    def logs(self) -> str:
        """What its process has written so far, both streams (``kubectl logs``)."""
        return self.process.output() if self.process else ""

    async def exec(self, *command: str) -> str:
        """Run a program with the environment of the running container, and return what it writes (``kubectl exec``).

        Raises:
            RuntimeError: The container does not run.
            subprocess.CalledProcessError: The program failed.
            OSError: It cannot be started.
        """
        if not isinstance(self.state, Running) or self.process is None:
            raise RuntimeError(f"{self._owner.name}/{self.name} does not run: {self.state}")
        done = await anyio.run_process(command, env=self.process.environment())
        return done.stdout.decode(errors="replace")
