"""The kubelet's side of the measurements, a Go program, as an object."""

import json
import select
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from .processes import BenchmarkError

_ANSWER_S = 600.0
_EVENT_S = 120.0


class List(NamedTuple):
    """A list that a plugin sent: how many devices, in how many bytes, when its stream was opened, and when it came."""

    devices: int
    size: int
    asked_ns: int
    arrived_ns: int
    decoded_ns: int


class Kubelet:
    """Listens on kubelet.sock in a directory from `start()` on. Times are nanoseconds of the monotonic clock."""

    def __init__(self, program: Path, directory: Path) -> None:
        self.directory = directory
        self._process = subprocess.Popen(
            [program, "-dir", directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._unread = b""
        self.registered: dict[str, int] = {}
        """When each resource was last registered."""
        self.lists: dict[str, list[List]] = {}
        """The lists of each resource, in order, since `forget()`, as far as they were not taken."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def command(self, op: str, **arguments: object) -> Any:
        """Have a command carried out and give its result."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"op": op, **arguments}).encode() + b"\n")
        deadline_s = time.monotonic() + _ANSWER_S
        while (message := self._message(deadline_s))["event"] not in ("answer", "failure"):
            self._note(message)
        if message["event"] == "failure":
            raise BenchmarkError(f"the kubelet cannot {op}: {message['error']}")
        return message["result"]

    def start(self) -> int:
        """Listen; returns when that began."""
        return int(self.command("start"))

    def allocate(self, resource: str, ids: Sequence[str], count: int) -> list[int]:
        """How long each of `count` calls took, one after the other."""
        return list(self.command("allocate", resource=resource, ids=ids, count=count))

    def forget(self, resource: str) -> None:
        self.lists[resource] = []

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_s: float = _EVENT_S) -> None:
        """Take events until the condition holds. It may also raise, and is asked at least once a second."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise BenchmarkError(f"{what}: not within {timeout_s:g} s")
            with suppress(TimeoutError):
                self._note(self._message(min(deadline_s, time.monotonic() + 1)))

    def _note(self, message: dict[str, Any]) -> None:
        resource = message["resource"]
        if message["event"] == "registered":
            self.registered[resource] = message["ns"]
        elif message["event"] == "list":
            fields = ("devices", "bytes", "asked_ns", "arrived_ns", "decoded_ns")
            self.lists.setdefault(resource, []).append(List(*(message[field] for field in fields)))
        elif message["event"] == "ended":
            self.registered.pop(resource, None)

    def _message(self, deadline_s: float) -> dict[str, Any]:
        assert self._process.stdout
        while b"\n" not in self._unread:
            readable, _, _ = select.select([self._process.stdout], [], [], max(0, deadline_s - time.monotonic()))
            if not readable:
                raise TimeoutError
            data = self._process.stdout.read(2**20)
            if not data:
                raise BenchmarkError("the kubelet has ended")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message
