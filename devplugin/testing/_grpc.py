"""grpclib, made to look like grpc-go from outside.

What is added: connections are known and can be ended (grpclib leaves them open), a connection is up only when the peer
has sent its SETTINGS, a client never reconnects by itself, messages above 4 MiB are refused, and errors have the texts
that Go gives them.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Never, Protocol, cast

import anyio.lowlevel
from betterproto2 import Message
from grpclib.client import Channel
from grpclib.client import Handler as ClientHandler
from grpclib.config import Configuration
from grpclib.const import Handler, Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.protocol import EventsProcessor, H2Protocol
from grpclib.server import Handler as ServerHandler
from grpclib.server import Server
from h2.events import RemoteSettingsChanged

from devplugin._accept import accept_all, stop_accepting

__all__ = ["MAX_MESSAGE_BYTES", "GoServer", "PluginChannel", "RpcError", "go_errors"]

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""grpc-go's ``defaultClientMaxReceiveMessageSize`` and ``defaultServerMaxReceiveMessageSize``: the kubelet sets neither."""

_GO_CONFIGURATION = Configuration(http2_connection_window_size=65_535, http2_stream_window_size=65_535)


class RpcError(Exception):
    """A failed call, with the text that Go's error has.

    Attributes:
        code: The status in Go's spelling, such as ``DeadlineExceeded``.
        description: The peer's message.
    """

    def __init__(self, code: str, description: str) -> None:
        super().__init__(f"rpc error: code = {code} desc = {description}")
        self.code = code
        self.description = description


class _Servable(Protocol):
    def __mapping__(self) -> dict[str, Handler]: ...


class _Codec(CodecBase):
    __content_subtype__ = "proto"

    def __init__(self, complaint: str) -> None:
        self._complaint = complaint

    def encode(self, message: Any, message_type: Any) -> bytes:
        del message_type  # the message knows
        return bytes(message)

    def decode(self, data: bytes, message_type: type[Message]) -> Message:
        if len(data) > MAX_MESSAGE_BYTES:
            raise GRPCError(
                Status.RESOURCE_EXHAUSTED,
                f"grpc: received message larger than max ({len(data)} vs. {MAX_MESSAGE_BYTES})",
            )
        try:
            return message_type.parse(data)
        except Exception as error:
            raise GRPCError(Status.INTERNAL, f"grpc: {self._complaint}: {error}") from error


class _Events(EventsProcessor):
    def process_remote_settings_changed(self, event: RemoteSettingsChanged) -> None:
        super().process_remote_settings_changed(event)
        self.settings_received.set()

    settings_received: asyncio.Event


