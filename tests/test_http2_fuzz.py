"""A served connection and whatever a peer may send, in any order: nothing raises, and nothing is left."""

import asyncio
import gc
from collections.abc import Callable, Iterable
from typing import Any

from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from devplugin._calls import Methods, Send
from devplugin._grpc import CallError, Status, frame
from devplugin._server import Server
from tests.support_http2 import REQUEST

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()


class Wire(asyncio.Transport):
    """A transport between a connection and a peer that is the test. It takes what is written until it is ``full``."""

    def __init__(self, methods: Methods) -> None:
        super().__init__()
        self.connection = Server("/nowhere", "", methods).accept()
        self.encoder = Encoder()
        self.written = bytearray()
        self.ending = False
        self.full = False
        self.connection.connection_made(self)
        self.receive(PREFACE)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ending
        self.written += data
        if self.full:
            self.connection.pause_writing()

    def is_closing(self) -> bool:
        return self.ending

    def close(self) -> None:
        if not self.ending:
            self.ending = True
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    def drain(self) -> None:
        self.full = False
        self.connection.resume_writing()

    def receive(self, data: bytes) -> None:
        """As asyncio does: a buffer at a time, and nothing after the end."""
        while data and not self.ending:
            buffer = self.connection.get_buffer(-1)
            part = data[: len(buffer)]
            buffer[: len(part)] = part
            self.connection.buffer_updated(len(part))
            data = data[len(part) :]

    def headers(self, stream_id: int, changed: dict[str, str], *, end: bool, padded: int, pieces: int) -> bytes:
        """A block of headers, in a HEADERS frame and ``pieces`` of CONTINUATION."""
        block = self.encoder.encode([*(REQUEST | changed).items()])
        head = HeadersFrame(stream_id, block[pieces:], flags=["END_STREAM"] * end + ["PADDED"] * bool(padded))
        head.pad_length = padded
        if not pieces:
            head.flags.add("END_HEADERS")
            return head.serialize()
        head.data, rest = block[:-pieces], block[-pieces:]
        frames: list[Frame] = [ContinuationFrame(stream_id, rest[i : i + 1]) for i in range(pieces)]
        frames[-1].flags.add("END_HEADERS")
        return b"".join(frame.serialize() for frame in (head, *frames))


Action = Callable[[Wire], bytes]
# Few streams, so that most frames meet one that is there.
stream_ids = st.sampled_from([1, 3, 5, 7])
paths = st.sampled_from(
    ["/x/Echo", "/x/Long", "/x/Hang", "/x/Stubborn", "/x/Refuse", "/x/Some", "/x/Endless", "/x/Nil"]
)
odd_headers = st.sampled_from(
    [
        {":method": "GET"},
        {"content-type": "text/html"},
        {":path": "/\u00e9\u20ac"},
        {"grpc-timeout": "0S"},
        {"grpc-timeout": "1u"},
        {"grpc-timeout": "?"},
        {"content-length": "7"},
        {"content-length": "x"},
        {"x": "y" * 70_000},
        {":status": "100"},
    ]
)


def _sent(frame: Frame) -> Action:
    return lambda _: frame.serialize()


def _headers(changed: dict[str, str], stream_id: int, **rest: Any) -> Action:
    return lambda wire: wire.headers(stream_id, changed, **rest)


def _data(stream_id: int, data: bytes, end: bool, padded: int) -> Action:  # noqa: FBT001
    sent = DataFrame(stream_id, data, flags=["END_STREAM"] * end + ["PADDED"] * bool(padded))
    sent.pad_length = padded
    return _sent(sent)


def _whole(stream_id: int, path: str) -> Action:
    """A request with all that belongs to it."""
    return lambda wire: (
        wire.headers(stream_id, {":path": path}, end=False, padded=0, pieces=0)
        + DataFrame(stream_id, frame(b"ab"), flags=["END_STREAM"]).serialize()
    )


def _at_the_wire(act: Callable[[Wire], object]) -> st.SearchStrategy[Action]:
    def action(wire: Wire) -> bytes:
        act(wire)
        return b""

    return st.just(action)


