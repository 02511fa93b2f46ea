from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from polytask import Frame, Recipe, Regression, fit
from polytask.errors import PolytaskError
from polytask.fitting import train_bundle
from polytask.mixing import Mixing, epoch_batches, mixed_batches
from polytask.preparation import prepare
from tests.houses import houses

SIZES = {"large": 800, "middle": 150, "small": 50}
N = sum(SIZES.values())
OWNER = torch.repeat_interleave(torch.arange(3), torch.tensor(list(SIZES.values())))
SOURCES = {name: (index == OWNER).nonzero().squeeze(1) for index, name in enumerate(SIZES)}
KINDS: list[dict[str, Any]] = [
    {"kind": "round_robin"},
    {"kind": "weighted", "weights": {"large": 1, "middle": 1, "small": 2}},
    {"kind": "temperature", "temperature": 2.0},
    {"kind": "annealed"},
    {"kind": "proportional"},
]
SHARES = {
    "round_robin": [1 / 3, 1 / 3, 1 / 3],
    "weighted": [0.25, 0.25, 0.5],
    "temperature": [0.594, 0.257, 0.149],
    "proportional": [0.8, 0.15, 0.05],
}


def batches(mixing: Mixing, epoch: int = 0, n_epochs: int = 9, seed: int = 0) -> list[Tensor]:
    return mixed_batches(mixing, SOURCES, N, 64, seed, epoch, n_epochs)


def shares_seen(mixing: Mixing, epochs: range, n_epochs: int = 9) -> Any:
    rows = torch.cat([rows for epoch in epochs for rows in batches(mixing, epoch, n_epochs)])
    return (torch.bincount(OWNER[rows], minlength=3) / len(rows)).numpy()


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize(
    "fields", [fields for fields in KINDS if fields["kind"] != "annealed"], ids=lambda fields: fields["kind"]
)
def test_the_shares_seen_are_those_asked_for(fields: dict[str, Any], joint: bool) -> None:
    seen = shares_seen(Mixing(**fields, joint=joint), range(60))
    np.testing.assert_allclose(seen, SHARES[fields["kind"]], atol=0.001 if joint else 0.02)


@pytest.mark.parametrize("joint", [True, False])
def test_annealed_goes_from_the_rows_towards_equal_shares(joint: bool) -> None:
    mixing, last = Mixing(kind="annealed", joint=joint), 300
    early, late = shares_seen(mixing, range(20), last), shares_seen(mixing, range(last - 20, last), last)
    np.testing.assert_allclose(early, [0.8, 0.15, 0.05], atol=0.03)
    np.testing.assert_allclose(late, np.array([800, 150, 50]) ** 0.2 / sum(np.array([800, 150, 50]) ** 0.2), atol=0.03)


@pytest.mark.parametrize("fields", KINDS, ids=lambda fields: fields["kind"])
def test_one_source_a_batch_or_several(fields: dict[str, Any]) -> None:
    if fields["kind"] != "proportional":
        counts = torch.stack([torch.bincount(OWNER[rows], minlength=3) for rows in batches(Mixing(**fields))[:-1]])
        assert (counts.max(0).values - counts.min(0).values).max() <= 2
    alone = batches(Mixing(**fields, joint=False))
    assert all(len(set(OWNER[rows].tolist())) == 1 for rows in alone)
    assert [len(rows) for rows in alone] == [len(rows) for rows in epoch_batches(N, 64, 0, 0)]


def test_round_robin_takes_turns() -> None:
    turns = [int(OWNER[rows[0]]) for rows in batches(Mixing(kind="round_robin", joint=False))]
    assert turns[:15] == [0, 1, 2] * 5


@pytest.mark.parametrize("joint", [True, False])
def test_every_row_of_a_source_is_seen_equally_often(joint: bool) -> None:
    mixing = Mixing(kind="round_robin", joint=joint)
    rows = torch.cat([rows for epoch in range(12) for rows in batches(mixing, epoch)])
    times = torch.bincount(rows, minlength=N)
    for own in SOURCES.values():
        assert times[own].max() - times[own].min() <= 1


def test_a_pure_function_of_seed_and_epoch() -> None:
    mixing = Mixing(kind="temperature")
    again = batches(mixing, 5)
    assert all(torch.equal(one, two) for one, two in zip(batches(mixing, 5), again, strict=True))
    assert not torch.equal(torch.cat(batches(mixing, 5)), torch.cat(batches(mixing, 6)))
    assert not torch.equal(torch.cat(batches(mixing, 5)), torch.cat(batches(mixing, 5, seed=1)))


def test_by_default_all_rows_are_shuffled_together_once() -> None:
    plain = epoch_batches(N, 64, 0, 3)
    assert all(torch.equal(one, two) for one, two in zip(batches(Mixing(), 3), plain, strict=True))
    one_source = mixed_batches(Mixing(kind="round_robin"), {"all": torch.arange(N)}, N, 64, 0, 3, 9)
    assert torch.equal(torch.cat(one_source), torch.cat(plain))


def two_sources(**mixing: Any) -> Recipe:
    big, small = houses(300), houses(100, 1)
    return Recipe(
        sources=[Frame(big.drop(columns="id"), name="big"), Frame(small.drop(columns=["id", "price"]), name="small")],
        tasks=[Regression("price"), Regression("area", column="sqft_living", source="small")],
        drop=["condition", "waterfront"],
        trainer={"epochs": 4, "patience": "never", "batch_size": 32},
        mixing=mixing,
    )


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("kind", ["round_robin", "temperature", "annealed", "proportional"])
def test_a_recipe_trains_on_the_shares_it_asks_for(kind: str, joint: bool) -> None:
    run = fit(two_sources(kind=kind, joint=joint))
    assert set(run.history[-1]["training"]) == {"price", "area"}
    assert Recipe(**{**run.recipe.to_dict(), "sources": run.recipe.sources}).mixing == Mixing(kind=kind, joint=joint)


def test_the_rows_of_a_data_set_know_their_source() -> None:
    prepared = prepare(two_sources())
    assert {name: int(mask.sum()) for name, mask in prepared.training.sources.items()} == {"big": 210, "small": 70}
    assert bool(prepared.training.present["area"][prepared.training.sources["small"]].all())
    assert not bool(prepared.training.present["area"][prepared.training.sources["big"]].any())


def test_more_of_a_source_teaches_its_task_more() -> None:
    losses = {}
    for weight in (0.02, 0.9):
        recipe = two_sources(kind="weighted", weights={"big": 1 - weight, "small": weight})
        _, history = train_bundle(recipe, prepare(recipe))
        losses[weight] = history[-1].training["area"]
    assert losses[0.9] < losses[0.02]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"kind": "weighted"}, "mixing: weights belong to the kind weighted"),
        ({"weights": {"big": 1.0}}, "mixing: weights belong to the kind weighted"),
        ({"kind": "weighted", "weights": {"big": 1, "smal": 1}}, "mixing.weights: no source 'smal'. Did you mean 'small'?"),
        ({"kind": "weighted", "weights": {"big": 1}}, "mixing.weights: source 'small' has no weight"),
        ({"kind": "weighted", "weights": {"big": 0, "small": 0}}, "mixing.weights: a weight is negative, or all are 0"),
        ({"temperature": 0.5}, "temperature"),
    ],
)
def test_mistakes(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        two_sources(**fields)
    assert told in str(caught.value)
