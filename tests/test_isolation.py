"""A task that has no labels leaves every other task's weights, bit for bit, as they are without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from polytask.batch import Dataset
from polytask.encoders.table import Table
from polytask.fitting import train_bundle
from polytask.preparation import Prepared, prepare
from polytask.recipe import Recipe
from polytask.sharing import module_key
from polytask.sources.csv import CSV
from polytask.sources.frame import Frame
from polytask.task import Task
from polytask.tasks.binary import Binary
from polytask.tasks.count import Count
from polytask.tasks.multiclass import Multiclass
from polytask.tasks.ordinal import Ordinal
from polytask.tasks.regression import Regression
from polytask.training import Trainer

N_ROWS = 120
PRICE, SOLD, HIDDEN = Regression("price"), Binary("sold"), Regression("hidden")
HIDEABLE = [
    Regression("hidden"),
    Binary("hidden", classes=("no", "yes")),
    Multiclass("hidden", classes=("x", "y", "z")),
    Ordinal("hidden", classes=(1, 2, 3)),
    Count("hidden"),
    Task.coerce({"kind": "ranking", "name": "hidden"}),
]
BALANCERS = ["equal", "uncertainty", "dwa", "unit_gramian", "toy_jacobian", "famo_like"]


def table() -> dict[str, list[object]]:
    """Two labeled tasks with holes, and no column "hidden"; every row has a label of one of them."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, N_ROWS))
    kind = rng.choice(["north", "south", "west"], N_ROWS)
    price = [None if i % 3 == 0 else 100 * x + 500 for i, x in enumerate((a + b / 3).tolist())]
    sold = [None if i % 3 == 1 else ("yes" if x > 0 else "no") for i, x in enumerate(a - b)]
    return {"a": a.tolist(), "b": b.tolist(), "kind": kind.tolist(), "price": price, "sold": sold}


def recipe(source: object, hidden: Task | None = HIDDEN, **fields: object) -> Recipe:
    tasks = [PRICE, SOLD] if hidden is None else [PRICE, hidden, SOLD]
    settings: dict[str, object] = {
        "encoder": Table(width=16, depth=1, dropout=0.3),
        "trainer": Trainer(epochs=3, batch_size=32, best="mean"),
        "unlabeled": "keep",
    }
    return Recipe(sources=[source], tasks=tasks, **(settings | fields))


def frame(hidden: Sequence[object] | None) -> Frame:
    columns = table() if hidden is None else table() | {"hidden": list(hidden)}
    return Frame(pl.DataFrame(columns, strict=False))


def csv(folder: Path, blank: str) -> CSV:
    lines = [[*columns, blank] for columns in zip(*table().values(), strict=True)]
    text = [",".join([*table(), "hidden"]), *(",".join("" if cell is None else str(cell) for cell in line) for line in lines)]
    (folder / "table.csv").write_text("\n".join(text) + "\n")
    return CSV(folder / "table.csv")


def weights(asked: Recipe, prepared: Prepared | None = None) -> dict[str, Tensor]:
    """Every weight after training that does not belong to the hidden task's head."""
    bundle, _ = train_bundle(asked, prepare(asked) if prepared is None else prepared)
    own = f"heads.{module_key('hidden')}."
    return {key: value for key, value in bundle.model.state_dict().items() if not key.startswith(own)}


