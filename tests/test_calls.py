"""The calls of a peer whose every frame is the test's."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    PingAckReceived,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.settings import SettingCodes

from devplugin._calls import REQUEST_BYTES_MAX, Methods, Send
from devplugin._grpc import CallError, Status, frame
from devplugin._server import Server, serving
from tests.conftest import eventually
from tests.support_http2 import REQUEST, RawPeer, nothing_unhandled, raw_peer

pytestmark = pytest.mark.asyncio

EMPTY = frame(b"")


@asynccontextmanager
async def peer_of(directory: Path, methods: Methods) -> AsyncIterator[tuple[RawPeer, Server]]:
    with nothing_unhandled():
        async with serving(str(directory), "acme.com/gpu", methods) as server:
            with raw_peer(server.path) as peer:
                yield peer, server


def unary(answer: Callable[[bytes], Awaitable[bytes]]) -> Methods:
    return Methods({"/x/Y": answer}, {})


async def _echo(request: bytes) -> bytes:
    return request


ECHO = unary(_echo)


async def _works(peer: RawPeer, stream_id: int) -> None:
    """Another call on the connection is answered."""
    peer.request(stream_id, frame(b"ab"))
    assert (await peer.headers(ResponseReceived))[":status"] == "200"
    event = await peer.until(DataReceived)
    assert isinstance(event, DataReceived)
    assert event.data == frame(b"ab")
    assert await peer.headers(TrailersReceived) == {"grpc-status": "0"}


@pytest.mark.parametrize(
    ("headers", "answer"),
    [
        ({"method": "GET"}, {":status": "405"}),
        ({"content-type": "text/html"}, {":status": "415"}),
        ({"path": "/x/Z"}, {"grpc-status": "12", "grpc-message": "there is no method /x/Z"}),
        ({"grpc-timeout": "soon"}, {"grpc-status": "3", "grpc-message": "grpc-timeout has no such value"}),
    ],
)
@pytest.mark.parametrize("complete", [False, True])
async def test_what_is_no_call(
    directory: Path,
    headers: dict[str, str],
    answer: dict[str, str],
    complete: bool,  # noqa: FBT001
) -> None:
    """It is refused before its data has come; what comes still is not read, and harms no other call."""
    async with peer_of(directory, ECHO) as (peer, _):
        peer.request(1, EMPTY, end=complete, **headers)
        assert answer.items() <= (await peer.headers(ResponseReceived)).items()
        if not complete:
            reset = await peer.until(StreamReset)
            assert isinstance(reset, StreamReset)
            assert reset.error_code == ErrorCodes.NO_ERROR
        await _works(peer, 3)


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"", "3", "there is no message"),
        (b"\0\0\0", "3", "the message is cut short"),
        (b"\0\0\0\0\5ab", "3", "the message is cut short"),
        (EMPTY * 2, "3", "there is more than one message"),
        (b"\1\0\0\0\0", "12", "compressed messages are not supported"),
        (b"\0\xff\0\0\0", "8", f"a message of {0xFF000000} bytes is over the limit of {REQUEST_BYTES_MAX} bytes"),
    ],
)
async def test_a_request_that_is_none(directory: Path, data: bytes, status: str, message: str) -> None:
    """The peer reads what is wrong with it, and no method does."""
    asked: list[bytes] = []

    async def note(request: bytes) -> bytes:
        asked.append(request)
        return request

    async with peer_of(directory, unary(note)) as (peer, _):
        peer.request(1, data)
        headers = await peer.headers(ResponseReceived)
        assert (headers["grpc-status"], headers["grpc-message"]) == (status, message)
        await _works(peer, 3)
    assert asked == [b"ab"]


async def test_a_request_in_pieces(directory: Path) -> None:
    """However small they are."""
    async with peer_of(directory, ECHO) as (peer, _):
        peer.request(1)
        message = bytes(range(256))
        for byte in frame(message):
            peer.h2.send_data(1, bytes([byte]))
            peer.flush()
        peer.h2.end_stream(1)
        peer.flush()
        event = await peer.until(DataReceived)
        assert isinstance(event, DataReceived)
        assert event.data == frame(message)


async def test_a_request_with_padding_and_trailers(directory: Path) -> None:
    """Padding takes room in the window as well, and gets it back; trailers of the peer's own say nothing here."""
    async with peer_of(directory, ECHO) as (peer, _):
        peer.request(1)
        message = bytes(range(256)) + bytes(244)  # of as many frames with padding as fill the window twice
        for byte in frame(message):
            while peer.h2.local_flow_control_window(1) < 257:
                peer.flush()
                await peer.until(WindowUpdated)
            peer.h2.send_data(1, bytes([byte]), pad_length=255)
        peer.h2.send_headers(1, [("grpc-status", "13")], end_stream=True)
        peer.flush()
        event = await peer.until(DataReceived)
        assert isinstance(event, DataReceived)
        assert event.data == frame(message)
        assert await peer.headers(TrailersReceived) == {"grpc-status": "0"}


