"""The images: pause, which holds a pod's namespaces; Debian's nginx; the sample plugin on Debian's Python."""

import platform
import re
import shutil
import subprocess
import sys
import tarfile
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

PYTHON = re.compile(r"usr/bin/python(3\.\d+)$")

PAUSE = "local/pause"
NGINX = "library/nginx"
PLUGIN = "local/sample-device-plugin"


def artifacts(cache: Path) -> list[Artifact]:
    """What `layers/` and `images/` of the cache hold; images by the name that a registry serves them by."""
    recipes = key_of(HERE / "images.py", HERE / "oci.py", HERE / "debian.py", platform.freedesktop_os_release())
    project = [ROOT / "pyproject.toml", ROOT / "README.md", *files_below(ROOT / "devplugin", ROOT / "examples")]
    python = cache / "layers" / "python"
    return [
        Artifact(path=f"images/{PAUSE}", key=key_of(recipes, GO / "pause" / "main.go"), make=_pause(cache / "bin")),
        Artifact(path=f"images/{NGINX}", key=recipes, make=_nginx),
        Artifact(path="layers/python", key=recipes, make=_python),
        Artifact(path=f"images/{PLUGIN}", key=key_of(recipes, *project), make=_plugin(python)),
    ]


def _pause(programs: Path) -> Callable[[Path], None]:
    def make(target: Path) -> None:
        root = _root(target)
        shutil.copy2(programs / "pause", root)
        oci.write(target, [oci.layer(root)], entrypoint=["/pause"])

    return make


def _nginx(target: Path) -> None:
    root = _root(target)
    _debian(root, "nginx", "busybox-static")
    busybox = root / "bin" / "busybox"
    for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if not any((root / folder / applet).exists() for folder in ("usr/bin", "usr/sbin")):
            (root / "bin" / applet).symlink_to("busybox")
    enabled = root / "etc/nginx/sites-enabled/default"  # from here on, what the package's maintainer's scripts would do
    enabled.unlink(missing_ok=True)
    enabled.symlink_to("/etc/nginx/sites-available/default")
    shutil.copytree(root / "usr/share/nginx/html", root / "var/www/html", dirs_exist_ok=True)
    for log, stream in (("access.log", "/dev/stdout"), ("error.log", "/dev/stderr")):
        (root / "var/log/nginx" / log).symlink_to(stream)
    (root / "run").mkdir(exist_ok=True)
    oci.write(target, [oci.layer(root)], entrypoint=["nginx", "-g", "daemon off;"], StopSignal="SIGQUIT")


def _python(target: Path) -> None:
    root = _root(target)
    _debian(root, "python3")
    target.write_bytes(oci.layer(root))


def _plugin(python: Path) -> Callable[[Path], None]:
    """The project's wheel with what it depends on, and the examples, on the layer of Debian's Python."""

    def make(target: Path) -> None:
        root = _root(target)
        with tarfile.open(python) as archive:
            version = next(found[1] for name in archive.getnames() if (found := PYTHON.search(name)))
        wheels = target.with_name("wheels")
        _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT))
        for_it = ["--python-version", version, "--only-binary", ":all:", "--no-compile"]
        packages = root / "usr/lib/python3/dist-packages"
        _pip("install", "--target", str(packages), *for_it, *map(str, wheels.glob("*.whl")))
        shutil.copytree(ROOT / "examples", root / "app" / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        command = ["python3", "-m", "examples.sample_device"]
        oci.write(target, [python.read_bytes(), oci.layer(root)], entrypoint=command, WorkingDir="/app")

    return make


def _root(target: Path) -> Path:
    root = target.with_name("root")
    root.mkdir()
    return root


def _debian(root: Path, *packages: str) -> None:
    debian.unpack(packages, root, root.with_name("downloads"))
    for name, content in (("passwd", PASSWD), ("group", GROUP)):
        (root / "etc" / name).write_text(content)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MissingError(f"'{' '.join(command)}' failed: {done.stderr.strip()[-2000:]}")
