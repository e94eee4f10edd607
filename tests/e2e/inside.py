"""The inner process: the first of the node's namespaces. It lays the node's mounts and network, then does the work."""

import os
import socket
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

from . import cgroups
from .paths import cache

NODE = "node1"
ADDRESS = "10.77.0.1"
# What the kubelet insists on. It would set the machine's own; so the node sees files that already say it.
KERNEL = {"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"}
FOLDERS = (
    *("results", "log", "tmp", "etc", "sys", "containerd", "etcd", "root"),
    *(f"var/{name}" for name in ("lib/kubelet", "lib/cni", "log/pods", "log/containers", "tmp")),
)


def as_first_process(work: Callable[[], int]) -> int:
    """Do the work in a child, and collect the dead until it ends: orphans of the whole node come to process 1."""
    child = os.fork()
    if child == 0:
        try:
            status = work()
        except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
            traceback.print_exc()
            status = 1
        os._exit(status)
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def prepare(state: Path) -> None:
    """Lay the node's folders, mounts, control groups and network. Nothing outside `state` can be written afterwards."""
    for folder in FOLDERS:
        (state / folder).mkdir(parents=True)
    (state / "var" / "run").symlink_to("/run")
    (state / "etc" / "resolv.conf").touch()
    _mounts(state)
    _control_groups()
    _network()
    os.environ["PATH"] = f"{cache() / 'bin'}:{os.environ['PATH']}"
    os.environ["TMPDIR"] = str(state / "tmp")
    os.environ["HOME"] = str(state / "root")


def _mounts(state: Path) -> None:
    _run("mount --make-rprivate /")
    _run(f"mount --bind {state} {state}")  # stays writable
    _run("mount -o remount,bind,ro /")
    _run(f"mount --bind {state}/var /var")
    _run("mount -t tmpfs -o mode=755 tmpfs /run")
    for name in ("lock", "netns", "containerd", "cdi"):
        Path("/run", name).mkdir()
    for setting, value in KERNEL.items():
        fake = state / "sys" / setting.replace("/", "_")
        fake.write_text(f"{value}\n")
        _run(f"mount --bind {fake} /proc/sys/{setting}")
    _run("mount --make-rshared /")  # what the kubelet mounts for a pod, containerd must see


def _control_groups() -> None:
    """Mount each hierarchy anew: in this namespace, the run's own group is its root."""
    mounted = cgroups.hierarchies()
    for hierarchy in reversed(mounted):
        _run(f"umount {hierarchy.at}")
    for hierarchy in mounted:
        options = f"-o {hierarchy.options}" if hierarchy.options else ""
        _run(f"mount -t {hierarchy.kind} {options} {hierarchy.kind} {hierarchy.at}")
        if hierarchy.at == Path("/sys/fs/cgroup"):  # version 2 alone: no process may be where groups are made below
            (hierarchy.at / "node").mkdir()
            for pid in (hierarchy.at / "cgroup.procs").read_text().split():
                (hierarchy.at / "node" / "cgroup.procs").write_text(pid)
            cgroups.enable_below(hierarchy.at)


def _network() -> None:
    """One interface with the node's address. A veth pair: some kernels have no dummy device."""
    socket.sethostname(NODE)
    _run("ip link set lo up")
    _run("ip link add node0 type veth peer name node0-peer")
    _run(f"ip address add {ADDRESS}/24 dev node0")
    _run("ip link set node0-peer up")
    _run("ip link set node0 up")
    _run("ip route add default dev node0")


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True)
