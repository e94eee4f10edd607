"""Kubernetes 1.20 from Debian's source package, compiled by the Go that Debian had then.

Nothing is installed and /etc is not touched: apt runs with a sources list and state of its own, made from the
Debian archive that the system's own list names. The compiler is unpacked beside the sources.
"""

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from .running import BuildError, run, say

HERE = Path(__file__).resolve().parent
SUITE = "bookworm"  # the last Debian with Kubernetes 1.20 and with a Go that compiles it
GO = "1.19"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def build(name: str, kept: Path, out: Path) -> None:
    """Compile the driver with Kubernetes 1.20; `kept` holds what need not be fetched or compiled again.

    Raises:
        BuildError: No apt, no Debian archive, or it fails.
    """
    kept.mkdir(exist_ok=True)
    goroot = Path(f"/usr/lib/go-{GO}")
    if not (goroot / "bin" / "go").exists():
        goroot = _once(name, kept / "go", _fetch_go) / "usr" / "lib" / f"go-{GO}"
    (source,) = _once(name, kept / "source", _fetch_source).iterdir()
    version = source.name.removeprefix("kubernetes-")
    say(name, f"is built from Debian's source package, Kubernetes {version}, with Go {GO}")
    # GOPATH mode, as the package has it: its dependencies are vendored, and modules are not used.
    package = source / "cmd" / "devplugin-driver"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(HERE / "devicemanager", package)
    home = kept / "gopath" / "src" / "k8s.io" / "kubernetes"
    home.parent.mkdir(parents=True, exist_ok=True)
    home.unlink(missing_ok=True)
    home.symlink_to(source)
    env = {"GOROOT": str(goroot), "GOPATH": str(kept / "gopath"), "GOCACHE": str(kept / "go-cache")}
    flags = ["-tags=k120", f"-ldflags=-s -w -X main.kubernetesVersion={version}", "-o", str(out)]
    command: list[str | Path] = [goroot / "bin" / "go", "build", *flags, "k8s.io/kubernetes/cmd/devplugin-driver"]
    run(*command, cwd=home, env={**env, "GO111MODULE": "off", "GOFLAGS": ""})


def _once(name: str, path: Path, fill: Callable[[str, Path, Path], None]) -> Path:
    """The folder `path`, filled by `fill(name, it, scratch)` unless it is there: all of it or nothing."""
    if not path.exists():
        for left in path.parent.glob(".part-*"):  # of a build that was killed: the lock is held
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as scratch:
            target = Path(scratch) / "target"
            target.mkdir()
            fill(name, target, Path(scratch))
            target.replace(path)
    return path


def _fetch_source(name: str, target: Path, scratch: Path) -> None:
    say(name, f"fetches the sources of Kubernetes from Debian {SUITE}")
    # Debian's three patches are left out: they are kubectl's and the documentation's.
    _apt(scratch, "source", "--download-only", "--tar-only", f"kubernetes/{SUITE}")
    (archive,) = scratch.glob("kubernetes_*.orig.tar.gz")
    run("tar", "--extract", "--file", archive, cwd=target, quiet=True)


def _fetch_go(name: str, target: Path, scratch: Path) -> None:
    say(name, f"fetches Go {GO} from Debian {SUITE}")
    _apt(scratch, "download", f"golang-{GO}-go", f"golang-{GO}-src")
    for package in scratch.glob("*.deb"):
        run("dpkg-deb", "--extract", package, target, cwd=scratch, quiet=True)


def _apt(scratch: Path, *arguments: str) -> None:
    """apt-get in `scratch`, with a configuration that is its own."""
    if not shutil.which("apt-get"):
        raise BuildError(
            "Kubernetes 1.20 comes from Debian's archive by apt-get, which is not here: build it on Debian."
        )
    lists = scratch / "lists"
    sources = scratch / "sources.list"
    options = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": lists,
        "Dir::Cache": scratch,
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "APT::Sandbox::User": "",  # else root's files here would have to be readable by _apt
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    flags = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    if not lists.exists():
        for folder in (lists, scratch / "archives"):
            (folder / "partial").mkdir(parents=True)
        archive = _archive()
        signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        sources.write_text("".join(f"{kind} {signed}{archive} {SUITE} main\n" for kind in ("deb", "deb-src")))
        run("apt-get", *flags, "update", cwd=scratch, quiet=True)
    run("apt-get", *flags, *arguments, cwd=scratch, quiet=True)


def _archive() -> str:
    """The Debian archive (or its mirror) that this system uses."""
    targets = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", cwd=HERE, quiet=True)
    for uri in targets.split():
        if re.search(r"/debian/?$", uri):
            return uri
    raise BuildError(
        "Kubernetes 1.20 comes from Debian's archive, and this system's apt names none (a URI that ends in /debian): "
        "build it on Debian, or leave it out by naming the others."
    )
