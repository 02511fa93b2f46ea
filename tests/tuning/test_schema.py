from __future__ import annotations

from typing import Any

from polytask.recipe import Recipe
from polytask.tuning.schema import SEARCH, searchable_schema


def at(schema: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The schema of a field, by its path; of what may be searched that of its values."""
    for key in keys:
        inner = schema["anyOf"][0] if SEARCH in schema.get("anyOf", []) else schema
        schema = inner["properties"][key]
    return schema


def test_what_may_be_searched_says_so() -> None:
    schema, plain = searchable_schema(), Recipe.json_schema()
    parts = schema["$defs"]
    for field in (
        at(schema, "encoder"),
        at(schema, "trainer", "optimizer", "lr"),
        at(parts["encoders.cnn"], "widths"),
        at(parts["tasks.regression"], "weight"),
        at(parts["tasks.regression"], "head"),
    ):
        assert SEARCH in field["anyOf"]
    assert at(schema, "trainer", "clip")["default"] == 1.0
    for name in ("sources", "tasks", "split", "seed", "primary"):
        assert at(schema, name) == at(plain, name)
    assert parts["sources.csv"] == plain["$defs"]["sources.csv"]
    assert at(parts["tasks.regression"], "transform") == at(plain["$defs"]["tasks.regression"], "transform")
    assert at(parts["encoders.cnn"], "kind") == {"const": "cnn"}
    assert parts["search"]["properties"]["log"]["type"] == "boolean"
