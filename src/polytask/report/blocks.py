"""What a page is made of: sections, groups, and the few kinds of things that stand in them. All of it is plain values.

Names from the data stand in these as text, never in a drawing: HTML lays them out with the reader's fonts, in any script, and
breaks them where they are long. The template escapes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

N_BESIDE, MAX_OVER = 4, 12  # characters of a name over a column of a matrix, and how many more all of them may have
PER_LETTER, MIN_CELL, NARROW = 8, 40, 320  # in pixels: of a name, of a cell, of a column of the page
N_COLORS = 6  # of the palette that the style sheet has, and drawings may name


@dataclass(frozen=True)
class Missing:
    """A panel that cannot be shown, and why.

    Attributes:
        title: What it would show.
        why: A sentence.
    """

    shape: ClassVar[str] = "missing"
    title: str
    why: str


@dataclass(frozen=True)
class Chart:
    """A drawing.

    Attributes:
        title: What it shows.
        svg: The drawing, safe to put into the page: only our own words and numbers are in it.
        caption: What to see in it.
        legend: What its colors mean, by their number in the palette; 0 is the color of text, -1 that of what stands back.
    """

    shape: ClassVar[str] = "chart"
    title: str
    svg: str
    caption: str = ""
    legend: Sequence[tuple[int, str]] = ()


@dataclass(frozen=True)
class Mark:
    """A row of ``Strips``: a name, its numbers as text, and where a value and its interval lie.

    Attributes:
        name: What it is of.
        texts: The cells beside it.
        value: On the scale of the strips; None leaves the strip empty.
        low: Lower end of its interval; None where there is none.
        high: Upper end.
        reference: What it is held against, such as a constant; None where there is nothing.
        color: Its number in the palette.
        head: Whether it begins a group of rows.
    """

    name: str
    texts: Sequence[str]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    reference: float | None = None
    color: int = 1
    head: bool = False


@dataclass(frozen=True)
class Strips:
    """A table whose rows have a value and its interval drawn on one common scale.

    Attributes:
        title: What it shows.
        head: The names of the columns: of the names, then of the texts.
        marks: The rows.
        start: The left end of the scale.
        end: The right end.
        caption: What to see in it.
        zero: Where a line stands through all strips; None for no line.
        ends: What stands at the ends of the scale; None for their numbers.
    """

    shape: ClassVar[str] = "strips"
    title: str
    head: Sequence[str]
    marks: Sequence[Mark]
    start: float
    end: float
    caption: str = ""
    zero: float | None = None
    ends: tuple[str, str] | None = None

    def place(self, value: float) -> str:
        """Where a value lies between the ends, in percent, cut at them.

        Example:
            >>> Strips("", [], [], -1.0, 1.0).place(0.5)
            '75.0'
        """
        width = self.end - self.start
        return f"{100 * min(1.0, max(0.0, (value - self.start) / width if width else 0.5)):.1f}"

    def width(self, low: float, high: float) -> str:
        """How long an interval is, in percent of the scale."""
        return f"{float(self.place(high)) - float(self.place(low)):.1f}"


@dataclass(frozen=True)
class Cell:
    """A cell of a ``Heat``: its text, and how dark it is, from -1 to 1; None for a cell without a value."""

    text: str
    shade: float | None = None


@dataclass(frozen=True)
class Heat:
    """A matrix as a table with shaded cells.

    Attributes:
        title: What it shows.
        rows: The names of its rows.
        columns: The names of its columns.
        cells: A list of cells per row.
        caption: What to see in it.
        corner: What the rows and columns are.
        nominal: Whether the numbers are names: a color each.
    """

    shape: ClassVar[str] = "heat"
    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[Cell]]
    caption: str = ""
    corner: str = ""
    nominal: bool = False

    @property
    def upright(self) -> bool:
        """Whether the names of the columns are too long to stand side by side."""
        return sum(max(0, len(name) - N_BESIDE) for name in self.columns) > MAX_OVER

    @property
    def wide(self) -> bool:
        """Whether it takes more place than a drawing, so that nothing can stand beside it."""
        names = PER_LETTER * min(16, max(map(len, self.rows), default=0))
        longest = [max((len(row[i].text) for row in self.cells), default=0) for i in range(len(self.columns))]
        letters = longest if self.upright else list(map(max, longest, map(len, self.columns)))
        return names + sum(max(MIN_CELL, PER_LETTER * n + 12) for n in letters) > NARROW


@dataclass(frozen=True)
class Listing:
    """A table of texts.

    Attributes:
        title: What it shows.
        head: The names of its columns.
        rows: Their cells.
        caption: What to see in it.
        numbers: Which columns hold numbers, and stand to the right.
        folded: Whether it is shown only when asked for.
        wide: Whether nothing stands beside it.
    """

    shape: ClassVar[str] = "listing"
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    numbers: Sequence[int] = ()
    folded: bool = False
    wide: bool = True


@dataclass(frozen=True)
class Words:
    """Sentences, one below the other.

    Attributes:
        title: What they are about.
        items: Pairs of what stands out and what follows; the first may be empty.
    """

    shape: ClassVar[str] = "words"
    title: str
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Source:
    """Text to copy: a recipe, BibTeX."""

    shape: ClassVar[str] = "source"
    title: str
    text: str
    caption: str = ""


@dataclass(frozen=True)
class Panel:
    """A picture.

    Attributes:
        caption: What it is.
        src: A PNG file as a data URI, safe to put into the page.
        alt: What it shows, for who does not see it.
        fine: Whether its pixels are too many to be seen one by one.
    """

    caption: str
    src: str
    alt: str
    fine: bool


@dataclass(frozen=True)
class Card:
    """A row of the data with its pictures side by side.

    Attributes:
        title: Words for the row.
        texts: What else there is to say of it.
        panels: The pictures.
    """

    title: str
    texts: Sequence[str]
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Scale:
    """A bar of colors with what its ends mean.

    Attributes:
        title: What is colored so.
        colors: Evenly spaced, as style sheets have them.
        low: The number at its left end.
        high: The number at its right end.
    """

    title: str
    colors: Sequence[str]
    low: str
    high: str


@dataclass(frozen=True)
class Gallery:
    """Rows of the data as pictures.

    Attributes:
        title: What they show.
        parts: Cards under a heading each.
        caption: What to see in them.
        legend: What colors mean, as style sheets have them; an empty one is that of places where nothing is drawn.
        scales: What shades mean.
    """

    shape: ClassVar[str] = "gallery"
    title: str
    parts: Sequence[tuple[str, Sequence[Card]]]
    caption: str = ""
    legend: Sequence[tuple[str, str]] = ()
    scales: Sequence[Scale] = ()

    @property
    def small(self) -> bool:
        """Whether a card has one picture only, so that many stand side by side."""
        return all(len(card.panels) < 2 for _, cards in self.parts for card in cards)


Block = Missing | Chart | Strips | Heat | Listing | Words | Source | Gallery


@dataclass(frozen=True)
class Group:
    """Some blocks under a heading of their own.

    Attributes:
        title: The heading; empty for none.
        subtitle: What stands beside it.
        blocks: What is shown.
        key: Its anchor in the page; empty for none.
    """

    title: str
    blocks: Sequence[Block]
    subtitle: str = ""
    key: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page that the table of contents names.

    Attributes:
        key: Its anchor.
        title: Its heading.
        lead: A sentence or two that say what it is about.
        groups: What is in it.
    """

    key: str
    title: str
    lead: str
    groups: Sequence[Group] = field(default_factory=tuple)
