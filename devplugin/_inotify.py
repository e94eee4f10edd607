"""inotify(7) by ctypes, as little of it as a wake-up needs.

The libraries for it look libc up with ``ctypes.util``, which starts a process and imports the archive modules: measured
1.5 MiB for every node, of 24 in all, and an eighth of a plugin's start. libc is in this process already.
"""

import ctypes
import os
import struct
from pathlib import Path
from typing import NamedTuple

_EVENT = struct.Struct("iIII")  # wd, mask, cookie, and the length of the name that follows
_READ_BYTES = 64 * 1024
# IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR
_NAMES_AND_ITSELF = 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800 | 0x0100_0000


class Change(NamedTuple):
    """Something came or went: in the directory of the watch ``wd`` under a name, or the directory itself.

    A full queue has -1 for ``wd``. The name is empty when it is about the directory itself.
    """

    wd: int
    name: str


class Inotify:
    """One inotify instance, whose descriptor is readable when there are changes.

    Raises:
        OSError: The user has no instance left (EMFILE), or the system has no inotify.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        try:
            self.fd = self._checked(self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        except AttributeError as error:
            raise OSError("this system has no inotify") from error

    def add_watch(self, directory: Path) -> int:
        """Watch a directory; the number of its watch, which is the same for a directory that is watched already.

        Raises:
            OSError: There is no such directory, it may not be read, or the user has no watch left (ENOSPC).
        """
        return self._checked(self._libc.inotify_add_watch(self.fd, os.fsencode(directory), _NAMES_AND_ITSELF))

    def read(self) -> list[Change]:
        """What has changed since the last time."""
        changes = []
        data, position = os.read(self.fd, _READ_BYTES), 0
        while position < len(data):
            wd, _, _, length = _EVENT.unpack_from(data, position)
            position += _EVENT.size + length
            changes.append(Change(wd, os.fsdecode(data[position - length : position].rstrip(b"\0"))))
        return changes

    def close(self) -> None:
        """Close the instance and its watches."""
        os.close(self.fd)

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
