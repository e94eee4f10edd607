"""What authors of plugins test with: a kubelet that behaves as the real one does, without a cluster."""

from devplugin.testing._changes import ConditionNotMet
from devplugin.testing._check import Finding, Rule, check_class, check_plugin, rules
from devplugin.testing._clock import Clock
from devplugin.testing._containers import Container, ContainerStatus, Running, Terminated, Waiting
from devplugin.testing._fixtures import Serve
from devplugin.testing._kubelet import FakeKubelet
from devplugin.testing._poddevices import DeviceSpec, Mount, RunOptions
from devplugin.testing._pods import Pod
from devplugin.testing._records import Call, Event, Registration, Resource, Snapshot

__all__ = [
    "Call",
    "Clock",
    "ConditionNotMet",
    "Container",
    "ContainerStatus",
    "DeviceSpec",
    "Event",
    "FakeKubelet",
    "Finding",
    "Mount",
    "Pod",
    "Registration",
    "Resource",
    "Rule",
    "RunOptions",
    "Running",
    "Serve",
    "Snapshot",
    "Terminated",
    "Waiting",
    "check_class",
    "check_plugin",
    "rules",
]
