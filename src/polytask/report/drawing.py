"""Drawings as SVG with real text and with colors of the style sheet, so that one drawing is right on light and on dark."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from polytask.report.blocks import N_COLORS
from polytask.report.words import with_minus

WIDTH, HEIGHT, SQUARE = 360, 236, 344  # in pixels, at the size that text in it has in the page
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 24, 40  # the margins: a label of a tick has six characters at most
INK, MUTED, RULE = "#010101", "#020202", "#030303"
SERIES = tuple(f"#0a000{number}" for number in range(1, N_COLORS + 1))
MAX_POINTS = 300  # of a curve
# matplotlib knows no names of colors that mean something later, so colors nobody would choose stand for them until then.
_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", **{color: f"--s{n}" for n, color in enumerate(SERIES, 1)}}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "polytask",
    "font.size": 11.5,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": MUTED,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
}


def color_of(number: int) -> str:
    """The color of the palette with that number, from 1; 0 is that of text, -1 that of what stands back."""
    return {0: INK, -1: MUTED}.get(number) or SERIES[(number - 1) % N_COLORS]


def drawn(draw: Callable[[Axes], None], x: str, y: str, *, square: bool = False) -> str:
    """An SVG of one pair of axes.

    Args:
        draw: Puts things on the axes.
        x: What the horizontal axis is.
        y: What the vertical axis is; it stands above it.
        square: Whether both axes are about as long.
    """
    with mpl.rc_context(_STYLE):
        height = SQUARE if square else HEIGHT
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        sides = (LEFT / WIDTH, BOTTOM / height, 1 - (LEFT + RIGHT) / WIDTH, 1 - (TOP + BOTTOM) / height)
        axes = figure.add_axes(sides)
        axes.set_xlabel(x)
        axes.set_title(y)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(FuncFormatter(tick))
        draw(axes)
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return themed(text.getvalue())


def themed(svg: str) -> str:
    """matplotlib's SVG for a page that has several: it fills its place, takes the page's font and the style sheet's colors.

    Example:
        >>> themed('<svg width="360pt" viewBox="0 0 360 240"><text x="8.12345" style="fill: #010101">0.0025</text></svg>')
        '<svg viewBox="0 0 360 240"><text x="8.12" style="fill: var(--ink)">0.0025</text></svg>'
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg)
    svg = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: (?:[a-z0-9]+ )*?([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*(?:; )?", "", svg)
    svg = re.sub(r"<[^>]*>", _with_short_numbers, svg)
    svg = re.sub(r' transform="rotate\(-?0(?:\.0+)? [^)]*\)"', "", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return re.sub(r"\s*\n\s*", " ", _own_ids(svg)).strip()


def _with_short_numbers(tag: re.Match[str]) -> str:
    """A hundredth of a pixel is enough for a place; what is written in the drawing is no place, and stays."""
    return re.sub(r"(-?\d+\.\d{2})\d+", r"\1", tag[0])


def _own_ids(svg: str) -> str:
    """Names that are pointed to are a function of the drawing, the others are left out: a page holds each name once."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    mark = f"d{hash_of(svg):08x}"

    def renamed(match: re.Match[str]) -> str:
        return f' id="{mark}{match[1]}"' if match[1] in used else ""

    svg = re.sub(r' id="([^"]*)"', renamed, svg)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{mark}", svg)


def hash_of(text: str) -> int:
    """A checksum that is the same in every process.

    Example:
        >>> hash_of("polytask")
        1279408979
    """
    return zlib.crc32(text.encode())


def thinned(*columns: Sequence[float], most: int = MAX_POINTS) -> list[list[float]]:
    """The same columns with so many of their rows at most, evenly chosen, the first and the last among them.

    Example:
        >>> thinned(list(range(9)), most=3)
        [[0, 4, 8]]
    """
    n_rows = len(columns[0])
    if n_rows <= most:
        return [list(column) for column in columns]
    rows = [round(index * (n_rows - 1) / (most - 1)) for index in range(most)]
    return [[column[row] for row in rows] for column in columns]


def along(xs: Sequence[float], ys: Sequence[float], most: int = 150) -> list[list[float]]:
    """So many points of a curve at most, as far from one another along it as can be.

    Example:
        >>> along([0, 0, 0, 0, 1], [0, 0.01, 0.02, 1, 1], most=3)
        [[0, 0, 1], [0, 1, 1]]
    """
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    rows = np.unique(np.searchsorted(length, np.linspace(0, length[-1], most)).clip(max=len(x) - 1))
    return [[column[row] for row in rows.tolist()] for column in (xs, ys)]


def compact(value: float) -> str:
    """A number in few characters.

    Example:
        >>> [compact(value) for value in (0, 0.25, 1500, 12500, 2_500_000, 4e9, 1e-6)]
        ['0', '0.25', '1,500', '12.5k', '2.5M', '4B', '1e-06']
    """
    size = abs(value)
    for limit, unit in ((1e12, ""), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if size >= limit and unit:
            scale = {"B": 1e9, "M": 1e6, "k": 1e3}[unit]
            return with_minus(f"{value / scale:,.4g}{unit}")
        if size >= limit:
            return f"{value:.3g}"
    text = f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"
    return text if "e" in text else with_minus(text)


def tick(value: float, _: Any) -> str:
    """What stands at a tick of an axis."""
    return "" if not math.isfinite(value) else compact(round(value, 12))


def series_ends(values: Iterable[float]) -> tuple[float, float]:
    """The least and the largest of some numbers, with a little room; 0 and 1 where there are none."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    room = 0.04 * (high - low) or 0.04 * abs(high) or 1.0
    return low - room, high + room
