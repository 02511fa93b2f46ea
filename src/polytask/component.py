"""Component: a frozen object that is its own configuration, and is found by the name of its file.

A *family* (balancers, tasks, encoders, ...) has an abstract root class in a module of its own and a folder of plug-ins. A
plug-in's file name is its ``kind``; ``Balancer.kinds()`` lists the folder without importing it. A class that lives elsewhere
is known from the moment it is defined, or through an entry point of the group ``polytask.<family>``.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from polytask.errors import PolytaskError, did_you_mean, explain_validation, one_line, shown

FAMILY_MARK = "x-polytask-family"
_defined: dict[tuple[str, str], type[Component]] = {}

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """A frozen group of typed fields whose mistakes are told as PolytaskError."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise explain_validation(error, type(self).__name__, list(type(self).model_fields), fields) from None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def located(value: object, inner: core_schema.ValidatorFunctionWrapHandler, info: core_schema.ValidationInfo) -> Any:
            place = info.field_name  # read now: afterwards pydantic leaves that of the last inner field here
            try:
                return inner(value)
            except PolytaskError as error:
                raise (error.inside(place) if place else error) from None

        schema = handler(source)  # once the class is complete pydantic gives the schema made here before
        return schema if schema["type"] == "function-wrap" else core_schema.with_info_wrap_validator_function(located, schema)


def read_document(kind: type[S], path: Path, newest: int, what: str, mend: str, unusable: str = "") -> S:
    """Settings from a JSON file that says its format.

    Args:
        kind: The settings, with a field ``format``.
        path: The file, which is there.
        newest: The latest format that is known.
        what: What the file is to be, for messages.
        mend: What to do about a damaged one.
        unusable: What to do about one that names what is not known; ``mend`` by default.

    Raises:
        PolytaskError: It is damaged, something else, of a newer format, or names what is not there.
    """
    try:
        fields: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise PolytaskError("the file is damaged", where=str(path), found=one_line(error), mend=mend) from None
    if not isinstance(fields, dict) or not isinstance(fields.get("format"), int):
        raise PolytaskError(f"not {what}", where=str(path), found=shown(fields), mend=mend)
    if fields["format"] > newest:
        written = f"written by a newer polytask ({fields.get('polytask')}), format {fields['format']}"
        raise PolytaskError(written, where=str(path), mend="Install that version or a later one.")
    try:
        return kind(**fields)
    except (PolytaskError, ValidationError) as error:
        raise PolytaskError(f"the file cannot be used: {error}", where=str(path), mend=unusable or mend) from None


