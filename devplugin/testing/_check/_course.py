"""The course that one plugin is sent over: enumerated, served to a kubelet, used, and met again after a restart."""

import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devplugin.plugin import DevicePluginBase
from devplugin.testing._changes import ConditionNotMet
from devplugin.testing._check._class import broken_hooks
from devplugin.testing._check._enumerating import enumerate_once
from devplugin.testing._check._found import Found, errors_of
from devplugin.testing._check._hooks import HookCalls
from devplugin.testing._check._lists import ids_of_two_enumerations, next_list
from devplugin.testing._client import KubeletError
from devplugin.testing._fixtures import Serve
from devplugin.testing._kubelet import FakeKubelet
from devplugin.testing._pods import Pod
from devplugin.testing._records import Call, Snapshot

if TYPE_CHECKING:
    from devplugin._proto.v1beta1 import ContainerAllocateResponse

__all__ = ["Course", "Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How plugins are checked."""

    host_root: Path
    watch_s: float
    patience_s: float
    unplug: Callable[[], object] | None


class Course:
    """One plugin on its course.

    Attributes:
        ids: The ids that it announced.
        answers: What it answered to Allocate, by the id.
    """

    def __init__(self, kubelet: FakeKubelet, plugin: DevicePluginBase[Any], found: Found, settings: Settings) -> None:
        self.ids: Sequence[str] = ()
        self.answers: dict[str, ContainerAllocateResponse] = {}
        self._kubelet = kubelet
        self._plugin = plugin
        self._found = found
        self._settings = settings
        self._broken = broken_hooks(plugin)

    def __repr__(self) -> str:
        return f"<Course of {self._found!r}>"

    async def run(self) -> None:
        """Go over all of it, as far as the plugin comes."""
        if "DP104" in self._found.codes or "devices" in self._broken:
            return
        first = await enumerate_once(self._plugin, self._found, self._settings.patience_s)
        if first is None:
            return
        async with self._served() as serve:
            if serve is not None:
                self.ids = [*self._lists[-1].devices]
                self._found.add_all(
                    ids_of_two_enumerations([each.id for each in first.devices], [*self._lists[0].devices])
                )
                await self._use()
                await self._restart_kubelet()
                await self._unplug(serve)
                await serve.ended(self._plugin, within_s=self._settings.watch_s)
        lists = [[*each.devices] for each in self._lists]
        for before, after in pairwise(lists):
            self._found.add_all(next_list(before, after))

    @property
    def _resource(self) -> str:
        return self._plugin.resource_name

    @property
    def _lists(self) -> list[Snapshot]:
        return [each for each in self._kubelet.snapshots if each.resource == self._resource]

    @asynccontextmanager
    async def _served(self) -> AsyncIterator[Serve | None]:
        """The plugin on the kubelet; None when it has not come there."""
        serve, is_there, earlier = Serve(self._kubelet), False, [*self._found.all()]
        try:
            await serve(self._plugin, timeout_s=self._settings.patience_s)
            is_there = True
        except ConditionNotMet:
            within = f"within {self._settings.patience_s:g} s"
            if any(each.resource == self._resource for each in self._kubelet.registrations):
                self._found.add("DP201", f"served, devices() yielded no list {within}")
            else:
                self._found.add("DP402", f"it did not register {within}")
        except Exception as error:  # noqa: BLE001  (what the author's code raises is not known)
            self._found.add_error("DP203", error, "serve()")
        try:
            yield serve if is_there else None
        finally:
            try:
                await serve.stop(self._plugin)
            except Exception as error:  # noqa: BLE001  (as above)
                self._found.go_back_to(earlier)  # from some moment on nothing else could be right
                self._found.add_error("DP203", error, "serve()")

    async def _use(self) -> None:
        try:
            client = self._kubelet._client_of(self._resource)  # noqa: SLF001  (no test needs it)
        except KubeletError:  # it has gone: serve() says why
            return
        calls = HookCalls(client, self._lists[-1], self._found, self._settings.host_root, self._settings.patience_s)
        if not calls.healthy:
            count = len(self.ids)
            self._found.add("DP211", f"none of its {count} devices is healthy" if count else "it has no devices here")
            return
        if "allocate" not in self._broken:
            await calls.allocate()
            self.answers = calls.answers
        overridden = type(self._plugin).preferred_allocation is not DevicePluginBase.preferred_allocation
        if overridden and "preferred_allocation" not in self._broken:
            await calls.prefer(self._newest_call)
        if not self._broken and not {"DP302", "DP303"} & self._found.codes:
            await self._start_pod()

    def _newest_call(self) -> Call:
        return self._kubelet.calls[-1]

    async def _start_pod(self) -> None:
        """A pod with one device, up to its running container: DP303 and DP310."""
        pod = self._kubelet.create_pod(f"check-{self._resource.partition('/')[2]}", {self._resource: 1})
        with errors_of("pre_start_container") as errors:
            try:
                await self._kubelet.until(lambda: _has_come_to_something(pod), timeout_s=self._settings.patience_s)
            except ConditionNotMet:
                self._found.add("DP310", f"a pod's container did not start within {self._settings.patience_s:g} s")
        if pod.is_over:
            self._found.add("DP303", f"a pod was not admitted: {pod.message}")
        elif errors.unexpected is not None:
            self._found.add_error("DP310", errors.unexpected, "pre_start_container()")
        elif pod.status == "CreateContainerConfigError":
            self._found.add("DP310", f"a pod's container did not start: {pod.events[-1].message}")
        pod.delete()

    async def _restart_kubelet(self) -> None:
        seen, within = len(self._lists), f"within {self._settings.patience_s:g} s"
        await self._kubelet.restart()
        await self._expect(lambda: len(self._lists) > seen, "DP402", f"it was not back {within} of a kubelet's restart")

    async def _unplug(self, serve: Serve) -> None:
        if self._settings.unplug is None:
            return
        seen, within = len(self._lists), f"within {self._settings.patience_s:g} s"
        done = self._settings.unplug()
        if inspect.isawaitable(done):
            await done
        await self._expect(
            lambda: len(self._lists) > seen or serve.has_ended(self._plugin),
            "DP212",
            f"no list came {within} of the change",
        )

    async def _expect(self, condition: Callable[[], bool], code: str, meaning: str) -> None:
        """Wait for what the plugin should do, and note what it means that it does not."""
        try:
            await self._kubelet.until(condition, timeout_s=self._settings.patience_s)
        except ConditionNotMet:
            self._found.add(code, meaning)


def _has_come_to_something(pod: Pod) -> bool:
    return pod.is_over or pod.status in ("Running", "CreateContainerConfigError")
