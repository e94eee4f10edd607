"""A call to a server whose every frame is the test's."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, RequestReceived, StreamEnded
from h2.settings import SettingCodes

from devplugin import _caller
from devplugin._caller import CallingConnection
from devplugin._grpc import CallError, Status, frame
from tests.conftest import eventually
from tests.support_http2 import nothing_unhandled

pytestmark = pytest.mark.asyncio

OK = [(":status", "200"), ("content-type", "application/grpc")]
DONE = [("grpc-status", "0")]


class RawServer(asyncio.Protocol):
    """What a call meets: ``react`` is told each event."""

    def __init__(self, react: Callable[["RawServer", Event], None], settings: Mapping[SettingCodes | int, int]) -> None:
        self.react = react
        self.settings = settings
        self.h2 = H2Connection(H2Configuration(client_side=False))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.h2.initiate_connection()
        self.h2.update_settings(dict(self.settings))
        self.transport.write(self.h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self.react(self, event)
        self.transport.write(self.h2.data_to_send())


@asynccontextmanager
async def connected(
    directory: Path, react: Callable[[RawServer, Event], None], settings: Mapping[SettingCodes | int, int] = {}
) -> AsyncIterator[CallingConnection]:
    loop = asyncio.get_running_loop()
    path = str(directory / "s.sock")
    server = await loop.create_unix_server(lambda: RawServer(react, settings), path)
    _, connection = await loop.create_unix_connection(CallingConnection, path)
    with nothing_unhandled():
        yield connection
        connection.transport.close()
        await connection.lost
    server.close()


def answering(*frames: Callable[[H2Connection], None]) -> Callable[[RawServer, Event], None]:
    def react(server: RawServer, event: Event) -> None:
        if isinstance(event, StreamEnded):
            for send in frames:
                send(server.h2)

    return react


def headers(found: list[tuple[str, str]], *, end: bool = False) -> Callable[[H2Connection], None]:
    return lambda h2: h2.send_headers(1, found, end_stream=end)


def data(sent: bytes) -> Callable[[H2Connection], None]:
    return lambda h2: h2.send_data(1, sent)


async def test_what_is_sent(directory: Path) -> None:
    """The headers of a call as grpc-go wants them, and the message; and the answer comes back."""
    seen: list[tuple[str, str]] = []

    def react(server: RawServer, event: Event) -> None:
        if isinstance(event, RequestReceived):
            seen.extend((name.decode(), value.decode()) for name, value in event.headers)
        answering(headers(OK), data(frame(b"an")[:7]), data(frame(b"an")[7:] or b""), headers(DONE, end=True))(
            server, event
        )

    async with connected(directory, react) as connection:
        assert await connection.call("/a.B/C", b"ask", 15) == b"an"
    assert seen[:2] == [(":method", "POST"), (":scheme", "http")]
    assert set(seen[2:]) == {
        (":path", "/a.B/C"),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "devplugin"),
        ("grpc-timeout", "15S"),
    }


@pytest.mark.parametrize(
    ("frames", "status", "message"),
    [
        (
            [headers([*OK, ("grpc-status", "9"), ("grpc-message", "no%21")], end=True)],
            Status.FAILED_PRECONDITION,
            "no!",
        ),
        ([headers(OK), data(frame(b"x")), headers([("grpc-status", "1")], end=True)], Status.CANCELLED, ""),
        ([headers(OK), headers(DONE, end=True)], Status.INVALID_ARGUMENT, "there is no message"),
        (
            [headers([(":status", "404")], end=True)],
            Status.UNKNOWN,
            "the answer is not gRPC's: HTTP status 404",
        ),
        (
            [headers(OK), data(b"\0\0\0\0\x0b"), data(bytes(11)), headers(DONE, end=True)],
            Status.RESOURCE_EXHAUSTED,
            "a message of 11 bytes is over the limit of 10 bytes",
        ),
    ],
)
async def test_a_call_that_fails(
    directory: Path,
    frames: list[Callable[[H2Connection], None]],
    status: Status,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server's status and its words, or what is wrong with its answer."""
    monkeypatch.setattr(_caller, "_ANSWER_BYTES_MAX", 10)
    async with connected(directory, answering(*frames)) as connection:
        with pytest.raises(CallError) as caught:
            await connection.call("/a.B/C", b"ask", 15)
    assert (caught.value.status, caught.value.message) == (status, message)


@pytest.mark.parametrize(
    ("send", "reason"),
    [
        (lambda server: server.h2.reset_stream(1, 7), "the call was reset (HTTP/2 error 7)"),
        (lambda server: server.h2.close_connection(), "the peer said goodbye (HTTP/2 error 0)"),
        (lambda server: server.transport.abort(), "the connection was lost"),
        (lambda server: server.transport.write(b"\0\0\1\0\0\0\0\0\0x"), "the peer does not keep to HTTP/2: "),
    ],
)
async def test_a_server_that_goes(directory: Path, send: Callable[[RawServer], None], reason: str) -> None:
    """It is told how."""

    def react(server: RawServer, event: Event) -> None:
        if isinstance(event, StreamEnded):
            send(server)

    async with connected(directory, react) as connection:
        with pytest.raises(ConnectionResetError) as caught:
            await connection.call("/a.B/C", b"ask", 15)
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [(SettingCodes.MAX_CONCURRENT_STREAMS, "Max outbound streams"), (SettingCodes.INITIAL_WINDOW_SIZE, "flow control")],
)
async def test_a_server_that_takes_no_call(directory: Path, setting: SettingCodes, reason: str) -> None:
    """Its settings leave no room for one."""
    async with connected(directory, lambda *_: None, {setting: 0}) as connection:
        await eventually(lambda: connection._h2.remote_settings.get(setting) == 0)
        with pytest.raises(ConnectionResetError, match=f"it takes no call: .*{reason}"):
            await connection.call("/a.B/C", b"ask", 15)


async def test_a_server_that_has_gone(directory: Path) -> None:
    """Before it was called."""
    async with connected(directory, lambda server, _: server.transport.abort()) as connection:
        await connection.lost
        with pytest.raises(ConnectionResetError, match="the connection was lost"):
            await connection.call("/a.B/C", b"ask", 15)


async def test_a_server_that_says_nothing(directory: Path) -> None:
    """The call ends with its time."""
    async with connected(directory, lambda *_: None) as connection:
        with pytest.raises(TimeoutError):
            await connection.call("/a.B/C", b"ask", 0)
