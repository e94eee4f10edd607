"""The devices that a kubelet is allocating, and that no list may leave out meanwhile.

Kubelets from 1.34 on look a device up in the newest list once more when Allocate has answered, and take for granted that it is
there: where it is not, the kubelet crashes (``devicesToAllocate`` in its device manager, a nil dereference). When it is
done with the answer is not to be seen from here, so a claim outlives the answer.
"""

import math
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

# From the answer's first byte to the kubelet's look-up are milliseconds; a busy node may take longer.
_AFTER_THE_ANSWER_S = 1.0


class Claims:
    """Ids, each with the time until which it is claimed."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"Claims({sorted(self._until_s)})"

    @contextmanager
    def on(self, ids: Sequence[str]) -> Iterator[None]:
        """Claim them for the context, in which Allocate is answered, and a little longer."""
        self._until_s.update(dict.fromkeys(ids, math.inf))
        try:
            yield
        finally:
            self._until_s.update(dict.fromkeys(ids, time.monotonic() + _AFTER_THE_ANSWER_S))

    def left_out(self, listed: Collection[str]) -> list[str]:
        """The claimed ids that are not listed."""
        now_s = time.monotonic()
        self._until_s = {i: until_s for i, until_s in self._until_s.items() if until_s > now_s}
        return [i for i in self._until_s if i not in listed]
