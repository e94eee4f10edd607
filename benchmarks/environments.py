"""What the benchmarks run: Python environments that have only what a plugin needs, and the programs in Go.

Everything is kept in a folder of the user's cache, under names with a hash of what it is made of: what is there is up to
date. Standard library only, since this runs before anything is installed.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.kubelets import build as kubelets
from tests.kubelets.running import BuildError

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
PLUGINS = HERE / "plugins"
PROTO = ROOT / "devplugin" / "_proto" / "deviceplugin_v1beta1.proto"

_GRPCIO = "grpcio>=1.75"
_UNUSED_S = 14 * 24 * 3600
_TOOLS = ("pip>=25.1", "grpcio-tools>=1.75", "matplotlib>=3.10")


class NotToBeHad(Exception):
    """Something cannot be made here: a sentence that says what and why."""


def directory() -> Path:
    """Where everything is kept: `DEVPLUGIN_BENCHMARKS`, or a folder in the user's cache."""
    if chosen := os.environ.get("DEVPLUGIN_BENCHMARKS"):
        return Path(chosen).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache).absolute() / "devplugin" / "benchmarks"


def tools() -> Path:
    """The Python with which the others are made, protobuf files are compiled and plots are drawn."""
    with _made("tools", _TOOLS) as (path, missing):
        if missing:
            _run(sys.executable, "-m", "venv", path)
            _pip(path / "bin" / "python", path, "install", "--upgrade", *_TOOLS)
    return path / "bin" / "python"


def devplugin(extra: str = "") -> Path:
    """The Python of a user who has installed devplugin, with an extra or without."""
    wheel = _wheel()
    wanted = f"{wheel}[{extra}]" if extra else str(wheel)
    return _environment(f"devplugin{extra and '-'}{extra}", [wanted], [wheel.read_bytes()])


def grpcio() -> Path:
    """The Python of a user of grpcio, with the messages that its compiler generates for the API."""
    maker = tools()
    with _made("grpcio", [_GRPCIO, PROTO.read_text()]) as (path, missing):
        if missing:
            _environment_in(path, [_GRPCIO, "protobuf"])
            packages = next(path.glob("lib/python3*/site-packages"))
            outputs = (f"--python_out={packages}", f"--grpc_python_out={packages}")
            _run(maker, "-m", "grpc_tools.protoc", f"--proto_path={PROTO.parent}", *outputs, PROTO.name)
            _run(path / "bin" / "python", "-m", "compileall", "-q", packages)
    return path / "bin" / "python"


def floor() -> Path:
    """A Python with nothing installed."""
    return _environment("floor", [], [])


def kubelet() -> Path:
    """The kubelet's side of the measurements."""
    sources = sorted(HERE.glob("kubelet/*"))
    with _made("kubelet", [source.read_bytes() for source in sources]) as (path, missing):
        if missing:
            if not shutil.which("go"):
                raise NotToBeHad(
                    "the kubelet's side is a Go program, and there is no 'go' on the PATH (go.dev/doc/install)"
                )
            path.mkdir()
            _run("go", "build", "-mod=readonly", "-trimpath", "-o", path / "kubelet", ".", cwd=HERE / "kubelet")
    return path / "kubelet"


def go_sample() -> Path:
    """Kubernetes' own sample plugin."""
    try:
        return kubelets.build(kubelets.SAMPLE)
    except BuildError as error:
        raise NotToBeHad(f"Kubernetes' own sample plugin cannot be built: {error}") from error


def versions(python: Path) -> dict[str, str]:
    """The packages of an environment."""
    found = python.parent.parent.glob("lib/python3*/site-packages/*.dist-info")
    pairs = (path.name.removesuffix(".dist-info").rpartition("-")[::2] for path in found)
    return {name: version for name, version in sorted(pairs) if name != "pip"}


def _wheel() -> Path:
    """The package as it would be published, of the files as they are now."""
    maker = tools()
    files = [
        ROOT / "pyproject.toml",
        *sorted(ROOT.glob("devplugin/**/*.py")),
        *sorted(ROOT.glob("devplugin/**/*.proto")),
    ]
    with _made("wheel", [file.read_bytes() for file in files]) as (path, missing):
        if missing:
            _pip(maker, path, "wheel", "--no-deps", "--wheel-dir", path, ROOT)
    return next(path.glob("*.whl"))


def _environment(name: str, packages: Sequence[str], inputs: Sequence[bytes]) -> Path:
    tools()
    with _made(name, [*packages, *inputs]) as (path, missing):
        if missing:
            _environment_in(path, packages)
    return path / "bin" / "python"


def _environment_in(path: Path, packages: Sequence[str]) -> None:
    """A virtual environment with neither pip nor setuptools: whose .pth file costs every start milliseconds."""
    _run(sys.executable, "-m", "venv", "--without-pip", path)
    if packages:
        _pip(tools(), path, "--python", path / "bin" / "python", "install", *packages)


def _pip(python: Path, purpose: Path, *arguments: str | Path) -> None:
    print(f"making {purpose}", flush=True)
    _run(python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


@contextlib.contextmanager
def _made(name: str, inputs: Sequence[str | bytes]) -> Iterator[tuple[Path, bool]]:
    """The folder for these inputs, and whether it must be made. What an earlier attempt has left in it is removed."""
    digest = hashlib.sha256(sys.version.encode())
    for each in inputs:
        digest.update(each if isinstance(each, bytes) else each.encode())
    path = directory() / f"{name}-{sys.version_info.major}.{sys.version_info.minor}-{digest.hexdigest()[:12]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    finished = path / ".finished"
    with (directory() / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = not finished.exists()
        if missing and path.exists():
            shutil.rmtree(path)
        yield path, missing
        finished.touch()  # in use
        if missing:
            _remove_unused()


def _remove_unused() -> None:
    """Remove what no run has used for two weeks. Younger ones may be those of another Python or another checkout."""
    for finished in directory().glob("*/.finished"):
        if time.time() - finished.stat().st_mtime > _UNUSED_S:
            shutil.rmtree(finished.parent)


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    try:
        subprocess.run(command, check=True, cwd=cwd)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotToBeHad(f"a command failed: {error}") from error
