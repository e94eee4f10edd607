"""``devplugin new``: a project of one's own."""

import keyword
import re
import sys
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from devplugin import ConfigurationError
from devplugin.cli._manifest import HostMount, check_image, daemonset, pod
from devplugin.cli._output import example, output_option, print_json
from devplugin.model import check_resource_name

__all__ = ["command"]

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# With a longer one the project's own lines would be too long.
_NAME_MAX = 30
_PATTERN = re.compile(r"[A-Za-z0-9_.-]*\*[A-Za-z0-9_.-]*")
# Names that another module of the project's has already.
_TAKEN = {
    *(
        "devplugin",
        "pytest_devplugin",
        "tests",
        "test",
        "anyio",
        "betterproto2",
        "click",
        "grpclib",
        "h2",
        "hatchling",
        "hpack",
    ),
    *("hyperframe", "mypy", "pytest", "pytest_asyncio", "rich", "ruff", "yaml"),
}
# How a file or folder begins in the template whose name begins with a dot: no tool takes it for its own there.
_DOT = "dot-"


@click.command(
    epilog=example(
        "devplugin new serial-ports",
        "devplugin new cameras --resource example.com/camera --pattern 'video*'",
    )
)
@click.argument("name")
@click.option("--resource", help="The resource that pods ask for.  [default: example.com/NAME]")
@click.option(
    "--pattern", default="ttyUSB*", show_default=True, help="Which nodes in /dev are the devices: a name with one '*'."
)
@click.option("--image", help="The name of its container image.  [default: registry.example.com/NAME:0.1.0]")
@output_option("one JSON document")
def command(name: str, resource: str | None, pattern: str, image: str | None, output: str) -> None:
    """Make the project NAME in a new folder: a plugin, its tests, image, manifests and CI.

    It passes its own tests and checks as it is. What is there is not overwritten: the exit status is 2.
    """
    resource, image = resource or f"example.com/{name}", image or f"registry.example.com/{name}:0.1.0"
    target = Path(name)
    try:
        _check_name(name)
        check_resource_name(resource)
        check_image(image)
        _check_pattern(pattern)
    except ConfigurationError as error:
        raise click.UsageError(f"{error}.") from error
    _check_target(target)
    try:
        files_made = _make(target, _words(name, resource, pattern, image))
    except OSError as error:
        raise click.ClickException(f"Cannot make {target}: {error.strerror}.") from error
    if output == "json":
        print_json({"directory": str(target), "resource": resource, "files": files_made})
        return
    click.echo(f"{name}: a plugin for {resource}, in {len(files_made)} files.\n\nWhat to do next:\n")
    for line in _next_steps(name):
        click.echo(f"  {line}".rstrip())


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > _NAME_MAX:
        raise ConfigurationError(
            f"the name {name!r} is not usable: it must be at most {_NAME_MAX} lower-case letters and digits, in words with "
            "'-' between them, a letter first"
        )
    package = name.replace("-", "_")
    if keyword.iskeyword(package) or package in sys.stdlib_module_names or package in _TAKEN:
        raise ConfigurationError(f"the name {name!r} is not usable: Python or the project has another {package}")


def _check_pattern(pattern: str) -> None:
    if not _PATTERN.fullmatch(pattern):
        raise ConfigurationError(
            f"the pattern {pattern!r} is not usable: it must be a name in /dev with one '*', such as 'video*'"
        )


def _check_target(target: Path) -> None:
    """Refuse a place where something is; an empty folder is nothing."""
    if target.is_symlink() or target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise click.UsageError(f"{target} is there already, and nothing is overwritten: choose another name or folder.")


def _words(name: str, resource: str, pattern: str, image: str) -> dict[str, str]:
    """What stands in the template, and what for."""
    words = [word.capitalize() for word in name.split("-")]
    return {
        "my_plugin": name.replace("-", "_"),
        "my-plugin": name,
        # Always with this ending: Device or Path would hide what the module imports.
        "MyPlugin": "".join(words if words[-1] == "Plugin" else [*words, "Plugin"]),
        "example.com/my-device": resource,
        "ttyUSB*": pattern,
        "tty-of-mine": pattern.replace("*", "0"),
        "the-image": image,
    }


def _make(target: Path, words: dict[str, str]) -> list[str]:
    """Write the project beside its place and then move it there: at any moment it is there whole, or not at all."""
    name, image = words["my-plugin"], words["the-image"]
    contents = {path: _filled_in(text, words) for path, text in _template()}
    contents["deploy/daemonset.yaml"] = daemonset(name, image, mounts=(HostMount("/dev"),))
    contents["deploy/pod.yaml"] = pod(f"{name}-user", "registry.example.com/app:1", words["example.com/my-device"])
    written = {_filled_in(path, words): text for path, text in contents.items()}
    with TemporaryDirectory(prefix=f".{name}-", dir=target.absolute().parent) as folder:
        project = Path(folder) / name
        for path, text in written.items():
            file = project / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        project.rename(target)
    return sorted(written)


def _template() -> Iterator[tuple[str, str]]:
    """The template's files: their paths in the project, and their texts."""

    def walk(folder: Traversable, place: str) -> Iterator[tuple[str, str]]:
        for each in folder.iterdir():
            path = place + re.sub(f"^{_DOT}", ".", each.name)
            if each.name.startswith((".", "__pycache__")):  # some tool's, in a checkout
                continue
            if each.is_file():
                yield path, each.read_text(encoding="utf-8")
            else:
                yield from walk(each, f"{path}/")

    return walk(files("devplugin.cli") / "template", "")


def _filled_in(text: str, words: dict[str, str]) -> str:
    """The text with the project's own words, each put in once: what is put in is not searched again."""
    return re.sub("|".join(map(re.escape, words)), lambda found: words[found[0]], text)


def _next_steps(name: str) -> list[str]:
    package = name.replace("-", "_")
    return [
        f"cd {name}",
        "python3 -m venv .venv && . .venv/bin/activate",
        "pip wheel --no-deps --wheel-dir wheels ../devplugin   # your checkout: where pip finds no devplugin",
        "pip install --upgrade 'pip>=25.1' && pip install --find-links wheels --group dev --editable .",
        "pytest",
        f"devplugin try src/{package}/plugin.py",
        "",
        "README.md says the rest: what to try without a device, and how it comes to the nodes.",
    ]
