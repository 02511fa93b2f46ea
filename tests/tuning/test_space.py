"""What may be searched, and what is drawn."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from polytask import Binary, Frame, PolytaskError, Recipe, Regression, Table
from polytask.preparation import preparation_key
from polytask.tuning.defaults import default_searches
from polytask.tuning.search import Search
from polytask.tuning.space import Space

DATA = {"x": [0.0, 1.0, 2.0], "a": [0.0, 1.0, 2.0], "b": [True, False, True]}
FIELDS: dict[str, Any] = {"sources": [Frame(DATA)], "tasks": [Regression("a"), Binary("b")]}
YAML = """
encoder: {width: {search: [8, 64], log: true}, dropout: {search: [0, 0.5]}}
sharing:
  search:
  - {kind: mmoe, n_experts: {search: [2, 6]}}
  - hard
  - {kind: ple, n_shared: {search: [1, 3], start: 3}}
trainer: {optimizer: {lr: {search: [1e-4, 1e-2], log: true, start: 2e-3}}, batch_size: {search: [16, 64], step: 16}}
"""


def conditional() -> Space:
    return Space.of(FIELDS | yaml.safe_load(YAML))


def test_it_starts_at_the_fields_own_values_where_they_are_searched() -> None:
    space = conditional()
    recipe = space.base
    assert (recipe.sharing.kind, recipe.encoder.to_dict()["dropout"], recipe.trainer.optimizer.lr) == ("hard", 0.1, 2e-3)
    assert recipe.encoder.to_dict()["width"] == 22  # 256 is not searched: the middle of the logarithms
    assert recipe.trainer.batch_size == 32  # has no number of its own: the middle, at a step
    assert space.whole == {"encoder.width", "sharing[mmoe].n_experts", "sharing[ple].n_shared", "trainer.batch_size"}
    assert list(space.starts()) == ["encoder.width", "encoder.dropout", "sharing", *list(space.by_name)[-2:]]


def test_fields_of_a_kind_are_drawn_where_it_is_chosen_only() -> None:
    space = conditional()
    for kind, own in (("mmoe", {"sharing[mmoe].n_experts"}), ("hard", set()), ("ple", {"sharing[ple].n_shared"})):
        asked: dict[str, Any] = {}

        def draw(name: str, search: Search, whole: bool, kind: str = kind, asked: dict[str, Any] = asked) -> Any:
            asked[name] = kind if name == "sharing" else search.ends()[1]
            return asked[name]

        recipe = space.drawn(draw)
        assert {name for name in asked if "[" in name} == own
        assert recipe.sharing.kind == kind
        assert recipe == space.recipe(asked)
        assert recipe.encoder.to_dict()["width"] == 64
    assert space.recipe({"sharing": "mmoe", "sharing[mmoe].n_experts": 5}).sharing.to_dict()["n_experts"] == 5
    assert space.recipe({"sharing": "ple"}).sharing.to_dict()["n_shared"] == 3


def test_it_is_written_as_it_is_read() -> None:
    space = conditional()
    again = Space.of(yaml.safe_load(space.to_yaml()) | {"sources": FIELDS["sources"]})
    assert again.to_dict() == space.to_dict()
    assert (again.base.to_dict(), again.whole) == (space.base.to_dict(), space.whole)


@pytest.mark.parametrize("level", ["training", "network", "all"])
def test_every_level_starts_at_the_recipe_and_every_draw_of_it_is_a_recipe(level: str) -> None:
    recipe = Recipe(**FIELDS)
    space = Space.of(recipe).with_searches(default_searches(recipe, level))
    assert space.base == recipe
    for end in (0, -1):

        def draw(name: str, search: Search, whole: bool, end: int = end) -> Any:
            return search.ends()[end] if search.is_range else search.labels[end]

        assert space.drawn(draw) != recipe
    weights = {name for name in space.by_name if ".weights." in name}
    prefix = "balancer[fixed]" if level == "all" else "balancer"
    assert weights == {f"{prefix}.weights.a", f"{prefix}.weights.b"}
    equal = space.with_equal_weights()
    assert set(equal.by_name) == {name for name in space.by_name if not name.startswith("balancer")}
    assert equal.base == recipe


def test_what_a_recipe_says_to_search_stays() -> None:
    given = {"encoder": {"width": {"search": [4, 8]}}, "balancer": {"kind": "fixed", "weights": {"a": {"search": [1, 2]}}}}
    space = Space.of(FIELDS | given)
    wider = space.with_searches(default_searches(space.base, "all"))
    assert wider.by_name["encoder.width"].search.search == (4, 8)
    assert wider.by_name["balancer.weights.a"].search.search == (1, 2)
    assert not {"balancer", "balancer.weights.b", "balancer[fixed].weights.a"} & set(wider.by_name)
    assert {"sharing", "encoder.depth", "sharing[hard].stages"} <= set(wider.by_name)
    assert Space.of(Recipe(**FIELDS), {"tasks.a.weight": {"search": [0.5, 2.0]}}).starts() == {"tasks.a.weight": 1.0}


def test_single_tasks_and_other_encoders_have_no_default_that_does_not_fit() -> None:
    alone = Recipe(sources=FIELDS["sources"], tasks=FIELDS["tasks"][:1], balancer="dwa")
    assert set(default_searches(alone, "all")) == {
        *("trainer.optimizer.lr", "trainer.optimizer.weight_decay", "encoder.dropout"),
        *("encoder.width", "encoder.depth", "sharing.stages"),
    }
    dwa = Recipe(**FIELDS, balancer="dwa", sharing="mmoe")
    found = default_searches(dwa, "all")
    assert found["balancer"]["search"] == [dwa.balancer.to_dict(), "fixed", "auto", "uncertainty"]
    assert (found["sharing"]["start"], "sharing.stages" in found) == ("mmoe", False)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"encoder": {"width": {"search": [64, 8]}}},
            "encoder.width.search: the range is empty. Found: [64, 8]. Give the lower",
        ),
        ({"encoder": {"width": {"search": []}}}, "encoder.width.search: Search: should not be empty. Found: []."),
        ({"encoder": {"width": {"search": [1, 2], "logs": True}}}, "Search has no field 'logs'. Did you mean 'log'?"),
        ({"encoder": {"dropout": {"search": [0, 1], "log": True}}}, "a range in logarithms begins above 0 and has no step"),
        ({"encoder": {"width": {"search": [1, 9], "step": 20}}}, "encoder.width.step: the step is longer than the range"),
        ({"encoder": {"width": {"search": [8, 16, 8]}}}, "encoder.width.search: a choice stands twice. Found: [8, 16, 8]."),
        ({"sharing": {"search": ["hard", "mmoe"], "log": True}}, "sharing.search: only a range has log or step."),
        (
            {"sharing": {"search": ["hard", "mmoe"], "start": "ple"}},
            "the start is none of the choices. Found: 'ple'. Take one of hard",
        ),
        ({"encoder": {"widht": {"search": [8, 64]}}}, "no field 'widht'. Did you mean 'width'?"),
        ({"encoder": {"dropout": {"search": [0.1, 1.0]}}}, "encoder.dropout, with 1.0: TabM: should be less than 1."),
        ({"sharing": {"search": ["hard", "mmoes"]}}, "sharing, with mmoes: no sharing of kind 'mmoes'. Did you mean 'mmoe'?"),
        (
            {"sharing": {"kind": {"search": ["hard", "mmoe"]}, "stages": -1}},
            "sharing.kind, with mmoe: MMoE has no field 'stages'.",
        ),
        ({"seed": {"search": [1, 9]}}, "seed: this cannot be searched: the trials are judged by it."),
        (
            {"tasks": [{"kind": "regression", "name": "a", "loss": {"search": ["huber", "squared"]}}]},
            "tasks.a.loss: this cannot be",
        ),
    ],
)
def test_mistakes_are_told_by_their_place(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(PolytaskError) as error:
        Space.of(FIELDS | fields)
    assert told in str(error.value)


def test_paths_that_lead_nowhere() -> None:
    recipe = Recipe(**FIELDS)
    for path, told in (("tasks.c.weight", "no 'c' there"), ("seed.x", "the path leads through a single value. Found: 0.")):
        with pytest.raises(PolytaskError, match=told):
            Space.of(recipe, {path: {"search": [1, 2]}})
    with pytest.raises(PolytaskError, match=r"no space 'trainig'\. Did you mean 'training'"):
        default_searches(recipe, "trainig")


def test_a_recipe_to_be_tuned_is_not_fitted() -> None:
    told = r"encoder\.width: the recipe says what to search here, not a value. `polytask tune` finds one"
    with pytest.raises(PolytaskError, match=told):
        Recipe(**FIELDS, encoder={"width": {"search": [8, 64]}})
    with pytest.raises(PolytaskError, match=r"recipe, tasks\.a\.weight: the recipe says what to search"):
        Recipe.from_yaml_text("sources: [a.csv]\ntasks: [{kind: regression, name: a, weight: {search: [1, 2]}}]")
    assert Recipe(**FIELDS, columns={"search": "number"}).columns == {"search": "number"}


def test_data_are_prepared_again_only_for_what_they_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(**FIELDS)
    same = [
        {"encoder": {"width": 8}},
        {"sharing": "mmoe", "head": "mlp", "balancer": "dwa"},
        {"trainer": {"epochs": 3}, "primary": ["a"]},
        {"tasks": [Regression("a", weight=3.0, head="mlp"), Binary("b")]},
    ]
    other = [
        {"seed": 1},
        {"drop": ["x"]},
        {"split": {"test": 0.3}},
        {"tasks": [Regression("a", loss="huber"), Binary("b")]},
        {"encoder": "table"},
    ]
    monkeypatch.setattr(Table, "fit_inputs", lambda *_: None)  # as one that looks at more than the columns' kinds
    for changes, alike in [*((c, True) for c in same), *((c, False) for c in other)]:
        assert (preparation_key(Recipe(**FIELDS | changes)) == preparation_key(recipe)) is alike, changes
