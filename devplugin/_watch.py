"""Wake-ups for what changes in paths that may come and go.

Rules: a wake-up says "look again", never what happened, so a reader compares states and loses nothing when wake-ups
conflate. All readers of an event loop share one inotify instance (a user has 128 of them by default), and one slow timer as
the safety net for what inotify does not tell: a directory that was deleted and made again outside a container's mount.
Where there is no inotify, the timer is quicker and does all of it.

Every directory on the way to a path is watched for the next name, symbolic links followed, so that a path is found again
however it comes to lead elsewhere: a parent that is made again, the ``..data`` of a mounted ConfigMap. Each is watched
before the name is looked up in it: what changes in between is an event.
"""

import asyncio
import errno
import logging
import math
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from devplugin._inotify import ATTRIB, MODIFY, NAMES, ONLYDIR, SELF, Change, Inotify

log = logging.getLogger("devplugin.watch")

_SAFETY_NET_S = 5.0
_POLL_S = 1.0
_LINKS_MAX = 40  # path_resolution(7): the system follows no more of them either
_NAMES_IN = NAMES | SELF | ONLYDIR

_State = tuple[int, int, int] | None


class Bell:
    """What wakes one waiter. It can be rung at any time, and rings once however often that was."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Let the waiter look again."""
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


class Wakeups(Bell):
    """One reader's wake-ups for some paths.

    ``names`` is how the files in the directories begin that matter to the reader, who is woken by the safety net, too, and
    compares more than this module could. Without names everything matters that happens to what a path leads to, and to the
    entries of a directory; then the safety net compares and wakes only for a change.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], names: tuple[str, ...] | None) -> None:
        super().__init__()
        self.paths = [os.fspath(path) for path in paths]
        self.names = names
        self.steps: dict[int, set[str]] = {}
        self.ends: set[int] = set()
        self.states: list[_State] = []

    def __repr__(self) -> str:
        names = "all names" if self.names is None else sorted(self.names)
        return f"Wakeups({', '.join(map(str, self.paths))}: {names})"

    def concerns(self, change: Change) -> bool:
        """Whether it can be what the reader waits for, or lead a path elsewhere."""
        if not change.name:
            return change.wd in self.ends or change.wd in self.steps
        if change.wd in self.ends and (self.names is None or change.name.startswith(self.names)):
            return True
        return change.name in self.steps.get(change.wd, ())

    def watches(self) -> set[int]:
        """The numbers of the watches that it needs."""
        return self.ends | self.steps.keys()


class _Hub:
    """The inotify instance and the timer of one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.readers: list[Wakeups] = []
        self._inotify: Inotify | None = None
        self._timer: asyncio.TimerHandle | None = None

    def add(self, reader: Wakeups) -> None:
        if not self.readers:
            self._open()
        self.readers.append(reader)
        self._arm(reader)

    def remove(self, reader: Wakeups) -> None:
        self.readers.remove(reader)
        if self.readers:
            self._release(reader.watches())
        else:
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
        for reader in self.readers:
            before = reader.states
            self._arm(reader)
            if reader.names is not None or reader.states != before:
                reader.wake()
        self._look_after(_SAFETY_NET_S if self._inotify else _POLL_S)

    def _read(self) -> None:
        assert self._inotify is not None
        changes = self._inotify.read()
        queue_was_full = any(change.wd < 0 for change in changes)
        for reader in self.readers:
            if queue_was_full or any(map(reader.concerns, changes)):
                self._arm(reader)
                reader.wake()

    def _arm(self, reader: Wakeups) -> None:
        """Watch all that lies on the way to the reader's paths now, and nothing that did before."""
        if reader.names is None:
            reader.states = [_state(path) for path in reader.paths]
        if self._inotify is None:
            return
        before, reader.steps, reader.ends = reader.watches(), {}, set()
        try:
            for path in reader.paths:
                self._follow(path, reader)
        except OSError as error:
            self._poll_instead(error)
        else:
            self._release(before - reader.watches())

    def _follow(self, path: str, reader: Wakeups) -> None:
        end = None if reader.names is None else _NAMES_IN
        for place, name in _way(path):
            wd = self._watch(place, _NAMES_IN if name else end)
            if wd is None:
                continue
            if name:
                reader.steps.setdefault(wd, set()).add(name)
            else:
                reader.ends.add(wd)

    def _watch(self, place: str, mask: int | None) -> int | None:
        """The number of the watch, without a mask for all that can be told; None for what is not there or may not be
        read.
        """
        assert self._inotify is not None
        try:
            return self._inotify.add_watch(place, _everything_about(place) if mask is None else mask)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None

    def _release(self, watches: set[int]) -> None:
        """End those that no reader needs."""
        if self._inotify is not None:
            for wd in watches.difference(*(reader.watches() for reader in self.readers)):
                self._inotify.remove_watch(wd)

    def _poll_instead(self, error: OSError) -> None:
        log.warning("inotify is not to be had (%s): looking every %g s instead", error, _POLL_S)
        self._close_inotify()
        self._look_after(_POLL_S)

    def _close_inotify(self) -> None:
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fd)
            self._inotify.close()
            self._inotify = None


def _way(path: str) -> Iterator[tuple[str, str]]:
    """The directories where names are looked up on the way to an absolute path, each with the name, as path_resolution(7)
    has it; and at the end, with no name, what the path leads to. It ends early where there is no way on.
    """
    place, rest, links = "/", _names(path), 0
    while rest:
        name = rest.pop()
        if name == "/":
            place = "/"
        else:  # ".." too: place has no symbolic link left
            yield place, name
            entry = os.path.join(place, name)
            try:
                target = os.readlink(entry)
            except OSError as error:
                if error.errno != errno.EINVAL:  # nothing there, or not for us
                    return
                place = entry  # no link
            else:
                rest += _names(target)
                links += 1
                if links > _LINKS_MAX:
                    return
    yield place, ""


def _names(path: str) -> list[str]:
    """What a path is made of, the last name first; ``/`` is the name of the beginning."""
    names = [name for name in reversed(path.split("/")) if name not in ("", ".")]
    return [*names, "/"] if path.startswith("/") else names


def _everything_about(place: str) -> int:
    """What to watch for where the reader wants to know all.

    The content of regular files only: whoever writes to a device would wake the reader of ``/dev``.
    """
    mode = os.stat(place).st_mode
    if stat.S_ISDIR(mode):
        return NAMES | SELF | ATTRIB
    return SELF | ATTRIB | MODIFY if stat.S_ISREG(mode) else SELF | ATTRIB


def _state(path: str) -> _State:
    """Differs when what the path leads to has changed.

    Not for the attributes of a directory's entries, nor for a second change within one tick of the kernel's clock (4 ms):
    only inotify tells of these.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


_hubs: dict[asyncio.AbstractEventLoop, _Hub] = {}


@contextmanager
def _reading(reader: Wakeups) -> Iterator[Wakeups]:
    loop = asyncio.get_running_loop()
    hub = _hubs.setdefault(loop, _Hub())
    hub.add(reader)
    try:
        yield reader
    finally:
        hub.remove(reader)
        if not hub.readers:
            del _hubs[loop]


def watching(directory: str | os.PathLike[str], *names: str) -> AbstractContextManager[Wakeups]:
    """Wake-ups whenever a file of the directory whose name begins so, or the directory itself, comes, goes or is replaced."""
    return _reading(Wakeups([directory], names))


def watching_all(*paths: str | os.PathLike[str]) -> AbstractContextManager[Wakeups]:
    """Wake-ups for whatever happens to these absolute paths: files, directories and their entries, or nothing yet."""
    return _reading(Wakeups(paths, None))
