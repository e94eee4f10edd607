"""The table at the end of a run."""

import pytest

pytest.register_assert_rewrite("tests.conformance.cases", "tests.conformance.lab")  # before they are imported

from tests.conformance.table import PAGE, Outcome, Table  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-docs",
        action="store_true",
        help=f"write the conformance suite's table to {PAGE.parent.name}/{PAGE.name}",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Reporter(config), "conformance table")


class _Reporter:
    """Collects what the tests say of themselves; also from other processes, with pytest-xdist."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._table = Table()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        said: dict[str, object] = dict(report.user_properties)
        if report.when != "call" or "case" not in said:
            return
        met = Outcome.FALLS_SHORT if said["falls short"] else Outcome.SAME
        self._table.report(
            str(said["case"]),
            str(said["subject"]) if said["subject"] else None,
            str(said["kubelet"]),
            met if report.passed else Outcome.DIFFERENT,
            str(said["release"]) if "release" in said else None,
        )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._table:
            return
        terminalreporter.section("conformance")
        for line in self._table.lines():
            terminalreporter.line(line)
        if self._config.getoption("write_docs", default=False):
            try:
                PAGE.write_text(self._table.page())
                terminalreporter.line(f"Written: {PAGE}")
            except ValueError as error:
                terminalreporter.line(f"{PAGE.name} is not written: {error}", red=True)
