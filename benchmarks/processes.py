"""A plugin's process: start it, drive it, and read from /proc what it costs."""

import os
import select
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_END_S = 10.0
_PREPARED_S = 120.0
MIB = 2**20


class BenchmarkError(Exception):
    """A measurement cannot be made: a sentence that says why."""


@dataclass(frozen=True)
class Memory:
    """Of a process, in bytes: resident, its share of what it shares, and what is its own alone."""

    rss: int
    pss: int
    private: int


class Process:
    """A process in the environment of a service: no variables but these, its log in a file, a pipe for its input."""

    def __init__(self, command: Sequence[str | Path], log: Path, **environment: str) -> None:
        variables = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8", **environment}
        self.log = log
        with log.open("ab") as errors:
            self.started_ns = time.monotonic_ns()
            self._process = subprocess.Popen(
                [str(part) for part in command],
                env=variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
            )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """SIGTERM, and SIGKILL when that does not help."""
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def say(self, line: str) -> None:
        """A line for its standard input."""
        assert self._process.stdin
        self._process.stdin.write(line.encode() + b"\n")

    def heard(self, timeout_s: float = _PREPARED_S) -> str:
        """The next line of its standard output."""
        assert self._process.stdout
        readable, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        line = self._process.stdout.readline() if readable else b""
        if not line:
            raise BenchmarkError(f"a plugin said nothing:\n{self.tail()}")
        return line.decode().strip()

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-2000:]

    def check_running(self) -> None:
        """Raise when it has ended."""
        if self._process.poll() is not None:
            raise BenchmarkError(f"a plugin has ended with status {self._process.returncode}:\n{self.tail()}")

    def memory(self) -> Memory:
        fields = _fields(f"/proc/{self.pid}/smaps_rollup")
        kib = {name: int(value.split()[0]) for name, value in fields.items() if value.endswith("kB")}
        private = kib["Private_Clean"] + kib["Private_Dirty"]
        return Memory(kib["Rss"] * 1024, kib["Pss"] * 1024, private * 1024)

    def threads(self) -> int:
        return int(_fields(f"/proc/{self.pid}/status")["Threads"])

    def switches(self) -> int:
        """Context switches of all threads so far, voluntary or not."""
        counts = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            fields = _fields(f"{task}/status")
            counts += int(fields["voluntary_ctxt_switches"]) + int(fields["nonvoluntary_ctxt_switches"])
        return counts

    def cpu_ns(self) -> int:
        """The processor time of all threads so far."""
        return time.clock_gettime_ns(~self.pid << 3 | 2)  # the clock of another process (clock_getcpuclockid(3))


def _fields(file: str) -> dict[str, str]:
    lines = Path(file).read_text().splitlines()
    return {name: value.strip() for name, colon, value in (line.partition(":") for line in lines) if colon}
