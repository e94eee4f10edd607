"""The node: its pods, which outlive the kubelet's runs, and the scheduler that binds them to it."""

import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from devplugin.testing._changes import Changes
from devplugin.testing._clock import Clock
from devplugin.testing._containers import Container
from devplugin.testing._poddevices import PodDevices
from devplugin.testing._pods import Pod, RestartPolicy
from devplugin.testing._records import Resource
from devplugin.testing._scheduler import NODE_NAME, why_not
from devplugin.testing._versions import Behaviour

if TYPE_CHECKING:
    from devplugin.testing._run import KubeletRun

__all__ = ["Node"]


class Node:
    """The one node of the cluster.

    Attributes:
        changes: Those who wait for something to be so on it.
        run: The kubelet, while it runs.
    """

    def __init__(self, behaviour: Behaviour, clock: Clock) -> None:
        self.changes = Changes()
        self.run: KubeletRun | None = None
        self._behaviour = behaviour
        self._clock = clock
        self._pods: dict[str, Pod] = {}
        self._uids = itertools.count(1)

    def __repr__(self) -> str:
        return f"<Node with {len(self._pods)} pods, {self.run or 'no kubelet'}>"

    @property
    def pods(self) -> Mapping[str, Pod]:
        """The pods by name."""
        return MappingProxyType(self._pods)

    @property
    def bound(self) -> list[Pod]:
        """The pods that were given to the kubelet and are not over, oldest first."""
        return [pod for pod in self._pods.values() if pod.bound and not pod.is_over]

    @property
    def resources(self) -> Mapping[str, Resource]:
        """The status of the node."""
        return self.run.manager.resources() if self.run else {}

    def create(
        self,
        name: str,
        containers: Sequence[Container],
        init_containers: Sequence[Container],
        restart_policy: RestartPolicy,
        *,
        bound: bool,
    ) -> Pod:
        """Add a pod; see `FakeKubelet.create_pod`."""
        if name in self._pods:
            raise ValueError(f"There is a pod {name!r} already: {self._pods[name]!r}")
        pod = Pod(self, name, f"{name}-{next(self._uids)}", containers, init_containers, restart_policy)
        self._pods[name] = pod
        if bound:
            self._bind(pod)
        self.look_around()
        return pod

    def delete(self, pod: Pod) -> None:
        """Remove a pod; see `Pod.delete`."""
        pod.deleted = True
        self._pods.pop(pod.name, None)
        pod.kill()
        self.look_after(pod)

    def look_after(self, pod: Pod) -> None:
        """Something has happened to a pod: wake its worker, and see whether others fit now."""
        if self.run is not None:
            self.run.wake(pod)
        self.look_around()

    def look_around(self) -> None:
        """Schedule what fits, and look at every condition that is waited for."""
        if self.run is not None:
            for pod in list(self._pods.values()):
                if not pod.bound:
                    self._schedule(pod)
        self.changes.notify()

    def _schedule(self, pod: Pod) -> None:
        reason = why_not(pod, self.bound, self.resources, self._behaviour)
        if reason is not None:
            pod.note("Warning", "FailedScheduling", reason)
        else:
            pod.note("Normal", "Scheduled", f"Successfully assigned default/{pod.name} to {NODE_NAME}")
            self._bind(pod)

    def _bind(self, pod: Pod) -> None:
        pod.bound = True
        if self.run is not None:
            self.run.admit(pod)

    def now(self) -> float:
        """The time on the kubelet's clock."""
        return self._clock.now()

    def holdings(self) -> PodDevices:
        """Which container has which devices, by the kubelet that runs."""
        return self.run.manager.pod_devices if self.run else PodDevices()
