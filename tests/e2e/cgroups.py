"""A control group of the run's own in every hierarchy, so that all of the node's are below it, and go with it.

Seen from inside the node (a cgroup namespace), this group is the root. Version 1 has one hierarchy for each controller,
version 2 one for all; a machine may have both.
"""

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import FailedError, MissingError
from .waiting import until

CONTROLLERS = {"cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio", "hugetlb", "perf_event"}
NAME = "devplugin-e2e"


@dataclass(frozen=True)
class Hierarchy:
    """A mounted hierarchy: where, `cgroup` or `cgroup2`, and the mount options that make it this one."""

    at: Path
    kind: str
    options: str


def hierarchies() -> list[Hierarchy]:
    """The hierarchies that are mounted where Linux has them."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, at, kind, options, *_ = line.split()
        if kind not in {"cgroup", "cgroup2"} or not at.startswith("/sys/fs/cgroup"):
            continue
        wanted = [option for option in options.split(",") if option in CONTROLLERS or option.startswith("name=")]
        named = ["none"] if any(option.startswith("name=") for option in wanted) else []
        found.append(Hierarchy(Path(at), kind, ",".join(named + wanted)))
    return found


@contextlib.contextmanager
def group() -> Iterator[list[Path]]:
    """Give the group's folder in each hierarchy; at the end, wait for its processes to be gone, and remove it.

    Raises:
        MissingError: This machine does not let us make one.
        FailedError: Processes of the node are still there.
    """
    _sweep()
    mounted = hierarchies()
    if not mounted:
        raise MissingError("No control groups are mounted below /sys/fs/cgroup: the kubelet and runc need them.")
    name = f"{NAME}-{os.getpid()}"
    folders = [hierarchy.at / name for hierarchy in mounted]
    try:
        for hierarchy, folder in zip(mounted, folders, strict=True):
            _make(hierarchy, folder)
        yield folders
    finally:
        until("the end of the node's processes", lambda: _kill(folders), lambda left: not left, timeout_s=20)
        for folder in folders:
            _remove(folder)


def enable_below(root: Path) -> None:
    """Version 2 only: let the groups below have every controller. Processes must not be in `root` itself."""
    available = (root / "cgroup.controllers").read_text().split()
    for controller in available:
        (root / "cgroup.subtree_control").write_text(f"+{controller}")


def _make(hierarchy: Hierarchy, folder: Path) -> None:
    try:
        folder.mkdir()
        if hierarchy.kind == "cgroup2" and (hierarchy.at / "cgroup.controllers").read_text().strip():
            enable_below(hierarchy.at)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # version 1 makes them empty, and lets no process in then
            if hierarchy.kind == "cgroup" and (folder / setting).exists():
                (folder / setting).write_text((hierarchy.at / setting).read_text())
    except OSError as error:
        raise MissingError(
            f"The control group {folder} cannot be made ({error}). In a container, run it privileged and, with version 2, "
            "in the host's cgroup namespace."
        ) from error


def _kill(folders: list[Path]) -> list[str]:
    """Kill the processes of the group; give those that were still there, by id and name."""
    pids: set[int] = set()
    for folder in folders:
        for members in folder.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):  # the group went meanwhile
                pids.update(map(int, members.read_text().split()))
    found = []
    for pid in sorted(pids):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it went meanwhile
            found.append(f"{pid} {Path('/proc', str(pid), 'comm').read_text().strip()}")
            os.kill(pid, signal.SIGKILL)
    return found


def _remove(folder: Path) -> None:
    """Remove the group and those below it; the kernel may need a moment after the last process."""

    def remove() -> str:
        below = [Path(path) for path, _, _ in os.walk(folder, topdown=False)]
        try:
            for path in below:
                path.rmdir()
        except OSError as error:
            return str(error)
        return ""

    until(f"the control group {folder} to go", remove, lambda error: not error, timeout_s=10)


def _sweep() -> None:
    """Remove the groups of runs that were killed with -9: their processes died with them."""
    for hierarchy in hierarchies():
        for folder in hierarchy.at.glob(f"{NAME}-*"):
            owner = re.search(r"\d+$", folder.name)
            if owner and not Path("/proc", owner[0]).exists():
                with contextlib.suppress(FailedError):  # someone else's, then
                    _remove(folder)
