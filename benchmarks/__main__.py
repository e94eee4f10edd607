"""Measure devplugin beside other plugins: benchmarks/README.md says what each figure means."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import environments, report
from .effort import QUICK, Effort
from .environments import HERE, ROOT, NotToBeHad
from .peers import AIO, ALL, DEVPLUGIN, SAMPLE, Peer, running
from .processes import BenchmarkError
from .results import Results
from .sections import SECTIONS

_DOCS = ROOT / "docs"
_BEGIN, _END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
_PLOT_SAYS = (
    "Memory, time to first list, CPU of one change and Allocate latency over the number of devices and of resources"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description=__doc__)
    parser.add_argument(
        "sections",
        nargs="*",
        metavar="SECTION",
        help=f"what to measure, of {', '.join(SECTIONS)}: all if none is named",
    )
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that all works, not for figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go (else into the cache)")
    parser.add_argument("--again", type=Path, metavar="FILE", help="measure nothing: show the results of this file")
    parser.add_argument("--write-docs", action="store_true", help="put the tables and the plot into docs/")
    options = parser.parse_args()
    if unknown := [name for name in options.sections if name not in SECTIONS]:
        parser.error(f"there is no section {unknown[0]!r}: there are {', '.join(SECTIONS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # an exit that clears up
    try:
        if options.again:
            results, facts = report.from_json(options.again.read_text())
        else:
            results, facts = _measure(options.sections or list(SECTIONS), QUICK if options.quick else Effort())
            file = options.json or environments.directory() / "results.json"
            file.write_text(report.to_json(results, facts))
            _say(f"the results are in {file}")
        print(report.markdown(results, facts))
        if options.write_docs:
            _write_docs(results, facts)
    except (NotToBeHad, BenchmarkError) as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _measure(sections: list[str], effort: Effort) -> tuple[Results, dict[str, object]]:
    results = Results()
    peers = [peer for peer in ALL if _takes_part(peer, results)]
    facts = report.machine()
    for name in sections:
        began_s = time.monotonic()
        try:
            SECTIONS[name](effort, results, peers)
        except NotToBeHad as error:
            results.left_out[name] = str(error)
        _say(f"{name}: {time.monotonic() - began_s:.0f} s")
    facts["load_after"] = os.getloadavg()
    facts["packages"] = {peer.name: environments.versions(peer.python()) for peer in (DEVPLUGIN, AIO) if peer in peers}
    return results, facts


def _takes_part(peer: Peer, results: Results) -> bool:
    """Whether the peer can be made and registers. Without devplugin itself there is nothing to compare."""
    try:
        with running(peer):
            return True
    except (NotToBeHad, BenchmarkError) as error:
        if peer in (DEVPLUGIN, SAMPLE):
            raise
        _say(f"{peer.name} is left out: {error}")
        results.left_out[peer.name] = str(error).partition("\n")[0]
        return False


def _write_docs(results: Results, facts: dict[str, object]) -> None:
    """Replace what stands between the marks of the page, and the plot and the results beside it."""
    results_file, plot = HERE / "results.json", _DOCS / "growth.svg"
    results_file.write_text(report.to_json(results, facts))
    subprocess.run([environments.tools(), HERE / "plot.py", results_file, plot], check=True)
    page = _DOCS / "performance.md"
    before, _, rest = page.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    tables = report.markdown(results, facts, f"![{_PLOT_SAYS}]({plot.name})")
    page.write_text(f"{before}{_BEGIN}\n{tables}\n{_END}{after}")
    _say(f"wrote {page}, {plot} and {results_file}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
