"""What is built once and kept."""

import subprocess
import sys
from pathlib import Path

import pytest

from . import artifacts
from .artifacts import Artifact, ensure, key_of


class Recipe:
    """Makes a file that says how often it was made."""

    def __init__(self, *, fails: bool = False) -> None:
        self.made = 0
        self.fails = fails

    def __call__(self, path: Path) -> None:
        self.made += 1
        path.write_text(f"{self.made}")
        if self.fails:
            raise OSError("no space left")

    def artifact(self, key: str) -> Artifact:
        return Artifact(path="bin/thing", key=key, make=self)


def test_is_made_once_and_again_only_when_its_inputs_change(tmp_path: Path) -> None:
    """The same key: nothing to do. Another key: made again."""
    recipe = Recipe()
    for key in ("one", "one", "two", "two"):
        ensure([recipe.artifact(key)], tmp_path)
    assert (tmp_path / "bin" / "thing").read_text() == "2"


def test_what_fails_leaves_the_old_one_and_counts_as_missing(tmp_path: Path) -> None:
    """A build that fails half-way through is no build."""
    ensure([Recipe().artifact("one")], tmp_path)
    with pytest.raises(OSError, match="no space left"):
        ensure([Recipe(fails=True).artifact("two")], tmp_path)
    assert (tmp_path / "bin" / "thing").read_text() == "1"
    after = Recipe()
    ensure([after.artifact("two")], tmp_path)
    assert after.made == 1
    assert not (tmp_path / "work").exists()


def test_one_that_was_removed_is_made_again(tmp_path: Path) -> None:
    """The key's file alone does not count."""
    recipe = Recipe()
    ensure([recipe.artifact("one")], tmp_path)
    (tmp_path / "bin" / "thing").unlink()
    ensure([recipe.artifact("one")], tmp_path)
    assert recipe.made == 2


def test_waits_for_a_build_that_is_under_way_and_takes_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once: the second says that it waits for the lock, and finds everything there."""
    holder = f"""
import fcntl, pathlib, sys
folder = pathlib.Path({str(tmp_path)!r})
lock = open(folder / "lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
for name, content in (("bin/thing", "theirs"), ("keys/bin_thing", "one")):
    (folder / name).parent.mkdir()
    (folder / name).write_text(content)
"""
    recipe = Recipe()
    said: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        let_go = other.stdin.close

        def say(text: str) -> None:
            said.append(text)
            let_go()

        monkeypatch.setattr(artifacts, "say", say)
        ensure([recipe.artifact("one")], tmp_path)
    assert said == [f"another build holds {tmp_path / 'lock'}; waiting for it …"]
    assert recipe.made == 0
    assert (tmp_path / "bin" / "thing").read_text() == "theirs"


def test_keys_tell_files_by_content_and_parts_apart(tmp_path: Path) -> None:
    """`ab` + `c` is not `a` + `bc`; a path counts by what is in the file."""
    file = tmp_path / "file"
    file.write_text("x")
    before = key_of(file, "ab", "c")
    assert before != key_of(file, "a", "bc")
    file.write_text("y")
    assert before != key_of(file, "ab", "c")
