"""The narrow interface through which the suite sees every kubelet, real or fake.

Whatever a case asks of a kubelet goes through `Kubelet`, so that the same case with the same expectation runs on both
kinds. What differs between versions of Kubernetes, a case asks of `Version`; it never asks which kind it runs on.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

from tests.kubelets.answers import Admission, Grant, Hints, Pod, Start

__all__ = ["KUBELETS", "Counts", "Kubelet", "KubeletId", "Seen", "Version"]

Kind = Literal["fake", "real"]
Outage = Literal["stop", "kill"]


@dataclass(frozen=True, order=True, slots=True)
class Version:
    """A minor version of Kubernetes, and what it does in its own way.

    Each property names the change in Kubernetes that it comes from; the suite sees both sides of each.
    """

    major: int
    minor: int

    @classmethod
    def of(cls, text: str) -> Self:
        major, minor = text.split(".")[:2]
        return cls(int(major), int(minor))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def _modern(self) -> bool:
        return self >= Version(1, 25)

    @property
    def dials_inside_register(self) -> bool:
        """Register answers when it has connected to the plugin and has its options (1.25); before, at once."""
        return self._modern

    @property
    def gives_register_up_with_its_caller(self) -> bool:
        """A Register whose caller went away is given up (1.35)."""
        return self >= Version(1, 35)

    @property
    def late_end_takes_the_new_registration(self) -> bool:
        """The end of an older stream disconnects whoever registered the resource last (1.25 to 1.36; pull request 135437)."""
        return self._modern and not self.knows_sockets

    @property
    def knows_sockets(self) -> bool:
        """A registration is known by its resource and its socket (1.37; pull request 135437)."""
        return self >= Version(1, 37)

    @property
    def checks_health_first(self) -> bool:
        """Admission looks at the health of the devices before it counts them (1.25)."""
        return self._modern

    @property
    def crashes_over_a_device_that_went(self) -> bool:
        """A device that is left out of the list during its allocation is a nil pointer then (seen from 1.34 to 1.37)."""
        return self >= Version(1, 34)

    @property
    def unregistered(self) -> str:
        """How a resource is called that nobody offers any more."""
        return "cannot allocate unregistered device" if self._modern else "can't allocate unregistered device"

    @property
    def rejected(self) -> str:
        """What stands before the reason in the status of a pod that was rejected."""
        return "Pod was rejected: " if self._modern else "Pod "

    @property
    def knows_cdi(self) -> bool:
        """Names of CDI devices reach the container (1.28)."""
        return self >= Version(1, 28)

    @property
    def removes_sockets_only(self) -> bool:
        """The clean-up at the kubelet's start removes nothing but sockets (1.33); before, files too."""
        return self >= Version(1, 33)


@dataclass(frozen=True, slots=True)
class KubeletId:
    """One of the kubelets that the suite runs on."""

    kind: Kind
    version: Version

    def __str__(self) -> str:
        return f"{self.kind}-{self.version}"


VERSIONS = tuple(map(Version.of, ("1.20", "1.34", "1.35", "1.36", "1.37")))
KUBELETS = tuple(KubeletId(kind, version) for version in VERSIONS for kind in ("fake", "real"))


@dataclass(frozen=True, slots=True)
class Counts:
    """A resource in the node's status: all devices, and the healthy ones."""

    capacity: int
    allocatable: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A device in the kubelet's books: what was reported, and its NUMA nodes (None: no topology)."""

    healthy: bool
    nodes: tuple[int, ...] | None


class Kubelet(Protocol):
    """A kubelet on a device plugin directory, as an async context manager: it is started on the way in.

    Waits end in an error that says what was seen. `pod` is always the value that was admitted before.
    """

    version: Version
    directory: Path
    timeout_s: float
    """Real seconds for each wait."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *error: object) -> None: ...

    @property
    def release(self) -> str:
        """The version of Kubernetes in full."""

    # Its life

    async def stop(self) -> None:
        """End it in an orderly way: connections are closed."""

    async def kill(self) -> None:
        """End it with SIGKILL, or what is the same to others."""

    async def start(self) -> None:
        """Start it again on its directory; it finds the pods that were there, their containers running."""

    async def reboot(self, *, before_pods: Callable[[], Awaitable[None]] | None = None) -> None:
        """End it with all containers, and start it again; `before_pods` is done before it hears of its pods."""

    # What it knows

    def counts(self, resource: str) -> Counts:
        """The resource in the node's status; 0 of 0 if it is not there."""

    def knows(self, resource: str) -> bool:
        """Whether the node's status has the resource, be it with 0."""

    def registered(self, resource: str) -> Sequence[str]:
        """The sockets' file names of all registrations that were accepted since the suite's start, oldest first."""

    def lists(self, resource: str) -> int:
        """How many lists the plugins of a resource have sent."""

    def ends(self, resource: str) -> int:
        """How many of their streams have ended. Before 1.25, one that ended shortly before the next began may be missed."""

    async def books(self, resource: str) -> Mapping[str, Seen]:
        """Its devices by id."""

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until `condition` holds, which is looked at whenever something changes.

        Raises:
            TimeoutError: It did not in `timeout_s`.
        """

    async def pass_grace(self, resource: str, seconds: float) -> None:
        """Let time pass for a resource whose plugin has gone; its grace is 300 s."""

    # Pods

    async def admit(self, pod: Pod) -> Admission:
        """Bring a pod to the node, past the scheduler."""

    async def decision(self, pod: Pod) -> Admission:
        """The newest decision on the pod: it is admitted anew by each start."""

    async def start_container(self, pod: Pod, container: str = "main") -> Start:
        """The container's next start: the first, or one more after its end. An init container has succeeded then."""

    async def finish(self, pod: Pod) -> None:
        """The pod's containers end, and it has succeeded."""

    async def remove(self, pod: Pod) -> None:
        """The pod is deleted."""

    async def holders(self, resource: str) -> Mapping[str, frozenset[str]]:
        """The ids of a resource by the name of the pod that has them."""

    async def device_health(self, pod: Pod, resource: str) -> Mapping[str, str]:
        """The health of the first container's devices in the pod's status, by id."""

    async def hints(self, pod: Pod) -> Hints:
        """The NUMA nodes on which the pod's devices could be had."""

    async def allocatable_in_pod_resources(self, resource: str) -> frozenset[str]:
        """What GetAllocatableResources of the pod resources API lists."""


_POINTERS = re.compile(r"endpoint &?\{.*\} has been stopped")


def plain(text: str) -> str:
    """A message without what Go prints of a structure's inside."""
    return _POINTERS.sub("endpoint … has been stopped", text)


def nothing_granted() -> Grant:
    return Grant({}, [], [], {}, [])
