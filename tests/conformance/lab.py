"""Where a case runs: a directory with a kubelet, and the plugins that the case starts. All ends with the lab."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc.aio

from devplugin import DevicePluginBase
from devplugin._proto import v1beta1 as pb
from tests.conformance.fake import FakeAdapter
from tests.conformance.kubelet import Counts, Kubelet, KubeletId
from tests.conformance.real import RealKubelet
from tests.conformance.registry import Case
from tests.conformance.subjects import InProcess, Ours, OursAlone, Sample, Subject
from tests.kubelets.answers import Admission, DeviceNode, Grant, Mount, Pod, Start
from tests.testing.grpcio_plugin import GrpcioPlugin

__all__ = ["TIMEOUT_S", "Lab", "run_case"]

TIMEOUT_S = 40.0
"""For each wait: far more than anything takes, since machines can be busy."""

GRACE_S = 300.0


class Lab:
    """What a case has in hand."""

    def __init__(self, kubelet: Kubelet, stack: AsyncExitStack) -> None:
        self.kubelet = kubelet
        self.directory = kubelet.directory
        self.version = kubelet.version
        self._stack = stack

    # Plugins

    async def serve(self, plugin: DevicePluginBase[Any]) -> InProcess:
        """Start a plugin of ours in this process."""
        serving = InProcess(plugin, self.directory)
        self._stack.push_async_callback(serving.stop)
        await serving.start()
        return serving

    async def start(self, subject: Subject) -> None:
        """Start a subject."""
        self._stack.push_async_callback(subject.stop)
        await subject.start()

    async def raw(self, socket: str, *devices: pb.Device) -> GrpcioPlugin:
        """Serve a plugin with no manners of its own. It registers when it is told to."""
        return await self._stack.enter_async_context(GrpcioPlugin(self.directory, socket, *devices))

    # Waits

    async def offers(self, resource: str, allocatable: int, capacity: int | None = None) -> None:
        """Wait until so many devices are healthy, and so many there at all: the same number unless it is given."""
        wanted = Counts(allocatable if capacity is None else capacity, allocatable)
        await self.kubelet.until(lambda: self.kubelet.counts(resource) == wanted, f"{wanted} of {resource}")

    async def registered(self, resource: str, times: int) -> None:
        """Wait until a resource has been registered so many times in all."""
        await self.kubelet.until(
            lambda: len(self.kubelet.registered(resource)) >= times, f"{times} registrations of {resource}"
        )

    async def ended(self, resource: str, times: int) -> None:
        """Wait until the kubelet has seen so many streams of a resource end in all."""
        await self.kubelet.until(lambda: self.kubelet.ends(resource) >= times, f"{times} ends of streams of {resource}")

    async def listed(self, resource: str, times: int) -> None:
        """Wait until so many lists of a resource have come in all."""
        await self.kubelet.until(lambda: self.kubelet.lists(resource) >= times, f"{times} lists of {resource}")

    async def away(self, resource: str, capacity: int) -> None:
        """Wait until a plugin counts as gone, within its grace."""
        await self.offers(resource, 0, capacity)

    async def forgotten(self, resource: str) -> None:
        """Let the grace of a plugin that has gone pass."""
        await self.kubelet.pass_grace(resource, GRACE_S + 1)
        await self.offers(resource, 0, 0)

    # Pods

    async def run(self, pod: Pod) -> tuple[Admission, dict[str, Start]]:
        """Bring a pod that must be admitted, and start its containers, which must start."""
        admission = await self.kubelet.admit(pod)
        assert admission.admitted, f"{admission.reason}: {admission.event_message}"
        starts = {each.name: await self.started(pod, each.name) for each in (*pod.init_containers, *pod.containers)}
        return admission, starts

    async def started(self, pod: Pod, container: str = "main") -> Start:
        """Start a container, for the first time or again, which must succeed."""
        start = await self.kubelet.start_container(pod, container)
        assert start.started, start
        return start

    async def rejected(self, pod: Pod) -> str:
        """Bring a pod that an allocation must fail, and give why: the words in the middle of its event."""
        return allocation_failure(await self.kubelet.admit(pod), self.version.rejected)


def allocation_failure(admission: Admission, before: str) -> str:
    """Why the allocation failed, from the decision on a pod; all that stands around it is checked."""
    assert not admission.admitted, admission
    assert (admission.phase, admission.reason) == ("Failed", "UnexpectedAdmissionError"), admission
    assert admission.message == before + admission.event_message
    beginning, end = "Allocate failed due to ", ", which is unexpected"
    assert admission.event_message.startswith(beginning), admission
    assert admission.event_message.endswith(end), admission
    return admission.event_message[len(beginning) : -len(end)]


async def refusal(registration: Awaitable[None]) -> str:
    """The text with which the kubelet refuses a registration: always with the status UNKNOWN."""
    try:
        await registration
    except grpc.aio.AioRpcError as error:
        refused = error
    else:
        raise AssertionError("the registration was accepted")
    assert refused.code() == grpc.StatusCode.UNKNOWN, refused
    return refused.details() or ""


def ordered(grant: Grant) -> Grant:
    """The same grant, what has no order sorted."""

    def where(item: Mount | DeviceNode) -> str:
        return item.container_path

    return Grant(
        grant.envs,
        sorted(grant.mounts, key=where),
        sorted(grant.device_nodes, key=where),
        grant.annotations,
        sorted(grant.cdi_devices),
    )


def _kubelet(which: KubeletId, directory: Path, case: Case, timeout_s: float) -> Kubelet:
    kind = FakeAdapter if which.kind == "fake" else RealKubelet
    return kind(directory, which.version, case.options, timeout_s)


def _subject(name: str, case: Case, directory: Path) -> Subject:
    if name == "sample":
        return Sample(directory)
    return OursAlone(directory) if case.kills else Ours(directory)


@asynccontextmanager
async def _open(case: Case, which: KubeletId, timeout_s: float) -> AsyncIterator[Lab]:
    with TemporaryDirectory(prefix="dp-") as scratch:
        directory = Path(scratch) / "device-plugins"
        async with _kubelet(which, directory, case, timeout_s) as kubelet, AsyncExitStack() as stack:
            yield Lab(kubelet, stack)


async def run_case(case: Case, which: KubeletId, subject: str | None = None, *, timeout_s: float = TIMEOUT_S) -> str:
    """Run a case, and give the version of Kubernetes in full.

    Raises:
        Exception: The case failed.
    """
    async with _open(case, which, timeout_s) as lab:
        await case.body(lab, *([_subject(subject, case, lab.directory)] if subject else []))
        return lab.kubelet.release
