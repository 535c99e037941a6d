"""Draws benchmarks/results.json as docs/performance.svg and prints its table.

python -m benchmarks.chart
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHOWN = ("backup A", "restore A", "backup C", "restore C", "backup E", "restore E")
COLOURS = {"repom": "#2563eb", "limit": "#94a3b8", "classic": "#dc2626"}
OTHER = "#f59e0b"
WIDTH, LABEL, BAR, GAP = 860, 190, 18, 4  # pixels


def bars(results: dict[str, Any]) -> list[tuple[str, str, float]]:
    """What is drawn: comparison, command, median seconds."""
    return [
        (name, command, row["wall"])
        for name in SHOWN
        if name in results
        for command, row in results[name]["rows"].items()
    ]


def svg(results: dict[str, Any]) -> str:
    """A bar per command, in groups; each group has a scale of its own."""
    parts, y = [], 10
    for name in (n for n in SHOWN if n in results):
        group = [(c, s) for n, c, s in bars(results) if n == name]
        longest = max(seconds for _command, seconds in group)
        parts.append(f'<text x="10" y="{y + 14}" font-weight="bold">{escape(name)}</text>')
        y += 22
        for command, seconds in group:
            width = max(2, round((WIDTH - LABEL - 90) * seconds / longest))
            colour = COLOURS.get(command, OTHER)
            parts += [
                f'<text x="{LABEL - 8}" y="{y + 13}" text-anchor="end">{escape(command)}</text>',
                f'<rect x="{LABEL}" y="{y}" width="{width}" height="{BAR}" fill="{colour}"/>',
                f'<text x="{LABEL + width + 6}" y="{y + 13}">{seconds:.2f} s</text>',
            ]
            y += BAR + GAP
        y += 10
    style = "font-family:sans-serif;font-size:13px"
    frame = f'<rect width="{WIDTH}" height="{y}" fill="white"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" style="{style}">'
    return "\n".join([head, frame, *parts, "</svg>"]) + "\n"


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| work | command | wall s (min–max) | CPU s | peak MB | file MB | × limit |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, result in results.items():
        limit = result["rows"].get("limit", {}).get("wall")
        for command, row in result["rows"].items():
            size = f"{row['bytes'] / 1e6:.1f}" if row.get("bytes") else ""
            ratio = f"{row['wall'] / limit:.2f}" if limit else ""
            wall = f"{row['wall']:.2f} ({row['min']:.2f}–{row['max']:.2f})"
            memory = f"{row['memory'] / 1e6:.0f}"
            shown = command.replace("|", "\\|")
            lines.append(
                f"| {name} | {shown} | {wall} | {row['cpu']:.2f} | {memory} | {size} | {ratio} |"
            )
    return "\n".join(lines)


def main() -> None:
    everything = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    (ROOT / "docs" / "performance.svg").write_text(svg(everything["results"]))
    print(table(everything["results"]))
    for name, result in everything["results"].items():
        if result["refused_s"] is not None:
            print(f"{name}: connections refused for at most {result['refused_s']:.2f} s")


if __name__ == "__main__":
    main()
