"""Plots of the report, written as SVG by hand: rows of dots, which need no plotting library."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

LEFT, RIGHT, TOP, ROW = 150, 30, 64, 22
# Colours that stay apart in print and for the colour-blind (Okabe and Ito).
COLOURS = {
    "pretrained, exit 1": "#0072B2",
    "pretrained, last exit": "#56B4E9",
    "random weights, last exit": "#D55E00",
    "raw input": "#999999",
    "from scratch": "#009E73",
}
SHAPES = {"raw input": "square", "random weights, last exit": "cross", "from scratch": "ring"}


class Canvas:
    """An SVG document under construction."""

    def __init__(self, width: int, height: int, title: str):
        self.width, self.height = width, height
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            'font-family="sans-serif" font-size="12">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" fill="white"/>',
        ]

    def text(self, x: float, y: float, text: str, anchor: str = "start", size: int = 12, colour: str = "#222") -> None:
        """A line of text."""
        where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"'
        self.parts.append(f"<text {where}>{escape(text)}</text>")

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str = "#ddd", width: float = 1) -> None:
        """A straight line."""
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'
        )

    def mark(self, x: float, y: float, colour: str, shape: str = "dot") -> None:
        """One point."""
        if shape == "square":
            self.parts.append(f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>')
        elif shape == "cross":
            self.line(x - 4, y - 4, x + 4, y + 4, colour, 2)
            self.line(x - 4, y + 4, x + 4, y - 4, colour, 2)
        elif shape == "ring":
            self.parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
        else:
            self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>')

    def write(self, path: Path) -> None:
        """Writes the file."""
        path.write_text("\n".join([*self.parts, "</svg>"]) + "\n")


def _rows(
    title: str, rows: list[tuple[str, dict[str, float | None]]], low: float, high: float, step: float, unit: str
) -> Canvas:
    """Named rows of marks on one axis, with a legend on top."""
    width, height = 760, TOP + ROW * len(rows) + 40
    canvas = Canvas(width, height, title)
    canvas.text(LEFT, 18, title, size=14)
    x = lambda value: LEFT + (width - LEFT - RIGHT) * (min(max(value, low), high) - low) / (high - low)  # noqa: E731
    kinds = [kind for kind in COLOURS if any(values.get(kind) is not None for _, values in rows)]
    at = 14.0  # all names fit from the left edge
    for kind in kinds:
        canvas.mark(at, 38, COLOURS[kind], SHAPES.get(kind, "dot"))
        canvas.text(at + 10, 42, kind, size=11)
        at += 26 + 6.2 * len(kind)
    bottom = TOP + ROW * len(rows)
    tick = low
    while tick <= high + 1e-9:
        canvas.line(x(tick), TOP - 6, x(tick), bottom)
        canvas.text(x(tick), bottom + 16, f"{tick:g}", "middle", 11)
        tick += step
    canvas.text((LEFT + width - RIGHT) / 2, bottom + 32, unit, "middle", 11)
    for i, (name, values) in enumerate(rows):
        y = TOP + ROW * i + ROW / 2
        canvas.text(LEFT - 10, y + 4, name, "end")
        found = [x(v) for v in values.values() if v is not None]
        canvas.line(min(found), y, max(found), y, "#bbb")
        for kind in reversed(kinds):
            if values.get(kind) is not None:
                canvas.mark(x(values[kind]), y, COLOURS[kind], SHAPES.get(kind, "dot"))
    return canvas


def transfer(report: dict[str, Any], backbone: str, path: Path, labels: str = "10") -> None:
    """Accuracy of every set with few labels, against what it is compared with."""
    own = [e for e in report["sets"] if e["backbone"] == backbone and e["labels_per_class"] == labels]
    last = max(e["exit"] for e in own)
    rows = []
    for name in dict.fromkeys(e["name"] for e in own):
        at = {e["exit"]: e for e in own if e["name"] == name}
        values = {
            "pretrained, exit 1": at[1]["pretrained"],
            "pretrained, last exit": at[last]["pretrained"],
            "random weights, last exit": at[last]["random"],
            "raw input": at[last]["raw"],
            "from scratch": at[last]["scratch"],
        }
        rows.append((name, {key: None if v is None else 100 * v for key, v in values.items()}))
    title = f"{backbone}: {labels} labels per class, closed form"
    _rows(title, rows, 0, 100, 20, "test accuracy, percent").write(path)


EXIT_COLOURS = {"moments": "#0072B2", "ladder": "#009E73"}


def exits(report: dict[str, Any], backbone: str, path: Path) -> None:
    """How much faster early exits make each set, all labels, and the points they lose."""
    own = [
        e
        for e in report["exits"]
        if e["backbone"] == backbone and e["labels_per_class"] == "all" and e["kind"] == "classify"
    ]
    names, recipes = list(dict.fromkeys(e["name"] for e in own)), list(dict.fromkeys(e["recipe"] for e in own))
    width, column, bottom = 760, 120, TOP + ROW * len(names)
    canvas = Canvas(width, bottom + 40, f"{backbone}: early exits")
    canvas.text(LEFT, 18, f"{backbone}: early exits, all labels", size=14)
    at = 14.0  # all names fit from the left edge
    for recipe in recipes:
        canvas.mark(at, 38, EXIT_COLOURS.get(recipe, "#555"))
        canvas.text(at + 10, 42, recipe, size=11)
        at += 40 + 6.2 * len(recipe)
    canvas.text(width - 10, 42, "points lost", "end", 11)
    most = max(2.0, *(e["speedup"] for e in own)) + 0.05
    x = lambda v: LEFT + (width - LEFT - column) * (v - 1) / (most - 1)  # noqa: E731
    tick = 1.0
    while tick <= most:
        canvas.line(x(tick), TOP - 6, x(tick), bottom)
        canvas.text(x(tick), bottom + 16, f"{tick:.1f}", "middle", 11)
        tick += 0.2 if most < 3 else 0.5
    canvas.line(x(1.8), TOP - 6, x(1.8), bottom, "#888", 1.5)
    canvas.text((LEFT + width - column) / 2, bottom + 32, "times faster than all segments (target: 1.8)", "middle", 11)
    for i, name in enumerate(names):
        y = TOP + ROW * i + ROW / 2
        canvas.text(LEFT - 10, y + 4, name, "end")
        lost = []
        for recipe in recipes:
            e = next(e for e in own if (e["name"], e["recipe"]) == (name, recipe))
            if e["on"]:
                canvas.mark(x(e["speedup"]), y, EXIT_COLOURS.get(recipe, "#555"))
                lost.append(f"{e['loss_points']:+.1f}")
        canvas.text(
            width - 10, y + 4, " / ".join(lost) or "off: too few samples", "end", 10, "#222" if lost else "#888"
        )
    canvas.write(path)
