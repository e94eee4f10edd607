"""The outer process: starts the node's namespaces, waits for what runs in them, and clears up behind it.

Everything of the node lives in namespaces (mounts, network, processes, control groups) whose first process dies with
this one, however it ends. What namespaces do not hold is removed here: the control group, and the node's state folder.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from . import cgroups, debian
from .console import say
from .errors import MissingError
from .paths import ROOT, cache

HIDDEN = ("/var", "/run")  # the node has its own there
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asks for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def check_machine() -> None:
    """Raise what this machine lacks.

    Raises:
        MissingError: Says what, and what to do.
    """
    if sys.platform != "linux":
        raise MissingError(f"The node needs Linux: namespaces and control groups; this is {sys.platform}.")
    if os.geteuid() != 0:
        raise MissingError("The node needs root, for its namespaces and mounts: run it as root (sudo).")
    for path in (cache(), ROOT, Path(sys.prefix), Path(sys.base_prefix)):
        if hidden := [folder for folder in HIDDEN if path.is_relative_to(folder)]:
            raise MissingError(
                f"{path} is below {hidden[0]}, where the node has folders of its own, and would not see it: have it "
                "elsewhere (the cache's place is said by DEVPLUGIN_CLUSTER)."
            )
    debian.need({"ip": "iproute2", "openssl": "openssl", "unshare": "util-linux", "setpriv": "util-linux"})
    done = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MissingError(
            f"This root may not make namespaces ({done.stderr.strip()}): in a container, run it privileged."
        )


def run(arguments: Sequence[str], *, keep: Callable[[Path], None]) -> int:
    """Run `python -m e2e inside STATE ARGUMENTS…` as the node's first process; give its exit status.

    Args:
        arguments: What the inner process is to do.
        keep: Gets the folder of what the inner process left behind, before that goes.

    Raises:
        Interrupted: A signal came; everything is cleared up.
    """
    with _state() as state, cgroups.group() as groups:
        try:
            return _inside(state, groups, arguments)
        finally:
            _ignore_signals()  # clearing up takes a moment, and must be whole
            keep(state / "results")


def _inside(state: Path, groups: Sequence[Path], arguments: Sequence[str]) -> int:
    join = 'until [ "$1" = -- ]; do echo 0 >"$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"'
    namespaces = ["--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup"]
    unshare = ["unshare", *namespaces, "--fork", "--kill-child=KILL", "--mount-proc"]
    inner = [sys.executable, "-m", "e2e", "inside", str(state), *arguments]
    # Killed with -9, this process takes unshare along, and unshare the node's first process: the whole node.
    command = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", join, "join", *map(str, groups), "--", *unshare, *inner]
    # In a session of its own, so that Ctrl-C reaches this process only, and the order of the end is ours.
    environment = os.environ | {"DEVPLUGIN_CLUSTER": str(cache())}  # the node has a HOME of its own
    child = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, env=environment)
    try:
        return child.wait()
    finally:
        child.kill()
        child.wait()


@contextlib.contextmanager
def _state() -> Iterator[Path]:
    """A folder for the node's state, gone at the end; and those of runs that were killed with -9, now."""
    parent = cache() / "nodes"
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.iterdir():
        if not Path("/proc", old.name.partition("-")[0]).exists():
            shutil.rmtree(old)
    state = parent / f"{os.getpid()}-{time.time_ns()}"
    try:
        state.mkdir(mode=0o755)
        yield state
    finally:
        shutil.rmtree(state)


@contextlib.contextmanager
def signals() -> Iterator[None]:
    """Raise `Interrupted` in the block when a signal asks for the end."""

    def end(number: int, _: FrameType | None) -> None:
        _ignore_signals()
        say(f"{signal.Signals(number).name}: ending, and clearing up …")
        raise Interrupted(number)

    before = {number: signal.signal(number, end) for number in ENDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    for number in ENDS:
        signal.signal(number, signal.SIG_IGN)


def failure_folder() -> Path:
    """Where the logs of a run that failed are kept."""
    return cache() / "failures" / time.strftime(f"%Y%m%d-%H%M%S-{os.getpid()}")


def entrance(state: Path) -> str:
    """A command line that opens a shell in the node whose state is there."""
    inner = f"$(pgrep -f -n '[e]2e inside {state}')"  # the newest: of those, it is in all of the namespaces
    settings = f"KUBECONFIG={state}/pki/admin.conf CRI_CONFIG_FILE={state}/etc/crictl.yaml PATH={cache()}/bin:$PATH"
    return f"nsenter --target {inner} --mount --net --pid --uts --ipc --cgroup -- env {settings} bash"
