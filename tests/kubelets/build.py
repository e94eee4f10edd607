"""Build the kubelets' device managers as small programs, and Kubernetes' own sample plugin.

A program's file name carries a hash of its inputs: what is there is up to date, two checkouts do not disturb each
other, and an interrupted build leaves nothing that looks finished. Builds of one program wait for each other.
Standard library only, since this runs before anything is installed.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from . import debian, gomodule
from .running import BuildError, say

HERE = Path(__file__).resolve().parent
MODULES = ("1.34", "1.35", "1.36", "1.37")  # each with a go.mod and a go.sum here
DEBIAN = "1.20"
VERSIONS = (DEBIAN, *MODULES)
SAMPLE = "sample-device-plugin"
SAMPLE_VERSION = "1.36"  # the version of Kubernetes whose sample it is
NAMES = (*VERSIONS, SAMPLE)
OUTDATED_S = 14 * 24 * 3600  # a program of other inputs goes when it has not been used for two weeks


def directory() -> Path:
    """Where the programs are kept: `DEVPLUGIN_KUBELETS`, or a folder in the user's cache."""
    if chosen := os.environ.get("DEVPLUGIN_KUBELETS"):
        return Path(chosen).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache).absolute() / "devplugin" / "kubelets"


def binary(name: str) -> Path:
    """The path of a program, built or not; its name is a minor version of Kubernetes or `sample-device-plugin`."""
    return directory() / f"{_prefix(name)}{_inputs(name)[:12]}"


def _prefix(name: str) -> str:
    return f"{name}-" if name == SAMPLE else f"device-manager-{name}-"


def _inputs(name: str) -> str:
    """A hash of what the program is made of."""
    recipe = "debian.py" if name == DEBIAN else "gomodule.py"
    files = [HERE / recipe]
    if name != SAMPLE:
        files += sorted((HERE / "devicemanager").iterdir())
    if name != DEBIAN:
        version = SAMPLE_VERSION if name == SAMPLE else name
        files += [HERE / version / "go.mod", HERE / version / "go.sum"]
    digest = hashlib.sha256(name.encode())
    for file in files:
        content = file.read_bytes()
        digest.update(f"\n{file.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def build(name: str) -> Path:
    """Build a program unless it is there, and give its path.

    Raises:
        BuildError: It cannot be built here.
    """
    path = binary(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(name):
        if path.exists():
            path.touch()  # in use
            say(name, f"is there: {path}")
            return path
        started_s = time.monotonic()
        with _scratch(name) as scratch:
            out = scratch / "program"
            if name == DEBIAN:
                debian.build(name, directory() / f"debian-{debian.SUITE}", out)
            elif name == SAMPLE:
                gomodule.build(name, SAMPLE_VERSION, gomodule.SAMPLE, out)
            else:
                gomodule.build(name, name, gomodule.DRIVER, out)
            out.replace(path)
        say(name, f"was built in {time.monotonic() - started_s:.0f} s: {path}")
        for other in path.parent.glob(f"{_prefix(name)}*"):
            if time.time() - other.stat().st_mtime > OUTDATED_S:
                other.unlink()
    return path


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    with (directory() / f".{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(name, "is being built by another process: waiting for that")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _scratch(name: str) -> Iterator[Path]:
    """A folder beside the programs, gone afterwards; what a killed build left goes first, as the lock is held."""
    for left in directory().glob(f".{name}.part-*"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=f".{name}.part-", dir=directory()) as scratch:
        yield Path(scratch)


def main() -> int:
    parser = argparse.ArgumentParser(prog="build", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"what to build, of {', '.join(NAMES)}: all if none is named"
    )
    parser.add_argument("--path", action="store_true", help="only print the paths, built or not")
    arguments = parser.parse_args()
    names = arguments.names or NAMES
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"there is no {unknown[0]!r}: the names are {', '.join(NAMES)}")
    if arguments.path:
        print(*map(binary, names), sep="\n")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # an exit that clears up
    failed = False
    for name in names:
        try:
            build(name)
        except BuildError as error:
            failed = True  # the others may be had all the same
            print(f"build: {name} is missing: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print("build: interrupted", file=sys.stderr)
            return 128 + signal.SIGINT
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
