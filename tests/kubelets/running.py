"""Commands of the build."""

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path


class BuildError(Exception):
    """A program cannot be built here: a sentence that says why and what to do."""


def say(name: str, what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {name} {what}", flush=True)


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None, quiet: bool = False) -> str:
    """Run a command to its end and give its output if it was `quiet`, that is: not shown.

    When this process is told to end, so is the command, before the folder that it works in goes.

    Raises:
        BuildError: The command cannot be run, or fails.
    """
    line = " ".join(map(str, command))
    output, errors = (subprocess.PIPE, subprocess.STDOUT) if quiet else (None, None)
    try:
        process = subprocess.Popen(command, cwd=cwd, env={**os.environ, **(env or {})}, stdout=output, stderr=errors)
    except FileNotFoundError as error:
        raise BuildError(f"{command[0]} is needed and not on the PATH") from error
    with process:
        try:
            said, _ = process.communicate()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    text = said.decode(errors="replace") if said else ""
    if process.returncode:
        raise BuildError(f"'{line}' failed with status {process.returncode}" + (f" and said:\n{text}" if text else ""))
    return text
