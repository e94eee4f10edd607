"""Every case on every kubelet: the same expectation for all."""

import asyncio
from collections.abc import Callable

import pytest

from tests.conformance.kubelet import KUBELETS, KubeletId
from tests.conformance.lab import run_case
from tests.conformance.registry import Case, all_cases

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(300)]

FALLS_SHORT_S = 8.0
"""For waits that are expected to be in vain."""


def _parameters() -> list[object]:
    return [
        pytest.param(case, subject, kubelet, id="-".join([case.name, *([subject] if subject else []), str(kubelet)]))
        for case in all_cases().values()
        for subject in (*case.subjects,) or (None,)
        for kubelet in KUBELETS
        if case.not_applicable(kubelet) is None
    ]


@pytest.mark.parametrize(("case", "subject", "kubelet"), _parameters())
def test_case(
    case: Case, subject: str | None, kubelet: KubeletId, record_property: Callable[[str, object], None]
) -> None:
    """The case holds; or, with a plugin that is known to fall short, it does not."""
    shortcoming = case.shortcoming(subject, kubelet)
    record_property("case", case.name)
    record_property("subject", subject)
    record_property("kubelet", str(kubelet))
    record_property("falls short", shortcoming is not None)
    if shortcoming is None:
        record_property("release", asyncio.run(run_case(case, kubelet, subject)))
        return
    with pytest.raises((AssertionError, TimeoutError)):
        asyncio.run(run_case(case, kubelet, subject, timeout_s=FALLS_SHORT_S))
