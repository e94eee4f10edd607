"""check_plugin: each rule is found where it is broken, and nothing where all is well."""

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from devplugin import Allocation, ConfigurationError, Device, DeviceNode, DevicePluginBase, Health, Mount, _service
from devplugin.testing import Finding, check_class, check_plugin, rules
from examples.sample_device.__main__ import SampleDevices
from tests.testing.breaches import BREACHES, Breach, Good, InGo, Misspelt, NeverYields, WithoutUnit

# Broken below, by more than a class.
APART = {"DP207", "DP210"}


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """No file, and no thread, task or process that a leak would keep (they warn, and warnings are errors)."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert [*tmp_path.glob("dp-check-*")] == []


@pytest.mark.asyncio
@pytest.mark.parametrize("plugin", [Good(), SampleDevices(), Good(count=100)], ids=repr)
async def test_nothing_is_found_where_all_is_well(plugin: DevicePluginBase[Any]) -> None:
    """A plugin that overrides everything, the sample, and one with more devices than are tried."""
    before = asyncio.all_tasks()
    assert await check_plugin(plugin, watch_s=0) == []
    assert asyncio.all_tasks() == before


@pytest.mark.asyncio
@pytest.mark.parametrize("breach", BREACHES, ids=lambda breach: f"{breach.code} {breach.plugin.__name__}")
async def test_a_breach_is_found_and_nothing_else(breach: Breach) -> None:
    """One finding, with the rule's code and texts, about the right thing."""
    [finding] = await check_plugin(breach.plugin(), **breach.options)
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


def test_a_class_is_checked_without_an_instance() -> None:
    """Names, signatures and what is async."""

    class NeedsMuch(Misspelt):
        def __init__(self, bus: object) -> None:
            raise NotImplementedError

    assert [finding.code for finding in check_class(NeedsMuch)] == ["DP101"]
    assert [finding.code for finding in check_class(InGo)] == ["DP101"]
    assert check_class(WithoutUnit) == []  # the instance has it


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

    found = await check_plugin(Follows(folder, forgets=forgets), unplug=unplug, watch_s=0)
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


@pytest.mark.asyncio
async def test_a_plugin_that_takes_any_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """What devplugin refuses by itself is tried all the same: serve() may be overridden."""
    monkeypatch.setattr(_service.Service, "_resolve", lambda *_, **__: [])
    [finding] = await check_plugin(SampleDevices(), watch_s=0)
    assert finding.code == "DP304"
    assert finding.meaning == "Allocate gave a container 'devplugin-check-no-such-device', which is in no list"


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
