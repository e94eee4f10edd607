"""An HTTP/2 client whose every frame is the test's."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from h2.connection import H2Connection
from h2.events import Event, ResponseReceived, TrailersReceived

REQUEST = {
    ":method": "POST",
    ":scheme": "http",
    ":path": "/x/Y",
    ":authority": "localhost",
    "te": "trailers",
    "content-type": "application/grpc",
}


class RawPeer:
    """A connection to a plugin's socket. What is received stays in ``events`` until it is asked for."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setblocking(False)
        self.socket.connect(path)
        self.h2 = H2Connection()
        self.h2.initiate_connection()
        self.events: list[Event] = []

    def request(self, stream_id: int = 1, data: bytes | None = None, *, end: bool = True, **headers: str) -> None:
        """Begin a call, and send its data; a header is named with ``_`` for ``-``, and a pseudo one without its colon."""
        changed = {name.replace("_", "-"): value for name, value in headers.items()}
        both = {name: changed.pop(name.removeprefix(":"), value) for name, value in REQUEST.items()} | changed
        self.h2.send_headers(stream_id, [*both.items()])
        if data is not None:
            self.h2.send_data(stream_id, data, end_stream=end)
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    async def until(self, kind: type[Event]) -> Event:
        """The next event of a kind."""
        async with asyncio.timeout(10):
            while True:
                while self.events:
                    event = self.events.pop(0)
                    if isinstance(event, kind):
                        return event
                received = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
                assert received, f"the connection ended before {kind.__name__}"
                self.events += self.h2.receive_data(received)

    async def headers(self, kind: type[ResponseReceived | TrailersReceived]) -> dict[str, str]:
        """Those of the next response, or of its end."""
        event = await self.until(kind)
        assert isinstance(event, kind)
        return {name.decode(): value.decode() for name, value in event.headers}

    async def ended(self) -> bool:
        """Whether the other side closes the connection."""
        async with asyncio.timeout(10):
            while await asyncio.get_running_loop().sock_recv(self.socket, 65536):
                pass
        return True


@contextmanager
def nothing_unhandled() -> Iterator[None]:
    """No exception reaches the loop meanwhile, of a protocol or of a task."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    yield
    assert failures == []


@contextmanager
def raw_peer(path: str) -> Iterator[RawPeer]:
    peer = RawPeer(path)
    with peer.socket:
        yield peer
