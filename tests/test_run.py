"""run(): processes of their own, ended by signals and by errors, with what they print."""

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from devplugin import ConfigurationError, Device, DevicePluginBase, run
from tests.grpcio_kubelet import grpcio_kubelet

PLUGINS = """
import asyncio, logging, sys
from devplugin import Allocation, Device, DevicePluginBase, run

class Widgets(DevicePluginBase):
    resource_name = "acme.com/widget"
    async def devices(self):
        yield [Device("a")]

class Gadgets(Widgets):
    resource_name = "acme.com/gadget"

class Broken(Widgets):
    resource_name = "acme.com/broken"
    async def devices(self):
        yield [Device("a")]
        raise OSError("the bus is gone")

class Stuck(Widgets):
    async def devices(self):
        try:
            yield [Device("a")]
            await asyncio.Event().wait()
        finally:
            print("tearing down", flush=True)
            await asyncio.sleep(60)

class Misnamed(Widgets):
    resource_name = "widget"

"""


@asynccontextmanager
async def process(directory: Path, call: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python process with the plugins above that runs ``call``; ``DIR`` in it is the directory."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PLUGINS + call.replace("DIR", repr(str(directory))),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def ended(child: asyncio.subprocess.Process) -> tuple[int, str]:
    _, errors = await asyncio.wait_for(child.communicate(), 30)
    assert child.returncode is not None
    return child.returncode, errors.decode()


@pytest.mark.asyncio
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_end_it_cleanly(directory: Path, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end all plugins in order, with status 0 and nothing left behind."""
    async with (
        grpcio_kubelet(directory) as kubelet,
        process(directory, "run(Widgets(), Gadgets(), kubelet_dir=DIR)") as child,
    ):
        await kubelet.until(lambda k: len(k.lists) == 2, 30)
        child.send_signal(number)
        status, errors = await ended(child)
        assert status == 0, errors
        assert f"INFO devplugin.run: {number.name}: stopping" in errors
        assert [path.name for path in directory.iterdir()] == ["kubelet.sock"]
        assert "INFO devplugin.session: Registration.register resource=acme.com/widget socket=" in errors
        assert "DEBUG" not in errors


@pytest.mark.asyncio
async def test_a_second_signal_ends_it_at_once(directory: Path) -> None:
    """Whoever is in a hurry sends the signal twice."""
    async with grpcio_kubelet(directory) as kubelet, process(directory, "run(Stuck(), kubelet_dir=DIR)") as child:
        await kubelet.until(lambda k: k.lists, 30)
        child.send_signal(signal.SIGTERM)
        assert child.stdout is not None
        assert await child.stdout.readline() == b"tearing down\n"
        child.send_signal(signal.SIGTERM)
        assert (await ended(child))[0] == -signal.SIGTERM


@pytest.mark.asyncio
async def test_an_expected_error_is_one_line(directory: Path) -> None:
    """What devplugin itself refuses is said in a line, without a traceback, and the status is 1."""
    async with process(directory, "run(Misnamed(), kubelet_dir=DIR)") as child:
        status, errors = await ended(child)
    assert status == 1
    (line,) = errors.splitlines()
    assert "CRITICAL devplugin.run: resource name 'widget' is not usable" in line


@pytest.mark.asyncio
async def test_an_error_of_the_author_has_its_traceback(directory: Path) -> None:
    """One plugin that fails ends the others cleanly; its error is named, and its place shown."""
    async with (
        grpcio_kubelet(directory) as kubelet,
        process(directory, "run(Widgets(), Broken(), kubelet_dir=DIR)") as child,
    ):
        status, errors = await ended(child)
        assert status == 1
        assert "CRITICAL devplugin.run: OSError('the bus is gone')" in errors
        assert "in devices" in errors
        assert [path.name for path in directory.iterdir()] == ["kubelet.sock"]
        assert kubelet.requests is not None


@pytest.mark.asyncio
async def test_logging_that_is_set_up_is_left_alone(directory: Path) -> None:
    """Whoever configures logging decides."""
    async with (
        grpcio_kubelet(directory) as kubelet,
        process(
            directory,
            "logging.basicConfig(format='mine %(message)s'); logging.getLogger('devplugin').setLevel(10)\n"
            "run(Widgets(), kubelet_dir=DIR)",
        ) as child,
    ):
        await kubelet.until(lambda k: k.lists, 30)
        child.terminate()
        _, errors = await ended(child)
    assert errors.splitlines()[:6] == [
        "mine Starting to listen",
        "mine Registration.register",
        "mine DevicePlugin.get_device_plugin_options",
        "mine DevicePlugin.list_and_watch",
        "mine DevicePlugin.list_and_watch.start",
        "mine DevicePlugin.list_and_watch.send",
    ]


@pytest.mark.asyncio
async def test_a_level_that_is_set_is_left_alone(directory: Path) -> None:
    """Without a handler somewhere run() brings one, and keeps the level that was asked for."""
    async with (
        grpcio_kubelet(directory) as kubelet,
        process(directory, "logging.getLogger('devplugin').setLevel(10); run(Widgets(), kubelet_dir=DIR)") as child,
    ):
        await kubelet.until(lambda k: k.lists, 30)
        child.terminate()
        _, errors = await ended(child)
    assert "DEBUG devplugin.service: DevicePlugin.list_and_watch.send resource=acme.com/widget devices=1" in errors


class Widgets(DevicePluginBase):
    resource_name = "acme.com/widget"

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield []


def test_calls_that_make_no_sense() -> None:
    """No plugin, two for one resource, and a thread without signals are refused."""
    with pytest.raises(ConfigurationError, match="at least one plugin"):
        run()
    with pytest.raises(ConfigurationError, match=r"Widgets'> is none: is a pair of brackets missing\?"):
        run(Widgets)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="two plugins for the resource"):
        run(Widgets(), Widgets())
    caught: list[BaseException] = []

    def elsewhere() -> None:
        try:
            run(Widgets())
        except ConfigurationError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "needs the main thread" in str(caught[0])
