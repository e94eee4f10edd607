"""A file that belongs to a process: written atomically, left alone by others, and removed by its owner.

Theory: two instances of a plugin want one path, as during a rolling update, and any of them can be killed. The owner keeps
its file open and locked (flock(2)), and the kernel lets go of the lock when the process dies: whoever finds a file unlocked
knows that its process is dead. So a file of the dead is anybody's to replace or remove, and one of the living is not: the
instance that starts takes over once, by its first write; the one before it sees another's file from then on, and neither
writes nor removes it. When the newer one goes first, its file goes, and the other one's next write brings its own.

Looking and acting is one step, because all instances lock the directory for as long as it takes. Nothing is synced to the
disk: the place for such files is a tmpfs, which no power cut survives.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from glob import escape
from pathlib import Path

from devplugin.errors import ConfigurationError

_NAME_MAX = 255


class _Owner(Enum):
    """Whose the file is that is found at the path."""

    NOBODY = auto()
    SELF = auto()
    ANOTHER = auto()
    DEAD = auto()


class OwnedFile:
    """The file at ``path``, as this instance sees it.

    Raises:
        ConfigurationError: The name is too long, or, from the methods, the system does not let the plugin write there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._has_begun = False
        if len(os.fsencode(self._temporary().name)) > _NAME_MAX:
            raise ConfigurationError(f"the file name {path.name!r} is too long: with 8 bytes more it must still be one")

    def __repr__(self) -> str:
        return f"OwnedFile({str(self.path)!r}, {'written' if self._fd is not None else 'not written'})"

    def write(self, data: bytes) -> bool:
        """Put ``data`` there; False when another living instance has taken the file over, and nothing was written."""
        with self._translated():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.path.parent):
                if self._has_begun and self._owner() is _Owner.ANOTHER:
                    return False
                self._replace(data)
                self._has_begun = True
                return True

    def is_there(self) -> bool:
        """Whether there is a file of a living instance: this one or another."""
        with self._translated(), suppress(FileNotFoundError), _locked(self.path.parent):
            return self._owner() in (_Owner.SELF, _Owner.ANOTHER)
        return False

    def end(self) -> None:
        """Remove it for good: the next write is that of a new instance."""
        self.remove()
        self._has_begun = False

    def remove(self) -> None:
        """Remove it, unless it is another living instance's."""
        with self._translated(), suppress(FileNotFoundError), _locked(self.path.parent):
            if self._owner() in (_Owner.SELF, _Owner.DEAD):
                self.path.unlink()
            self._tidy()
        self._let_go()

    def _owner(self) -> _Owner:
        try:
            found = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return _Owner.NOBODY
        try:
            if self._fd is not None and os.path.sameopenfile(self._fd, found):
                return _Owner.SELF
            fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _Owner.ANOTHER
        finally:
            os.close(found)
        return _Owner.DEAD

    def _replace(self, data: bytes) -> None:
        self._tidy()
        temporary = self._temporary()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            while data:
                data = data[os.write(fd, data) :]
            temporary.rename(self.path)
        except BaseException:
            os.close(fd)
            temporary.unlink()
            raise
        self._let_go()
        self._fd = fd

    def _let_go(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _temporary(self) -> Path:
        return self.path.with_name(f".{self.path.name}.{os.urandom(3).hex()}")

    def _tidy(self) -> None:
        """Remove what died between making a file and giving it its name: who lives and does that has the directory locked."""
        for left in self.path.parent.glob(f".{escape(self.path.name)}.??????"):
            left.unlink()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            raise ConfigurationError(
                f"no permission to write {self.path} as user {os.geteuid()}: {error.strerror}. The plugin needs write access"
                " to this directory of the host, mounted writable; with SELinux its type must allow that too"
            ) from error


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
