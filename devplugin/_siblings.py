"""Other instances of this plugin in the same directory, known by their sockets: in a rolling update there are two.

The kubelet gives a resource to whoever registered last. Up to 1.36 it drops the other one for good and does not tell it: it
keeps the stream open and never asks for anything. So when the last one leaves again (the new version does not run), the
resource is lost, unless the one that is left registers anew.

A sibling that registers anew itself is away for a moment, so it counts as gone only after a while.
"""

import math
import os
import time

from devplugin._server import Server, refuses

# Longer than a session needs to begin again after one that lasted.
_GONE_FOR_S = 2.0


class Siblings:
    """Those that came after this instance's own socket."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._elder = server.siblings()
        self._younger = False
        self._alone_since_s = math.inf

    def __repr__(self) -> str:
        return f"Siblings({'one has come' if self._younger else 'none has come'})"

    def all_gone_s(self) -> float:
        """For how many seconds still to wait until all that have come are gone for good: 0 or less when they are,
        infinity when none has come or one is there.
        """
        younger = self._server.siblings() - self._elder
        self._younger |= bool(younger)
        if not self._younger or not all(refuses(os.path.join(self._server.directory, name)) for name in younger):
            self._alone_since_s = math.inf
            return math.inf
        self._alone_since_s = min(self._alone_since_s, time.monotonic())
        return self._alone_since_s + _GONE_FOR_S - time.monotonic()
