"""Where things are: the project's tree, and the cache outside it."""

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def cache() -> Path:
    """The folder of what is built: `$DEVPLUGIN_CLUSTER`, or `devplugin/cluster` in the user's cache folder."""
    if named := os.environ.get("DEVPLUGIN_CLUSTER"):
        return Path(named).resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "devplugin", "cluster").resolve()