async def test_headers_in_many_frames(directory: Path) -> None:
    """Headers that no one frame takes; a path that is no UTF-8 is only an unknown one."""
    async with peer_of(directory, ECHO) as (peer, _):
        peer.h2.send_headers(1, [*REQUEST.items(), *((f"x-{number}", "\u20ac" * 3000) for number in range(4))])
        peer.h2.send_data(1, EMPTY, end_stream=True)
        peer.flush()
        assert (await peer.headers(ResponseReceived))[":status"] == "200"
        peer.h2.send_headers(3, [*(REQUEST | {":path": b"/\xff"}).items()], end_stream=True)
        peer.flush()
        assert (await peer.headers(ResponseReceived))["grpc-message"] == "there is no method /%EF%BF%BD"


async def test_the_callers_time_is_over(directory: Path) -> None:
    """A call ends with its grpc-timeout."""

    async def hang(_: bytes) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    async with peer_of(directory, unary(hang)) as (peer, _):
        peer.request(1, EMPTY, grpc_timeout="20m")
        assert (await peer.headers(ResponseReceived))["grpc-status"] == "4"


async def test_a_defect(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a method does not expect is logged, and the peer is told that it is not its fault."""

    async def fail(_: bytes) -> bytes:
        raise ZeroDivisionError("no idea")

    async with peer_of(directory, unary(fail)) as (peer, _):
        peer.request(1, EMPTY)
        headers = await peer.headers(ResponseReceived)
        assert headers["grpc-status"] == "13"
        assert headers["grpc-message"] == "the device plugin has a defect; its log says which"
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == ["/x/Y failed"]


async def test_an_answer_that_cannot_be_sent(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The peer does not wait for it for ever."""

    async def wrong(_: bytes) -> bytes:
        return "text"  # type: ignore[return-value]

    async with peer_of(directory, unary(wrong)) as (peer, _):
        peer.request(1, EMPTY)
        reset = await peer.until(StreamReset)
        assert isinstance(reset, StreamReset)
        assert reset.error_code == ErrorCodes.INTERNAL_ERROR
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == ["/x/Y has no answer"]


async def test_a_stream_that_fails_after_a_message(directory: Path) -> None:
    """Its error comes in the trailers."""

    async def fail(_: bytes, send: Send) -> None:
        await send(b"one")
        raise CallError(Status.ABORTED, "no more")

    async with peer_of(directory, Methods({"/x/Y": _echo}, {"/x/Fail": fail})) as (peer, server):
        peer.request(1, EMPTY, path="/x/Fail")
        assert "grpc-status" not in await peer.headers(ResponseReceived)
        assert await peer.headers(TrailersReceived) == {"grpc-status": "10", "grpc-message": "no more"}
        (connection,) = server._connections
        await _works(peer, 3)
        assert connection.has_streamed


@pytest.mark.parametrize("gives_in", [True, False])
async def test_a_peer_that_gives_up(directory: Path, gives_in: bool, caplog: pytest.LogCaptureFixture) -> None:  # noqa: FBT001
    """Its call is cancelled. A method that does not give in answers nobody, and that is no error."""
    caplog.set_level(logging.DEBUG, "devplugin")
    ends: list[str] = []

    async def wait(_: bytes) -> bytes:
        ends.append("began")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            if gives_in:
                raise
        return b"too late"

    methods = Methods({"/x/Y": wait, "/x/Echo": _echo}, {})
    async with peer_of(directory, methods) as (peer, server):
        peer.request(1, EMPTY)
        await eventually(lambda: ends == ["began"])
        peer.h2.reset_stream(1, ErrorCodes.CANCEL)
        peer.flush()
        await eventually(lambda: ends == ["began", "cancelled"])
        (connection,) = server._connections
        await eventually(lambda: not connection._tasks())
        peer.request(3, EMPTY, path="/x/Echo")
        assert (await peer.headers(ResponseReceived))[":status"] == "200"
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_a_method_that_tidies_up(directory: Path) -> None:
    """It is cancelled once, though its peer gives up the call and then goes as well."""
    tidy, ends = asyncio.Event(), list[str]()

    async def wait(_: bytes) -> bytes:
        ends.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("cancelled")
            await tidy.wait()
            ends.append("tidy")
        raise AssertionError

    async with peer_of(directory, unary(wait)) as (peer, server):
        peer.request(1, EMPTY)
        await eventually(lambda: "began" in ends)
        peer.h2.reset_stream(1, ErrorCodes.CANCEL)
        peer.flush()
        await eventually(lambda: "cancelled" in ends)
        (connection,) = server._connections
        peer.socket.close()
        await connection.lost
        tidy.set()
        await connection.calls_ended()
    assert ends == ["began", "cancelled", "tidy"]


async def test_a_method_that_answers_a_peer_that_has_gone(directory: Path) -> None:
    """Its answer does not wait for room that will never come."""
    began = asyncio.Event()

    async def answer(_: bytes) -> bytes:
        began.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return bytes(100_000)

    async with peer_of(directory, unary(answer)) as (peer, server):
        peer.request(1, EMPTY)
        await began.wait()
        (connection,) = server._connections
        peer.socket.close()
        async with asyncio.timeout(5):
            await connection.lost
            await connection.calls_ended()


async def test_a_stream_that_the_plugin_ends(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What it would send in the moment of the goodbye is lost, and that is no defect of its method."""
    go = asyncio.Event()

    async def stream(_: bytes, send: Send) -> None:
        await send(b"one")
        await go.wait()
        await send(b"two")

    async with peer_of(directory, Methods({}, {"/x/Y": stream})) as (peer, server):
        peer.request(1, EMPTY)
        await peer.until(DataReceived)
        (connection,) = server._connections
        go.set()
        connection.say_goodbye()
        await connection.lost
        await connection.calls_ended()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_peer_that_gives_up_at_once(directory: Path) -> None:
    """What is reset in the moment it is asked for is answered by nothing, neither an answer nor a refusal."""
    began = []

    async def note(request: bytes) -> bytes:
        began.append(request)
        return request

    async with peer_of(directory, unary(note)) as (peer, server):
        for stream_id, headers in ((1, {}), (3, {":path": "/x/Z"}), (5, {":method": "GET"})):
            peer.h2.send_headers(stream_id, [*(REQUEST | headers).items()])
            peer.h2.send_data(stream_id, EMPTY, end_stream=True)
            peer.h2.reset_stream(stream_id)
        peer.h2.send_headers(7, [*REQUEST.items()])
        peer.h2.reset_stream(7)
        peer.flush()
        await _works(peer, 9)
        assert began == [b"ab"] or sys.version_info >= (3, 12)  # there a task begins before the reset is seen
        (connection,) = server._connections
        assert not connection._requests


@pytest.mark.parametrize("how", ["goodbye", "garbage", "gone"])
async def test_a_peer_that_leaves(directory: Path, how: str) -> None:
    """However it does, its calls are cancelled, and the connection ends."""
    ended = asyncio.Event()

    async def wait(_: bytes, send: Send) -> None:
        try:
            await send(b"one")
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with peer_of(directory, Methods({}, {"/x/Y": wait})) as (peer, server):
        peer.request(1, EMPTY)
        await peer.until(DataReceived)
        if how == "goodbye":
            peer.h2.close_connection()
            peer.flush()
        elif how == "garbage":
            peer.socket.sendall(b"\0\0\1\0\0\0\0\0\0x")  # DATA on stream 0
            goodbye = await peer.until(ConnectionTerminated)
            assert isinstance(goodbye, ConnectionTerminated)
            assert goodbye.error_code == ErrorCodes.PROTOCOL_ERROR
        else:
            peer.socket.close()
        async with asyncio.timeout(5):
            await ended.wait()
        await eventually(lambda: not server._connections)


async def test_the_plugin_ends(directory: Path) -> None:
    """It says so to its peer, and waits for the calls that are under way to tidy up."""
    ends: list[str] = []

    async def wait(_: bytes) -> bytes:
        ends.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            for _turn in range(9):
                await asyncio.sleep(0)
            ends.append("tidy")
        raise AssertionError

    async with peer_of(directory, unary(wait)) as (peer, server):
        peer.request(1, EMPTY)
        await eventually(lambda: ends)
        await server.close_connections()
        assert ends == ["began", "tidy"]
        goodbye = await peer.until(ConnectionTerminated)
        assert isinstance(goodbye, ConnectionTerminated)
        assert (goodbye.error_code, goodbye.last_stream_id) == (ErrorCodes.NO_ERROR, 1)


@pytest.mark.parametrize("window", [1, 7, 16_384, 2**20])
async def test_a_message_through_a_window(directory: Path, window: int) -> None:
    """A long message comes as fast as the peer's window lets it, whole, and other calls are answered meanwhile."""
    message = bytes(range(256)) * (4 if window < 100 else 2_000)

    async def long(_: bytes) -> bytes:
        return message

    methods = Methods({"/x/Y": _echo, "/x/Long": long}, {})
    async with peer_of(directory, methods) as (peer, _):
        peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        peer.flush()
        peer.request(1, EMPTY, path="/x/Long")
        received = bytearray()
        while len(received) < len(frame(message)):
            event = await peer.until(DataReceived)
            assert isinstance(event, DataReceived)
            if event.stream_id == 1:
                received += event.data
                assert len(event.data) <= window
            peer.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            peer.flush()
        assert received == frame(message)
        assert await peer.headers(TrailersReceived) == {"grpc-status": "0"}


async def test_a_window_that_settings_move(directory: Path) -> None:
    """Settings close the window of a message that is under way, even below nothing, and open it again."""
    message = bytes(range(256)) * 8

    async def long(_: bytes) -> bytes:
        return message

    async def data_until(size: int) -> bytes:
        found = b""
        while len(found) < size:
            event = await peer.until(DataReceived)
            assert isinstance(event, DataReceived)
            found += event.data
        assert len(found) == size
        return found

    def window(size: int) -> None:
        peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: size})
        peer.flush()

    async with peer_of(directory, unary(long)) as (peer, server):
        window(0)
        peer.request(1, EMPTY)
        await peer.headers(ResponseReceived)
        window(100)
        received = await data_until(100)
        window(10)  # 90 too many were sent
        peer.h2.increment_flow_control_window(80, 1)
        peer.h2.ping(b"seen all")
        peer.flush()
        await peer.until(PingAckReceived)
        (connection,) = server._connections
        assert connection._h2.local_flow_control_window(1) == -10
        assert not [event for event in peer.events if isinstance(event, DataReceived)]
        window(2 * len(message))
        received += await data_until(len(frame(message)) - 100)
        assert received == frame(message)
        assert await peer.headers(TrailersReceived) == {"grpc-status": "0"}


