"""Plays a page of the documentation in an empty folder, block by block, as its reader would.

Rules, by the language of a block. A caption (in the README, which is not built: the comment ``<!-- file: … -->`` above it)
makes it a file of the folder; ``(added)`` adds it to that file. Python without a caption is a program that is run. A console
block's commands are run, and what they print is held against the lines below them, where ``...`` stands for anything; ``^C``
interrupts the command when the lines before it have come. What cannot be run here is listed below with the reason.
"""

import importlib
import re
import shlex
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.conftest import unmeasured

ROOT = Path(__file__).parent.parent
KUBELET_DIRECTORY = "/var/lib/kubelet/device-plugins"

# The beginning of a command, and why it is not run.
NOT_RUN = {
    "mkdir ": "the folder is made",
    "cd ": "the folder is made",
    "python3 -m venv ": "the tests run where everything is installed",
    ". .venv/": "the tests run where everything is installed",
    "pip install ": "the tests run where everything is installed",
    "pip wheel ": "the tests run where everything is installed",
    "docker ": "it needs a daemon",
    "kubectl ": "it needs a cluster",
    "crictl ": "it needs a node",
    "systemctl ": "it needs a node",
    "devplugin run ": "it needs a kubelet",
    "devplugin list ": "it needs a plugin that runs",
    "devplugin pods": "it needs a kubelet",
    "make ": "it takes minutes, and .ci/run makes them",
    "python -m examples.": "it needs a kubelet; what it does is tested with the sample",
}
_DIRECTIVES = {"eval-rst", "toctree"}
_LANGUAGES = {"python", "console", "yaml", "ini", "dockerfile", "text"}
_FENCE = re.compile(r"^[ :]*`{3,}(?P<opens>.+)$", re.MULTILINE)
_BLOCK = re.compile(
    r"^(?:<!-- file: (?P<file>\S+) -->\n)?```(?:\{code-block\} )?(?P<language>\w+)\n"
    r"(?::caption: (?P<caption>\S+)(?P<added> \(added\))?\n\n)?(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# Serves in the folder's own directory: the reader's machine may have a kubelet.
_PROGRAM = """
import runpy, sys
from devplugin import run
file, run.__kwdefaults__["kubelet_dir"] = sys.argv[1:]
runpy.run_path(file, run_name="__main__")
"""


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a page."""

    language: str
    file: str | None
    is_added: bool
    text: str


def pages() -> list[Path]:
    """All pages of the documentation, and the README."""
    docs = sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
    return [ROOT / "README.md", *docs]


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page's text, but for those that are Sphinx's own."""
    found = [
        Block(m["language"], m["file"] or m["caption"], m["added"] is not None, m["text"])
        for m in _BLOCK.finditer(page)
    ]
    fences = [m["opens"].strip() for m in _FENCE.finditer(page)]
    blocks = [opens for opens in fences if opens.strip("{}") not in _DIRECTIVES]
    assert len(found) == len(blocks), f"a block that is not understood among {blocks}"
    unknown = {block.language for block in found} - _LANGUAGES
    assert not unknown, f"blocks in {unknown}: say in {__name__} how they are checked"
    return found


def play(page: str, folder: Path) -> None:
    """Do what the page says, in this folder, and check that it happens."""
    for number, block in enumerate(blocks_of(page)):
        if block.file is not None:
            path = folder / block.file
            path.write_text(f"{path.read_text()}\n\n{block.text}" if block.is_added else block.text)
        elif block.language == "python":
            program = folder / f"program_{number}.py"
            program.write_text(block.text)
            _run([sys.executable, "-W", "error", program.name], folder)
        if block.language == "console":
            for command, expected in _commands(block.text):
                _play_command(command, expected, folder)
        if block.language == "yaml":
            assert importlib.import_module("yaml").safe_load(block.text), block.text


def check_types(folder: Path, cache: Path) -> None:
    """Hold what the page's reader has written so far against mypy at its strictest."""
    if any(folder.glob("*.py")):
        _run([sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), "."], folder)


