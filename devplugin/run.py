"""``run()``: plugins as a process of their own."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any

from devplugin._kubelet import DEVICE_PLUGIN_DIRECTORY
from devplugin.errors import ConfigurationError, DevicePluginError
from devplugin.plugin import DevicePluginBase

__all__ = ["run"]

log = logging.getLogger("devplugin.run")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Formatter(logging.Formatter):
    """The line, and the details that devplugin's records carry, as key=value."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        details: dict[str, object] = getattr(record, "details", {})
        return " ".join([super().formatMessage(record), *(f"{key}={value}" for key, value in details.items())])


def run(*plugins: DevicePluginBase[Any], kubelet_dir: str | os.PathLike[str] = DEVICE_PLUGIN_DIRECTORY) -> None:
    """Serve the plugins until SIGTERM or SIGINT, in this process and thread; a second signal ends it at once.

    Logging is set up to standard error, from INFO on, unless somebody has set it up already.

    Args:
        plugins: One for each resource.
        kubelet_dir: The directory of kubelet.sock.

    Raises:
        SystemExit: With status 1 when a plugin cannot go on, after one line that says why.
        ConfigurationError: There is no plugin, two are for one resource, or this is not the main thread.
    """
    if not plugins:
        raise ConfigurationError("run() needs at least one plugin")
    by_resource(plugins)
    run_until_signal(lambda: _serve(plugins, kubelet_dir))


def by_resource(plugins: Iterable[DevicePluginBase[Any]]) -> dict[str, DevicePluginBase[Any]]:
    """The plugins by the names of their resources.

    Raises:
        ConfigurationError: Something among them is no plugin, or two are for one resource.
    """
    found: dict[str, DevicePluginBase[Any]] = {}
    for plugin in plugins:
        if not isinstance(plugin, DevicePluginBase):
            raise ConfigurationError(
                f"plugin objects are needed, and {plugin!r} is none: is a pair of brackets missing?"
            )
        name: Any = getattr(plugin, "resource_name", None)  # serve() says what is wrong with it
        if name in found:
            raise ConfigurationError(f"two plugins for the resource {name!r}: a resource has one plugin in a process")
        found[name] = plugin
    return found


def run_until_signal(serve: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Be a process that serves: until the first signal, with logging, and an exit status that says how it ended.

    Raises:
        SystemExit: With status 1 when ``serve()`` raised, after one line that says why.
        ConfigurationError: This is not the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError(
            "to handle signals needs the main thread: elsewhere await serve() in a loop of your own"
        )
    _set_logging_up()
    try:
        asyncio.run(_until_signal(serve))
    except Exception as caught:
        error = _first(caught)
        expected = isinstance(error, DevicePluginError)
        log.critical("%s", error if expected else repr(error), exc_info=None if expected else error)
        sys.exit(1)


def _set_logging_up() -> None:
    ours = logging.getLogger("devplugin")
    if not ours.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(handler)
        if ours.level == logging.NOTSET:
            ours.setLevel(logging.INFO)


async def _until_signal(serve: Callable[[], Coroutine[Any, Any, None]]) -> None:
    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    assert main is not None

    def stop(number: signal.Signals) -> None:
        for each in _SIGNALS:  # the next one ends the process
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        log.info("%s: stopping", number.name)
        main.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop, number)
    with suppress(asyncio.CancelledError):  # by stop(): nobody else has this task
        await serve()


async def _serve(plugins: Sequence[DevicePluginBase[Any]], kubelet_dir: str | os.PathLike[str]) -> None:
    async with asyncio.TaskGroup() as group:
        for plugin in plugins:
            group.create_task(plugin.serve(kubelet_dir=kubelet_dir), name=plugin.resource_name)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
