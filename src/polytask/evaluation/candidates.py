"""What is compared: recipes that differ from a run's in some parts, and that of each task alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polytask.balancer import Balancer
from polytask.component import Component
from polytask.encoder import Encoder
from polytask.errors import PolytaskError, did_you_mean, listed, shown
from polytask.evaluation.comparison import ALONE, OWN, TREES
from polytask.recipe import Recipe
from polytask.sharing import Sharing

PARTS: dict[str, type[Component]] = {"sharing": Sharing, "balancer": Balancer, "encoder": Encoder}
MEND = "Give a kind of sharing (mmoe), balancer:KIND or encoder:KIND; in Python also objects, or a mapping of these parts."

Other = str | Component | Mapping[str, Any]


@dataclass(frozen=True)
class Candidate:
    """One way to learn the tasks.

    Attributes:
        name: What tables call it.
        recipe: All of it.
        differs: The parts in which its recipe differs from the run's.
    """

    name: str
    recipe: Recipe
    differs: Mapping[str, Component]


def candidates(recipe: Recipe, others: Sequence[Other] = ()) -> tuple[Candidate, ...]:
    """Each task alone, the recipe itself where it shares anything, and the others that are asked for.

    Alone has the sharing ``separate`` and the balancer ``equal``, for where nothing is shared there is nothing to balance; a
    task that reads others reads none there.

    Args:
        recipe: The run's.
        others: In what the others differ from it: the kind of a sharing scheme, "sharing:KIND", "balancer:KIND" or
            "encoder:KIND", an object of these families, or a mapping from "sharing", "balancer" and "encoder" to such.

    Raises:
        PolytaskError: A kind is unknown or needs fields, a balancer has nothing to balance, two are the same, or there is
            nothing to compare.

    Example:
        >>> from polytask.sources import CSV
        >>> from polytask.tasks import Binary, Regression
        >>> recipe = Recipe(sources=[CSV("houses.csv")], tasks=[Regression("price"), Binary("sold")])
        >>> [candidate.name for candidate in candidates(recipe, ["mmoe", {"sharing": "ple", "balancer": "cagrad"}])]
        ['alone', 'run', 'mmoe', 'ple + balancer:cagrad']
    """
    if len(recipe.tasks) < 2:
        raise PolytaskError("there is one task only, so nothing is shared", where="compare", mend="Give the recipe more tasks.")
    alone = {"sharing": Sharing.coerce("separate"), "balancer": Balancer.coerce("equal")}
    unread = recipe.model_copy(update={"tasks": tuple(task.among([task.name]) for task in recipe.tasks)})
    found = [Candidate(ALONE, _with(unread, alone), _differing(recipe, alone))]
    if not recipe.sharing.independent:
        found.append(Candidate(OWN, recipe, {}))
    for other in others:
        found.append(_candidate(recipe, other, found))
    if len(found) < 2:
        what, mend = "the tasks of this run share nothing", "Name ways to share: --with mmoe,ple (others=['mmoe', 'ple'])."
        raise PolytaskError(what, where="compare", mend=mend)
    return tuple(found)


def _candidate(recipe: Recipe, other: Other, before: Sequence[Candidate]) -> Candidate:
    """The recipe with other parts.

    Raises:
        PolytaskError: As ``candidates``.
    """
    where = f"compare, {other if isinstance(other, str) else shown(other)}"
    try:
        parts = _parts(other)
        changed = _with(recipe, parts)
        changed.sharing.check([task.name for task in recipe.tasks])
    except PolytaskError as error:
        mend = error.mend
        if isinstance(other, str) and " needs " in f" {error.what} " and error.mend.startswith("Give '"):
            mend = f"{error.mend} With fields it is a mapping: {{{_spelled(other)}}}."
        place = f"{where}, {error.where}" if error.where else where
        raise PolytaskError(error.what, where=place, found=error.found, mend=mend) from None
    if changed.sharing.independent:
        what = f"{changed.sharing.kind} shares nothing: it is what the others are compared with"
        raise PolytaskError(what, where=where, mend="Leave it out.")
    same = next((item for item in before if item.recipe == changed), None)
    if same is not None:
        who = "what the run has already" if same.name == OWN else f"the same as {same.name!r}"
        raise PolytaskError(f"this is {who}", where=where, mend="Leave it out, or change a field of it.")
    differs = _differing(recipe, parts)
    name = " + ".join(_word(part, component, getattr(recipe, part)) for part, component in differs.items())
    names = [item.name for item in before] + [TREES]
    return Candidate(name if name not in names else f"{name} ({len(before)})", changed, differs)


def _parts(other: Other) -> dict[str, Component]:
    """The parts of a recipe that are asked for."""
    if isinstance(other, Component):
        part = next((part for part, family in PARTS.items() if isinstance(other, family)), None)
        if part is None:
            raise PolytaskError(f"one of {other.family} cannot be compared", found=other.kind, mend=MEND)
        return {part: other}
    if isinstance(other, str):
        part, colon, kind = other.partition(":")
        other = {part.strip(): kind.strip()} if colon else {_part_of(other.strip()): other.strip()}
    if not other:
        raise PolytaskError("not a way to learn the tasks", found=shown(other), mend=MEND)
    if "kind" in other:
        other = {_part_of(str(other["kind"])): other}
    for part in other:
        if part not in PARTS:
            raise PolytaskError(f"no part {part!r} that can differ", mend=did_you_mean(str(part), PARTS))
    return {part: PARTS[part].coerce(other[part]) for part in PARTS if part in other}


def _part_of(kind: str) -> str:
    """The part that a kind named alone is of: a sharing scheme.

    Raises:
        PolytaskError: There is no such scheme.
    """
    if kind in Sharing.kinds():
        return "sharing"
    elsewhere = next((part for part, family in PARTS.items() if kind in family.kinds()), None)
    mend = did_you_mean(kind, Sharing.kinds()) if elsewhere is None else f"Did you mean '{elsewhere}:{kind}'?"
    raise PolytaskError(f"no sharing of kind {kind!r}", mend=mend)


def _with(recipe: Recipe, parts: Mapping[str, Component]) -> Recipe:
    """The recipe with other parts, checked as every recipe is."""
    return Recipe(**{name: parts.get(name, getattr(recipe, name)) for name in Recipe.model_fields})


def _differing(recipe: Recipe, parts: Mapping[str, Component]) -> dict[str, Component]:
    return {name: part for name, part in parts.items() if part != getattr(recipe, name)}


def _word(part: str, component: Component, before: Component) -> str:
    """A component as a name: its kind, and the fields that are not as they come, or for one of the run's kind as they were."""
    usual = {name: info.get_default(call_default_factory=True) for name, info in type(component).model_fields.items()}
    usual |= dict(before) if type(before) is type(component) else {}
    plain = component.to_dict()
    own = {name: plain[name] for name, value in component if name in plain and value != usual[name]}
    fields = f"({listed(f'{name}={value}' for name, value in own.items())})" if own else ""
    return f"{'' if part == 'sharing' else part + ':'}{component.kind}{fields}"


def _spelled(other: str) -> str:
    part, colon, kind = other.partition(":")
    return f"{part if colon else 'sharing'}: {{kind: {kind if colon else part}, ...}}"
