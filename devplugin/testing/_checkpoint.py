"""The checkpoint file, which carries allocations over a restart (``cm/devicemanager/checkpoint/checkpoint.go``)."""

import base64
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from devplugin._proto.v1beta1 import ContainerAllocateResponse
from devplugin.testing._poddevices import Holding, PodDevices

__all__ = ["CHECKPOINT", "read_checkpoint", "write_checkpoint"]

CHECKPOINT = "kubelet_internal_checkpoint"


def write_checkpoint(directory: Path, pod_devices: PodDevices, registered: Mapping[str, list[str]]) -> None:
    """Write the checkpoint as one whole: into another file first, then renamed.

    The layout is the real one. The checksum is not: the real one hashes how Go prints the structure.
    """
    data = {
        "PodDeviceEntries": [
            {
                "PodUID": pod,
                "ContainerName": container,
                "ResourceName": resource,
                "DeviceIDs": {str(node): ids for node, ids in holding.by_node.items()},
                "AllocResp": base64.b64encode(bytes(holding.response)).decode(),
            }
            for pod, container, resource, holding in pod_devices
        ]
        or None,
        "RegisteredDevices": registered,
    }
    partial = directory / f".{CHECKPOINT}"
    partial.write_text(json.dumps({"Data": data, "Checksum": _checksum(data)}, separators=(",", ":")))
    partial.chmod(0o600)
    partial.rename(directory / CHECKPOINT)


def read_checkpoint(directory: Path) -> tuple[PodDevices, list[str]] | None:
    """The holdings and the names of the registered resources; None without a usable file, as the kubelet goes on then."""
    try:
        content = json.loads((directory / CHECKPOINT).read_text())
        data = content["Data"]
        if content["Checksum"] != _checksum(data):
            return None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    pod_devices = PodDevices()
    for entry in data["PodDeviceEntries"] or ():
        pod_devices.insert(
            entry["PodUID"],
            entry["ContainerName"],
            entry["ResourceName"],
            Holding(
                {int(node): ids for node, ids in entry["DeviceIDs"].items()},
                ContainerAllocateResponse.parse(base64.b64decode(entry["AllocResp"])),
            ),
        )
    return pod_devices, list(data["RegisteredDevices"])


def _checksum(data: Any) -> int:
    return zlib.crc32(json.dumps(data, sort_keys=True).encode())
