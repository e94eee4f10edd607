"""The rules of CDI's values, and their text: what ``devplugin.cdi`` is made with."""

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from devplugin.model import _check_items, _check_mapping, _check_text, _refuse

INT64_MAX = 2**63 - 1
UINT32_MAX = 2**32 - 1
# The specification wants a DNS subdomain as the vendor. The library wants it, and the class, to begin with a letter, and up to
# 1.1.0 it fails on one that has a single character.
_VENDOR = re.compile(r"(?=[a-z])[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_CLASS = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*[A-Za-z0-9]")
_VENDOR_MAX, _CLASS_MAX = 253, 63
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?")
_ANNOTATION = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
# Names in the file that are not the field's in camel case.
_KEYS = {"edits": "containerEdits", "clos_id": "closID", "timeout_s": "timeout"}
# What JSON may have as it is and YAML, which the runtimes' parser is for, may not.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def check_device_name(name: object) -> None:
    """It is what comes after the ``=`` of a qualified name."""
    if not _NAME.fullmatch(_check_text("CDI device name", name)):
        rule = "it must be letters, digits, '_', '-', '.' or ':', with a letter or digit first and last"
        raise _refuse("CDI device name", name, rule)


def check_number(what: str, value: object, low: int, high: int) -> None:
    """It is a whole number from ``low`` to ``high``."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _refuse(what, value, f"it must be a number from {low} to {high}")


def check_not_empty(what: str, value: object) -> None:
    """It is text, and not empty."""
    if not _check_text(what, value):
        raise _refuse(what, value, "it must not be empty")


def set_items(target: object, field: str, kind: type) -> None:
    """Make the field a tuple of checked items."""
    items = _check_items(field.replace("_", " "), getattr(target, field), kind)
    for item in items if kind is str else ():
        _check_text(field.replace("_", " "), item)
    object.__setattr__(target, field, items)


def set_environment(target: object, env: Mapping[str, str]) -> None:
    """Freeze the field ``env``, checked."""
    object.__setattr__(target, "env", _check_mapping("environment", env))
    for name in env:
        if "=" in name:
            raise _refuse("environment name", name, "a container runtime accepts no '=' in it")


def set_annotations(target: object, annotations: Mapping[str, str]) -> None:
    """Freeze the field ``annotations``, checked."""
    object.__setattr__(target, "annotations", _check_mapping("annotation", annotations))
    for name in annotations:
        if not _ANNOTATION.fullmatch(name):
            raise _refuse("annotation name", name, "it must be like the name of a Kubernetes annotation")


def check_kind(kind: object) -> str:
    """``kind``, when it is ``vendor/class`` as both the specification and the library want it."""
    vendor, slash, kind_class = _check_text("CDI kind", kind).partition("/")
    if not (slash and 1 < len(vendor) <= _VENDOR_MAX and _VENDOR.fullmatch(vendor)):
        rule = "a lower-case DNS name of two characters or more that begins with a letter"
        raise _refuse("CDI kind", kind, f"it must be vendor/class, and the vendor {rule}")
    if not (len(kind_class) <= _CLASS_MAX and _CLASS.fullmatch(kind_class)):
        rule = "2 to 63 letters, digits, '_', '-' or '.', with a letter first and a letter or digit last"
        raise _refuse("CDI kind", kind, f"the part after '/' must be {rule}")
    return f"{vendor}/{kind_class}"


def to_json(version: str, spec: Any) -> str:
    """The text of a spec's file."""
    text = json.dumps({"cdiVersion": version, **_plain(spec)}, ensure_ascii=False, indent=2)
    return _ESCAPED.sub(lambda character: f"\\u{ord(character[0]):04x}", text) + "\n"


def _plain(value: Any) -> Any:
    """What JSON has for a value; what is empty is left out, and 0 is not empty."""
    if not is_dataclass(value):
        return dict(value) if isinstance(value, Mapping) else value
    plain = {}
    for field in fields(value):
        item = getattr(value, field.name)
        if not item and (item is False or not isinstance(item, int)):
            continue
        key = _KEYS.get(field.name) or re.sub("_(.)", lambda letter: letter[1].upper(), field.name)
        if field.name == "env":
            plain[key] = [f"{name}={text}" for name, text in item.items()]
        else:
            plain[key] = [_plain(each) for each in item] if isinstance(item, tuple) else _plain(item)
    return plain