def differing(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> list[str]:
    assert left.keys() == right.keys()
    return [key for key in left if not torch.equal(left[key], right[key])]


def masked(prepared: Prepared, garbage: Callable[[Tensor], Tensor], rows: Callable[[int], Tensor] | None = None) -> Prepared:
    """The same data with other values behind present=False of the hidden task, and in ``rows`` of it (None: all) no label."""

    def hide(data: Dataset) -> Dataset:
        target, present = data.targets["hidden"], data.present["hidden"]
        present = present & ~(torch.ones_like(present) if rows is None else rows(len(present)))
        target = torch.where(present, target, garbage(target))
        return replace(data, targets={**data.targets, "hidden": target}, present={**data.present, "hidden": present})

    return replace(prepared, training=hide(prepared.training), validation=hide(prepared.validation))


def of_value(value: float) -> Callable[[Tensor], Tensor]:
    return lambda target: torch.full_like(target, value)


@pytest.fixture(scope="module")
def without() -> dict[str, dict[str, Tensor]]:
    """The weights with the task left out of the recipe altogether, per balancer."""
    return {balancer: weights(recipe(frame(None), None, balancer=balancer)) for balancer in BALANCERS}


@pytest.mark.parametrize("balancer", BALANCERS)
def test_hidden_as_null(without: dict[str, dict[str, Tensor]], balancer: str) -> None:
    asked = recipe(frame([None] * N_ROWS), balancer=balancer)
    assert differing(weights(asked), without[balancer]) == []


@pytest.mark.parametrize("balancer", BALANCERS)
def test_hidden_behind_present_with_garbage_or_nan(without: dict[str, dict[str, Tensor]], balancer: str) -> None:
    asked = recipe(frame([None] * N_ROWS), balancer=balancer)
    for value in (7e8, float("nan")):
        assert differing(weights(asked, masked(prepare(asked), of_value(value))), without[balancer]) == []


def test_hidden_as_nan(without: dict[str, dict[str, Tensor]]) -> None:
    assert differing(weights(recipe(frame([float("nan")] * N_ROWS))), without["equal"]) == []


@pytest.mark.parametrize("blank", ["", "NA", "nan"])
def test_hidden_as_text_that_means_missing(tmp_path: Path, without: dict[str, dict[str, Tensor]], blank: str) -> None:
    assert differing(weights(recipe(csv(tmp_path, blank))), without["equal"]) == []


@pytest.mark.parametrize("hidden", HIDEABLE, ids=lambda task: task.kind)
def test_a_hidden_task_of_any_kind(without: dict[str, dict[str, Tensor]], hidden: Task) -> None:
    assert differing(weights(recipe(frame([None] * N_ROWS), hidden)), without["equal"]) == []


def test_a_hidden_task_between_branches() -> None:
    asked = recipe(frame([None] * N_ROWS), sharing="two_branch", head="early_head")
    assert differing(weights(asked), weights(asked, masked(prepare(asked), of_value(float("nan"))))) == []


def test_what_lies_behind_a_partly_hidden_label_reaches_nothing() -> None:
    values = np.random.default_rng(1).normal(size=N_ROWS).tolist()
    for kind in ("regression", "ranking"):
        asked = recipe(frame(values), Task.coerce({"kind": kind, "name": "hidden"}))
        prepared, found = prepare(asked), []
        for value in (0.0, 7e8, float("nan")):
            data = masked(prepared, of_value(value), lambda n: torch.arange(n) % 2 == 0)
            found.append(train_bundle(asked, data)[0].model.state_dict())
        assert differing(found[0], found[1]) == differing(found[0], found[2]) == []


def test_labels_that_are_there_do_make_a_difference(without: dict[str, dict[str, Tensor]]) -> None:
    asked = recipe(frame(np.random.default_rng(1).normal(size=N_ROWS).tolist()), split={"stratify": ("price", "sold")})
    changed = differing(weights(asked), without["equal"])
    ends = {"mix.weight", "shared.0.block.1.weight", "heads.task sold.network.weight"}
    assert {end for end in ends if any(key.endswith(end) for key in changed)} == ends


def test_the_split_does_not_depend_on_a_hidden_task() -> None:
    parts = [prepare(asked) for asked in (recipe(frame(None), None), recipe(frame([None] * N_ROWS)))]
    for part in ("training", "validation", "test"):
        left, right = (getattr(prepared, part).inputs[0]["numbers"] for prepared in parts)
        assert torch.equal(left, right)


def test_a_task_that_is_not_trained_does_not_choose_the_epoch() -> None:
    """Its labels are hidden in the training rows only; what an untrained head says of the validation rows is chance."""
    columns = table() | {"hidden": np.linspace(-3, 5, N_ROWS).tolist()}
    rows = pl.DataFrame(columns, strict=False)
    training = rows[:80].with_columns(hidden=pl.lit(None, pl.Float64))
    parts = {"validation": rows[80:100], "test": rows[100:]}
    trainer = Trainer(epochs=12, batch_size=32, optimizer={"lr": 0.03})
    histories = []
    for source, task in ((Frame(training, **parts), HIDDEN), (_dropped(training, parts), None)):
        asked = recipe(source, task, trainer=trainer)
        histories.append(train_bundle(asked, prepare(asked))[1])
    assert [epoch.selection for epoch in histories[0]] == [epoch.selection for epoch in histories[1]]
    assert [bool(epoch.best) for epoch in histories[0]] == [bool(epoch.best) for epoch in histories[1]]


def _dropped(training: pl.DataFrame, parts: Mapping[str, pl.DataFrame]) -> Frame:
    return Frame(training.drop("hidden"), **{name: rows.drop("hidden") for name, rows in parts.items()})
