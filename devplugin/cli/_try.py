"""``devplugin try``: a plugin on an embedded kubelet."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from types import FrameType, TracebackType
from typing import Any, Self

import click
from rich.console import Console

from devplugin import DevicePluginBase, DevicePluginError
from devplugin.cli._answer import answer, answer_document
from devplugin.cli._app import INTERRUPTED
from devplugin.cli._live import play
from devplugin.cli._load import authors_traceback, load_plugin, plugin_argument
from devplugin.cli._output import (
    console,
    counted,
    device_table,
    example,
    output_option,
    print_json,
    progress,
    run_interruptibly,
)
from devplugin.cli._trial import Trial, refusal
from devplugin.testing import Pod
from devplugin.testing._versions import VERSIONS

__all__ = ["command"]

_NEWEST_BUT_ONE = "1.36"
_FAILED = 1
_NOT_FOUND, _NOT_EXECUTABLE, _BY_SIGNAL = 127, 126, 128  # a shell's
_ENDS_WITHIN_S = 5.0
_OPTIONS = ("pre_start_required", "get_preferred_allocation_available")


@click.command(
    epilog=example(
        "devplugin try serial_ports.py",
        "devplugin try serial_ports.py --allocate 2",
        "devplugin try serial_ports.py -- env",
    )
)
@plugin_argument()
@click.argument("program", metavar="[-- PROGRAM...]", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--allocate",
    "counts",
    metavar="N",
    type=click.IntRange(min=1),
    multiple=True,
    help="Give a pod so many devices, show what its container gets, and end. Several times: several pods.",
)
@click.option("--free", is_flag=True, help="With --allocate: free each pod's devices before the next one comes.")
@click.option(
    "--kubernetes",
    "version",
    type=click.Choice([*VERSIONS]),
    default=_NEWEST_BUT_ONE,
    show_default=True,
    help="Whose kubelet's behaviour.",
)
@click.option(
    "--within",
    "within_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="How long the first list of devices may take.",
)
@output_option("one JSON document, without a prompt or a program")
def command(
    plugin: str,
    program: tuple[str, ...],
    counts: tuple[int, ...],
    version: str,
    within_s: float,
    output: str,
    *,
    free: bool,
) -> None:
    """Try a plugin on a kubelet inside this command: no node, no cluster, no root.

    On a terminal: its devices live, and a prompt that allocates, frees and restarts the kubelet. With --allocate, with a
    program or elsewhere: once, and the end.

    A program is started with this command's environment and the variables that the plugin gave for the devices (one, if
    --allocate does not say otherwise); mounts and device nodes are shown, but not made. Its exit status is passed on.

    The exit status is otherwise 0, or 1 when a pod was refused or the plugin failed.
    """
    if program and output == "json":
        raise click.UsageError("A program and --output json would both write to standard output: choose one.")
    if program and len(counts) > 1:
        raise click.UsageError("A program is one container: say --allocate once.")
    found = load_plugin(plugin)
    is_prompt = not counts and not program and output == "text" and _is_interactive()
    out = None if output == "json" else console()
    stdout = sys.stdout

    async def run() -> int:
        async with Trial.of(found, version) as trial:
            await _first_list(trial, within_s)
            if program:
                return await _run_program(trial, counts, program)
            if is_prompt and out:
                await play(trial, out)
                return 0
            answers = await _show(trial, counts, out, free=free)
            if out is None:
                print_json(_document(trial, answers), file=stdout)
            return _FAILED if any(answer["refused"] for answer in answers) else 0

    try:
        # What the plugin prints is not the output; the prompt has it above its table.
        with nullcontext() if is_prompt else redirect_stdout(sys.stderr):
            status = run_interruptibly(run)
    except ExceptionGroup as group:
        raise _why(group, found) from group
    except KeyboardInterrupt:
        status = 0 if is_prompt else INTERRUPTED  # to leave the prompt so is well
    if status:
        raise SystemExit(status)


def _is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


async def _first_list(trial: Trial, within_s: float) -> None:
    with progress("waiting for the plugin's first list of devices"):
        await trial.first_list(within_s)


async def _allocate(trial: Trial, count: int, out: Console | None) -> Pod:
    """A pod with so many devices, whose answer is shown, if it is to be."""
    with progress(f"the kubelet allocates {count}"):
        pod = await trial.allocate(count)
    if out is not None:
        out.print(answer(pod, trial.resource))
    return pod


async def _show(trial: Trial, counts: Sequence[int], out: Console | None, *, free: bool) -> list[dict[str, object]]:
    """What a pod for each count got; shown with the devices, if there is where to."""
    if out is not None:
        _print_devices(out, trial)
    answers = []
    for count in counts:
        pod = await _allocate(trial, count, out)
        answers.append(answer_document(pod, trial.resource))
        if free:
            pod.delete()
    return answers


def _document(trial: Trial, answers: Sequence[dict[str, object]]) -> object:
    listed = trial.devices
    return {
        "resource": trial.resource,
        "options": {name: getattr(trial.options, name) for name in _OPTIONS},
        "devices": [
            {"id": device_id, "health": health, "numa_nodes": listed.numa_nodes.get(device_id, ())}
            for device_id, health in listed.devices.items()
        ],
        "pods": answers,
    }


def _print_devices(out: Console, trial: Trial) -> None:
    listed = trial.devices
    out.print(f"{trial.resource}: {counted(len(listed.devices))}")
    if listed.devices:
        rows = ((name, health, listed.numa_nodes.get(name, ())) for name, health in listed.devices.items())
        out.print(device_table(rows))
    out.print()


async def _run_program(trial: Trial, counts: Sequence[int], program: Sequence[str]) -> int:
    """Start the program with what a pod gets, and return its exit status; standard output is the program's alone."""
    out = console(stderr=True)
    [count] = counts or [1]
    pod = await _allocate(trial, count, out)
    if refusal(pod):
        return _FAILED
    environment = os.environ | pod.containers["main"].options.envs
    with _Signals() as signals:
        try:
            process = await asyncio.create_subprocess_exec(*program, env=environment)
        except FileNotFoundError:
            out.print(f"There is no program {program[0]}.")
            return _NOT_FOUND
        except OSError as error:
            out.print(f"{program[0]} cannot be started: {error.strerror}.")
            return _NOT_EXECUTABLE
        signals.go_to(process)
        try:
            status = await process.wait()
        finally:
            if process.returncode is None:  # the plugin has ended
                await _end(process)
    return status if status >= 0 else _BY_SIGNAL - status


