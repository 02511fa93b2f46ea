"""The JSON schema of a recipe in which something to be searched may stand in place of a value."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from polytask.recipe import Recipe
from polytask.tuning.search import Search
from polytask.tuning.space import JUDGING, OF_A_TASK

SEARCH = {"$ref": "#/$defs/search"}
TOLD = ("title", "description", "default")  # of a field, which an editor shows of it whatever stands there


def searchable_schema() -> dict[str, Any]:
    """The schema of a recipe for ``polytask tune``, of which every recipe is one.

    Example:
        >>> schema = searchable_schema()
        >>> schema["properties"]["seed"] == Recipe.json_schema()["properties"]["seed"]
        True
        >>> schema["$defs"]["encoders.table"]["properties"]["depth"]["anyOf"][1]
        {'$ref': '#/$defs/search'}
    """
    schema = Recipe.json_schema()
    every = {name for definition in [schema, *schema["$defs"].values()] for name in definition.get("properties", ())}
    definitions = {}
    for name, definition in schema["$defs"].items():
        family, _, kind = name.partition(".")
        fixed = every if family == "sources" else every - {*OF_A_TASK} if family == "tasks" else ("kind",)
        definitions[name] = _opened(definition, fixed) if kind else definition
    whole = _opened({key: value for key, value in schema.items() if key != "$defs"}, (*JUDGING, "tasks"))
    return {**whole, "$defs": {**definitions, "search": Search.model_json_schema()}}


def _opened(node: Any, fixed: Container[str] = ()) -> Any:
    """A schema whose properties may be searched, and those of its parts, but the ``fixed`` ones."""
    if isinstance(node, list):
        return [_opened(item) for item in node]
    if not isinstance(node, dict):
        return node
    opened = {key: _opened(value) for key, value in node.items() if key in ("anyOf", "items", "additionalProperties")}
    if "properties" in node:
        pairs = node["properties"].items()
        opened["properties"] = {name: value if name in fixed else _or_searched(value) for name, value in pairs}
    return {**node, **opened}


def _or_searched(value: dict[str, Any]) -> dict[str, Any]:
    own = {key: item for key, item in _opened(value).items() if key not in TOLD}
    return {**{key: value[key] for key in TOLD if key in value}, "anyOf": [own, SEARCH]}
