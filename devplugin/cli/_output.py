"""What the subcommands print: tables for people, JSON for programs."""

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from types import FrameType
from typing import Any, TextIO, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = [
    "console",
    "device_table",
    "example",
    "health_text",
    "output_option",
    "plain",
    "print_json",
    "run_interruptibly",
    "simple_table",
]

Command = TypeVar("Command", bound=Callable[..., Any])
T = TypeVar("T")

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


def run_interruptibly(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run ``main`` to its end; SIGTERM cancels it as SIGINT does.

    A second signal breaks into whatever blocks.

    Raises:
        KeyboardInterrupt: A signal ended it.
    """

    async def with_sigterm() -> T:
        # asyncio's own handler: it cancels this task at the first signal, and raises at the second.
        interrupt = signal.getsignal(signal.SIGINT)
        before = signal.signal(signal.SIGTERM, interrupt if callable(interrupt) else _raise)
        try:
            return await main()
        finally:
            signal.signal(signal.SIGTERM, before)

    return asyncio.run(with_sigterm())


def _raise(number: int, frame: FrameType | None) -> None:
    """The handler for SIGTERM where SIGINT is ignored, as in a shell's background job."""
    del number, frame
    raise KeyboardInterrupt
