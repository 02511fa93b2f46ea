"""From runs to a page: what a report is made of, put together and written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

import polytask
from polytask.errors import PolytaskError, counted
from polytask.report.between import between
from polytask.report.blocks import Section
from polytask.report.drawing import compact
from polytask.report.evidence import Evidence, Trained
from polytask.report.inputs import importance_of, inputs
from polytask.report.per_task import per_task
from polytask.report.record import record
from polytask.report.several import side_by_side
from polytask.report.verdict import verdict
from polytask.report.words import short
from polytask.run_folder import write_whole

GENERATOR = "polytask report"


def page(runs: Sequence[tuple[str, Trained]]) -> str:
    """One HTML page about a run, or about several side by side; it needs no network and runs no script.

    Args:
        runs: The runs with what they are to be called; of several the first is what the others are held against.
    """
    found = [Evidence.of(run, name) for name, run in runs]
    sections = one(found[0]) if len(found) == 1 else side_by_side(found)
    heading = " · ".join(name for name, _ in runs) if len(runs) > 1 else runs[0][0]
    kicker = "Report of a run" if len(runs) == 1 else f"{counted(len(runs), 'run')} compared"
    # Names are text wherever they come from: everything but our own drawings is escaped.
    environment = Environment(
        loader=PackageLoader("polytask.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["compact"] = lambda value: compact(float(f"{value:.3g}"))
    environment.filters |= {"coded": coded, "short": short}
    return environment.get_template("page.html").render(
        title=f"{heading} · polytask report",
        generator=f"{GENERATOR} {polytask.__version__}",
        kicker=kicker,
        heading=heading,
        sections=sections,
        footer=f"Written by polytask {polytask.__version__}. This page needs no network.",
    )


def coded(text: str) -> Markup:
    """Text with what stands between backticks set as code, and all of it escaped.

    Example:
        >>> coded("`polytask fit` <now>")
        Markup('<code>polytask fit</code> &lt;now&gt;')
    """
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def one(evidence: Evidence) -> list[Section]:
    """The five sections about one run."""
    importance = importance_of(evidence)
    return [
        verdict(evidence, importance),
        per_task(evidence, importance),
        between(evidence),
        inputs(evidence, importance),
        record(evidence),
    ]


def check_place(place: Path, overwrite: bool = False) -> None:
    """Whether a report may be written there.

    Raises:
        PolytaskError: There is something else, or its folder is not there.
    """
    if place.is_dir():
        raise PolytaskError("is a folder, not a file for a report", where=str(place), mend="Name a file: --out report.html.")
    if not place.parent.is_dir():
        raise PolytaskError("no such folder", where=str(place.parent), mend="Make it, or choose another place.")
    if place.exists() and not overwrite and not _is_report(place):
        mend = "Choose another name, or --overwrite (overwrite=True)."
        raise PolytaskError("there is a file already, and it is no report", where=str(place), mend=mend)


def write(place: Path, text: str) -> None:
    """Write a page.

    Raises:
        PolytaskError: It cannot be written; what was there before still is.
    """
    try:
        write_whole(place, text)
    except OSError as error:
        mend = "Choose a place you may write to: --out FILE."
        raise PolytaskError(
            "cannot write the report", where=str(place), found=error.strerror or str(error), mend=mend
        ) from None


def _is_report(place: Path) -> bool:
    try:
        with place.open(encoding="utf-8", errors="replace") as file:
            return f'content="{GENERATOR}' in file.read(2000)
    except OSError:
        return False


def apart(names: Sequence[str]) -> list[str]:
    """Names of which those that come several times are told apart by a number.

    Example:
        >>> apart(["a", "b", "a"])
        ['a', 'b', 'a (2)']
    """
    seen: dict[str, int] = {}
    told = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        told.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return told
