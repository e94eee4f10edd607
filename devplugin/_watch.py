"""Wake-ups for what changes in directories that may come and go.

Rules: a wake-up says "look again", never what happened, so a reader compares states and loses nothing when wake-ups
conflate. All readers of an event loop share one inotify instance (a user has 128 of them by default), and one slow timer as
the safety net for what inotify does not tell: a directory that was deleted and made again outside a container's mount,
a full queue. Where there is no inotify, the timer is quicker and does all of it.

A directory's parent is watched too, so that it is found again when it is made again; when the parent is missing, the
nearest ancestor that is there.
"""

import asyncio
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from weakref import WeakKeyDictionary

from devplugin._inotify import Change, Inotify

log = logging.getLogger("devplugin.watch")

_SAFETY_NET_S = 5.0
_POLL_S = 1.0


class Wakeups:
    """One reader's wake-ups for one directory; ``names`` are the files in it that matter to the reader."""

    def __init__(self, directory: Path, names: set[str]) -> None:
        self.directory = directory
        self.names = names
        self._event = asyncio.Event()

    def __repr__(self) -> str:
        return f"Wakeups({str(self.directory)!r}, {sorted(self.names)})"

    def wake(self) -> None:
        """Let the reader look again."""
        self._event.set()

    async def wait(self, timeout_s: float = math.inf) -> None:
        """Return at the next wake-up, at once when there was one since the last ``wait()``, or after ``timeout_s`` seconds."""
        alarm = None if timeout_s == math.inf else asyncio.get_running_loop().call_later(timeout_s, self.wake)
        try:
            await self._event.wait()
        finally:
            if alarm is not None:
                alarm.cancel()
        self._event.clear()


class _Hub:
    """The inotify instance and the timer of one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._readers: list[Wakeups] = []
        self._inotify: Inotify | None = None
        self._watches: dict[Path, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, reader: Wakeups) -> None:
        if not self._readers:
            self._open()
        self._readers.append(reader)
        self._arm(reader.directory)

    def remove(self, reader: Wakeups) -> None:
        self._readers.remove(reader)
        if not self._readers:
            self._close_inotify()
            assert self._timer is not None
            self._timer.cancel()

    def _open(self) -> None:
        try:
            self._inotify = Inotify()
        except OSError as error:
            self._poll_instead(error)
        else:
            self._loop.add_reader(self._inotify.fd, self._read)
            self._look_after(_SAFETY_NET_S)

    def _look_after(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._look_everywhere()
        self._look_after(_SAFETY_NET_S if self._inotify else _POLL_S)

    def _look_everywhere(self) -> None:
        for directory in {reader.directory for reader in self._readers}:
            self._arm(directory)
        for reader in self._readers:
            reader.wake()

    def _arm(self, directory: Path) -> None:
        """Watch the directory and the nearest ancestor that is there, the ancestor first so that nothing is missed."""
        if self._inotify is None:
            return
        try:
            any(map(self._watch, directory.parents))  # up to the first that is there
            self._watch(directory)
        except OSError as error:
            self._poll_instead(error)

    def _watch(self, path: Path) -> bool:
        assert self._inotify is not None
        try:
            self._watches[path] = self._inotify.add_watch(path)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return False
        return True

    def _poll_instead(self, error: OSError) -> None:
        log.warning("inotify is not to be had (%s): looking every %g s instead", error, _POLL_S)
        self._close_inotify()
        self._look_after(_POLL_S)

    def _close_inotify(self) -> None:
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fd)
            self._inotify.close()
            self._inotify = None
            self._watches.clear()

    def _read(self) -> None:
        assert self._inotify is not None
        for change in self._inotify.read():
            self._handle(change)

    def _handle(self, change: Change) -> None:
        if not change.name:  # the queue was full, or a watched directory itself has gone
            self._look_everywhere()
            return
        for reader in self._readers:
            if change.wd == self._watches.get(reader.directory):
                if change.name in reader.names:
                    reader.wake()
            elif any(
                change.wd == self._watches.get(parent) and change.name == child.name
                for child, parent in pairwise([reader.directory, *reader.directory.parents])
            ):
                self._arm(reader.directory)
                reader.wake()


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, _Hub] = WeakKeyDictionary()


@contextmanager
def watching(directory: Path, *names: str) -> Iterator[Wakeups]:
    """Wake-ups whenever one of the named files of the directory, or the directory itself, comes, goes or is replaced."""
    loop = asyncio.get_running_loop()
    if loop not in _hubs:
        _hubs[loop] = _Hub()
    hub = _hubs[loop]
    reader = Wakeups(directory, {*names})
    hub.add(reader)
    try:
        yield reader
    finally:
        hub.remove(reader)
