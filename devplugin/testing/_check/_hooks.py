"""The hooks, called over the plugin's socket as a kubelet calls them."""

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from devplugin._proto.v1beta1 import ContainerAllocateResponse
from devplugin.testing._check._answers import clashes, lost, missing_paths, secrets
from devplugin.testing._check._found import Found, errors_of
from devplugin.testing._check._lists import some
from devplugin.testing._check._topology import missing_topology
from devplugin.testing._client import PluginClient
from devplugin.testing._grpc import RpcError
from devplugin.testing._records import Call, Snapshot

__all__ = ["HookCalls"]

SLOW_S = 1.0
_DEVICES_MAX = 16
_DEVICES_OF_A_SLOW_PLUGIN = 2
_UNKNOWN = "devplugin-check-no-such-device"


class HookCalls:
    """Calls the hooks of one plugin.

    Args:
        client: The kubelet's connection to it.
        snapshot: The newest list.
        found: Where findings go.
        host_root: Where the node's file system is to be seen.
        patience_s: How long an answer may take.

    Attributes:
        healthy: The devices that hooks are called with: of many, some.
        answers: What Allocate gives a container with each of them.
    """

    def __init__(
        self, client: PluginClient, snapshot: Snapshot, found: Found, host_root: Path, patience_s: float
    ) -> None:
        self._client = client
        self._snapshot = snapshot
        self._found = found
        self._host_root = host_root
        self._patience_s = patience_s
        self._slowest_s = 0.0
        self.healthy = _sample([device for device, health in snapshot.devices.items() if health == "Healthy"])
        self.answers: dict[str, ContainerAllocateResponse] = {}

    def __repr__(self) -> str:
        return f"<HookCalls on {self._client!r}, {len(self.answers)} answers>"

    async def allocate(self) -> None:
        """DP301 to DP308 and DP210: each device alone, twice; two together; and what must be refused."""
        for device in self.healthy:
            if not await self._allocate_twice(device):
                return  # the others would be refused, or late, as well
            if self._slowest_s > SLOW_S and len(self.answers) == _DEVICES_OF_A_SLOW_PLUGIN:
                break  # all of them would take minutes
        for one, other in pairwise(self.answers):
            if not await self._allocate_both(one, other):
                break
        if self._slowest_s > SLOW_S:
            self._found.add("DP302", f"an Allocate took {self._slowest_s:.1f} s")
        await self._allocate_what_is_not_offered()

    async def _allocate_twice(self, device: str) -> bool:
        answer = await self._allocate([device])
        if answer is None:
            return False
        self.answers[device] = answer
        again = await self._allocate([device])
        if again is not None and again != answer:
            self._found.add_of_device([("DP301", "allocate() answered something else the second time")], device)
        self._found.add_of_device(missing_paths(answer, self._host_root), device)
        self._found.add_of_device(secrets(answer), device)
        if not self._snapshot.numa_nodes.get(device):
            self._found.add_of_device(missing_topology(device, answer, self._host_root), device)
        return again is not None

    async def _allocate_both(self, one: str, other: str) -> bool:
        """Whether one container can have two devices that can be had alone."""
        clashing = clashes(self.answers[one], self.answers[other])
        both = await self._allocate([one, other], clashing)
        if both is None:
            return False
        names = lost(self.answers[one], self.answers[other], both)
        if names:
            self._found.add(
                "DP305", f"together they are given one value only of {some(names)}", self._devices(one, other)
            )
        return not names

    async def _allocate(self, ids: Sequence[str], clashing: Sequence[str] = ()) -> ContainerAllocateResponse | None:
        """The answer for these devices, or None after it has been noted that there is none.

        Args:
            ids: The devices.
            clashing: The variables that they set differently, which may be why they are refused.
        """
        started_at, subject = time.monotonic(), self._devices(*ids)
        with errors_of("allocate") as errors:
            try:
                async with asyncio.timeout(self._patience_s):
                    answers = await self._client.allocate(ids)
            except TimeoutError:
                self._found.add("DP302", f"an Allocate was not answered within {self._patience_s:g} s", subject)
                return None
            except RpcError as error:
                if clashing:
                    self._found.add("DP305", f"both set {some(clashing)}, and are refused together: {error}", subject)
                elif errors.unexpected is not None:
                    self._found.add_error("DP303", errors.unexpected, f"allocate() of {' and '.join(ids)}")
                else:
                    self._found.add("DP303", f"healthy, and refused: {error}", subject)
                return None
        self._slowest_s = max(self._slowest_s, time.monotonic() - started_at)
        if len(answers) != 1:
            self._found.add("DP303", f"Allocate for one container was answered for {len(answers)}", subject)
            return None
        return answers[0]

    async def _allocate_what_is_not_offered(self) -> None:
        unhealthy = [device for device, health in self._snapshot.devices.items() if health != "Healthy"]
        wrong = {_UNKNOWN: "is in no list", **dict.fromkeys(unhealthy[:1], "is unhealthy")}
        for device, why in wrong.items():
            with errors_of("allocate"):
                try:
                    async with asyncio.timeout(self._patience_s):
                        await self._client.allocate([device])
                except (RpcError, TimeoutError):
                    continue
            self._found.add("DP304", f"Allocate gave a container {device!r}, which {why}")

    async def prefer(self, newest_call: Callable[[], Call]) -> None:
        """DP309: one device, two, two of which one is chosen already, and all.

        Args:
            newest_call: The kubelet's record of the call that has just been made.
        """
        ids = self.healthy
        for size, must_include in ((1, []), (2, []), (2, ids[-1:]), (len(ids), [])):
            asked = f"asked for {size} of {len(ids)} devices, preferred_allocation()"
            with errors_of("preferred_allocation") as errors:
                try:
                    async with asyncio.timeout(self._patience_s):
                        await self._client.preferred(ids, must_include, min(size, len(ids)))
                except TimeoutError:
                    self._found.add("DP309", f"{asked} was not answered within {self._patience_s:g} s")
                    return
                except RpcError as error:
                    self._found.add("DP309", f"{asked} failed: {error}")
                    return
            if errors.unexpected is not None:
                self._found.add_error("DP309", errors.unexpected, "preferred_allocation()")
                return
            wrong = _wrong_preference(newest_call())
            if wrong:
                self._found.add("DP309", f"{asked} answered {wrong}")
                return

    def _devices(self, *ids: str) -> str:
        return f"{self._found.name}, device{'s' if len(ids) > 1 else ''} {' and '.join(ids)}"


def _wrong_preference(call: Call) -> str | None:
    answer = call.device_ids
    unknown = [each for each in answer if each not in call.available]
    missing = [each for each in call.must_include if each not in answer]
    if not answer:  # no preference
        return None
    if len(set(answer)) < len(answer):
        return "the same device twice"
    if unknown:
        return f"what is not available: {some(unknown)}"
    if len(answer) != call.size:
        return f"{len(answer)} devices"
    return f"without {some(missing)}, which must be included" if missing else None


def _sample(ids: Sequence[str]) -> list[str]:
    """Some of them, from the first to the last."""
    step = max(1, -(-len(ids) // _DEVICES_MAX))
    return [*ids[::step]]
