"""A snapshot: the devices that an author's ``devices()`` yielded at one time, with their bytes for the wire.

Theory: authors yield whole lists, often, and mostly nothing has changed. What is the same object as before costs
nothing, what looks the same on the wire keeps its bytes, and long work is split so that no Allocate waits behind a long
list.
"""

from asyncio import sleep
from collections.abc import Iterable, Sequence
from itertools import accumulate, compress, count
from operator import is_, is_not
from typing import Generic

from devplugin._wire import LIST_BYTES_MAX, encode_device
from devplugin.errors import ConfigurationError, DevicePluginError
from devplugin.model import D, Device

# The API's comment: ids "should not exceed 63 characters". No kubelet enforces it.
_ID_LENGTH_MAX = 63
# Devices that are looked at before other tasks get their turn: about a millisecond.
_TURN = 1000


class ListTooLong(DevicePluginError):
    """The list cannot be sent: the kubelet would drop the plugin."""


class Snapshot(Generic[D]):
    """The devices in the author's order, by id, and as a ListAndWatchResponse; and an id that is longer than it should be."""

    __slots__ = ("_pieces", "by_id", "devices", "long_id", "message")

    def __init__(self, devices: Sequence[D], by_id: dict[str, D], pieces: list[bytes], long_id: str | None) -> None:
        self.devices = devices
        self.by_id = by_id
        self.message = _join(pieces)
        self.long_id = long_id
        self._pieces = pieces

    def __repr__(self) -> str:
        return f"Snapshot({len(self.devices)} devices, {len(self.message)} bytes)"

    @classmethod
    async def take(cls, devices: Iterable[D], last: "Snapshot[D] | None") -> "Snapshot[D]":
        """The snapshot of these devices; ``last`` itself when they are the very same objects.

        Raises:
            ConfigurationError: Something in it is no Device, or two devices have one id.
            ListTooLong: The message is longer than a kubelet receives.
        """
        listed = list(devices)
        if last is None or len(listed) != len(last.devices):
            return await cls._anew(listed)
        if all(map(is_, listed, last.devices)):
            return last
        return await cls._patched(listed, last) or await cls._anew(listed)

    @classmethod
    async def _patched(cls, devices: list[D], last: "Snapshot[D]") -> "Snapshot[D] | None":
        """``last`` with the devices that are other objects now; None when ids have changed or moved."""
        pieces, by_id = last._pieces.copy(), last.by_id.copy()  # noqa: SLF001  (of the same class)
        for turn in range(0, len(devices), _TURN):
            others = map(is_not, devices[turn : turn + _TURN], last.devices[turn : turn + _TURN])
            for n in compress(count(turn), others):
                device, before = devices[n], last.devices[n]
                if not isinstance(device, Device) or device.id != before.id:
                    return None
                by_id[device.id] = device
                if device.health is not before.health or device.numa_nodes != before.numa_nodes:
                    pieces[n] = encode_device(device)
            await sleep(0)
        return cls(devices, by_id, pieces, last.long_id)

    @classmethod
    async def _anew(cls, devices: list[D]) -> "Snapshot[D]":
        pieces: list[bytes] = []
        by_id: dict[str, D] = {}
        long_id: str | None = None
        for turn in range(0, len(devices), _TURN):
            for device in devices[turn : turn + _TURN]:
                if not isinstance(device, Device):
                    raise ConfigurationError(f"devices() yielded a list with {device!r} in it, which is no Device")
                if device.id in by_id:
                    raise ConfigurationError(
                        f"devices() yielded two devices with the id {device.id!r}: ids must differ"
                    )
                by_id[device.id] = device
                pieces.append(encode_device(device))
                if long_id is None and len(device.id) > _ID_LENGTH_MAX:
                    long_id = device.id
            await sleep(0)
        return cls(devices, by_id, pieces, long_id)


def _join(pieces: list[bytes]) -> bytes:
    message = b"".join(pieces)
    if len(message) > LIST_BYTES_MAX:
        fit = sum(size <= LIST_BYTES_MAX for size in accumulate(map(len, pieces)))
        raise ListTooLong(
            f"a list of {len(pieces)} devices takes {len(message)} bytes and a kubelet receives at most {LIST_BYTES_MAX}:"
            f" {fit} of them would fit; shorten the ids, or offer the devices under several resources"
        )
    return message
