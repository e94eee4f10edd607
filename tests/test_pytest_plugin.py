"""The pytest plugin, as projects use it: every run is a pytest of its own, in this process where that makes no difference."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from devplugin.testing import FakeKubelet
from tests.conftest import unmeasured

pytest_plugins = ["pytester"]

PLUGIN = """
from collections.abc import AsyncIterator
from devplugin import Device, DevicePluginBase

class Ports(DevicePluginBase):
    resource_name = "example.com/port"

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device("a"), Device("b")]
"""
TEST = """
import asyncio
from ports import Ports

async def test_a_pod_gets_a_port(kubelet, serve):
    resource = await serve(Ports())
    assert resource == "example.com/port"
    assert kubelet.resources[resource].allocatable == 2
    pod = await kubelet.create_pod("pod", {resource: 1}).running()
    assert len(pod.device_ids(resource)) == 1
    await kubelet.restart()
    await kubelet.registered(resource, count=2)
"""
STRICT = "asyncio_mode = strict\nasyncio_default_fixture_loop_scope = function\n"
AUTO = "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
MARKED = "import pytest\npytestmark = pytest.mark.{}\n"
ON_ASYNCIO = "@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"

LITTLE = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest"]

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs tests in a pytest of their own, where warnings are errors."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(ini: str, *options: str, **files: str) -> pytest.RunResult:
        pytester.makeini(f"[pytest]\nfilterwarnings = error\n{ini}")
        pytester.makepyfile(ports=PLUGIN, **files)
        return pytester.runpytest_inprocess(*LITTLE, *options)

    return run


# Who runs the test ----------------------------------------------------------------------------------------------------

RUNNERS = {
    "strict": (STRICT, MARKED.format("asyncio") + TEST),
    "auto": (AUTO, TEST),
    "anyio": (STRICT, MARKED.format("anyio") + ON_ASYNCIO + TEST),
    "anyio in mode auto": (STRICT + "anyio_mode = auto\n", "import pytest\n" + ON_ASYNCIO + TEST),
    "strict with a loop for the module": (STRICT, MARKED.format("asyncio(loop_scope='module')") + TEST + TEST),
    "auto with a loop for the session": (AUTO + "asyncio_default_test_loop_scope = session\n", TEST),
    "fixtures in a loop for the session": (AUTO.replace("= function", "= session"), TEST),
}


@pytest.mark.parametrize(("ini", "test"), RUNNERS.values(), ids=RUNNERS)
def test_each_runner(run: Run, ini: str, test: str) -> None:
    """A pod gets a device, and the plugin comes back after a restart, in the loop of the test."""
    run(ini, test_it=test).assert_outcomes(passed=1)


@pytest.mark.parametrize(("ini", "test"), [RUNNERS["auto"], RUNNERS["anyio"]], ids=["asyncio", "anyio"])
def test_without_the_other_one(run: Run, ini: str, test: str) -> None:
    """Neither pytest-asyncio nor anyio's plugin needs the other one to be there."""
    other = "no:anyio" if ini == AUTO else "no:asyncio"
    run("" if other == "no:asyncio" else ini, "-p", other, test_it=test).assert_outcomes(passed=1)


def test_in_parallel(run: Run) -> None:
    """Under xdist each test has a kubelet of its own, and the story of a failure comes through."""
    many = "".join(
        f"\nasync def test_{n}(kubelet, serve):\n    await test_a_pod_gets_a_port(kubelet, serve)" for n in "123"
    )
    failing = "\nasync def test_fails(kubelet, serve):\n    await serve(Ports())\n    assert kubelet.is_running is None"
    done = run(AUTO, "-n", "2", test_it=TEST + many + failing)
    done.assert_outcomes(passed=4, failed=1)
    done.stdout.fnmatch_lines(["*what the kubelet saw*", "* Snapshot of example.com/port on *: a Healthy, b Healthy"])


def test_who_cannot_run_it(run: Run) -> None:
    """A sentence that says what to do, and no traceback."""
    on_trio = "@pytest.fixture\ndef anyio_backend():\n    return 'trio'\n"
    done = run(STRICT, test_trio=MARKED.format("anyio") + on_trio + TEST, test_plain="def test_it(serve):\n    pass")
    done.assert_outcomes(errors=2)
    done.stdout.fnmatch_lines_random(
        [
            "The fixture 'kubelet' needs asyncio, which devplugin runs on, and this test runs on trio: parametrize it *",
            "The fixture 'serve' needs a test that is run in an event loop: write 'async def', and mark it with *",
        ]
    )
    done.stdout.no_fnmatch_line("*Traceback*")


def test_two_at_once(run: Run) -> None:
    """A test that two plugins would run is refused, since its fixtures would be in another loop than itself."""
    done = run(AUTO, test_it=MARKED.format("anyio") + ON_ASYNCIO + TEST)
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(
        ["pytest-asyncio in mode auto runs this test, and anyio's plugin would run its fixtures, *"]
    )


