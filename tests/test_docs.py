"""The README and the documentation do what they say."""

import asyncio
import importlib.util
import inspect
import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import devplugin
import devplugin.testing
from devplugin import (
    Allocation,
    Device,
    DevicePluginBase,
    PreferredAllocationRequest,
    _backoff,
    _kubelet,
    _server,
    _session,
    _siblings,
    _watch,
    plugin,
)
from devplugin._kubelet import DEVICE_PLUGIN_DIRECTORY
from devplugin.testing import FakeKubelet
from tests.conftest import kept_mypy_cache
from tests.support_pages import ROOT, blocks_of, check_types, pages, play

PAGES = [str(path.relative_to(ROOT)) for path in pages()]
# A page that is not followed here, and why.
NOT_FOLLOWED = {"docs/how-to/real-cluster.md": "a run on a real node writes it: each output is what that run gave"}
SMALLEST = ["README.md", "docs/index.md"]


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


@asynccontextmanager
async def node_with(plugin: DevicePluginBase[Any], directory: Path) -> AsyncIterator[FakeKubelet]:
    async with FakeKubelet(directory) as kubelet, asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(plugin.serve(kubelet_dir=directory))
        yield kubelet
        serving.cancel()


@pytest.fixture(scope="session")
def mypy_cache(worker_id: str) -> Path:
    return kept_mypy_cache("pages", worker_id)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in NOT_FOLLOWED and blocks_of(text_of(page))])
@pytest.mark.timeout(400)  # the tutorial runs a dozen programs, and a machine may be busy
def test_a_page_can_be_followed(page: str, tmp_path: Path, mypy_cache: Path) -> None:
    """Its programs run, its tests pass, its commands print what it shows, and all of it is strictly typed."""
    play(text_of(page), tmp_path)
    check_types(tmp_path, mypy_cache)


@pytest.mark.parametrize("page", PAGES)
def test_code_fits_the_page(page: str) -> None:
    """A reader need not scroll sideways to read code."""
    lines = [
        line for block in blocks_of(text_of(page)) if block.language == "python" for line in block.text.splitlines()
    ]
    assert [line for line in lines if len(line) > 88] == []


PYTHON = "```python\n{}\n```\n"
CONSOLE = "```console\n{}\n```\n"
FILE = "```{{code-block}} python\n:caption: {}\n\n{}\n```\n"
BROKEN = {
    "a program that fails": PYTHON.format("import devplugin.nothing"),
    "a program that warns": PYTHON.format("import warnings\nwarnings.warn('old')"),
    "a file that is badly typed": FILE.format("bad.py", "import devplugin\n\nx: int = devplugin.Device('a')"),
    "a test that fails": FILE.format("test_it.py", "def test_it() -> None:\n    assert False")
    + CONSOLE.format("$ python -m pytest -q\n.   [100%]\n1 passed in ...s"),
    "a test too few": FILE.format("test_it.py", "def test_it() -> None: ...")
    + CONSOLE.format("$ python -m pytest -q\n...\n2 passed in ...s"),
    "a plugin that prints something else": FILE.format("plugin.py", "print('hello')")
    + CONSOLE.format("$ python plugin.py\ngood-bye\n^C"),
    "a target that is not there": CONSOLE.format("$ make nonsense"),
    "an option that is not there": CONSOLE.format("$ python -m examples.sample_device --nonsense"),
    "a program of ours that is not there": CONSOLE.format("$ python -m examples.nonsense"),
    "a subcommand that is not there": CONSOLE.format("$ devplugin nonsense"),
    "an option of a subcommand that is not there": CONSOLE.format("$ devplugin pods --nonsense"),
    "a trial that shows something else": CONSOLE.format("$ devplugin try nonsense.py"),
    "a manifest that is not there": CONSOLE.format("$ kubectl apply -f nonsense.yaml"),
    "a command that nobody knows": CONSOLE.format("$ nonsense"),
    "a language that nobody knows": "```cobol\nSTOP RUN.\n```\n",
    "a directive that nobody knows": "```{code} python\nimport this\n```\n",
    "a manifest that is no YAML": "```yaml\na: [\n```\n",
}


@pytest.mark.parametrize("page", BROKEN.values(), ids=BROKEN)
def test_a_broken_page_is_noticed(page: str, tmp_path: Path, mypy_cache: Path) -> None:
    """Each kind of check fails on what it is there to find."""
    yaml_error = importlib.import_module("yaml").YAMLError

    def follow() -> None:
        play(page, tmp_path)
        check_types(tmp_path, mypy_cache)

    with pytest.raises((AssertionError, yaml_error)):
        follow()


# The examples that a page does not test by itself ---------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path) -> Callable[[str, str], ModuleType]:
    """Imports a file that a page writes."""

    def load(page: str, file: str) -> ModuleType:
        [block] = [block for block in blocks_of(text_of(page)) if block.file == file]
        path = tmp_path / file
        path.write_text(block.text)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded

    return load


Load = Callable[[str, str], ModuleType]


