"""One run of the kubelet, from its start to its stop or its death."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
from anyio.abc import TaskStatus

from devplugin.testing._allocation import Allocator
from devplugin.testing._client import KubeletError
from devplugin.testing._clock import Clock
from devplugin.testing._devices import DeviceManager
from devplugin.testing._grpc import RpcError
from devplugin.testing._pods import Pod
from devplugin.testing._records import Records
from devplugin.testing._registration import RegistrationServer
from devplugin.testing._runtime import Runtime
from devplugin.testing._versions import Behaviour
from devplugin.testing._worker import PodWorker

__all__ = ["KubeletRun"]


class KubeletRun:
    """The kubelet's process: all that is lost when it ends. What outlives it is the node's, or in the checkpoint.

    Args:
        bound: The pods of the node that are not over, in the order in which they came.
        changed: Called whenever something has changed that others can see.
    """

    def __init__(
        self,
        directory: Path,
        behaviour: Behaviour,
        clock: Clock,
        rng: random.Random,
        records: Records,
        changed: Callable[[], None],
        runtime: Runtime,
        bound: Callable[[], Sequence[Pod]],
    ) -> None:
        self._directory = directory
        self._behaviour = behaviour
        self._clock = clock
        self._records = records
        self._runtime = runtime
        self._bound = bound
        self.manager = DeviceManager(directory, behaviour, clock, records, changed, self._active)
        self._allocator = Allocator(self.manager, rng)
        self._workers: dict[str, PodWorker] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self._registration: RegistrationServer | None = None
        self._admissions, self._admitted = anyio.create_memory_object_stream[Pod](float("inf"))
        self._ended = anyio.Event()

    def __repr__(self) -> str:
        return f"<KubeletRun {self._behaviour.version} {self.manager!r}>"

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Start, serve until `stop`, and leave nothing behind but files."""
        try:
            with self._admissions, self._admitted:
                self.manager.load()
                failure = await self._serve(task_status)
        finally:
            self.manager.close()
            self._ended.set()
        if failure is not None:
            raise failure

    async def _serve(self, task_status: TaskStatus[None]) -> Exception | None:
        """Serve until the tasks are cancelled; a start that fails is returned, so that no group wraps it."""
        async with anyio.create_task_group() as self._tasks:
            self._registration = RegistrationServer(
                self._directory, self.manager, self._clock, self._records, self._tasks
            )
            try:
                await self._registration.start()
                task_status.started()
                while True:
                    await self._admit(await self._admitted.receive())
            except (OSError, ValueError) as error:
                return error
            finally:
                self._registration.hang_up(abruptly=True)
                with anyio.CancelScope(shield=True):
                    await self._registration.closed()
        return None

    def admit_again(self) -> None:
        """Put the pods that were here before this run into the line for admission."""
        for pod in self._bound():
            for container in pod.containers.values():
                container.runs_since_before_restart = container.ready
            self.admit(pod)

    async def stop(self, *, abruptly: bool) -> None:
        """End the run, and see it ended.

        Args:
            abruptly: Without GOAWAY on the connections.
        """
        assert self._tasks is not None
        assert self._registration is not None
        self._tasks.cancel_scope.cancel()
        self._registration.hang_up(abruptly=abruptly)
        await self._ended.wait()

    def admit(self, pod: Pod) -> None:
        """Put a pod that has been bound to the node into the line for admission."""
        self._admissions.send_nowait(pod)

    def wake(self, pod: Pod) -> None:
        """Have a pod looked at."""
        if pod.uid in self._workers:
            self._workers[pod.uid].wake()

    async def _admit(self, pod: Pod) -> None:
        """Admit or reject a pod. One after the other: a plugin that does not answer holds up all of them.

        Sources: HandlePodAdditions in ``pkg/kubelet/kubelet.go``, ``cm/topologymanager/scope.go`` (admitPolicyNone),
        ``cm/admission/errors.go``.
        """
        if pod.is_over:
            return
        try:
            for container in pod.containers.values():
                await self._allocator.allocate(container)
        except (KubeletError, RpcError) as error:
            self._reject(pod, "UnexpectedAdmissionError", f"Allocate failed due to {error}, which is unexpected")
            return
        finally:
            for container in pod.containers.values():
                container.runs_since_before_restart = False
        lacking = self._lacking(pod)
        if lacking:
            self._reject(pod, *lacking)
            return
        assert self._tasks is not None
        pod.admitted = True
        worker = PodWorker(pod, self._allocator, self._runtime, self._clock, self._behaviour)
        self._workers[pod.uid] = worker
        self._tasks.start_soon(worker.run, name=f"fake kubelet: pod {pod.name}")

    def _lacking(self, pod: Pod) -> tuple[str, str] | None:
        """The last check: does the node have what all its pods together request?

        Sources: ``lifecycle/predicate.go``, and sanitizeNodeAllocatable in ``cm/devicemanager/manager.go``: what is
        allocated counts as there. A resource that the node has never heard of is not looked at.
        """
        resources = self.manager.resources()
        others = [other for other in self._bound() if other is not pod]
        for name, requested in pod.requests.items():
            if name not in resources:
                continue
            there = resources[name].allocatable
            if self.manager.pod_devices.has_pod(pod.uid):
                there = max(there, len(self.manager.allocated.get(name, ())))
            used = sum(other.requests.get(name, 0) for other in others)
            if requested > there - used:
                return f"OutOf{name}", (
                    f"Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {there}"
                )
        return None

    def _reject(self, pod: Pod, reason: str, message: str) -> None:
        pod.reject(reason, self._behaviour.rejected.format(message=message), message)

    def _active(self) -> list[str]:
        return [pod.uid for pod in self._bound()]
