"""The hooks, called over the plugin's socket as a kubelet calls them."""

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from devplugin._proto.v1beta1 import ContainerAllocateResponse
from devplugin.testing._check._answers import clashes, lost, missing_paths, secrets
from devplugin.testing._check._found import Found, errors_of_hooks
from devplugin.testing._check._lists import some
from devplugin.testing._check._topology import missing_topology
from devplugin.testing._client import PluginClient
from devplugin.testing._grpc import RpcError
from devplugin.testing._records import Call, Snapshot

__all__ = ["HookCalls"]

SLOW_S = 1.0
_DEVICES_MAX = 16
_UNKNOWN = "devplugin-check-no-such-device"


class HookCalls:
    """Calls the hooks of one plugin.

    Args:
        client: The kubelet's connection to it.
        snapshot: The newest list.
        found: Where findings go.
        host_root: Where the node's file system is to be seen.
        patience_s: How long an answer may take.
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
        """DP301 to DP308 and DP210."""
        for device in self.healthy:
            answer = await self._allocate([device])
            if answer is None:
                return  # the others would be refused, or late, as well
            self.answers[device] = answer
            again = await self._allocate([device])
            if again is not None and again != answer:
                self._found.add_of_device([("DP301", "allocate() answered something else the second time")], device)
            self._look_at(device, answer)
        for one, other in pairwise(self.healthy):
            await self._allocate_both(one, other)
        await self._allocate_what_is_not_offered()
        if self._slowest_s > SLOW_S:
            self._found.add("DP302", f"an Allocate took {self._slowest_s:.1f} s")

    def _look_at(self, device: str, answer: ContainerAllocateResponse) -> None:
        self._found.add_of_device(missing_paths(answer, self._host_root), device)
        self._found.add_of_device(secrets(answer), device)
        if not self._snapshot.numa_nodes.get(device):
            self._found.add_of_device(missing_topology(answer, self._host_root), device)

    async def _allocate_both(self, one: str, other: str) -> None:
        names = clashes(self.answers[one], self.answers[other])
        both = await self._allocate([one, other], clashing=names)
        if both is not None and (names := lost(self.answers[one], self.answers[other], both)):
            self._found.add_of_device(
                [("DP305", f"together with the next device it is given only one value of {some(names)}")], one
            )

    async def _allocate(self, ids: Sequence[str], clashing: Sequence[str] = ()) -> ContainerAllocateResponse | None:
        """The answer for these devices, or None after the refusal has been noted."""
        started_at, subject = time.monotonic(), f"{self._found.name}, device {' and '.join(ids)}"
        with errors_of_hooks() as errors:
            try:
                async with asyncio.timeout(self._patience_s):
                    [answer] = await self._client.allocate(ids)
            except TimeoutError:
                self._found.add("DP302", f"an Allocate was not answered within {self._patience_s:g} s", subject)
                return None
            except RpcError as error:
                if clashing:
                    self._found.add("DP305", f"both set {some(clashing)}, and are refused together: {error}", subject)
                elif errors.newest is not None:
                    self._found.add_error("DP303", errors.newest, f"allocate() of {' and '.join(ids)}")
                else:
                    self._found.add("DP303", f"it is healthy, and refused: {error}", subject)
                return None
        self._slowest_s = max(self._slowest_s, time.monotonic() - started_at)
        return answer

    async def _allocate_what_is_not_offered(self) -> None:
        unhealthy = [device for device, health in self._snapshot.devices.items() if health != "Healthy"]
        for device, what in [
            (_UNKNOWN, "that is not in its list"),
            *((each, "that is unhealthy") for each in unhealthy[:1]),
        ]:
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._client.allocate([device])
            except (RpcError, TimeoutError):
                continue
            self._found.add("DP304", f"Allocate gave a container the device {device!r} {what}")

    async def prefer(self, newest_call: Callable[[], Call]) -> None:
        """DP309: one, some, with one that must be among them, and all."""
        ids = self.healthy
        for size, must_include in ((1, []), (2, []), (2, ids[-1:]), (len(ids), [])):
            if size > len(ids):
                continue
            with errors_of_hooks() as errors:
                await self._client.preferred(ids, must_include, size)
            if errors.newest is not None:
                self._found.add_error("DP309", errors.newest, f"preferred_allocation() for {size} of {len(ids)}")
                return
            wrong = _wrong_preference(newest_call())
            if wrong:
                self._found.add(
                    "DP309", f"asked for {size} of {len(ids)} devices, preferred_allocation() answered {wrong}"
                )


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
