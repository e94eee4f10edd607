"""What a pod got, as its container would see it: for people and for programs."""

from collections.abc import Iterator
from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.text import Text

from devplugin.cli._output import plain, simple_table
from devplugin.cli._trial import refusal
from devplugin.testing import Pod

__all__ = ["answer", "answer_document"]


def answer(pod: Pod, resource: str) -> RenderableType:
    """A table of what the container gets, or the sentence that the pod's owner reads."""
    reason = refusal(pod)
    if reason:
        return Text.assemble((pod.name, "bold"), " is ", (pod.status, "red"), f": {plain(reason)}")
    ids = sorted(pod.device_ids(resource))
    title = Text.assemble((pod.name, "bold"), f" has {plain(', '.join(ids))}")
    table = simple_table("", "GETS", "IN THE CONTAINER", "FROM THE HOST", "")
    for row in _rows(pod):
        table.add_row("", *map(plain, row))
    return Group(title, table) if table.row_count else title.append("; its container gets nothing else")


def _rows(pod: Pod) -> Iterator[tuple[str, ...]]:
    options = pod.containers["main"].options
    for name, value in sorted(options.envs.items()):
        yield "variable", f"{name}={value}"
    for mount in options.mounts:
        yield "mount", mount.container_path, mount.host_path, "read-only" if mount.read_only else ""
    for node in options.devices:
        yield "device node", node.container_path, node.host_path, node.permissions
    for name, value in sorted(options.annotations.items()):
        yield "annotation", f"{name}={value}"
    for name in options.cdi_devices:
        yield "CDI device", name


def answer_document(pod: Pod, resource: str) -> dict[str, object]:
    """The same as JSON has it."""
    options = pod.containers["main"].options
    return {
        "pod": pod.name,
        "status": pod.status,
        "refused": plain(refusal(pod)) or None,
        "devices": sorted(pod.device_ids(resource)),
        "environment": options.envs,
        "mounts": [asdict(mount) for mount in options.mounts],
        "device_nodes": [asdict(node) for node in options.devices],
        "annotations": options.annotations,
        "cdi_devices": options.cdi_devices,
    }
