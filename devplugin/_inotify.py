"""inotify(7) by ctypes, as little of it as a wake-up needs.

The libraries for it look libc up with ``ctypes.util``, which starts a process and imports the archive modules: measured
1.5 MiB for every node, of 24 in all, and an eighth of a plugin's start. libc is in this process already.
"""

import ctypes
import os
import struct
from typing import NamedTuple

# What add_watch() can be asked for, by the names of <sys/inotify.h>.
MODIFY = 0x2
ATTRIB = 0x4
SELF = 0x400 | 0x800  # IN_DELETE_SELF | IN_MOVE_SELF
NAMES = 0x40 | 0x80 | 0x100 | 0x200  # IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
ONLYDIR = 0x0100_0000

_MASK_ADD = 0x2000_0000
_EVENT = struct.Struct("iIII")  # wd, mask, cookie, and the length of the name that follows
_READ_BYTES = 64 * 1024


class Change(NamedTuple):
    """Something happened: in the directory of the watch ``wd`` to a name, or to what is watched itself.

    A full queue has -1 for ``wd``. The name is empty when it is about what is watched itself.
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

    def add_watch(self, path: str, mask: int) -> int:
        """Watch for what is in the mask, and go on watching for what was asked before; the number of the watch.

        The kernel has one watch for each file, whatever the paths to it: what is watched already keeps its number.

        Raises:
            OSError: There is nothing at the path, it may not be read, or the user has no watch left (ENOSPC).
        """
        return self._checked(self._libc.inotify_add_watch(self.fd, os.fsencode(path), mask | _MASK_ADD))

    def remove_watch(self, wd: int) -> None:
        """End a watch; one that the kernel has ended already, because what it watched is gone, is no error."""
        self._libc.inotify_rm_watch(self.fd, wd)

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
