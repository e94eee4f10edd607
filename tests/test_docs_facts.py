"""What the pages of understanding and of trouble state, held against the code."""

import re
from pathlib import Path

import pytest

from devplugin import Device
from devplugin._wire import LIST_BYTES_MAX, encode_device
from tests.support_pages import ROOT, pages

KUBELET = (ROOT / "docs/explanation/kubelet.md").read_text()


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_number_of_a_thread_is_that_of_its_link(page: Path) -> None:
    """``[kubernetes#125501](…/issues/125501)``: both say the same number."""
    text = page.read_text()
    links = re.findall(r"\[([^]]*?)#(\d+)\]\(https://github\.com/([\w.-]+/[\w.-]+)/(?:issues|pull)/(\d+)\)", text)
    assert [link for link in links if link[1] != link[3]] == []
    threads = re.findall(r"\]\(https://github\.com/[\w.-]+/[\w.-]+/(?:issues|pull)/\d+\)", text)
    assert len(threads) - len(links) <= 1  # one is named by what it says


@pytest.mark.parametrize(("characters", "count"), [(63, 55_000), (16, 145_000)])
def test_how_many_devices_fit(characters: int, count: int) -> None:
    """As many as the page says, to the thousand, in a message of 4 MiB."""
    assert (
        f"{count:,} devices\n  with ids of {characters}" in KUBELET or f"{count:,} with ids of {characters}" in KUBELET
    )
    fit = LIST_BYTES_MAX // len(encode_device(Device("x" * characters)))
    assert round(fit, -3) == count
