"""tests/e2e/run: a whole Kubernetes node in namespaces of its own, and the scenario played on it."""

import argparse
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from . import artifacts, binaries, images, inside, outside, play, registry
from .components import Components
from .console import say, timed
from .errors import FailedError, MissingError
from .page import PAGE
from .paths import ROOT, cache

INSIDE = "inside"  # what `outside.run` starts; of no use elsewhere


def main(arguments: Sequence[str]) -> int:
    try:
        if arguments[:1] == [INSIDE]:
            return _inside(Path(arguments[1]), _parser().parse_args(arguments[2:]))
        with outside.signals():
            return _outside(arguments)
    except (MissingError, FailedError) as error:
        say(f"{'cannot run here' if isinstance(error, MissingError) else 'failed'}: {error}")
        return 1
    except outside.Interrupted as interrupted:
        return 128 + interrupted.number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests/e2e/run", description=__doc__)
    parser.add_argument(
        "command",
        nargs="?",
        choices=["play", "build", "up"],
        default="play",
        help="play: the whole play (the default); build: what is missing in the cache, and nothing else; "
        "up: bring the node up, and keep it until Ctrl-C",
    )
    parser.add_argument("--fast", action="store_true", help="leave out the step that takes five real minutes")
    parser.add_argument("--only", action="append", metavar="STEP", help="only the steps whose names contain this")
    parser.add_argument("--write-docs", action="store_true", help=f"write {PAGE} from this run, if all of it passes")
    return parser


def _outside(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    steps = play.choose(fast=options.fast, only=options.only)
    if not steps:
        raise FailedError(f"no step's name contains {' or '.join(options.only)}; there are: {', '.join(play.NAMES)}")
    if options.write_docs and steps != list(play.STEPS):
        raise FailedError("the page is written by a whole run: --write-docs goes with neither --fast nor --only")
    if options.command != "build":
        outside.check_machine()
    with timed(f"what is missing in {cache()}"):
        artifacts.ensure(binaries.artifacts(), cache())
        artifacts.ensure(images.artifacts(cache()), cache())
    if options.command == "build":
        return 0
    return outside.run(arguments, keep=lambda results: _keep(results, write_docs=options.write_docs))


def _keep(results: Path, *, write_docs: bool) -> None:
    """Keep what the inner process left: the logs of a failure, and the page where it is wanted."""
    logs, page = results / "logs", results / "page.md"
    if logs.is_dir():
        folder = outside.failure_folder()
        shutil.copytree(logs, folder)
        say(f"the logs and events are kept in {folder}")
    if page.is_file() and write_docs:
        shutil.copy(page, ROOT / PAGE)
        say(f"wrote {PAGE}")


def _inside(state: Path, options: argparse.Namespace) -> int:
    def work() -> int:
        inside.prepare(state)
        if options.command == "up":
            return _stay_up(state)
        return play.play(state, play.choose(fast=options.fast, only=options.only))

    return inside.as_first_process(work)


def _stay_up(state: Path) -> int:
    with registry.serving(cache() / "images"):
        with timed("the node"):
            Components(state, cache() / "bin").up()
        # Process 1 of the node, and what it started, are found by their namespaces from outside.
        say(f"up. Ctrl-C ends it. Another terminal gets into it by: {outside.entrance(state)}")
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
