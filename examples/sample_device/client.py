"""Connect to a device plugin's socket as the kubelet does, and print its options and each list of devices that it
announces, until it ends or Ctrl-C. It may be any plugin, in any language.
"""

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from grpclib import GRPCError
from grpclib.client import Channel
from grpclib.exceptions import ProtocolError, StreamTerminatedError

from devplugin._proto.v1beta1 import DevicePluginOptions, DevicePluginStub, ListAndWatchResponse

# As long as the kubelet waits for a plugin that has just registered.
_OPTIONS_WITHIN_S = 10.0


def find_sockets(directory: Path) -> list[Path]:
    """The sockets of the sample plugin: more than one while a new instance takes over from an old one."""
    try:
        names = sorted(entry.name for entry in os.scandir(directory))
    except OSError as error:
        sys.exit(f"cannot look into {directory}: {error.strerror}; --kubelet-dir names another one")
    found = [directory / name for name in names if name.startswith("sample-device-") and name.endswith(".sock")]
    if not found:
        sys.exit(f"no sample-device-*.sock in {directory}: is the sample plugin running and registered there?")
    return found


async def watch(path: Path) -> bool:
    """Print what the plugin on this socket announces, until it ends; whether it was a device plugin at all."""
    async with Channel(path=str(path)) as channel:
        plugin = DevicePluginStub(channel)
        try:
            await channel.__connect__()
            options = await plugin.get_device_plugin_options(timeout=_OPTIONS_WITHIN_S)
        except (GRPCError, OSError, ProtocolError, StreamTerminatedError) as error:
            print(f"{path}: {_reason(error)}", file=sys.stderr)
            return False
        print(describe_options(path, options), flush=True)
        try:
            number = 0
            async for snapshot in plugin.list_and_watch():
                number += 1
                print(describe_snapshot(path, number, snapshot), flush=True)
        except GRPCError as error:
            print(f"{path}: {_reason(error)}", file=sys.stderr)
            return False
        except StreamTerminatedError:  # how a plugin ends that does not say goodbye
            pass
        print(f"{path.name}: the plugin has ended", flush=True)
        return True


def _reason(error: Exception) -> str:
    reasons: dict[type[Exception], str] = {
        FileNotFoundError: "no such socket",
        ConnectionRefusedError: "nothing listens there: the plugin has gone, or it is no socket",
        PermissionError: f"no permission to connect as user {os.geteuid()}: try as root",
        TimeoutError: f"no answer in {_OPTIONS_WITHIN_S:g} s: is it a device plugin?",
        StreamTerminatedError: f"it does not speak gRPC ({error}): is it a device plugin?",
        ProtocolError: f"it does not speak gRPC ({error}): is it a device plugin?",
    }
    if isinstance(error, GRPCError):
        return f"the call failed ({error.status.name}: {error.message}): is it a device plugin?"
    return reasons.get(type(error), f"cannot connect: {error}")


def describe_options(path: Path, options: DevicePluginOptions) -> str:
    return (
        f"{path.name}: pre_start_required={options.pre_start_required}"
        f" get_preferred_allocation_available={options.get_preferred_allocation_available}"
    )


def describe_snapshot(path: Path, number: int, snapshot: ListAndWatchResponse) -> str:
    width = max((len(device.id) for device in snapshot.devices), default=0)
    lines = [f"{path.name}: list {number}, devices: {len(snapshot.devices)}"]
    for device in snapshot.devices:
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