def _commands(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with what it prints."""
    first, *parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert not first.strip(), f"a console block begins with a command: {text}"
    return [(command, expected) for command, _, expected in (part.partition("\n") for part in parts)]


def _play_command(command: str, expected: str, folder: Path) -> None:
    if any(command.startswith(beginning) for beginning in NOT_RUN):
        _check_without_running(command, folder)
        return
    words = shlex.split(command)
    if re.fullmatch(r"python \S+\.py", command):
        directory = folder / "device-plugins"
        argv = [sys.executable, "-c", _PROGRAM, words[1], str(directory)]
        seen = _run_until_interrupted(argv, folder, expected.replace(KUBELET_DIRECTORY, str(directory)))
    elif words[:3] == ["python", "-m", "pytest"]:
        seen = _run([sys.executable, *words[1:]], folder, may_fail=" failed" in expected)
    elif words[0] == "devplugin":
        seen = _run_devplugin(words[1:], folder)
    else:
        assert words[0] == "sed", f"say in {__name__} how this command is checked: {command}"
        seen = _run(words, folder)
    wanted = expected.replace("^C\n", "").replace(KUBELET_DIRECTORY, str(folder / "device-plugins"))
    seen = re.sub(r" +$", "", seen, flags=re.MULTILINE)  # of tables; nobody sees them
    assert _pattern(wanted).fullmatch(seen), f"{command} printed\n{seen}\nand not\n{wanted}"


def _run_devplugin(words: list[str], folder: Path) -> str:
    """Run the command ``devplugin``, which may end with 1 when a check finds something; ``> file`` at the end is done."""
    words, into = (words[:-2], words[-1]) if words[-2:-1] == [">"] else (words, None)
    seen = _run([sys.executable, "-m", "devplugin", *words], folder, may_fail=words[0] == "check")
    if into is None:
        return seen
    (folder / into).write_text(seen)
    return ""


def _check_without_running(command: str, folder: Path) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets, f"the Makefile has no target {words[1]}"
    if words[0] == "devplugin":
        known = _run([sys.executable, "-m", "devplugin", words[1], "--help"], ROOT)
        assert all(word in known for word in words if word.startswith("--")), f"{command}: an option is not known"
    for flag, file in pairwise(words):
        if words[0] == "kubectl" and flag == "-f":
            there = (folder / file).exists() or (ROOT / file).exists()
            assert there, f"{command}: neither does the page write {file}, nor is it in the repository"
        if flag == "-m" and file.startswith("examples."):
            used = [word for word in words if word.startswith("--")]
            known = _run([sys.executable, "-m", file, "--help"], ROOT)
            assert all(option in known for option in used), f"{command}: one of {used} is not among its options"


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in unmeasured().items() if not name.startswith(("PYTEST_", "GITHUB_"))}
    return kept | {
        "COLUMNS": "80",
        "NO_COLOR": "1",
        "PYTEST_ADDOPTS": "-p no:hypothesispytest",  # readers need not have it, and its import takes a second
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _run(argv: list[str], folder: Path, *, may_fail: bool = False) -> str:
    done = subprocess.run(
        argv,
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    assert may_fail or done.returncode == 0, f"{argv} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def _run_until_interrupted(argv: list[str], folder: Path, expected: str) -> str:
    """Run it and interrupt it where ``^C`` is; all that it printed."""
    before, interrupts, _ = expected.partition("^C\n")
    assert interrupts, f"a plugin runs until somebody interrupts it: {expected}"
    with subprocess.Popen(
        argv, cwd=folder, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as program:
        assert program.stdout is not None
        too_late = threading.Timer(30, program.kill)
        too_late.start()
        try:
            seen = ""
            while not _pattern(before).fullmatch(seen) and (line := program.stdout.readline()):
                seen += line
            program.send_signal(signal.SIGINT)
            seen += program.stdout.read()
        finally:
            too_late.cancel()
            program.kill()
    assert program.returncode == 0, f"{argv} ended with {program.returncode}:\n{seen}"
    return seen


def _pattern(expected: str) -> re.Pattern[str]:
    """``...`` alone on a line stands for any lines, within a line for anything in it."""
    lines = (
        r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"\n"
        for line in expected.splitlines()
    )
    return re.compile("".join(lines) + r"\n*")
