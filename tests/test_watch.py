"""Wake-ups: nothing that changes is missed, and nothing wakes for what does not matter."""

import asyncio
import ctypes
import shutil
from pathlib import Path

import pytest

from devplugin import _watch
from devplugin._inotify import Inotify
from devplugin._watch import Wakeups, watching
from tests.conftest import eventually

pytestmark = pytest.mark.asyncio


async def woken(wakeups: Wakeups) -> bool:
    """Whether a wake-up comes for something that has just happened."""
    try:
        await asyncio.wait_for(wakeups.wait(), 0.2)
    except TimeoutError:
        return False
    return True


async def test_only_the_names_that_matter(directory: Path) -> None:
    """Other files of the directory wake nobody."""
    with watching(directory, "kubelet.sock") as wakeups:
        (directory / "other").touch()
        assert not await woken(wakeups)
        (directory / "kubelet.sock").touch()
        assert await woken(wakeups)
        (directory / "kubelet.sock").rename(directory / "away")
        assert await woken(wakeups)
        assert not await woken(wakeups)
        assert repr(wakeups) == f"Wakeups('{directory}', ['kubelet.sock'])"


async def test_directories_that_come_and_go(directory: Path) -> None:
    """A directory is found again at any depth, and what is in it from the first moment on."""
    path = directory / "a" / "b" / "c"
    with watching(path, "kubelet.sock") as wakeups:
        for _ in range(3):
            path.mkdir(parents=True)
            (path / "kubelet.sock").touch()
            await eventually(wakeups._event.is_set)
            await asyncio.sleep(0.01)
            assert await woken(wakeups)
            (path / "kubelet.sock").unlink()
            assert await woken(wakeups)
            shutil.rmtree(directory / "a")
            assert await woken(wakeups)
            while await woken(wakeups):
                pass


async def test_one_directory_by_two_names(directory: Path) -> None:
    """Readers that spell a directory differently are all woken."""
    (directory / "real").mkdir()
    (directory / "link").symlink_to("real")
    with watching(directory / "real", "x") as one, watching(directory / "link", "x") as two:
        (directory / "real" / "x").touch()
        assert await woken(one)
        assert await woken(two)


async def test_all_readers_share_one_inotify_instance(directory: Path) -> None:
    """A hundred readers need one instance; it is closed with the last one."""

    def instances() -> int:
        return sum(
            path.readlink() == Path("anon_inode:inotify")
            for path in Path("/proc/self/fd").iterdir()
            if path.is_symlink()
        )

    before = instances()
    readers = [watching(directory, f"{n}") for n in range(100)]
    for reader in readers:
        reader.__enter__()
    assert instances() == before + 1
    for reader in readers:
        reader.__exit__(None, None, None)
    assert instances() == before


async def test_without_inotify_it_looks_every_second(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no instance is left, looking in intervals does instead, and that is said."""
    monkeypatch.setattr(_watch, "_POLL_S", 0.01)

    def no_instance() -> Inotify:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(_watch, "Inotify", no_instance)
    with watching(directory, "kubelet.sock") as wakeups:
        await asyncio.wait_for(wakeups.wait(), 5)
        await asyncio.wait_for(wakeups.wait(), 5)
        with watching(directory, "other"):
            pass
    assert caplog.messages == [
        "inotify is not to be had ([Errno 24] Too many open files): looking every 0.01 s instead"
    ]


async def test_a_system_without_inotify(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another system's C library has no such function, and that is an OSError like the others."""
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    with pytest.raises(OSError, match="this system has no inotify"):
        Inotify()


async def test_without_a_watch_left_it_looks_every_second(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The same when the instance is there and its watches are used up."""
    monkeypatch.setattr(_watch, "_POLL_S", 0.01)

    def no_watch(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Inotify, "add_watch", no_watch)
    with watching(directory, "kubelet.sock") as wakeups:
        await asyncio.wait_for(wakeups.wait(), 5)
    assert "looking every 0.01 s instead" in caplog.text


async def test_the_safety_net(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any event the reader looks now and then all the same."""
    monkeypatch.setattr(_watch, "_SAFETY_NET_S", 0.01)
    with watching(directory, "kubelet.sock") as wakeups:
        await asyncio.wait_for(wakeups.wait(), 5)
        await asyncio.wait_for(wakeups.wait(), 5)
