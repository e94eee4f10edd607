"""The play: its steps in their order, what came of each, and the evidence of what failed."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import binaries, registry
from .components import Components
from .console import say, timed
from .daemonset import daemonset
from .errors import FailedError
from .lab import Lab
from .page import Page
from .paths import cache
from .scenario import long_absence, overflow, short_absence, side_client, start, two_devices
from .trouble import directory_wiped, kubelet_restart, plugin_killed, rolling_update, unhealthy_device

FIVE_MINUTES = "plugin away > 5 min"


@dataclass(frozen=True)
class Step:
    name: str
    title: str
    play: Callable[[Lab], str]


@dataclass(frozen=True)
class Outcome:
    step: Step
    passed: bool
    seconds: float
    note: str


STEPS = (
    Step("start", "The plugin starts", start),
    Step("two devices", "A pod with two devices", two_devices),
    Step("overflow", "More than there is", overflow),
    Step("plugin away < 5 min", "The plugin is away for a moment", short_absence),
    Step(FIVE_MINUTES, "The plugin is away for more than five minutes", long_absence),
    Step("side client", "A client on the side", side_client),
    Step("kubelet restart", "The kubelet restarts", kubelet_restart),
    Step("plugin killed", "The plugin is killed", plugin_killed),
    Step("directory wiped", "The plugin directory is wiped", directory_wiped),
    Step("rolling update", "A new version of the plugin", rolling_update),
    Step("unhealthy device", "A device fails", unhealthy_device),
    Step("daemonset", "The plugin as a DaemonSet", daemonset),
)

NAMES = tuple(step.name for step in STEPS)

INTRODUCTION = """# The sample device on a real cluster

This page was written by a run of `tests/e2e/run --write-docs`. Each command below was run as it stands, on a real node, and
each output is what that run gave. The node was made of:

{versions}
"""


def choose(*, fast: bool, only: Sequence[str] | None) -> list[Step]:
    steps = [step for step in STEPS if not (fast and step.name == FIVE_MINUTES)]
    return [step for step in steps if any(part in step.name for part in only)] if only else steps


def play(state: Path, steps: Sequence[Step]) -> int:
    """Bring the node up and play the steps on it; 0 where all of them passed.

    What is left in `STATE/results`: the page where all passed, and else the evidence, in `logs`.
    """
    components, page = Components(state, cache() / "bin"), Page()
    lab = Lab(components, state, page)
    with registry.serving(cache() / "images"):
        try:
            with timed("the node"):
                components.up()
        except FailedError as failed:
            say(f"the node did not come up: {failed}")
            _keep(lab, state, state / "results" / "logs")
            return 1
        outcomes = [_play(lab, step, state / "results" / "logs") for step in steps]
    if all(outcome.passed for outcome in outcomes):
        pinned = binaries.versions().items()
        introduction = INTRODUCTION.format(versions="\n".join(f"- `{module}` {version}" for module, version in pinned))
        (state / "results" / "page.md").write_text(page.render(introduction))
    else:
        _keep(lab, state, state / "results" / "logs")
    return _report(outcomes)


def _play(lab: Lab, step: Step, evidence: Path) -> Outcome:
    say(f"{step.name}: {(step.play.__doc__ or '').strip()}")
    lab.page.heading(step.title)
    begin = time.monotonic()
    try:
        note, passed = step.play(lab), True
        lab.clear()
    except FailedError as failed:
        note, passed = str(failed), False
        lab.keep_evidence(evidence / step.name.replace(" ", "-"))
        try:
            lab.clear()
        except FailedError as also:
            note += f"; and then: {also}"
    seconds = time.monotonic() - begin
    say(f"{'passed' if passed else 'FAILED'} after {seconds:.1f} s: {note}")
    return Outcome(step, passed, seconds, note)


def _keep(lab: Lab, state: Path, folder: Path) -> None:
    lab.keep_evidence(folder / "end")
    shutil.copytree(state / "log", folder, dirs_exist_ok=True)


def _report(outcomes: Sequence[Outcome]) -> int:
    width = max(len(outcome.step.name) for outcome in outcomes)
    print(f"\n{'step':{width}}  verdict  seconds")
    for outcome in outcomes:
        print(f"{outcome.step.name:{width}}  {'passed' if outcome.passed else 'FAILED':7}  {outcome.seconds:7.1f}")
    passed = sum(outcome.passed for outcome in outcomes)
    print(f"\n{passed} passed, {len(outcomes) - passed} failed", flush=True)
    return 0 if passed == len(outcomes) else 1
