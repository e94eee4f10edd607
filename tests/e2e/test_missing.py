"""What is said where it cannot run."""

import os
import sys
from pathlib import Path

import pytest

from . import binaries, cgroups, debian, outside
from .__main__ import main
from .cgroups import Hierarchy
from .errors import MissingError


def test_another_system(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence and status 1, no traceback."""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert main([]) == 1
    assert "cannot run here: The node needs Linux" in capsys.readouterr().out


def test_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so before it builds for minutes."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingError, match="needs root"):
        outside.check_machine()


@pytest.mark.skipif(os.geteuid() != 0, reason="root is asked for first")
def test_a_cache_where_the_node_has_folders_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node could not see what is built there."""
    monkeypatch.setenv("DEVPLUGIN_CLUSTER", "/var/cache/devplugin")
    with pytest.raises(MissingError, match="/var/cache/devplugin is below /var"):
        outside.check_machine()


@pytest.mark.parametrize(
    ("mounted", "said"),
    [([], "No control groups are mounted"), ([Hierarchy(Path("/proc"), "cgroup", "")], "cannot be made")],
)
def test_no_control_groups(monkeypatch: pytest.MonkeyPatch, mounted: list[Hierarchy], said: str) -> None:
    """None mounted, or none to be made, as in an ordinary container."""
    monkeypatch.setattr(cgroups, "hierarchies", lambda: mounted)
    with pytest.raises(MissingError, match=said), cgroups.group():
        pytest.fail("a group was made")


def test_no_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Says which one to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=r"There is no Go here: install Go 1\.26 or later"):
        binaries.go_version()


def test_old_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Says which one is needed, and which one is there."""
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho go1.24.13\n")
    go.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=r"Go 1\.26 or later is needed.*this is go1\.24\.13"):
        binaries.go_version()


def test_packages_without_root_or_debian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What cannot be installed by itself is named, with its package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        MissingError, match=r"lacks /no/such\.h, frobnicate: install what Debian calls frob libnone-dev"
    ):
        debian.need({"frobnicate": "frob", "/no/such.h": "libnone-dev"})


def test_a_step_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """A slip of the pen is no empty play that passes."""
    assert main(["--only", "frobnicate"]) == 1
    assert "no step's name contains frobnicate; there are: start, two devices" in capsys.readouterr().out


def test_a_page_of_half_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    """The documentation is written by a whole run."""
    assert main(["--fast", "--write-docs"]) == 1
    assert "--write-docs goes with neither" in capsys.readouterr().out
