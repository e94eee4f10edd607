"""The pytest plugin of devplugin: a kubelet for each test, and what it saw in the report of a test that failed.

It is a package of its own because every run of pytest pays for it wherever devplugin is installed: importing anything of
``devplugin`` brings gRPC, which takes twenty times as long as this. So that waits until a test uses a fixture.

Rule: the kubelet runs in the test's own event loop. Who runs the test is known only when it is set up: pytest-asyncio, in
a loop of some scope, or anyio's plugin. There is a private fixture for each, and the public ones pick that of the test.
"""

from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from devplugin.testing import FakeKubelet, Serve
    from devplugin.testing._fixtures import Stage

__all__ = ["kubelet", "kubernetes_version", "serve"]

_VERSION = "devplugin_kubernetes_version"
_STAGE: "pytest.StashKey[Stage]" = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Called by pytest."""
    parser.addini(_VERSION, "the version of Kubernetes whose behaviour the fixture 'kubelet' shows", default="1.36")


def pytest_configure(config: pytest.Config) -> None:
    """Called by pytest."""
    if config.pluginmanager.has_plugin("asyncio"):
        from pytest_devplugin import _asyncio  # noqa: PLC0415  (it needs pytest-asyncio)

        config.pluginmanager.register(_asyncio, "devplugin-asyncio")


@pytest.fixture
def kubernetes_version(pytestconfig: pytest.Config) -> str:
    """The version of Kubernetes whose behaviour ``kubelet`` shows: the ini option ``devplugin_kubernetes_version``.

    Parametrize a test with it, or override it in a conftest.
    """
    version: str = pytestconfig.getini(_VERSION)
    return version


@pytest.fixture
def kubelet(request: pytest.FixtureRequest, kubernetes_version: str) -> "FakeKubelet":  # noqa: ARG001  (to parametrize)
    """A running ``devplugin.testing.FakeKubelet`` in the event loop of the test."""
    return _stage(request).kubelet


@pytest.fixture
def serve(request: pytest.FixtureRequest, kubernetes_version: str) -> "Serve":  # noqa: ARG001  (as above)
    """A ``devplugin.testing.Serve`` that starts plugins on ``kubelet``, and ends them with the test::

    resource = await serve(SerialPorts())
    """
    return _stage(request).serve


async def on_stage(request: pytest.FixtureRequest, tmp_path: Path, version: str) -> "AsyncIterator[Stage]":
    """The body of each private fixture."""
    from devplugin.testing._fixtures import stage  # noqa: PLC0415  (the first import of devplugin)

    async with stage(tmp_path, version) as prepared:
        request.node.stash[_STAGE] = prepared
        yield prepared


@pytest.fixture
async def _devplugin_under_anyio(
    request: pytest.FixtureRequest, tmp_path: Path, kubernetes_version: str
) -> "AsyncIterator[Stage]":
    async for prepared in on_stage(request, tmp_path, kubernetes_version):
        yield prepared


def _stage(request: pytest.FixtureRequest) -> "Stage":
    prepared: Stage = request.getfixturevalue(_runner_of(request))
    return prepared


def _runner_of(request: pytest.FixtureRequest) -> str:
    """The private fixture for whoever runs the test."""
    asyncio_fixtures = request.config.pluginmanager.get_plugin("devplugin-asyncio")
    if asyncio_fixtures is not None and (name := asyncio_fixtures.fixture_for(request.node)):
        return str(name)
    if "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend_name")
        if backend != "asyncio":
            pytest.fail(
                f"The fixture {request.fixturename!r} needs asyncio, which devplugin runs on, and this test runs on {backend}: "
                "parametrize it with anyio_backend='asyncio', or let a fixture anyio_backend return 'asyncio'",
                pytrace=False,
            )
        return _devplugin_under_anyio.__name__
    pytest.fail(
        f"The fixture {request.fixturename!r} needs a test that is run in an event loop: write 'async def', and mark it with "
        "'asyncio' (pytest-asyncio must be installed) or 'anyio', unless the ini file says asyncio_mode = auto",
        pytrace=False,
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Called by pytest: a report of a failure tells what the kubelet saw."""
    report = yield
    if report.failed and _STAGE in item.stash:
        report.sections.append(("what the kubelet saw", item.stash[_STAGE].story()))
        del item.stash[_STAGE]  # told once: the end of the test may fail as well
    return report
