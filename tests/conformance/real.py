"""A real kubelet's device manager behind the suite's interface."""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.conformance.kubelet import Counts, Seen, Version
from tests.kubelets.answers import Admission, Event, Hints, Pod, Start
from tests.kubelets.build import binary
from tests.kubelets.driver import DeviceManager, DriverError, Options

BUILD = "tests/kubelets/build"


class RealKubelet:
    """The device manager of one version of Kubernetes: a process for each of its lives."""

    def __init__(self, directory: Path, version: Version, options: Options, timeout_s: float) -> None:
        program = binary(str(version))
        if not program.exists():
            raise FileNotFoundError(
                f"The device manager of Kubernetes {version} is not built: run '{BUILD} {version}' ({program})"
            )
        self.version = version
        self.directory = directory
        self.timeout_s = timeout_s
        self._manager = DeviceManager(program, directory, options)
        self._before: list[Event] = []
        self._pods: dict[str, Pod] = {}
        self._decisions: dict[str, Admission] = {}

    def __repr__(self) -> str:
        return f"<RealKubelet {self._manager!r}>"

    async def __aenter__(self) -> Self:
        await self._manager.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._manager.kill()

    @property
    def release(self) -> str:
        return self._manager.kubernetes

    async def stop(self) -> None:
        await self._manager.quit()

    async def kill(self) -> None:
        await self._manager.kill()

    async def start(self) -> None:
        running = {
            uid: [name for name in names if name not in _done(self._pods[uid])]
            for uid, names in self._manager.running.items()
            if uid in self._pods
        }
        await self._start(running, None)

    async def reboot(self, *, before_pods: Callable[[], Awaitable[None]] | None = None) -> None:
        await self._manager.kill()
        await self._start({}, before_pods)

    async def _start(
        self, running: Mapping[str, Sequence[str]], before_pods: Callable[[], Awaitable[None]] | None
    ) -> None:
        self._before += self._manager.events
        self._manager = self._manager.successor(running=running)
        await self._manager.__aenter__()
        if before_pods is not None:
            await before_pods()
        pods = list(self._pods.values())
        for pod, decision in zip(pods, await self._manager.adopt(pods, timeout_s=self.timeout_s), strict=True):
            self._note(pod, decision)

    def _note(self, pod: Pod, decision: Admission) -> None:
        self._decisions[pod.uid] = decision
        if decision.admitted:
            self._pods[pod.uid] = pod
        else:
            self._pods.pop(pod.uid, None)

    def counts(self, resource: str) -> Counts:
        manager = self._manager
        if not manager.alive:
            return Counts(0, 0)
        return Counts(manager.node.capacity.get(resource, 0), manager.node.allocatable.get(resource, 0))

    def knows(self, resource: str) -> bool:
        return resource in self._manager.node.capacity

    def registered(self, resource: str) -> Sequence[str]:
        return [os.path.basename(event.fields["socket"]) for event in self._events("connected", resource)]  # noqa: PTH119

    def lists(self, resource: str) -> int:
        return len(self._events("list", resource))

    def ends(self, resource: str) -> int:
        return len(self._events("disconnected", resource))

    def _events(self, name: str, resource: str) -> list[Event]:
        seen = [*self._before, *self._manager.events]
        return [event for event in seen if event.name == name and event.fields["resource"] == resource]

    async def books(self, resource: str) -> Mapping[str, Seen]:
        devices = (await self._manager.state()).devices.get(resource, {})
        return {key: Seen(device.healthy, device.nodes) for key, device in devices.items()}

    async def until(self, condition: Callable[[], object], what: str) -> None:
        try:
            await self._manager.until(lambda: bool(condition()), what, self.timeout_s)
        except DriverError as error:
            raise TimeoutError(str(error)) from error

    async def pass_grace(self, resource: str, seconds: float) -> None:
        await self._manager.age(resource, seconds)

    async def admit(self, pod: Pod) -> Admission:
        self._pods[pod.uid] = pod  # also when the kubelet dies over it
        decision = await self._manager.allocate(pod, timeout_s=self.timeout_s)
        self._note(pod, decision)
        return decision

    async def decision(self, pod: Pod) -> Admission:
        return self._decisions[pod.uid]

    async def start_container(self, pod: Pod, container: str = "main") -> Start:
        return await self._manager.start(pod, container, timeout_s=self.timeout_s)

    async def finish(self, pod: Pod) -> None:
        self._pods.pop(pod.uid)
        await self._manager.finish_pod(pod)

    async def remove(self, pod: Pod) -> None:
        self._pods.pop(pod.uid)
        if self._manager.alive:
            await self._manager.remove_pod(pod)

    async def holders(self, resource: str) -> Mapping[str, frozenset[str]]:
        pods = (await self._manager.pod_resources()).pods
        held = {
            name: frozenset(
                key
                for devices in containers.values()
                for device in devices
                for key in device.ids
                if device.resource == resource
            )
            for name, containers in pods.items()
        }
        return {name: ids for name, ids in held.items() if ids}

    async def device_health(self, pod: Pod, resource: str) -> Mapping[str, str]:
        status = (await self._manager.resource_health(pod)).containers
        return status[pod.containers[0].name].get(resource, {})

    async def hints(self, pod: Pod) -> Hints:
        return await self._manager.hints(pod)

    async def allocatable_in_pod_resources(self, resource: str) -> frozenset[str]:
        listed = (await self._manager.pod_resources()).allocatable
        assert listed is not None
        return frozenset(key for device in listed if device.resource == resource for key in device.ids)


def _done(pod: Pod) -> set[str]:
    """The init containers that have succeeded once the pod runs."""
    return {container.name for container in pod.init_containers if not container.restart_policy}
