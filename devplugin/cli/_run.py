"""``devplugin run``: plugins on a real kubelet."""

import logging

import click

from devplugin import ConfigurationError, run
from devplugin._kubelet import DEVICE_PLUGIN_DIRECTORY
from devplugin.cli._load import load_plugin, plugin_argument
from devplugin.cli._output import example

__all__ = ["command"]


@click.command(epilog=example("devplugin run serial_ports.py:SerialPorts"))
@plugin_argument(nargs=-1)
@click.option(
    "--kubelet-dir",
    metavar="DIR",
    type=click.Path(file_okay=False),
    default=DEVICE_PLUGIN_DIRECTORY,
    show_default=True,
    help="Where kubelet.sock is.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log every call.")
def command(plugin: tuple[str, ...], kubelet_dir: str, *, verbose: bool) -> None:
    """Serve one or more plugins on this node's kubelet, until SIGINT or SIGTERM.

    The log goes to standard error. The exit status is 0 after a signal, 1 when a plugin cannot go on.
    """
    plugins = [load_plugin(reference) for reference in plugin]
    if verbose:
        logging.getLogger("devplugin").setLevel(logging.DEBUG)
    try:
        run(*plugins, kubelet_dir=kubelet_dir)
    except ConfigurationError as error:
        raise click.UsageError(f"{error}.") from error
