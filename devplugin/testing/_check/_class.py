"""What a plugin's class says by itself, without an instance: names, signatures, and what is async."""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from difflib import SequenceMatcher
from types import FunctionType
from typing import Any

from devplugin.errors import ConfigurationError
from devplugin.model import check_resource_name
from devplugin.plugin import DevicePluginBase
from devplugin.testing._check._rules import RULES, Finding

__all__ = ["broken_hooks", "check_class", "check_instance"]

_ARGUMENTS = {"devices": 0, "allocate": 1, "preferred_allocation": 1, "pre_start_container": 1}
_SETTINGS = (
    "resource_name",
    "allocate_timeout_s",
    "preferred_allocation_timeout_s",
    "pre_start_container_timeout_s",
)
# What other frameworks and the protocol call them, without case and underscores.
_OTHERS_NAMES = {
    "listandwatch": "devices",
    "getdevices": "devices",
    "listdevices": "devices",
    "enumerate": "devices",
    "getpreferredallocation": "preferred_allocation",
    "prestart": "pre_start_container",
    "resource": "resource_name",
}
_NEAR = 0.85


def check_class(plugin: type[DevicePluginBase[Any]]) -> list[Finding]:
    """What can be said of a plugin by its class alone: DP101 to DP104.

    Args:
        plugin: The class. No instance is made of it.
    """
    attributes = _attributes(plugin)
    hooks = {name: value for name, value in attributes.items() if callable(_bare(value))}
    settings = {name: value for name, value in attributes.items() if name not in hooks}
    findings = [*_near(plugin, hooks, _ARGUMENTS), *_near(plugin, settings, _SETTINGS)]
    for hook, count in _ARGUMENTS.items():
        if hook in attributes:
            findings += _check_hook(plugin, hook, attributes[hook], count)
    if isinstance(attributes.get("resource_name"), str):  # otherwise __init__ may set it
        findings += _check_name(plugin, attributes["resource_name"])
    return findings


def check_instance(plugin: DevicePluginBase[Any]) -> Iterator[Finding]:
    """What else an instance says before anything of it is called: DP101, DP102 and DP104."""
    kind = type(plugin)
    values: Mapping[str, object] = getattr(plugin, "__dict__", {})
    yield from _near(kind, values, _SETTINGS)
    for hook in _ARGUMENTS:
        if hook in values and not callable(values[hook]):
            yield RULES["DP102"].finding(f"{kind.__name__}.{hook}", "an attribute of this name hides the hook")
    yield from _check_name(kind, getattr(plugin, "resource_name", None))


def broken_hooks(plugin: DevicePluginBase[Any]) -> set[str]:
    """The hooks that cannot be called: DP102 or DP103 says why."""
    attributes, values = _attributes(type(plugin)), getattr(plugin, "__dict__", {})
    hidden = {hook for hook in _ARGUMENTS if hook in values and not callable(values[hook])}
    overridden = {hook: count for hook, count in _ARGUMENTS.items() if hook in attributes}
    return hidden | {
        hook for hook, count in overridden.items() if any(_check_hook(type(plugin), hook, attributes[hook], count))
    }


def _check_name(plugin: type, name: object) -> Iterator[Finding]:
    try:
        check_resource_name(name)
    except ConfigurationError as error:
        yield RULES["DP104"].finding(f"{plugin.__name__}.resource_name", str(error))


def _place_of(function: Callable[..., Any]) -> str:
    """Where a function is written, as `` (file.py:12)``; nothing when that is not known."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f" ({code.co_filename}:{code.co_firstlineno})" if code else ""


def _attributes(plugin: type) -> dict[str, object]:
    """What the class and its bases below ours define; the nearest counts."""
    found: dict[str, object] = {}
    for base in plugin.__mro__:
        if base not in DevicePluginBase.__mro__:
            found = {**vars(base), **found}
    return found


def _bare(value: object) -> Any:
    return value.__func__ if isinstance(value, staticmethod | classmethod) else value


def _near(plugin: type, values: Mapping[str, object], wanted: Collection[str]) -> Iterator[Finding]:
    own = _attributes(plugin)
    for name, value in values.items():
        if name.startswith("_") or hasattr(DevicePluginBase, name) or name in wanted:
            continue
        meant = _meant(name, wanted)
        if meant is not None and meant not in own:  # whoever has the real one may have a similar one beside it
            place = _place_of(_bare(value)) if callable(_bare(value)) else ""
            yield RULES["DP101"].finding(f"{plugin.__name__}.{name}{place}", f"its name is nearly that of {meant!r}")


def _meant(name: str, wanted: Collection[str]) -> str | None:
    plain = _plain(name)
    if _OTHERS_NAMES.get(plain) in wanted:
        return _OTHERS_NAMES[plain]
    ratios = {each: SequenceMatcher(None, plain, _plain(each)).ratio() for each in wanted}
    best = max(ratios, key=ratios.__getitem__)
    return best if ratios[best] >= _NEAR else None


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _check_hook(plugin: type, hook: str, value: object, count: int) -> Iterator[Finding]:
    function = _bare(value)
    subject = f"{plugin.__name__}.{hook}"
    if not callable(function):
        yield RULES["DP102"].finding(subject, f"it is no method, but {function!r}")
        return
    subject += _place_of(function)
    given = [object()] * (count if isinstance(value, staticmethod) else count + 1)  # self, or the class
    signature = inspect.signature(function)
    try:
        signature.bind(*given)
    except TypeError as error:
        yield RULES["DP102"].finding(subject, f"it cannot be called as devplugin calls it: {error}")
    returned = inspect.unwrap(function)
    if isinstance(returned, FunctionType) and not _is_async(hook, returned, signature):
        what = "an async generator" if hook == "devices" else "a coroutine function"
        yield RULES["DP103"].finding(subject, f"it is not {what}")


def _is_async(hook: str, function: FunctionType, signature: inspect.Signature) -> bool:
    """Whether it may return what is awaited (or iterated over): a plain function can, and its annotation says so."""
    if hook == "devices" and inspect.isasyncgenfunction(function):
        return True
    if inspect.iscoroutinefunction(function):
        return hook != "devices"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return False
    return any(word in str(signature.return_annotation) for word in ("Async", "Awaitable", "Coroutine"))
