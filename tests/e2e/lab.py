"""What a step of the play works with: the cluster, the plugins that it starts, and the page that it writes."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .components import Components, Process
from .errors import FailedError
from .inside import NODE
from .page import Page
from .paths import ROOT
from .waiting import until

RESOURCE = "demo/sample-device"
PLUGINS = Path("/var/lib/kubelet/device-plugins")
KUBELET_SOCKET = PLUGINS / "kubelet.sock"
SAMPLE = ("-m", "examples.sample_device", "-vv")
EVENT = re.compile(r"Starting to listen|Registration\.register|DevicePlugin\.[a-z_]+(?:\.[a-z_]+)*")

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """A pod as `kubectl get pods` shows it; all empty, and -1, where there is none."""

    ready: str = ""
    status: str = ""
    restarts: int = -1


@dataclass(frozen=True)
class Count:
    """Devices of a resource in the node's status; None where the node does not list it."""

    capacity: int | None
    allocatable: int | None


class Plugin:
    """A plugin as a process on the node."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._process = Process([sys.executable, *arguments], log, cwd=ROOT)
        self.log = log

    @property
    def alive(self) -> bool:
        return self._process.alive

    def events(self) -> list[str]:
        """The names of the scenario's events in its log, in their order."""
        return EVENT.findall(self.log.read_text())

    def stop(self) -> None:
        """End it as a service manager does.

        Raises:
            FailedError: It did not end with status 0.
        """
        status = self._process.stop()
        if status != 0:
            raise FailedError(
                f"the plugin ended with status {status} after SIGTERM; its log ends:\n{self._process.tail()}"
            )

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()


