"""One plugin's registration, kept for ever: a session after the other, each with a socket of its own.

A session: find the kubelet → serve on a new socket → Register → live until it is over → let the kubelet notice → again.

It is over when kubelet.sock is made again (a new kubelet knows nothing of us), when the kubelet's ListAndWatch stream has
ended (the kubelet never asks again), when the own socket is gone and there is a kubelet to tell of another one, when no
stream came soon after Register, or when another instance has come and gone (``_siblings`` says why). Then the old stream must
have ended on the kubelet's side *before* Register: up to 1.36 the late end of an old stream takes the new registration with it
(kubernetes/kubernetes#135437). And a path is never registered twice: from 1.37 on the kubelet refuses that.
"""

import logging
import math
import time
from typing import Generic, Never

from devplugin._backoff import Backoff
from devplugin._cell import Latest
from devplugin._kubelet import SOCKET_NAME, KubeletDirectory, SocketId
from devplugin._server import Server, serving
from devplugin._service import Hooks, Service
from devplugin._siblings import Siblings
from devplugin._snapshot import Snapshot
from devplugin._watch import Wakeups, watching
from devplugin._wire import encode_register
from devplugin.errors import KubeletUnavailable
from devplugin.model import D

log = logging.getLogger("devplugin.session")

_STREAM_WITHIN_S = 10.0
_CALLS_DONE_WITHIN_S = 10.0
_PEER_CLOSES_WITHIN_S = 1.0
# A session of this length was a good one: what ends it is no reason to wait before the next.
_LASTED_S = 10.0


class Registration(Generic[D]):
    """A plugin's registration with the kubelet of one directory."""

    def __init__(
        self,
        hooks: Hooks[D],
        options: bytes,
        snapshots: Latest[Snapshot[D]],
        directory: KubeletDirectory,
        *,
        stream_within_s: float = _STREAM_WITHIN_S,
        lasted_s: float = _LASTED_S,
    ) -> None:
        self._hooks = hooks
        self._options = options
        self._snapshots = snapshots
        self._directory = directory
        self._backoff = Backoff()
        self._stream_within_s = stream_within_s
        self._lasted_s = lasted_s
        self._said: str | None = None

    async def keep(self) -> Never:
        """Hold one session after the other until cancelled.

        Raises:
            RegistrationRejected: The kubelet will never accept this plugin.
            ConfigurationError: The system does not let the plugin do its work in the directory.
            KubeletError: The directory was deleted and cannot be seen again.
        """
        with watching(self._directory.path, SOCKET_NAME) as wakeups:
            while True:
                kubelet = self._directory.socket_id()
                began_s = time.monotonic()
                try:
                    over = await self._hold_session(kubelet, wakeups)
                except KubeletUnavailable as error:
                    self._say(f"waiting for the kubelet: {error}")
                else:
                    self._say(f"{over}: registering again")
                if time.monotonic() - began_s >= self._lasted_s:
                    self._backoff.reset()
                if await self._another_kubelet(kubelet, wakeups):
                    self._backoff.reset()

    async def _another_kubelet(self, kubelet: SocketId | None, wakeups: Wakeups) -> bool:
        """Wait until kubelet.sock is another one, though for one that is there only until the next attempt is due."""
        due_s = time.monotonic() + self._backoff.delay_s() if kubelet else math.inf
        while self._directory.socket_id() in (None, kubelet):
            self._directory.check_mount()
            if (left_s := due_s - time.monotonic()) <= 0:
                return False
            await wakeups.wait(left_s)
        return True

    async def _hold_session(self, kubelet: SocketId | None, wakeups: Wakeups) -> str:
        """Be registered; returns why that is over."""
        name = self._hooks.resource_name
        service = Service(self._hooks, self._snapshots, self._options, on_stream=wakeups.wake)
        async with (
            self._directory.dial(kubelet) as client,
            serving(self._directory.path, name, service.methods()) as server,
        ):
            siblings = Siblings(server)
            wakeups.names = (SOCKET_NAME, server.prefix)
            details = {"resource": name, "socket": server.path}
            log.info("Starting to listen", extra={"details": details})
            try:
                log.info("Registration.register", extra={"details": details})
                request = encode_register(endpoint=server.name, resource_name=name, options=self._options)
                await client.register(request)
                self._said = None
                return await self._until_over(kubelet, service, server, siblings, wakeups)
            finally:
                await server.replies_sent(_CALLS_DONE_WITHIN_S)
                service.end_streams()
                await server.streaming_peers_gone(_PEER_CLOSES_WITHIN_S)

    async def _until_over(
        self, kubelet: SocketId | None, service: Service[D], server: Server, siblings: Siblings, wakeups: Wakeups
    ) -> str:
        due_s = time.monotonic() + self._stream_within_s
        while (reason := self._over(kubelet, service, server)) is None:
            if (alone_in_s := siblings.all_gone_s()) <= 0:
                return "another instance of this plugin has come and gone"
            left_s = math.inf if service.stream_seen else due_s - time.monotonic()
            if left_s <= 0:
                return f"no ListAndWatch came within {self._stream_within_s:g} s"
            await wakeups.wait(min(left_s, alone_in_s))
        return reason

    def _over(self, kubelet: SocketId | None, service: Service[D], server: Server) -> str | None:
        """Why the session is over; None while it is not."""
        found = self._directory.socket_id()
        if found not in (None, kubelet):
            return "kubelet.sock was made again"
        if service.stream_ended:
            return "the kubelet's ListAndWatch stream has ended"
        if found and not server.owns_its_file():
            return f"{server.name} was removed"
        return None

    def _say(self, text: str) -> None:
        """Log it, unless it was the last thing said."""
        if text != self._said:
            self._said = text
            log.info("%s: %s", self._hooks.resource_name, text)
