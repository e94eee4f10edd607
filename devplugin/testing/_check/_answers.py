"""What answers to Allocate say by themselves, and beside one another."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from devplugin._proto.v1beta1 import ContainerAllocateResponse
from devplugin.testing._check._lists import Breach

__all__ = ["clashes", "lost", "missing_paths", "on_host", "secrets"]

_SECRET_NAME = re.compile(
    r"(?:^|[_.\-/])(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIALS?|(?:API|ACCESS|PRIVATE|SECRET)[_-]?KEY)(?:$|[_.-])",
    re.IGNORECASE,
)
_NOT_THE_SECRET_ITSELF = re.compile(r"[_.-](?:FILE|PATH|DIR|NAME|URL|ID)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\bAKIA[0-9A-Z]{16}\b"  # an access key of AWS
    r"|\bgh[pousr]_[A-Za-z0-9]{36}"  # GitHub
    r"|\bglpat-[\w-]{20}"  # GitLab
    r"|\bxox[abprs]-[\w-]{10}"  # Slack
    r"|\beyJ[\w-]+\.eyJ[\w-]+\."  # a JSON web token
    r"|://[^/\s:@]+:[^/\s@]+@"  # a password in a URL
)


def clashes(one: ContainerAllocateResponse, other: ContainerAllocateResponse) -> list[str]:
    """The variables that two answers set differently."""
    return sorted(name for name in one.envs.keys() & other.envs.keys() if one.envs[name] != other.envs[name])


def lost(
    one: ContainerAllocateResponse, other: ContainerAllocateResponse, both: ContainerAllocateResponse
) -> list[str]:
    """Those of them of which the answer for both devices has one value only."""
    return [name for name in clashes(one, other) if both.envs.get(name) in (one.envs[name], other.envs[name])]


def on_host(path: str, host_root: Path) -> Path:
    """Where a path of the node is to be seen."""
    return host_root / path.lstrip("/")


def missing_paths(answer: ContainerAllocateResponse, host_root: Path) -> Iterator[Breach]:
    """DP306 and DP307 for an answer."""
    for mount in answer.mounts:
        if not on_host(mount.host_path, host_root).exists():
            yield "DP306", f"allocate() mounts {mount.host_path}, which is not there"
    for node in answer.devices:
        if not on_host(node.host_path, host_root).exists():
            yield "DP307", f"allocate() grants the device node {node.host_path}, which is not there"


def secrets(answer: ContainerAllocateResponse) -> Iterator[Breach]:
    """DP308 for an answer. No value is told."""
    for kind, items in (("variable", answer.envs), ("annotation", answer.annotations)):
        for name in _secret_names(items):
            yield "DP308", f"the {kind} {name} of allocate()'s answer looks like a secret"


def _secret_names(items: Mapping[str, str]) -> Iterator[str]:
    for name, value in items.items():
        named = _SECRET_NAME.search(name) and not _NOT_THE_SECRET_ITSELF.search(name)
        if (named and value) or _SECRET_VALUE.search(value):
            yield name
