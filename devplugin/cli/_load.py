"""Plugins by name: ``module:Class`` or ``file.py:Class``."""

import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from devplugin import DevicePluginBase

__all__ = ["Unusable", "authors_traceback", "load_plugin", "plugin_argument"]

Command = TypeVar("Command", bound=Callable[..., Any])
Plugin = DevicePluginBase[Any]

# Frames before the author's own code: ours, and those of the import.
_NOT_THE_AUTHORS = (f"{Path(__file__).parents[1]}{os.sep}", str(Path(importlib.__file__).parent), "<frozen importlib")


class Unusable(click.ClickException):
    """The plugin that was named cannot be had: a sentence, after the author's traceback where the error is in their code."""

    exit_code = 2


def plugin_argument(*, nargs: int = 1) -> Callable[[Command], Command]:
    """The argument that names a plugin, or with ``nargs=-1`` several."""
    return click.argument(
        "plugin",
        metavar="PLUGIN" if nargs == 1 else "PLUGIN...",
        nargs=nargs,
        required=True,
        shell_complete=lambda ctx, param, incomplete: [CompletionItem(incomplete, type="file")],  # noqa: ARG005  (click's)
    )


def load_plugin(reference: str) -> Plugin:
    """An object of the class that ``module:Class`` or ``file.py:Class`` names; the name may be that of an object.

    Without a name it is the only class of a plugin that is defined there.

    Raises:
        Unusable: It cannot be imported, found or built.
    """
    place, _, name = reference.partition(":")
    with redirect_stdout(sys.stderr):  # what the author's code prints is not the command's output
        module = _import(place)
        found = _only_plugin(module, place) if not name else _named(module, place, name)
        return found if isinstance(found, DevicePluginBase) else _build(found, f"{place}:{found.__name__}")


def authors_traceback(error: BaseException) -> str:
    """The traceback from the author's first line on: what came before is not theirs."""
    shown = traceback.TracebackException.from_exception(error)
    frames = [*shown.stack]
    while frames and frames[0].filename.startswith(_NOT_THE_AUTHORS):
        del frames[0]
    shown.stack = traceback.StackSummary.from_list(frames)
    return "".join(shown.format()).rstrip()


def _import(place: str) -> ModuleType:
    if place.endswith(".py") or "/" in place:
        return _import_file(Path(place))
    # As `python -m` does: the command's own folder comes first on the path of an installed script.
    _put_first(Path.cwd())
    try:
        is_there = importlib.util.find_spec(place) is not None
    except (ModuleNotFoundError, ValueError):  # a package before the last dot is not there; no name at all
        is_there = False
    except BaseException as error:
        raise _in_their_code(error, place) from error
    if not is_there:
        before, _, name = place.rpartition(".")
        hint = f" Did you mean {before}:{name}?" if before and name[:1].isupper() else ""
        raise Unusable(f"There is no module {place!r} to import, looked for in {Path.cwd()} and in this Python.{hint}")
    return _run_module(lambda: importlib.import_module(place), place)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise Unusable(f"There is no file {path}.")
    package = path.resolve().parent
    parts = [path.stem]
    while (package / "__init__.py").exists():  # a module of a package: its relative imports need the package
        parts.insert(0, package.name)
        package = package.parent
    _put_first(package)
    if len(parts) > 1:
        return _run_module(lambda: importlib.import_module(".".join(parts)), str(path))
    return _run_module(lambda: _load_alone(path), str(path))


def _load_alone(path: Path) -> ModuleType:
    # Not its stem alone: that may be a module of Python's, or one that is imported already.
    name = f"plugin_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Unusable(f"{path} is no Python file: its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _put_first(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _run_module(load: Callable[[], ModuleType], place: str) -> ModuleType:
    try:
        return load()
    except click.ClickException:
        raise
    except BaseException as error:
        raise _in_their_code(error, place) from error


def _in_their_code(error: BaseException, what: str) -> BaseException:
    """What to raise for an error of the author's code."""
    if isinstance(error, KeyboardInterrupt):
        return error
    if isinstance(error, SystemExit):
        return Unusable(
            f"{what} ended the program while it was imported. Put what it runs below: if __name__ == '__main__':"
        )
    return Unusable(f"{what} cannot be used: the error is in its code.\n\n{authors_traceback(error)}")


def _plugins_in(module: ModuleType) -> list[type[Plugin]]:
    return [
        thing
        for thing in vars(module).values()
        if inspect.isclass(thing)
        and issubclass(thing, DevicePluginBase)
        and thing.__module__ == module.__name__
        and not inspect.isabstract(thing)
    ]


def _only_plugin(module: ModuleType, place: str) -> type[Plugin]:
    plugins = _plugins_in(module)
    if len(plugins) == 1:
        return plugins[0]
    if not plugins:
        raise Unusable(
            f"{place} defines no plugin: a class derived from DevicePluginBase that has devices(). "
            f"An object or an imported class has to be named: {place}:NAME"
        )
    choices = " or ".join(f"{place}:{plugin.__name__}" for plugin in plugins)
    raise Unusable(f"{place} defines {len(plugins)} plugins: say {choices}.")


def _named(module: ModuleType, place: str, name: str) -> type[Plugin] | Plugin:
    try:
        found = getattr(module, name)
    except AttributeError:
        names = [plugin.__name__ for plugin in _plugins_in(module)]
        there = f"it has {', '.join(names)}" if names else "and no plugin at all"
        raise Unusable(f"{place} has no {name!r}: {there}.") from None
    if isinstance(found, DevicePluginBase):
        return found
    if not inspect.isclass(found) or not issubclass(found, DevicePluginBase):
        raise Unusable(f"{place}:{name} is no plugin, but {found!r}: a plugin's class derives from DevicePluginBase.")
    return found


def _build(plugin: type[Plugin], what: str) -> Plugin:
    if inspect.isabstract(plugin):
        raise Unusable(f"{what} is not complete: it lacks {', '.join(sorted(plugin.__abstractmethods__))}().")
    needed = [
        parameter.name
        for parameter in inspect.signature(plugin).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise Unusable(
            f"{what} cannot be built without {', '.join(needed)}: give the parameters of its __init__ defaults, "
            "or name an object instead of the class."
        )
    try:
        return plugin()
    except BaseException as error:
        raise _in_their_code(error, what) from error
