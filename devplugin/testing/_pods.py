"""Pods, as ``kubectl`` shows them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, Protocol, TypeVar

from devplugin.testing._changes import Changes, ConditionNotMet
from devplugin.testing._containers import Container, ContainerStatus, Running, Terminated, Waiting
from devplugin.testing._poddevices import PodDevices
from devplugin.testing._records import Event

__all__ = ["Host", "Pod", "RestartPolicy"]

RestartPolicy = Literal["Always", "OnFailure", "Never"]
T = TypeVar("T")


class Host(Protocol):
    """What a pod asks of the node it is on."""

    @property
    def changes(self) -> Changes: ...
    def now(self) -> float: ...
    def holdings(self) -> PodDevices: ...
    def look_after(self, pod: "Pod") -> None: ...
    def delete(self, pod: "Pod") -> None: ...


class Pod:
    """A pod: what was asked for, and what has become of it.

    Attributes:
        name: Its name.
        uid: Its identity, in the checkpoint and in the kubelet's messages.
        phase: ``Pending``, ``Running``, ``Succeeded`` or ``Failed``.
        reason: Why it failed as a whole, such as ``UnexpectedAdmissionError``.
        message: The sentence that goes with the reason.
        events: What has happened to it, oldest first.
        containers: Its containers by name, init containers included.
    """

    def __init__(
        self,
        host: Host,
        name: str,
        uid: str,
        containers: Iterable[Container],
        init_containers: Iterable[Container],
        restart_policy: RestartPolicy,
    ) -> None:
        init = list(init_containers)
        self.host = host
        self.name = name
        self.uid = uid
        self.restart_policy = restart_policy
        self.has_init = bool(init)
        self.bound = False
        self.admitted = False
        self.deleted = False
        self.failure: tuple[str, str] | None = None
        self.events: list[Event] = []
        statuses = [ContainerStatus(self, spec, is_init=True) for spec in init]
        statuses += [ContainerStatus(self, spec, is_init=False) for spec in containers]
        self.containers = {status.name: status for status in statuses}
        if len(self.containers) != len(statuses):
            raise ValueError(
                f"Two containers of the pod {name!r} have one name: {[status.name for status in statuses]}"
            )

    def __repr__(self) -> str:
        return f"<Pod {self.row} events={[str(event) for event in self.events]}>"

    @property
    def reason(self) -> str:
        """Why the pod as a whole failed."""
        return self.failure[0] if self.failure else ""

    @property
    def message(self) -> str:
        """The sentence that goes with the reason."""
        return self.failure[1] if self.failure else ""

    @property
    def init_containers(self) -> list[ContainerStatus]:
        """Init containers and sidecars, in order."""
        return [container for container in self.containers.values() if container.is_init]

    @property
    def app_containers(self) -> list[ContainerStatus]:
        """The other containers, in order."""
        return [container for container in self.containers.values() if not container.is_init]

    @property
    def requests(self) -> dict[str, int]:
        """What the scheduler counts (``PodRequests`` in ``k8s.io/component-helpers/resource``).

        The containers together, or a single init container that wants more; the sidecars with either.
        """
        sidecars: dict[str, int] = {}
        most: dict[str, int] = {}
        for container in self.init_containers:
            if container.is_sidecar:
                _add(sidecars, container.limits)
            needed = dict(sidecars)
            if not container.is_sidecar:
                _add(needed, container.limits)
            most = {name: max(most.get(name, 0), needed.get(name, 0)) for name in most | needed}
        total = dict(sidecars)
        for container in self.app_containers:
            _add(total, container.limits)
        return {name: max(most.get(name, 0), total.get(name, 0)) for name in most | total}

    @property
    def phase(self) -> str:
        """The phase (``getPhase`` in ``pkg/kubelet/kubelet_pods.go``)."""
        if self.failure:
            return "Failed"
        for container in self.init_containers:
            if not container.is_sidecar and not (container.exited and container.exited.exit_code == 0):
                failed = container.exited is not None and self.restart_policy == "Never"
                return "Failed" if failed else "Pending"
        apps = self.app_containers
        if any(isinstance(app.state, Waiting) and app.last_state is None for app in apps):
            return "Pending"
        if any(isinstance(app.state, Running) for app in apps) or self.restart_policy == "Always":
            return "Running"
        exit_codes = [app.exited.exit_code for app in apps if app.exited]
        if not any(exit_codes):
            return "Succeeded"
        return "Failed" if self.restart_policy == "Never" else "Running"

    @property
    def is_over(self) -> bool:
        """Whether nothing will run any more."""
        return self.deleted or self.phase in ("Succeeded", "Failed")

    # What kubectl get pods shows ------------------------------------------------------------------------------------

    @property
    def ready(self) -> str:
        """The READY column, such as ``1/1``."""
        return f"{sum(container.ready for container in self._lasting)}/{len(self._lasting)}"

    @property
    def status(self) -> str:
        """The STATUS column (``printPod`` in ``pkg/printers/internalversion/printers.go``)."""
        if self.failure:
            return self.failure[0]
        if self.deleted:
            return "Terminating"
        if not self.admitted:
            return "Pending"
        initializing = self._init_status()
        if initializing and not self._was_initialized:
            return initializing
        return self._app_status(initializing or self.phase)

    @property
    def _was_initialized(self) -> bool:
        return any(container.created for container in self.app_containers)

    def _init_status(self) -> str:
        """What the init containers and sidecars are at, or nothing when they are done."""
        for done, container in enumerate(self.init_containers):
            state = container.state
            if isinstance(state, Terminated):
                if state.exit_code:
                    return f"Init:{state.reason}"
            elif isinstance(state, Waiting) and state.reason != "PodInitializing":
                return f"Init:{state.reason}"
            elif not (container.is_sidecar and isinstance(state, Running)):
                return f"Init:{done}/{len(self.init_containers)}"
        return ""

    def _app_status(self, reason: str) -> str:
        """The reason of the first container that has one; `reason` when all of them run."""
        failed, running = "", False
        for container in reversed(self.app_containers):
            state = container.state
            if isinstance(state, Running):
                running = True
            else:
                reason = state.reason
            if isinstance(state, Terminated) and state.exit_code:
                failed = reason
        if reason == "Completed" and failed:
            return failed
        if reason == "Completed" and running:
            return "NotReady"
        return reason

    @property
    def restarts(self) -> int:
        """The RESTARTS column, without its age."""
        initializing = bool(self._init_status()) and not self._was_initialized
        counted = self.init_containers if initializing else self._lasting
        return sum(container.restart_count for container in counted)

    @property
    def _lasting(self) -> list[ContainerStatus]:
        """The containers that are there for the pod's life."""
        return [container for container in self.containers.values() if not container.is_init or container.is_sidecar]

    @property
    def row(self) -> str:
        """The line of ``kubectl get pods``, without AGE."""
        return f"{self.name}   {self.ready}   {self.status}   {self.restarts}"

    # What a test does and waits for ---------------------------------------------------------------------------------

    async def running(self, *, timeout_s: float = 10.0) -> "Pod":
        """Wait until every container is ready.

        Raises:
            ConditionNotMet: The time is over, or the pod has failed for good.
        """

        def reached() -> bool | None:
            return self.is_over or all(container.ready for container in self._lasting) or None

        await self._until(reached, "Running and ready", timeout_s)
        if self.is_over:
            raise ConditionNotMet(self._instead("Running and ready"))
        return self

    async def failed(self, *, timeout_s: float = 10.0) -> "Pod":
        """Wait until the phase is Failed.

        Raises:
            ConditionNotMet: The time is over.
        """
        await self._until(lambda: self.phase == "Failed" or None, "Failed", timeout_s)
        return self

    async def succeeded(self, *, timeout_s: float = 10.0) -> "Pod":
        """Wait until the phase is Succeeded.

        Raises:
            ConditionNotMet: The time is over.
        """
        await self._until(lambda: self.phase == "Succeeded" or None, "Succeeded", timeout_s)
        return self

    async def shows(self, status: str, *, timeout_s: float = 10.0) -> "Pod":
        """Wait until the STATUS column says `status`, be it for a moment.

        Raises:
            ConditionNotMet: The time is over.
        """
        await self._until(lambda: self.status == status or None, f"the status {status}", timeout_s)
        return self

    async def event(self, reason: str, *, timeout_s: float = 10.0) -> Event:
        """Wait until there is an event with that reason, and return the newest.

        Raises:
            ConditionNotMet: The time is over.
        """
        return await self._until(
            lambda: next((event for event in reversed(self.events) if event.reason == reason), None),
            f"an event {reason}",
            timeout_s,
        )

    def stop_container(self, name: str | None = None, *, exit_code: int = 137) -> None:
        """Stop a container behind the kubelet's back (``crictl stop``).

        Args:
            name: Which; the first that is no init container when left out.
            exit_code: How a container without a process ends. A process is killed with SIGKILL, which is 137.

        Raises:
            RuntimeError: It does not run.
        """
        container = self.containers[name] if name else self.app_containers[0]
        if not isinstance(container.state, Running) or container.process is None:
            raise RuntimeError(f"{self.name}/{container.name} does not run: {container.state}")
        container.process.kill(exit_code)

    def delete(self) -> None:
        """Delete the pod: its containers are killed, its devices are free again."""
        self.host.delete(self)

    def reject(self, reason: str, message: str, event: str) -> None:
        """Fail the pod as a whole (rejectPod in ``pkg/kubelet/kubelet.go``)."""
        self.failure = (reason, message)
        self.note("Warning", reason, event)
        self.kill()

    def kill(self) -> None:
        """Kill every container."""
        for container in self.containers.values():
            if container.process is not None:
                container.process.kill(137)

    def container_ended(self) -> None:
        """Tell the node that a container has ended."""
        self.host.look_after(self)

    def device_ids(self, resource: str, container: str | None = None) -> frozenset[str]:
        """The ids that the kubelet gave a container, or all of them together."""
        containers = [self.containers[container]] if container else self.containers.values()
        return frozenset().union(*(each.device_ids(resource) for each in containers))

    def holdings(self) -> PodDevices:
        """The device manager's books."""
        return self.host.holdings()

    def note(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Add an event; what repeats the newest one is dropped, as the API server counts it there."""
        if not self.events or (self.events[-1].reason, self.events[-1].message) != (reason, message):
            self.events.append(Event(type=kind, reason=reason, message=message, at_s=self.host.now()))
        self.host.changes.notify()

    async def _until(self, reached: Callable[[], T | None], wanted: str, timeout_s: float) -> T:
        return await self.host.changes.until(reached, timeout_s=timeout_s, unmet=lambda: self._instead(wanted))

    def _instead(self, wanted: str) -> str:
        states = "; ".join(f"{container.name}: {container.state}" for container in self.containers.values())
        events = "\n  ".join(str(event) for event in self.events) or "none"
        return (
            f"The pod {self.name!r} was to be {wanted}. It is {self.status}, {self.ready} ready, {self.restarts} restarts"
            f"{', ' + self.message if self.message else ''}. Containers: {states}. Events:\n  {events}"
        )


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, count in more.items():
        total[name] = total.get(name, 0) + count
