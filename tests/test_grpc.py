"""What gRPC adds to HTTP/2: what is written can be read, and what is wrong is told in words."""

import os
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from devplugin._grpc import (
    CallError,
    Status,
    check_beginning,
    check_trailers,
    frame,
    is_grpc,
    message_in,
    read_timeout,
    trailers,
    write_timeout,
)

errors = st.builds(CallError, st.sampled_from([*Status][1:]), st.text())


@given(st.binary(max_size=300))
def test_a_message_there_and_back(message: bytes) -> None:
    """Every message is what it was, and none of its beginnings is refused before it is complete."""
    data = frame(message)
    for end in range(len(data) + 1):
        check_beginning(data[:end], len(message))
    assert message_in(data) == message


@given(st.binary(max_size=30), st.data())
def test_a_message_that_is_cut_short(message: bytes, draw: st.DataObject) -> None:
    """Wherever it ends too early."""
    data = frame(message)
    with pytest.raises(CallError, match=r"cut short|no message") as caught:
        message_in(data[: draw.draw(st.integers(0, len(data) - 1))])
    assert caught.value.status is Status.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"\1\0\0\0\1x", Status.UNIMPLEMENTED, "compressed messages are not supported"),
        (b"\0\0\0\0\x0b", Status.RESOURCE_EXHAUSTED, "a message of 11 bytes is over the limit of 10 bytes"),
        (b"\0\0\0\0\1xy", Status.INVALID_ARGUMENT, "there is more than one message"),
    ],
)
def test_what_no_message_can_come_of(data: bytes, status: Status, message: str) -> None:
    """It is refused as soon as it is seen."""
    with pytest.raises(CallError) as caught:
        check_beginning(data, 10)
    assert (caught.value.status, caught.value.message) == (status, message)


@given(errors)
@example(CallError(Status.ABORTED, "100%25"))
def test_an_error_there_and_back(error: CallError) -> None:
    """Status and text arrive, escaped as others do it."""
    headers = trailers(error)
    text = dict(headers)[b"grpc-message"].decode("ascii")
    assert text.isprintable()
    assert unquote(text) == error.message
    with pytest.raises(CallError) as caught:
        check_trailers(headers)
    assert (caught.value.status, caught.value.message) == (error.status, error.message)


def test_a_text_that_utf8_does_not_have() -> None:
    """A file's name that is no UTF-8 does not keep the status from arriving."""
    with pytest.raises(CallError) as caught:
        check_trailers(trailers(CallError(Status.ABORTED, f"no {os.fsdecode(b'/dev/x' + bytes([0xFF]))}")))
    assert (caught.value.status, caught.value.message) == (Status.ABORTED, r"no /dev/x\udcff")


@given(st.text())
def test_the_text_of_another_server(text: str) -> None:
    """However much of it that escapes."""
    with pytest.raises(CallError) as caught:
        check_trailers([(b"grpc-status", b"5"), (b"grpc-message", quote(text).encode())])
    assert caught.value.message == text


def test_ok_is_no_error() -> None:
    """Nor is a message beside it."""
    check_trailers(trailers(None))
    check_trailers([(b":status", b"200"), (b"grpc-status", b"0"), (b"grpc-message", b"fine")])


@pytest.mark.parametrize("code", [b"17", b"-1", b"", b"x", b"9" * 5000])
def test_a_status_that_is_none(code: bytes) -> None:
    """It is an error whose kind is not known."""
    with pytest.raises(CallError) as caught:
        check_trailers([(b"grpc-status", code), (b"grpc-message", b"100% \xff")])
    assert caught.value.status is Status.UNKNOWN
    assert caught.value.message == "100% \ufffd"


@pytest.mark.parametrize(("headers", "http"), [([(b":status", b"404")], "404"), ([], "no")])
def test_an_answer_that_is_not_grpcs(headers: list[tuple[bytes, bytes]], http: str) -> None:
    """What another HTTP server says is told."""
    with pytest.raises(CallError, match=f"the answer is not gRPC's: HTTP status {http}"):
        check_trailers(headers)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"4m", 4e-3),
        (b"5u", 5e-6),
        (b"99999999n", 0.099999999),
        (write_timeout(15), 15.0),
    ],
)
def test_timeouts(value: bytes | None, seconds: float | None) -> None:
    """In each unit that there is."""
    assert read_timeout(value) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("value", [b"", b"S", b"5", b"5s", b"-5S", b"100000000S", b"1.5S"])
def test_a_timeout_that_is_none(value: bytes) -> None:
    """It is refused."""
    with pytest.raises(CallError, match="grpc-timeout has no such value"):
        read_timeout(value)


@pytest.mark.parametrize(
    ("content_type", "accepted"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;charset=utf-8", True),
        (b"application/grpc+json", False),
        (b"application/grpc-web", False),
        (b"text/html", False),
        (b"", False),
        (None, False),
    ],
)
def test_content_types(content_type: bytes | None, accepted: bool) -> None:  # noqa: FBT001
    """Only gRPC with protobuf's messages is spoken."""
    assert is_grpc(content_type) == accepted
