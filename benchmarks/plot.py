"""Draw how figures grow: ``python plot.py RESULTS.json OUT.svg``, with matplotlib."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

# Both are readable for the colour-blind, and on a light as on a dark page.
_COLOURS = {"devplugin": "#0072b2", "grpc.aio": "#d55e00"}
_FIGURES = {
    "growth_rss": "memory (RSS), MiB",
    "growth_list": "time to first list, ms",
    "growth_change": "CPU of one change, ms",
    "growth_allocate": "Allocate p50, µs",
}
_AXES = {"devices": "devices", "resources": "resources of 8 devices"}


def main(results: Path, out: Path) -> None:
    values: dict[str, dict[str, list[float]]] = json.loads(results.read_text())["values"]
    mpl.rcParams.update(
        {"svg.hashsalt": "devplugin", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
    )
    figure, axes = plt.subplots(len(_AXES), len(_FIGURES), figsize=(12, 5.5), layout="constrained")
    for row, (axis, label) in zip(axes, _AXES.items(), strict=True):
        for panel, (key, title) in zip(row, _FIGURES.items(), strict=True):
            _draw(panel, values, f"{key}@{axis}=")
            panel.set_title(title, fontsize=9)
            panel.set_xlabel(label)
    axes[0][0].legend(frameon=False)
    figure.savefig(out, metadata={"Date": None})


def _draw(panel: Any, values: dict[str, dict[str, list[float]]], beginning: str) -> None:
    sizes = sorted(int(key.removeprefix(beginning)) for key in values if key.startswith(beginning))
    for name, colour in _COLOURS.items():
        of_sizes = [values[f"{beginning}{size}"].get(name, []) for size in sizes]
        points = [(size, found) for size, found in zip(sizes, of_sizes, strict=True) if found]
        if points:
            xs = [size for size, _ in points]
            medians = [statistics.median(found) for _, found in points]
            lowest, highest = [min(found) for _, found in points], [max(found) for _, found in points]
            panel.plot(xs, medians, "o-", color=colour, label=name, markersize=3)
            panel.fill_between(xs, lowest, highest, color=colour, alpha=0.2, lw=0)
    panel.set_ylim(bottom=0)
    panel.spines[["top", "right"]].set_visible(False)
    panel.ticklabel_format(axis="x", useMathText=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
