"""The errors of devplugin, and who must act on each.

DevicePluginError
├── ConfigurationError        the plugin's author or whoever deploys it: a value or a permission is wrong
├── AllocationError           expected; the pod's owner reads its text in an event of the pod
│   ├── UnknownDevice
│   └── UnhealthyDevice
└── KubeletError              what the kubelet did, or where it should be
    ├── KubeletUnavailable    expected; retried for ever, never raised by ``serve()``
    └── RegistrationRejected  the kubelet will never accept this plugin as it is: ``serve()`` ends
"""

__all__ = [
    "AllocationError",
    "ConfigurationError",
    "DevicePluginError",
    "KubeletError",
    "KubeletUnavailable",
    "RegistrationRejected",
    "UnhealthyDevice",
    "UnknownDevice",
]


class DevicePluginError(Exception):
    """The root of all errors that devplugin raises on purpose."""


class ConfigurationError(DevicePluginError, ValueError):
    """A value is not usable, or the system does not let the plugin do its work.

    The text quotes the value and says the rule, or names the path and the user.
    """


class AllocationError(DevicePluginError):
    """The devices cannot be given to this container.

    Raise it from ``allocate`` or ``pre_start_container`` with a sentence for the pod's owner: the kubelet puts the text
    into an event of the pod.
    """


class UnknownDevice(AllocationError):
    """The kubelet asked for an id that the newest snapshot does not have."""


class UnhealthyDevice(AllocationError):
    """The kubelet asked for a device that the newest snapshot calls unhealthy."""


class KubeletError(DevicePluginError):
    """Something is wrong between the plugin and the kubelet."""


class KubeletUnavailable(KubeletError):
    """No kubelet answers at the moment. It is waited for."""


class RegistrationRejected(KubeletError):
    """The kubelet refused the registration for a reason that no retry mends: the API's version, or the name."""
