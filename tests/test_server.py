"""The socket and the connections behind it, where a peer or the system does not play along."""

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from grpclib.const import Cardinality, Handler
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived
from h2.settings import SettingCodes

from devplugin import ConfigurationError, KubeletUnavailable, _server
from devplugin._kubelet import KubeletDirectory
from devplugin._server import serving
from devplugin._service import RawStream
from tests.conftest import eventually


class RawPeer:
    """An HTTP/2 client whose every frame is the test's."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setblocking(False)
        self.socket.connect(str(path))
        self.h2 = H2Connection()
        self.h2.initiate_connection()
        headers = {":method": "POST", ":scheme": "http", ":path": "/x/Y", ":authority": "localhost"}
        self.h2.send_headers(1, [*headers.items(), ("te", "trailers"), ("content-type", "application/grpc")])

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    async def until(self, kind: type[Event]) -> Event:
        """The next event of a kind."""
        async with asyncio.timeout(10):
            while True:
                received = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
                assert received, f"the connection ended before {kind.__name__}"
                for event in self.h2.receive_data(received):
                    if isinstance(event, kind):
                        return event


@contextmanager
def raw_peer(server: _server.Server) -> Iterator[RawPeer]:
    peer = RawPeer(server.path)
    with peer.socket:
        yield peer


async def echo(stream: RawStream) -> None:
    message = await stream.recv_message()
    assert message is not None
    await stream.send_message(message)


async def flood(stream: RawStream) -> None:
    await stream.recv_message()
    while True:
        await stream.send_message(bytes(2**20))


ECHO = {"/x/Y": Handler(echo, Cardinality.UNARY_UNARY, bytes, bytes)}
FLOOD = {"/x/Y": Handler(flood, Cardinality.UNARY_STREAM, bytes, bytes)}


@pytest.mark.asyncio
@pytest.mark.parametrize("payload", [b"\0\0\0", b"\0\0\0\0\5ab"])
async def test_a_request_that_is_cut_short(directory: Path, payload: bytes) -> None:
    """A request that ends inside its message is refused."""
    async with serving(directory, "acme.com/gpu", ECHO) as server:
        with raw_peer(server) as peer:
            peer.h2.send_data(1, payload, end_stream=True)
            peer.flush()
            answer = await peer.until(ResponseReceived)
            assert isinstance(answer, ResponseReceived)
            headers = dict(answer.headers)
            assert headers[b"grpc-status"] == b"3"
            assert headers[b"grpc-message"] == b"the request ended before its message was complete"
            assert repr(server) == f"Server({server.name!r}, 1 connections)"


@pytest.mark.asyncio
async def test_a_peer_that_is_no_http2(directory: Path) -> None:
    """Garbage costs its sender the connection, and nobody else anything."""
    async with serving(directory, "acme.com/gpu", ECHO) as server:
        reader, writer = await asyncio.open_unix_connection(server.path)
        writer.write(b"GET / HTTP/1.1\r\n\r\n" * 10)
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await writer.wait_closed()
        with raw_peer(server) as peer:
            peer.h2.send_data(1, b"\0\0\0\0\2ab", end_stream=True)
            peer.flush()
            answer = await peer.until(DataReceived)
            assert isinstance(answer, DataReceived)
            assert answer.data == b"\0\0\0\0\2ab"


@pytest.mark.asyncio
async def test_a_peer_that_does_not_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a peer never reads does not hold the end up: its connection is aborted."""
    monkeypatch.setattr(_server, "_CLOSE_WITHIN_S", 0.05)
    async with serving(directory, "acme.com/gpu", FLOOD) as server:
        with raw_peer(server) as peer:
            peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
            peer.h2.increment_flow_control_window(2**31 - 2**16)
            peer.h2.send_data(1, b"\0\0\0\0\0", end_stream=True)
            peer.flush()
            await eventually(lambda: any(c.transport.get_write_buffer_size() for c in server._connections))
            await server.close_connections()
            assert not server._connections


@pytest.mark.asyncio
async def test_a_directory_that_is_gone_or_full(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no socket can be made for now, it is waited; where the system forbids it, it is an error."""

    def failing(number: int) -> None:
        def bind(_: Path) -> socket.socket:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(_server, "_listen", bind)

    with pytest.raises(KubeletUnavailable, match=r"no socket can be made in .*: No such file or directory"):
        async with serving(directory / "gone", "acme.com/gpu", ECHO):
            pass
    failing(errno.ENOSPC)
    with pytest.raises(KubeletUnavailable, match="No space left on device"):
        async with serving(directory, "acme.com/gpu", ECHO):
            pass
    failing(errno.EROFS)
    with pytest.raises(ConfigurationError, match="Read-only file system"):
        async with serving(directory, "acme.com/gpu", ECHO):
            pass


@pytest.mark.asyncio
async def test_a_socket_that_cannot_get_its_name(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure between bind and listen leaves no hidden file behind."""

    def refuse(path: Path, _: Path) -> None:
        raise OSError(errno.EIO, f"cannot rename {path}")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(KubeletUnavailable):
        async with serving(directory, "acme.com/gpu", ECHO):
            pass
    assert list(directory.iterdir()) == []


@pytest.mark.asyncio
async def test_a_busy_socket_is_not_stale(directory: Path) -> None:
    """A socket of ours whose queue is full belongs to a live process."""
    async with serving(directory, "acme.com/gpu", ECHO) as server:
        busy = socket.socket(socket.AF_UNIX)
        path = server.path.with_name(server.name.replace(server.name[-13:-5], "0" * 8))
        busy.bind(str(path))
        busy.listen(0)
        waiting = socket.socket(socket.AF_UNIX)
        waiting.connect(str(path))
        async with serving(directory, "acme.com/gpu", ECHO):
            assert path.is_socket()
        waiting.close()
        busy.close()


@pytest.mark.asyncio
async def test_a_kubelet_sock_without_a_kubelet(directory: Path) -> None:
    """What a dead kubelet left, and nothing at all, are both nobody."""
    kubelet = KubeletDirectory(directory)
    with pytest.raises(KubeletUnavailable, match="nobody listens on"):
        async with kubelet.dial(kubelet.socket_id()):
            pass
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(kubelet.socket))
    with pytest.raises(KubeletUnavailable, match="nobody listens on"):
        async with kubelet.dial(kubelet.socket_id()):
            pass


def test_reprs(directory: Path) -> None:
    """A directory shows its path."""
    assert repr(KubeletDirectory(directory)) == f"KubeletDirectory({str(directory)!r})"
