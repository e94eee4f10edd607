"""``devplugin list``: a running plugin seen from the side."""

import asyncio
from contextlib import aclosing, suppress
from pathlib import Path

import click
from rich.text import Text

from devplugin._proto.v1beta1 import Device, DevicePluginOptions
from devplugin._sideclient import SideClient, SideClientError, sockets_in
from devplugin.cli._output import console, device_table, example, output_option, plain, print_json, run_interruptibly

__all__ = ["command"]


@click.command(epilog=example("devplugin list /var/lib/kubelet/device-plugins/nvidia-gpu.sock"))
@click.argument("socket", metavar="SOCKET...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--once", is_flag=True, help="End after the first list.")
@output_option("a JSON document on each line, as it comes")
def command(socket: tuple[Path, ...], output: str, *, once: bool) -> None:
    """Connect to a device plugin's socket as the kubelet does, and show its options and each list of devices.

    It may be any plugin, in any language. A directory stands for the plugins' sockets in it. It ends with the plugin, or
    with Ctrl-C, with status 0; with 1 when one of them was no device plugin.
    """
    shown = _Json if output == "json" else _Tables
    paths = [each for path in socket for each in _expanded(path)]
    well = True

    async def watch_all() -> bool:
        return all(await asyncio.gather(*(_watch(path, shown(path), once=once) for path in paths)))

    with suppress(KeyboardInterrupt):  # how one leaves
        well = run_interruptibly(watch_all)
    if not well:
        raise SystemExit(1)


def _expanded(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        found = sockets_in(path)
    except OSError as error:
        raise click.UsageError(f"Cannot look into {path}: {error.strerror}.") from error
    if not found:
        raise click.UsageError(f"There is no plugin's socket in {path}.")
    return found


async def _watch(path: Path, shown: "_Tables | _Json", *, once: bool) -> bool:
    """Show what one plugin announces; whether it is a device plugin."""
    try:
        async with SideClient.connected(path) as plugin, aclosing(plugin.lists()) as lists:
            shown.options(plugin.options)
            number = 0
            async for devices in lists:
                number += 1
                shown.devices(number, devices)
                if once:
                    return True
    except SideClientError as error:
        click.echo(f"{path}: {plain(str(error))}", err=True)
        return False
    shown.end()
    return True


class _Tables:
    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._console = console()

    def options(self, options: DevicePluginOptions) -> None:
        self._console.print(
            Text(self._name, style="bold").append(
                f": pre_start_required={options.pre_start_required}"
                f" get_preferred_allocation_available={options.get_preferred_allocation_available}",
                style="not bold",
            )
        )

    def devices(self, number: int, devices: list[Device]) -> None:
        self._console.print(
            Text(self._name, style="bold").append(f": list {number}, devices: {len(devices)}", "not bold")
        )
        if devices:
            self._console.print(device_table((each.id, each.health, _numa_nodes(each)) for each in devices))

    def end(self) -> None:
        self._console.print(f"{self._name}: the plugin has ended")


class _Json:
    def __init__(self, path: Path) -> None:
        self._socket = str(path)

    def options(self, options: DevicePluginOptions) -> None:
        self._print(
            "options",
            pre_start_required=options.pre_start_required,
            get_preferred_allocation_available=options.get_preferred_allocation_available,
        )

    def devices(self, number: int, devices: list[Device]) -> None:
        listed = [{"id": each.id, "health": each.health, "numa_nodes": _numa_nodes(each)} for each in devices]
        self._print("list", number=number, devices=listed)

    def end(self) -> None:
        self._print("end")

    def _print(self, event: str, **fields: object) -> None:
        print_json({"socket": self._socket, "event": event, **fields}, lines=True)


def _numa_nodes(device: Device) -> list[int]:
    return [node.id for node in device.topology.nodes] if device.topology is not None else []
