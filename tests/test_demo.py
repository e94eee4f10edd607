"""The demo tells the whole scenario, holds to it, and leaves nothing behind, however it ends."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import unmeasured

ROOT = Path(__file__).parents[1]


class Demo:
    """Runs the demo where all that it leaves behind is found: in a folder for temporary files, and by its PATH."""

    def __init__(self, temporary: Path) -> None:
        self.temporary = temporary
        self.mark = f"/{uuid.uuid4()}"
        self.process: subprocess.Popen[str] | None = None

    def start(self, path: str = os.environ["PATH"]) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "examples.sample_device.demo"],
            cwd=ROOT,
            env=unmeasured() | {"TMPDIR": str(self.temporary), "PATH": f"{path}:{self.mark}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self.process

    def processes(self) -> list[str]:
        """The command lines of all processes that descend from the demo; containers have its PATH and nothing else."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text().replace("\0", " "))
            except OSError:  # it has ended meanwhile, or is not ours
                continue
        return found

    def left_behind(self) -> list[str]:
        return self.processes() + [str(path) for path in self.temporary.iterdir()]


@pytest.fixture
def demo(directory: Path) -> Iterator[Demo]:
    demo = Demo(directory)
    yield demo
    if demo.process is not None:
        demo.process.kill()
        demo.process.communicate()


def test_everything_holds(demo: Demo) -> None:
    """All steps are told in plain text of 80 columns, each verdict is good, and the exit status says so."""
    began_s = time.monotonic()
    output, _ = demo.start().communicate(timeout=60)
    assert time.monotonic() - began_s < 30
    assert demo.process is not None
    assert demo.process.returncode == 0, output
    assert "FAILED" not in output
    assert output.count("\n   held:") == 9
    assert output.endswith("\nAll of it held.\n")
    assert [line for line in output.splitlines() if len(line) > 80] == []
    assert output.isascii()
    assert "\x1b" not in output
    assert output.count("SAMPLE_DEVICE") == 2
    assert [step for step in range(1, 8) if f"\n{step}. " in output] == [1, 2, 3, 4, 5, 6]
    assert demo.left_behind() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize(
    "moment",
    [
        "   $ python -m examples.sample_device ",
        "     plugin   | DevicePlugin.list_and_watch.send",
        "   $ kubectl exec",
        "   $ crictl stop",
        "   $ systemctl",
    ],
)
def test_interrupted_at_any_moment(demo: Demo, moment: str, number: signal.Signals) -> None:
    """A signal ends it with that signal's status, and no process, socket or folder stays."""
    process = demo.start()
    assert process.stdout is not None
    told = []
    for line in process.stdout:
        told.append(line)
        if line.startswith(moment):
            break
    else:
        pytest.fail(f"{moment!r} was never told: {''.join(told)}")
    process.send_signal(number)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number, rest
    assert "Traceback" not in rest
    assert demo.left_behind() == []


def test_what_does_not_hold_is_told(demo: Demo) -> None:
    """Where a container cannot be started, the demo says what it saw instead, and its exit status is 1."""
    output, _ = demo.start(path="/nowhere").communicate(timeout=60)
    assert demo.process is not None
    assert demo.process.returncode == 1
    assert "FAILED: It came to an end here. ConditionNotMet: The pod 'demo-dp' was" in output
    assert output.endswith("\n1 of it did not hold.\n")
    assert demo.left_behind() == []
