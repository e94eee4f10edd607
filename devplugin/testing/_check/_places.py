"""Whose code a frame or an error is in, and where."""

import linecache
import os
import traceback
from functools import lru_cache
from pathlib import Path
from sysconfig import get_path
from types import FrameType
from typing import NamedTuple

import devplugin

__all__ = ["Place", "place_of_error", "place_of_frame"]

_OURS = f"{Path(devplugin.__file__).parent}{os.sep}"
_CHECK = str(Path(__file__).parent)
_STANDARD = (get_path("stdlib"), get_path("platstdlib"), "<")  # "<string>" is a dataclass's __init__, whoever's it is
_INSTALLED = ("site-packages", "dist-packages")
# What calls the coroutines: the frames outside are those of the program that started the loop.
_LOOP = tuple(str(Path("asyncio", name)) for name in ("events.py", "base_events.py", "runners.py"))


class Place(NamedTuple):
    """A line of a function."""

    function: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})"

    @property
    def source(self) -> str:
        """What is written there."""
        return linecache.getline(self.file, self.line).strip()


def place_of_frame(frame: FrameType | None, own_files: frozenset[str]) -> Place | None:
    """The innermost place of the author's in what the loop runs; None when it runs nothing of the author's.

    Args:
        frame: The innermost frame of the loop's thread.
        own_files: Files that are the author's wherever they are installed.
    """
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_CHECK) or file.endswith(_LOOP):
            return None
        if _is_the_authors(file, own_files):
            return Place(frame.f_code.co_qualname, file, frame.f_lineno)
        frame = frame.f_back
    return None


def place_of_error(error: BaseException, own_files: frozenset[str]) -> Place | None:
    """Where in the author's code an error came up; None when it did elsewhere."""
    for entry in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_the_authors(entry.filename, own_files):
            return Place(entry.name, entry.filename, entry.lineno or 0)
    return None


@lru_cache(maxsize=1024)
def _is_the_authors(file: str, own_files: frozenset[str]) -> bool:
    if file in own_files:
        return True
    return not file.startswith((_OURS, *_STANDARD)) and not any(part in Path(file).parts for part in _INSTALLED)
