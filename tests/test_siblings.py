"""Other instances of a plugin: who has come, and who has gone for good."""

import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devplugin import _siblings
from devplugin._calls import Methods
from devplugin._server import Server, serving
from devplugin._siblings import Siblings

pytestmark = pytest.mark.asyncio

NOTHING = Methods({}, {})


@contextmanager
def instance(server: Server, number: int) -> Iterator[Path]:
    """A socket with the name of another instance's, that listens until the context ends, and stays then."""
    path = Path(server.directory) / f"{server.prefix}{number:08x}.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        yield path


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_siblings, "_GONE_FOR_S", 0.0)


async def test_alone(directory: Path) -> None:
    """Nobody has come, so nobody has gone; neither when another resource's plugin goes."""
    async with serving(str(directory), "acme.com/gpu", NOTHING) as server:
        siblings = Siblings(server)
        async with serving(str(directory), "acme.com/gpu2", NOTHING):
            assert siblings.all_gone_s() == math.inf
        assert siblings.all_gone_s() == math.inf
        assert repr(siblings) == "Siblings(none has come)"


async def test_one_that_was_there_before_goes(directory: Path) -> None:
    """It registered before this one: the kubelet has dropped it, and not this one."""
    async with serving(str(directory), "acme.com/gpu", NOTHING) as server:
        with instance(server, 1) as path:
            siblings = Siblings(server)
            assert siblings.all_gone_s() == math.inf
        path.unlink()
        assert siblings.all_gone_s() == math.inf


@pytest.mark.parametrize("leaves_its_socket", [False, True], ids=["in order", "killed"])
async def test_one_comes_and_goes(directory: Path, leaves_its_socket: bool) -> None:  # noqa: FBT001  (pytest gives it by name)
    """In order it removes its socket; killed it leaves it, where nothing listens."""
    async with serving(str(directory), "acme.com/gpu", NOTHING) as server:
        siblings = Siblings(server)
        with instance(server, 1) as path:
            assert siblings.all_gone_s() == math.inf
            assert repr(siblings) == "Siblings(one has come)"
        if not leaves_its_socket:
            path.unlink()
        assert siblings.all_gone_s() <= 0


async def test_one_with_a_socket_anew_has_not_gone(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever registers anew is away for a moment."""
    monkeypatch.setattr(_siblings, "_GONE_FOR_S", 2.0)
    async with serving(str(directory), "acme.com/gpu", NOTHING) as server:
        siblings = Siblings(server)
        with instance(server, 1) as path:
            assert siblings.all_gone_s() == math.inf
        path.unlink()
        assert 0 < siblings.all_gone_s() <= 2
        with instance(server, 2):
            assert siblings.all_gone_s() == math.inf
        assert 1.9 < siblings.all_gone_s() <= 2


async def test_a_directory_that_has_gone(directory: Path) -> None:
    """Nothing is seen in it, and nothing breaks."""
    path = directory / "d"
    path.mkdir()
    async with serving(str(path), "acme.com/gpu", NOTHING) as server:
        siblings = Siblings(server)
        Path(server.path).unlink()
        path.rmdir()
        assert siblings.all_gone_s() == math.inf
