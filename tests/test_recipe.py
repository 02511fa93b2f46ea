"""A recipe in YAML and a Recipe in Python are the same object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polytask import CSV, DWA, MLP, Ordinal, PolytaskError, Recipe, Regression, Split, Trainer
from polytask.recipe import FAMILIES, changed

YAML = """
sources: [{kind: csv, path: houses.csv, missing: ["?"]}]
tasks:
- {kind: regression, name: price, weight: 2}
- {kind: ordinal, name: condition, head: {kind: mlp, hidden: [8]}}
balancer: {kind: dwa, temperature: 1.5}
trainer: {epochs: 5, optimizer: {name: SGD, lr: 0.1, momentum: 0.9}}
split: {test: 0.3, group: id}
drop: [id]
"""


def python_recipe() -> Recipe:
    return Recipe(
        sources=[CSV("houses.csv", missing=("?",))],
        tasks=[Regression("price", weight=2), Ordinal("condition", head=MLP(hidden=(8,)))],
        balancer=DWA(temperature=1.5),
        trainer=Trainer(epochs=5, optimizer={"name": "SGD", "lr": 0.1, "momentum": 0.9}),
        split=Split(test=0.3, group="id"),
        drop=("id",),
    )


def test_yaml_and_python_are_the_same_object(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(YAML, encoding="utf-8")
    assert Recipe.from_yaml(path) == python_recipe()
    assert Recipe.from_yaml_text(python_recipe().to_yaml()) == python_recipe()


def test_a_path_and_a_kind_alone_are_enough() -> None:
    recipe = Recipe(sources=["houses.csv"], tasks=[{"kind": "regression", "name": "price"}], balancer="dwa")
    assert recipe.sources == (CSV("houses.csv"),)
    assert recipe.balancer == DWA()


def test_changes_reach_lists_by_name_and_kinds_alone() -> None:
    recipe = Recipe.from_yaml_text(
        YAML, ["trainer.epochs=7", "tasks.price.weight=3", "encoder=table", "sources.houses.missing=[x]"]
    )
    assert (recipe.trainer.epochs, recipe.tasks[0].weight, recipe.sources[0].to_dict()["missing"]) == (7, 3, ["x"])
    assert Recipe.from_yaml_text(YAML, ["encoder.width=64", "head.kind=mlp"]).encoder.to_dict()["width"] == 64
    assert changed({"sources": ["h.csv"]}, ["sources.h.delimiter=;"])["sources"][0]["delimiter"] == ";"
    assert changed({"balancer": "dwa"}, ["balancer.temperature=3"]) == {"balancer": {"kind": "dwa", "temperature": 3}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("trainer.epoch=5", "trainer.epoch: Trainer has no field 'epoch'. Did you mean 'epochs'?"),
        ("trainer.epochs", "'trainer.epochs' does not say what to set"),
        ("tasks.pric.weight=1", "no 'pric' at 'tasks.pric'. Did you mean 'price'?"),
        ("balancer=pcgrad2", "balancer: no balancer of kind 'pcgrad2'"),
        ("balancer.temprature=2", "Did you mean 'temperature'?"),
        ("primary=[prize]", "primary: no task 'prize'. Did you mean 'price'?"),
        ("tasks.condition.source=flats", "task 'condition': no source 'flats'. There is: houses."),
        ("tasks.condition.name=price", "two tasks are called 'price'"),
        ("seed.deep=1", "'seed' is a single value"),
    ],
)
def test_mistakes_in_a_recipe_name_their_place(change: str, message: str) -> None:
    text = YAML + "seed: 0\n"
    with pytest.raises(PolytaskError) as caught:
        Recipe.from_yaml_text(text, [change])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- 1", "not a recipe"), ("tasks: []", "needs 'sources'")]
)
def test_what_is_no_recipe_is_told(text: str, message: str) -> None:
    with pytest.raises(PolytaskError, match=message):
        Recipe.from_yaml_text(text)


def test_the_schema_knows_every_kind() -> None:
    schema = Recipe.json_schema()
    references: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                references.add(node["$ref"].removeprefix("#/$defs/"))
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for item in node:
                walk(item)

    walk(schema)
    assert references <= set(schema["$defs"])
    assert set(FAMILIES) <= references
    assert schema["$defs"]["balancers.dwa"]["properties"]["temperature"]["default"] == 2.0
