"""How a plugin is named, and what is said of one that cannot be had."""

from pathlib import Path

import pytest

from devplugin.cli._load import Unusable, load_plugin
from tests.cli.conftest import SEATS, Run

PLUGIN = """
from devplugin import DevicePluginBase

class {0}(DevicePluginBase):
    resource_name = "example.com/{0}"
    async def devices(self):
        yield []
"""


@pytest.mark.parametrize("reference", ["seats.py", "seats.py:Seats", "./seats.py", "seats:Seats", "seats"])
def test_by_file_and_by_module(folder: Path, reference: str) -> None:
    """The class can be left out where there is one; a module is looked for in the working directory too."""
    del folder
    assert load_plugin(reference).resource_name == "example.com/seat"


def test_an_object_by_its_name(folder: Path) -> None:
    """For a plugin that is built with arguments."""
    (folder / "built.py").write_text(
        "from seats import Seats\nmine = Seats()\nmine.resource_name = 'example.com/mine'\n"
    )
    assert load_plugin("built.py:mine").resource_name == "example.com/mine"


def test_a_file_of_a_package(folder: Path) -> None:
    """Its relative imports work, as they do when the package is installed."""
    package = folder / "outer" / "inner"
    package.mkdir(parents=True)
    for place in (package, package.parent):
        (place / "__init__.py").touch()
    (package / "names.py").write_text("NAME = 'example.com/inner'\n")
    (package / "plugin.py").write_text(
        f"from .names import NAME\n{PLUGIN.format('Inner')}\nInner.resource_name = NAME\n"
    )
    assert load_plugin("outer/inner/plugin.py").resource_name == "example.com/inner"


def test_a_file_with_the_name_of_a_module(folder: Path) -> None:
    """It is that file that is loaded, whatever else has the name."""
    (folder / "json.py").write_text(SEATS)
    assert load_plugin("json.py").resource_name == "example.com/seat"


def test_a_frozen_subclass_of_device_in_a_file(folder: Path) -> None:
    """Dataclasses look their module up."""
    (folder / "typed.py").write_text(
        "from dataclasses import dataclass\nfrom devplugin import Device\n"
        "@dataclass(frozen=True, slots=True, kw_only=True)\nclass Gpu(Device):\n    bus: 'str'\n"
        + PLUGIN.format("Gpus")
    )
    assert load_plugin("typed.py").resource_name == "example.com/Gpus"


def complaint(reference: str) -> str:
    with pytest.raises(Unusable) as caught:
        load_plugin(reference)
    assert caught.value.exit_code == 2
    return caught.value.format_message()


def test_no_such_file(folder: Path) -> None:
    """The path is quoted; a folder is no file."""
    assert complaint("nothing.py") == "There is no file nothing.py."
    (folder / "folder.py").mkdir()
    assert complaint("folder.py:X") == "There is no file folder.py."
    assert complaint("./seats") == "There is no file seats."


def test_a_file_that_is_no_python_file(folder: Path) -> None:
    """Its name says so."""
    (folder / "seats.txt").touch()
    assert complaint("./seats.txt") == "seats.txt is no Python file: its name must end in .py."


def test_no_such_module(folder: Path) -> None:
    """It says where it looked, and what may have been meant."""
    assert complaint("nothing.at.all:X").startswith(
        f"There is no module 'nothing.at.all' to import, looked for in {folder}"
    )
    assert "There is no module ''" in complaint(":Seats")
    assert complaint("seats.Seats").endswith("Did you mean seats:Seats?")


def test_no_such_class(folder: Path) -> None:
    """The choices are named."""
    assert complaint("seats.py:Seat") == "seats.py has no 'Seat': it has Seats."
    (folder / "empty.py").touch()
    assert complaint("empty.py:Seat") == "empty.py has no 'Seat': and no plugin at all."


