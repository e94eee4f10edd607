"""An asyncio framework for Kubernetes device plugins."""

from devplugin.errors import (
    AllocationError,
    ConfigurationError,
    DevicePluginError,
    KubeletError,
    KubeletUnavailable,
    RegistrationRejected,
    UnhealthyDevice,
    UnknownDevice,
)
from devplugin.model import Allocation, Device, DeviceNode, Health, Mount, PreferredAllocationRequest
from devplugin.plugin import DevicePluginBase
from devplugin.run import run

__all__ = [
    "Allocation",
    "AllocationError",
    "ConfigurationError",
    "Device",
    "DeviceNode",
    "DevicePluginBase",
    "DevicePluginError",
    "Health",
    "KubeletError",
    "KubeletUnavailable",
    "Mount",
    "PreferredAllocationRequest",
    "RegistrationRejected",
    "UnhealthyDevice",
    "UnknownDevice",
    "run",
]