class Component(Settings):
    """The root of everything that can be named in a recipe.

    The object is the configuration: ``DWA(temperature=1.5)`` equals ``{"kind": "dwa", "temperature": 1.5}``.
    A class is abstract (``class LossBalancer(Balancer, abstract=True)``) or final: a variant of a plug-in is a field or a
    new file, never a subclass of a concrete one.

    Class attributes:
        kind: The plug-in's name: its file's name, or for a class defined elsewhere its own name in snake case.
        paper: Where the method comes from, as "Author year, arXiv:id, equation or algorithm".
        extra: The optional dependency group it needs, as in ``pip install "polytask[extra]"``.
    """

    family: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    extra: ClassVar[str] = ""
    is_abstract: ClassVar[bool] = True

    def __init_subclass__(cls, *, family: str = "", abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        parent = next(base for base in cls.__mro__[1:] if issubclass(base, Component))
        if not parent.is_abstract:
            raise TypeError(f"{cls.__name__} subclasses the concrete plug-in {parent.__name__}: make it a field or a new class")
        cls.is_abstract = abstract or bool(family)
        if family:
            cls.family = family
        if not cls.is_abstract:
            if "kind" not in cls.__dict__:
                cls.kind = _kind_of(cls)
            _defined[cls.family, cls.kind] = cls

    def __init__(self, **fields: Any) -> None:
        if type(self).is_abstract:
            raise TypeError(f"{type(self).__name__} is abstract: use one of {', '.join(type(self).kinds())}")
        super().__init__(**fields)

    @classmethod
    def kinds(cls) -> list[str]:
        """The names of all plug-ins of this family, sorted, without importing any of them."""
        listed_here = {module.name for module in pkgutil.iter_modules(_package(cls.family).__path__) if module.name[0] != "_"}
        installed = {entry.name for entry in entry_points(group=f"polytask.{cls.family}")}
        return sorted(listed_here | installed | {kind for family, kind in _defined if family == cls.family})

    @classmethod
    def find(cls, kind: str) -> type[Self]:
        """The plug-in of this family with that name.

        Raises:
            PolytaskError: There is none of that name, or a package it needs is not installed.
        """
        found = _defined.get((cls.family, kind))
        if found is None:
            found = _imported(cls.family, kind) if kind in cls.kinds() else None
        if found is None:
            what = f"no {cls.family[:-1]} of kind {kind!r}"
            raise PolytaskError(what, mend=did_you_mean(kind, cls.kinds()))
        if not issubclass(found, cls):
            raise PolytaskError(f"{kind!r} is not a {cls.__name__}", found=found.__name__)
        return found

    @classmethod
    def coerce(cls, value: object) -> Self:
        """What a field of this family accepts: a component, its kind, or a mapping with ``kind`` and its fields.

        Example:
            >>> from polytask.balancer import Balancer
            >>> Balancer.coerce({"kind": "dwa", "temperature": 1.5})
            DWA(temperature=1.5)
            >>> Balancer.coerce("equal")
            Equal()
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls.find(value)()
        if isinstance(value, Mapping):
            fields = dict(value)
            kind = fields.pop("kind", None)
            if not isinstance(kind, str):
                mend = f"Add kind: one of {', '.join(cls.kinds())}."
                raise PolytaskError(f"{_one(cls)} needs a kind", found=shown(value), mend=mend)
            try:
                return cls.find(kind)(**fields)
            except PolytaskError as error:
                raise (error.inside(fields["name"]) if isinstance(fields.get("name"), str) else error) from None
        made = cls.from_value(value)
        if made is None:
            mend = f"Give one of {', '.join(cls.kinds())}."
            raise PolytaskError(f"not {_one(cls)}", found=type(value).__name__, mend=mend)
        return made

    @classmethod
    def from_value(cls, value: object) -> Self | None:
        """A component made from a foreign value, such as an ``nn.Module`` given as an encoder; None where it cannot be."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """This component as plain values, ``kind`` first; ``coerce`` brings it back."""
        return {"kind": self.kind, **self.model_dump(mode="json")}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if not cls.is_abstract:
            return super().__get_pydantic_core_schema__(source, handler)

        def validate(value: object, info: core_schema.ValidationInfo) -> Component:
            try:
                return cls.coerce(value)
            except PolytaskError as error:
                raise (error.inside(info.field_name) if info.field_name else error) from None

        def serialize(value: Component) -> dict[str, Any]:
            return value.to_dict()

        return core_schema.with_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(serialize)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {FAMILY_MARK: cls.family} if cls.is_abstract else handler(schema)


def lazy_members(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for a folder of plug-ins: a class is imported when it is first asked for.

    The class ``CrossStitch`` lives in ``cross_stitch.py``, ``DWA`` in ``dwa.py``: the names agree but for case and underscores.
    """

    def modules() -> dict[str, str]:
        names = [module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)]
        return {name.replace("_", ""): name for name in names if name[0] != "_"}

    def member(name: str) -> Any:
        module = modules().get(name.lower())
        if module is None or name.startswith("_"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{module}"), name)

    def members() -> list[str]:
        return sorted(modules().values())

    return member, members


def _one(cls: type[Component]) -> str:
    """Its name with an article."""
    name = cls.__name__.lower()
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _package(family: str) -> Any:
    return importlib.import_module(f"polytask.{family}")


def _kind_of(cls: type[Component]) -> str:
    if cls.__module__.startswith(f"polytask.{cls.family}."):
        return cls.__module__.rpartition(".")[2]
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()


def _imported(family: str, kind: str) -> type[Component] | None:
    """Import the file or entry point that holds a plug-in; defining its class makes it known."""
    for entry in entry_points(group=f"polytask.{family}"):
        if entry.name == kind:
            return cast("type[Component]", entry.load())
    name = f"polytask.{family}.{kind}"
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return None
        mend = f'Install it: pip install "polytask[{kind}]", or pip install {error.name}.'
        raise PolytaskError(f"{kind!r} needs the package {error.name!r}", where=family, mend=mend) from error
    return _defined.get((family, kind))
