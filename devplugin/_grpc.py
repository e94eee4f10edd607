"""What gRPC adds to HTTP/2, for both sides: the status of a call, a message in the data, and what the headers say.

Rules: pure functions of bytes; no connection, no I/O. The source is gRPC's PROTOCOL-HTTP2.md. Messages are neither compressed
nor split: the kubelet does neither.
"""

import re
from enum import IntEnum

Headers = list[tuple[bytes, bytes]]

CONTENT_TYPE = (b"content-type", b"application/grpc")
_CONTENT_TYPES = (b"application/grpc", b"application/grpc+proto")
_PREFIX_BYTES = 5
_PERCENT = ord("%")
_TIMEOUT_DIGITS_MAX = 8
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class Status(IntEnum):
    """How a call ended (google.rpc.Code)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_STATUSES = {b"%d" % status: status for status in Status}


class CallError(Exception):
    """A call ended with another status than OK. ``message`` is for people, and may be empty."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


def frame(message: bytes) -> bytes:
    """The message as it stands in the data."""
    return b"\0%b%b" % (len(message).to_bytes(4, "big"), message)


def check_beginning(data: bytes | bytearray, bytes_max: int) -> None:
    """Refuse data as soon as its beginning shows that no message of at most ``bytes_max`` bytes can come of it.

    Raises:
        CallError: It is compressed, too long, or more than one message.
    """
    if len(data) < _PREFIX_BYTES:
        return
    if data[0]:
        raise CallError(Status.UNIMPLEMENTED, "compressed messages are not supported")
    size = int.from_bytes(data[1:_PREFIX_BYTES], "big")
    if size > bytes_max:
        raise CallError(Status.RESOURCE_EXHAUSTED, f"a message of {size} bytes is over the limit of {bytes_max} bytes")
    if len(data) > _PREFIX_BYTES + size:
        raise CallError(Status.INVALID_ARGUMENT, "there is more than one message")


def message_in(data: bytes | bytearray) -> bytes:
    """The only message of data that ``check_beginning`` has passed.

    Raises:
        CallError: There is none, or it is cut short.
    """
    if not data:
        raise CallError(Status.INVALID_ARGUMENT, "there is no message")
    message = bytes(data[_PREFIX_BYTES:])
    if len(data) < _PREFIX_BYTES or len(message) < int.from_bytes(data[1:_PREFIX_BYTES], "big"):
        raise CallError(Status.INVALID_ARGUMENT, "the message is cut short")
    return message


def is_grpc(content_type: bytes | None) -> bool:
    """Whether what has this content type is gRPC with protobuf's messages."""
    return content_type is not None and content_type.partition(b";")[0] in _CONTENT_TYPES


def write_timeout(seconds: int) -> bytes:
    """The value of grpc-timeout."""
    return b"%dS" % seconds


def read_timeout(value: bytes | None) -> float | None:
    """The seconds that a grpc-timeout gives; None without one.

    Raises:
        CallError: It is none.
    """
    if value is None:
        return None
    number, unit = value[:-1], value[-1:]
    if not number.isdigit() or len(number) > _TIMEOUT_DIGITS_MAX or unit not in _SECONDS:
        raise CallError(Status.INVALID_ARGUMENT, "grpc-timeout has no such value")
    return int(number) * _SECONDS[unit]


def trailers(error: CallError | None) -> Headers:
    """The headers that end a call; those of an error may come alone."""
    if error is None:
        return [(b"grpc-status", b"0")]
    return [(b"grpc-status", b"%d" % error.status), (b"grpc-message", _escaped(error.message))]


def check_trailers(headers: Headers) -> None:
    """Raise what the headers that ended a call say, unless it is OK.

    Raises:
        CallError: Its status is not OK, or it has none.
    """
    found = dict(headers)
    code = found.get(b"grpc-status")
    if code is None:
        http = found.get(b":status", b"no").decode(errors="replace")
        raise CallError(Status.UNKNOWN, f"the answer is not gRPC's: HTTP status {http}")
    status = _STATUSES.get(code, Status.UNKNOWN)
    if status is not Status.OK:
        raise CallError(status, _unescaped(found.get(b"grpc-message", b"")))


def _escaped(text: str) -> bytes:
    """For a header: printable ASCII as it is, but for the percent sign, and the other bytes as their numbers.

    Python's name of a file that is no UTF-8 has surrogates, which UTF-8 does not have.
    """
    return b"".join(
        b"%c" % byte if 0x20 <= byte < 0x7F and byte != _PERCENT else b"%%%02X" % byte
        for byte in text.encode(errors="backslashreplace")
    )


def _unescaped(value: bytes) -> str:
    found = re.sub(rb"%([0-9A-Fa-f]{2})", lambda number: bytes([int(number[1], 16)]), value)
    return found.decode(errors="replace")
