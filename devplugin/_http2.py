"""One connection of HTTP/2: ``h2`` speaks it, a transport carries it.

What is to be sent is collected by h2 and goes out by ``flush()``: whoever sends decides how much is one write.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, RemoteSettingsChanged, WindowUpdated
from h2.exceptions import ProtocolError, StreamClosedError

log = logging.getLogger("devplugin.http2")

_READ_BYTES = 8192


class Connection(asyncio.BufferedProtocol, ABC):
    """One side of a connection, from its beginning until it is lost.

    Args:
        reactions: What is to be done about h2's events, by their types.
        client_side: Whether it is this side that calls.
    """

    transport: asyncio.Transport

    def __init__(self, reactions: Mapping[type, Callable[[Any], None]], *, client_side: bool) -> None:
        self._h2 = H2Connection(
            H2Configuration(
                client_side=client_side,
                header_encoding=None,
                # What a peer's headers say is compared here and never passed on, and our own are known to be right.
                validate_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_inbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._reactions = {
            ConnectionTerminated: self._peer_says_goodbye,
            RemoteSettingsChanged: self._peer_makes_room,
            WindowUpdated: self._peer_makes_room,
            **reactions,
        }
        self._received = bytearray(_READ_BYTES)  # asyncio's own way takes 256 KiB from the system for each read
        self._room = asyncio.Event()
        self._writing_paused = False
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._h2.initiate_connection()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.give_up("the connection was lost")
        self.lost.set_result(None)

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002
        return self._received

    def buffer_updated(self, nbytes: int) -> None:
        try:
            events = self._h2.receive_data(self._received[:nbytes])
        except ProtocolError as error:
            self.flush()  # h2's GOAWAY, which says so
            self.transport.close()
            reason = f"the peer does not keep to HTTP/2: {error}"
            log.debug("A connection ends: %s", reason)
            self.give_up(reason)
            return
        for event in events:
            reaction = self._reactions.get(type(event))
            if reaction:
                reaction(event)
        self.flush()

    @abstractmethod
    def give_up(self, reason: str) -> None:
        """End all calls: nothing of them comes or goes any more."""

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._room.set()

    def flush(self) -> None:
        """Write what h2 has to send."""
        data = self._h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    async def send_data(self, stream_id: int, data: bytes) -> None:
        """Send data on a stream, as fast as the peer takes it. The last frame is left to ``flush()``.

        Raises:
            ProtocolError: The stream is closed, or the connection.
        """
        sent = 0
        while True:
            part = data[sent : sent + await self._room_on(stream_id)]
            sent += len(part)
            self._h2.send_data(stream_id, part)
            if sent == len(data):
                return
            self.flush()

    def receive(self, event: DataReceived) -> bytes:
        """The data of an event, for which the peer may send as much again."""
        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        return event.data

    async def _room_on(self, stream_id: int) -> int:
        """How many bytes the next frame on the stream may have, as soon as that is any."""
        while self._writing_paused or (room := self._h2.local_flow_control_window(stream_id)) <= 0:
            if self.transport.is_closing():  # there will be no room any more
                raise StreamClosedError(stream_id)
            self.flush()
            self._room.clear()
            await self._room.wait()
        return min(room, self._h2.max_outbound_frame_size)

    def _peer_makes_room(self, _: object) -> None:
        self._room.set()

    def _peer_says_goodbye(self, event: ConnectionTerminated) -> None:
        self.transport.close()
        self.give_up(f"the peer said goodbye (HTTP/2 error {event.error_code})")
