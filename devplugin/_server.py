"""One Unix socket with gRPC behind it: bind, accept, end gracefully, and unlink only what is ours.

Theory: grpclib serves the calls of a connection; what it leaves to its users is here. Its ``Server`` keeps connections
open after ``close()``, sends no GOAWAY, leaves the socket file, reads requests of any size into memory, and its
``wait_closed()`` hangs on Python 3.12 and 3.13 while a peer stays. So the connections are kept here, and ended here.

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
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import grpclib.const
from grpclib import GRPCError, Status
from grpclib.config import Configuration
from grpclib.encoding.base import CodecBase
from grpclib.events import _DispatchServerEvents
from grpclib.protocol import Buffer, H2Protocol, Stream
from grpclib.server import Handler
from h2.config import H2Configuration
from hyperframe.frame import GoAwayFrame

from devplugin.errors import ConfigurationError, KubeletUnavailable

log = logging.getLogger("devplugin.server")

# sun_path of sockaddr_un has 108 bytes, the last one NUL (unix(7)).
SOCKET_PATH_MAX = 107
# The longest Allocate of a kubelet names every device of a list that fits into 4 MiB; four times that is no request.
REQUEST_BYTES_MAX = 16 * 2**20
_CLOSE_WITHIN_S = 1.0
# A socket under its hidden name is between bind and listen: a few microseconds, unless its process died there.
_HIDDEN_FOR_S = 60.0

Mapped = Mapping[str, grpclib.const.Handler]


class RawCodec(CodecBase):
    """Messages are bytes on both sides of gRPC: ``devplugin._wire`` makes and reads them."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:  # noqa: ARG002
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> bytes:  # noqa: ARG002
        return data


class _BoundedBuffer(Buffer):
    """A request on its way in, refused by its length prefix before it is read, and when it is cut short."""

    async def read(self, size: int) -> bytes:
        if size > REQUEST_BYTES_MAX:
            raise GRPCError(
                Status.RESOURCE_EXHAUSTED, f"a request of {size} bytes is over the limit of {REQUEST_BYTES_MAX} bytes"
            )
        try:
            return await super().read(size)
        except AssertionError as error:  # how grpclib says it
            raise GRPCError(Status.INVALID_ARGUMENT, "the request ended before its message was complete") from error


class _Calls(Handler):
    """grpclib's handler of one connection's calls."""

    last_stream_id = 0
    has_streamed = False

    def accept(self, stream: Stream, headers: Any, release_stream: Any) -> None:
        assert stream.id is not None
        self.last_stream_id = stream.id
        called = self.mapping.get(dict(headers).get(":path", ""))
        self.has_streamed |= called is not None and called.cardinality.server_streaming
        stream.buffer = _BoundedBuffer(partial(stream.connection.ack, stream.id))
        super().accept(stream, headers, release_stream)


class _Connection(H2Protocol):
    """One peer's connection, from accept until it is lost."""

    handler: _Calls
    transport: asyncio.Transport

    def __init__(self, mapping: Mapped, config: Configuration, connections: "set[_Connection]") -> None:
        calls = _Calls(dict(mapping), RawCodec(), None, _DispatchServerEvents())
        h2_config = H2Configuration(
            client_side=False,
            header_encoding="ascii",
            validate_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_inbound_headers=False,
            normalize_outbound_headers=False,
        )
        super().__init__(calls, config, h2_config)
        self._connections = connections
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._connections.discard(self)
        self.lost.set_result(None)

    def say_goodbye(self) -> None:
        """GOAWAY, what is still to be written, and the end of the connection."""
        self.transport.write(GoAwayFrame(0, last_stream_id=self.handler.last_stream_id).serialize())
        self.transport.close()


class Server:
    """A socket that listens. ``path`` is its file, ``name`` the file's name."""

    def __init__(self, path: Path, prefix: str, mapping: Mapped) -> None:
        self.path = path
        self.name = path.name
        self.prefix = prefix
        self._file_id = _file_id(path)
        self._mapping = mapping
        self._config = Configuration().__for_server__()
        self._connections: set[_Connection] = set()

    def __repr__(self) -> str:
        return f"Server({self.name!r}, {len(self._connections)} connections)"

    def owns_its_file(self) -> bool:
        """Whether the file is there and still the one that was bound."""
        return self._file_id is not None and _file_id(self.path) == self._file_id

    def siblings(self) -> set[str]:
        """The names of the other sockets in the directory that are of this resource."""
        try:
            return {path.name for path in _sockets(self.path.parent, self.prefix) if path.suffix} - {self.name}
        except FileNotFoundError:  # the directory itself has gone
            return set()

    async def streaming_peers_gone(self, within_s: float) -> None:
        """Return when each peer that had a stream has closed its connection, or after ``within_s`` seconds."""
        await _lost([c for c in self._connections if c.handler.has_streamed], within_s)

    def accept(self) -> _Connection:
        return _Connection(self._mapping, self._config, self._connections)

    async def close_connections(self) -> None:
        ending = list(self._connections)
        for connection in ending:
            connection.say_goodbye()
        await _lost(ending, _CLOSE_WITHIN_S)
        for connection in list(self._connections):  # the peer does not read
            connection.transport.abort()
        for connection in ending:
            await connection.lost
            await connection.handler.wait_closed()


