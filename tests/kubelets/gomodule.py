"""Programs from Kubernetes as a Go module: 1.34 and later, and the sample plugin."""

import functools
import re
import shutil
from pathlib import Path

from .running import BuildError, run, say

HERE = Path(__file__).resolve().parent
DRIVER = "./devicemanager"
SAMPLE = "k8s.io/kubernetes/test/images/sample-device-plugin"


def build(name: str, version: str, package: str, out: Path) -> None:
    """Compile `package` with the go.mod of a minor version of Kubernetes.

    Raises:
        BuildError: No Go, an old one, or it fails.
    """
    mod = HERE / version / "go.mod"
    text = mod.read_text()
    kubernetes = _only(r"^(?:require)?\s+k8s\.io/kubernetes v(\S+)", text, mod)
    _need_go(_only(r"^go (\d+\.\d+)", text, mod))
    say(
        name,
        f"is built from the Go module k8s.io/kubernetes v{kubernetes}; the first time this downloads and takes minutes",
    )
    # No -trimpath: with it Go's build cache could not be shared with other builds of the same packages.
    flags = ["-mod=readonly", f"-modfile={mod}", f"-tags=k{version.replace('.', '')}"]
    flags += [f"-ldflags=-s -w -X main.kubernetesVersion={kubernetes}", "-o", str(out)]
    run("go", "build", *flags, package, cwd=HERE, env={"GOFLAGS": "-buildvcs=false", "GO111MODULE": "on"})


def _only(pattern: str, text: str, file: Path) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if not found:
        raise BuildError(f"{file} has no line like {pattern}")
    return found[1]


@functools.cache
def _need_go(wanted: str) -> None:
    if not shutil.which("go"):
        raise BuildError(
            f"Go {wanted} or newer is needed, and there is no 'go' on the PATH: install it (go.dev/doc/install)."
        )
    version, toolchain = run("go", "env", "GOVERSION", "GOTOOLCHAIN", cwd=HERE, quiet=True).split()
    found = re.match(r"go(\d+)\.(\d+)", version)
    if found and found.groups() < tuple(wanted.split(".")) and toolchain == "local":
        raise BuildError(
            f"Go {wanted} or newer is needed, this is {version}: install a newer one (go.dev/doc/install), "
            "or unset GOTOOLCHAIN=local so that Go fetches one by itself."
        )
