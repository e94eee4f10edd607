"""What came out: cases and kubelets, as text for the terminal and as a page for the documentation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from itertools import groupby
from pathlib import Path

from tests.conformance.kubelet import KUBELETS, VERSIONS, KubeletId, Version
from tests.conformance.registry import Case, all_cases

__all__ = ["DIFFERENCES", "PAGE", "Outcome", "Table"]

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"

DIFFERENCES: Mapping[tuple[str, str], str] = {}
"""Where the fake kubelet differs from the real one, by case and kubelet, and why it is left so: none."""


class Outcome(Enum):
    """What a case did on a kubelet; the value is its sign in the table."""

    SAME = "="
    DIFFERENT = "X"
    NOT_APPLICABLE = "-"
    FALLS_SHORT = "o"
    NOT_RUN = "?"


@dataclass(frozen=True, slots=True)
class Row:
    """A case with one of its subjects."""

    case: Case
    subject: str | None

    @property
    def label(self) -> str:
        return self.case.name + (f" [{self.subject}]" if self.subject else "")


def _rows() -> list[Row]:
    return [Row(case, subject) for case in all_cases().values() for subject in (*case.subjects,) or (None,)]


class Table:
    """The outcomes so far. What does not apply is known from the cases, the rest is reported."""

    def __init__(self) -> None:
        self._reported: dict[tuple[str, str | None, str], Outcome] = {}
        self._releases: dict[str, str] = {}

    def report(self, case: str, subject: str | None, kubelet: str, outcome: Outcome, release: str | None) -> None:
        """Note an outcome, and the version of Kubernetes in full where it is known."""
        self._reported[case, subject, kubelet] = outcome
        if release:
            self._releases[kubelet] = release

    def __bool__(self) -> bool:
        return bool(self._reported)

    def outcome(self, row: Row, kubelet: KubeletId) -> Outcome:
        if row.case.not_applicable(kubelet):
            return Outcome.NOT_APPLICABLE
        return self._reported.get((row.case.name, row.subject, str(kubelet)), Outcome.NOT_RUN)

    def count(self, outcome: Outcome) -> int:
        """How many cells show it."""
        return sum(self.outcome(row, kubelet) is outcome for row in _rows() for kubelet in KUBELETS)

    def proven(self, version: Version) -> bool:
        """Whether every case holds on the real kubelet of a version, but for what other people's plugins fall short of."""
        real = KubeletId("real", version)
        held = {Outcome.SAME, Outcome.NOT_APPLICABLE, Outcome.FALLS_SHORT}
        return all(self.outcome(row, real) in held for row in _rows())

    # As text

    def lines(self) -> Iterator[str]:
        """The table for the terminal."""
        rows = [row for row in _rows() if any(self.outcome(row, each) is not Outcome.NOT_RUN for each in KUBELETS)]
        width = max(len(row.label) for row in rows)
        yield " " * width + "".join(f"  {version!s:^9}" for version in VERSIONS)
        yield " " * width + "  fake real" * len(VERSIONS)
        for row in rows:
            cells = (self.outcome(row, kubelet).value for kubelet in KUBELETS)
            yield f"{row.label:{width}}" + "".join(
                f"  {fake:^4} {real:^4}" for fake, real in zip(cells, cells, strict=True)
            )
        yield f"= the same   X DIFFERENT ({self.count(Outcome.DIFFERENT)})   - not applicable   o the plugin falls short"
        for reason in _reasons(rows, Outcome.NOT_APPLICABLE):
            yield f"not applicable: {reason}"
        for reason in _reasons(rows, Outcome.FALLS_SHORT):
            yield f"falls short: {reason}"

    # As a page

    def page(self) -> str:
        """The page of the documentation.

        Raises:
            ValueError: Not all cases have run.
        """
        if missing := self.count(Outcome.NOT_RUN):
            raise ValueError(f"{missing} cells of the table are empty: the page is written by a run of the whole suite")
        return "\n".join(self._page()) + "\n"

    def _page(self) -> Iterator[str]:
        yield from _INTRODUCTION
        yield ""
        yield "## Proven versions"
        yield ""
        today = datetime.now(tz=UTC).date()
        yield f"By the run of {today}, {len(_rows())} cases on {len(KUBELETS)} kubelets:"
        yield ""
        yield "| Kubernetes | Release that was run | Every case holds |"
        yield "| --- | --- | --- |"
        for version in VERSIONS:
            release = self._releases[f"real-{version}"]
            yield f"| {version} | {release} | {'yes' if self.proven(version) else 'NO'} |"
        yield ""
        yield "## Differences between the fake kubelet and the real ones"
        yield ""
        yield from [f"- {case}, {kubelet}: {why}" for (case, kubelet), why in DIFFERENCES.items()] or ["None."]
        yield ""
        yield "## Cases"
        for theme, rows in groupby(_rows(), key=lambda row: row.case.theme):
            yield from self._theme(theme, [row for row in rows if row.subject != "sample"])
        yield ""
        yield from self._sample()
        yield ""
        yield "## Not applicable"
        yield ""
        yield from [f"- {reason}" for reason in _reasons(_rows(), Outcome.NOT_APPLICABLE)]

    def _theme(self, theme: str, rows: Sequence[Row]) -> Iterator[str]:
        yield ""
        yield f"### {theme.capitalize()}"
        yield ""
        yield from _head("Case")
        for row in rows:
            yield self._line(row, row.case.summary)

    def _sample(self) -> Iterator[str]:
        yield "## Kubernetes' own sample plugin"
        yield ""
        yield (
            "The cases that need nothing of the plugin's inside, with `sample-device-plugin` of Kubernetes "
            "beside a plugin made with devplugin: the suite tests the protocol, not our habits."
        )
        yield ""
        yield from _head("Case", "Plugin")
        both = [row for row in _rows() if "sample" in row.case.subjects]
        for row in both:
            name = "devplugin" if row.subject == "ours" else "sample"
            yield self._line(row, f"`{row.case.name}`", name)
        yield ""
        yield "Where it falls short (`o`):"
        yield ""
        yield from [f"- {reason}" for reason in _reasons(both, Outcome.FALLS_SHORT)]

    def _line(self, row: Row, *first: str) -> str:
        return f"| {' | '.join([*first, *(f'`{self.outcome(row, each).value}`' for each in KUBELETS)])} |"


