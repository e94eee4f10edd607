"""A kubelet's device manager as an object: its commands, and what it knows."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from .answers import Admission, Checkpoint, Hints, Pod, PodResources, ResourceHealth, Start, State
from .process import END_S, DriverError, DriverProcess, UnsupportedError

__all__ = ["DeviceManager", "DriverError", "Options", "UnsupportedError"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a device manager is started.

    Args:
        numa_nodes: How many NUMA nodes the machine is said to have.
        topology_policy: none, best-effort, restricted or single-numa-node.
        topology_scope: container or pod.
        pod_resources: Serve the pod resources API on this socket.
        plugins_registry: Watch this directory for plugins, as the kubelet watches plugins_registry.
        feature_gates: As the kubelet's.
        log_verbosity: The kubelet's -v.
    """

    numa_nodes: int = 1
    topology_policy: str = "none"
    topology_scope: str = "container"
    pod_resources: Path | None = None
    plugins_registry: Path | None = None
    feature_gates: Mapping[str, bool] = field(default_factory=dict)
    log_verbosity: int = 0

    def arguments(self) -> list[str]:
        """The program's arguments."""
        gates = ",".join(f"{name}={str(on).lower()}" for name, on in self.feature_gates.items())
        return [
            f"-numa={self.numa_nodes}",
            f"-topology-policy={self.topology_policy}",
            f"-topology-scope={self.topology_scope}",
            f"-pod-resources={self.pod_resources or ''}",
            f"-plugins-registry={self.plugins_registry or ''}",
            f"-feature-gates={gates}",
            f"-v={self.log_verbosity}",
        ]


