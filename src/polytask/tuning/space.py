"""What a search may try: a recipe in which something to be searched stands in place of some values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import yaml

from polytask.component import Component, Settings
from polytask.errors import PolytaskError, did_you_mean, shown
from polytask.recipe import Recipe
from polytask.tuning.search import Search, Value, marked, name_in_list, plain_of, text_of

# What the trials are judged by, and on which rows, has to be the same for all of them; of a task these two may differ.
JUDGING = ("sources", "split", "seed", "primary", "unlabeled")
OF_A_TASK = ("weight", "head")
# Drawn last: what one arm does not search comes after what both search, which so is drawn alike.
LAST = ("tasks", "balancer")

Draw = Callable[[str, Search, bool], Value]


@dataclass(frozen=True)
class Place:
    """Something to be searched, and where.

    Attributes:
        name: The path of the field; below a choice with the choice in brackets, as in ``sharing[mmoe].n_experts``.
        search: The values.
        within: The choices, by their places' names, that make it a part of the recipe.
    """

    name: str
    search: Search
    within: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Space:
    """A recipe and what is searched around it.

    Attributes:
        base: The recipe that is trained first and that all others are measured by.
        fields: The fields of the recipe with a Search in place of what is searched; what is no mapping or list is as in a
            Recipe.
        whole: The names of the ranges of which only the whole numbers are values.

    Example:
        >>> from polytask import Frame, Regression
        >>> space = Space.of(
        ...     {
        ...         "sources": [Frame({"x": [1.0], "a": [2.0]})],
        ...         "tasks": [Regression("a")],
        ...         "encoder": {"width": {"search": [8, 64], "log": True}, "dropout": {"search": [0, 1e-1]}},
        ...     }
        ... )
        >>> space.base.encoder.width, space.base.encoder.dropout, sorted(space.whole)
        (22, 0.1, ['encoder.width'])
        >>> space.recipe({"encoder.width": 32, "encoder.dropout": 0.05}).encoder.width
        32
    """

    base: Recipe
    fields: Mapping[str, Any]
    whole: frozenset[str] = frozenset()

    @classmethod
    def of(cls, given: Recipe | Mapping[str, Any], more: Mapping[str, Any] | None = None) -> Space:
        """The space that a recipe with something to be searched spans.

        Args:
            given: A recipe, or its plain values with ``{"search": [...]}`` in place of some.
            more: Further ones by the path of their field, as in ``{"trainer.optimizer.lr": {"search": [1e-4, 1e-2]}}``.

        Raises:
            PolytaskError: What is to be searched has the wrong form, one of the values makes no recipe, or the place may not be
                searched.
        """
        fields: Any = opened(given) if isinstance(given, Recipe) else {key: marked(item, key) for key, item in given.items()}
        for path, search in (more or {}).items():
            fields = put(fields, path, marked(search, path))
        _check_places(fields)
        fields = _started(fields)
        return cls(Recipe(**_drawn(fields, "", lambda _, search, __: search.first(), frozenset())), fields)._checked()

    def with_searches(self, more: Mapping[str, Any]) -> Space:
        """The same space with more to search, by path, but where the recipe itself says what to search.

        The recipe that is trained first stays the same.
        """
        fields: Any = self.fields
        for path, search in more.items():
            if not _is_searched(fields, path):
                fields = put(fields, path, marked(search, path))
        return replace(self, fields=_started(fields))._checked()

    def places(self) -> Iterator[Place]:
        """All that is searched, in the order in which it is drawn."""
        for key, value in self._in_order():
            yield from _places(value, key, {})

    @cached_property
    def by_name(self) -> dict[str, Place]:
        """As ``places``, by name."""
        return {place.name: place for place in self.places()}

    @property
    def searches_weights(self) -> bool:
        """Whether the weights of tasks, or who gives them, are searched."""
        return any(place.name.startswith("balancer") or place.name.endswith(".weight") for place in self.places())

    @property
    def weighing(self) -> str:
        """How the tasks are weighed, where not equally, in words."""
        if self.searches_weights:
            return "tuned weights"
        kind = self.base.balancer.kind
        return "the recipe's weights" if kind in ("equal", "fixed") else kind

    def drawn(self, draw: Draw) -> Recipe:
        """The recipe with what ``draw`` gives for the name and values of each place that is a part of it.

        Raises:
            PolytaskError: Together the values make no recipe.
        """
        return Recipe(**{key: _drawn(value, key, draw, self.whole) for key, value in self._in_order()})

    def recipe(self, values: Mapping[str, Value]) -> Recipe:
        """The recipe with these values; a place that is not named is at its start."""
        return self.drawn(lambda name, search, _: values.get(name, search.first()))

    def starts(self) -> dict[str, Value]:
        """The values of what is trained first, where they are among those searched."""
        found: dict[str, Value] = {}

        def draw(name: str, search: Search, _: bool) -> Value:
            value = search.first()
            if not search.is_range or search.has(value):
                found[name] = value
            return value

        self.drawn(draw)
        return found

    def with_equal_weights(self) -> Space:
        """The same space, but all tasks weigh the same and nothing of their weights is searched."""
        equal = Recipe.model_fields["balancer"].get_default(call_default_factory=True)
        tasks = tuple(task.model_copy(update={"weight": 1.0}) for task in self.base.tasks)
        base = self.base.model_copy(update={"balancer": equal, "tasks": tasks})
        fields = {**self.fields, "balancer": equal, "tasks": [{**opened(task), "weight": 1.0} for task in self.fields["tasks"]]}
        return replace(self, base=base, fields=fields)

    def to_dict(self) -> dict[str, Any]:
        """As plain values: a recipe with what is searched, and where it starts, in place of values."""
        return {name: plain_of(value) for name, value in self.fields.items()}

    def to_yaml(self) -> str:
        """As YAML."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=120)

    def _in_order(self) -> list[tuple[str, Any]]:
        return sorted(self.fields.items(), key=lambda item: LAST.index(item[0]) if item[0] in LAST else -1)

    def _checked(self) -> Space:
        """This space with its ranges of whole numbers known, once every value was tried in the recipe.

        Raises:
            PolytaskError: One makes no recipe.
        """
        checked = replace(self, whole=frozenset(place.name for place in self.places() if self._is_whole(place)))
        for place in checked.places():
            for value in place.search.search if place.search.is_range else place.search.labels:
                try:
                    checked.recipe({**place.within, place.name: value})
                except PolytaskError as error:
                    told = f"{place.name}, with {text_of(value)}"
                    mend = error.mend or "Change what is searched there."
                    raise PolytaskError(error.what, where=told, found=error.found, mend=mend) from None
        return checked

    def _is_whole(self, place: Place) -> bool:
        """Whether a range is one of whole numbers: its ends are, and the recipe takes nothing between them."""
        search = place.search
        if not search.is_range or not all(isinstance(end, int) for end in search.search):
            return False
        if search.step is not None:
            return search.step == int(search.step)
        try:
            self.recipe({**place.within, place.name: search.search[0] + 0.5})
        except PolytaskError:
            return True
        return False


