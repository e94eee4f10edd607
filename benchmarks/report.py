# ruff: noqa: RUF001  (the tables are for people: the multiplication sign and the dash are meant)
"""The results as Markdown and as JSON."""

import json
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import growth
from .goals import GOALS, Check
from .peers import AIO, ALL, DEVPLUGIN, GO, SYNC, Peer
from .results import FIGURES, GROWTH, Figure, Results


def machine() -> dict[str, Any]:
    """Where it was measured."""
    processor = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor,
        "cores": os.cpu_count(),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "load": os.getloadavg(),
    }


def to_json(results: Results, facts: dict[str, Any]) -> str:
    return json.dumps({**facts, "left_out": results.left_out, "values": results.values}, indent=1) + "\n"


def from_json(text: str) -> tuple[Results, dict[str, Any]]:
    """The inverse of `to_json`."""
    facts = json.loads(text)
    results = Results()
    for key, by_peer in facts.pop("values").items():
        for name, values in by_peer.items():
            results.values[key][name].extend(values)
    results.left_out = facts.pop("left_out")
    return results, facts


def markdown(results: Results, facts: dict[str, Any], plot: str = "") -> str:
    """All tables under headings, and the plot, which is a Markdown image, beside those of growth."""
    growing = _growth(results)
    parts = {
        "Figures": _figures(results),
        "Ratios": _ratios(results),
        "Goals": _goals(results),
        "Growth": growing and "\n\n".join(filter(None, [plot, growing])),
    }
    sections = (f"## {title}\n\n{text}" for title, text in parts.items() if text)
    return "\n\n".join([_facts(results, facts), *sections]) + "\n"


def _facts(results: Results, facts: dict[str, Any]) -> str:
    load = ", ".join(f"{value:.1f}" for value in (facts["load"][0], facts["load_after"][0]))
    where = f"{facts['cores']} cores ({facts['processor']}), Linux {facts['kernel']}, Python {facts['python']}"
    lines = [f"Measured on {facts['date']} on {where}; load before and after: {load}."]
    return "\n\n".join([*lines, *(f"Left out: {name}: {reason}" for name, reason in results.left_out.items())])


def _figures(results: Results) -> str:
    """Medians of the rounds, and their extremes."""
    peers = [peer for peer in ALL if any(results.of(figure.key, peer) for figure in FIGURES)]
    rows = [
        [
            f"{figure.title}{figure.unit and ', '}{figure.unit}",
            *(_spread(figure, results.of(figure.key, p)) for p in peers),
        ]
        for figure in FIGURES
        if results.values.get(figure.key)
    ]
    return _table(["", *(peer.name for peer in peers)], rows)


def _ratios(results: Results) -> str:
    """The quotients of devplugin's figures and another's, round by round."""
    others = [peer for peer in (AIO, SYNC, GO) if peer.name not in results.left_out]
    rows = []
    for figure in FIGURES:
        cells = [_ratio(results.ratios(figure.key, DEVPLUGIN, other)) for other in others]
        if any(cells):
            rows.append([figure.title, *cells])
    return _table(["devplugin ÷", *(peer.name for peer in others)], rows)


def _ratio(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})" if values else ""


def _goals(results: Results) -> str:
    checks = [(goal.text, goal.find(results)) for goal in GOALS]
    rows = [[text, _number(check.measured), _verdict(check)] for text, check in checks if check.met is not None]
    return _table(["goal", "measured", ""], rows)


def _verdict(check: Check) -> str:
    assert check.measured is not None
    assert check.limit is not None
    if check.met:
        return "met"
    return f"missed: {check.measured / check.limit:.2f} × {_number(check.limit)}"


def _growth(results: Results) -> str:
    """A table for the number of devices and one for that of resources."""
    tables = []
    for axis in ("devices", "resources"):
        rows = []
        for figure in GROWTH:
            for peer in (DEVPLUGIN, AIO):
                points = growth_points(results, figure, axis, peer)
                if len(points) > 1:
                    constant, slope = growth.line(points)
                    shown = (f"{value:,.{figure.digits}f}" for _, value in points)
                    rows.append([f"{figure.title}, {figure.unit}: {peer.name}", *shown, _line(constant, slope, axis)])
        if rows:
            sizes = [f"{size:,}" for size, _ in growth_points(results, GROWTH[0], axis, DEVPLUGIN)]
            tables.append(_table([axis, *sizes, "constant + slope"], rows))
    return "\n\n".join(tables)


def growth_points(results: Results, figure: Figure, axis: str, peer: Peer) -> list[tuple[int, float]]:
    """The sizes that were measured, and the median at each."""
    beginning = f"{figure.key}@{axis}="
    sizes = [int(key.removeprefix(beginning)) for key in results.values if key.startswith(beginning)]
    medians = ((size, results.median(f"{beginning}{size}", peer)) for size in sorted(sizes))
    return [(size, median) for size, median in medians if median is not None]


def _line(constant: float, slope: float, axis: str) -> str:
    return (
        f"{constant:.2f} + {slope * 1000:.3g} for 1,000"
        if axis == "devices"
        else f"{constant:.2f} + {slope:.3g} for each"
    )


def _spread(figure: Figure, values: Sequence[float]) -> str:
    if not values:
        return ""
    shown = [f"{value:,.{figure.digits}f}" for value in (statistics.median(values), min(values), max(values))]
    middle, lowest, highest = shown
    return middle if lowest == highest else f"{middle} ({lowest}–{highest})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(_lines([head, *rows])) if rows else ""


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table that can be read as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first, *others = widths
    for number, row in enumerate(rows):
        numbers = (cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))
        yield f"| {' | '.join([row[0].ljust(first), *numbers])} |"
        if number == 0:
            yield f"| {' | '.join(['-' * first, *('-' * (width - 1) + ':' for width in others)])} |"
