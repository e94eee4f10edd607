"""Wake-ups for ``devices()``: when to look again.

Each of these is an asynchronous generator of nothing, for a loop whose body looks at the devices and yields what it finds::

    async def devices(self) -> AsyncIterator[list[Device]]:
        async for _ in changes_in("/dev", at_least_every_s=10.0):
            yield scan()

Rules for all of them. The first wake-up comes at once, so that the first look is taken. A wake-up says "look again", never
what has happened; those that come while the body runs are one wake-up after it, so the last change is never lost and a slow
look has no backlog. All run on the event loop, without threads. They close when the loop around them ends, for whatever
reason; ``contextlib.aclosing`` closes one at a place of your choice.
"""

import asyncio
import importlib
import logging
import os
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Literal

from devplugin._watch import Bell, watching_all
from devplugin.errors import ConfigurationError

__all__ = ["changes_in", "every", "udev_events"]

log = logging.getLogger("devplugin.sources")

_UDEV_IS_RUNNING = Path("/run/udev/control")


async def changes_in(*paths: str | os.PathLike[str], at_least_every_s: float) -> AsyncGenerator[None, None]:
    """Wake up when something changes in the paths, and at least every so many seconds.

    For a directory, that is an entry that comes, goes, is renamed or gets other attributes (an owner, a mode); what is
    written into the files of a directory is not. For a file, it is its content and its attributes. A path may be missing,
    come later, go, and come back; symbolic links are followed, and another target is a change, as in a mounted ConfigMap.

    The kernel tells of what programs do. What it does itself in ``/sys`` and ``/proc`` it mostly tells nobody, and
    changes made by another machine on a network file system neither: there, only ``at_least_every_s`` works.

    Where the system has no inotify, or none left, the paths are looked at every second instead, and a warning says so once.
    Such looks do not see the attributes of a directory's entries.

    Args:
        paths: Files and directories.
        at_least_every_s: The safety net, in seconds, counted from when the body has ended.

    Raises:
        ConfigurationError: There is no path, or a value is not usable.
    """
    _check_seconds("at_least_every_s", at_least_every_s)
    with watching_all(*_checked_paths(paths)) as wakeups:
        while True:
            yield
            await wakeups.wait(at_least_every_s)


async def every(interval_s: float) -> AsyncGenerator[None, None]:
    """Wake up at once, and then ``interval_s`` seconds after the body has ended, each time.

    Raises:
        ConfigurationError: The interval is no number of seconds above 0.
    """
    _check_seconds("interval_s", interval_s)
    while True:
        yield
        await asyncio.sleep(interval_s)


async def udev_events(
    *subsystems: str, at_least_every_s: float, source: Literal["udev", "kernel"] = "udev"
) -> AsyncGenerator[None, None]:
    """Wake up when udev tells of a device of the subsystems, and at least every so many seconds.

    It needs the extra ``devplugin[udev]`` (pyudev), and libudev, which every system with udev has and an image may lack.

    In a pod, ``"udev"`` needs the host's network (udev tells only the network namespace that it runs in) and the
    host's ``/run/udev``. ``"kernel"`` needs neither, comes before udev has set names, owners and links, and is not told to a
    pod with a user namespace of its own.

    Args:
        subsystems: Such as ``"tty"``, ``"usb"``, ``"block"``; none for all of them.
        at_least_every_s: The safety net, in seconds, counted from when the body has ended.
        source: Who tells: udev, when it is done with the device, or the kernel.

    Raises:
        ConfigurationError: pyudev or libudev is not installed, or a value is not usable.
        OSError: The system gives no netlink socket.
    """
    _check_seconds("at_least_every_s", at_least_every_s)
    monitor = _start_monitor(subsystems, source)
    loop, fd, bell = asyncio.get_running_loop(), monitor.fileno(), Bell()

    def read() -> None:
        try:
            while monitor.poll(timeout=0) is not None:
                bell.wake()
        except OSError:  # more came than the socket could hold, so something has changed
            log.debug("udev events were lost: %s", os.strerror(_clear_error(fd)))
            bell.wake()

    loop.add_reader(fd, read)
    try:
        while True:
            yield
            await bell.wait(at_least_every_s)
    finally:
        loop.remove_reader(fd)


def _start_monitor(subsystems: tuple[str, ...], source: str) -> Any:
    """A pyudev.Monitor that receives what the subsystems' devices do; pyudev has no types."""
    if source not in ("udev", "kernel"):
        raise ConfigurationError(f"source {source!r} is not usable: it must be 'udev' or 'kernel'")
    for subsystem in subsystems:
        if not isinstance(subsystem, str) or not subsystem or "\0" in subsystem:
            raise ConfigurationError(f"subsystem {subsystem!r} is not usable: it must be a name such as 'usb'")
    try:
        pyudev = importlib.import_module("pyudev")
    except ImportError as error:
        raise ConfigurationError("udev_events() needs pyudev: pip install 'devplugin[udev]'") from error
    try:
        context = pyudev.Context()
    except ImportError as error:
        raise ConfigurationError(
            "udev_events() needs libudev, the library of udev (in Debian: apt-get install libudev1)"
        ) from error
    if source == "udev" and not _UDEV_IS_RUNNING.exists():
        log.warning(
            "udev does not seem to run (there is no %s): if it tells nothing, at_least_every_s is all", _UDEV_IS_RUNNING
        )
    monitor = pyudev.Monitor.from_netlink(context, source)
    for subsystem in subsystems:
        monitor.filter_by(subsystem)
    monitor.start()
    return monitor


def _clear_error(fd: int) -> int:
    """The error that a socket has to tell; pyudev looks only whether there is one, and so finds it for ever."""
    with socket.socket(fileno=os.dup(fd)) as the_same:
        return the_same.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _check_seconds(what: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise ConfigurationError(f"{what} {value!r} is not usable: it must be a number of seconds above 0")


def _checked_paths(paths: tuple[str | os.PathLike[str], ...]) -> list[Path]:
    if not paths:
        raise ConfigurationError("changes_in() needs at least one path")
    for path in paths:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path) or "\0" in os.fspath(path):
            raise ConfigurationError(f"path {path!r} is not usable: it must be a path of a file or a directory")
    return [Path(path).absolute() for path in paths]
