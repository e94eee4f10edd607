"""The messages of v1beta1 as bytes, both ways, for the plugin's side.

Rules: a function for each message; no gRPC, no I/O. They stand beside the generated messages because every node would
pay for importing those (time and memory), and because a list of many devices must cost what changed in it, not its length:
each device is encoded once, and a list is its pieces joined. Tests hold every function against the generated messages
and against Google's protobuf.

Decoding follows proto3: unknown fields are skipped, the last value of a single field counts, and what is cut short or
is no UTF-8 is refused.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from devplugin.errors import DevicePluginError
from devplugin.model import Allocation, Device, Health

API_VERSION = "v1beta1"
# The kubelet's gRPC client receives at most this in a message (grpc-go's default), or drops the plugin.
LIST_BYTES_MAX = 4_194_304

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_FIELD_NUMBER_MAX = 2**29 - 1
_VARINT_BYTES_MAX = 10
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
    before, after = _around_id(device.health, device.numa_nodes, len(name))
    return before + name + after


@lru_cache(maxsize=1024)
def _around_id(health: Health, numa_nodes: Sequence[int], id_bytes: int) -> tuple[bytes, bytes]:
    """What stands before and after the id: the same bytes for most devices of a list."""
    after = _field(2, health.encode())
    if numa_nodes:  # an empty topology would lose the device from GetAllocatableResources
        after += _field(3, b"".join(_field(1, b"\x08" + _varint(node) if node else b"") for node in numa_nodes))
    before = b"\x0a" + _varint(id_bytes)
    return b"\x0a" + _varint(len(before) + id_bytes + len(after)) + before, after


def decode_allocate(data: bytes) -> list[list[str]]:
    """AllocateRequest: the ids for each container."""
    return [_strings(_parse(request), 1) for request in _parse(data).bytes_of[1]]


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
    requests = map(_parse, _parse(data).bytes_of[1])
    return [PreferredAllocationIds(_strings(each, 1), _strings(each, 2), _int32(each, 3)) for each in requests]


def encode_preferred_allocation(choices: Iterable[Iterable[str]]) -> bytes:
    """PreferredAllocationResponse: the preferred ids for each container."""
    return b"".join(_field(1, b"".join(_text(1, device_id) for device_id in choice)) for choice in choices)


def decode_pre_start_container(data: bytes) -> list[str]:
    """PreStartContainerRequest: the container's ids."""
    return _strings(_parse(data), 1)


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


class _Fields(NamedTuple):
    """The values of each field number, in order; without those of fixed size, which no message here has."""

    bytes_of: Mapping[int, list[bytes]]
    varints_of: Mapping[int, list[int]]


def _strings(fields: _Fields, number: int) -> list[str]:
    try:
        return [value.decode() for value in fields.bytes_of[number]]
    except UnicodeDecodeError as error:
        raise MalformedMessage(f"a string of the message is no UTF-8: {error}") from error


def _int32(fields: _Fields, number: int) -> int:
    found = fields.varints_of[number]
    unsigned = found[-1] & 0xFFFFFFFF if found else 0
    return unsigned - (1 << 32) if unsigned >> 31 else unsigned


def _parse(data: bytes) -> _Fields:
    fields = _Fields(defaultdict(list), defaultdict(list))
    position, end = 0, len(data)
    while position < end:
        key, position = _read_varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == _LEN:
            size, start = _read_varint(data, position)
            position = start + size
            fields.bytes_of[number].append(data[start:position])
        elif kind == _VARINT:
            value, position = _read_varint(data, position)
            fields.varints_of[number].append(value)
        elif kind in (_I64, _I32):
            position += 8 if kind == _I64 else 4
        else:
            raise MalformedMessage(f"the message has a field of the unknown wire type {kind}")
        if position > end or not 1 <= number <= _FIELD_NUMBER_MAX:
            raise MalformedMessage("the message is cut short, or is no protobuf message")
    return fields


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The number that begins at the position, and where it ends."""
    if position < len(data) and (byte := data[position]) < 0x80:  # nearly all are
        return byte, position + 1
    number = 0
    for shift, byte in enumerate(data[position : position + _VARINT_BYTES_MAX]):
        number |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return number, position + shift + 1
    raise MalformedMessage("the message is cut short in a number, or the number is too long")
