"""What the command's tests need: a folder with plugins, the command in this process, as a process, and on a terminal."""

import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from devplugin.cli import _app
from tests.support_pages import ROOT

Process = subprocess.Popen[str]
Run = Callable[..., Result]
Start = Callable[..., AbstractContextManager[Process]]
Open = Callable[..., AbstractContextManager["Terminal"]]

SEATS = '''
from collections.abc import AsyncIterator, Sequence

from devplugin import Allocation, AllocationError, Device, DeviceNode, DevicePluginBase, Health, Mount


class Seats(DevicePluginBase):
    """Three seats, one of them broken; two at once are refused."""

    resource_name = "example.com/seat"

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [
            Device("seat-0", numa_nodes=[1], grants=self._grants(0)),
            Device("seat-1", grants=self._grants(1)),
            Device("seat-2", health=Health.UNHEALTHY),
        ]

    def _grants(self, number: int) -> Allocation:
        return Allocation(
            env={f"SEAT_{number}": "taken"},
            mounts=[Mount("/lib/seat", "/usr/lib/seat", read_only=True), Mount("/run/seat", "/run/host-seat")],
            device_nodes=[DeviceNode(f"/dev/seat{number}", f"/dev/host-seat{number}")],
            annotations={"example.com/by": "seats"},
            cdi_devices=[f"example.com/seat=seat-{number}"],
        )

    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        if len(devices) > 1:
            raise AllocationError("one seat is enough")
        return await super().allocate(devices)
'''


@pytest.fixture
def folder(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that the command is used in; it has a plugin, seats.py. What is imported from it is forgotten with it."""
    (directory / "seats.py").write_text(SEATS)
    monkeypatch.chdir(directory)
    path = [*sys.path]
    yield directory
    sys.path[:] = path
    for name, module in [*sys.modules.items()]:
        if (getattr(module, "__file__", None) or "").startswith(f"{directory}/"):
            del sys.modules[name]


@pytest.fixture
def run(folder: Path) -> Run:
    """The command in this process; what it raises beyond its exit status fails the test."""
    del folder

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(_app.command, [*map(str, arguments)], prog_name="devplugin", catch_exceptions=False)

    return run


def argv(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "devplugin", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    }
    return kept | {"PYTHONPATH": str(ROOT), "TERM": "xterm"} | more


@pytest.fixture
def start(folder: Path) -> Start:
    """The command as a process with pipes, which is killed with the test if it is there still."""

    @contextlib.contextmanager
    def start(*arguments: str | Path) -> Iterator[Process]:
        pipe = subprocess.PIPE
        with subprocess.Popen(
            argv(*arguments),
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    return start


# Makes standard input its controlling terminal, so that ^C is a signal.
_ON_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|.)")


class Terminal:
    """A program on a terminal of its own, 100 columns wide."""

    def __init__(self, process: "subprocess.Popen[bytes]", main: int, other: int) -> None:
        self.process = process
        self.raw = ""
        self._main = main
        self._other = other
        self._seen = 0

    def text(self) -> str:
        """All that has been written, without colours and movements."""
        return _ANSI.sub("", self.raw).replace("\r", "")

    def expect(self, wanted: str, timeout_s: float = 20) -> str:
        """Read on until the pattern has come after what was expected before."""
        deadline = time.monotonic() + timeout_s
        while not (found := re.compile(wanted).search(self.text(), self._seen)):
            assert self._read(deadline - time.monotonic()), (
                f"{wanted!r} did not come, but:\n{self.text()[self._seen :]}"
            )
        self._seen = found.end()
        return found[0]

    def press(self, keys: str) -> None:
        os.write(self._main, keys.encode())

    def end(self, timeout_s: float = 20) -> int:
        """See it end; its exit status."""
        status = self.process.wait(timeout_s)
        while self._read(0):
            pass
        return status

    def is_as_before(self) -> bool:
        """Whether the terminal echoes and edits lines."""
        wanted = termios.ECHO | termios.ICANON
        flags: int = termios.tcgetattr(self._other)[3]
        return flags & wanted == wanted

    def _read(self, timeout_s: float) -> bool:
        ready, _, _ = select.select([self._main], [], [], max(timeout_s, 0))
        if ready:
            self.raw += os.read(self._main, 65536).decode(errors="replace")
        return bool(ready)


@pytest.fixture
def terminal(folder: Path) -> Open:
    """The command on a terminal; it is killed with the test if it is there still."""

    @contextlib.contextmanager
    def open_terminal(*arguments: str | Path, lines: int = 40, **variables: str) -> Iterator[Terminal]:
        main, other = os.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", lines, 100, 0, 0))
        process = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, *argv(*arguments)],
            cwd=folder,
            env=environment(**variables),
            stdin=other,
            stdout=other,
            stderr=other,
        )
        try:
            yield Terminal(process, main, other)
        finally:
            process.kill()
            process.wait()
            os.close(main)
            os.close(other)

    return open_terminal


@pytest.fixture
def nothing_left(
    directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """The trials of a test leave no directory behind in theirs."""
    tmp_path_factory.getbasetemp()  # while the directory for it is the usual one
    trials = directory / "t"
    trials.mkdir()
    monkeypatch.setenv("TMPDIR", str(trials))
    monkeypatch.setattr(tempfile, "tempdir", str(trials))
    yield
    assert [*trials.iterdir()] == []
