"""Components: one object, one dict, one file."""

from __future__ import annotations

from typing import ClassVar

import pytest
from torch import Tensor

from polytask.balancer import Balancer, LossBalancer, Signals, State, uniform
from polytask.balancers import DWA, Equal, Uncertainty
from polytask.component import Settings
from polytask.encoder import Encoder
from polytask.errors import PolytaskError, did_you_mean, listed
from polytask.head import Head
from polytask.recipe import Recipe
from polytask.tasks import Binary, Regression


def test_the_object_is_its_configuration() -> None:
    assert Balancer.coerce(DWA(temperature=1.5).to_dict()) == DWA(temperature=1.5)
    assert Balancer.coerce("equal") == Equal()


def test_kinds_are_the_files_of_the_folder() -> None:
    assert {"dwa", "equal", "fixed", "uncertainty"} <= set(Balancer.kinds())
    assert Balancer.find("uncertainty") is Uncertainty


def test_a_class_defined_anywhere_is_known_by_its_name_in_snake_case() -> None:
    class LoudestFirst(LossBalancer):
        paper: ClassVar[str] = "none"
        weights_sum_to: ClassVar[str] = "1"

        def step(self, state: State, signals: Signals) -> tuple[Tensor, State]:
            return uniform(signals), state

    assert Balancer.coerce("loudest_first") == LoudestFirst()


def test_a_concrete_plug_in_cannot_be_subclassed() -> None:
    with pytest.raises(TypeError, match="make it a field or a new class"):
        type("Mine", (Equal,), {})


def test_an_abstract_class_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        LossBalancer()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("dwaa", "no balancer of kind 'dwaa'. Did you mean 'dwa'?"),
        ({"temperature": 1}, "a balancer needs a kind"),
        ({"kind": "dwa", "temprature": 1}, "DWA has no field 'temprature'. Did you mean 'temperature'?"),
        ({"kind": "dwa", "temperature": 0}, "temperature: DWA: should be greater than 0. Found: 0."),
        (3, "not a balancer. Found: int."),
    ],
)
def test_mistakes_are_told(value: object, message: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        Balancer.coerce(value)
    assert message in str(caught.value)


def test_nested_mistakes_name_their_place() -> None:
    with pytest.raises(PolytaskError) as caught:
        Regression("price", head={"kind": "mlp", "dropout": 2})
    assert str(caught.value).startswith("head.dropout: MLP: should be less than 1. Found: 2.")


def test_a_place_is_named_once() -> None:
    with pytest.raises(PolytaskError) as caught:
        Recipe.from_yaml_text("{sources: [a.csv], tasks: [{kind: binary, name: y}], trainer: {optimizer: {lr: -1}}}")
    assert str(caught.value) == "recipe, trainer.optimizer.lr: Optimizer: should be greater than 0. Found: -1."


def test_a_field_of_several_types_has_one_complaint_in_words() -> None:
    with pytest.raises(PolytaskError) as caught:
        Binary("y", threshold="f2", focal=-1)
    first = "focal: Binary: should be greater than or equal to 0 (and 1 more mistake). Found: -1."
    assert str(caught.value) == first
    with pytest.raises(PolytaskError) as caught:
        Binary("y", threshold=3)
    assert str(caught.value) == "threshold: Binary: should be 'f1' or 'balanced_accuracy' or should be less than 1. Found: 3."


def test_what_looks_alike_is_told_by_its_characters() -> None:
    assert did_you_mean("age", ["\u0430ge"]).endswith(r"(which is '\u0430ge')?")
    assert did_you_mean("caf\u00e9", ["cafe\u0301"]).endswith(r"(which is 'cafe\u0301')?")


def test_lists_and_suggestions() -> None:
    assert listed("abc", limit=5) == "a, b, c"
    assert did_you_mean("Price", ["price"]) == "Did you mean 'price'?"
    assert did_you_mean("x", []) == "There is none."


def test_settings_are_frozen_and_strict() -> None:
    class Point(Settings):
        x: float = 0.0

    with pytest.raises(PolytaskError, match="Point: should be a finite number"):
        Point(x=float("nan"))
    with pytest.raises(ValueError, match="frozen"):
        Point().x = 1.0  # type: ignore[misc]


def test_every_family_lists_its_folder_without_importing_it() -> None:
    assert "linear" in Head.kinds()
    assert "table" in Encoder.kinds()
