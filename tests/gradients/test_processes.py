"""Two processes, each with half of the rows, take the steps that one with all of them does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import distributed

from polytask.balancer import Balancer, JacobianBalancer
from polytask.sharing import Sharing
from tests.balancers.every import balancers, name
from tests.gradients.pair import Case, Pair, started, train

pytestmark = pytest.mark.skipif(not distributed.is_gloo_available(), reason="this torch has no gloo")

# A penalty on the features of the rows is the mean of what each process finds, not what one would find on all of them.
SETTINGS: dict[str, dict[str, Any]] = {
    "branching": {"steps": 0},
    "shared_private": {"orthogonal": 0.0},
    "tree": {"branches": {0: [["price", "sold"], ["grade"]]}},
}
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}


def cases() -> list[dict[str, Any]]:
    """All but updates of the features, which are refused."""
    plugins = [(fields, Balancer.find(fields["kind"])) for fields in balancers("grade")]
    return [fields for fields, plugin in plugins if "gradients" not in fields or not issubclass(plugin, JacobianBalancer)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with started(tmp_path_factory.mktemp("pair")) as both:
        yield both


def check(pair: Pair, case: Case) -> None:
    """Whether both have the parameters that one process with all rows has."""
    alone = train(case)
    together = pair.train(case)
    for found in together:
        assert not isinstance(found, str), found
        for mine, whole in zip(found, alone, strict=True):
            assert (mine - whole).abs().max() <= TOLERANCES[case.dtype]
    assert all(torch.equal(one, other) for one, other in zip(*together, strict=True))


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("balancer", cases(), ids=name)
def test_two_processes_equal_one(pair: Pair, balancer: dict[str, Any], dtype: torch.dtype) -> None:
    check(pair, Case(balancer, dtype))


@pytest.mark.parametrize("kind", [kind for kind in Sharing.kinds() if Sharing.find(kind).__module__.startswith("polytask.")])
def test_two_processes_equal_one_in_every_scheme(pair: Pair, kind: str) -> None:
    sharing = {"kind": kind, **SETTINGS.get(kind, {})}
    check(pair, Case({"kind": "upgrad" if Sharing.find(kind).shares else "equal"}, sharing=sharing))


@pytest.mark.parametrize("kind", ["equal", "upgrad"])
def test_a_loss_that_is_not_finite_in_one_is_told_in_both(pair: Pair, kind: str) -> None:
    words = pair.train(Case({"kind": kind}, spoiled=True))
    assert all(isinstance(found, str) and "the losses are not finite" in found for found in words)


def test_tasks_have_to_be_known_to_all(pair: Pair) -> None:
    words = pair.train(Case({"kind": "equal"}, announced=False))
    assert all(isinstance(found, str) and "Call balance.start(tasks)" in found for found in words)


def test_an_update_of_features_is_refused(pair: Pair) -> None:
    words = pair.train(Case({"kind": "graddrop", "gradients": "features"}))
    assert all(isinstance(found, str) and "Use gradients: exact" in found for found in words)
