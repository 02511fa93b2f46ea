"""The frame, proved: plug-ins that touch no other file train, save, load and predict together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

import tests.contracts.examples  # noqa: F401  (puts the third-party package where entry points are looked for)
from polytask.balancer import Balancer
from polytask.bundle import Bundle
from polytask.encoder import Encoder
from polytask.errors import PolytaskError
from polytask.experiment import fit
from polytask.head import Head
from polytask.recipe import Recipe
from polytask.run import Run, load
from polytask.sharing import Sharing
from polytask.sources.frame import Frame
from polytask.task import Task
from polytask.training import Trainer

N_ROWS = 160
STEPS = [f"t{i}" for i in range(6)]
N_NUMBERS = 10  # a number per step, and whether it is missing for the four that may be
TOY_ENCODERS = ["toy_conv", "toy_lstm", "ensemble", "series_ensemble"]
TOY_BALANCERS = ["famo_like", "unit_gramian", "toy_jacobian", "inverse_loss"]


def rows() -> pl.DataFrame:
    """Series of 2 to 6 steps, and three labels with holes."""
    rng = np.random.default_rng(0)
    series = rng.normal(size=(N_ROWS, len(STEPS)))
    series[np.arange(len(STEPS)) >= rng.integers(2, len(STEPS) + 1, (N_ROWS, 1))] = np.nan
    level = np.nansum(series * np.array([1.0, 1.0, 0.5, 0.5, 0.25, 0.25]), 1)

    def with_holes(values: np.ndarray[Any, Any]) -> pl.Series:
        return pl.Series(values).scatter(rng.choice(N_ROWS, N_ROWS // 4, replace=False).tolist(), None)

    return pl.DataFrame(series, schema=STEPS).with_columns(
        price=with_holes(100 * level + 500),
        sold=with_holes(np.where(level > 0, "yes", "no")),
        place=with_holes(level + rng.normal(size=N_ROWS)),
    )


def recipe(**fields: object) -> Recipe:
    kinds = {"price": "regression", "sold": "binary", "place": "ranking"}
    tasks = [Task.coerce({"kind": kind, "name": name}) for name, kind in kinds.items()]
    trainer = Trainer(epochs=4, batch_size=32, optimizer={"lr": 3e-3})
    return Recipe(**({"sources": [Frame(rows())], "tasks": tasks, "trainer": trainer} | fields))


def assert_trains_saves_loads_and_predicts(asked: Recipe, folder: Path, modules: dict[str, nn.Module] | None = None) -> Run:
    run = fit(asked, folder)
    untrained = Bundle.build(run.bundle.manifest).model.state_dict()
    learned = {name: weight for name, weight in run.bundle.model.named_parameters() if weight.numel()}
    still = [name for name, weight in learned.items() if torch.equal(weight, untrained[name])]
    assert still == [], "these were not trained"
    assert {task for epoch in run.history for task in epoch["training"]} == {task.name for task in asked.tasks}
    assert all(np.isfinite(score.value) for task in run.scores().values() for score in task.scores.values())

    again, unlabeled = load(folder, modules), rows().select(STEPS)
    answers = run.predict(unlabeled, probabilities=True)
    assert isinstance(answers, pl.DataFrame)
    assert len(answers) == N_ROWS
    assert answers.equals(again.predict(unlabeled, probabilities=True))
    assert answers.equals(again.predict(rows(), probabilities=True)), "label columns make a difference"
    backward = again.predict(unlabeled.reverse())["price"].reverse().to_numpy()
    assert np.allclose(backward, answers["price"].to_numpy(), rtol=1e-5), "answers are not in the order of the rows"
    assert again.recipe.to_yaml() == run.recipe.to_yaml()
    return run


@pytest.mark.parametrize("balancer", TOY_BALANCERS)
@pytest.mark.parametrize("encoder", TOY_ENCODERS)
def test_toys_train_save_load_and_predict_together(encoder: str, balancer: str, tmp_path: Path) -> None:
    asked = recipe(encoder=encoder, sharing="two_branch", head="early_head", balancer=balancer)
    assert_trains_saves_loads_and_predicts(asked, tmp_path / "run")


@pytest.mark.parametrize("encoder", TOY_ENCODERS)
def test_a_scheme_with_weights_of_its_own(encoder: str, tmp_path: Path) -> None:
    run = assert_trains_saves_loads_and_predicts(recipe(encoder=encoder, sharing="gated"), tmp_path / "run")
    with torch.random.fork_rng():
        torch.manual_seed(torch.initial_seed() + 1)
        again = fit(recipe(encoder=encoder, sharing="gated"))
    weights = run.bundle.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in again.bundle.model.state_dict().items())


def test_a_plug_in_of_another_package_is_found_by_its_entry_point(tmp_path: Path) -> None:
    for family, kind in ((Balancer, "inverse_loss"), (Head, "normed_linear")):
        assert kind in family.kinds()
        assert family.find(kind).__module__ == "elsewhere"
    assert_trains_saves_loads_and_predicts(recipe(head="normed_linear", balancer="inverse_loss"), tmp_path / "run")


@pytest.mark.parametrize(
    ("family", "kind"), [(Encoder, "toy_conv"), (Sharing, "two_branch"), (Task, "ranking"), (Balancer, "unit_gramian")]
)
def test_a_file_that_nothing_names_is_listed(family: Any, kind: str) -> None:
    assert kind in family.kinds()
    assert family.find(kind).kind == kind


class Small(nn.Module):
    """A user's own network, with what a network may have: dropout and a buffer."""

    scale: Tensor

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_in, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, n_out))
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, values: Tensor) -> Tensor:
        return self.scale * self.layers(values)  # type: ignore[no-any-return]


