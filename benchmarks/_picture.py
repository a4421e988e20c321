"""What comes out, as a picture: a mark for each contestant on a logarithmic scale.

The SVG is written by hand, as it is nothing but lines, marks and words: a plotting library would be by far the heaviest
thing here, and none writes colours that follow the reader's. The picture brings its own background, so it can be read
even where its idea of light and dark is not that of the page around it; and the colours stand in the marks as well, for
programs that know no style sheets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias
from xml.sax.saxutils import escape

from _harness import Answer


class Series(NamedTuple):
    """How a contestant is shown: the mark, a path around the origin, and its colours on light and on dark."""

    path: str
    light: str
    dark: str


# The last one is drawn above the others.
SERIES = {
    "the floor": Series("M-1.5-8H1.5V8H-1.5Z", "#6e7781", "#8b949e"),
    "a bare task": Series("M-1.5-8H1.5V8H-1.5Z", "#6e7781", "#8b949e"),
    "anyio": Series("M0 6L6-5H-6Z", "#bf3989", "#f778ba"),
    "transitions": Series("M0-6.5L6.5 0L0 6.5L-6.5 0Z", "#bc4c00", "#f0883e"),
    "python-statemachine": Series("M-5-5H5V5H-5Z", "#8250df", "#bc8cff"),
    "Automat": Series("M0-6L6 5H-6Z", "#1a7f37", "#3fb950"),
    "Automat, typed": Series("M0-6L6 5H-6ZM0-2.5L-3 3H3Z", "#1a7f37", "#3fb950"),
    "asyncmachine": Series("M-6 0A6 6 0 1 1 6 0A6 6 0 1 1-6 0Z", "#0969da", "#58a6ff"),
}
PARTS = {
    # What else is drawn: its colours on light and on dark.
    "paper": ("#ffffff", "#0d1117"),
    "words": ("#1f2328", "#e6edf3"),
    "faint": ("#59636e", "#9198a1"),
    "grid": ("#d1d9e0", "#30363d"),
}
FONT = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"'
WIDTH, LEFT, RIGHT, TOP, ROW, FOOT = 900, 268, 56, 92, 28, 36
UNITS = ((1e9, "ns"), (1e6, "us"), (1e3, "ms"), (1.0, "s"))
Scale: TypeAlias = Callable[[float], float]


def picture(answers: Sequence[Answer]) -> str:
    """Give the picture of all answers that have a mark, as SVG."""
    shown = [answer for answer in answers if answer.case.mark]
    rows: dict[str, list[Answer]] = {}
    for answer in shown:
        if answer.case.mark:
            rows.setdefault(answer.case.mark.row, []).append(answer)
    height = TOP + ROW * len(rows) + FOOT
    low = math.floor(min(math.log10(answer.value) for answer in shown))
    high = max(low + 1, math.ceil(max(math.log10(answer.value) for answer in shown)))

    def x(seconds: float) -> float:
        return LEFT + (math.log10(seconds) - low) * (WIDTH - LEFT - RIGHT) / (high - low)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT} role="img">',
        "<title>How long one takes, on a logarithmic scale</title>",
        f"<style>{style()}</style>",
        f'<rect width="{WIDTH}" height="{height}" rx="6" {colour("paper")}/>',
        *legend({answer.case.mark.series for answer in shown if answer.case.mark}),
    ]
    for power in range(low, high + 1):
        lines += grid_line(10.0**power, x(10.0**power), height - FOOT + 6)
    for i, (row, answered) in enumerate(rows.items()):
        lines += line(row, answered, TOP + ROW * (i + 0.5), x)
    return "\n".join([*lines, "</svg>", ""])


def style() -> str:
    """Give the colours that change when the reader prefers dark."""
    dark = {f".{name}": colours[1] for name, colours in PARTS.items()}
    dark |= {f".{key(name)}": series.dark for name, series in SERIES.items()}
    # A presentation attribute yields to any rule, so what stands in the marks is the light one.
    rules = "".join(f"{selector}{{fill:{value}}}" for selector, value in dark.items())
    return f"@media (prefers-color-scheme:dark){{{rules}}}"


def key(series: str) -> str:
    """Give the class of a series."""
    return series.replace(",", "").replace(" ", "-")


def colour(part: str) -> str:
    """Give the attributes that colour a part."""
    return f'class="{part}" fill="{PARTS[part][0]}"'


def mark(series: str, x: float, y: float) -> str:
    """Give the mark of a contestant."""
    shape = SERIES[series]
    return f'<path class="{key(series)}" fill="{shape.light}" transform="translate({x:.1f} {y:.1f})" d="{shape.path}"/>'


def text(words: str, x: float, y: float, *, part: str = "words", anchor: str = "start", size: int = 13) -> str:
    """Give words at a place."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f"<text {place} {colour(part)}>{escape(words)}</text>"


def legend(used: set[str]) -> Iterator[str]:
    """Give the title, and say which mark is whose."""
    yield text("How long one takes: further left is faster, and each line is ten times the one before", 20, 30, size=14)
    x = 26.0
    for series in reversed(SERIES):
        if series in used and not (series == "a bare task" and "the floor" in used):
            words = "the floor, or a bare task" if series == "the floor" else series
            yield mark(series, x, 56)
            yield text(words, x + 12, 60.5)
            x += 34 + 7.2 * len(words)


def grid_line(seconds: float, x: float, bottom: float) -> Iterator[str]:
    """Give one line of the scale, with its time."""
    yield f'<rect x="{x - 0.5:.1f}" y="{TOP - 6}" width="1" height="{bottom - TOP + 6:.1f}" {colour("grid")}/>'
    yield text(time(seconds).replace(".0", ""), x, bottom + 17, part="faint", anchor="middle")


def line(row: str, answers: Sequence[Answer], y: float, x: Scale) -> Iterator[str]:
    """Give one row: what is done, who did it how fast, and our time in figures."""
    yield text(row, LEFT - 16, y + 4.5, anchor="end")
    yield f'<rect x="{LEFT}" y="{y - 0.5:.1f}" width="{WIDTH - LEFT - RIGHT}" height="1" {colour("grid")}/>'
    by_series = {answer.case.mark.series: answer for answer in answers if answer.case.mark}
    for series in SERIES:
        if series in by_series:
            yield mark(series, x(by_series[series].value), y)
    if (ours := by_series.get("asyncmachine")) is not None:
        yield text(time(ours.value), x(ours.value), y - 9, part="faint", anchor="middle", size=11)


def time(seconds: float) -> str:
    """Give a time in the unit that suits it."""
    factor, unit = next((f, u) for f, u in UNITS if seconds * f < 999.5 or u == "s")
    value = seconds * factor
    return f"{value:.1f} {unit}" if value < 9.95 and unit != "s" else f"{value:.0f} {unit}"
