"""The group of subcommands. A subcommand's module is imported when it is used: ``--help`` needs none of them."""

import importlib

import click
from click.shell_completion import CompletionItem

__all__ = ["COMMANDS", "INTERRUPTED", "command"]

INTERRUPTED = 130
"""The exit status of work that SIGINT or SIGTERM ended before it was done: 128 and SIGINT's number, as in a shell."""

COMMANDS = {
    "new": "Make a project: plugin, tests, image, manifests and CI.",
    "try": "Try a plugin on a kubelet inside this command.",
    "check": "Say what is wrong with a plugin, without a node.",
    "run": "Serve plugins on this node's kubelet.",
    "list": "Show what a running plugin announces.",
    "pods": "Show which pods have which devices on this node.",
    "manifest": "Write the DaemonSet that brings a plugin to the nodes.",
}
"""What each subcommand does, in the order in which an author needs them."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        found = importlib.import_module(f"devplugin.cli._{cmd_name}").command
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [CompletionItem(name, help=what) for name, what in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExample:\n  devplugin new serial-ports\n\n"
    "Exit status: 0 good, 1 something was found or failed, 2 wrongly used, 130 interrupted.",
)
@click.version_option(package_name="devplugin", message="%(prog)s %(version)s")
def command() -> None:
    """Write, try, check and run Kubernetes device plugins.

    A plugin is named by module:Class or file.py:Class; the class can be left out where there is one.
    """
