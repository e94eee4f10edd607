"""What the subcommands print: tables for people, JSON for programs."""

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TextIO, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = [
    "console",
    "counted",
    "device_table",
    "example",
    "health_text",
    "output_option",
    "plain",
    "print_json",
    "progress",
    "run_interruptibly",
    "simple_table",
]

Command = TypeVar("Command", bound=Callable[..., Any])
T = TypeVar("T")

# The first asks for the end, the second breaks into what blocks; who sends a third does not want to wait for the rest.
_PATIENCE_SIGNALS = 2
_UNWRAPPED = 10_000  # columns: what is not read on a terminal is not broken into lines


def example(*commands: str) -> str:
    """The end of a subcommand's help: commands that can be copied."""
    return "\n".join(["\b", "Example:" if len(commands) == 1 else "Examples:", *(f"  {each}" for each in commands)])


def output_option(what: str) -> Callable[[Command], Command]:
    """The option ``--output``; ``what`` says what JSON it is."""
    return click.option(
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help=f"For people, or for programs: {what}.",
    )


def console(*, stderr: bool = False) -> Console:
    """Where text goes: in colour and in the terminal's width only if it is one."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNWRAPPED
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def print_json(document: object, *, lines: bool = False, file: TextIO | None = None) -> None:
    """One JSON document; as a line of several, if ``lines``."""
    click.echo(json.dumps(document, indent=None if lines else 2), file=file)


def plain(text: str) -> str:
    """A text of somebody else's without what would move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def counted(devices: int) -> str:
    """So many devices, in words."""
    return "1 device" if devices == 1 else f"{devices} devices"


def health_text(health: str) -> Text:
    """A device's health, in its colour."""
    return Text(plain(health), style="green" if health == "Healthy" else "red")


def simple_table(*columns: str) -> Table:
    """A table without lines, as kubectl's are."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def device_table(devices: Iterable[tuple[str, str, Sequence[int]]]) -> Table:
    """A table of devices: their ids, health and NUMA nodes."""
    table = simple_table("DEVICE", "HEALTH", "NUMA")
    for device_id, health, numa_nodes in devices:
        table.add_row(plain(device_id), health_text(health), ", ".join(map(str, numa_nodes)))
    return table


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Say what is waited for, while it is waited for, if somebody is there to see it."""
    if sys.stderr.isatty():
        with console(stderr=True).status(what):
            yield
    else:
        yield


def run_interruptibly(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run ``main`` to its end. SIGINT, SIGTERM or SIGHUP (the terminal has gone) cancels it, and the next one breaks into
    whatever blocks the loop.

    It is run until it has ended and closed what it opened, unless a third signal comes.

    Raises:
        KeyboardInterrupt: A signal ended it.
    """
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(main())
        with _cancelled_by_signals(task) as signals:
            while not task.done():
                try:
                    loop.run_until_complete(asyncio.wait([task]))
                except KeyboardInterrupt:  # out of what blocked, or of who waited for that: the rest ends in order
                    if len(signals) > _PATIENCE_SIGNALS:
                        raise
    if task.cancelled() or isinstance(task.exception(), KeyboardInterrupt):
        raise KeyboardInterrupt
    return task.result()


@contextmanager
def _cancelled_by_signals(task: asyncio.Task[Any]) -> Iterator[Sequence[int]]:
    """The first signal cancels the task, those after it are a KeyboardInterrupt; all that have come."""
    signals: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        del frame
        signals.append(number)
        if len(signals) > 1:
            raise KeyboardInterrupt
        task.cancel()
        task.get_loop().call_soon_threadsafe(lambda: None)  # wakes the loop

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        # A shell's background job ignores SIGINT, and what nohup starts SIGHUP.
        if number == signal.SIGTERM or handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