@pytest.mark.asyncio
@pytest.mark.parametrize("page", SMALLEST)
async def test_the_smallest_plugin(page: str, directory: Path, module: Load) -> None:
    """It offers four ports, and a pod with one of them can open its device node."""
    async with node_with(module(page, "serial_ports.py").SerialPorts(), directory) as kubelet:
        await kubelet.allocatable("example.com/serial", 4)
        pod = await kubelet.create_pod("pod", {"example.com/serial": 1}).running()
        [node] = pod.containers["main"].options.devices
        assert re.fullmatch("/dev/ttyUSB[0-3]", node.host_path)


def test_the_smallest_plugin_has_fourteen_lines() -> None:
    """The README and the first page show the same one, and it is as small as promised."""
    [in_readme], [in_docs] = ([b.text for b in blocks_of(text_of(p)) if b.language == "python"] for p in SMALLEST)
    assert in_readme == in_docs
    assert len(in_readme.splitlines()) == 14


HEALTH = "docs/how-to/health-and-hot-plug.md"


@pytest.mark.asyncio
async def test_health_that_is_asked_for_at_intervals(directory: Path, module: Load) -> None:
    """A card that fails is unhealthy, and healthy again when it works again."""
    statuses = {0: "ok", 1: "ok"}
    cards = module(HEALTH, "polled.py").Cards(statuses.__getitem__, interval_s=0.01)
    async with node_with(cards, directory) as kubelet:
        await kubelet.allocatable("example.com/card", 2)
        statuses[1] = "overheated"
        assert (await kubelet.allocatable("example.com/card", 1)).capacity == 2
        statuses[1] = "ok"
        await kubelet.allocatable("example.com/card", 2)


@pytest.mark.asyncio
async def test_a_plugin_that_is_told_to_look_again(directory: Path, tmp_path: Path, module: Load) -> None:
    """A device that came is found by the call, long before the safety net."""
    cameras = module(HEALTH, "told.py").Cameras(tmp_path, at_least_every_s=3600)
    async with node_with(cameras, directory) as kubelet:
        (tmp_path / "video0").touch()
        cameras.look_again()
        await kubelet.allocatable("example.com/camera", 1)
        (tmp_path / "video1").touch()
        cameras.look_again()
        await kubelet.allocatable("example.com/camera", 2)


@pytest.mark.asyncio
async def test_the_safety_net_of_a_plugin_that_is_told(directory: Path, tmp_path: Path, module: Load) -> None:
    """A device that came without a call is found all the same."""
    cameras = module(HEALTH, "told.py").Cameras(tmp_path, at_least_every_s=0.01)
    async with node_with(cameras, directory) as kubelet:
        (tmp_path / "video0").touch()
        await kubelet.allocatable("example.com/camera", 1)


@pytest.mark.asyncio
async def test_the_kernels_own_events(module: Load) -> None:
    """The first list is there at once, and closing the generator closes the socket (a warning would be an error)."""
    lists = module(HEALTH, "uevents.py").Video().devices()
    assert isinstance(await anext(lists), list)
    await lists.aclose()


@pytest.mark.asyncio
async def test_a_program_that_is_followed(directory: Path, module: Load) -> None:
    """Each line is a new list, and the program is ended with the plugin."""
    lines = "echo eth0 up; echo eth1 up; echo eth1 down; exec sleep 3600"
    links = module(HEALTH, "followed.py").Links("sh", "-c", lines)
    async with node_with(links, directory) as kubelet:
        await kubelet.capacity("example.com/link", 2)
        await kubelet.allocatable("example.com/link", 1)


@pytest.mark.asyncio
async def test_the_end_of_a_program_that_is_followed(directory: Path, module: Load) -> None:
    """When it ends, so does the plugin."""
    links = module(HEALTH, "followed.py").Links("true")
    with pytest.raises(RuntimeError, match="true has ended"):
        await links.serve(kubelet_dir=directory)


def test_json_lines(module: Load) -> None:
    """The formatter writes an event's details, and an error."""
    formatter = module("docs/how-to/logging.md", "json_log.py").JsonFormatter()
    record = logging.LogRecord(
        "devplugin.x", logging.INFO, "", 0, "An %s", ("event",), (ValueError, ValueError(1), None)
    )
    record.details = {"resource": "a/b"}
    line = formatter.format(record)
    assert '"message": "An event", "resource": "a/b", "error": "ValueError: 1"' in line


