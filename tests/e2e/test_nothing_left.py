"""A run leaves nothing on the machine, however it ends. Needs root, and what `tests/e2e/run build` makes."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from . import outside
from .paths import HERE, cache

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Traces:
    """What a node could leave behind."""

    mounts: frozenset[str]
    groups: frozenset[str]
    interfaces: frozenset[str]
    processes: frozenset[str]
    states: frozenset[str]


def _traces() -> Traces:
    return Traces(
        mounts=frozenset(line for line in Path("/proc/self/mounts").read_text().splitlines() if _could_be_ours(line)),
        groups=frozenset(folder for folder, _, _ in os.walk("/sys/fs/cgroup")),
        interfaces=frozenset(path.name for path in Path("/sys/class/net").iterdir()),
        processes=frozenset(f"{process.name} {command[0]}" for process, command in _node_processes()),
        states=frozenset(path.name for path in (cache() / "nodes").iterdir()),
    )


def _processes() -> Iterator[tuple[Path, list[str]]]:
    """Every process that is to be seen: its folder, and its command."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile, or is hidden from us
                yield process, (process / "cmdline").read_text().split("\0")


def _node_processes() -> Iterator[tuple[Path, list[str]]]:
    for process, command in _processes():
        if Path(command[0]).parent == cache() / "bin" or "e2e" in command:
            yield process, command


def _namespaces(processes: Iterable[tuple[Path, list[str]]]) -> set[str]:
    found: set[str] = set()
    for process, _ in processes:
        with contextlib.suppress(OSError):
            found.update(str(link.readlink()) for link in (process / "ns").iterdir())
    return found


def _nodes_own_namespaces() -> set[str]:
    return _namespaces(_node_processes()) - _namespaces([(Path("/proc/self"), [])])


def _could_be_ours(mount: str) -> bool:
    """Whether the line of `/proc/self/mounts` is of a place that the node mounts at: others come and go."""
    at = Path(mount.split()[1])
    return any(at.is_relative_to(place) for place in (cache(), "/var", "/run", "/proc", "/sys"))


@contextlib.contextmanager
def _node_up() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([HERE / "run", "up"], stdout=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout is not None
            lines = []
            for line in run.stdout:
                lines.append(line)
                if " up. " in line:
                    break
            else:
                pytest.fail(f"the node did not come up:\n{''.join(lines)}")
            yield run
        finally:
            run.kill()


def _send(number: signal.Signals) -> Callable[[subprocess.Popen[str]], None]:
    return lambda run: run.send_signal(number)


def _send_twice(run: subprocess.Popen[str]) -> None:
    run.send_signal(signal.SIGINT)
    run.send_signal(signal.SIGINT)


def _kill_first_process(run: subprocess.Popen[str]) -> None:
    """The node's first process dies: a failure of the worst kind."""
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    first = Path(f"/proc/{children[0]}/task/{children[0]}/children").read_text().split()
    os.kill(int(first[0]), signal.SIGKILL)


@pytest.fixture(scope="module", autouse=True)
def _machine() -> None:
    outside.check_machine()
    (cache() / "nodes").mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize(
    ("end", "statuses"),
    [
        pytest.param(_send(signal.SIGINT), {130}, id="Ctrl-C"),
        pytest.param(_send_twice, {130}, id="Ctrl-C twice"),
        pytest.param(_send(signal.SIGTERM), {143}, id="SIGTERM"),
        pytest.param(_kill_first_process, {1, 137}, id="the first process dies"),
    ],
)
def test_nothing_is_left(end: Callable[[subprocess.Popen[str]], None], statuses: set[int]) -> None:
    """Not a mount, control group, interface, process, namespace or file."""
    before = _traces()
    with _node_up() as run:
        assert _traces().groups != before.groups
        namespaces = _nodes_own_namespaces()
        assert len(namespaces) >= len(("mnt", "net", "pid", "uts", "ipc", "cgroup"))
        end(run)
        assert run.wait(60) in statuses
    assert _traces() == before
    assert not namespaces & _namespaces(_processes())


def test_killed_with_9_leaves_only_what_the_next_run_removes() -> None:
    """Processes, mounts and interfaces go with it at once; empty groups and the state folder with the next run."""
    before = _traces()
    with _node_up() as run:
        run.kill()
        run.wait()
    deadline = time.monotonic() + 20
    while (now := _traces()).processes != before.processes and time.monotonic() < deadline:
        time.sleep(0.05)
    assert now.processes == before.processes
    assert now.interfaces == before.interfaces
    assert now.mounts == before.mounts
    with _node_up() as run:
        run.send_signal(signal.SIGTERM)
        run.wait(60)
    assert _traces() == before


def test_two_at_once_do_not_meet() -> None:
    """Each has namespaces, a control group and a folder of its own."""
    before = _traces()
    with _node_up() as one, _node_up() as two:
        assert one.poll() is None
        for run in (one, two):
            run.send_signal(signal.SIGINT)
            assert run.wait(60) == 130
    assert _traces() == before
