"""`FakeKubelet` behind the suite's interface."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Never, Self

from devplugin.testing import Container as FakeContainer
from devplugin.testing import ContainerStatus, FakeKubelet, Running, Waiting
from devplugin.testing import Pod as FakePod
from tests.conformance.kubelet import Counts, Seen, Version, nothing_granted
from tests.kubelets.answers import Admission, Allotment, Container, DeviceNode, Grant, Hints, Mount, Pod, Start
from tests.kubelets.driver import Options

_LOOK_S = 0.005
_RETRY_S = 10.0  # the longest pause before the pod worker tries again
_FAILED = "CreateContainerConfigError"


class FakeAdapter:
    """One `FakeKubelet` with its pods, which run without being told to; so a start that was seen is waited for only."""

    def __init__(self, directory: Path, version: Version, options: Options, timeout_s: float) -> None:
        del options  # it has no NUMA nodes and no feature gates
        self.version = version
        self.directory = directory
        self.timeout_s = timeout_s
        self._fake = FakeKubelet(directory, str(version))
        self._pods: dict[str, FakePod] = {}
        self._seen: dict[tuple[str, str], object] = {}
        self._back_off_s: dict[tuple[str, str], float] = {}
        self._flushes = 0

    def __repr__(self) -> str:
        return repr(self._fake)

    async def __aenter__(self) -> Self:
        await self._fake.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._fake.__aexit__(None, None, None)

    @property
    def release(self) -> str:
        return f"as {self.version}"

    async def stop(self) -> None:
        await self._fake.stop()

    async def kill(self) -> None:
        await self._fake.kill()

    async def start(self) -> None:
        await self._fake.start()
        await self._admissions_done()

    async def reboot(self, *, before_pods: Callable[[], Awaitable[None]] | None = None) -> None:
        if before_pods is not None:
            self._lacks("admits its pods in the moment of its start")
        await self._fake.kill()
        for pod in self._pods.values():
            pod.kill()
        await self.start()

    async def _admissions_done(self) -> None:
        """Wait until the pods that were there have been admitted: one that comes later is admitted later."""
        self._flushes += 1
        last = self._fake.create_pod(f"flush-{self._flushes}", {}, bound=True)
        await self.until(lambda: last.admitted, "The admission of the pods that were there")
        last.delete()

    def counts(self, resource: str) -> Counts:
        seen = self._fake.resources.get(resource)
        return Counts(seen.capacity, seen.allocatable) if seen else Counts(0, 0)

    def knows(self, resource: str) -> bool:
        return resource in self._fake.resources

    def registered(self, resource: str) -> Sequence[str]:
        return [seen.endpoint for seen in self._fake.registrations if seen.resource == resource and seen.error is None]

    def lists(self, resource: str) -> int:
        return sum(seen.resource == resource for seen in self._fake.snapshots)

    def ends(self, resource: str) -> int:
        beginning = f"ListAndWatch ended unexpectedly for device plugin {resource}:"
        return sum(line.startswith(beginning) for line in self._fake.log)

    async def books(self, resource: str) -> Mapping[str, Seen]:
        newest = [seen for seen in self._fake.snapshots if seen.resource == resource][-1:]
        healthy = self._fake.resources[resource].healthy
        return {key: Seen(key in healthy, seen.numa_nodes.get(key)) for seen in newest for key in seen.devices}

    async def until(self, condition: Callable[[], object], what: str) -> None:
        await self._fake.until(condition, what, timeout_s=self.timeout_s)

    async def pass_grace(self, resource: str, seconds: float) -> None:
        del resource  # all clocks are one
        self._fake.clock.advance(seconds)

    async def admit(self, pod: Pod) -> Admission:
        fake = self._fake.create_pod(
            pod.name,
            containers=[_container(each) for each in pod.containers],
            init_containers=[_container(each) for each in pod.init_containers],
            restart_policy="OnFailure",
            bound=True,
        )
        self._pods[pod.uid] = fake
        async with asyncio.timeout(self.timeout_s):
            while not (fake.admitted or fake.failure):  # noqa: ASYNC110 - nobody is told of an admission as such
                await asyncio.sleep(_LOOK_S)
        return await self.decision(pod)

    async def decision(self, pod: Pod) -> Admission:
        fake = self._pods[pod.uid]
        return Admission(
            uid=pod.uid,
            admitted=fake.failure is None,
            phase=fake.phase if fake.failure else "Pending",
            reason=fake.reason,
            message=fake.message,
            event_message=next((event.message for event in fake.events if event.reason == fake.reason), ""),
            containers={
                name: Allotment(name, status.is_init, _devices(status), None)
                for name, status in fake.containers.items()
            },
        )

    async def start_container(self, pod: Pod, container: str = "main") -> Start:
        fake = self._pods[pod.uid]
        status = fake.containers[container]
        seen = self._seen.get((pod.uid, container))
        if seen is not None and status.ready:
            fake.stop_container(container)
        elif seen is not None:
            self._fake.clock.advance(_RETRY_S)
        await self._started_or_failed(status, seen)
        self._seen[pod.uid, container] = status.state
        if isinstance(status.state, Waiting):
            message = status.state.message
            return Start(container, False, _devices(status), nothing_granted(), _FAILED, message, message)
        if status.is_init and not status.is_sidecar:
            fake.stop_container(container, exit_code=0)
        return Start(container, True, _devices(status), _grant(status), "", "", "")

    async def _started_or_failed(self, status: ContainerStatus, seen: object) -> None:
        """Wait until the newest start is over, and let the back-off's time pass."""

        def is_over() -> bool:
            state = status.state
            return state is not seen and (isinstance(state, Running) or status.reason == _FAILED)

        def waits() -> bool:
            return status.reason == "CrashLoopBackOff"

        while not is_over():
            await self.until(lambda: is_over() or waits(), f"A start of {status!r}")
            if waits():
                await self._pass_back_off(status)

    async def _pass_back_off(self, status: ContainerStatus) -> None:
        crashed, container = status.state, (status.pod_uid, status.name)
        delay_s = self._back_off_s.get(container, _RETRY_S)
        self._back_off_s[container] = 2 * delay_s
        self._fake.clock.advance(delay_s)
        await self.until(lambda: status.state is not crashed, f"The next start of {status!r}")

    async def finish(self, pod: Pod) -> None:
        fake = self._pods[pod.uid]
        for status in fake.app_containers:
            fake.stop_container(status.name, exit_code=0)
        await fake.succeeded(timeout_s=self.timeout_s)

    async def remove(self, pod: Pod) -> None:
        self._pods[pod.uid].delete()

    async def holders(self, resource: str) -> Mapping[str, frozenset[str]]:
        held = {pod.name: pod.device_ids(resource) for pod in self._pods.values() if not pod.is_over}
        return {name: ids for name, ids in held.items() if ids}

    async def device_health(self, pod: Pod, resource: str) -> Mapping[str, str]:
        del pod, resource
        self._lacks("shows no device health in a pod's status")

    async def hints(self, pod: Pod) -> Hints:
        del pod
        self._lacks("has no topology manager")

    async def allocatable_in_pod_resources(self, resource: str) -> frozenset[str]:
        del resource
        self._lacks("serves no pod resources API")

    def _lacks(self, what: str) -> Never:
        raise NotImplementedError(f"the fake kubelet {what}: say so in the case")


def _container(container: Container) -> FakeContainer:
    return FakeContainer(container.name, container.limits, restarts=container.restart_policy == "Always")


def _devices(status: ContainerStatus) -> dict[str, list[str]]:
    held = {resource: sorted(status.device_ids(resource)) for resource in status.limits}
    return {resource: ids for resource, ids in held.items() if ids}


def _grant(status: ContainerStatus) -> Grant:
    options = status.options
    return Grant(
        options.envs,
        [Mount(mount.container_path, mount.host_path, mount.read_only) for mount in options.mounts],
        [DeviceNode(node.container_path, node.host_path, node.permissions) for node in options.devices],
        options.annotations,
        options.cdi_devices,
    )
