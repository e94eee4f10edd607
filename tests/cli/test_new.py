"""``devplugin new``: a project that passes its own checks, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
import yaml

from devplugin.cli import _new
from tests.cli.conftest import Run
from tests.conftest import kept_mypy_cache
from tests.support_pages import ROOT

FILES = [
    ".dockerignore",
    ".github/workflows/check.yaml",
    ".gitignore",
    "Dockerfile",
    "README.md",
    "deploy/daemonset.yaml",
    "deploy/pod.yaml",
    "pyproject.toml",
    "src/serial_ports/__init__.py",
    "src/serial_ports/__main__.py",
    "src/serial_ports/plugin.py",
    "src/serial_ports/py.typed",
    "tests/test_plugin.py",
]


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_files(run: Run, folder: Path) -> None:
    """All of them with the project's own words, and what to do next; nothing lies beside them."""
    result = run("new", "serial-ports")
    assert result.exit_code == 0
    assert result.output.startswith(
        "serial-ports: a plugin for example.com/serial-ports, in 13 files.\n\nWhat to do next:\n"
    )
    assert "\n  cd serial-ports\n" in result.output
    assert "\n  devplugin try src/serial_ports/plugin.py\n" in result.output
    made = texts(folder / "serial-ports")
    assert sorted(made) == FILES
    for text in made.values():
        assert not any(
            word in text for word in ("my_plugin", "my-plugin", "MyPlugin", "my-device", "the-image", "tty-of-mine")
        )
    assert "class SerialPortsPlugin(DevicePluginBase)" in made["src/serial_ports/plugin.py"]
    assert sorted(os.listdir(folder)) == ["seats.py", "serial-ports"]  # noqa: PTH208
    assert (folder / "serial-ports").stat().st_mode & 0o777 == 0o777 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_options(run: Run, folder: Path) -> None:
    """Resource, pattern and image are in their places."""
    options = ("--resource", "vendor.example/camera", "--pattern", "video*", "--image", "registry.example.com/c:2")
    assert run("new", "cameras-plugin", *options).exit_code == 0
    made = texts(folder / "cameras-plugin")
    plugin = made["src/cameras_plugin/plugin.py"]
    assert 'resource_name = "vendor.example/camera"' in plugin
    assert 'PATTERN = "video*"' in plugin
    assert "class CamerasPlugin(DevicePluginBase)" in plugin
    container = yaml.safe_load(made["deploy/daemonset.yaml"])["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "registry.example.com/c:2"
    assert {"name": "dev", "mountPath": "/dev", "readOnly": True} in container["volumeMounts"]
    pod = yaml.safe_load(made["deploy/pod.yaml"])
    assert pod["spec"]["containers"][0]["resources"] == {"limits": {"vendor.example/camera": 1}}
    assert yaml.safe_load(made[".github/workflows/check.yaml"])["jobs"]["check"]["steps"]


def test_the_manifest_is_the_commands(run: Run, folder: Path) -> None:
    """The command that the README gives for a new one writes the one that is there."""
    assert run("new", "serial-ports").exit_code == 0
    made = texts(folder / "serial-ports")
    [line] = [line for line in made["README.md"].splitlines() if line.startswith("    devplugin manifest ")]
    words = line.split()
    assert words[-2:] == [">", "deploy/daemonset.yaml"]
    plugin = folder / "serial-ports" / words[2]
    assert run("manifest", plugin, *words[3:-2]).output == made["deploy/daemonset.yaml"]


def test_json(run: Run) -> None:
    """One document."""
    result = run("new", "serial-ports", "--output", "json")
    assert json.loads(result.output) == {
        "directory": "serial-ports",
        "resource": "example.com/serial-ports",
        "files": FILES,
    }


def test_nothing_is_overwritten(run: Run, folder: Path) -> None:
    """Neither a folder with something in it, nor a file, nor a link; an empty folder is taken."""
    (folder / "empty").mkdir()
    assert run("new", "empty").exit_code == 0
    before = texts(folder)
    (folder / "link").symlink_to("nowhere")
    (folder / "file").touch()
    for name in ("empty", "link", "file"):
        result = run("new", name)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"{name} is there already, and nothing is overwritten" in result.stderr
    assert texts(folder) == before | {"file": ""}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["Serial"], "the name 'Serial' is not usable: it must be at most 30 lower-case letters"),
        (["a--b"], "is not usable"),
        (["../a"], "is not usable"),
        (["1a"], "is not usable"),
        (["a" * 31], "is not usable"),
        (["json"], "the name 'json' is not usable: Python or the project has another json"),
        (["pytest"], "the name 'pytest' is not usable: Python or the project has another pytest"),
        (["async"], "is not usable"),
        (["devplugin"], "is not usable"),
        (["a", "--resource", "a"], "resource name 'a' is not usable"),
        (["a", "--pattern", "video"], "the pattern 'video' is not usable: it must be a name in /dev with one '*'"),
        (["a", "--pattern", "*/*"], "is not usable"),
        (["a", "--pattern", '"*'], "is not usable"),
        (["a", "--image", "a b"], "the image 'a b' is not usable"),
        ([], "Missing argument 'NAME'"),
    ],
)
def test_wrong_use(run: Run, folder: Path, arguments: list[str], complaint: str) -> None:
    """A sentence, status 2, and no folder."""
    result = run("new", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert complaint in " ".join(result.stderr.split())
    assert [path.name for path in folder.iterdir()] == ["seats.py"]


def test_a_failure_leaves_nothing(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt between two files, for one."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", interrupted)
    assert run("new", "serial-ports").exit_code == 130
    assert [path.name for path in folder.iterdir()] == ["seats.py"]


def test_a_folder_that_cannot_be_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own words, and status 1."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "serial-ports")

    monkeypatch.setattr(_new, "TemporaryDirectory", refuse)
    result = run("new", "serial-ports")
    assert (result.exit_code, result.stderr) == (1, "Error: Cannot make serial-ports: Permission denied.\n")


def test_what_tools_leave_in_the_template_is_no_part_of_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout, linters have their caches there."""
    for path in (".ruff_cache/x", "__pycache__/y.pyc", "dot-github/z"):
        file = folder / "template" / path
        file.parent.mkdir(parents=True)
        file.write_bytes(b"\xff" if path != "dot-github/z" else b"text")
    monkeypatch.setattr(_new, "files", lambda _: folder)
    assert [*_new._template()] == [(".github/z", "text")]


def test_the_template_needs_this_version() -> None:
    """The range in the project's metadata has the version that writes it."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    major, minor, _ = map(int, version.split("."))
    [dependency] = tomllib.loads((ROOT / "devplugin/cli/template/pyproject.toml").read_text())["project"][
        "dependencies"
    ]
    assert dependency == f"devplugin>={major}.{minor},<{major}.{minor + 1}"


# As a user gets it: from the wheel, in an environment of its own, without the network ---------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this project."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("devplugin", "pytest_devplugin", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
        else:
            shutil.copy(ROOT / name, source / name)
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(source))
    [built] = target.glob("*.whl")
    return built


