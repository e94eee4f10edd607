"""What has been found so far, and what raised it."""

import inspect
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from devplugin.plugin import DevicePluginBase
from devplugin.testing._check._lists import Breach, some
from devplugin.testing._check._places import place_of_error
from devplugin.testing._check._rules import RULES, Finding

__all__ = ["Found", "errors_of", "own_files_of"]


class Found:
    """The findings of one plugin. What is found of several devices is one finding."""

    def __init__(self, plugin: DevicePluginBase[Any]) -> None:
        self.name = type(plugin).__name__
        self._own_files = own_files_of(plugin)
        self._findings: list[Finding] = []
        self._of_devices: dict[Breach, list[str]] = {}

    def __repr__(self) -> str:
        return f"<Found {sorted(self.codes)} of {self.name}>"

    @property
    def codes(self) -> set[str]:
        """The codes of what was found."""
        return {finding.code for finding in self.all()}

    def go_back_to(self, findings: Iterable[Finding]) -> None:
        """Forget what else has been found."""
        self._findings, self._of_devices = [*findings], {}

    def take(self, findings: Iterable[Finding]) -> None:
        """Note findings that are made already."""
        self._findings += findings

    def add(self, code: str, meaning: str, subject: str = "") -> None:
        """Note a breach; without a subject it is the plugin's as a whole."""
        self._findings.append(RULES[code].finding(subject or self.name, meaning))

    def add_all(self, breaches: Iterable[Breach], subject: str = "") -> None:
        """Note breaches of one subject."""
        for code, meaning in breaches:
            self.add(code, meaning, subject)

    def add_of_device(self, breaches: Iterable[Breach], device: str) -> None:
        """Note breaches of a device."""
        for breach in breaches:
            devices = self._of_devices.setdefault(breach, [])
            if device not in devices:
                devices.append(device)

    def add_error(self, code: str, error: BaseException, what: str) -> None:
        """Note that something of the plugin's raised."""
        place = place_of_error(error, self._own_files)
        self.add(code, f"{what} raised {type(error).__name__}: {error}", str(place or ""))

    def all(self) -> Iterator[Finding]:
        """The findings."""
        yield from self._findings
        for (code, meaning), devices in self._of_devices.items():
            yield RULES[code].finding(f"{self.name}, device {some(devices)}", meaning)


def own_files_of(plugin: DevicePluginBase[Any]) -> frozenset[str]:
    """The files that the methods of the plugin's class are written in, and of its bases but for ours."""
    classes = [each for each in type(plugin).__mro__ if each not in DevicePluginBase.__mro__]
    functions = [
        inspect.unwrap(value) for each in classes for value in vars(each).values() if inspect.isfunction(value)
    ]
    return frozenset(function.__code__.co_filename for function in functions)


class _Errors(logging.Handler):
    """Keeps what a hook raised, but for refusals."""

    def __init__(self, hook: str) -> None:
        super().__init__()
        self._hook = hook
        self.unexpected: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and self._hook in record.getMessage():
            self.unexpected = record.exc_info[1]


@contextmanager
def errors_of(hook: str) -> Iterator[_Errors]:
    """What a hook raises while it lasts.

    A peer is told only the kind of it, and devplugin's log has the rest. That goes nowhere else meanwhile: it would
    complain of calls that are made to be refused.
    """
    handler, logger = _Errors(hook), logging.getLogger("devplugin.service")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield handler
    finally:
        logger.propagate = propagate
        logger.setLevel(level)
        logger.removeHandler(handler)