class Single(Small):
    """A second one under another name."""


def own_networks() -> tuple[Small, Single]:
    torch.manual_seed(0)
    return Small(N_NUMBERS, 5), Single(5, 1)


def test_somebodys_own_networks_as_encoder_and_head(tmp_path: Path) -> None:
    encoder, head = own_networks()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    asked = recipe(encoder=encoder, head=head)
    again = {"Small": Small(N_NUMBERS, 5), "Single": Single(5, 1)}
    run = assert_trains_saves_loads_and_predicts(asked, tmp_path / "run", again)
    assert run.bundle.manifest.encoder.kind == "external"
    assert "Small" in (tmp_path / "run" / "recipe.yaml").read_text()
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items()), "the user's object was trained"
    assert encoder.training, "the user's object was put into evaluation mode"


def test_a_network_that_is_not_given_back_is_asked_for(tmp_path: Path) -> None:
    encoder, head = own_networks()
    fit(recipe(encoder=encoder, head=head, trainer=Trainer(epochs=1)), tmp_path / "run")
    with pytest.raises(PolytaskError, match=r"module 'Small', which is not in the file. load\(path, modules=\{'Small'"):
        load(tmp_path / "run")
    with pytest.raises(PolytaskError, match="do not fit the manifest"):
        load(tmp_path / "run", {"Small": Small(N_NUMBERS, 5), "Single": nn.Linear(5, 1)})


def test_a_task_may_have_a_head_of_its_own(tmp_path: Path) -> None:
    tasks = list(recipe().tasks)
    tasks[0] = tasks[0].model_copy(update={"head": Head.coerce("early_head")})
    run = assert_trains_saves_loads_and_predicts(recipe(tasks=tasks, encoder="toy_conv"), tmp_path / "run")
    kinds = {type(head).__name__ for head in run.bundle.model.heads.values()}
    assert kinds == {"FirstAndLast", "PooledHead"}


def test_two_sources_with_different_columns_share_the_stages(tmp_path: Path) -> None:
    table = rows()
    maths = Frame(table.select([*STEPS[:4], "price"]), name="maths")
    music = Frame(table.select([*STEPS, "sold"]), name="music")
    tasks = [Task.coerce({"kind": "regression", "name": "price"}), Task.coerce({"kind": "binary", "name": "sold"})]
    run = fit(recipe(sources=[maths, music], tasks=tasks, encoder="toy_lstm", balancer="unit_gramian"), tmp_path / "run")
    again = load(tmp_path / "run")
    assert list(again.predict(table.select(STEPS[:4])).columns) == ["price"]
    assert list(again.predict(table.select(STEPS)).columns) == ["sold"]
    assert again.predict(table.select(STEPS)).equals(run.predict(table.select(STEPS)))


def test_one_row_is_answered_as_it_is_among_many(tmp_path: Path) -> None:
    run = fit(recipe(encoder="toy_lstm"), tmp_path / "run")
    many, one = (run.predict(rows().select(STEPS)[:n])["price"].to_numpy() for n in (N_ROWS, 1))
    assert one == pytest.approx(many[:1], rel=1e-5)


def test_no_rows_get_no_answers(tmp_path: Path) -> None:
    answers = fit(recipe(trainer=Trainer(epochs=1)), tmp_path / "run").predict(rows().select(STEPS)[:0], probabilities=True)
    assert answers.columns == ["price", "sold", "sold:no", "sold:yes", "place"]
    assert len(answers) == 0