# What the fixtures do -------------------------------------------------------------------------------------------------


def test_the_version(run: Run) -> None:
    """The newest that has the traps of the older ones, that of the ini file, or that of a parameter."""
    test = """
import pytest
async def test_default(kubelet):
    assert kubelet.version == "{}"
@pytest.mark.parametrize("kubernetes_version", ["1.20", "1.37"])
async def test_parameter(kubelet, kubernetes_version):
    assert kubelet.version == kubernetes_version
@pytest.mark.parametrize("kubernetes_version", ["1.3"])
async def test_unknown(kubelet):
    pass
@pytest.mark.parametrize("kubernetes_version", ["1.37"])
async def test_parameter_that_is_not_asked_for(serve):
    assert "FakeKubelet 1.37" in repr(serve)
"""
    assert FakeKubelet("x").version == "1.36"
    done = run(AUTO, test_it=test.format("1.36"))
    done.assert_outcomes(passed=4, errors=1)
    done.stdout.fnmatch_lines(["*No fake kubelet behaves as version '1.3'; there are *"])
    ini = AUTO + "devplugin_kubernetes_version = 1.34"
    run(ini, test_it=test.format("1.34")).assert_outcomes(passed=4, errors=1)


def test_the_directory(run: Run) -> None:
    """In tmp_path, unless that is too long for a socket."""
    test = """
from pathlib import Path
import tempfile
async def test_short(kubelet, serve, tmp_path):
    assert kubelet.directory == tmp_path / "kubelet"
"""
    long = """
from pathlib import Path
import pytest, tempfile
from ports import Ports
seen = []
@pytest.fixture
def tmp_path(tmp_path):
    return tmp_path / ("long" * 30)
async def test_long(kubelet, serve):
    seen.append(kubelet.directory)
    await serve(Ports())
    assert kubelet.directory.parent == Path(tempfile.gettempdir())
def test_nothing_is_left():
    [directory] = seen
    assert not directory.exists()
"""
    with TemporaryDirectory(prefix="dp-") as base:
        run(AUTO, f"--basetemp={base}/t", test_it=test, test_long=long).assert_outcomes(passed=3)


SERVING = """
import asyncio, pytest
from devplugin import ConfigurationError, Device, DevicePluginBase
from devplugin.testing import ConditionNotMet, Serve
from ports import Ports

class Fails(Ports):
    def __init__(self, *, lists=1):
        self.lists = lists
        self.now = asyncio.Event()
    async def devices(self):
        for _ in range(self.lists):
            yield [Device("a")]
            await self.now.wait()
        raise OSError("no bus")

class Silent(Ports):
    async def devices(self):
        await asyncio.Event().wait()
        yield []

async def test_stopped_and_served_again(kubelet, serve):
    first = Ports()
    resource = await serve(first)
    await serve.stop(first)
    seen = await kubelet.allocatable(resource, 0)
    assert seen.capacity == 2
    assert await serve(Ports()) == resource
    await kubelet.allocatable(resource, 2)
    assert repr(serve).startswith("<Serve ['Ports'] on <FakeKubelet 1.36 running")

async def test_fails_at_once(serve):
    with pytest.raises(OSError, match="no bus"):
        await serve(Fails(lists=0))

async def test_fails_later(kubelet, serve):
    plugin = Fails()
    resource = await serve(plugin)
    assert not await serve.ended(plugin, within_s=0)
    plugin.now.set()
    assert await serve.ended(plugin, within_s=10)
    with pytest.raises(OSError, match="no bus"):
        await serve.stop()
    assert "The plugin Fails ended with OSError('no bus')" in kubelet.log

async def test_two_fail(serve):
    one, other = Fails(), Fails()
    other.resource_name = "example.com/other"
    for plugin in (one, other):
        await serve(plugin)
        plugin.now.set()
    await asyncio.gather(serve.ended(one, within_s=10), serve.ended(other, within_s=10))
    with pytest.raises(ExceptionGroup, match="several plugins have failed") as caught:
        await serve.stop(one, other)
    assert len(caught.value.exceptions) == 2

async def test_a_list_that_does_not_come(kubelet, serve):
    with pytest.raises(ConditionNotMet, match="The registration of example.com/port with its first list did not come"):
        await serve(Silent(), timeout_s=0.3)
    await serve.stop()
    assert await serve(Silent(), await_list=False) == "example.com/port"

class Returns(Ports):
    async def serve(self, *, kubelet_dir):
        pass

class Nameless(Ports):
    resource_name = None

async def test_what_cannot_be_served(serve):
    with pytest.raises(ConfigurationError, match="Ports'> is none: is a pair of brackets missing"):
        await serve(Ports)
    with pytest.raises(ConfigurationError, match="resource name None is not usable"):
        await serve(Nameless())
    with pytest.raises(ConditionNotMet, match="example.com/port was to be served, and serve.. of Returns has returned"):
        await serve(Returns())

async def test_typed(serve):
    assert isinstance(serve, Serve)
"""