def test_several_classes_or_none(folder: Path) -> None:
    """Imported ones do not count, nor do those that are not complete."""
    (folder / "two.py").write_text(
        f"from seats import Seats\nfrom devplugin import DevicePluginBase\nclass Half(DevicePluginBase): ...\n"
        f"{PLUGIN.format('A')}{PLUGIN.format('B')}"
    )
    assert complaint("two.py") == "two.py defines 2 plugins: say two.py:A or two.py:B."
    assert load_plugin("two.py:Seats").resource_name == "example.com/seat"
    (folder / "none.py").write_text("from seats import Seats\n")
    assert "none.py defines no plugin" in complaint("none.py")


def test_something_that_is_no_plugin(folder: Path) -> None:
    """It says what it is instead, or what is missing."""
    (folder / "other.py").write_text(
        "import math\nfrom devplugin import DevicePluginBase\nclass Half(DevicePluginBase): ...\nclass Other: ...\n"
    )
    assert "other.py:math is no plugin, but <module 'math'" in complaint("other.py:math")
    assert "other.py:Other is no plugin, but <class " in complaint("other.py:Other")
    assert complaint("other.py:Half") == "other.py:Half is not complete: it lacks devices()."


def test_a_class_that_needs_arguments(folder: Path) -> None:
    """They are named, and what to do."""
    (folder / "needy.py").write_text(
        PLUGIN.format("Needy") + "    def __init__(self, place, *rest, card, colour='red', **more): ...\n"
    )
    assert complaint("needy.py") == (
        "needy.py:Needy cannot be built without place, card: give the parameters of its __init__ defaults, "
        "or name an object instead of the class."
    )


def test_an_error_in_the_authors_file(folder: Path) -> None:
    """Their own traceback, from their first line on."""
    (folder / "broken.py").write_text("def f():\n    return 1 / 0\n\nf()\n")
    said = complaint("broken.py")
    assert said.startswith(
        "broken.py cannot be used: the error is in its code.\n\nTraceback (most recent call last):\n"
    )
    assert said.endswith("ZeroDivisionError: division by zero")
    assert [line for line in said.splitlines() if line.startswith("  File")] == [
        f'  File "{folder}/broken.py", line 4, in <module>',
        f'  File "{folder}/broken.py", line 2, in f',
    ]


def test_an_error_of_the_syntax(folder: Path) -> None:
    """Where it is; there are no frames to show."""
    (folder / "broken.py").write_text("def f(:\n")
    said = complaint("broken.py")
    assert "SyntaxError" in said
    assert f'File "{folder}/broken.py", line 1' in said
    assert "importlib" not in said


def test_an_import_that_fails_in_the_authors_file(folder: Path) -> None:
    """A module of theirs that is missing is not mistaken for the one that was named."""
    (folder / "broken.py").write_text("import no_such_library\n")
    assert "No module named 'no_such_library'" in complaint("broken")
    package = folder / "package"
    package.mkdir()
    (package / "__init__.py").write_text("1 / 0\n")
    assert "ZeroDivisionError" in complaint("package.plugin:X")
    (package / "plugin.py").touch()
    assert "ZeroDivisionError" in complaint("package/plugin.py")


def test_an_error_when_it_is_built(folder: Path) -> None:
    """The same, with the class's name."""
    (folder / "broken.py").write_text(
        PLUGIN.format("Broken") + "    def __init__(self):\n        raise OSError('no driver')\n"
    )
    said = complaint("broken.py")
    assert said.startswith("broken.py:Broken cannot be used: the error is in its code.")
    assert said.endswith("OSError: no driver")


def test_a_file_that_ends_the_program(folder: Path) -> None:
    """As one does that serves when it is imported."""
    (folder / "ends.py").write_text("import sys\nsys.exit(3)\n")
    assert complaint("ends.py") == (
        "ends.py ended the program while it was imported. Put what it runs below: if __name__ == '__main__':"
    )


def test_an_interrupt_while_it_is_imported(folder: Path) -> None:
    """It is the user's, and no error of the file's."""
    (folder / "slow.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load_plugin("slow.py")


def test_the_command_says_it(run: Run) -> None:
    """On standard error, with status 2."""
    result = run("manifest", "nothing.py", "--image", "x")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "Error: There is no file nothing.py.\n")
