"""check_plugin: each rule is found where it is broken, and nothing where all is well."""

import asyncio
import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from devplugin import Allocation, ConfigurationError, Device, DeviceNode, DevicePluginBase, Health, Mount, _service
from devplugin.testing import Clock, FakeKubelet, Finding, Snapshot, check_class, check_plugin, rules
from devplugin.testing._check import _blocking
from devplugin.testing._check._blocking import Watchdog
from devplugin.testing._check._course import Course, Settings
from devplugin.testing._check._found import Found
from devplugin.testing._check._hooks import HookCalls
from devplugin.testing._check._places import place_of_frame
from devplugin.testing._client import PluginClient
from devplugin.testing._records import Records
from examples.sample_device.__main__ import SampleDevices
from tests.support_pages import ROOT
from tests.testing.breaches import BREACHES, Breach, Good, InGo, Misspelt, NeverYields, WithoutUnit

# Broken below, by more than a class.
APART = {"DP207", "DP210"}


@pytest.fixture(autouse=True)
def _nothing_is_left(
    directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """No file, and no thread of it; tasks and sockets that are left behind warn, and warnings are errors."""
    tmp_path_factory.getbasetemp()  # while the directory for it is the usual one
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield
    assert [*directory.glob("dp-check-*")] == []
    assert [each for each in threading.enumerate() if each.name.startswith("devplugin")] == []


@pytest.mark.asyncio
@pytest.mark.parametrize("plugin", [Good(), SampleDevices(), Good(count=100)], ids=["good", "sample", "many"])
async def test_nothing_is_found_where_all_is_well(plugin: DevicePluginBase[Any]) -> None:
    """A plugin that overrides everything, the sample, and one with more devices than are tried."""
    before = asyncio.all_tasks()
    assert await check_plugin(plugin, watch_s=0) == []
    assert asyncio.all_tasks() == before


@pytest.mark.asyncio
@pytest.mark.parametrize("breach", BREACHES, ids=lambda breach: f"{breach.code} {breach.plugin.__name__}")
async def test_a_breach_is_found_and_nothing_else(breach: Breach) -> None:
    """One finding, with the rule's code and texts, about the right thing."""
    plugin = breach.plugin()
    options = {"unplug": plugin.unplugged.set, **breach.options} if breach.unplugged else breach.options
    [finding] = await check_plugin(plugin, **options)
    assert finding.code == breach.code
    assert re.search(breach.meaning, finding.meaning), finding
    assert re.fullmatch(breach.subject, finding.subject), finding
    rule = rules()[breach.code]
    assert (finding.why, finding.remedy, finding.documented_at) == (rule.why, rule.remedy, rule.documented_at)


def test_every_rule_is_broken() -> None:
    """No rule is there that nothing proves."""
    assert {breach.code for breach in BREACHES} | APART == {*rules()}


@pytest.mark.asyncio
async def test_what_is_ignored_is_not_found() -> None:
    """By its code, with a reason."""
    assert await check_plugin(Misspelt(), watch_s=0, ignore={"DP101": "that is another thing"}) == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("ignore", "error"),
    [
        ({"DP999": "why not"}, r"no rule 'DP999' to ignore; there are DP101, DP102,"),
        ({"DP101": " "}, r"DP101 is to be ignored without a reason"),
        ({"DP101": None}, r"DP101 is to be ignored without a reason"),
    ],
)
async def test_what_cannot_be_ignored(ignore: Any, error: str) -> None:
    """A code that is no rule's, and one without a reason."""
    with pytest.raises(ConfigurationError, match=error):
        await check_plugin(Good(), ignore=ignore)


@pytest.mark.asyncio
async def test_a_class_is_no_plugin() -> None:
    """The brackets are easily forgotten."""
    with pytest.raises(ConfigurationError, match="is a pair of brackets missing"):
        await check_plugin(Good)  # type: ignore[arg-type]  # what is tested


@pytest.mark.asyncio
async def test_two_plugins_of_one_resource() -> None:
    """A kubelet would take the second one for the successor of the first."""
    with pytest.raises(ConfigurationError, match=r"two plugins for the resource 'example\.com/good'"):
        await check_plugin(Good(), Good())


def test_a_class_is_checked_without_an_instance() -> None:
    """Names, signatures and what is async."""

    class NeedsMuch(Misspelt):
        def __init__(self, bus: object) -> None:
            raise NotImplementedError

    assert [finding.code for finding in check_class(NeedsMuch)] == ["DP101"]
    assert [finding.code for finding in check_class(InGo)] == ["DP101"]
    assert check_class(WithoutUnit) == []  # the instance has it


