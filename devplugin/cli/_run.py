"""``devplugin run``: plugins on a real kubelet."""

import json
import logging

import click

from devplugin import ConfigurationError, run
from devplugin._kubelet import DEVICE_PLUGIN_DIRECTORY
from devplugin.cli._load import load_plugin, plugin_argument
from devplugin.cli._output import example, output_option

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
@output_option("the log, one JSON document on each line")
def command(plugin: tuple[str, ...], kubelet_dir: str, output: str, *, verbose: bool) -> None:
    """Serve one or more plugins on this node's kubelet, until SIGINT or SIGTERM.

    The log goes to standard error. The exit status is 0 after a signal, 1 when a plugin cannot go on.
    """
    plugins = [load_plugin(reference) for reference in plugin]
    ours = logging.getLogger("devplugin")
    if output == "json":
        handler = logging.StreamHandler()
        handler.setFormatter(_JsonLines())
        logging.basicConfig(handlers=[handler])
        ours.setLevel(logging.INFO)
    if verbose:
        ours.setLevel(logging.DEBUG)
    try:
        run(*plugins, kubelet_dir=kubelet_dir)
    except ConfigurationError as error:
        raise click.UsageError(f"{error}.") from error


class _JsonLines(logging.Formatter):
    """The line as a JSON document, with the details that devplugin's records carry."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": record.created,
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "details", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
