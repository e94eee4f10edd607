"""The checkpoint file, which carries allocations over a restart (``cm/devicemanager/checkpoint/checkpoint.go``)."""

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from devplugin._proto.v1beta1 import ContainerAllocateResponse
from devplugin.testing._poddevices import Holding, PodDevices

__all__ = ["CHECKPOINT", "read_checkpoint", "write_checkpoint"]

CHECKPOINT = "kubelet_internal_checkpoint"


def write_checkpoint(directory: Path, pod_devices: PodDevices, registered: Mapping[str, list[str]]) -> None:
    """Write the checkpoint as one whole: into another file first, then renamed."""
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
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
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


def _checksum(data: Mapping[str, Any]) -> int:
    """32-bit FNV-1a of how Go prints the structure (``checkpointmanager/checksum/checksum.go``)."""
    checksum = 0x811C9DC5
    for byte in _as_go_prints(data).encode():
        checksum = (checksum ^ byte) * 0x01000193 & 0xFFFFFFFF
    return checksum


def _as_go_prints(data: Mapping[str, Any]) -> str:
    """The structure by spew's ``%#v``, with sorted keys (``k8s.io/utils/dump``, ForHash)."""
    entries = "<nil>"
    if data["PodDeviceEntries"] is not None:
        entries = f"[{' '.join(map(_entry_as_go_prints, data['PodDeviceEntries']))}]"
    registered = _map_as_go_prints(sorted(data["RegisteredDevices"].items()))
    return (
        f"(checkpoint.checkpointData){{PodDeviceEntries:([]checkpoint.PodDevicesEntry){entries} "
        f"RegisteredDevices:(map[string][]string){registered}}}"
    )


def _entry_as_go_prints(entry: Mapping[str, Any]) -> str:
    by_node = sorted(entry["DeviceIDs"].items(), key=lambda item: int(item[0]))
    response = " ".join(map(str, base64.b64decode(entry["AllocResp"])))
    return (
        f"{{PodUID:(string){entry['PodUID']} ContainerName:(string){entry['ContainerName']} "
        f"ResourceName:(string){entry['ResourceName']} "
        f"DeviceIDs:(checkpoint.DevicesPerNUMA){_map_as_go_prints(by_node)} AllocResp:([]uint8)[{response}]}}"
    )


def _map_as_go_prints(items: Iterable[tuple[str, list[str]]]) -> str:
    return "map[" + " ".join(f"{key}:[{' '.join(ids)}]" for key, ids in items) + "]"
