"""Disks whose health a command tells: exit status 0 is good. All are asked at the same time, and none for longer than 10 s.

    python examples/03_health.py

A disk that has failed is healthy again when it has been well for five minutes. The log says what was wrong with it.
"""

import asyncio
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator, Sequence

from devplugin import Device, DevicePluginBase, Health, run
from devplugin.damping import Damping
from devplugin.sources import every

ANSWERS_WITHIN_S = 10.0


class Disks(DevicePluginBase):
    resource_name = "example.com/disk"

    def __init__(
        self,
        paths: Sequence[str],
        command: Sequence[str] = ("smartctl", "--health"),
        *,
        interval_s: float = 60.0,
        well_for_s: float = 300.0,
    ) -> None:
        self._paths = paths
        self._command = command
        self._interval_s = interval_s
        self._damping = Damping(well_for_s)

    async def devices(self) -> AsyncIterator[list[Device]]:
        async for _ in self._damping.wakeups(every(self._interval_s)):
            faults = await asyncio.gather(*(self._fault_of(path) for path in self._paths))
            disks = [
                Device.at(path, health=Health.UNHEALTHY if fault else Health.HEALTHY)
                for path, fault in zip(self._paths, faults, strict=True)
            ]
            reasons = {disk.id: fault for disk, fault in zip(disks, faults, strict=True) if fault}
            yield self._damping.hold(disks, reasons)

    async def _fault_of(self, path: str) -> str | None:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, path, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
            )
        except OSError as error:
            return f"{self._command[0]} cannot be started: {error.strerror}"
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                output, _ = await process.communicate()
        except TimeoutError:
            return f"no answer within {ANSWERS_WITHIN_S:g} s"
        finally:
            if process.returncode is None:  # it was late, or the plugin ends
                process.kill()
                await process.wait()
        if process.returncode == 0:
            return None
        last_line = output.decode(errors="replace").strip().rpartition("\n")[2]
        return f"{self._command[0]} ended with {process.returncode}: {last_line}"


if __name__ == "__main__":
    run(Disks(["/dev/sda", "/dev/sdb"]))
