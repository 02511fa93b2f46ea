"""What there is to choose from, and what each kind is: read from docstrings, so that every plug-in describes itself."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from polytask.errors import PolytaskError, did_you_mean

if TYPE_CHECKING:
    from polytask.component import Component, Settings

FAMILIES = {
    "sources": "where rows come from",
    "tasks": "one thing to predict",
    "encoders": "inputs become features",
    "sharings": "how the tasks share the encoder",
    "heads": "features become a task's output",
    "balancers": "the tasks' losses become one update",
}
WIDTH = 100
SECTION = re.compile(r"^(Args|Attributes|Class attributes|Returns|Raises|References|Example|Examples):\s*$", re.MULTILINE)
FIELD = re.compile(r"^    (\w+): +((?:.+\n?)(?:^ {5,}.*\n?)*)", re.MULTILINE)
BOUNDS = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}
TYPES = {"number": "number", "integer": "whole number", "boolean": "true or false", "string": "text", "null": "null"}


def family_named(word: str) -> str:
    """The family that a word means, singular or plural.

    Raises:
        PolytaskError: There is none.

    Example:
        >>> family_named("balancer"), family_named("tasks")
        ('balancers', 'tasks')
    """
    names = {name: family for family in FAMILIES for name in (family, family.removesuffix("s"))}
    if word not in names:
        raise PolytaskError(f"there are no {word!r} to choose from", mend=did_you_mean(word, FAMILIES))
    return names[word]


def summaries(family: str) -> dict[str, str]:
    """The kinds of a family with the first line of their docstring, sorted. Nothing is imported.

    Example:
        >>> summaries("tasks")["ordinal"]
        'One of several classes in an order.'
    """
    folder = Path(__file__).parents[1] / family
    own = [module.name for module in pkgutil.iter_modules([str(folder)]) if module.name[0] != "_"]
    found = {kind: _first_line(folder / f"{kind}.py") for kind in own}
    for entry in entry_points(group=f"polytask.{family}"):
        file = _file_of(entry.module)
        found[entry.name] = f"{_first_line(file, entry.attr) if file else ''} [{_package_of(entry)}]".strip()
    return dict(sorted(found.items()))


def listing(family: str) -> str:
    """The kinds of a family, a line each."""
    kinds = summaries(family)
    width = max(map(len, kinds), default=0)
    return "\n".join(_wrapped(f"{kind:<{width}}  {line}", indent=width + 2) for kind, line in kinds.items())


def describe(family: str, kind: str) -> str:
    """What a kind does, its parameters, its paper, and how to write it.

    Raises:
        PolytaskError: There is no such kind, or a package it needs is not installed.
    """
    root: type[Component] = importlib.import_module("polytask.recipe").FAMILIES[family]
    cls = root.find(kind)
    parts = [f"{kind}, one of the {family}", _text_of(cls)]
    lines = list(_parameters(cls))
    parts.append("Parameters\n" + "\n".join(lines) if lines else "It has no parameters.")
    facts = {
        "write": _usage(family, cls),
        "weights sum to": getattr(cls, "weights_sum_to", ""),
        "a step costs": getattr(cls, "cost", ""),
        "gradients": " or ".join(getattr(cls, "engines", ())),
        "metrics": ", ".join(getattr(cls, "default_metrics", ())),
        "file names": ", ".join(getattr(cls, "suffixes", ())),
        "paper": cls.paper,
        "needs": f'pip install "polytask[{cls.extra}]"' if cls.extra else "",
    }
    told = "\n".join(_wrapped(f"{name:<15} {text}", indent=16) for name, text in facts.items() if text)
    return "\n\n".join(part for part in (*parts, told) if part)


def meanings(cls: type[Settings]) -> dict[str, str]:
    """What the docstring of a class, and those of its bases, say of each field, on one line.

    Example:
        >>> from polytask.splitting import Split
        >>> meanings(Split)["group"]
        'A column; rows that are alike in it go to the same part.'
    """
    found: dict[str, str] = {}
    for owner in cls.__mro__:
        sections = SECTION.split(inspect.cleandoc(owner.__doc__ or ""))
        for title, text in zip(sections[1::2], sections[2::2], strict=True):
            if title in ("Args", "Attributes"):
                found = {name: _plain(meaning) for name, meaning in FIELD.findall(text)} | found
    return found


def yaml_text(value: object) -> str:
    """A value as YAML on one line.

    Example:
        >>> yaml_text({"kind": "mlp", "hidden": [64]}), yaml_text(None), yaml_text("a: b")
        ('{kind: mlp, hidden: [64]}', 'null', "'a: b'")
    """
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9)
    return text.removesuffix("...\n").rstrip("\n")


def _parameters(cls: type[Settings]) -> Iterator[str]:
    """Every field with its type, bounds, default and meaning; those of the class itself before those of its bases."""
    schema, told = cls.model_json_schema(), meanings(cls)
    fields = schema.get("properties", {})
    for name in sorted(fields, key=lambda name: _depth(cls, name)):
        field = fields[name]
        default = "required" if name in schema.get("required", ()) else f"default {_default(cls, name, field)}"
        yield _wrapped(f"  {name}: {_type_of(field, schema.get('$defs', {}))}; {default}", indent=4)
        if name in told:
            yield textwrap.fill(told[name], WIDTH, initial_indent="      ", subsequent_indent="      ")


def _default(cls: type[Settings], name: str, field: dict[str, Any]) -> str:
    if "default" in field:
        return yaml_text(field["default"])
    value = cls.model_fields[name].get_default(call_default_factory=True)
    return yaml_text(value.to_dict() if hasattr(value, "to_dict") else value)


def _depth(cls: type[Settings], name: str) -> int:
    """How far up the bases a field is from."""
    return next(depth for depth, owner in enumerate(cls.__mro__) if name in inspect.get_annotations(owner))


def _usage(family: str, cls: type[Component]) -> str:
    """How to choose a kind on the command line, with one of its own fields."""
    word = family.removesuffix("s")
    if family == "sources":
        return ""
    if family == "tasks":
        return f"--task COLUMN:{cls.kind}"
    flags = f"--set head={cls.kind}" if family == "heads" else f"--{word} {cls.kind}"
    own = next((name for name in cls.model_fields if name in inspect.get_annotations(cls)), None)
    return flags if own is None else f"{flags} --set {word}.{own}=..."


def _type_of(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in field:
        return _type_of(definitions[field["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type_of(option, definitions) for option in field["anyOf"]))
    if "enum" in field or "const" in field:
        return " or ".join(map(yaml_text, field.get("enum", [field.get("const")])))
    if family := field.get("x-polytask-family"):
        return f"a kind of {family}"
    if "properties" in field:
        return f"{field.get('title', '')} ({', '.join(field['properties'])})".strip()
    kind = field.get("type")
    if kind == "array":
        return f"list of {_type_of(field.get('items', {}), definitions)}"
    if kind == "object":
        values = field.get("additionalProperties", {})  # or True, for anything
        return f"mapping of names to {_type_of(values if isinstance(values, dict) else {}, definitions)}"
    bounds = " and ".join(f"{word} {field[bound]:g}" for bound, word in BOUNDS.items() if bound in field)
    return " ".join(filter(None, (TYPES.get(str(kind), "anything"), bounds)))


def _text_of(cls: type[Settings]) -> str:
    """The docstring before its sections, in paragraphs; an indented one is a drawing, and stays as it is."""
    text = SECTION.split(inspect.cleandoc(cls.__doc__ or ""))[0]
    parts = text.strip().split("\n\n")
    return "\n\n".join(part.rstrip() if part.startswith("    ") else _wrapped(_plain(part)) for part in parts)


def _plain(text: str) -> str:
    """Docstring text on one line, in the words of YAML."""
    return re.sub(r"\bNone\b", "null", " ".join(text.split()).replace("``", "`"))


def _first_line(file: Path, name: str = "") -> str:
    """The first line of the docstring of a class in a file, else of the file."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ""
    owners: list[ast.ClassDef | ast.Module] = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name]
    text = next(filter(None, (ast.get_docstring(owner) for owner in [*owners, tree])), "")
    return text.partition("\n")[0]


def _file_of(module: str) -> Path | None:
    """Where a module lies, found without importing the packages it is in."""
    path, spec = None, None
    for depth in range(module.count(".") + 1):
        spec = PathFinder.find_spec(".".join(module.split(".")[: depth + 1]), path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return Path(spec.origin) if spec and spec.origin else None


def _package_of(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.module.partition(".")[0]


def _wrapped(text: str, indent: int = 0) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)
