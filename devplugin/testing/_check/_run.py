"""``check_plugin``: all rules over one plugin, or several that run beside one another."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from devplugin.errors import ConfigurationError
from devplugin.plugin import DevicePluginBase
from devplugin.testing._check._answers import clashes
from devplugin.testing._check._blocking import Watchdog
from devplugin.testing._check._class import check_class, check_instance
from devplugin.testing._check._course import Course, Settings
from devplugin.testing._check._found import Found, own_files_of
from devplugin.testing._check._lists import some
from devplugin.testing._check._rules import RULES, Finding, reasons_to_ignore
from devplugin.testing._kubelet import FakeKubelet

__all__ = ["check_plugin"]

_NOTHING: Mapping[str, str] = MappingProxyType({})


async def check_plugin(
    plugin: DevicePluginBase[Any],
    *others: DevicePluginBase[Any],
    ignore: Mapping[str, str] = _NOTHING,
    unplug: Callable[[], object] | None = None,
    host_root: str | os.PathLike[str] = "/",
    version: str = "1.36",
    watch_s: float = 1.0,
    patience_s: float = 10.0,
) -> list[Finding]:
    """Run a plugin through what kubelets do, and say what is wrong with it.

    It needs no node and leaves nothing behind: the kubelet is a `FakeKubelet` in a temporary directory. The hooks are
    called as on a node, and do what they do there. It takes a second or two, unless the plugin keeps it waiting.

    Args:
        plugin: The plugin. It is enumerated, and then served; it can be used afterwards.
        others: Those that run beside it on a node, each of another resource; they are checked one after the other.
        ignore: The rules that are not to be looked at, by their code, and for each the reason.
        unplug: Takes a device of the first plugin away, to see what that makes of it. It may be a coroutine function.
        host_root: Where the file system of the node is to be seen, its sysfs in it.
        version: Whose behaviour the kubelet shows.
        watch_s: How long to look on, after all else, at the lists that come by themselves, in seconds.
        patience_s: How long to wait for each thing that the plugin should do, in seconds.

    Returns:
        What was found, by code; nothing when all is well.

    Raises:
        ConfigurationError: A code to ignore is unknown or has no reason, a plugin is none, or two are of one resource.
        ValueError: The version is not known.
    """
    ignored = reasons_to_ignore(ignore)
    plugins = (plugin, *others)
    founds = [_by_itself(each) for each in plugins]
    _check_names(plugins)
    settings = Settings(host_root=Path(host_root), watch_s=watch_s, patience_s=patience_s, unplug=unplug)
    with TemporaryDirectory(prefix="dp-check-") as directory, _watching(plugins, founds[0]):
        async with FakeKubelet(directory, version) as kubelet:
            courses = [Course(kubelet, plugin, founds[0], settings)]
            alone = replace(settings, unplug=None)
            courses += [Course(kubelet, each, found, alone) for each, found in zip(others, founds[1:], strict=True)]
            for course in courses:
                await course.run()
    findings = {finding for found in founds for finding in found.all()} | {*_side_by_side(courses, founds)}
    return sorted((each for each in findings if each.code not in ignored), key=lambda each: (each.code, each.subject))


def _by_itself(plugin: DevicePluginBase[Any]) -> Found:
    """What the class and the instance say before anything of it is called: DP101 to DP104."""
    if not isinstance(plugin, DevicePluginBase):
        raise ConfigurationError(
            f"check_plugin() takes plugin objects, and {plugin!r} is none: is a pair of brackets missing?"
        )
    found = Found(plugin)
    found.take([*check_class(type(plugin)), *check_instance(plugin)])
    return found


def _check_names(plugins: Sequence[DevicePluginBase[Any]]) -> None:
    names = [getattr(each, "resource_name", None) for each in plugins]
    for name in names:
        if name and names.count(name) > 1:
            raise ConfigurationError(f"two plugins for the resource {name!r}: a resource has one plugin on a node")


@contextmanager
def _watching(plugins: Iterable[DevicePluginBase[Any]], found: Found) -> Iterator[None]:
    """DP401 for whatever of the plugins holds the event loop meanwhile."""
    with Watchdog(frozenset().union(*map(own_files_of, plugins))) as watchdog:
        yield
    for place, held_s in watchdog.blocked_s.items():
        found.add("DP401", f"the event loop was held for {held_s:.1f} s or longer: {place.source}", str(place))


def _side_by_side(courses: Sequence[Course], founds: Sequence[Found]) -> Iterator[Finding]:
    """DP207 and DP305 between resources."""
    for (one, found), (other, other_found) in combinations(zip(courses, founds, strict=True), 2):
        subject = f"{found.name} and {other_found.name}"
        shared = [each for each in one.ids if each in set(other.ids)]
        if shared:
            yield RULES["DP207"].finding(subject, f"both have {some(shared)}")
        names = sorted({name for a in one.answers.values() for b in other.answers.values() for name in clashes(a, b)})
        if names:
            yield RULES["DP305"].finding(
                subject, f"a container with devices of both gets one value only of {some(names)}"
            )
