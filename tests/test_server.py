"""The socket and the connections behind it, where a peer or the system does not play along."""

import asyncio
import errno
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from h2.events import DataReceived
from h2.settings import SettingCodes

from devplugin import ConfigurationError, KubeletUnavailable, _accept, _server
from devplugin._calls import Methods, Send
from devplugin._kubelet import KubeletDirectory
from devplugin._server import serving
from tests.conftest import eventually
from tests.support_http2 import raw_peer


async def echo(request: bytes) -> bytes:
    return request


async def flood(_: bytes, send: Send) -> None:
    while True:
        await send(bytes(2**20))


ECHO = Methods({"/x/Y": echo}, {})
FLOOD = Methods({}, {"/x/Y": flood})


@asynccontextmanager
async def a_peer_that_does_not_read(directory: Path) -> AsyncIterator[_server.Server]:
    """A server with one, for which it has more to send than the system takes."""
    async with serving(str(directory), "acme.com/gpu", FLOOD) as server:
        with raw_peer(server.path) as peer:
            peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
            peer.h2.increment_flow_control_window(2**31 - 2**16)
            peer.request(data=b"\0\0\0\0\0")
            await eventually(lambda: any(c.transport.get_write_buffer_size() for c in server._connections))
            yield server


@pytest.mark.asyncio
async def test_a_peer_that_is_no_http2(directory: Path) -> None:
    """Garbage costs its sender the connection, and nobody else anything."""
    async with serving(str(directory), "acme.com/gpu", ECHO) as server:
        reader, writer = await asyncio.open_unix_connection(server.path)
        writer.write(b"GET / HTTP/1.1\r\n\r\n" * 10)
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await writer.wait_closed()
        with raw_peer(server.path) as peer:
            peer.request(data=b"\0\0\0\0\2ab")
            answer = await peer.until(DataReceived)
            assert isinstance(answer, DataReceived)
            assert answer.data == b"\0\0\0\0\2ab"


@pytest.mark.asyncio
async def test_a_peer_that_does_not_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a peer never reads does not hold the end up: its connection is aborted."""
    monkeypatch.setattr(_server, "_CLOSE_WITHIN_S", 0.05)
    async with a_peer_that_does_not_read(directory) as server:
        assert repr(server) == f"Server({server.name!r}, 1 connections)"
        await server.close_connections()
        assert not server._connections


@pytest.mark.asyncio
@pytest.mark.parametrize("turns", range(6))
async def test_a_peer_that_comes_at_the_end(directory: Path, turns: int) -> None:
    """At whatever turn of the loop it comes: nobody complains, and its connection ends."""
    async with serving(str(directory), "acme.com/gpu", ECHO) as server:
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(server.path)
        for _ in range(turns):
            await asyncio.sleep(0)
    with peer:
        peer.settimeout(5)
        with suppress(ConnectionResetError):  # it was not accepted any more
            while peer.recv(65536):
                pass
    assert not server._connections
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.asyncio
async def test_no_descriptor_is_left(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever connects then is served when there is one again."""
    monkeypatch.setattr(_accept, "_PAUSE_S", 0.01)
    async with serving(str(directory), "acme.com/gpu", ECHO) as server:
        with raw_peer(server.path) as peer:
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (peer.socket.fileno() + 1, limits[1]))
            try:
                await eventually(lambda: "Nobody can connect: [Errno 24] Too many open files" in caplog.messages)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            peer.request(data=b"\0\0\0\0\0")
            await peer.until(DataReceived)


@pytest.mark.asyncio
async def test_an_end_that_is_cancelled(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its last moment: the connections end all the same."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    monkeypatch.setattr(_server, "_CLOSE_WITHIN_S", 0)
    async with a_peer_that_does_not_read(directory) as server:
        (connection,) = server._connections
        abort = connection.transport.abort
        ending = asyncio.create_task(server.close_connections())
        monkeypatch.setattr(connection.transport, "abort", lambda: (ending.cancel(), abort()))
        await asyncio.wait([ending])
        await eventually(lambda: not server._connections)
        await connection.calls_ended()
    assert failures == []


@pytest.mark.asyncio
async def test_a_directory_that_is_gone_or_full(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no socket can be made for now, it is waited; where the system forbids it, it is an error."""

    def failing(number: int) -> None:
        def bind(_: str) -> socket.socket:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(_server, "_listen", bind)

    with pytest.raises(KubeletUnavailable, match=r"no socket can be made in .*: No such file or directory"):
        async with serving(str(directory / "gone"), "acme.com/gpu", ECHO):
            pass
    failing(errno.ENOSPC)
    with pytest.raises(KubeletUnavailable, match="No space left on device"):
        async with serving(str(directory), "acme.com/gpu", ECHO):
            pass
    failing(errno.EROFS)
    with pytest.raises(ConfigurationError, match="Read-only file system"):
        async with serving(str(directory), "acme.com/gpu", ECHO):
            pass


@pytest.mark.asyncio
async def test_a_socket_that_cannot_get_its_name(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure between bind and listen leaves no hidden file behind."""

    def refuse(path: str, _: str) -> None:
        raise OSError(errno.EIO, f"cannot rename {path}")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(KubeletUnavailable):
        async with serving(str(directory), "acme.com/gpu", ECHO):
            pass
    assert list(directory.iterdir()) == []


@pytest.mark.asyncio
async def test_a_busy_socket_is_not_stale(directory: Path) -> None:
    """A socket of ours whose queue is full belongs to a live process."""
    async with serving(str(directory), "acme.com/gpu", ECHO) as server:
        busy = socket.socket(socket.AF_UNIX)
        path = directory / server.name.replace(server.name[-13:-5], "0" * 8)
        busy.bind(str(path))
        busy.listen(0)
        waiting = socket.socket(socket.AF_UNIX)
        waiting.connect(str(path))
        async with serving(str(directory), "acme.com/gpu", ECHO):
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