shape = {"end": st.booleans(), "padded": st.sampled_from([0, 0, 9]), "pieces": st.sampled_from([0, 0, 3])}
calls = st.builds(_whole, stream_ids, paths)
good = st.one_of(
    calls,
    st.builds(_headers, st.builds(lambda path: {":path": path}, paths), stream_ids, **shape),
    st.builds(
        _data,
        stream_ids,
        st.sampled_from([b"", b"\0", frame(b""), frame(b"x" * 300), b"\1\0\0\0\0", b"\0\xff\0\0\0", bytes(16_384)]),
        st.booleans(),
        st.sampled_from([0, 0, 200]),
    ),
    st.builds(RstStreamFrame, stream_ids, error_code=st.sampled_from([0, 8, 99])).map(_sent),
    st.builds(WindowUpdateFrame, st.just(0) | stream_ids, window_increment=st.sampled_from([1, 70_000])).map(_sent),
    st.builds(
        lambda window, table: SettingsFrame(
            0, settings={SettingCodes.INITIAL_WINDOW_SIZE: window, SettingCodes.HEADER_TABLE_SIZE: table, 0xFE03: 1}
        ),
        st.sampled_from([0, 1, 100_000]),
        st.sampled_from([0, 4096, 2**32 - 1]),
    ).map(_sent),
    st.sampled_from(
        [
            SettingsFrame(0, flags=["ACK"]),
            PingFrame(0, b"12345678"),
            PingFrame(0, bytes(8), flags=["ACK"]),
            PriorityFrame(3),
        ]
    ).map(_sent),
    _at_the_wire(Wire.drain),
    _at_the_wire(lambda wire: setattr(wire, "full", True)),
)
broken = st.one_of(
    st.builds(_headers, odd_headers, stream_ids, **shape),
    st.binary(min_size=1, max_size=30).map(lambda garbage: lambda _: garbage),
    st.builds(HeadersFrame, stream_ids, st.binary(max_size=20), flags=st.just(["END_HEADERS"])).map(_sent),
    st.builds(WindowUpdateFrame, st.just(0) | stream_ids, window_increment=st.just(2**31 - 1)).map(_sent),
    st.builds(lambda code, value: SettingsFrame(0, settings={code: value}), st.integers(1, 6), st.just(2**32 - 1)).map(
        _sent
    ),
    st.builds(GoAwayFrame, error_code=st.sampled_from([*ErrorCodes])).map(_sent),
    st.builds(lambda stream_id: PriorityFrame(stream_id, depends_on=stream_id), stream_ids).map(_sent),
    st.sampled_from(
        [ContinuationFrame(1, b"x"), PushPromiseFrame(1, 2, b"\x82"), DataFrame(2, b"x"), WindowUpdateFrame(9, 5)]
    ).map(_sent),
    _at_the_wire(Wire.close),
)


async def _echo(request: bytes) -> bytes:
    return request


async def _long(_: bytes) -> bytes:
    return bytes(100_000)


async def _hang(_: bytes) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


async def _stubborn(_: bytes) -> bytes:
    """Answers all the same when it is cancelled."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return b"too late"
    raise AssertionError


async def _refuse(_: bytes) -> bytes:
    raise CallError(Status.ABORTED, "no: \u20ac")


async def _some(_: bytes, send: Send) -> None:
    for size in (0, 1, 70_000):
        await send(bytes(size))


async def _endless(_: bytes, send: Send) -> None:
    while True:
        await send(b"x" * 20_000)
        await asyncio.sleep(0)


METHODS = Methods(
    {"/x/Echo": _echo, "/x/Long": _long, "/x/Hang": _hang, "/x/Stubborn": _stubborn, "/x/Refuse": _refuse},
    {"/x/Some": _some, "/x/Endless": _endless},
)


async def _steps(count: int) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


def _check_written(written: bytes) -> list[Frame]:
    """What was sent can be read, and no stream goes on after its end."""
    decoder, ended, found = Decoder(), set[int](), list[Frame]()
    decoder.max_allowed_table_size = 2**32
    while written:
        received, length = Frame.parse_frame_header(memoryview(written[:9]))
        received.parse_body(memoryview(written[9 : 9 + length]))
        written = written[9 + length :]
        found.append(received)
        if isinstance(received, HeadersFrame):
            assert "END_HEADERS" in received.flags
            decoder.decode(received.data)
        if isinstance(received, HeadersFrame | DataFrame):
            assert received.stream_id not in ended
        if {"END_STREAM"} & {*received.flags} or isinstance(received, RstStreamFrame):
            ended.add(received.stream_id)
    return found


async def _serve(actions: Iterable[tuple[Action, int]], *, at_once: bool) -> None:
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    wire = Wire(METHODS)
    chunk = b""
    for act, steps in actions:
        chunk += act(wire)
        if not at_once or steps:
            wire.receive(chunk)
            chunk = b""
            await _steps(steps)
    wire.receive(chunk)
    wire.close()
    async with asyncio.timeout(5):
        await wire.connection.lost
        await wire.connection.calls_ended()
    await _steps(2)
    assert not wire.connection._requests
    assert not wire.connection._tasks()
    _check_written(bytes(wire.written))

    another = Wire(METHODS)
    another.receive(_whole(1, "/x/Echo")(another))
    await _steps(2)
    assert [f.data for f in _check_written(bytes(another.written)) if isinstance(f, DataFrame)] == [frame(b"ab")]
    another.close()
    await another.connection.lost
    assert asyncio.all_tasks() == {asyncio.current_task()}
    del wire, another
    gc.collect(0)
    assert failures == []


@given(
    st.lists(st.tuples(good | calls | broken, st.sampled_from([0, 0, 1, 3])), max_size=30),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_whatever_a_peer_sends(actions: list[tuple[Action, int]], at_once: bool) -> None:  # noqa: FBT001
    """In one piece or in many, and wherever the connection is lost."""
    asyncio.run(_serve(actions, at_once=at_once))
