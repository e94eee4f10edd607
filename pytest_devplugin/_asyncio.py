"""The fixtures for tests that pytest-asyncio runs: one for each scope that a test's event loop can have."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import pytest_asyncio

from pytest_devplugin import on_stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from devplugin.testing._fixtures import Stage

_Scope = Literal["function", "class", "module", "package", "session"]


def fixture_for(item: pytest.Item) -> str | None:
    """The name of the fixture in the loop of this test; None when pytest-asyncio does not run it."""
    if not pytest_asyncio.is_async_test(item):
        return None
    if "anyio_backend" in item.fixturenames:
        pytest.fail(
            "pytest-asyncio in mode auto runs this test, and anyio's plugin would run its fixtures, in another event loop: "
            "say asyncio_mode = strict where tests are marked with anyio",
            pytrace=False,
        )
    marker = item.get_closest_marker("asyncio")
    assert marker is not None  # in mode auto it has been added
    scope = marker.kwargs.get("loop_scope") or marker.kwargs.get("scope")  # the second is the old name
    return _name_of(scope or item.config.getini("asyncio_default_test_loop_scope"))


def _name_of(loop_scope: str) -> str:
    return f"_devplugin_under_asyncio_{loop_scope}"


def _fixture_in(loop_scope: _Scope) -> Any:
    @pytest_asyncio.fixture(loop_scope=loop_scope, name=_name_of(loop_scope))
    async def fixture(
        request: pytest.FixtureRequest, tmp_path: Path, kubernetes_version: str
    ) -> "AsyncIterator[Stage]":
        async for prepared in on_stage(request, tmp_path, kubernetes_version):
            yield prepared

    return fixture


in_function = _fixture_in("function")
in_class = _fixture_in("class")
in_module = _fixture_in("module")
in_package = _fixture_in("package")
in_session = _fixture_in("session")
