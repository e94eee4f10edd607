"""The cases by name, and on which kubelets each one runs."""

import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.conformance import cases
from tests.conformance.kubelet import KubeletId, Version
from tests.kubelets.driver import Options

__all__ = ["SUBJECTS", "Case", "Need", "all_cases", "case", "in_real_ones", "since"]

SUBJECTS = ("ours", "sample")
"""The plugins that a case can run with: one made with devplugin, and Kubernetes' own sample plugin."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a case needs of a kubelet, and why it does not apply to one that lacks it."""

    lacking: Callable[[KubeletId], bool]
    reason: str


def in_real_ones(fake_lacks: str) -> Need:
    """Something that the fake kubelet leaves out."""
    return Need(lambda kubelet: kubelet.kind == "fake", f"the fake kubelet {fake_lacks}")


def since(version: str, what: str) -> Need:
    """Something that older versions of Kubernetes do not have."""
    oldest = Version.of(version)
    return Need(lambda kubelet: kubelet.version < oldest, f"Kubernetes before {version} {what}")


@dataclass(frozen=True, slots=True)
class Case:
    """One promise, and how it is seen kept.

    Attributes:
        name: What pytest and the table call it.
        theme: The module that it is in.
        summary: One sentence.
        body: Takes the lab, and the subject if it has any.
        subjects: The plugins that it runs with; none when it brings its own.
        kills: The subject is killed with SIGKILL, so it is a process of its own.
        options: The node that it runs on.
        needs: What kubelets may lack for it.
        shortcomings: Why it fails with a subject, by the subject's name, on the kubelets that the predicate tells.
    """

    name: str
    theme: str
    summary: str
    body: Callable[..., Awaitable[None]]
    subjects: Sequence[str]
    kills: bool = False
    options: Options = field(default_factory=Options)
    needs: Sequence[Need] = ()
    shortcomings: Mapping[str, Need] = field(default_factory=dict)

    def not_applicable(self, kubelet: KubeletId) -> str | None:
        """Why it does not run on a kubelet; None when it does."""
        return next((need.reason for need in self.needs if need.lacking(kubelet)), None)

    def shortcoming(self, subject: str | None, kubelet: KubeletId) -> str | None:
        """Why it fails with this subject there; None when it must pass."""
        known = self.shortcomings.get(subject or "")
        return known.reason if known and known.lacking(kubelet) else None


_cases: dict[str, Case] = {}


def case(**properties: Any) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., Awaitable[None]]]:
    """Make a coroutine function a case. `properties` are those of `Case`."""

    def register(body: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        name, takes_subject = body.__name__, len(inspect.signature(body).parameters) > 1
        if name in _cases or not body.__doc__:
            raise ValueError(f"The case {name} has a name that is taken, or no sentence")
        _cases[name] = Case(
            name,
            body.__module__.rpartition(".")[2],
            " ".join(body.__doc__.split()),
            body,
            **{"subjects": SUBJECTS if takes_subject else (), **properties},
        )
        return body

    return register


def all_cases() -> Mapping[str, Case]:
    """Every case, by name."""
    for module in _modules():
        importlib.import_module(module)
    return _cases


def _modules() -> Iterator[str]:
    for found in pkgutil.iter_modules(cases.__path__):
        yield f"{cases.__name__}.{found.name}"
