"""The images: pause, which holds a pod's namespaces; Debian's nginx; the sample plugin on Debian's Python."""

import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from . import debian, oci
from .artifacts import Artifact, files_below, key_of
from .binaries import GO
from .errors import MissingError
from .paths import HERE, ROOT

PASSWD = """root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
GROUP = "root:x:0:\nadm:x:4:\nwww-data:x:33:\nnogroup:x:65534:\n"

PAUSE = "local/pause"
NGINX = "library/nginx"
PLUGIN = "local/sample-device-plugin"


def artifacts(cache: Path) -> list[Artifact]:
    """What `images/` of the cache holds, each by the name that a registry serves it by."""
    recipes = key_of(HERE / "images.py", HERE / "oci.py", HERE / "debian.py", platform.freedesktop_os_release())
    project = [ROOT / "pyproject.toml", ROOT / "README.md", *files_below(ROOT / "devplugin", ROOT / "examples")]
    pause = GO / "pause" / "main.go"
    return [
        _artifact(PAUSE, key_of(recipes, pause), lambda target, root: _pause(cache / "bin" / "pause", target, root)),
        _artifact(NGINX, recipes, _nginx),
        _artifact(PLUGIN, key_of(recipes, *project), _plugin),
    ]


def _artifact(name: str, key: str, write: Callable[[Path, Path], None]) -> Artifact:
    def make(target: Path) -> None:
        root = target.with_name("root")
        root.mkdir()
        write(target, root)

    return Artifact(path=f"images/{name}", key=key, make=make)


def _pause(program: Path, target: Path, root: Path) -> None:
    shutil.copy2(program, root / "pause")
    oci.write(target, root, entrypoint=["/pause"])


def _nginx(target: Path, root: Path) -> None:
    _debian(root, "nginx", "busybox-static")
    enabled = root / "etc/nginx/sites-enabled/default"  # what the package's maintainer's scripts would do
    enabled.unlink(missing_ok=True)
    enabled.symlink_to("/etc/nginx/sites-available/default")
    shutil.copytree(root / "usr/share/nginx/html", root / "var/www/html", dirs_exist_ok=True)
    for log, stream in (("access.log", "/dev/stdout"), ("error.log", "/dev/stderr")):
        (root / "var/log/nginx" / log).symlink_to(stream)
    (root / "run").mkdir(exist_ok=True)
    oci.write(target, root, entrypoint=["nginx", "-g", "daemon off;"], StopSignal="SIGQUIT")


def _plugin(target: Path, root: Path) -> None:
    _debian(root, "python3")
    python = next(path.name for path in (root / "usr/bin").iterdir() if path.name.startswith("python3."))
    with tempfile.TemporaryDirectory(dir=target.parent) as wheels:
        _pip("wheel", "--no-deps", "--wheel-dir", wheels, str(ROOT))
        wheel = next(Path(wheels).glob("*.whl"))
        for_it = ["--python-version", python.removeprefix("python"), "--only-binary", ":all:", "--no-compile"]
        _pip("install", "--target", str(root / "usr/lib/python3/dist-packages"), *for_it, str(wheel))
    shutil.copytree(ROOT / "examples", root / "app" / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    command = ["python3", "-m", "examples.sample_device"]
    oci.write(target, root, entrypoint=command, WorkingDir="/app")


def _debian(root: Path, *packages: str) -> None:
    debian.unpack(packages, root, root.with_name("downloads"))
    for name, content in (("passwd", PASSWD), ("group", GROUP)):
        (root / "etc" / name).write_text(content)
    busybox = root / "bin" / "busybox"
    if not busybox.exists():
        return
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in listed:
        if not any((root / folder / applet).exists() for folder in ("usr/bin", "usr/sbin")):
            (root / "bin" / applet).symlink_to("busybox")


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MissingError(f"'{' '.join(command)}' failed: {done.stderr.strip()[-2000:]}")
