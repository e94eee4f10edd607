"""The delays between attempts."""

import pytest

from devplugin._backoff import Backoff


def delays(backoff: Backoff, count: int) -> list[float]:
    return [backoff.delay_s() for _ in range(count)]


@pytest.mark.parametrize(("jitter", "share"), [(0.0, 1.0), (0.5, 0.75), (1.0, 0.5)])
def test_delays_double_from_50_ms_to_5_s(jitter: float, share: float) -> None:
    """Each is shortened by up to half, which does not shorten the next."""
    full = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    assert delays(Backoff(lambda: jitter), 10) == pytest.approx([delay_s * share for delay_s in full])


def test_plugins_spread_out() -> None:
    """By default no two wait alike, and none less than half or more than all."""
    found = [delays(Backoff(), 7)[-1] for _ in range(100)]
    assert len(set(found)) > 1
    assert all(1.6 <= delay_s <= 3.2 for delay_s in found)


def test_it_begins_again_after_a_reset() -> None:
    """A session that lasted makes the next trouble a new one."""
    backoff = Backoff(lambda: 0.0)
    first = delays(backoff, 3)
    backoff.reset()
    assert delays(backoff, 3) == first


def test_its_representation_says_what_comes_next() -> None:
    """The longest that the next delay can be."""
    backoff = Backoff()
    assert repr(backoff) == "Backoff(next at most 0.05 s)"
    delays(backoff, 10)
    assert repr(backoff) == "Backoff(next at most 5 s)"
