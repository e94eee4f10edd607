"""What differs between the kubelet's versions, as far as a plugin or a pod can see it."""

from dataclasses import dataclass, replace

__all__ = ["VERSIONS", "Behaviour", "behaviour_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How one version of the kubelet behaves, where versions differ.

    The sources are those of Kubernetes 1.20.2, 1.34.4, 1.35.4, 1.36.3 and 1.37.2, under ``pkg/kubelet``.
    """

    version: str

    dials_inside_register: bool = True
    """Register dials the plugin back before it answers, and asks it for its options
    (``cm/devicemanager/plugin/v1beta1/server.go``, ``handler.go``). 1.20 answers first, dials after that, takes the
    options of the request, and ends only the endpoint whose own stream ended (``cm/devicemanager/manager.go``)."""

    ends_with_caller: bool = True
    """A Register call whose caller gives up is given up (since 1.35). Before, it goes on, and may register the plugin."""

    authority_is_localhost: bool = True
    """The dial-back says ``:authority: localhost`` (``plugin/v1beta1/client.go``, since 1.26). Before, it is the path of
    the socket."""

    cleans_sockets_only: bool = True
    """The start removes sockets from the directory (``CleanupPluginDirectory``, since 1.33). Before, it removes all that
    is neither a directory nor the checkpoint."""

    keyed_by_socket: bool = False
    """A client is known by its resource and its socket (since 1.37, pull request 135437). Before, the end of any stream
    of a resource disconnects the newest client of that resource."""

    checks_health_first: bool = True
    """Allocation is refused when nothing is healthy, or when devices that the container has are no longer healthy
    (``devicesToAllocate``, since 1.25). Before, a container that has its devices passes."""

    unregistered: str = "cannot allocate unregistered device {resource}"
    plain_device_node: int = -1
    """The NUMA node under which the checkpoint files devices without topology."""

    knows_sidecars: bool = True
    """There are init containers that restart and keep their devices (since 1.28)."""

    knows_cdi: bool = True
    """The names of CDI devices reach the container runtime (since 1.28)."""

    wakes_when_backoff_ends: bool = True
    """A container in CrashLoopBackOff is tried again when that ends (since 1.35). Before, every 10 s."""

    empty_answer: str = ""
    """How Go prints an AllocateResponse without containers."""

    preemption: str = " preemption: 0/1 nodes are available: 1 {reason}."
    """What the scheduler's event says after the reasons."""

    rejected: str = "Pod was rejected: {message}"
    created: str = "Container created"
    started: str = "Container started"
    backing_off: str = "Back-off restarting failed container {container} in pod {pod}"


_1_37 = Behaviour(version="1.37", keyed_by_socket=True)
_1_36 = replace(
    _1_37,
    version="1.36",
    keyed_by_socket=False,
    preemption=f" no new claims to deallocate,{_1_37.preemption}",
)
_1_35 = replace(_1_36, version="1.35")
_1_34 = replace(
    _1_35,
    version="1.34",
    ends_with_caller=False,
    wakes_when_backoff_ends=False,
    created="Created container: {container}",
    started="Started container {container}",
)
_1_20 = replace(
    _1_34,
    version="1.20",
    dials_inside_register=False,
    authority_is_localhost=False,
    cleans_sockets_only=False,
    checks_health_first=False,
    unregistered="can't allocate unregistered device {resource}",
    plain_device_node=0,
    knows_sidecars=False,
    knows_cdi=False,
    preemption="",
    empty_answer="&AllocateResponse{ContainerResponses:[]*ContainerAllocateResponse{},}",
    rejected="Pod {message}",
    created="Created container {container}",
    started="Started container {container}",
    backing_off="Back-off restarting failed container",
)

VERSIONS = {behaviour.version: behaviour for behaviour in (_1_20, _1_34, _1_35, _1_36, _1_37)}


def behaviour_of(version: str) -> Behaviour:
    """The behaviour of a version such as ``"1.36"``.

    Raises:
        ValueError: No behaviour is known for that version.
    """
    try:
        return VERSIONS[version]
    except KeyError:
        raise ValueError(
            f"No fake kubelet behaves as version {version!r}; there are {', '.join(VERSIONS)}, of which one must be chosen"
        ) from None