_INTRODUCTION = """# Conformance

Every promise of this framework is a case: a few lines that run a plugin under a kubelet and say what must come of it. Each
case runs, with the same expectation, on the kubelets' own device managers (Kubernetes' code, built from its releases) and on
{py:class}`~devplugin.testing.FakeKubelet` as each of those versions. So a promise is known to hold for the versions that
people run, and the fake kubelet is known to behave as they do. `make conformance` runs it all; this page is written by such a
run.

In the tables, `=` says that the case holds: the fake kubelet and the real one do the same. `-` is not applicable, with its
reason at the end; `X` would be a difference.""".splitlines()


def _head(*columns: str) -> Iterator[str]:
    names = [*columns, *(f"{kubelet.version} {kubelet.kind}" for kubelet in KUBELETS)]
    yield f"| {' | '.join(names)} |"
    yield "| --- " * len(names) + "|"


def _reasons(rows: Sequence[Row], outcome: Outcome) -> list[str]:
    """Each reason once, with the cases that it is for."""
    cases: dict[str, dict[str, None]] = {}
    for row in rows:
        for kubelet in KUBELETS:
            reason = (
                row.case.not_applicable(kubelet)
                if outcome is Outcome.NOT_APPLICABLE
                else row.case.shortcoming(row.subject, kubelet)
            )
            if reason:
                cases.setdefault(reason, {})[row.case.name] = None
    return [f"{reason} ({', '.join(f'`{name}`' for name in names)})" for reason, names in cases.items()]