def put(fields: Any, path: str, value: object) -> Any:
    """The fields of a recipe with a value at a path; parts on the way are opened, and a task is found by its name.

    Raises:
        PolytaskError: The path leads nowhere.
    """
    return _put(fields, path.split("."), value, path)


def at(value: Any, path: str) -> Any:
    """What is at a path of a recipe or of its fields.

    Raises:
        KeyError: Nothing is.
    """
    for key in path.split("."):
        inner = opened(value)
        if isinstance(inner, list | tuple):
            inner = {name_in_list(item, index): item for index, item in enumerate(inner)}
        if not isinstance(inner, Mapping):
            raise KeyError(path)
        value = inner[key]
    return value


def opened(value: Any) -> Any:
    """A part of a recipe as a mapping of its fields, whose values stay what they are; a kind alone as a mapping too."""
    if isinstance(value, Settings) and not isinstance(value, Search):
        kind = {"kind": value.kind} if isinstance(value, Component) else {}
        return {**kind, **dict(value)}
    return {"kind": value} if isinstance(value, str) else value


def _put(fields: Any, keys: list[str], value: object, path: str) -> Any:
    key, *rest = keys
    inner = opened(fields)
    if isinstance(inner, list | tuple):
        names = [name_in_list(item, index) for index, item in enumerate(inner)]
        if key not in names:
            raise PolytaskError(f"no {key!r} there", where=path, mend=did_you_mean(key, names))
        there = names.index(key)
        return [*inner[:there], _put(inner[there], rest, value, path) if rest else value, *inner[there + 1 :]]
    if not isinstance(inner, Mapping):
        raise PolytaskError("the path leads through a single value", where=path, found=shown(fields))
    return {**inner, key: _put(inner.get(key, {}), rest, value, path) if rest else value}