async def _lost(connections: list[_Connection], within_s: float) -> None:
    if connections:
        await asyncio.wait([connection.lost for connection in connections], timeout=within_s)


@asynccontextmanager
async def serving(directory: Path, resource_name: str, mapping: Mapped) -> AsyncIterator[Server]:
    """Serve ``mapping`` on a new socket in ``directory``, named after the resource, for the time of the context.

    Raises:
        ConfigurationError: The system does not let the plugin make a socket there.
        KubeletUnavailable: The directory has just gone, or has no room.
    """
    prefix = _prefix(directory, resource_name)
    path = directory / f"{prefix}{os.urandom(4).hex()}.sock"
    try:
        _remove_stale(directory, prefix)
        listening = _listen(path)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise no_permission("make a socket in", directory, error) from error
        raise KubeletUnavailable(f"no socket can be made in {directory}: {error.strerror}") from error
    server = Server(path, prefix, mapping)
    accepting: asyncio.Server | socket.socket = listening
    try:
        accepting = await asyncio.get_running_loop().create_unix_server(server.accept, sock=listening)
        yield server
    finally:
        accepting.close()
        if server.owns_its_file():
            path.unlink()
        await server.close_connections()


def _prefix(directory: Path, resource_name: str) -> str:
    """What the socket names of a resource begin with: readable, and different for each resource."""
    own = f"-{binascii.crc32(resource_name.encode()):08x}-"
    room = SOCKET_PATH_MAX - len(os.fsencode(directory / f"{own}{'0' * 8}.sock"))
    if room < 1:
        raise directory_too_long(directory)
    return resource_name.partition("/")[2][:room] + own


def _listen(path: Path) -> socket.socket:
    hidden = path.with_name(f".{path.stem}")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.bind(str(hidden))
        listening.listen(64)
        hidden.rename(path)
    except OSError:
        listening.close()
        hidden.unlink(missing_ok=True)
        raise
    return listening


def directory_too_long(path: Path) -> ConfigurationError:
    """The error for a directory that leaves no room for a socket's name."""
    return ConfigurationError(
        f"the directory {str(path)!r} is too long: the path of a socket in it has at most {SOCKET_PATH_MAX} bytes"
    )


def no_permission(what: str, path: Path, error: OSError) -> ConfigurationError:
    """The error for a path that the system refuses."""
    return ConfigurationError(
        f"no permission to {what} {path} as user {os.geteuid()}: {error.strerror}. The plugin needs read and write access to"
        " the kubelet's device plugin directory, mounted writable; with SELinux its type must allow that too"
        " (container_device_plugin_t)"
    )


def _file_id(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _remove_stale(directory: Path, prefix: str) -> None:
    """Unlink this resource's sockets that nothing listens on: their processes were killed."""
    for path in _sockets(directory, prefix):
        with suppress(FileNotFoundError):  # another instance is just as tidy
            status = path.stat(follow_symlinks=False)
            hidden_lately = path.name.startswith(".") and time.time() - status.st_ctime < _HIDDEN_FOR_S
            if stat.S_ISSOCK(status.st_mode) and not hidden_lately and refuses(path):
                path.unlink()
                log.info("Removed %s: nothing listens on it", path)


def _sockets(directory: Path, prefix: str) -> list[Path]:
    """A resource's sockets, also those that are still hidden."""
    ours = re.compile(rf"\.?{re.escape(prefix)}[0-9a-f]{{8}}(\.sock)?")
    with os.scandir(directory) as entries:
        return [Path(entry.path) for entry in entries if ours.fullmatch(entry.name)]


def refuses(path: Path) -> bool:
    """Whether nothing listens on a socket: its process is dead."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:  # busy, or not ours to ask: somebody is there
            return False
    return False
