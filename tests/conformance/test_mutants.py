"""Each promise has a case that fails when it is broken."""

import asyncio
from collections import Counter

import pytest

from tests.conformance.kubelet import KUBELETS, KubeletId
from tests.conformance.lab import run_case
from tests.conformance.mutants import MUTANTS, Mutant, fakes, plugins
from tests.conformance.registry import all_cases

pytestmark = [pytest.mark.conformance, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]

SOON_S = 4.0
"""For waits that are in vain with a mutant."""


def _kubelet(name: str) -> KubeletId:
    [found] = [kubelet for kubelet in KUBELETS if str(kubelet) == name]
    return found


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The case holds without the mutant; with it, it fails in the expected way."""
    case, kubelet = all_cases()[mutant.case], _kubelet(mutant.kubelet)
    asyncio.run(run_case(case, kubelet, mutant.subject))
    mutant.apply(monkeypatch)
    with pytest.raises(Exception, match=mutant.notices):
        asyncio.run(run_case(case, kubelet, mutant.subject, timeout_s=SOON_S))


def test_no_mutant_is_there_twice() -> None:
    """Names are unique, and there are enough."""
    assert {mutant.apply.__module__ for mutant in MUTANTS} == {plugins.__name__, fakes.__name__}
    assert len(MUTANTS) >= 15
    assert [name for name, times in Counter(mutant.name for mutant in MUTANTS).items() if times > 1] == []