def _is_searched(fields: Any, path: str) -> bool:
    """Whether something is searched at a path, above it or below it."""
    keys = path.split(".")
    for depth in range(1, len(keys) + 1):
        try:
            there = at(fields, ".".join(keys[:depth]))
        except KeyError:
            return False
        if isinstance(there, Search):
            return True
    return next(_places(there, "", {}), None) is not None


def _check_places(fields: Mapping[str, Any]) -> None:
    """Refuse to search what the trials are judged by.

    Raises:
        PolytaskError: It is so.
    """
    parts = {key: value for key, value in fields.items() if key in JUDGING or (isinstance(value, Search) and key == "tasks")}
    tasks = fields.get("tasks", ())
    for index, task in enumerate(tasks if isinstance(tasks, list | tuple) else ()):
        inner = opened(task)
        if isinstance(inner, Mapping):
            name = f"tasks.{name_in_list(task, index)}"
            parts |= {f"{name}.{key}": value for key, value in inner.items() if key not in OF_A_TASK}
    for path, value in parts.items():
        place = next(_places(value, path, {}), None)
        if place is not None:
            mend = "Give it a value; of a task, weight and head can be searched."
            raise PolytaskError("this cannot be searched: the trials are judged by it", where=place.name, mend=mend)


def _started(fields: Mapping[str, Any]) -> Any:
    """The fields with a start for everything that is searched."""
    try:
        own: Recipe | None = Recipe(**_settled(fields))
    except PolytaskError:  # a value is missing that has no default
        own = None

    def begun(value: Any, path: str) -> Any:
        if isinstance(value, Search):
            inner = value.model_copy(update={"search": tuple(begun(choice, "") for choice in value.search)})
            try:
                there = None if own is None or not path else at(own, path)
            except KeyError:
                there = None
            return inner.beginning_at(there)
        if isinstance(value, Mapping):
            return {key: begun(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [begun(item, f"{path}.{name_in_list(item, index)}") for index, item in enumerate(value)]
        return value

    return {key: begun(value, key) for key, value in fields.items()}


def _settled(value: Any) -> Any:
    """Fields without what is searched."""
    if isinstance(value, Mapping):
        return {key: _settled(item) for key, item in value.items() if not isinstance(item, Search)}
    return [_settled(item) for item in value] if isinstance(value, list | tuple) else value


def _places(value: Any, name: str, within: Mapping[str, Value]) -> Iterator[Place]:
    if isinstance(value, Search):
        yield Place(name, value, within)
        if not value.is_range:
            for label, choice in zip(value.labels, value.search, strict=True):
                yield from _places(choice, f"{name}[{label}]", {**within, name: label})
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _places(item, f"{name}.{key}", within)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _places(item, f"{name}.{name_in_list(item, index)}", within)


def _drawn(value: Any, name: str, draw: Draw, whole: frozenset[str]) -> Any:
    """A value with what is drawn for every Search in it."""
    if isinstance(value, Search):
        found = draw(name, value, name in whole)
        if value.is_range:
            return found
        return _drawn(value.search[value.labels.index(str(found))], f"{name}[{found}]", draw, whole)
    if isinstance(value, Mapping):
        return {key: _drawn(item, f"{name}.{key}", draw, whole) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_drawn(item, f"{name}.{name_in_list(item, index)}", draw, whole) for index, item in enumerate(value)]
    return value
