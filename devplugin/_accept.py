"""The connections to a listening socket.

Not by asyncio's ``Server``: closed while a connection is on its way in, that one complains on standard error
(python/cpython#109564), and a kubelet dials at such moments.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Never

log = logging.getLogger("devplugin.accept")

# As asyncio does when there are no descriptors left.
_PAUSE_S = 1.0


async def accept_all(listening: socket.socket, connection: Callable[[], asyncio.BaseProtocol]) -> Never:
    """Give each that connects a protocol, until cancelled; the socket is non-blocking, and stays open."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            accepted, _ = await loop.sock_accept(listening)
            await loop.connect_accepted_socket(connection, accepted)
        except OSError as error:
            log.error("Nobody can connect: %s", error)  # noqa: TRY400  (the traceback would say nothing more)
            await asyncio.sleep(_PAUSE_S)


def stop_accepting(task: asyncio.Task[Never], listening: socket.socket) -> None:
    """Close the socket at once, and let the task end in the next turns of the loop."""
    task.cancel()
    asyncio.get_running_loop().remove_reader(listening)  # before its number can be another file's
    listening.close()
