"""``devplugin try`` on a terminal: the device table live, and a prompt below it."""

import asyncio
import math
import sys
from collections.abc import Coroutine
from itertools import islice
from typing import TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from devplugin.cli._answer import answer
from devplugin.cli._keys import Key, Keyboard
from devplugin.cli._output import counted, health_text, plain, simple_table
from devplugin.cli._trial import Trial

__all__ = ["play"]

T = TypeVar("T")

HELP = "allocate N | free POD | restart the kubelet (Ctrl-R) | quit (Ctrl-C)"
# The screen is drawn this often at most, however fast the plugin announces.
_REDRAW_S = 0.05
# What the screen has besides devices and pods: a title, the heads of two tables, three empty lines, help and prompt.
_OTHER_LINES = 9
_FEWEST_DEVICES = 3


async def play(trial: Trial, console: Console) -> None:
    """Show the plugin and obey the prompt until somebody quits."""
    await _Screen(trial, console).play()


class _Screen:
    def __init__(self, trial: Trial, console: Console) -> None:
        self._trial = trial
        self._console = console
        self._live = Live(console=console, auto_refresh=False)
        self._keys = Keyboard(sys.stdin.fileno(), self._draw)
        self._busy = ""

    async def play(self) -> None:
        with self._live, self._keys:
            async with asyncio.TaskGroup() as tasks:
                following = tasks.create_task(self._follow())
                while (pressed := await self._keys.next()) not in (Key.QUIT, "quit", "q"):
                    await self._obey("restart" if isinstance(pressed, Key) else pressed)
                following.cancel()

    async def _follow(self) -> None:
        """Draw whenever something has changed."""
        while True:
            seen = self._state()
            self._draw()
            await asyncio.sleep(_REDRAW_S)
            await self._trial.kubelet.until(lambda seen=seen: self._state() != seen, timeout_s=math.inf)  # type: ignore[misc]

    def _state(self) -> object:
        kubelet = self._trial.kubelet
        counts = (kubelet.is_running, len(kubelet.registrations), len(kubelet.snapshots))
        return counts, kubelet.resources.get(self._trial.resource), [pod.row for pod in kubelet.pods.values()]

    async def _obey(self, line: str) -> None:
        pods = self._trial.kubelet.pods
        match line.split():
            case []:
                pass
            case ["allocate" | "a", count] if count.isdecimal() and int(count) > 0:
                pod = await self._while(f"the kubelet allocates {count}", self._trial.allocate(int(count)))
                self._console.print(answer(pod, self._trial.resource))
            case ["free" | "f", name] if name in pods:
                pods[name].delete()
            case ["free" | "f", name]:
                self._console.print(f"There is no pod {name}: {', '.join(pods) or 'none at all'}")
            case ["restart" | "r"]:
                await self._while("the kubelet restarts", self._trial.kubelet.restart())
                self._console.print("The kubelet has restarted: the plugin has to register again.")
            case _:
                self._console.print(f"{line!r} is none of: {HELP}")
        self._draw()

    async def _while(self, busy: str, work: Coroutine[object, object, T]) -> T:
        """Say what is done while it is done."""
        self._busy = f"{busy} ... "
        self._draw()
        try:
            return await work
        finally:
            self._busy = ""

    # What is on the screen --------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        self._live.update(self._view(), refresh=True)

    def _view(self) -> RenderableType:
        pods = self._pods()
        parts: list[RenderableType] = [Text(), self._title(), self._devices(), Text()]
        if pods.row_count:
            parts += [pods, Text()]
        prompt = Text.assemble((self._busy, "dim"), "> ", self._keys.text, ("_", "blink"))
        return Group(*parts, Text(HELP, style="dim", overflow="ellipsis", no_wrap=True), prompt)

    def _title(self) -> Text:
        kubelet, trial = self._trial.kubelet, self._trial
        seen = kubelet.resources.get(trial.resource)
        if seen is None:
            counts = "not announced to this kubelet yet" if kubelet.is_running else "the kubelet is stopped"
        else:
            free = len(seen.healthy - self._holders().keys())
            counts = f"{counted(seen.capacity)}, {seen.allocatable} healthy, {free} free"
        title = Text.assemble((trial.resource, "bold"), f": {counts}; Kubernetes {kubelet.version}")
        title.no_wrap, title.overflow = True, "ellipsis"
        return title

    def _holders(self) -> dict[str, str]:
        """The pod of each device that has one."""
        pods = self._trial.kubelet.pods.values()
        return {each: pod.name for pod in pods if not pod.is_over for each in pod.device_ids(self._trial.resource)}

    def _devices(self) -> RenderableType:
        """The devices with their pods, as many as there is room for."""
        trial = self._trial
        holders = self._holders()
        room = self._console.height - _OTHER_LINES - min(len(trial.kubelet.pods), self._most_pods)
        listed = trial.devices.devices
        shown = max(room, _FEWEST_DEVICES)
        table = simple_table("DEVICE", "HEALTH", "NUMA", "POD")
        for device_id, health in islice(listed.items(), shown):
            nodes = ", ".join(map(str, trial.devices.numa_nodes.get(device_id, ())))
            table.add_row(plain(device_id), health_text(health), nodes, holders.get(device_id, ""))
        more = len(listed) - shown
        return Group(table, Text(f"and {more} more", style="dim")) if more > 0 else table

    @property
    def _most_pods(self) -> int:
        """As many as leave room for devices."""
        return max((self._console.height - _OTHER_LINES - _FEWEST_DEVICES) // 2, 1)

    def _pods(self) -> Table:
        """The newest pods."""
        table = simple_table("POD", "STATUS", "DEVICES")
        for pod in [*self._trial.kubelet.pods.values()][-self._most_pods :]:
            ids = sorted(pod.device_ids(self._trial.resource))
            table.add_row(pod.name, pod.status, plain(", ".join(ids)))
        return table
