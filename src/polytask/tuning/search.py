"""Search: what stands in a recipe in place of a value that is to be found."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Self

import yaml
from pydantic import Field, field_validator, model_validator

from polytask.component import Component, Settings
from polytask.errors import PolytaskError, listed, shown

EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
DIGITS = 4  # that a drawn number is rounded to

Value = int | float | str


class Search(Settings):
    """What is to be searched in place of a value of a recipe.

    Args:
        search: Two numbers are the ends of a range, anything else a list of choices; a choice may be a whole part with values
            to be searched of its own.
        log: Draw from a range so that 0.001 to 0.01 is as likely as 0.01 to 0.1.
        step: The distance of neighbors in a range.
        start: The value that is trained first and that the others are measured by (a part by its kind); else the field's own
            default if it is among the values, or else the middle of the range or the first choice. A range may start outside
            of itself.

    Raises:
        PolytaskError: The range is empty, a choice stands twice, the start is no choice, or log or step do not fit.

    Example:
        >>> Search(search=["1e-4", 0.01], log=True).middle()  # YAML takes 1e-4 for text
        0.001
        >>> Search(search=["hard", {"kind": "mmoe", "n_experts": 8}]).labels
        ('hard', 'mmoe')
    """

    search: tuple[Any, ...] = Field(min_length=1)
    log: bool = False
    step: float | None = Field(default=None, gt=0)
    start: Any = None

    @field_validator("search", "start", mode="after")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return tuple(_read(each) for each in value) if isinstance(value, tuple) else _read(value)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        found = shown(list(self.search))
        if not self.is_range:
            if self.log or self.step is not None:
                mend = "Give two numbers, or leave it out."
                raise PolytaskError("only a range has log or step", where="search", found=found, mend=mend)
            twice = next((value for i, value in enumerate(self.search) if value in self.search[:i]), None)
            if twice is not None or len({*self.labels}) < len(self.search):
                raise PolytaskError("a choice stands twice", where="search", found=found, mend="Take one of them out.")
            if self.given_start and _label(self.start) not in self.labels:
                mend = f"Take one of {listed(self.labels)}."
                raise PolytaskError("the start is none of the choices", where="start", found=shown(self.start), mend=mend)
            return self
        low, high = self.search
        if not low < high:
            mend = "Give the lower end first; a single value needs no search."
            raise PolytaskError("the range is empty", where="search", found=found, mend=mend)
        if self.log and (low <= 0 or self.step is not None):
            what = "a range in logarithms begins above 0 and has no step"
            raise PolytaskError(what, where="search", found=found, mend="Raise its lower end, or leave out log or step.")
        if self.step is not None and self.step > high - low:
            mend = "Give a smaller one, or leave it out."
            raise PolytaskError("the step is longer than the range", where="step", found=f"{self.step:g}", mend=mend)
        return self

    @property
    def is_range(self) -> bool:
        """Whether these are two numbers."""
        return len(self.search) == 2 and all(_is_number(value) for value in self.search)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the choices are called: a part by its kind, where no other has it, else by all it says."""
        kinds = [value.get("kind") if isinstance(value, Mapping) else value for value in self.search]
        pairs = zip(kinds, self.search, strict=True)
        return tuple(_label(kind) if kinds.count(kind) == 1 else text_of(value) for kind, value in pairs)

    @property
    def given_start(self) -> bool:
        """Whether it says where to start."""
        return "start" in self.model_fields_set

    def middle(self) -> int | float:
        """The middle of a range, where it starts if nothing says so."""
        low, high = self.search
        middle = (low * high) ** 0.5 if self.log else (low + high) / 2
        if self.step is not None:
            middle = low + self.step * ((middle - low) // self.step)
        return int(middle) if isinstance(low, int) and isinstance(high, int) else rounded(middle)

    def ends(self) -> tuple[int | float, int | float]:
        """The ends of a range, the upper one a whole number of steps above the lower."""
        low, high = self.search
        return (low, high) if self.step is None else (low, low + self.step * math.floor((high - low) / self.step + 1e-9))

    def first(self) -> Value:
        """What is drawn first: the start, of a choice what it is called."""
        if self.is_range:
            return self.start if self.given_start else self.middle()
        return _label(self.start) if self.given_start else self.labels[0]

    def has(self, value: object) -> bool:
        """Whether a number is in the range."""
        return self.is_range and _is_number(value) and bool(self.search[0] <= value <= self.search[1])

    def beginning_at(self, value: object) -> Search:
        """The same values, with the start at a field's own value if it is among them, where no start is given."""
        if self.given_start:
            return self
        if self.is_range:
            return self.model_copy(update={"start": value if self.has(value) else self.middle()})
        named = value.kind if isinstance(value, Component) else value
        own = [label for label, choice in zip(self.labels, self.search, strict=True) if _means(choice, named)]
        return self.model_copy(update={"start": own[0] if own else self.labels[0]})

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        plain = {"search": [plain_of(value) for value in self.search], "log": self.log, "step": self.step}
        shorter = {name: value for name, value in plain.items() if value not in (False, None)}
        return shorter | ({"start": plain_of(self.start)} if self.given_start else {})


def marked(value: Any, place: str) -> Any:
    """Plain values with a Search for every mapping that is one.

    Raises:
        PolytaskError: One has the wrong form.
    """
    if isinstance(value, Mapping):
        if isinstance(value.get("search"), list | tuple):
            inner = [marked(choice, place) for choice in value["search"]]
            try:
                return Search(**{**value, "search": inner})
            except PolytaskError as error:
                raise error.inside(place) from None
        return {key: marked(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [marked(item, f"{place}.{name_in_list(item, index)}") for index, item in enumerate(value)]
    return value


def plain_of(value: Any) -> Any:
    """As plain values, to be written."""
    if isinstance(value, Search | Component):
        return value.to_dict()
    if isinstance(value, Settings):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): plain_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_of(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def text_of(value: Any) -> str:
    """A value on one line.

    Example:
        >>> text_of({"kind": "mlp", "hidden": [64]}), text_of(None), text_of(0.5)
        ('{kind: mlp, hidden: [64]}', 'null', '0.5')
    """
    text: str = yaml.safe_dump(plain_of(value), default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9)
    return text.removesuffix("...\n").rstrip("\n")


def name_in_list(item: Any, index: int) -> str:
    """What an item of a list is called: a task by its name, anything else by its place."""
    name = item.get("name") if isinstance(item, Mapping) else getattr(item, "name", None)
    return name if isinstance(name, str) else str(index)


def rounded(value: float) -> float:
    """A number with few digits.

    Example:
        >>> rounded(0.00123456)
        0.001235
    """
    return float(f"{value:.{DIGITS}g}")


def _read(value: Any) -> Any:
    """A choice or an end of a range; YAML takes 1e-4 for text."""
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


def _label(value: Any) -> str:
    return value if isinstance(value, str) else text_of(value)


def _means(choice: Any, value: Any) -> bool:
    """Whether a choice is a field's value, or a part of its kind."""
    if isinstance(choice, Mapping):
        return bool(choice.get("kind") == value)
    return bool(choice == value) and isinstance(choice, bool) == isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