def test_names_of_others() -> None:
    """Those of the protocol and of other frameworks are far from ours, and meant all the same."""

    class FromGo(DevicePluginBase):
        resource_name = "example.com/from-go"

        async def devices(self) -> AsyncIterator[list[Device]]:
            yield []

        async def GetPreferredAllocation(self, request: object) -> None:  # noqa: N802  (what is tested)
            pass

        async def something_else(self) -> None:
            pass

    [finding] = check_class(FromGo)
    assert finding.meaning == "its name is nearly that of 'preferred_allocation'"


class Decorated(Good):
    """What is no coroutine function and all the same right."""

    @staticmethod
    def _logged(function: Any) -> Any:
        import functools

        @functools.wraps(function)
        def call(*args: object) -> object:
            return function(*args)

        return call

    @_logged
    async def allocate(self, devices: Sequence[Device]) -> Allocation:
        return await super().allocate(devices)

    def devices(self) -> AsyncIterator[list[Device]]:
        return super().devices()

    def device(self, device_id: str) -> Device:
        """Its name is nearly that of a hook, which it has as well."""
        return Device(device_id)

    def _allocat(self) -> None:
        """Private names are the author's own."""


@pytest.mark.asyncio
async def test_what_only_looks_wrong() -> None:
    """Wrapped hooks, a function that returns an iterator, a helper beside its hook."""
    assert await check_plugin(Decorated(), watch_s=0) == []


class Follows(Good):
    """Follows a folder."""

    def __init__(self, folder: Path, *, forgets: bool) -> None:
        super().__init__()
        self.folder = folder
        self.forgets = forgets

    async def devices(self) -> AsyncIterator[list[Device]]:
        known: set[str] = set()
        while True:
            there = {path.name for path in self.folder.iterdir()}
            known = there if self.forgets else known | there
            yield [Device(each, health=Health.HEALTHY if each in there else Health.UNHEALTHY) for each in sorted(known)]
            await asyncio.sleep(0.01)


@pytest.mark.asyncio
@pytest.mark.parametrize(("forgets", "codes"), [(True, ["DP208"]), (False, [])])
async def test_a_device_that_is_taken_away(tmp_path: Path, *, forgets: bool, codes: list[str]) -> None:
    """It is to be called unhealthy, and not to be forgotten."""
    folder = tmp_path / "devices"
    folder.mkdir()
    (folder / "a").touch()
    (folder / "b").touch()

    async def unplug() -> None:
        (folder / "a").unlink()

    found = await check_plugin(Follows(folder, forgets=forgets), SampleDevices(), unplug=unplug, watch_s=0)
    assert [finding.code for finding in found] == codes


class Grants(Good):
    """Grants what it is told to."""

    def __init__(self, resource: str, prefix: str, grants: Allocation) -> None:
        super().__init__()
        self.resource_name = resource
        self.prefix = prefix
        self.grants = grants

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device(f"{self.prefix}{n}", grants=self.grants) for n in range(2)]


@pytest.mark.asyncio
async def test_two_resources_beside_one_another() -> None:
    """Their ids and variables must differ."""
    one = Grants("example.com/one", "d", Allocation(env={"A": "1", "B": "1"}))
    other = Grants("example.com/other", "d", Allocation(env={"A": "2", "B": "1"}))
    ids, names = await check_plugin(one, other, watch_s=0)
    assert (ids.code, ids.subject, ids.meaning) == ("DP207", "Grants and Grants", "both have d0, d1")
    assert (names.code, names.meaning) == ("DP305", "a container with devices of both gets one value only of A")
    assert await check_plugin(one, Grants("example.com/other", "e", Allocation(env={"C": "2"})), watch_s=0) == []


