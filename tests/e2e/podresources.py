"""How many devices the kubelet itself would give out, asked of its pod resources API ten times and more a second."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, StreamTerminatedError

SOCKET = "/var/lib/kubelet/pod-resources/kubelet.sock"
METHOD = "/v1.PodResourcesLister/GetAllocatableResources"
BLIP_S = 5.0  # half of the time (by default) between two of the kubelet's reports, which are all that schedulers see
EVERY_S = 0.02  # the kubelet answers 100 a second, of all clients together
NAME, IDS, DEVICES = (
    1,
    2,
    1,
)  # field numbers: ContainerDevices.resource_name, .device_ids; AllocatableResourcesResponse.devices


@dataclass
class Samples:
    """What was seen: pairs of a time (`time.monotonic()`) and a number of devices, one for each change."""

    changes: list[tuple[float, int]] = field(default_factory=list)
    asked: int = 0

    def add(self, number: int) -> None:
        self.asked += 1
        if not self.changes or self.changes[-1][1] != number:
            self.changes.append((time.monotonic(), number))

    def spells_at(self, number: int) -> list[float]:
        """How long (seconds) each spell lasted in which this number was seen; one that lasts on is left out."""
        ends = [moment for moment, _ in self.changes[1:]]
        return [end - moment for (moment, seen), end in zip(self.changes, ends, strict=False) if seen == number]

    def numbers(self) -> list[int]:
        return [number for _, number in self.changes]


@contextlib.contextmanager
def sampling(resource: str) -> Iterator[Samples]:
    """Ask on and on, in a thread, until the block ends."""
    samples, done = Samples(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_sample(resource, samples, done)), name="sampling")
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


class _Bytes(CodecBase):
    __content_subtype__ = "proto"

    def encode(self, message: bytes, _: type[bytes]) -> bytes:
        return message

    def decode(self, data: bytes, _: type[bytes]) -> bytes:
        return data


async def _sample(resource: str, samples: Samples, done: threading.Event) -> None:
    channel = Channel(path=SOCKET, codec=_Bytes())
    try:
        ask: UnaryUnaryMethod[bytes, bytes] = UnaryUnaryMethod(channel, METHOD, bytes, bytes)
        while not done.is_set():
            with contextlib.suppress(
                GRPCError, StreamTerminatedError, OSError
            ):  # the kubelet restarts, or is asked too often
                samples.add(count(await ask(b"", timeout=5), resource))
            await asyncio.sleep(EVERY_S)
    finally:
        channel.close()


def count(response: bytes, resource: str) -> int:
    """The number of different devices of the resource in an AllocatableResourcesResponse."""
    ids: set[bytes] = set()
    for number, devices in _fields(response):
        if number == DEVICES and isinstance(devices, bytes):
            inner = list(_fields(devices))
            if (NAME, resource.encode()) in inner:
                ids.update(value for field_number, value in inner if field_number == IDS and isinstance(value, bytes))
    return len(ids)


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The fields of a protobuf message: their numbers and values."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 2:  # length-delimited
            size, at = _varint(message, at)
            yield tag >> 3, message[at : at + size]
            at += size
        elif tag & 7 == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
        else:
            raise ValueError(f"wire type {tag & 7} is in no message of the pod resources API")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
