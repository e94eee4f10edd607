"""``devplugin check``: what is wrong with a plugin, as far as that can be said without a node."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from itertools import groupby
from typing import Any

import click
from rich.padding import Padding
from rich.text import Text

from devplugin import ConfigurationError, DevicePluginBase
from devplugin.cli._load import load_plugin, plugin_argument
from devplugin.cli._output import console, example, output_option, plain, print_json, progress, run_interruptibly
from devplugin.testing import Finding, check_plugin
from devplugin.testing._versions import VERSIONS

__all__ = ["command"]


def _reasons(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> Mapping[str, str]:
    """The values of ``--ignore``: reasons by code."""
    reasons = {}
    for value in values:
        code, separator, reason = value.partition("=")
        if not separator:
            raise click.BadParameter(f"{value!r} has no reason: say {code}='why it does not matter here'.", ctx, param)
        reasons[code.strip()] = reason.strip()
    return reasons


@click.command(
    epilog=example(
        "devplugin check serial_ports.py",
        "devplugin check serial_ports.py --ignore DP206='the ids are what our shop prints on the devices'",
    )
)
@plugin_argument(nargs=-1)
@click.option(
    "--ignore",
    metavar="CODE=REASON",
    multiple=True,
    callback=_reasons,
    help="A rule that does not matter here, and why.",
)
@click.option(
    "--host-root",
    metavar="DIR",
    type=click.Path(file_okay=False, exists=True),
    default="/",
    show_default=True,
    help="Where the node's file system is to be seen: paths that the plugin grants are looked for there.",
)
@click.option(
    "--kubernetes",
    "version",
    type=click.Choice([*VERSIONS]),
    default="1.36",
    show_default=True,
    help="Whose kubelet's behaviour.",
)
@output_option("one JSON document")
def command(plugin: tuple[str, ...], ignore: Mapping[str, str], host_root: str, version: str, output: str) -> None:
    """Run a plugin through what kubelets do, and say what is wrong with it: no node, no cluster, no root.

    Its hooks are called as on a node, and do what they do there. Several plugins are run side by side, as on one node.

    Each finding has a code, what was found, why it matters and what to do. The exit status is 1 when there is one.
    """
    plugins = [load_plugin(reference) for reference in plugin]
    raise SystemExit(_tell(_check(plugins, ignore, host_root, version), ignore, output))


def _check(
    plugins: Sequence[DevicePluginBase[Any]], ignore: Mapping[str, str], host_root: str, version: str
) -> Sequence[Finding]:
    try:
        with progress("checking: this takes some seconds"), redirect_stdout(sys.stderr):
            return run_interruptibly(
                lambda: check_plugin(*plugins, ignore=ignore, host_root=host_root, version=version)
            )
    except ConfigurationError as error:
        raise click.UsageError(f"{error}.") from error


def _tell(findings: Sequence[Finding], ignored: Mapping[str, str], output: str) -> int:
    """Show what was found; the exit status."""
    if output == "json":
        print_json({"findings": [asdict(finding) for finding in findings], "ignored": ignored})
    else:
        _show(findings, ignored)
    return 1 if findings else 0


def _show(findings: Sequence[Finding], ignored: Mapping[str, str]) -> None:
    """The findings of a rule together: why it matters and what to do is said once."""
    out = console()
    for code, of_rule in groupby(findings, key=lambda finding: finding.code):
        same = [*of_rule]
        for finding in same:
            out.print(Text.assemble((code, "bold red"), f" {plain(finding.subject)}: {plain(finding.meaning)}."))
        about = Text.assemble(f"{same[0].why}\n{same[0].remedy}\n", (same[0].documented_at, "dim"))
        out.print(Padding(about, (0, 0, 0, len(code) + 1), expand=False))
    for code, reason in ignored.items():
        out.print(f"{code} was not looked at: {reason}")
    out.print("Nothing is wrong." if not findings else f"{len(findings)} found.")