class Lab:
    """The cluster, with what is started on it."""

    def __init__(self, components: Components, state: Path, page: Page) -> None:
        self.components = components
        self.page = page
        self.plugin_number = 0
        self.folder = state / "work"
        self._state = state
        self._plugins: list[Plugin] = []
        self.folder.mkdir()
        (self.folder / "examples").symlink_to(ROOT / "examples")
        self._environment = os.environ | {
            "KUBECONFIG": f"{state}/pki/admin.conf",
            "CRI_CONFIG_FILE": f"{state}/etc/crictl.yaml",
        }

    # Commands

    def shell(self, command: str) -> str:
        """Run a command line in `folder`, where `examples` is the project's, and give what it printed.

        Raises:
            FailedError: It ended with another status than 0.
        """
        line = ["bash", "-o", "pipefail", "-c", command]
        done = subprocess.run(line, cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise FailedError(
                f"'{command}' ended with status {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout

    def show(self, command: str) -> str:
        """As `shell`; the command and its output go to the page."""
        output = self.shell(command)
        self.page.command(command, output)
        return output

    # Plugins

    def start_plugin(self, *arguments: str) -> Plugin:
        """Start a plugin: the sample, where nothing else is named."""
        self.plugin_number += 1
        plugin = Plugin(arguments or SAMPLE, self._state / "log" / f"plugin-{self.plugin_number}.log")
        self._plugins.append(plugin)
        return plugin

    def start_sample(self) -> Plugin:
        """Start the sample, and wait until its four devices can be had."""
        plugin = self.start_plugin()
        self.until_event(plugin, "DevicePlugin.list_and_watch.send")
        self.until_count(Count(4, 4))
        return plugin

    def clear(self) -> None:
        """Remove what a step left: pods, plugins; see that the node has a kubelet.sock, and knows of no device."""
        self.shell("kubectl delete daemonsets,pods --all --all-namespaces --now")
        self.until(
            "the pods to go",
            lambda: self.shell("kubectl get pods --all-namespaces --no-headers"),
            lambda pods: not pods,
        )
        for plugin in self._plugins:
            if plugin.alive:
                plugin.kill()
        self._plugins.clear()
        if not KUBELET_SOCKET.exists():
            self.restart_kubelet()
        self.until("the devices to go", self.count, lambda count: not count.allocatable)

    # Conditions

    def until(self, what: str, look: Callable[[], T], holds: Callable[[T], object], *, timeout_s: float = 60) -> T:
        """As `waiting.until`; ends at once when a component has died."""

        def watched() -> T:
            self.components.check()
            return look()

        return until(what, watched, holds, timeout_s=timeout_s)

    def row(self, pod: str) -> Row:
        columns = self.components.api.columns(f"/api/v1/namespaces/default/pods/{pod}")
        if not columns:
            return Row()
        return Row(columns["Ready"], columns["Status"], int(columns["Restarts"].partition(" ")[0]))

    def until_row(self, pod: str, expected: Row, *, timeout_s: float = 60) -> None:
        self.until(f"{pod} to be {expected}", lambda: self.row(pod), expected.__eq__, timeout_s=timeout_s)

    def count(self, resource: str = RESOURCE) -> Count:
        node = self.components.api.find(f"/api/v1/nodes/{NODE}")
        if node is None:
            return Count(None, None)
        found = [node["status"][kind].get(resource) for kind in ("capacity", "allocatable")]
        return Count(*(None if number is None else int(number) for number in found))

    def until_count(self, expected: Count, *, resource: str = RESOURCE, timeout_s: float = 60) -> None:
        what = f"the node to have {resource} as {expected}"
        self.until(what, lambda: self.count(resource), expected.__eq__, timeout_s=timeout_s)

    def until_event(self, plugin: Plugin, event: str, *, times: int = 1, timeout_s: float = 30) -> None:
        """Wait until the plugin's log has the event that often."""

        def look() -> int:
            found = plugin.events().count(event)
            if found < times and not plugin.alive:
                raise FailedError(f"the plugin has ended by itself; {plugin.log.name} has:\n{plugin.log.read_text()}")
            return found

        what = f"{times} times {event} in {plugin.log.name}"
        self.until(what, look, lambda found: found >= times, timeout_s=timeout_s)

    # Facts

    def devices(self, pod: str) -> set[str]:
        """The ids of the sample devices that the pod's container was given, by its environment.

        Raises:
            FailedError: The environment is not as the sample sets it.
        """
        lines = self.shell(f"kubectl exec {pod} -- env | grep SAMPLE").splitlines()
        ids = {found[1] for line in lines if (found := re.fullmatch(r"SAMPLE_DEVICE([1-4])=1", line))}
        if len(ids) != len(lines):
            raise FailedError(f"{pod} has {lines}: expected different lines of the form SAMPLE_DEVICE<N>=1")
        return ids

    def container_id(self, pod: str) -> str:
        found = self.components.api.find(f"/api/v1/namespaces/default/pods/{pod}")
        if found is None:
            raise FailedError(f"there is no pod {pod}")
        identity: str = found["status"]["containerStatuses"][0]["containerID"]
        return identity

    def stop_container(self, pod: str, *, shown: bool = False) -> None:
        """Stop the pod's container through the CRI, behind the kubelet's back."""
        command = f"crictl stop $(crictl ps --quiet --label io.kubernetes.pod.name={pod})"
        self.show(command) if shown else self.shell(command)

    def restart_kubelet(self) -> float:
        """Restart the kubelet; give the time (as `time.time()`) at which its new socket was there."""
        before = _identity()
        self.components.stop_kubelet()
        self.components.start_kubelet()
        made = "kubelet.sock to be made again"
        until(made, _identity, lambda now: now not in {None, before}, timeout_s=60, every_s=0.005)
        return time.time()

    def keep_evidence(self, folder: Path) -> None:
        """Write what the cluster tells of itself into the folder."""
        folder.mkdir(parents=True)
        commands = {
            "events.txt": "kubectl get events --all-namespaces --sort-by=.lastTimestamp --output=wide",
            "pods.yaml": "kubectl get pods --all-namespaces --output=yaml",
            "pods.txt": "kubectl describe pods --all-namespaces",
            "node.yaml": "kubectl get nodes --output=yaml",
            "directory.txt": f"ls -la {PLUGINS}",
            "containers.txt": "crictl ps --all",
        }
        for name, command in commands.items():
            try:
                (folder / name).write_text(self.shell(command))
            except FailedError as failed:
                (folder / name).write_text(f"{failed}\n")


def _identity() -> tuple[int, int] | None:
    """What tells one kubelet.sock from the next: file systems give the number of an inode that has gone to the next one."""
    try:
        seen = KUBELET_SOCKET.stat()
    except FileNotFoundError:
        return None
    return seen.st_ino, seen.st_ctime_ns
