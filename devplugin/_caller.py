"""A connection for one call: a message there, a message back."""

import asyncio

from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.exceptions import ProtocolError

from devplugin._grpc import (
    CONTENT_TYPE,
    CallError,
    Headers,
    check_beginning,
    check_trailers,
    frame,
    message_in,
    write_timeout,
)
from devplugin._http2 import Connection

_ANSWER_BYTES_MAX = 2**20
_STREAM_ID = 1


class CallingConnection(Connection):
    """A connection to a server."""

    def __init__(self) -> None:
        super().__init__(
            {
                ResponseReceived: self._take_headers,
                TrailersReceived: self._take_headers,
                DataReceived: self._take_data,
                StreamEnded: self._finish,
                StreamReset: lambda event: self.give_up(f"the call was reset (HTTP/2 error {event.error_code})"),
            },
            client_side=True,
        )
        self._headers: Headers = []
        self._data = bytearray()
        self._answer: asyncio.Future[bytes] | None = None

    def give_up(self, reason: str) -> None:
        self._fail(ConnectionResetError(reason))

    async def call(self, path: str, request: bytes, timeout_s: int) -> bytes:
        """Send the request and return the answer.

        Raises:
            CallError: The server says that it failed.
            ConnectionResetError: The server has gone.
            TimeoutError: No answer came in time.
        """
        if self.transport.is_closing():
            raise ConnectionResetError("the connection was lost")
        headers = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            CONTENT_TYPE,
            (b"user-agent", b"devplugin"),
            (b"grpc-timeout", write_timeout(timeout_s)),
        ]
        try:
            self._h2.send_headers(_STREAM_ID, headers)
            # A registration is much shorter than the first window of any server.
            self._h2.send_data(_STREAM_ID, frame(request), end_stream=True)
        except ProtocolError as error:
            raise ConnectionResetError(f"it takes no call: {error}") from error
        self.flush()
        self._answer = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(timeout_s):
            return await self._answer

    def _take_headers(self, event: ResponseReceived | TrailersReceived) -> None:
        self._headers += event.headers

    def _take_data(self, event: DataReceived) -> None:
        self._data += self.receive(event)
        try:
            check_beginning(self._data, _ANSWER_BYTES_MAX)
        except CallError as error:
            self._fail(error)

    def _finish(self, _: StreamEnded) -> None:
        try:
            check_trailers(self._headers)
            answer = message_in(self._data)
        except CallError as error:
            self._fail(error)
        else:
            if self._answer and not self._answer.done():
                self._answer.set_result(answer)

    def _fail(self, error: Exception) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(error)