def test_serving(run: Run) -> None:
    """Plugins come and go within a test, and what they raise is raised."""
    run(AUTO, test_it=SERVING).assert_outcomes(passed=7)


def test_a_plugin_that_fails_unnoticed(run: Run) -> None:
    """What it raised is the error of the end of the test."""
    noticed_by_nobody = """
async def test_unnoticed(serve):
    plugin = Fails()
    await serve(plugin)
    plugin.now.set()
    await serve.ended(plugin, within_s=10)
"""
    done = run(AUTO, "-k", "unnoticed", test_it=SERVING + noticed_by_nobody)
    done.assert_outcomes(passed=1, errors=1, deselected=7)
    done.stdout.fnmatch_lines(["*OSError: no bus", "*what the kubelet saw*"])


def test_in_a_fixture_of_ones_own(run: Run) -> None:
    """Fixtures can build on them, with either runner, and override them."""
    test = """
import pytest, pytest_asyncio
from ports import Ports

@{fixture}
async def port(serve):
    return await serve(Ports())

@pytest.fixture
def kubernetes_version():
    return "1.37"

@pytest.mark.{marker}
async def test_it(port, kubelet):
    assert kubelet.resources[port].capacity == 2
    assert kubelet.version == "1.37"
"""
    run(
        STRICT,
        test_a=test.format(fixture="pytest_asyncio.fixture", marker="asyncio"),
        test_b=test.format(fixture="pytest.fixture", marker="anyio") + ON_ASYNCIO,
    ).assert_outcomes(passed=2)


# What a failure tells -------------------------------------------------------------------------------------------------

STORY = """
from devplugin import AllocationError
from ports import Ports

class Refuses(Ports):
    async def allocate(self, devices):
        raise AllocationError("not today")

async def test_fails(kubelet, serve):
    resource = await serve(Refuses())
    await kubelet.create_pod("shop", {resource: 1}).running()

async def test_passes(kubelet, serve):
    await serve(Ports())

async def test_fails_without():
    assert False
"""


def test_the_story_of_a_failure(run: Run) -> None:
    """What came and went, in its order; only for a test that fails and has a kubelet."""
    done = run(AUTO, test_it=STORY)
    done.assert_outcomes(passed=1, failed=2)
    done.stdout.fnmatch_lines(
        [
            "*-- what the kubelet saw --*",
            "<FakeKubelet 1.36 running in *: example.com/port 2/2; 1 pods>",
            "  shop   0/1   UnexpectedAdmissionError   0",
            " *.* s  Registration of example.com/port on port-*.sock: accepted",
            " *.* s  Snapshot of example.com/port on port-*.sock: a Healthy, b Healthy",
            " *.* s  Pod shop: Normal Scheduled: Successfully assigned *",
            " *.* s  Allocate of example.com/port: *: failed: rpc error: * not today",
            " *.* s  Pod shop: Warning UnexpectedAdmissionError: *",
            "  log: Got registration request from device plugin with resource example.com/port",
        ]
    )
    assert str(done.stdout).count("what the kubelet saw") == 1


# What it costs --------------------------------------------------------------------------------------------------------


def test_every_run_pays_little(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that uses no fixture imports nothing of devplugin, nor what devplugin needs."""
    for name in os.environ.keys() - unmeasured().keys():
        monkeypatch.delenv(name)
    pytester.makepyfile(
        test_it="""
        import sys
        def test_it():
            assert "pytest_devplugin" in sys.modules
            heavy = ("devplugin", "grpclib", "h2", "betterproto2")
            assert [name for name in sys.modules if name.partition(".")[0] in heavy] == []
        """
    )
    pytester.runpytest_subprocess(*LITTLE).assert_outcomes(passed=1)


def test_it_can_be_left_out(pytester: pytest.Pytester) -> None:
    """As every plugin of pytest."""
    pytester.makepyfile("def test_it(kubelet):\n    pass")
    pytester.makeini(f"[pytest]\n{STRICT}")
    done = pytester.runpytest_inprocess(*LITTLE, "-p", "no:devplugin")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*fixture 'kubelet' not found"])


def test_it_is_listed(pytester: pytest.Pytester) -> None:
    """The output of pytest --fixtures has the public ones with what they are."""
    pytester.makeini(f"[pytest]\n{STRICT}")
    listed = str(pytester.runpytest_inprocess(*LITTLE, "--fixtures").stdout)
    for name in ("kubelet", "serve", "kubernetes_version"):
        assert re.search(rf"^{name} -- .*pytest_devplugin/__init__\.py", listed, re.MULTILINE), name
    assert "_devplugin_under" not in listed


def test_the_entry_point() -> None:
    """It is found by pytest without being asked for, and typed."""
    [entry] = distribution("devplugin").entry_points.select(group="pytest11")
    assert (entry.name, entry.value) == ("devplugin", "pytest_devplugin")
    assert Path(entry.load().__file__).with_name("py.typed").is_file()
    program = "import sys, pytest_devplugin; sys.exit('devplugin' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
