"""The scheduler's part: does a pod fit on the one node there is (kube-scheduler, ``noderesources/fit.go``)?"""

from collections.abc import Collection, Mapping

from devplugin.testing._pods import Pod
from devplugin.testing._records import Resource
from devplugin.testing._versions import Behaviour

__all__ = ["NODE_NAME", "why_not"]

NODE_NAME = "fake-node"


def why_not(pod: Pod, bound: Collection[Pod], resources: Mapping[str, Resource], behaviour: Behaviour) -> str | None:
    """The text of the event FailedScheduling, or None when the pod fits beside those that are bound.

    Sources: ``pkg/scheduler/framework/types.go`` (FitError), and the PostFilter messages of
    ``plugins/dynamicresources`` and ``plugins/defaultpreemption``.
    """
    lacking: list[str] = []
    hopeless = False
    for name, requested in sorted(pod.requests.items()):
        there = resources[name].allocatable if name in resources else 0
        used = sum(other.requests.get(name, 0) for other in bound)
        if requested > there - used:
            lacking.append(f"1 Insufficient {name}")
            hopeless = hopeless or requested > there
    if not lacking:
        return None
    preemption = (
        "Preemption is not helpful for scheduling" if hopeless else "No preemption victims found for incoming pod"
    )
    return f"0/1 nodes are available: {', '.join(lacking)}." + behaviour.preemption.format(reason=preemption)
