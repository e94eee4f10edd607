"""The cluster's programs, each built from its Go module."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import debian
from .artifacts import Artifact, key_of
from .errors import MissingError
from .paths import HERE

GO = HERE / "go"  # a folder a module: their dependencies do not agree with each other's
NEEDS = (1, 26)  # what Kubernetes' own go.mod asks for


@dataclass(frozen=True)
class Binary:
    """A program: the package it is built from, and the folder of `go/` whose go.mod pins its version."""

    name: str
    module: str
    package: str
    tags: str = ""
    static: bool = False


BINARIES = (
    Binary("runc", "runc", "github.com/opencontainers/runc", tags="seccomp"),
    Binary("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
    *(
        Binary(name, "containerd", f"github.com/containerd/containerd/v2/cmd/{name}")
        for name in ("containerd", "containerd-shim-runc-v2")
    ),
    *(
        Binary(path.rpartition("/")[2], "cni", f"github.com/containernetworking/plugins/plugins/{path}")
        for path in ("main/bridge", "main/loopback", "ipam/host-local")
    ),
    Binary("crictl", "crictl", "sigs.k8s.io/cri-tools/cmd/crictl"),
    *(
        Binary(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}")
        for name in ("kubelet", "kube-apiserver", "kube-scheduler", "kube-controller-manager", "kubectl")
    ),
    Binary("pause", "pause", ".", static=True),
)


def artifacts() -> list[Artifact]:
    """What `bin/` of the cache holds.

    Raises:
        MissingError: No Go, or one that is too old.
    """
    go = go_version()
    return [_artifact(binary, go) for binary in BINARIES]


def go_version() -> str:
    """Go's version, as `go1.26.3`.

    Raises:
        MissingError: No Go, or one that is too old.
    """
    asked = ".".join(map(str, NEEDS))
    if not shutil.which("go"):
        raise MissingError(f"There is no Go here: install Go {asked} or later, and have 'go' on the PATH.")
    version = _go("env", "GOVERSION", folder=GO).strip()
    found = re.match(r"go(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < NEEDS:
        raise MissingError(f"Go {asked} or later is needed, as Kubernetes' go.mod says; this is {version}.")
    return version


@functools.cache
def kubernetes_version() -> str:
    """The version of Kubernetes that is pinned, as `v1.36.3`."""
    found = re.search(r"k8s\.io/kubernetes (v\S+)", (GO / "kubernetes" / "go.mod").read_text())
    assert found, "go/kubernetes/go.mod requires k8s.io/kubernetes"
    return found[1]


def versions() -> dict[str, str]:
    """What is pinned: the names of the modules that matter, and their versions."""
    wanted = {binary.package for binary in BINARIES}
    files = (folder / "go.mod" for folder in sorted(GO.iterdir()))
    required = re.findall(
        r"^(?:require|\t)\s*(\S+) (v\S+)", "\n".join(file.read_text() for file in files), re.MULTILINE
    )
    return {
        module: version
        for module, version in required
        if any(package == module or package.startswith(f"{module}/") for package in wanted)
    }


def _artifact(binary: Binary, go: str) -> Artifact:
    folder = GO / binary.module
    flags = ["-mod=readonly", "-trimpath", f"-tags={binary.tags}", f"-ldflags={_linker_flags(binary)}"]
    inputs = sorted(path for path in folder.iterdir() if path.name in {"go.mod", "go.sum"} or path.suffix == ".go")

    def make(path: Path) -> None:
        if not binary.static:
            debian.need({"gcc": "gcc", "pkg-config": "pkg-config", "/usr/include/seccomp.h": "libseccomp-dev"})
        settings = {"CGO_ENABLED": "0" if binary.static else "1", "GOTMPDIR": str(path.parent)}
        _go("build", *flags, "-o", str(path), binary.package, folder=folder, **settings)

    return Artifact(path=f"bin/{binary.name}", key=key_of(go, json.dumps([flags, binary.static]), *inputs), make=make)


def _linker_flags(binary: Binary) -> str:
    if binary.module != "kubernetes":
        return "-s -w"
    version = kubernetes_version()  # told to the linker, or the node reports v0.0.0-master
    major, minor, _ = version.removeprefix("v").split(".", 2)
    told = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in told.items())])


def _go(*arguments: str, folder: Path, **settings: str) -> str:
    environment = os.environ | {"GOFLAGS": "-buildvcs=false", "GOWORK": "off"} | settings
    command = ["go", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as go:
        try:
            output, complaint = go.communicate()
        except BaseException:
            os.killpg(go.pid, signal.SIGKILL)  # its compilers too; what they wrote is in the artifact's folder
            raise
    if go.returncode != 0:
        last = "\n".join(complaint.splitlines()[-20:])
        raise MissingError(f"'{' '.join(command)}' failed in {folder}:\n{last}")
    return output
