"""The BibTeX of every method that a run used."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from polytask.bundle import Bundle
from polytask.component import Component
from polytask.recipe import Recipe

IDS = re.compile(r"(?:arXiv:|doi:|openreview:)([^\s,;)]+)")
ALWAYS = ("arXiv:1801.01489", "doi:10.1214/aos/1176344552")  # permutation importance, bootstrap intervals
COMPARED = ("arXiv:1904.08918",)  # Delta-m


@cache
def entries() -> dict[str, str]:
    """The BibTeX entries of the package, by their keys."""
    text = files("polytask.report").joinpath("papers.bib").read_text(encoding="utf-8")
    return {match[1]: match[0].strip() for match in re.finditer(r"^@\w+\{([^,]+),.*?^\}", text, re.DOTALL | re.MULTILINE)}


def cited(papers: Iterable[str]) -> list[str]:
    """The keys of the entries that these texts cite, as a component's ``paper`` does: by id, else by author and year.

    Example:
        >>> cited(["Misra 2016, arXiv:1604.03539, equation 1", "Evgeniou, Micchelli and Pontil 2005, JMLR 6"])
        ['evgeniou2005kernel', 'misra2016crossstitch']
    """
    found = set()
    for paper in papers:
        ids = set(IDS.findall(paper))
        for key, entry in entries().items():
            own = _fields(entry, "eprint", "doi", "openreview")
            if ids & own if own else _names(paper, entry):
                found.add(key)
    return sorted(found)


def uncited(paper: str) -> set[str]:
    """The ids in a text that no entry has; where it has none, the text itself unless an entry is found by author and year."""
    known = {value for entry in entries().values() for value in _fields(entry, "eprint", "doi", "openreview")}
    ids = set(IDS.findall(paper))
    return ids - known if ids else set() if cited([paper]) else {paper}


def methods(recipe: Recipe, bundle: Bundle) -> list[Component]:
    """The components of a run, each kind once."""
    manifest = bundle.manifest
    tasks = [fitted.task for fitted in bundle.tasks.values()]
    heads = [task.head for task in tasks if task.head is not None]
    networks = [part for one in manifest.networks for part in (one.encoder, one.sharing) if part is not None]
    parts: list[Component] = [*networks, recipe.balancer, manifest.head, *heads, *tasks]
    return list({(part.family, part.kind): part for part in parts}.values())


def bibtex(keys: Iterable[str]) -> str:
    """These entries as a file."""
    return "\n\n".join(entries()[key] for key in keys)


def _fields(entry: str, *names: str) -> set[str]:
    return {match[1] for name in names for match in re.finditer(rf"^\s*{name} = \{{(.*?)\}},?$", entry, re.MULTILINE)}


def _names(paper: str, entry: str) -> bool:
    author = next(iter(_fields(entry, "author"))).partition(",")[0]
    year = next(iter(_fields(entry, "year")))
    return re.search(rf"\b{re.escape(author)}\b[^;]*?\b{year}\b", paper) is not None