@pytest.mark.asyncio
async def test_the_nodes_file_system_may_be_elsewhere(tmp_path: Path) -> None:
    """As in a container that has it under another path."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "widget").touch()
    plugin = Grants(
        "example.com/widget",
        "w",
        Allocation(device_nodes=[DeviceNode("/dev/widget", "/dev/widget")], mounts=[Mount("/d", "/dev")]),
    )
    assert await check_plugin(plugin, host_root=tmp_path, watch_s=0) == []
    assert [finding.code for finding in await check_plugin(plugin, watch_s=0)] == ["DP307"]


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A node with two NUMA nodes, /dev/widget near the second, a PCI device near the first, and /dev/plain near none."""
    sysfs, dev = tmp_path / "sys", tmp_path / "dev"
    for node in ("node0", "node1"):
        (sysfs / "devices/system/node" / node).mkdir(parents=True)
    places = {"dev/char/1:3": "1", "dev/char/1:5": "-1", "bus/pci/devices/0000:3b:00.0": "0"}
    for place, node in places.items():
        (sysfs / place).mkdir(parents=True)
        (sysfs / place / "numa_node").write_text(node)
    dev.mkdir()
    (dev / "widget").symlink_to("/dev/null")
    (dev / "plain").symlink_to("/dev/zero")
    (dev / "file").touch()
    return tmp_path


class At(Good):
    """Devices at nodes."""

    def __init__(self, *devices: Device) -> None:
        super().__init__()
        self.all = devices

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [*self.all]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("device", "meaning"),
    [
        (Device.at("/dev/widget"), "it names no NUMA nodes, and sysfs says 1 of /dev/widget"),
        (Device("0000:3b:00.0"), "it names no NUMA nodes, and sysfs says 0 of 0000:3b:00.0"),
        (Device.at("/dev/widget", numa_nodes=[1]), None),
        (Device.at("/dev/plain"), None),
        (Device.at("/dev/file"), None),
        (Device("0000:ff:00.0"), None),
    ],
    ids=lambda value: getattr(value, "id", ""),
)
async def test_a_topology_that_is_missing(host: Path, device: Device, meaning: str | None) -> None:
    """By the device node that a container gets, or the PCI address that is the id."""
    found = await check_plugin(At(device), host_root=host, watch_s=0)
    assert [(finding.code, finding.subject, finding.meaning) for finding in found] == (
        [("DP210", f"At, device {device.id}", meaning)] if meaning else []
    )


@pytest.mark.asyncio
async def test_no_topology_is_missing_where_there_is_one_node(host: Path) -> None:
    """It would change nothing."""
    (host / "sys/devices/system/node/node1").rmdir()
    assert await check_plugin(At(Device.at("/dev/widget")), host_root=host, watch_s=0) == []


@pytest.mark.asyncio
async def test_a_plugin_that_takes_any_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """What devplugin refuses by itself is tried all the same: serve() may be overridden."""
    monkeypatch.setattr(_service.Service, "_resolve", lambda *_, **__: [])
    [finding] = await check_plugin(SampleDevices(), watch_s=0)
    assert finding.code == "DP304"
    assert finding.meaning == "Allocate gave a container 'devplugin-check-no-such-device', which is in no list"


class Lists(AsyncIterator[list[Device]]):
    """Lists without a generator, and without a file in which a place could be."""

    def __init__(self) -> None:
        self._lists = iter(([Device("a")],))

    async def __anext__(self) -> list[Device]:
        for each in self._lists:
            return each
        raise StopAsyncIteration


class Iterates(Good):
    """It needs no generator."""

    def devices(self) -> AsyncIterator[list[Device]]:
        return Lists()


@pytest.mark.asyncio
async def test_an_iterator_that_is_no_generator() -> None:
    """It need not be closed."""
    assert await check_plugin(Iterates(), watch_s=0) == []


@pytest.mark.asyncio
async def test_an_error_of_nobodys_code() -> None:
    """Where the author's code has no part in it, the subject is the plugin."""
    plugin = Good()
    plugin.devices = json.loads  # type: ignore[method-assign, assignment]  # what is tested
    [finding] = await check_plugin(plugin, watch_s=0)
    assert (finding.code, finding.subject) == ("DP203", "Good")