class DeviceManager(DriverProcess):
    """A kubelet's device manager in `directory`, as an async context manager.

    Args:
        binary: The program (`build.binary("1.36")`).
        directory: The device plugin directory, made if it is not there.
        options: How it is started.
        running: This is a restart of the kubelet, and the runtime reports these containers, by the pod's uid, as
            running. The pods come with `adopt`; before that the kubelet frees nothing.
    """

    def __init__(
        self,
        binary: Path,
        directory: Path,
        options: Options | None = None,
        *,
        running: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        self.binary = binary
        self.directory = directory
        self.options = options or Options()
        self._was_running = None if running is None else {uid: list(names) for uid, names in running.items()}
        self.kubernetes = ""
        """The version of Kubernetes, such as 1.36.3, once it has started."""
        self.pods: dict[str, Pod] = {}
        """The pods that were admitted and have not gone, by uid."""
        self.running: dict[str, list[str]] = {}
        """The containers that were started, by the pod's uid."""

    def __repr__(self) -> str:
        state = "not started" if self._process is None else "running" if self.alive else "ended"
        return f"<DeviceManager {self.kubernetes or self.binary.name} in {self.directory}, {state}>"

    async def __aenter__(self) -> Self:
        arguments = [f"-dir={self.directory}", *self.options.arguments()]
        if self._was_running is not None:
            arguments.append(f"-running={json.dumps(self._was_running)}")
        started = await self.spawn([self.binary, *arguments])
        self.kubernetes = started.fields["kubernetes"]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self.alive:
                await self.quit()
        finally:
            await self.kill()

    def successor(
        self, *, binary: Path | None = None, running: Mapping[str, Sequence[str]] | None = None
    ) -> "DeviceManager":
        """The kubelet after a restart, in the same directory and with the same options.

        Args:
            binary: Another version, for an upgrade.
            running: The containers that run now; by default those that were started. A reboot of the node leaves none.
        """
        now = self.running if running is None else running
        return DeviceManager(binary or self.binary, self.directory, self.options, running=now)

    async def quit(self) -> None:
        """Stop it cleanly: connections are closed. A real kubelet that is told to end does not take this trouble."""
        await self.command("quit", timeout_s=END_S)
        await self.gone()

    # Pods and containers

    async def allocate(self, pod: Pod, *, timeout_s: float = 60.0) -> Admission:
        """Bring a pod: the kubelet admits it, and thereby allocates its devices, or rejects it.

        Admissions run one after the other: one that a plugin holds up holds up all that follow.
        """
        admission = Admission.from_json(await self.command("allocate", timeout_s=timeout_s, pod=pod.to_json()))
        self._note(pod, admission)
        return admission

    async def adopt(self, pods: Iterable[Pod], *, timeout_s: float = 60.0) -> list[Admission]:
        """Bring the pods that were there before this kubelet started: they are admitted anew, as after any restart."""
        items = list(pods)
        answers = await self.command("adopt", timeout_s=timeout_s, pods=[pod.to_json() for pod in items])
        admissions = [Admission.from_json(answer) for answer in answers]
        for pod, admission in zip(items, admissions, strict=True):
            self._note(pod, admission)
            if admission.admitted and self._was_running and pod.uid in self._was_running:
                self.running[pod.uid] = self._was_running[pod.uid]
        return admissions

    def _note(self, pod: Pod, admission: Admission) -> None:
        if admission.admitted:
            self.pods[pod.uid] = pod

    async def start(self, pod: Pod, container: str = "main", *, timeout_s: float = 60.0) -> Start:
        """Start a container, for the first time or again: PreStartContainer, and all that reaches it."""
        answer = await self.command("start", timeout_s=timeout_s, uid=pod.uid, container=container)
        start = Start.from_json(answer)
        names = self.running.setdefault(pod.uid, [])
        if start.started and container not in names:
            names.append(container)
        return start

    async def run(self, pod: Pod) -> tuple[Admission, dict[str, Start]]:
        """Bring a pod and, if it is admitted, start its containers in order until one does not start."""
        admission = await self.allocate(pod)
        starts: dict[str, Start] = {}
        if admission.admitted:
            for container in (*pod.init_containers, *pod.containers):
                starts[container.name] = await self.start(pod, container.name)
                if not starts[container.name].started:
                    break
        return admission, starts

    async def pre_start(self, pod: Pod, container: str = "main", *, timeout_s: float = 60.0) -> Start:
        """Only the PreStartContainer part of a start."""
        return Start.from_json(await self.command("pre_start", timeout_s=timeout_s, uid=pod.uid, container=container))

    async def finish_pod(self, pod: Pod) -> None:
        """The pod has succeeded: known still, but no longer active. Its devices go when the kubelet next looks."""
        await self._forget("finish_pod", pod)

    async def remove_pod(self, pod: Pod) -> None:
        """The pod is deleted. Its devices go when the kubelet next looks: at an admission, hints or pod resources."""
        await self._forget("remove_pod", pod)

    async def free(self, pod: Pod) -> None:
        """The pod is deleted, and the kubelet looks at once."""
        await self._forget("free", pod)

    async def _forget(self, op: str, pod: Pod) -> None:
        await self.command(op, uid=pod.uid)
        self.pods.pop(pod.uid, None)
        self.running.pop(pod.uid, None)

    # Looking

    async def state(self, *, devices: bool = True) -> State:
        """The books; `devices=False` leaves the list of devices out, which may be long."""
        return State.from_json(await self.command("state", devices=devices))

    async def hints(self, pod: Pod) -> Hints:
        """Where a pod could go, as far as the devices are concerned; the pod need not be there."""
        return Hints.from_json(await self.command("hints", pod=pod.to_json()))

    async def checkpoint(self) -> Checkpoint:
        return Checkpoint.from_json(await self.command("checkpoint"))

    async def pod_resources(self) -> PodResources:
        return PodResources.from_json(await self.command("pod_resources"))

    async def resource_health(self, pod: Pod) -> ResourceHealth:
        """The health of the pod's devices in its status (1.31 and later).

        Raises:
            UnsupportedError: An older version.
        """
        return ResourceHealth(**await self.command("status", uid=pod.uid))

    async def age(self, resource: str, seconds: float) -> State:
        """Make a resource whose plugin has gone look as if it had gone that much earlier: 301 s end the grace.

        Raises:
            DriverError: The plugin has not gone.
        """
        return State.from_json(await self.command("age", resource=resource, seconds=seconds))

    async def allocatable(
        self, resource: str, count: int, *, capacity: int | None = None, timeout_s: float = 10.0
    ) -> None:
        """Wait until the node's status shows this many devices allocatable and, if given, this capacity.

        Raises:
            DriverError: It did not in that time, or the process ended.
        """

        def reached() -> bool:
            return self.node.allocatable.get(resource) == count and capacity in (None, self.node.capacity.get(resource))

        await self.until(
            reached,
            f"allocatable {count} of {resource}" + ("" if capacity is None else f" and capacity {capacity}"),
            timeout_s,
        )
