"""Calls that block the event loop, found by a second thread.

The loop beats; while a beat is missing, the thread looks at what the loop's thread is doing. It counts its looks, and not the
time that has gone by, and no look before which the loop's thread had to wait for a processor: on a busy machine both threads
are kept waiting, and nobody has blocked anything.
"""

import asyncio
import logging
import sys
import threading
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

from devplugin.testing._check._places import Place, place_of_frame

__all__ = ["BLOCKED_S", "Watchdog"]

log = logging.getLogger("devplugin.testing")

BLOCKED_S = 0.1
"""What asyncio's debug mode calls a slow callback (``loop.slow_callback_duration``)."""

_LOOK_EVERY_S = 0.02
_WARN_AFTER_S = 5.0


class Watchdog:
    """Looks at the running loop's thread from another one, as long as the context lasts.

    Args:
        own_files: The files that the plugins are written in.

    Attributes:
        blocked_s: For how long the loop was held at each place, at most.
    """

    def __init__(self, own_files: frozenset[str]) -> None:
        self.blocked_s: dict[Place, float] = {}
        self._own_files = own_files
        self._beats = 0
        self._over = threading.Event()
        self._watched = threading.get_ident()
        self._schedstat = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._thread = threading.Thread(target=self._watch, name="devplugin check: watchdog", daemon=True)
        self._next_beat: asyncio.TimerHandle

    def __repr__(self) -> str:
        return f"<Watchdog of thread {self._watched}, {len(self.blocked_s)} places>"

    def __enter__(self) -> Self:
        self._beat()
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._next_beat.cancel()

    def _beat(self) -> None:
        self._beats += 1
        self._next_beat = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._beat)

    def _watch(self) -> None:
        seen_at, waited_s, places = 0, self._waited_s(), Counter[Place]()
        while not self._over.wait(_LOOK_EVERY_S):
            place = place_of_frame(sys._current_frames().get(self._watched), self._own_files)  # noqa: SLF001  (its only name)
            before_s, waited_s = waited_s, self._waited_s()
            if self._beats != seen_at or place is None:
                seen_at, places = self._beats, Counter()
            elif waited_s - before_s < _LOOK_EVERY_S / 2:
                places[place] += 1
                self._note(places)

    def _waited_s(self) -> float:
        """How long the loop's thread has been kept waiting for a processor; 0 where the kernel does not tell."""
        try:
            return int(self._schedstat.read_text().split()[1]) / 1e9
        except FileNotFoundError:  # without CONFIG_SCHED_INFO
            return 0.0

    def _note(self, places: Counter[Place]) -> None:
        [(place, _)] = places.most_common(1)
        looks = places.total()
        held_s = looks * _LOOK_EVERY_S
        if held_s >= BLOCKED_S:
            self.blocked_s[place] = max(held_s, self.blocked_s.get(place, 0.0))
        if looks == round(_WARN_AFTER_S / _LOOK_EVERY_S):  # it may be for ever, and then nobody is told otherwise
            log.warning("%s holds the event loop, and nothing else goes on: %s", place, place.source)