@pytest.mark.asyncio
async def test_a_call_that_does_not_end(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """While the loop is held nobody can be told, so the log is."""
    monkeypatch.setattr(_blocking, "_WARN_AFTER_S", 0.1)
    breach = next(breach for breach in BREACHES if breach.code == "DP401")
    await check_plugin(breach.plugin(), watch_s=0)
    assert re.fullmatch(
        r"Blocks\.allocate \(.*breaches\.py:\d+\) holds the event loop, and nothing else goes on: time\.sleep.*",
        caplog.messages[-1],
    )


@pytest.mark.asyncio
async def test_a_loop_that_is_kept_waiting_for_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is the machine's fault and not the plugin's."""
    breach = next(breach for breach in BREACHES if breach.code == "DP401")
    monkeypatch.setattr(Watchdog, "_waited_s", lambda _: time.monotonic())
    assert await check_plugin(breach.plugin(), watch_s=0) == []


def test_whose_code_a_frame_is_in() -> None:
    """The innermost that is neither Python's, nor installed, nor ours; the program that runs the loop has no part in it."""
    place = json.loads("1", parse_int=lambda _: place_of_frame(sys._getframe(), frozenset()))
    assert str(place).startswith("test_whose_code_a_frame_is_in.<locals>.<lambda> (")
    assert place_of_frame(None, frozenset()) is None
    for folder, is_the_authors in (("devplugin", False), ("devplugin_serial", True)):
        file = str(ROOT / folder / "__init__.py")
        frame = eval(compile("__import__('sys')._getframe()", file, "eval"))
        place = place_of_frame(frame, frozenset())
        assert place is not None
        assert (place.file == file) is is_the_authors


def test_how_long_a_thread_has_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel tells it; where it does not, nothing is taken off."""
    watchdog = Watchdog(frozenset())
    assert watchdog._waited_s() >= 0
    monkeypatch.setattr(watchdog, "_schedstat", Path("/nowhere"))
    assert watchdog._waited_s() == 0


@pytest.mark.asyncio
async def test_a_plugin_that_has_just_gone(directory: Path) -> None:
    """Nothing can be asked of it, and why it has gone is found elsewhere."""
    plugin = Good()
    found = Found(plugin)
    settings = Settings(host_root=directory, watch_s=0, patience_s=0, unplug=None)
    async with FakeKubelet(directory) as kubelet:
        await Course(kubelet, plugin, found, settings)._use()
    assert found.codes == set()


@pytest.mark.asyncio
async def test_reprs(directory: Path) -> None:
    """They show what is so far."""
    kubelet, plugin = FakeKubelet(directory), Good()
    found = Found(plugin)
    found.add("DP211", "nothing there")
    settings = Settings(host_root=directory, watch_s=0, patience_s=0, unplug=None)
    assert repr(Course(kubelet, plugin, found, settings)) == "<Course of <Found ['DP211'] of Good>>"
    assert re.fullmatch(r"<Watchdog of thread \d+, 0 places>", repr(Watchdog(frozenset())))
    client = PluginClient("a/b", directory / "x.sock", "localhost", Clock(), Records(lambda: None))
    snapshot = Snapshot(resource="a/b", endpoint="x.sock", at_s=0, devices={})
    calls = HookCalls(client, snapshot, found, directory, 0)
    assert repr(calls) == f"<HookCalls on <PluginClient a/b <PluginChannel {directory}/x.sock, down>>, 0 answers>"


@pytest.mark.asyncio
async def test_cancelled_it_leaves_nothing() -> None:
    """Neither tasks nor its directory."""
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await check_plugin(NeverYields())
    assert asyncio.all_tasks() == before


def test_how_a_finding_reads() -> None:
    """In a failing assert only what was found; for people all of it."""
    finding = rules()["DP104"].finding("P", "it is wrong")
    assert repr(finding) == "Finding(code='DP104', subject='P', meaning='it is wrong')"
    assert isinstance(finding, Finding)
    assert str(finding) == (
        "DP104 P: it is wrong. The kubelet refuses to register it, and the plugin ends. "
        "Name it vendor-domain/resource, as in example.com/serial. (docs/reference/checks.md#dp104)"
    )


@pytest.mark.parametrize("code", rules())
def test_the_texts_are_sentences(code: str) -> None:
    """Titles without a full stop, reasons and remedies with one; none is longer than a line of a terminal or two."""
    rule = rules()[code]
    assert re.fullmatch(r"DP[1-4]\d\d", rule.code)
    assert not rule.title.endswith(".")
    assert rule.why.endswith(".")
    assert rule.remedy.endswith(".")
    assert max(len(rule.title), len(rule.why), len(rule.remedy)) < 130


def test_every_rule_is_documented() -> None:
    """Each has a section with its anchor and title, in order, and no other has."""
    page = (ROOT / "docs/reference/checks.md").read_text()
    sections = re.findall(r"^\((\w+)\)=\n### (\w+): (.+)\n\n\S", page, re.MULTILINE)
    assert sections == [(code.lower(), code, rule.title) for code, rule in rules().items()]
    assert {rule.documented_at for rule in rules().values()} == {
        f"docs/reference/checks.md#{anchor}" for anchor, _, _ in sections
    }
    assert set(re.findall(r"DP\d+", page)) == {*rules()}
