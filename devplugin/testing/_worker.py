"""Keeping the containers of one pod running (``pkg/kubelet/pod_workers.go``, ``kuberuntime/kuberuntime_manager.go``)."""

import anyio

from devplugin.testing._allocation import Allocator
from devplugin.testing._client import KubeletError
from devplugin.testing._clock import Clock
from devplugin.testing._containers import ContainerStatus, Running, Terminated, Waiting
from devplugin.testing._grpc import RpcError
from devplugin.testing._pods import Pod
from devplugin.testing._runtime import Runtime
from devplugin.testing._versions import Behaviour

__all__ = ["BACKOFF_FIRST_S", "BACKOFF_MAX_S", "RETRY_S", "PodWorker"]

RETRY_S = 10.0
"""``backOffPeriod`` of the pod workers, without its jitter: the pause after a start that failed."""

RESYNC_S = 60.0
"""``resyncInterval``: the longest pause while something is amiss."""

BACKOFF_FIRST_S = 10.0
BACKOFF_MAX_S = 300.0
BACKOFF_FORGET_S = 600.0
"""``newCrashLoopBackOff`` and ``HasExpiredFunc`` in ``pkg/kubelet/kubelet.go``."""


class _BackOff:
    """The back-off of one container (``k8s.io/client-go/util/flowcontrol/backoff.go``)."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self._updated_at_s = 0.0

    def lasts(self, finished_at_s: float, now_s: float) -> bool:
        """Whether a container that ended then must wait (IsInBackOffSince)."""
        return not self._expired(finished_at_s) and now_s - finished_at_s < self.delay_s

    def next(self, finished_at_s: float, now_s: float) -> None:
        """Double the delay, or begin anew after a long good run (Next)."""
        if not self.delay_s or self._expired(finished_at_s):
            self.delay_s = BACKOFF_FIRST_S
        else:
            self.delay_s = min(self.delay_s * 2, BACKOFF_MAX_S)
        self._updated_at_s = now_s

    def _expired(self, finished_at_s: float) -> bool:
        return finished_at_s - self._updated_at_s > BACKOFF_FORGET_S


class PodWorker:
    """Starts what is to run, and again after it ended, for one pod during one run of the kubelet."""

    def __init__(self, pod: Pod, allocator: Allocator, runtime: Runtime, clock: Clock, behaviour: Behaviour) -> None:
        self._pod = pod
        self._allocator = allocator
        self._runtime = runtime
        self._clock = clock
        self._behaviour = behaviour
        self._backoffs: dict[str, _BackOff] = {}
        self._awake = anyio.Event()
        self._retry_s = RESYNC_S

    def wake(self) -> None:
        """Look at the pod now: something has happened to it."""
        self._awake.set()

    async def run(self) -> None:
        """Look after the pod until it is over."""
        while not self._pod.is_over:
            self._awake = anyio.Event()
            self._retry_s = RESYNC_S
            await self._sync()
            with self._clock.move_on_after(self._retry_s):
                await self._awake.wait()
        self._pod.kill()

    async def _sync(self) -> None:
        """Start what should run by now (SyncPod): init containers one after the other, then the rest."""
        for container in self._pod.init_containers:
            if not container.is_sidecar and container.exited and container.exited.exit_code == 0:
                continue
            await self._start_if_due(container)
            if not (container.is_sidecar and container.ready):
                return
        for container in self._pod.app_containers:
            await self._start_if_due(container)

    async def _start_if_due(self, container: ContainerStatus) -> None:
        policy = "Always" if container.is_sidecar else self._pod.restart_policy
        if isinstance(container.state, Running) or self._pod.is_over:
            return
        if container.exited and (policy == "Never" or (policy == "OnFailure" and container.exited.exit_code == 0)):
            return
        if container.exited and self._must_wait(container, container.exited):
            return
        await self._start(container)

    def _must_wait(self, container: ContainerStatus, exited: Terminated) -> bool:
        """Whether the back-off forbids a start (doBackOff)."""
        backoff = self._backoffs.setdefault(container.name, _BackOff())
        now_s = self._clock.now()
        if not backoff.lasts(exited.finished_at_s, now_s):
            backoff.next(exited.finished_at_s, now_s)
            return False
        full_name = f"{self._pod.name}_default({self._pod.uid})"
        self._wait(
            container,
            "CrashLoopBackOff",
            f"back-off {_go_duration(backoff.delay_s)} restarting failed container={container.name} pod={full_name}",
        )
        self._pod.note(
            "Warning", "BackOff", self._behaviour.backing_off.format(container=container.name, pod=full_name)
        )
        if self._behaviour.wakes_when_backoff_ends:
            self._retry_in(exited.finished_at_s + backoff.delay_s - now_s)
        else:
            self._retry_in(RETRY_S)
        return True

    async def _start(self, container: ContainerStatus) -> None:
        """Create and start a container (startContainer in ``kuberuntime/kuberuntime_container.go``)."""
        try:
            options = await self._allocator.run_options(container)
        except (KubeletError, RpcError) as error:
            message = error.description if isinstance(error, RpcError) else str(error)
            self._fails(container, "CreateContainerConfigError", message)
            return
        container.restart_count += container.created
        container.created = True
        container.options = options
        self._pod.note("Normal", "Created", self._behaviour.created.format(container=container.name))
        try:
            container.process = await self._runtime.start(
                container.spec, options, f"{self._pod.name}/{container.name}", lambda code: self._ended(container, code)
            )
        except OSError as error:
            container.exited = Terminated(128, "StartError", self._clock.now())
            self._fails(container, "RunContainerError", str(error))
            return
        if container.exited:
            container.last_state = container.exited
        container.state = Running(self._clock.now())
        self._pod.note("Normal", "Started", self._behaviour.started.format(container=container.name))

    def _ended(self, container: ContainerStatus, exit_code: int) -> None:
        reason = "Completed" if exit_code == 0 else "Error"
        container.exited = container.state = Terminated(exit_code, reason, self._clock.now())
        self._pod.container_ended()

    def _fails(self, container: ContainerStatus, reason: str, message: str) -> None:
        self._wait(container, reason, message)
        self._pod.note("Warning", "Failed", f"Error: {message}")
        self._retry_in(RETRY_S)

    def _wait(self, container: ContainerStatus, reason: str, message: str) -> None:
        container.last_state = container.exited or container.last_state
        container.state = Waiting(reason, message)

    def _retry_in(self, delay_s: float) -> None:
        self._retry_s = min(self._retry_s, delay_s)


def _go_duration(seconds: float) -> str:
    """As Go prints a duration of whole seconds: ``10s``, ``1m20s``, ``5m0s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
