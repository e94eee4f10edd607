"""The build, with a stand-in for Go: what it builds when, and what it leaves when it is stopped."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

BUILD = Path(__file__).parent / "build"
# Takes the place of `go`: writes half of the program, then waits until the file "go on" is there.
GO = """#!/bin/sh
case $1 in env) printf '%s\\n' "${GO_VERSION:-go1.99.1}" local; exit;; esac
while [ "$1" != -o ]; do shift; done
echo built >>"$STAND/builds"
echo half >"$2"
while [ ! -e "$STAND/go on" ]; do sleep 0.01; done
echo whole >"$2"
"""


@pytest.fixture
def stand(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    go = tmp_path / "bin" / "go"
    go.write_text(GO)
    go.chmod(0o755)
    return tmp_path


class Build:
    """One run of the build, its output in a file."""

    def __init__(self, stand: Path, *arguments: str, **environ: str) -> None:
        self._output = stand / f"output-{len(list(stand.iterdir()))}"
        path = f"{stand / 'bin'}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "STAND": str(stand), "DEVPLUGIN_KUBELETS": str(stand / "out"), **environ}
        with self._output.open("w") as file:
            self.process = subprocess.Popen([BUILD, *arguments], env=env, stdout=file, stderr=subprocess.STDOUT)

    def said(self) -> str:
        return self._output.read_text()

    def end(self) -> tuple[int, str]:
        return self.process.wait(), self.said()


def wait_for(condition: Callable[[], object], timeout_s: float = 30) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "in vain"
        time.sleep(0.01)  # of another process' files, which send no event


def programs(stand: Path) -> list[Path]:
    return [path for path in (stand / "out").iterdir() if not path.name.endswith(".lock")]


def test_two_builds_at_once_build_once(stand: Path) -> None:
    """The second waits, says so, and finds what the first made; a third finds it too."""
    first = Build(stand, "1.36")
    wait_for((stand / "builds").exists)
    second = Build(stand, "1.36")
    wait_for(lambda: "being built by another process" in second.said())
    (stand / "go on").touch()
    assert "was built in" in first.end()[1]
    assert "is there: " in second.end()[1]
    assert "is there: " in Build(stand, "1.36").end()[1]
    (program,) = programs(stand)
    assert program.read_text() == "whole\n"
    assert (stand / "builds").read_text() == "built\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_build_that_is_stopped_leaves_no_half(stand: Path, number: signal.Signals) -> None:
    """Stopped in the middle, it leaves nothing; killed, it leaves what the next one clears."""
    build = Build(stand, "1.36")
    wait_for(lambda: list((stand / "out").glob(".1.36.part-*/program")) if (stand / "out").exists() else None)
    build.process.send_signal(number)
    build.end()
    if number != signal.SIGKILL:
        assert programs(stand) == []
    (stand / "go on").touch()
    assert Build(stand, "1.36").end()[0] == 0
    (program,) = programs(stand)
    assert program.read_text() == "whole\n"


def test_it_builds_again_when_its_inputs_change(tmp_path: Path) -> None:
    """A changed source is another path, for the versions that it is a source of; a changed go.sum for its version."""
    copy = tmp_path / "tests" / "kubelets"
    shutil.copytree(BUILD.parent, copy)

    def paths() -> list[str]:
        return subprocess.run([copy / "build", "--path"], check=True, capture_output=True, text=True).stdout.split()

    before = paths()
    with (copy / "devicemanager" / "main.go").open("a") as file:
        file.write("\n")
    changed = [old != new for old, new in zip(before, paths(), strict=True)]
    assert changed == [True] * 5 + [False]
    before = paths()
    with (copy / "1.34" / "go.sum").open("a") as file:
        file.write("\n")
    assert [old != new for old, new in zip(before, paths(), strict=True)] == [False, True, False, False, False, False]


def test_what_is_missing_is_said(stand: Path) -> None:
    """An old Go, no Go, an unknown name: a sentence each and a status."""
    status, said = Build(stand, "1.36", GO_VERSION="go1.19.8").end()
    assert (status, "Go 1.26 or newer is needed, this is go1.19.8" in said) == (1, True)
    (stand / "bin" / "go").unlink()
    for tool in ("sh", "dirname"):
        (stand / "bin" / tool).symlink_to(os.path.realpath(str(shutil.which(tool))))
    status, said = Build(stand, "1.36", PATH=str(stand / "bin"), PYTHON=sys.executable).end()
    assert (status, "there is no 'go' on the PATH" in said) == (1, True)
    status, said = Build(stand, "1.99").end()
    assert (status, "there is no '1.99': the names are 1.20, 1.34" in said) == (2, True)
