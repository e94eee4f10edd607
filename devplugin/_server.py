"""One Unix socket with gRPC behind it: bind, accept, end gracefully, and unlink only what is ours.

The socket is bound under a hidden name and gets its own one when it listens. So whoever finds a socket by its own name
and is refused knows that its process is dead, and two starting processes never take each other's socket for a stale
one.
"""

import asyncio
import binascii
import errno
import logging
import os
import re
import socket
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from devplugin._accept import accept_all, stop_accepting
from devplugin._calls import Methods, ServedConnection
from devplugin.errors import ConfigurationError, KubeletUnavailable

log = logging.getLogger("devplugin.server")

# sun_path of sockaddr_un has 108 bytes, the last one NUL (unix(7)).
SOCKET_PATH_MAX = 107
_CLOSE_WITHIN_S = 1.0
# A socket under its hidden name is between bind and listen: a few microseconds, unless its process died there.
_HIDDEN_FOR_S = 60.0


class Server:
    """A socket that listens. ``path`` is its file, ``name`` the file's name."""

    def __init__(self, path: str, prefix: str, methods: Methods) -> None:
        self.path = path
        self.directory, self.name = os.path.split(path)
        self.prefix = prefix
        self._file_id = _file_id(path)
        self._methods = methods
        self._connections: set[ServedConnection] = set()

    def __repr__(self) -> str:
        return f"Server({self.name!r}, {len(self._connections)} connections)"

    def owns_its_file(self) -> bool:
        """Whether the file is there and still the one that was bound."""
        return self._file_id is not None and _file_id(self.path) == self._file_id

    def siblings(self) -> set[str]:
        """The names of the other sockets in the directory that are of this resource."""
        try:
            return {name for name in _sockets(self.directory, self.prefix) if not name.startswith(".")} - {self.name}
        except FileNotFoundError:  # the directory itself has gone
            return set()

    async def replies_sent(self, within_s: float) -> None:
        """Return when every call has its answer, but for streams, or after ``within_s`` seconds."""
        with suppress(TimeoutError):  # asyncio.wait_for would lose a cancellation on Python 3.11
            async with asyncio.timeout(within_s):
                for connection in list(self._connections):
                    await connection.replies_sent()

    async def streaming_peers_gone(self, within_s: float) -> None:
        """Return when each peer that had a stream has closed its connection, or after ``within_s`` seconds."""
        await _lost([connection for connection in self._connections if connection.has_streamed], within_s)

    def accept(self) -> ServedConnection:
        return ServedConnection(self._methods, self._connections)

    async def close_connections(self) -> None:
        ending = list(self._connections)
        for connection in ending:
            connection.say_goodbye()
        try:
            await _lost(ending, _CLOSE_WITHIN_S)
        finally:
            for connection in list(self._connections):  # the peer does not read
                connection.transport.abort()
        await _lost(ending, None)
        for connection in ending:
            await connection.calls_ended()


async def _lost(connections: list[ServedConnection], within_s: float | None) -> None:
    if connections:
        await asyncio.wait([connection.lost for connection in connections], timeout=within_s)


@asynccontextmanager
async def serving(directory: str, resource_name: str, methods: Methods) -> AsyncIterator[Server]:
    """Serve ``methods`` on a new socket in ``directory``, named after the resource, for the time of the context.

    Raises:
        ConfigurationError: The system does not let the plugin make a socket there.
        KubeletUnavailable: The directory has just gone, or has no room.
    """
    prefix = _prefix(directory, resource_name)
    path = os.path.join(directory, f"{prefix}{os.urandom(4).hex()}.sock")
    try:
        _remove_stale(directory, prefix)
        listening = _listen(path)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise no_permission("make a socket in", directory, error) from error
        raise KubeletUnavailable(f"no socket can be made in {directory}: {error.strerror}") from error
    server = Server(path, prefix, methods)
    accepting = asyncio.create_task(accept_all(listening, server.accept), name=f"{server.name}: accept")
    try:
        yield server
    finally:
        stop_accepting(accepting, listening)
        if server.owns_its_file():
            os.unlink(path)
        try:
            await asyncio.wait([accepting])
        finally:
            await server.close_connections()


def _prefix(directory: str, resource_name: str) -> str:
    """What the socket names of a resource begin with: readable, and different for each resource."""
    own = f"-{binascii.crc32(resource_name.encode()):08x}-"
    room = SOCKET_PATH_MAX - len(os.fsencode(os.path.join(directory, f"{own}{'0' * 8}.sock")))
    if room < 1:
        raise directory_too_long(directory)
    return resource_name.partition("/")[2][:room] + own


def _listen(path: str) -> socket.socket:
    directory, name = os.path.split(path)
    hidden = os.path.join(directory, f".{name.removesuffix('.sock')}")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.bind(hidden)
        listening.listen(64)
        os.rename(hidden, path)
    except OSError:
        listening.close()
        with suppress(FileNotFoundError):
            os.unlink(hidden)
        raise
    return listening


def directory_too_long(path: str) -> ConfigurationError:
    """The error for a directory that leaves no room for a socket's name."""
    return ConfigurationError(
        f"the directory {path!r} is too long: the path of a socket in it has at most {SOCKET_PATH_MAX} bytes"
    )


def no_permission(what: str, path: str, error: OSError) -> ConfigurationError:
    """The error for a path that the system refuses."""
    return ConfigurationError(
        f"no permission to {what} {path} as user {os.geteuid()}: {error.strerror}. The plugin needs read and write access to"
        " the kubelet's device plugin directory, mounted writable; with SELinux its type must allow that too"
        " (container_device_plugin_t)"
    )


def _file_id(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _remove_stale(directory: str, prefix: str) -> None:
    """Unlink this resource's sockets that nothing listens on: their processes were killed."""
    for name in _sockets(directory, prefix):
        path = os.path.join(directory, name)
        with suppress(FileNotFoundError):  # another instance is just as tidy
            status = os.stat(path, follow_symlinks=False)
            hidden_lately = name.startswith(".") and time.time() - status.st_ctime < _HIDDEN_FOR_S
            if stat.S_ISSOCK(status.st_mode) and not hidden_lately and refuses(path):
                os.unlink(path)
                log.info("Removed %s: nothing listens on it", path)


def _sockets(directory: str, prefix: str) -> list[str]:
    """The names of a resource's sockets, also those that are still hidden."""
    ours = re.compile(rf"\.?{re.escape(prefix)}[0-9a-f]{{8}}(\.sock)?")
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries if ours.fullmatch(entry.name)]


def refuses(path: str) -> bool:
    """Whether nothing listens on a socket: its process is dead."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:  # busy, or not ours to ask: somebody is there
            return False
    return False
