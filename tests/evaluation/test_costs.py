"""Parameters, operations and memory against what they are by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from polytask import Frame, Recipe, Regression, Table, TabM
from polytask.bundle import n_parameters
from polytask.evaluation.costs import flops_per_row, n_learned, step_memory
from polytask.fitting import untrained
from polytask.memory import Alive
from polytask.preparation import Prepared, prepare

N_INPUTS, WIDTH, ROWS = 5, 16, 32


def asked(encoder: Any = None, **fields: Any) -> tuple[Recipe, Prepared]:
    draw = np.random.default_rng(0)
    columns = {f"x{i}": draw.normal(size=200) for i in range(N_INPUTS)} | {
        "a": draw.normal(size=200),
        "b": draw.normal(size=200),
    }
    plain = Table(width=WIDTH, depth=2, embedding="plain", dropout=0.0)
    trainer = {
        "device": "cpu",
        "batch_size": ROWS,
        "average": None,
        "optimizer": {"name": "SGD", "lr": 0.1, "weight_decay": 0.0},
    }
    given = {"sources": [Frame(columns)], "tasks": [Regression("a"), Regression("b")], "trainer": trainer}
    recipe = Recipe(**(given | {"encoder": encoder or plain} | fields))
    return recipe, prepare(recipe)


def flops(recipe: Recipe, prepared: Prepared) -> int:
    return flops_per_row(untrained(recipe, prepared).model, prepared.test)


def linear(recipe: Recipe, prepared: Prepared) -> int:
    """A multiplication and an addition for each weight of a linear layer."""
    return 2 * sum(m.weight.numel() for m in untrained(recipe, prepared).model.modules() if isinstance(m, nn.Linear))


def test_operations_of_linear_layers_and_none_of_lookups() -> None:
    one, apart = asked(), asked(sharing="separate")
    assert flops(*one) == linear(*one)
    assert flops(*apart) == linear(*apart) == 2 * flops(*one) - 2 * 2 * WIDTH
    colors = np.resize(["red", "green", "blue"], 200).tolist()
    mixed = asked(sources=[Frame({"color": colors, "a": np.arange(200.0), "b": np.arange(200.0) % 7})])
    assert flops(*mixed) == linear(*mixed)


def test_operations_of_embeddings_and_of_members() -> None:
    members, d = 4, 6
    codec = asked()[1].inputs[0].codec
    pieces = [len(edges) - 1 for edges in codec.bins]
    embedded = asked(Table(width=WIDTH, depth=2, embedding_width=d, dropout=0.0))
    rest = flops(*embedded) - linear(*embedded)
    assert 2 * sum(pieces) * d <= rest <= 2 * N_INPUTS * (max(pieces) + 1) * d  # padded to the most pieces, or not
    tabm = asked(TabM(width=WIDTH, depth=2, members=members, embedding="plain", dropout=0.0))
    assert flops(*tabm) == members * (linear(*tabm) + 2 * 2 * WIDTH)  # each member has its own heads


def test_a_network_per_task_has_the_columns_that_it_sees() -> None:
    draw = np.random.default_rng(0)
    one = Frame({"x": draw.normal(size=90), "y": draw.normal(size=90), "a": draw.normal(size=90)}, name="one")
    two = Frame({"z": draw.normal(size=90), "b": draw.normal(size=90)}, name="two")
    recipe, prepared = asked(sources=[one, two], sharing="separate")
    alone = [asked(sources=[one], tasks=[Regression("a")]), asked(sources=[two], tasks=[Regression("b")])]
    both = n_learned(recipe, prepared)
    assert both == sum(n_learned(*pair) for pair in alone)
    assert both < n_parameters(untrained(recipe, prepared).model)


def test_memory_is_that_of_what_is_alive() -> None:
    with Alive() as alive:
        first = torch.zeros(1000)
        view = first[:10]
        assert (alive.now, alive.peak) == (4000, 4000)
        second = first + 1
        del first
        assert alive.now == 8000
        del view
        assert alive.now == 4000
        alive.forget()
        second = second * 2
    assert alive.peak == 8000


def test_memory_of_a_step_has_weights_gradients_state_and_activations() -> None:
    recipe, prepared = asked()
    weights = 4 * n_learned(recipe, prepared)
    plain = step_memory(recipe, prepared)
    activations = 4 * ROWS * 3 * WIDTH
    assert 2 * weights + activations < plain < 2 * weights + 6 * activations
    trainer = recipe.trainer.model_dump()
    adam, _ = asked(trainer=trainer | {"optimizer": {"lr": 0.1}, "average": 0.9})
    assert step_memory(adam, prepared) == pytest.approx(plain + 3 * weights, abs=0.1 * weights)
    apart, _ = asked(sharing="separate")
    assert 1.5 * plain < step_memory(apart, prepared) < 2 * plain
    large, _ = asked(trainer=trainer | {"batch_size": 2 * ROWS})
    assert step_memory(large, prepared) > plain + activations


def test_nothing_of_it_is_seen_afterwards() -> None:
    recipe, prepared = asked()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    step_memory(recipe, prepared)
    assert torch.equal(torch.rand(3), expected)