class _Signals:
    """SIGINT and SIGTERM are the program's while it runs, and it may end well after one: its own end counts.

    At a terminal the program gets Ctrl-C itself; all other signals are passed on. Those that come while it is being started
    wait for it, and so a Ctrl-C of that moment can reach it twice.
    """

    def __init__(self) -> None:
        self._program: asyncio.subprocess.Process | None = None
        self._waiting: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):  # SIGINT may be ignored, and stays so
                self._before[number] = handler
                signal.signal(number, self._take)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def go_to(self, program: asyncio.subprocess.Process) -> None:
        """The program runs."""
        self._program = program
        for number in self._waiting:
            _send(program, number)

    def _take(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._program is None:
            self._waiting.append(number)
        elif number == signal.SIGTERM or not sys.stdin.isatty():
            _send(self._program, number)


def _send(program: asyncio.subprocess.Process, number: int) -> None:
    """Not by its own method: that takes the status of a program that has just ended away from asyncio."""
    with suppress(ProcessLookupError):
        os.kill(program.pid, number)


async def _end(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    try:
        async with asyncio.timeout(_ENDS_WITHIN_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _why(group: ExceptionGroup[Exception], plugin: DevicePluginBase[Any]) -> click.ClickException:
    """Why the trial ended: a sentence where there is one for people, else after the author's traceback."""
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, DevicePluginError):
        return click.ClickException(f"{error}.")
    return click.ClickException(
        f"{type(plugin).__name__} ended, as it would on a node, with this error:\n\n{authors_traceback(error)}"
    )
