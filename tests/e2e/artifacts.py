"""What is built once and kept: made only where it is missing or its inputs changed, whole or not at all."""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .console import say, timed


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A file or folder of the cache.

    Attributes:
        path: Where it is, below the cache.
        key: Changes when what it is made of changes.
        make: Makes it at the path that it is given.
    """

    path: str
    key: str
    make: Callable[[Path], None]


def key_of(*parts: object) -> str:
    """A digest of the parts: paths by their content, everything else by its text."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else str(part).encode()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def ensure(artifacts: Sequence[Artifact], folder: Path) -> None:
    """Make what is missing or out of date, one after the other, under the folder's lock."""
    stale = [artifact for artifact in artifacts if not _is_fresh(artifact, folder)]
    if not stale:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / "lock"):
        stale = [artifact for artifact in artifacts if not _is_fresh(artifact, folder)]  # another may have made some
        for number, artifact in enumerate(stale, start=1):
            with timed(f"building {artifact.path} ({number} of {len(stale)})"):
                _make(artifact, folder)


def _is_fresh(artifact: Artifact, folder: Path) -> bool:
    key = _key_file(artifact, folder)
    return (folder / artifact.path).exists() and key.exists() and key.read_text() == artifact.key


def _make(artifact: Artifact, folder: Path) -> None:
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)  # of one that was killed: the lock says that it is dead
    work.mkdir()
    target, key = folder / artifact.path, _key_file(artifact, folder)
    try:
        artifact.make(work / "new")
        (work / "key").write_text(artifact.key)
        for path in (target, key):
            path.parent.mkdir(parents=True, exist_ok=True)
        key.unlink(missing_ok=True)  # from here to the end it counts as missing
        if target.is_dir():
            shutil.rmtree(target)
        (work / "new").replace(target)
        (work / "key").replace(key)
    finally:
        shutil.rmtree(work)


def _key_file(artifact: Artifact, folder: Path) -> Path:
    return folder / "keys" / artifact.path.replace("/", "_")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock; the kernel lets it go however this process ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another build holds {path}; waiting for it …")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def files_below(*folders: Path) -> Iterable[Path]:
    """Every file of the folders that git would not call generated, in a fixed order."""
    for folder in folders:
        yield from sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
