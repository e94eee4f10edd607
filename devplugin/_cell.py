"""A cell for state: one writer sets the newest value, any number of readers wait for it, and nobody queues."""

from asyncio import Event
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """The newest value. A reader that is slow misses the values in between, never the last one."""

    def __init__(self) -> None:
        self._values: list[T] = []
        self._version = 0
        self._changed = Event()

    def __repr__(self) -> str:
        return f"Latest({self._values[0]!r}, version={self._version})" if self._values else "Latest()"

    def get(self) -> T | None:
        """The newest value, or None before the first."""
        return self._values[0] if self._values else None

    def set(self, value: T) -> None:
        """Replace the value and wake all readers."""
        self._values = [value]
        self._version += 1
        changed, self._changed = self._changed, Event()
        changed.set()

    async def newer(self, seen: int = 0) -> tuple[int, T]:
        """The newest value and its version, as soon as that is not the version ``seen`` (0: no value yet)."""
        while seen == self._version:
            await self._changed.wait()
        return self._version, self._values[0]
