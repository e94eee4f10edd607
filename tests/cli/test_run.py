"""``devplugin run``: plugins on a kubelet's directory."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from devplugin.testing import FakeKubelet
from tests.cli.conftest import Run, Start

OTHER = """
from seats import Seats as Base

class Chairs(Base):
    resource_name = "example.com/chair"
"""


@pytest.mark.asyncio
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_serves_several_until_a_signal(folder: Path, start: Start, number: signal.Signals) -> None:
    """Both are registered; the end is status 0, and says so in the log, every call with --verbose."""
    (folder / "chairs.py").write_text(OTHER)
    async with FakeKubelet(folder / "k") as kubelet:
        with start("run", "seats.py", "chairs.py", "--kubelet-dir", "k", "-v") as process:
            await kubelet.allocatable("example.com/seat", 2)
            await kubelet.allocatable("example.com/chair", 2)
            process.send_signal(number)
            output, log = await asyncio.to_thread(process.communicate, timeout=20)
        assert (process.returncode, output) == (0, "")
        assert f"{number.name}: stopping" in log
        assert "DEBUG devplugin.service: DevicePlugin.get_device_plugin_options" in log


def test_a_plugin_that_cannot_go_on_is_status_one(folder: Path, start: Start) -> None:
    """With one line in the log that says why."""
    (folder / "broken.py").write_text((folder / "seats.py").read_text().replace("example.com/seat", "seat"))
    with start("run", "broken.py") as process:
        output, log = process.communicate(timeout=20)
    assert (process.returncode, output) == (1, "")
    assert "CRITICAL devplugin.run: resource name 'seat' is not usable" in log


def test_a_log_for_programs(folder: Path, start: Start) -> None:
    """A document on each line, with the details, and the traceback where there is one."""
    text = (folder / "seats.py").read_text()
    (folder / "broken.py").write_text(
        text.replace("        yield [", "        raise OSError('no seats')\n        yield [")
    )
    with start("run", "broken.py", "--kubelet-dir", ".", "--output", "json") as process:
        output, log = process.communicate(timeout=20)
    assert (process.returncode, output) == (1, "")
    lines = [json.loads(line) for line in log.splitlines()]
    assert {"time", "level", "logger", "message"} <= lines[0].keys()
    assert lines[-1]["level"] == "CRITICAL"
    assert lines[-1]["error"].endswith("OSError: no seats")


def test_two_of_one_resource(run: Run) -> None:
    """Wrongly used: status 2."""
    result = run("run", "seats.py", "seats.py:Seats")
    assert result.exit_code == 2
    assert "two plugins for the resource 'example.com/seat'" in result.stderr


def test_a_directory_that_is_a_file(run: Run) -> None:
    """Wrongly used: status 2."""
    assert run("run", "seats.py", "--kubelet-dir", "seats.py").exit_code == 2