def pip(python: str, command: str, *arguments: str) -> None:
    """What this environment's pip does for that Python, without the network."""
    say([sys.executable, "-m", "pip", "--python", python, command, "--no-index", "--quiet", *arguments], ROOT)


def say(argv: list[str], folder: Path, **variables: str) -> str:
    """What a command prints that must succeed."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PYTEST_", "COV_", "COVERAGE_"))
    }
    done = subprocess.run(
        argv, cwd=folder, env=kept | variables, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{argv} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python of its own: devplugin is the wheel, and what it depends on is this environment's."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    interpreter = str(folder / "bin" / "python")
    packages = Path(say([interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], ROOT).strip())
    theirs = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "others.pth").write_text("\n".join(theirs))
    pip(interpreter, "install", "--no-deps", str(wheel))
    return interpreter


@pytest.fixture(scope="module")
def mypy_cache(worker_id: str) -> str:
    return str(kept_mypy_cache("projects", worker_id))


@pytest.mark.timeout(600)  # mypy starts from nothing
@pytest.mark.parametrize("name", ["x", "as-long-as-a-name-can-be-abcde"])
def test_a_project_passes_its_own_checks(python: str, tmp_path: Path, mypy_cache: str, name: str) -> None:
    """Made by the installed command, installed, formatted, linted, typed and tested as its CI would; and tried."""
    command = str(Path(python).with_name("devplugin"))
    say([command, "new", name], tmp_path)
    project = tmp_path / name
    before = texts(project)
    package = name.replace("-", "_")
    assert str(Path(python).parents[1]) in say([python, "-c", "import devplugin; print(devplugin.__file__)"], project)
    pip(python, "install", "--no-deps", "--no-build-isolation", str(project))
    steps = yaml.safe_load(before[".github/workflows/check.yaml"])["jobs"]["check"]["steps"]
    checks = [step["run"] for step in steps if step.get("run", "pip").startswith(("ruff", "mypy", "pytest"))]
    assert checks == ["ruff format --check .", "ruff check .", "mypy", "pytest"]
    ruff = str(Path(sys.executable).with_name("ruff"))
    settings = {
        "MYPY_CACHE_DIR": mypy_cache,
        "PYTEST_ADDOPTS": "-p no:hypothesispytest",  # no dependency of the project, and its import takes a second
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for tool, *arguments in map(str.split, checks):
        argv = [ruff, *arguments, "--no-cache"] if tool == "ruff" else [python, "-m", tool, *arguments]
        said = say(argv, project, **settings)
        assert tool != "pytest" or "4 passed" in said
    devices = tmp_path / "devices"
    devices.mkdir()
    (devices / "ttyUSB7").touch()
    plugin = f"src/{package}/plugin.py"
    shown = say([command, "try", plugin, "--allocate", "1"], project, DEVICE_DIRECTORY=str(devices))
    assert "pod-1 has ttyUSB7" in shown
    assert "Nothing is wrong." in say([command, "check", plugin], project, DEVICE_DIRECTORY=str(devices))
    assert {path: (project / path).read_text() for path in before} == before


def test_the_wheel_has_the_template_and_no_tools_leavings(wheel: Path) -> None:
    """Each file of the template that is committed, and no other."""
    listed = say([sys.executable, "-m", "zipfile", "-l", str(wheel)], ROOT)
    names = [line.split()[0] for line in listed.splitlines() if "devplugin/cli/template/" in line]
    template = ROOT / "devplugin" / "cli" / "template"
    expected = {
        str(path.relative_to(ROOT))
        for path in template.rglob("*")
        if path.is_file()
        and not any(part.startswith((".", "__pycache__")) for part in path.relative_to(template).parts)
    }
    assert set(names) == expected
