"""The fake kubelet: a node of one, its scheduler, and a kubelet on it that can be stopped and started."""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio

from devplugin.testing._client import PluginClient
from devplugin.testing._clock import Clock
from devplugin.testing._containers import Container
from devplugin.testing._node import Node
from devplugin.testing._pods import Pod, RestartPolicy
from devplugin.testing._records import Call, Records, Registration, Resource, Snapshot
from devplugin.testing._registration import KUBELET_SOCKET
from devplugin.testing._run import KubeletRun
from devplugin.testing._runtime import Runtime
from devplugin.testing._versions import behaviour_of

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

__all__ = ["FakeKubelet"]


class FakeKubelet:
    """A kubelet for tests: it serves ``kubelet.sock`` in a directory and treats plugins as the real one does.

    ::

        async with FakeKubelet(tmp_path) as kubelet:
            ...                                                # start the plugin on the same directory
            await kubelet.allocatable("demo/sample-device", 4)
            pod = await kubelet.create_pod("demo", {"demo/sample-device": 2}).running()
            print(pod.containers["main"].options.envs)

    What differs from a real node: the node's status follows at once instead of within 10 s, the scheduler too; delays
    have no jitter; containers are plain processes, or nothing at all; there are no probes, images and networks.

    Args:
        directory: The kubelet's device plugin directory; it is made when it is not there.
        version: Whose behaviour to show: ``"1.20"``, or ``"1.34"`` to ``"1.37"``.
        clock: The clock of all delays. The default ticks with the real time, and can be advanced.
        rng: Where the kubelet chooses at random (which devices, in which order), this does.

    Raises:
        ValueError: The version is not known, or the path of the directory is too long for a socket.
    """

    def __init__(
        self,
        directory: str | Path,
        version: str = "1.36",
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.directory = Path(directory).absolute()
        self.clock = clock or Clock()
        self._behaviour = behaviour_of(version)
        self._node = Node(self._behaviour, self.clock)
        self._rng = rng or random.Random()  # noqa: S311 - nothing is secret here
        self._records = Records(self._node.look_around)
        self._one_at_a_time = anyio.Lock()
        self._tasks: TaskGroup | None = None
        self._runtime: Runtime | None = None
        self._holder: asyncio.Task[None] | None = None
        self._leave: asyncio.Event | None = None

    def __repr__(self) -> str:
        resources = ", ".join(f"{name} {each.allocatable}/{each.capacity}" for name, each in self.resources.items())
        state = "running" if self._node.run else "stopped"
        return f"<FakeKubelet {self.version} {state} in {self.directory}: {resources or 'no resources'}; {len(self.pods)} pods>"

    async def __aenter__(self) -> Self:
        # The task group lives in a task of its own: a fixture may be left in another task than it was entered in.
        self._leave = asyncio.Event()
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._holder = asyncio.create_task(self._hold(entered, self._leave), name="fake kubelet")
        try:
            await entered
        except BaseException:
            self._leave.set()
            await asyncio.wait([self._holder])
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._leave is not None
        assert self._holder is not None
        self._leave.set()
        with anyio.CancelScope(shield=True):
            await self._holder

    async def _hold(self, entered: asyncio.Future[None], leave: asyncio.Event) -> None:
        async with anyio.create_task_group() as self._tasks:
            self._runtime = Runtime(self._tasks)
            try:
                await self.start()
                if not entered.done():  # who enters may have been cancelled
                    entered.set_result(None)
                await leave.wait()
            except Exception as error:  # noqa: BLE001 - goes to the one who enters
                entered.set_exception(error)
            finally:
                with anyio.CancelScope(shield=True):
                    await self.stop()
                self._tasks.cancel_scope.cancel()
        self._tasks = None

    # The kubelet's life ---------------------------------------------------------------------------------------------

    @property
    def version(self) -> str:
        """Whose behaviour it shows."""
        return self._behaviour.version

    @property
    def socket(self) -> Path:
        """Where it serves Register."""
        return self.directory / KUBELET_SOCKET

    @property
    def is_running(self) -> bool:
        """Whether it has been started, and not stopped since."""
        return self._node.run is not None

    async def start(self) -> None:
        """Start the kubelet on the directory: clean it, make kubelet.sock anew, read the checkpoint, admit the pods again.

        Raises:
            RuntimeError: It runs, or the context has not been entered.
            OSError: The socket cannot be made.
        """
        async with self._one_at_a_time:
            await self._start()

    async def _start(self) -> None:
        if self._node.run is not None or self._tasks is None or self._runtime is None:
            raise RuntimeError(f"{self!r} cannot be started: it runs, or its context is not entered")
        run = KubeletRun(
            self.directory,
            self._behaviour,
            self.clock,
            self._rng,
            self._records,
            self._node.look_around,
            self._runtime,
            lambda: self._node.bound,
        )
        await self._tasks.start(run.run, name="fake kubelet: run")
        self._node.run = run
        run.admit_again()
        self._node.look_around()

    async def stop(self) -> None:
        """Stop the kubelet: its connections end with GOAWAY, containers run on, kubelet.sock stays as a stale file."""
        await self._end(abruptly=False)

    async def kill(self) -> None:
        """End the kubelet as ``kill -9`` would: no GOAWAY, connections just end."""
        await self._end(abruptly=True)

    async def restart(self) -> None:
        """Stop the kubelet and start it again."""
        await self.stop()
        await self.start()

    async def _end(self, *, abruptly: bool) -> None:
        async with self._one_at_a_time:
            if self._node.run is not None:
                run, self._node.run = self._node.run, None
                await run.stop(abruptly=abruptly)
                self._node.changes.notify()

    # What it knows and has seen -------------------------------------------------------------------------------------

    @property
    def resources(self) -> Mapping[str, Resource]:
        """The node's resources by name. While the kubelet is stopped, there are none."""
        return self._node.resources

    @property
    def registrations(self) -> list[Registration]:
        """Every Register call that was answered, oldest first."""
        return self._records.registrations

    @property
    def refusals(self) -> list[Registration]:
        """Those that were refused."""
        return [registration for registration in self.registrations if registration.error is not None]

    @property
    def snapshots(self) -> list[Snapshot]:
        """Every list that came over a ListAndWatch stream, oldest first."""
        return self._records.snapshots

    @property
    def calls(self) -> list[Call]:
        """Every call that the kubelet made to use devices, oldest first."""
        return self._records.calls

    @property
    def log(self) -> list[str]:
        """What the kubelet has logged about plugins, oldest first."""
        return self._records.log

    @property
    def pods(self) -> Mapping[str, Pod]:
        """The pods by name."""
        return self._node.pods

    async def allocatable(self, resource: str, count: int, *, timeout_s: float = 10.0) -> Resource:
        """Wait until so many devices of a resource are allocatable.

        Args:
            resource: The resource's name.
            count: The number of healthy devices; 0 also when the resource is not known.
            timeout_s: Real seconds to wait at most.

        Raises:
            ConditionNotMet: The time is over. The text says what was seen instead.
        """
        return await self._resource(
            resource, lambda seen: seen.allocatable == count, f"{count} allocatable", timeout_s=timeout_s
        )

    async def capacity(self, resource: str, count: int, *, timeout_s: float = 10.0) -> Resource:
        """Wait until a resource has so many devices, healthy or not; otherwise as `allocatable`.

        Raises:
            ConditionNotMet: The time is over. The text says what was seen instead.
        """
        return await self._resource(
            resource, lambda seen: seen.capacity == count, f"a capacity of {count}", timeout_s=timeout_s
        )

    async def registered(self, resource: str, *, count: int = 1, timeout_s: float = 10.0) -> Registration:
        """Wait until a resource has been registered so many times in all, and return the newest registration.

        Raises:
            ConditionNotMet: The time is over. The text says what was seen instead.
        """

        def reached() -> Registration | None:
            accepted = [each for each in self.registrations if each.resource == resource and each.error is None]
            return accepted[-1] if len(accepted) >= count else None

        return await self._node.changes.until(
            reached, timeout_s=timeout_s, unmet=lambda: self._instead(resource, f"registered {count} times")
        )

    async def until(
        self, condition: Callable[[], object], what: str = "The condition", *, timeout_s: float = 10.0
    ) -> None:
        """Wait until `condition` returns something true. It is looked at whenever something changes on the node.

        Args:
            condition: A look at what the kubelet and the pods show, without side effects.
            what: The subject of the error's sentence.
            timeout_s: Real seconds to wait at most.

        Raises:
            ConditionNotMet: The time is over. The text says how things are instead.
        """
        await self._node.changes.until(
            lambda: True if condition() else None,
            timeout_s=timeout_s,
            unmet=lambda: (
                f"{what} did not come true. {self!r}: {list(self.pods.values())}. Log: {self.log[-5:] or 'empty'}"
            ),
        )

    def _client_of(self, resource: str) -> PluginClient:
        """The connection to the plugin of a resource, for `check_plugin`; a KubeletError when there is none."""
        assert self._node.run is not None
        return self._node.run.manager.endpoint_of(resource).running_client()

    async def _resource(
        self, resource: str, suits: Callable[[Resource], bool], wanted: str, *, timeout_s: float
    ) -> Resource:
        def reached() -> Resource | None:
            seen = self.resources.get(resource, Resource(capacity=0, allocatable=0))
            return seen if suits(seen) else None

        return await self._node.changes.until(
            reached, timeout_s=timeout_s, unmet=lambda: self._instead(resource, wanted)
        )

    def _instead(self, resource: str, wanted: str) -> str:
        snapshots = [each for each in self.snapshots if each.resource == resource]
        registrations = [each for each in self.registrations if each.resource == resource]
        return (
            f"{resource} was to have {wanted}. The kubelet, {'running' if self._node.run else 'stopped'}, sees "
            f"{self.resources.get(resource, 'no such resource')}. Registrations: {registrations or 'none'}. "
            f"Newest list: {snapshots[-1] if snapshots else 'none'}. Other resources: "
            f"{sorted(set(self.resources) - {resource}) or 'none'}. Log: {self.log[-5:] or 'empty'}"
        )

    # Pods -----------------------------------------------------------------------------------------------------------

    def create_pod(
        self,
        name: str,
        limits: Mapping[str, int] | None = None,
        *,
        containers: Iterable[Container] = (),
        init_containers: Sequence[Container] = (),
        restart_policy: RestartPolicy = "Always",
        bound: bool = False,
    ) -> Pod:
        """Create a pod (``kubectl apply``). It is scheduled when it fits.

        Args:
            name: Its name, of which there may be one at a time.
            limits: For a pod of one container, ``main``: the devices it gets. Otherwise say `containers`.
            containers: Its containers.
            init_containers: Its init containers and sidecars.
            restart_policy: As in the pod's spec.
            bound: Bypass the scheduler: the pod is on the node, whether it fits or not.

        Raises:
            ValueError: The name is taken; both or neither of `limits` and `containers` are given; or this version knows no
                sidecars.
        """
        specs = list(containers)
        sidecars = [init.name for init in init_containers if init.restarts]
        if sidecars and not self._behaviour.knows_sidecars:
            raise ValueError(
                f"Kubernetes {self.version} knows no init container that restarts: {', '.join(map(repr, sidecars))}"
            )
        if (limits is None) == (not specs):
            raise ValueError("Say either the limits of the one container, or the containers")
        if limits is not None:
            specs = [Container("main", limits)]
        return self._node.create(name, specs, init_containers, restart_policy, bound=bound)
