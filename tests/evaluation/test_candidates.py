"""What is compared, from words, objects and mappings."""

from __future__ import annotations

from typing import Any

import pytest

from polytask import Frame, PolytaskError, Recipe, Regression
from polytask.balancers import CAGrad, Equal
from polytask.evaluation.candidates import candidates
from polytask.sharings import MMoE, Separate
from polytask.tasks import Binary

FRAME = Frame({"x": [1.0, 2.0], "a": [1.0, 2.0], "b": [0, 1]})
ASKED = Recipe(sources=[FRAME], tasks=[Regression("a"), Binary("b")], balancer="cagrad", primary=["a"])


@pytest.mark.parametrize(
    ("other", "name", "differs"),
    [
        ("mmoe", "mmoe", {"sharing": MMoE()}),
        (" sharing : mmoe ", "mmoe", {"sharing": MMoE()}),
        (MMoE(n_experts=3), "mmoe(n_experts=3)", {"sharing": MMoE(n_experts=3)}),
        ({"kind": "mmoe", "n_experts": 3}, "mmoe(n_experts=3)", {"sharing": MMoE(n_experts=3)}),
        (CAGrad(c=0.2), "balancer:cagrad(c=0.2)", {"balancer": CAGrad(c=0.2)}),
        ({"balancer": "cagrad", "sharing": "mmoe"}, "mmoe", {"sharing": MMoE()}),
    ],
)
def test_a_candidate_is_the_recipe_with_other_parts(other: Any, name: str, differs: dict[str, Any]) -> None:
    alone, run, found = candidates(ASKED, [other])
    assert (found.name, found.differs) == (name, differs)
    assert found.recipe == Recipe(**{**{field: getattr(ASKED, field) for field in Recipe.model_fields}, **differs})
    assert run.recipe is ASKED
    assert (alone.recipe.sharing, alone.recipe.balancer.kind, alone.recipe.primary) == (Separate(), "equal", ("a",))


def test_a_run_that_shares_nothing_is_no_candidate() -> None:
    asked = ASKED.model_copy(update={"sharing": Separate(), "balancer": Equal()})
    assert [one.name for one in candidates(asked, ["hard"])] == ["alone", "hard"]
    with pytest.raises(PolytaskError, match="the tasks of this run share nothing"):
        candidates(asked)


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ([Regression("a")], "one of tasks cannot be compared. Found: regression."),
        ([{}], "not a way to learn the tasks. Found: {}."),
        ([{"head": "mlp"}], "no part 'head' that can differ. There is: sharing, balancer, encoder."),
        ([{"kind": "mmoe", "n_experts": 0}], "MMoE: should be greater than or equal to 1. Found: 0."),
        (["soft"], "balancer: cagrad balances gradients of shared parameters, and soft shares none"),
        (["balancer:cagrad"], "compare, balancer:cagrad: this is what the run has already."),
        (["mmoe", MMoE()], "this is the same as 'mmoe'."),
        (["separate"], "separate"),
    ],
)
def test_mistakes(others: list[Any], told: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        candidates(ASKED, others)
    assert told in str(caught.value)
    assert str(caught.value).startswith("compare, ")
