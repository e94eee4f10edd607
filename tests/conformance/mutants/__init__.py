"""Things that are broken on purpose, one promise each, and the case that catches each of them.

A mutant exists in the test's process only: it replaces something inside devplugin for one run of one case.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

__all__ = ["MUTANTS", "Mutant", "mutant"]

Apply = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is broken, which case must notice, where, and in which words (a regular expression)."""

    name: str
    case: str
    kubelet: str
    notices: str
    apply: Apply
    subject: str | None = None


MUTANTS: list[Mutant] = []


def mutant(case: str, kubelet: str, notices: str, *, subject: str | None = None) -> Callable[[Apply], Apply]:
    """Make a function that breaks something a mutant; its name says what the broken thing does."""

    def register(apply: Apply) -> Apply:
        MUTANTS.append(Mutant(apply.__name__, case, kubelet, notices, apply, subject))
        return apply

    return register
