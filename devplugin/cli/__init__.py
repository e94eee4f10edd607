"""The command ``devplugin``, for which the extra ``cli`` is installed; each subcommand has a module of its own."""

import importlib
import importlib.util
import sys

__all__ = ["main"]

_NEEDS = {"click": "click", "rich": "rich", "yaml": "pyyaml"}


def main() -> None:
    """Run the command with this process's arguments, and exit: 0 is good, 1 found or failed, 2 wrongly used."""
    missing = [package for module, package in _NEEDS.items() if importlib.util.find_spec(module) is None]
    if missing:
        print(  # noqa: T201  (the command's own words, and there is no click to say them)
            f"The command devplugin needs {' and '.join(missing)} too, which come with its extra: "
            "pip install 'devplugin[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    try:
        importlib.import_module("devplugin.cli._app").command(prog_name="devplugin")
    except KeyboardInterrupt:  # before the command could take it
        sys.exit(130)
