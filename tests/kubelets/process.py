"""One device manager process (built by `build.py`): lines in, lines out, its events and its end."""

import asyncio
import contextlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .answers import Event, NodeStatus

LINE_LIMIT_BYTES = 256 << 20
"""100,000 devices with long ids are some 10 MB in one line."""
END_S = 10.0


class DriverError(Exception):
    """The device manager did not do what was asked; the text has what was seen of it."""


class UnsupportedError(DriverError):
    """This version of Kubernetes has no such thing."""


class DriverProcess:
    """The process, what it has said, and the questions it has yet to answer."""

    def __init__(self) -> None:
        self.node = NodeStatus({}, {}, [])
        """The device plugin resources in the node's status, as of now."""
        self.events: list[Event] = []
        """All that it did unasked, since its start."""
        self.log: deque[str] = deque(maxlen=5000)
        """The newest lines of the kubelet's log."""
        self._process: asyncio.subprocess.Process | None = None
        self._seq = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._changed = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._ended = False

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None and not self._ended

    @property
    def pid(self) -> int:
        if self._process is None:
            raise DriverError("the device manager has not been started")
        return self._process.pid

    async def spawn(self, command: Sequence[str | Path]) -> Event:
        """Start the process; gives its `started` event.

        Raises:
            DriverError: It ended at once, or says nothing.
        """
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, limit=LINE_LIMIT_BYTES
        )
        self._reader = asyncio.create_task(self._read(), name=f"output of {command[0]}")
        try:
            return await self.event("started", timeout_s=END_S)
        except BaseException:
            await self.kill()
            raise

    async def kill(self) -> None:
        """Kill it (SIGKILL), if it is there still, and wait until it has gone."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self.gone()

    async def gone(self) -> None:
        """Wait for its end."""
        if self._process is None or self._reader is None:
            return
        await self._process.wait()
        await self._reader  # it ends with the pipes
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def command(self, op: str, *, timeout_s: float = 60.0, **arguments: object) -> Any:
        """Send a command and give the result.

        Raises:
            DriverError: It was refused, was not answered in time, or the process has ended.
            UnsupportedError: This version of Kubernetes does not have it.
        """
        if not self.alive or self._process is None or self._process.stdin is None:
            raise self.error(f"cannot {op}: it has ended or was never started")
        seq = next(self._seq)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[seq] = answer
        try:
            self._process.stdin.write(json.dumps({"op": op, "seq": seq, **arguments}).encode() + b"\n")
            async with asyncio.timeout(timeout_s):
                result = await answer
        except TimeoutError:
            raise self.error(f"{op} was not answered within {timeout_s} s") from None
        finally:
            self._pending.pop(seq, None)
        if isinstance(result, dict) and "error" in result:
            kind = UnsupportedError if result.get("unsupported") else DriverError
            raise kind(f"{op}: {result['error']}")
        return result

    async def event(self, name: str, *, after: int = 0, timeout_s: float = 10.0, **fields: object) -> Event:
        """Wait for an event with these fields, among those from the index `after` of `events` on.

        Raises:
            DriverError: There was none in that time, or the process ended.
        """

        def matching() -> Event | None:
            for event in itertools.islice(self.events, after, None):
                if event.name == name and all(event.fields.get(key) == value for key, value in fields.items()):
                    return event
            return None

        await self.until(lambda: matching() is not None, f"the event {name} {fields or ''}", timeout_s)
        found = matching()
        assert found is not None
        return found

    async def until(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Wait until a condition on what was said holds; it is looked at after each line.

        Raises:
            DriverError: It did not in that time, or the process ended.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    if self._ended:
                        raise self.error(f"it ended before {what}")
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise self.error(f"no {what} within {timeout_s} s") from None

    def error(self, what: str) -> DriverError:
        """An error with what was seen."""
        seen = [f"{self!r}: {what}", str(self.node)]
        seen += ["the newest events:", *(f"  {event}" for event in self.events[-15:])]
        log = list(self.log)
        crash = next((number for number, line in enumerate(log) if line.startswith("panic:")), len(log))
        seen += ["the end of its log:", *(f"  {line}" for line in log[max(crash - 15, 0) : crash + 20])]
        return DriverError("\n".join(seen))

    async def _read(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read_log())
                group.create_task(self._read_lines())
        finally:
            self._ended = True
            for answer in self._pending.values():
                if not answer.done():
                    answer.set_exception(self.error("it ended without an answer"))
            self._changed.set()

    async def _read_lines(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._take(json.loads(line))
            self._changed.set()

    def _take(self, message: dict[str, Any]) -> None:
        name, t_s = message.pop("event"), message.pop("t_s")
        if name == "answer":
            answer = self._pending.get(message["seq"])
            if answer is not None and not answer.done():
                answer.set_result(message["result"])
            return
        if name == "capacity":
            self.node = NodeStatus(**message)
        self.events.append(Event(name, t_s, message))

    async def _read_log(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.log.append(line.decode(errors="replace").rstrip())
