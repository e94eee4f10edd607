"""The table of the conformance suite, from made-up reports."""

import re
from collections.abc import Awaitable, Callable

import pytest

from tests.conformance.kubelet import KUBELETS, VERSIONS, KubeletId, Version
from tests.conformance.registry import Case, Need, all_cases, case, since
from tests.conformance.table import PAGE, Outcome, Table

REAL_36 = KubeletId("real", Version.of("1.36"))


@pytest.fixture
def full() -> Table:
    """A table of a run in which everything held."""
    table = Table()
    for each in all_cases().values():
        for subject in (*each.subjects,) or (None,):
            for kubelet in KUBELETS:
                if each.not_applicable(kubelet) is None:
                    outcome = Outcome.FALLS_SHORT if each.shortcoming(subject, kubelet) else Outcome.SAME
                    table.report(each.name, subject, str(kubelet), outcome, f"{kubelet.version}.9")
    return table


def test_a_full_table_is_a_page(full: Table) -> None:
    """Every case, every release, no difference; what does not apply is there with its reason."""
    page = full.page()
    assert all(each.summary in page for each in all_cases().values())
    assert all(f"| {version} | {version}.9 | yes |" in page for version in VERSIONS)
    assert "`X`" not in page.partition("## Proven")[2]
    assert "the fake kubelet has no topology manager (`hints_name_the_nodes`" in page


def test_the_documentation_is_of_this_suite(full: Table) -> None:
    """Its page has every case, and all of them held. Else: make conformance, and again with --write-docs."""
    assert _without_date_and_patch(PAGE.read_text()) == _without_date_and_patch(full.page())


def _without_date_and_patch(page: str) -> str:
    return re.sub(
        r"(?m)^\| (1\.\d+) \| \1\.\d+ ", r"| \1 | \1 ", re.sub(r"By the run of [\d-]+", "By the run of", page)
    )


def test_a_difference_is_shown_and_proves_nothing(full: Table) -> None:
    """In the page and in the text."""
    full.report("an_empty_list", None, str(REAL_36), Outcome.DIFFERENT, None)
    assert "| 1.36 | 1.36.9 | NO |" in full.page()
    assert "| 1.35 | 1.35.9 | yes |" in full.page()
    lines = list(full.lines())
    [line] = [line for line in lines if line.startswith("an_empty_list ")]
    assert line.split()[1:] == ["="] * 7 + ["X"] + ["="] * 2
    assert any("DIFFERENT (1)" in line for line in lines)


def test_a_part_of_the_suite_is_no_page() -> None:
    """What has not run is not said to hold; the text shows what has."""
    table = Table()
    assert not table
    table.report("an_empty_list", None, "fake-1.36", Outcome.SAME, None)
    assert table
    with pytest.raises(ValueError, match="cells of the table are empty"):
        table.page()
    assert sum("an_empty_list" in line for line in table.lines()) == 1


def test_needs_and_shortcomings() -> None:
    """Why a case does not run, and why it fails with whom."""
    old = since("1.25", "is old")
    made = Case("a", "b", "c", _nothing, ("sample",), needs=[old], shortcomings={"sample": Need(_is_real, "is broken")})
    assert made.not_applicable(KubeletId("real", Version.of("1.20"))) == "Kubernetes before 1.25 is old"
    assert made.not_applicable(REAL_36) is None
    assert made.shortcoming("sample", REAL_36) == "is broken"
    assert made.shortcoming("ours", REAL_36) is None
    assert made.shortcoming("sample", KubeletId("fake", Version.of("1.36"))) is None


@pytest.mark.parametrize("broken", [lambda: case()(_nothing), lambda: case()(_of_a_name_that_is_taken())])
def test_a_case_has_a_name_and_a_sentence(broken: Callable[[], object]) -> None:
    """Else it is refused."""
    all_cases()
    with pytest.raises(ValueError, match="a name that is taken, or no sentence"):
        broken()


async def _nothing(_: object) -> None: ...


def _is_real(kubelet: KubeletId) -> bool:
    return kubelet.kind == "real"


def _of_a_name_that_is_taken() -> Callable[..., Awaitable[None]]:
    async def an_empty_list(_: object) -> None:
        """A sentence."""

    return an_empty_list