async def test_several_messages_through_one_window(directory: Path) -> None:
    """Streams that wait for the connection's window all get on as it opens."""
    message = bytes(40_000)

    async def long(_: bytes) -> bytes:
        return message

    async with peer_of(directory, unary(long)) as (peer, _):
        streams = range(1, 21, 2)
        for stream_id in streams:
            peer.request(stream_id, EMPTY)
        received = dict.fromkeys(streams, 0)
        while sum(received.values()) < len(frame(message)) * len(streams):
            event = await peer.until(DataReceived)
            assert isinstance(event, DataReceived)
            received[event.stream_id] += len(event.data)
            peer.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            peer.flush()
        assert set(received.values()) == {len(frame(message))}


async def test_a_peer_that_reads_later(directory: Path) -> None:
    """When the system takes no more, sending waits until it does."""
    message = bytes(8 * 2**20)

    async def long(_: bytes) -> bytes:
        return message

    async with peer_of(directory, unary(long)) as (peer, server):
        peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
        peer.h2.increment_flow_control_window(2**30)
        peer.request(1, EMPTY)
        await eventually(lambda: any(connection._writing_paused for connection in server._connections))
        (connection,) = server._connections
        assert connection.transport.get_write_buffer_size() < 2**17  # the rest of the message waits as it is
        received = 0
        while received < len(frame(message)):
            event = await peer.until(DataReceived)
            assert isinstance(event, DataReceived)
            received += len(event.data)
        assert await peer.headers(TrailersReceived) == {"grpc-status": "0"}


async def test_the_end_waits_for_an_answer_on_its_way(directory: Path) -> None:
    """A call is under way until the peer has room for the whole of its answer."""

    async def long(_: bytes) -> bytes:
        return bytes(100)

    async with peer_of(directory, unary(long)) as (peer, server):
        peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 50})
        peer.request(1, EMPTY)
        await peer.until(DataReceived)
        ending = asyncio.create_task(server.replies_sent(5))
        peer.h2.ping(bytes(8))
        peer.flush()
        await peer.until(PingAckReceived)
        assert not ending.done()
        peer.h2.increment_flow_control_window(1000, 1)
        peer.flush()
        assert await peer.headers(TrailersReceived) == {"grpc-status": "0"}
        await ending
