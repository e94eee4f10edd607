"""Wake-ups: nothing that changes is missed, and nothing wakes for what does not matter."""

import asyncio
import ctypes
import os
import shutil
from pathlib import Path

import pytest

from devplugin import _watch
from devplugin._inotify import Change, Inotify
from devplugin._watch import Wakeups, watching, watching_all
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
        assert repr(wakeups) == f"Wakeups({directory}: ['kubelet.sock'])"


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


# Readers that know nothing of what they watch -------------------------------------------------------------------------


def watches() -> int:
    """How many watches the kernel holds for this process."""
    infos = [Path("/proc/self/fdinfo") / fd.name for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    return sum(info.read_text().count("inotify wd:") for info in infos if info.exists())


async def test_all_that_happens_in_a_directory(directory: Path) -> None:
    """Entries that come, go, are renamed or get another mode, and the directory's own mode; nothing else."""
    with watching_all(directory) as wakeups:
        assert repr(wakeups) == f"Wakeups({directory}: all names)"
        (directory / "node").touch()
        assert await woken(wakeups)
        (directory / "node").chmod(0o600)
        assert await woken(wakeups)
        (directory / "node").rename(directory / "renamed")
        assert await woken(wakeups)
        directory.chmod(0o750)
        assert await woken(wakeups)
        (directory / "renamed").write_text("content is not watched in a directory")
        assert not await woken(wakeups)
        (directory / "renamed").unlink()
        assert await woken(wakeups)
        assert not await woken(wakeups)


async def test_all_that_happens_to_a_file(directory: Path) -> None:
    """Its content while it is written, its attributes, another file in its place; not its neighbours."""
    path = directory / "config"
    with watching_all(path) as wakeups:
        path.touch()
        assert await woken(wakeups)
        with path.open("w") as file:
            file.write("one")
            file.flush()
            assert await woken(wakeups)
        path.chmod(0o600)
        assert await woken(wakeups)
        (directory / "next").write_text("two")
        assert not await woken(wakeups)
        (directory / "next").replace(path)
        assert await woken(wakeups)
        path.write_text("three")
        assert await woken(wakeups)
        path.unlink()
        assert await woken(wakeups)


async def test_what_is_written_to_a_device_wakes_nobody(directory: Path) -> None:
    """Only a regular file's content matters: a device has none that says anything of the device."""
    fifo = directory / "fifo"
    os.mkfifo(fifo)
    with watching_all(fifo) as wakeups, fifo.open("r+b", buffering=0) as file:
        file.write(b"data")
        assert not await woken(wakeups)
        fifo.chmod(0o600)
        assert await woken(wakeups)


async def test_a_mounted_config_map(directory: Path) -> None:
    """The kubelet swaps a link that is neither the file's nor in its path's text."""

    def publish(version: str) -> None:
        (directory / version).mkdir()
        (directory / version / "config").write_text(version)
        (directory / "..data_tmp").symlink_to(version)
        (directory / "..data_tmp").replace(directory / "..data")

    publish("..1")
    (directory / "config").symlink_to("..data/config")
    with watching_all(directory / "config") as wakeups:
        before = watches()
        for version in ("..2", "..3", "..4"):
            publish(version)
            assert await woken(wakeups)
            assert (directory / "config").read_text() == version
        assert watches() == before


async def test_links_that_lead_far(directory: Path) -> None:
    """Absolute and relative ones, to what is not there yet, out of a directory that goes."""
    (directory / "dev" / "by-id").mkdir(parents=True)
    link = directory / "dev" / "by-id" / "usb"
    link.symlink_to("../tty")
    (directory / "start").symlink_to(directory / "dev")
    with watching_all(directory / "start" / "by-id" / "usb") as wakeups:
        (directory / "dev" / "tty").touch()
        assert await woken(wakeups)
        (directory / "dev" / "tty").chmod(0o600)
        assert await woken(wakeups)
        link.unlink()
        assert await woken(wakeups)
        link.parent.rmdir()
        assert await woken(wakeups)
        (directory / "start").unlink()
        assert await woken(wakeups)
        (directory / "start").mkdir()
        assert await woken(wakeups)


async def test_links_that_lead_nowhere(directory: Path) -> None:
    """A loop, and a way through a file: the change that mends it is seen."""
    loop, file = directory / "loop", directory / "file"
    loop.symlink_to("loop")
    file.touch()
    with watching_all(loop, file / "below") as wakeups:
        loop.unlink()
        assert await woken(wakeups)
        while await woken(wakeups):
            pass
        file.unlink()
        file.mkdir()
        while await woken(wakeups):
            pass
        (file / "below").touch()
        assert await woken(wakeups)


async def test_watches_end_with_their_reader(directory: Path) -> None:
    """What no reader needs any more is released while others read on, and what another one needs is not."""
    (directory / "a").mkdir()
    (directory / "b").mkdir()
    with watching_all(directory / "a") as stays:
        before = watches()
        with watching_all(directory / "a", directory / "b") as goes:
            assert watches() == before + 1
            (directory / "b" / "x").touch()
            assert await woken(goes)
        assert watches() == before
        (directory / "a" / "x").touch()
        assert await woken(stays)
        (directory / "b" / "y").touch()
        assert not await woken(stays)


async def test_a_full_queue_wakes_everybody(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the kernel has dropped events, everybody looks."""
    with watching_all(directory / "a") as one, watching(directory / "b", "x") as two:
        [hub] = _watch._hubs.values()
        assert hub._inotify is not None
        monkeypatch.setattr(hub._inotify, "read", lambda: [Change(-1, "")])
        hub._read()
        assert await woken(one)
        assert await woken(two)


async def test_the_safety_net_compares(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It wakes a reader for what inotify has not told, and not without a reason."""
    monkeypatch.setattr(_watch, "_SAFETY_NET_S", 0.01)
    with watching_all(directory) as wakeups:
        assert not await woken(wakeups)
        monkeypatch.setattr(Wakeups, "concerns", lambda *_: False)
        (directory / "new").touch()
        assert await woken(wakeups)
        assert not await woken(wakeups)


async def test_polling_compares(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without inotify a reader is woken for a change, come or gone, and not without one."""
    monkeypatch.setattr(_watch, "_POLL_S", 0.01)

    def no_instance() -> Inotify:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(_watch, "Inotify", no_instance)
    with watching_all(directory / "file") as wakeups:
        assert not await woken(wakeups)
        (directory / "file").touch()
        assert await woken(wakeups)
        assert not await woken(wakeups)
        (directory / "file").unlink()
        assert await woken(wakeups)
        with watching_all(directory):
            pass


async def test_a_loop_that_is_done_is_forgotten(directory: Path) -> None:
    """Nothing holds a loop, or its instance, when its last reader has gone."""
    with watching_all(directory), watching(directory, "x"):
        assert len(_watch._hubs) == 1
    assert _watch._hubs == {}