class _Connection(H2Protocol):
    """One HTTP/2 connection, of either side."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.transport: asyncio.Transport | None = None
        self._unwanted = False
        self.settings_received = asyncio.Event()
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        events = _Events(self.handler, self.connection)
        events.settings_received = self.settings_received
        self.processor = events
        if self._unwanted:
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.lost.set()

    def close(self, debug: bytes) -> None:
        """Say GOAWAY and close."""
        if self.transport is None:
            self._unwanted = True
            return
        if not self.connection.is_closing():
            self.connection._connection.close_connection(additional_data=debug)  # noqa: SLF001 - grpclib never says GOAWAY
            self.connection.flush()
        self.processor.close()

    def abort(self) -> None:
        """Vanish, as the sockets of a killed process do."""
        if self.transport is None:  # accepted, and not yet told so
            self._unwanted = True
        else:
            self.transport.abort()


class PluginChannel(Channel):
    """One connection to a plugin's socket; it is never made anew."""

    _protocol: _Connection | None

    def __init__(self, path: Path, authority: str) -> None:
        super().__init__(
            path=str(path), codec=_Codec("failed to unmarshal the received message"), config=_GO_CONFIGURATION
        )
        self._authority = authority
        self.open = True

    def __repr__(self) -> str:
        return f"<PluginChannel {self._path}, {'up' if self._connected else 'down'}>"

    def _protocol_factory(self) -> H2Protocol:
        return _Connection(ClientHandler(), self._config, self._h2_config)

    async def dial(self) -> None:
        """Connect, and wait for the peer's SETTINGS.

        Raises:
            OSError: Nobody listens, or the peer hung up before it had said anything.
        """
        connection = await self._create_connection()
        assert isinstance(connection, _Connection)
        self._protocol = connection
        waits = {
            asyncio.create_task(event.wait(), name="fake kubelet: dialling")
            for event in (connection.settings_received, connection.lost)
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            if not connection.settings_received.is_set():
                connection.abort()
                self._protocol = None
        if not connection.settings_received.is_set():
            raise ConnectionResetError(f"{self._path}: the connection was closed before the server preface")

    async def __connect__(self) -> H2Protocol:
        if not self._connected:
            raise StreamTerminatedError("Connection lost")
        assert self._protocol is not None
        return self._protocol

    def close(self) -> None:
        """Close as grpc-go's client does: GOAWAY, then the end of the connection."""
        if self._protocol is not None:
            self._protocol.close(b"client transport shutdown")
        self._over()

    def abort(self) -> None:
        """Drop the connection without a word."""
        if self._protocol is not None:
            self._protocol.abort()
        self._over()

    def _over(self) -> None:
        self._protocol = None
        self.open = False


class GoServer(Server):
    """A gRPC server on a Unix socket whose connections are known."""

    def __init__(self, services: list[_Servable]) -> None:
        super().__init__(services, codec=_Codec("error unmarshalling request"), config=_GO_CONFIGURATION)
        self._connections: set[_Connection] = set()
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[Never] | None = None

    def __repr__(self) -> str:
        return f"<GoServer, {'listening' if self._listening else 'closed'}, {len(self._connections)} connections>"

    def _protocol_factory(self) -> H2Protocol:
        plain = super()._protocol_factory()
        connection = _Connection(plain.handler, plain.config, plain.h2_config)
        self._connections = {known for known in self._connections if not known.lost.is_set()} | {connection}
        return connection

    async def listen(self, path: Path) -> None:
        """Bind `path` and serve on it. The file is never removed: a kubelet leaves it behind.

        Raises:
            OSError: The path cannot be bound.
        """
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.setblocking(False)
            listening.bind(str(path))
            listening.listen()
        except BaseException:
            listening.close()
            raise
        self._listening = listening
        self._accepting = asyncio.create_task(
            accept_all(listening, self._protocol_factory), name="fake kubelet: accept"
        )

    def hang_up(self, *, abruptly: bool) -> None:
        """Stop listening and drop every connection.

        Args:
            abruptly: Without GOAWAY, as when the process is killed.
        """
        if self._listening is not None and self._accepting is not None:
            stop_accepting(self._accepting, self._listening)
            self._listening = None
        for connection in self._connections:
            if abruptly:
                connection.abort()
            else:
                connection.close(b"")

    async def closed(self) -> None:
        """See the calls in flight end, after `hang_up`."""
        if self._accepting is not None:
            await asyncio.wait([self._accepting])
        for connection in self._connections:
            if connection.transport is not None:
                await connection.lost.wait()
            assert isinstance(connection.handler, ServerHandler)
            await connection.handler.wait_closed()
        self._connections = set()


_GO_NAMES = {status: status.name.title().replace("_", "") for status in Status} | {
    Status.OK: "OK",
    Status.CANCELLED: "Canceled",
}


@asynccontextmanager
async def go_errors() -> AsyncIterator[None]:
    """Turn what grpclib raises into `RpcError`.

    grpclib wakes a call whose stream died by cancelling the task, and does not take that back: structured concurrency
    would take the task for cancelled from outside. So it is taken back here; and where the task *is* cancelled from
    outside at the same moment, that counts, not the stream.
    """
    task = asyncio.current_task()
    assert task is not None
    cancelling = task.cancelling()
    try:
        yield
    except (GRPCError, StreamTerminatedError, TimeoutError, AssertionError, ProtocolError) as error:
        while task.cancelling() > cancelling:
            task.uncancel()
        await anyio.lowlevel.checkpoint_if_cancelled()
        raise RpcError(*_go_status(error)) from error


def _go_status(error: Exception) -> tuple[str, str]:
    match error:
        case GRPCError():
            return _GO_NAMES[error.status], error.message or ""
        case StreamTerminatedError():
            return "Unavailable", "error reading from server: EOF"
        case TimeoutError():
            return "DeadlineExceeded", "context deadline exceeded"
        case _:  # grpclib asserts that the peer keeps to the protocol
            return "Internal", "cardinality violation: received no response message from non-server-streaming RPC"
