"""Connect to a device plugin's socket as the kubelet does, and print its options and each list of devices that it
announces, until it ends or Ctrl-C. It may be any plugin, in any language.

``devplugin list`` does the same with tables and JSON; this one needs nothing but the library.
"""

import argparse
import asyncio
import os
import signal
import sys
from contextlib import aclosing
from pathlib import Path

from devplugin._proto.v1beta1 import Device, DevicePluginOptions
from devplugin._sideclient import SideClient, SideClientError, sockets_in


def find_sockets(directory: Path) -> list[Path]:
    """The sockets of the sample plugin."""
    try:
        found = sockets_in(directory, "sample-device-")
    except OSError as error:
        sys.exit(f"cannot look into {directory}: {error.strerror}; --kubelet-dir names another one")
    if not found:
        sys.exit(f"no sample-device-*.sock in {directory}: is the sample plugin running and registered there?")
    return found


async def watch(path: Path) -> bool:
    """Print what the plugin on this socket announces, until it ends; whether it was a device plugin at all."""
    try:
        async with SideClient.connected(path) as plugin, aclosing(plugin.lists()) as lists:
            print(describe_options(path, plugin.options), flush=True)
            number = 0
            async for devices in lists:
                number += 1
                print(describe_list(path, number, devices), flush=True)
    except SideClientError as error:
        print(f"{path}: {error}", file=sys.stderr)
        return False
    print(f"{path.name}: the plugin has ended", flush=True)
    return True


def describe_options(path: Path, options: DevicePluginOptions) -> str:
    return (
        f"{path.name}: pre_start_required={options.pre_start_required}"
        f" get_preferred_allocation_available={options.get_preferred_allocation_available}"
    )


def describe_list(path: Path, number: int, devices: list[Device]) -> str:
    width = max((len(device.id) for device in devices), default=0)
    lines = [f"{path.name}: list {number}, devices: {len(devices)}"]
    for device in devices:
        nodes = [f"NUMA node {node.id}" for node in device.topology.nodes] if device.topology is not None else []
        lines.append("  ".join([f"  {device.id:{width}}", device.health, *nodes]))
    return "\n".join(lines)


async def watch_all(paths: list[Path]) -> bool:
    """Watch the sockets side by side until all have ended, SIGINT or SIGTERM; whether all were device plugins."""
    watching = asyncio.gather(*map(watch, paths))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, watching.cancel)
    try:
        return all(await watching)
    except asyncio.CancelledError:
        return True


def main() -> None:
    options = argparse.ArgumentParser(
        prog="client",
        description=__doc__,
        epilog="example: client /var/lib/kubelet/device-plugins/nvidia-gpu.sock",
    )
    options.add_argument(
        "sockets", metavar="SOCKET", nargs="*", type=Path, help="a plugin's socket; that of the sample when not given"
    )
    options.add_argument(
        "--kubelet-dir",
        metavar="DIR",
        type=Path,
        default="/var/lib/kubelet/device-plugins",
        help="where to look for the sample's socket (%(default)s)",
    )
    args = options.parse_args()
    try:
        well = asyncio.run(watch_all(args.sockets or find_sockets(args.kubelet_dir)))
    except BrokenPipeError:  # whoever read the output has gone: `client | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        well = True
    sys.exit(not well)


if __name__ == "__main__":
    main()
