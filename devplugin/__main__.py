"""``python -m devplugin``: the command."""

from devplugin.cli import main

main()
