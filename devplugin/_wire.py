"""The messages of v1beta1 as bytes, both ways, for the plugin's side.

Rules: a function for each message; no gRPC, no I/O. They stand beside the generated messages because every node would
pay for importing those (time and memory), and because a list of many devices must cost what changed in it, not its length:
each device is encoded once, and a list is its pieces joined. Tests hold every function against the generated messages
and against Google's protobuf.

Decoding follows proto3: unknown fields are skipped, the last value of a single field counts, and what is cut short or
is no UTF-8 is refused.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from devplugin.errors import DevicePluginError
from devplugin.model import Allocation, Device, Health

API_VERSION = "v1beta1"
# The kubelet's gRPC client receives at most this in a message (grpc-go's default), or drops the plugin.
LIST_BYTES_MAX = 4_194_304

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_SHORT = [bytes([n]) for n in range(128)]


class MalformedMessage(DevicePluginError):
    """The bytes are no such message."""


class PreferredAllocationIds(NamedTuple):
    """One container's part of a PreferredAllocationRequest."""

    available: list[str]
    must_include: list[str]
    size: int


def encode_options(*, pre_start: bool, preferred_allocation: bool) -> bytes:
    """DevicePluginOptions."""
    return (b"\x08\x01" if pre_start else b"") + (b"\x10\x01" if preferred_allocation else b"")


def encode_register(*, endpoint: str, resource_name: str, options: bytes) -> bytes:
    """RegisterRequest for this API version; the options are those of ``encode_options``."""
    return b"".join(
        (
            _field(1, API_VERSION.encode()),
            _field(2, endpoint.encode()),
            _field(3, resource_name.encode()),
            _field(4, options),
        )
    )


def encode_device(device: Device) -> bytes:
    """A device as its piece of a ListAndWatchResponse: the message is the pieces joined."""
    name = device.id.encode()
    tail = _device_tail(device.health, device.numa_nodes)
    return _field(1, b"\x0a%b%b%b" % (_varint(len(name)), name, tail))


@lru_cache(maxsize=1024)
def _device_tail(health: Health, numa_nodes: Sequence[int]) -> bytes:
    """What follows the id: the same bytes for most devices of a list."""
    if not numa_nodes:  # an empty topology would lose the device from GetAllocatableResources
        return _field(2, health.encode())
    topology = b"".join(_field(1, b"\x08" + _varint(node) if node else b"") for node in numa_nodes)
    return _field(2, health.encode()) + _field(3, topology)


def decode_allocate(data: bytes) -> list[list[str]]:
    """AllocateRequest: the ids for each container."""
    return [_strings(request, 1) for request in _messages(data, 1)]


def encode_allocate(allocations: Iterable[Allocation]) -> bytes:
    """AllocateResponse: one answer for each container."""
    return b"".join(_field(1, _container_allocate(allocation)) for allocation in allocations)


def _container_allocate(allocation: Allocation) -> bytes:
    return b"".join(
        (
            _map(1, allocation.env),
            *(
                _field(2, _text(1, m.container_path) + _text(2, m.host_path) + (b"\x18\x01" if m.read_only else b""))
                for m in allocation.mounts
            ),
            *(
                _field(3, _text(1, n.container_path) + _text(2, n.host_path) + _text(3, n.permissions))
                for n in allocation.device_nodes
            ),
            _map(4, allocation.annotations),
            *(_field(5, _text(1, name)) for name in allocation.cdi_devices),
        )
    )


def decode_preferred_allocation(data: bytes) -> list[PreferredAllocationIds]:
    """PreferredAllocationRequest: what is asked for each container."""
    return [
        PreferredAllocationIds(_strings(request, 1), _strings(request, 2), _int32(request, 3))
        for request in _messages(data, 1)
    ]


def encode_preferred_allocation(choices: Iterable[Iterable[str]]) -> bytes:
    """PreferredAllocationResponse: the preferred ids for each container."""
    return b"".join(_field(1, b"".join(_text(1, device_id) for device_id in choice)) for choice in choices)


def decode_pre_start_container(data: bytes) -> list[str]:
    """PreStartContainerRequest: the container's ids."""
    return _strings(data, 1)


def _varint(number: int) -> bytes:
    if number < 0x80:
        return _SHORT[number]
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _field(number: int, payload: bytes) -> bytes:
    return b"%c%b%b" % (number << 3 | _LEN, _varint(len(payload)), payload)


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _map(number: int, items: Mapping[str, str]) -> bytes:
    return b"".join(_field(number, _text(1, key) + _text(2, value)) for key, value in items.items())


def _messages(data: bytes, number: int) -> list[bytes]:
    return [value for field, value in _fields(data) if field == number and isinstance(value, bytes)]


def _strings(data: bytes, number: int) -> list[str]:
    try:
        return [value.decode() for value in _messages(data, number)]
    except UnicodeDecodeError as error:
        raise MalformedMessage(f"a string of the message is no UTF-8: {error}") from error


def _int32(data: bytes, number: int) -> int:
    found = [value for field, value in _fields(data) if field == number and isinstance(value, int)]
    unsigned = found[-1] & 0xFFFFFFFF if found else 0
    return unsigned - (1 << 32) if unsigned >> 31 else unsigned


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int | None]]:
    """The number and the value of each field: bytes, a varint, or None for fixed-size values, which no message here has."""
    position, end = 0, len(data)
    while position < end:
        key, position = _read_varint(data, position)
        number, kind = key >> 3, key & 7
        value: bytes | int | None = None
        if kind == _LEN:
            size, position = _read_varint(data, position)
            value = data[position : position + size]
            position += size
        elif kind == _VARINT:
            value, position = _read_varint(data, position)
        elif kind in (_I64, _I32):
            position += 8 if kind == _I64 else 4
        else:
            raise MalformedMessage(f"the message has a field of the unknown wire type {kind}")
        if position > end or not number:
            raise MalformedMessage("the message is cut short, or is no protobuf message")
        yield number, value


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    for position in range(position, min(position + 10, len(data))):  # noqa: B020, PLR1704  (goes on where it stood)
        byte = data[position]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & 0xFFFFFFFFFFFFFFFF, position + 1
        shift += 7
    raise MalformedMessage("the message is cut short in a number, or the number is too long")
