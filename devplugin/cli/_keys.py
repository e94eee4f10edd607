"""A line of input that is edited while the screen above it changes."""

import asyncio
import codecs
import os
import re
import termios
import tty
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from types import TracebackType
from typing import Any, Self

__all__ = ["Key", "Keyboard"]


class Key(Enum):
    """What is pressed and is not text."""

    RESTART = "\x12"  # Ctrl-R
    QUIT = "\x04"  # Ctrl-D


# Cursor keys and the like.
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?")
_BACKSPACE, _KILL_LINE, _ENTER = ("\x7f", "\x08"), "\x15", ("\r", "\n")


class Keyboard:
    """The terminal's input, key by key, as a context manager; the terminal is afterwards as it was before.

    Attributes:
        text: The line so far.
    """

    def __init__(self, descriptor: int, changed: Callable[[], None]) -> None:
        self.text = ""
        self._descriptor = descriptor
        self._changed = changed
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pressed: asyncio.Queue[str | Key] = asyncio.Queue()
        self._before: list[Any] = []

    def __repr__(self) -> str:
        return f"<Keyboard of descriptor {self._descriptor}: {self.text!r}>"

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)  # Ctrl-C is a signal still
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        with suppress(termios.error):  # the terminal may have gone
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    async def next(self) -> str | Key:
        """The next line that was entered, or the next key that is no text."""
        return await self._pressed.get()

    def _read(self) -> None:
        try:
            read = os.read(self._descriptor, 4096)
        except OSError:  # the terminal has gone
            read = b""
        if not read:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            self._pressed.put_nowait(Key.QUIT)
        for letter in _SEQUENCE.sub("", self._decoder.decode(read)):
            self._press(letter)
        self._changed()

    def _press(self, letter: str) -> None:
        if letter in _ENTER:
            self._pressed.put_nowait(self.text)
            self.text = ""
        elif letter in _BACKSPACE:
            self.text = self.text[:-1]
        elif letter == _KILL_LINE:
            self.text = ""
        elif letter == Key.RESTART.value or (letter == Key.QUIT.value and not self.text):
            self._pressed.put_nowait(Key(letter))
        elif letter.isprintable():
            self.text += letter
