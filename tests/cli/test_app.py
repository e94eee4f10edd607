"""The command as a whole: its help, what it needs, and what it costs."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

import devplugin.cli
from devplugin.cli import _app
from tests.cli.conftest import Run, argv, environment


@pytest.mark.parametrize("name", _app.COMMANDS)
def test_each_subcommand_has_help_with_an_example_and_its_exit_status(run: Run, name: str) -> None:
    """The example can be copied; the list of subcommands says what its own help says first."""
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"  devplugin {name} " in result.output or f"  devplugin {name}\n" in result.output
    assert "Example" in result.output
    assert "status" in result.output


def test_the_help_lists_the_subcommands(run: Run) -> None:
    """In the order in which an author needs them."""
    result = run("--help")
    assert result.exit_code == 0
    assert [result.output.index(f"  {name} ") for name in _app.COMMANDS] == sorted(
        result.output.index(f"  {name} ") for name in _app.COMMANDS
    )
    assert "Exit status: 0 good, 1" in result.output


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["run"], ["list"], ["--nonsense"], ["try", "seats.py", "--allocate", "0"]]
)
def test_wrong_use_is_status_two(run: Run, arguments: list[str]) -> None:
    """With a sentence on standard error, and nothing on standard output."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


def test_the_version(run: Run) -> None:
    """That of the package."""
    assert run("--version").output == "devplugin 0.1.0\n"


def test_the_help_needs_no_subcommand() -> None:
    """What the subcommands import is not imported for it, nor is what they are shown with."""
    code = "import sys; from devplugin.cli import main\ntry: main()\nexcept SystemExit: print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    assert "devplugin.cli._app" in modules
    heavy = ("rich", "yaml", "betterproto2", "devplugin.testing", "devplugin.cli._try", "devplugin.podresources")
    assert [name for name in modules if name.startswith(heavy)] == []


def test_without_its_extra_it_says_how_to_install_it() -> None:
    """One sentence, status 2, no traceback."""
    code = """
import sys
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in ("click", "yaml") else found(name)
from devplugin.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "The command devplugin needs click and pyyaml too, which come with its extra: pip install 'devplugin[cli]'\n"
    )


def test_it_runs_as_a_module(folder: Path) -> None:
    """``python -m devplugin`` is the command, under its name."""
    done = subprocess.run(argv("-h"), capture_output=True, text=True, check=True, cwd=folder, env=environment())
    assert done.stdout.startswith("Usage: devplugin [OPTIONS] COMMAND")


def test_an_interrupt_before_the_command_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while it is imported: no traceback either."""

    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    with pytest.raises(SystemExit) as caught:
        devplugin.cli.main()
    assert caught.value.code == 130


def test_the_group_knows_its_subcommands() -> None:
    """For tools that ask click."""
    assert isinstance(_app.command, click.Group)
    assert _app.command.list_commands(click.Context(_app.command)) == [*_app.COMMANDS]


def test_its_public_name() -> None:
    """Only the entry point."""
    assert devplugin.cli.__all__ == ["main"]


class Bash(ShellComplete):
    name = "bash"
    source_template = ""


def completions(arguments: list[str], incomplete: str) -> list[tuple[str, str]]:
    shell = Bash(_app.command, {}, "devplugin", "_DEVPLUGIN_COMPLETE")
    return [(item.type, item.value) for item in shell.get_completions(arguments, incomplete)]


def test_completion_of_subcommands_options_and_files() -> None:
    """Subcommands without importing them, and files for a plugin, which is not imported either."""
    assert completions([], "ma") == [("plain", "manifest")]
    assert ("plain", "--version") in completions([], "--")
    assert completions(["manifest"], "no/such/fi") == [("file", "no/such/fi")]
    assert completions(["list", "x", "--output"], "j") == [("plain", "json")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    """The command writes what the documentation tells to install."""
    if shell == "bash" and not os.path.exists("/bin/bash"):  # noqa: PTH110
        pytest.skip("click asks bash for its version")
    done = subprocess.run(
        [sys.executable, "-m", "devplugin"],
        env=environment(_DEVPLUGIN_COMPLETE=f"{shell}_source"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_DEVPLUGIN_COMPLETE" in done.stdout


def test_an_interrupt_is_no_failure_of_its_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C wherever nobody else takes it: the status of a shell."""
    module = importlib.import_module("devplugin.cli._manifest")

    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "load_plugin", interrupted)
    assert isinstance(_app.command, click.Group)
    assert run("manifest", "seats.py", "--image", "x").exit_code == 130