def test_the_daemonset_mounts_the_directory() -> None:
    """The whole directory, writable, where the plugin looks for it; and nothing more than it needs."""
    [text] = [block.text for block in blocks_of(text_of("docs/how-to/deploy.md")) if block.file == "daemonset.yaml"]
    pod = importlib.import_module("yaml").safe_load(text)["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert {"name": "device-plugins", "mountPath": DEVICE_PLUGIN_DIRECTORY} in container["volumeMounts"]
    volume = {"name": "device-plugins", "hostPath": {"path": DEVICE_PLUGIN_DIRECTORY, "type": "Directory"}}
    assert volume in pod["volumes"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


# Facts that the prose states ------------------------------------------------------------------------------------------


def table(page: str, first_column: str) -> list[list[str]]:
    """The rows of a page's table, which is known by the head of its first column."""
    _, head, rest = text_of(page).partition(f"| {first_column} |")
    assert head, f"{page} has no table with the column {first_column}"
    rows = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def test_the_times_of_a_session() -> None:
    """Every time in the table is the one in the code."""
    assert {what: float(seconds) for what, seconds in table("docs/explanation/session.md", "what")} == {
        "Register is given up after": _kubelet._REGISTER_WITHIN_S,
        "A stream must come after Register within": _session._STREAM_WITHIN_S,
        "Calls under way at the end of a session may take": _session._CALLS_DONE_WITHIN_S,
        "The kubelet may take to close its connection after the stream's end": _session._PEER_CLOSES_WITHIN_S,
        "Other connections may take to close": _server._CLOSE_WITHIN_S,
        "The tear-down of `devices()` may take": plugin._TEAR_DOWN_WITHIN_S,
        "The first delay before the next session": _backoff._FIRST_S,
        "The longest delay before the next session": _backoff._CAP_S,
        "A session has lasted, and the delay begins anew, after": _session._LASTED_S,
        "The safety net beside inotify looks every": _watch._SAFETY_NET_S,
        "Without inotify it looks every": _watch._POLL_S,
        "Another instance counts as gone for good after": _siblings._GONE_FOR_S,
    }


class Everything(DevicePluginBase):
    """Overrides all that the kubelet may ask for."""

    resource_name = "example.com/everything"

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device("a")]

    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        return await super().allocate(devices)

    async def preferred_allocation(self, request: PreferredAllocationRequest) -> Sequence[Device]:
        return request.available[: request.size]

    async def pre_start_container(self, devices: Sequence[Device]) -> None:
        pass


@pytest.mark.asyncio
async def test_the_events_of_the_log(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The table has every event, with its level, its logger and its details, and no other; the first six are a start."""
    caplog.set_level(logging.DEBUG, "devplugin")
    async with node_with(Everything(), directory) as kubelet:
        await kubelet.allocatable("example.com/everything", 1)
        await kubelet.create_pod("pod", {"example.com/everything": 1}).running()
    logged = [
        [f"`{record.message}`", record.levelname, f"`{record.name}`", ", ".join(f"`{key}`" for key in record.details)]
        for record in caplog.records
        if hasattr(record, "details")
    ]
    documented = table("docs/how-to/logging.md", "event")
    assert sorted(logged) == sorted(documented)
    assert logged[:6] == documented[:6]


def messages() -> str:
    """The code of the package without docstrings, and its strings without seams: what it can say."""
    sources = sorted((ROOT / "devplugin").rglob("*.py"))
    text = "\n".join(path.read_text() for path in sources if "_proto" not in path.parts)
    return re.sub(r'"\s+f?"', "", re.sub(r'"""[\s\S]*?"""', "", text))


@pytest.mark.parametrize("page", ["docs/troubleshooting.md", "docs/how-to/logging.md"])
def test_messages_that_are_quoted(page: str) -> None:
    """Each piece of a quoted message is something that devplugin, or the kubelet that it imitates, can say."""
    quoted = [span for span in re.findall(r"`([^`\n]+)`", text_of(page)) if "…" in span]
    quoted += [block.text.strip() for block in blocks_of(text_of(page)) if "…" in block.text]
    assert quoted
    filled_in = r"…|: |rpc error|example\.com/serial|allocate |pre_start_container "
    pieces = {piece.strip() for quote in quoted for piece in re.split(filled_in, quote)}
    said = messages()
    assert not {piece for piece in pieces if piece not in said}


@pytest.mark.parametrize("module", [devplugin, devplugin.testing])
def test_every_public_name_has_its_place(module: ModuleType) -> None:
    """The reference has each of them."""
    reference = "".join(text_of(page) for page in PAGES if page.startswith("docs/reference/"))
    named = set(re.findall(r"^\.\. auto\w+:: (\S+?)(?:\(\))?$", reference, re.MULTILINE))
    assert {f"{module.__name__}.{name}" for name in module.__all__} <= named


def test_errors_are_drawn_as_they_are() -> None:
    """The tree in the reference is the tree of the classes."""
    [tree] = [block.text for block in blocks_of(text_of("docs/reference/errors.md"))]
    drawn = re.findall(r"^([│├└─ ]*)(\w+)", tree, re.MULTILINE)
    parents: list[str] = []
    for indent, name in drawn:
        depth = len(indent) // 4
        del parents[depth:]
        error = getattr(devplugin, name)
        assert inspect.isclass(error)
        assert [base.__name__ for base in error.__mro__ if base.__name__ in parents] == parents[::-1]
        parents.append(name)
    assert {name for _, name in drawn} == {
        name
        for name in devplugin.__all__
        if isinstance(getattr(devplugin, name), type(Exception)) and issubclass(getattr(devplugin, name), Exception)
    }


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_links_to_files(page: str) -> None:
    """They lead to files that are there. (The strict build checks those of the documentation.)"""
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text_of(page))
    assert [link for link in links if not (ROOT / link).exists()] == []
