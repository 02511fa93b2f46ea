"""Going on from a run: new rows, new tasks, frozen parts; what came from the run is what it was, bit for bit."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from polytask import (
    CSV,
    Binary,
    Frame,
    Hard,
    Multiclass,
    Ordinal,
    PolytaskError,
    Recipe,
    Regression,
    Run,
    Stopped,
    Table,
    Trainer,
    cross_validate,
    fit,
    load,
    resume,
)
from polytask.encoders.external import External
from polytask.sharing import Sharing
from polytask.training import Epoch
from polytask.warm_start import WarmStart
from tests.houses import houses

N_EPOCHS = 3
# No step changes a weight: a training that begins somewhere stays there.
NO_STEP = {"name": "SGD", "lr": 1e-30, "weight_decay": 0}
STILL = Trainer(epochs=1, device="cpu", best="mean", average=None, optimizer=NO_STEP)
QUICK = Trainer(epochs=N_EPOCHS, device="cpu", best="mean")
PARTS: dict[str, Any] = {"encoder": Table(width=12, depth=2, dropout=0.3), "sharing": Hard(stages=1)}
TASKS = (Regression("price", transform="log1p"), Binary("waterfront", threshold="f1", calibration="temperature"))
FREEZES = ("nothing", "shared", "everything")


def asked(rows: Any = None, *tasks: Any, name: str = "houses", **fields: Any) -> Recipe:
    source = rows if isinstance(rows, CSV) else Frame(houses(200) if rows is None else rows, name=name)
    return Recipe(**{"sources": [source], "tasks": tasks or TASKS, "drop": ["id"], "trainer": QUICK, **PARTS, **fields})


def going_on(run: Path, rows: Any, *tasks: Any, freeze: str = "nothing", **fields: Any) -> Recipe:
    return asked(rows, *tasks, **{"name": "new", "drop": [], "warm_start": WarmStart(run=run, freeze=freeze), **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that predicts price and waterfront, not from age or condition."""
    place = tmp_path_factory.mktemp("first") / "run"
    fit(asked(drop=["id", "age", "condition"]), place)
    return place


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return load(folder)


def weights(run: Run) -> dict[str, Tensor]:
    return run.bundle.model.state_dict()


def unchanged(run: Run, before: Run) -> set[str]:
    """The parts of which no weight is another."""
    old, new = weights(before), weights(run)
    part = {key: ".".join(key.split(".")[: 3 if "private" in key else 2]) for key in old.keys() & new.keys()}
    return set(part.values()) - {part[key] for key in part if not torch.equal(old[key], new[key])}


# ----------------------------------------------------------------------------------------------------------------- new rows


def test_on_the_same_data_it_begins_where_the_run_was(folder: Path, run: Run) -> None:
    again = fit(going_on(folder, houses(200), *TASKS, drop=["id", "age", "condition"], trainer=STILL))
    best = run.history[run.record["best_epochs"]["price"] - 1]
    assert again.history[0]["validation"] == best["validation"]
    assert again.scores().to_dict() == run.scores().to_dict()
    assert again.record["notes"] == [f"began with the weights of {folder}", *run.record["notes"]]


def test_stages_that_are_scaled_by_choice_are_those_that_are_new(folder: Path, run: Run) -> None:
    scaled = STILL.model_copy(update={"scale_stages": True})
    assert unchanged(fit(going_on(folder, houses(150, 4), *TASKS, trainer=scaled)), run) == set(weights_parts(run))


def test_new_rows_are_read_by_the_earlier_codecs(folder: Path, run: Run) -> None:
    rows = houses(150, 4).assign(lot=lambda frame: frame["lot"] * 3 + 1000, extra=np.arange(150.0) ** 2)
    new = fit(going_on(folder, rows, *TASKS))
    assert [part.codec for part in new.bundle.manifest.inputs] == [part.codec for part in run.bundle.manifest.inputs]
    told, old = new.bundle.tasks["price"].codec, run.bundle.tasks["price"].codec
    assert (told.center, told.scale, told.transform) == (old.center, old.scale, "log1p")
    assert told.n_labels == new.record["rows"]["training"] != old.n_labels
    assert told.null_loss != old.null_loss  # 1 is the best constant of these rows
    assert (
        "no inputs, as the earlier run has none of that name: 'id', 'age', 'condition', 'extra' (source 'new')"
        in (new.record["notes"])
    )
    assert not unchanged(new, run)


@pytest.mark.parametrize("best", ["mean", "task"])
def test_what_it_began_with_stays_where_training_makes_it_worse(folder: Path, run: Run, best: str) -> None:
    wild = Trainer(epochs=3, device="cpu", average=None, best=best, optimizer={"name": "SGD", "lr": 1.0})
    rows = houses(150, 4)
    spoiled = fit(going_on(folder, rows, *TASKS, trainer=wild))
    assert [epoch["epoch"] for epoch in spoiled.history] == [0, 1, 2, 3]
    assert spoiled.history[0]["selection"] < min(epoch["selection"] or np.inf for epoch in spoiled.history[1:])
    assert spoiled.record["best_epochs"]["price"] == 0
    spoiled.bundle.check_answers(run.bundle, ["price"])


def test_it_is_ahead_of_new_weights(folder: Path) -> None:
    rows = houses(300, 9)
    cold = fit(asked(rows, *TASKS, drop=["id", "age", "condition"], seed=1))
    warm = fit(going_on(folder, rows, *TASKS, seed=1))
    assert warm.history[0]["selection"] < cold.history[0]["selection"]


def test_a_task_with_classes_that_are_new_begins_anew(tmp_path: Path) -> None:
    few = houses(200).query("suburb != 'lake'")
    tasks = [Regression("price"), Multiclass("suburb")]
    first = fit(asked(few, *tasks), tmp_path / "run")
    second = fit(going_on(tmp_path / "run", houses(200, 3), *tasks, trainer=STILL))
    assert second.bundle.tasks["suburb"].codec.classes == ("lake", "north", "south")
    note = next(note for note in second.record["notes"] if "begins anew" in note)
    assert note.startswith("task 'suburb' begins anew: ")
    assert "labels are not among those of the training rows ('lake')" in note
    assert {key.split(".")[1] for key in weights(first) if not torch.equal(weights(first)[key], weights(second)[key])} == {
        "task suburb"
    }


@pytest.mark.parametrize(
    ("task", "fields", "why"),
    [
        (Ordinal("waterfront"), {}, "its kind is 'ordinal', but 'binary' in the earlier run"),
        (Binary("waterfront", focal=2.0), {}, "its calibration is None, but 'temperature' in the earlier run"),
        (TASKS[1], {"head": "mlp"}, "its head is {'kind': 'mlp'"),
    ],
)
def test_a_task_that_is_another_begins_anew(folder: Path, task: Any, fields: dict[str, Any], why: str) -> None:
    new = fit(going_on(folder, houses(150, 4), task, trainer=STILL, **fields))
    assert any(note.startswith(f"task 'waterfront' begins anew: {why}") for note in new.record["notes"])
    assert "tasks of the earlier run that are left out: 'price'" in new.record["notes"]
    assert list(new.bundle.tasks) == ["waterfront"]


def test_labels_may_be_in_another_column_and_weigh_otherwise(folder: Path, run: Run) -> None:
    rows = houses(150, 4).rename(columns={"price": "sold for"}).assign(w=2.0)
    task = Regression("price", column="sold for", weight_column="w", weight=3, transform="log1p", loss="huber")
    new = fit(going_on(folder, rows, task, trainer=STILL))
    assert "heads.task price" in unchanged(new, run)


# ---------------------------------------------------------------------------------------------------------------- new tasks


@pytest.mark.parametrize("balancer", ["equal", "dwa", "famo_like", "unit_gramian", "toy_jacobian"])
@pytest.mark.parametrize("freeze", FREEZES[1:])
def test_a_task_is_added_and_the_others_answer_bit_for_bit(folder: Path, run: Run, freeze: str, balancer: str) -> None:
    tasks = [Regression("age"), Ordinal("condition")]
    added = fit(going_on(folder, houses(150, 4), *tasks, freeze=freeze, balancer=balancer))
    assert list(added.bundle.tasks) == ["price", "waterfront", "age", "condition"]
    new = houses(60, 7)
    before = run.predict(new, probabilities=True)
    pd.testing.assert_frame_equal(added.predict(new, probabilities=True)[list(before.columns)], before, check_exact=True)
    assert list(added.scores()) == ["age", "condition"]
    assert list(added.evaluate(new)) == list(added.bundle.tasks)
    assert unchanged(added, run) == set(weights_parts(run))
    assert (
        "tasks of the earlier run that answer as before, and have no scores here: 'price', 'waterfront'"
        in (added.record["notes"])
    )
    assert added.history[-1]["training"]["age"] < added.history[1]["training"]["age"] * 1.2
    assert all(parameter.requires_grad for parameter in added.bundle.model.parameters())


def weights_parts(run: Run) -> list[str]:
    return [".".join(key.split(".")[: 3 if "private" in key else 2]) for key in weights(run)]


def test_with_the_trunk_frozen_the_heads_are_trained(folder: Path, run: Run) -> None:
    both = fit(going_on(folder, houses(150, 4), *TASKS, Regression("age"), freeze="shared"))
    assert unchanged(both, run) == {part for part in weights_parts(run) if part.startswith("trunk")}
    assert list(both.scores()) == ["price", "waterfront", "age"]
    assert set(both.history[1]["training"]) == {"price", "waterfront", "age"}


def test_with_everything_frozen_earlier_tasks_are_scored_and_not_trained(folder: Path, run: Run) -> None:
    both = fit(going_on(folder, houses(150, 4), *TASKS, Regression("age"), freeze="everything"))
    assert unchanged(both, run) == set(weights_parts(run))
    assert list(both.scores()) == ["price", "waterfront", "age"]
    assert set(both.history[1]["training"]) == set(both.history[1]["validation"]) == {"age"}
    new = houses(60, 7)
    before = run.predict(new, probabilities=True)
    pd.testing.assert_frame_equal(both.predict(new, probabilities=True)[list(before.columns)], before, check_exact=True)


def test_with_nothing_frozen_a_named_task_and_a_new_one_are_trained_on(folder: Path, run: Run) -> None:
    both = fit(going_on(folder, houses(150, 4), TASKS[0], Regression("age")))
    assert list(both.bundle.tasks) == ["price", "age"]
    assert "tasks of the earlier run that are left out: 'waterfront'" in both.record["notes"]
    assert not unchanged(both, run)


def test_batch_statistics_of_a_frozen_trunk_do_not_move(tmp_path: Path) -> None:
    encoder = Table(width=12, normalization="batch")
    fit(asked(drop=["id", "age"], encoder=encoder), tmp_path / "run")
    added = fit(going_on(tmp_path / "run", houses(150, 4), Regression("age"), freeze="shared", encoder=encoder))
    first = load(tmp_path / "run")
    assert any("running_mean" in key for key in weights(first))
    assert all(torch.equal(value, weights(added)[key]) for key, value in weights(first).items())


def test_runs_that_began_from_runs(folder: Path, run: Run, tmp_path: Path) -> None:
    fit(going_on(folder, houses(150, 4), Regression("age"), freeze="shared"), tmp_path / "two")
    three = fit(going_on(tmp_path / "two", houses(150, 5), Ordinal("condition"), freeze="everything", name="newest"))
    assert list(three.bundle.tasks) == ["price", "waterfront", "age", "condition"]
    assert three.bundle.manifest.inputs[0].sources == {
        "houses": ("price", "waterfront"),
        "new": ("age",),
        "newest": ("condition",),
    }
    three.bundle.check_answers(run.bundle, ["price", "waterfront"])
    kept = three.keep("price", "condition")
    assert kept.bundle.manifest.inputs[0].sources == {"houses": ("price",), "newest": ("condition",)}
    assert [task.name for task in kept.recipe.tasks] == ["condition"]
    with pytest.raises(PolytaskError, match=r"keep: all of these tasks are those of the earlier run\. Found: price"):
        three.keep("price")


def test_a_run_with_weights_of_several_epochs(tmp_path: Path) -> None:
    tasks = [Regression("price"), Regression("sqft_living"), Binary("waterfront")]
    trainer = Trainer(epochs=12, batch_size=16, device="cpu", best="task", average=None, optimizer={"lr": 0.03})
    first = fit(asked(None, *tasks, drop=["id", "age", "condition"], trainer=trainer), tmp_path / "run")
    assert len(first.bundle.manifest.snapshots) > 1
    each = STILL.model_copy(update={"best": "task"})
    again = fit(going_on(tmp_path / "run", houses(200), *tasks, drop=["id", "age", "condition"], trainer=each))
    epochs = first.record["best_epochs"]
    assert again.history[0]["validation"] == {t: first.history[epoch - 1]["validation"][t] for t, epoch in epochs.items()}
    again.bundle.check_answers(first.bundle, list(epochs))
    rows, new = houses(150, 4), houses(60, 7)
    for freeze, named in (("shared", []), ("everything", tasks[:2])):
        both = [*named, Regression("age"), Ordinal("condition")]
        added = fit(going_on(tmp_path / "run", rows, *both, freeze=freeze, trainer=trainer), tmp_path / freeze)
        before, after = first.predict(new), load(tmp_path / freeze).predict(new)
        assert {"age", "condition"} < set(after.columns)
        pd.testing.assert_frame_equal(after[list(before.columns)], before, check_exact=True)
        assert list(added.scores()) == [task.name for task in both]
    still = weights(fit(going_on(tmp_path / "run", rows, *tasks, trainer=STILL)))
    networks = [dict(network.state_dict()) for network in first.bundle.model.networks]
    assert all(any(key in own and torch.equal(own[key], value) for own in networks) for key, value in still.items())
    trained_on = fit(going_on(tmp_path / "run", rows, *tasks, freeze="shared"))
    assert list(trained_on.scores()) == ["price", "sqft_living", "waterfront"]
    assert not trained_on.bundle.manifest.snapshots


def test_two_sources_with_different_columns(tmp_path: Path) -> None:
    prices = Frame(houses(150, 1).drop(columns=["condition", "waterfront", "age"]), name="prices")
    lakes = Frame(houses(120, 2).drop(columns=["price", "sqft_living", "age", "condition"]), name="lakes")
    fields: dict[str, Any] = {"sources": [prices, lakes], "tasks": TASKS}
    first = fit(asked(**fields), tmp_path / "run")
    small = houses(150, 3).drop(columns=["price", "sqft_living", "condition"])  # the columns of lakes, and age
    added = fit(going_on(tmp_path / "run", small, Regression("age"), freeze="everything"))
    assert [part.sources for part in added.bundle.manifest.inputs] == [
        {"lakes": ("waterfront",), "new": ("age",)},
        {"prices": ("price",)},
    ]
    for source, task in (("prices", "price"), ("lakes", "waterfront")):
        rows = houses(40, 8).drop(columns="age")
        old, new = (item.predict(rows, [task], source=source) for item in (first, added))
        pd.testing.assert_frame_equal(new, old, check_exact=True)
    assert list(added.predict(small.head(5)).columns) == ["waterfront", "age"]
    alone = fit(going_on(tmp_path / "run", small, Regression("age")))
    assert len(alone.bundle.manifest.inputs) == 1
    with pytest.raises(
        PolytaskError, match="source 'prices' has other columns than the source of that name in the earlier run"
    ):
        fit(going_on(tmp_path / "run", small, Regression("age"), freeze="shared", name="prices"))


def test_a_network_of_ones_own(tmp_path: Path) -> None:
    def own(seed: int) -> External:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return External(name="Own", module=nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.ReLU()))

    first = fit(asked(houses(150)[["rooms", "suburb", "lot", "price"]], TASKS[0], drop=[], encoder=own(0)), tmp_path / "run")
    added = fit(going_on(tmp_path / "run", houses(150, 2), Regression("age"), freeze="shared", encoder=own(1)))
    assert unchanged(added, first) == set(weights_parts(first))


# ----------------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder": Table(width=16, depth=2)}, "warm_start: encoder.width is 16, but 12 in the earlier run. Give its encoder"),
        ({"encoder": "tabm"}, "warm_start: encoder.kind is 'tabm', but 'table' in the earlier run"),
        ({"sharing": Hard()}, "warm_start: sharing.stages is None, but 1 in the earlier run. Give its sharing"),
        ({"drop": ["lot"]}, "source 'new': column 'lot' is dropped, but it is an input of the earlier run"),
        ({"tasks": [Regression("lot")]}, "source 'new': column 'lot' labels task 'lot', but it is an input of the earlier run"),
        ({"split": {"group": "suburb"}}, "column 'suburb' says which rows belong together, but it is an input"),
        ({"columns": {"rooms": "category"}}, "columns: 'rooms' is a number in the earlier run. Found: category."),
        ({"warm_start": {"run": "nowhere"}}, "nowhere: no such run folder"),
        ({"warm_start": {"run": "nowhere", "freeze": "all"}}, "warm_start.freeze"),
        ({"warm_start": {"freeze": "shared"}}, "WarmStart needs 'run'. Give 'run'."),
    ],
)
def test_mistakes_are_told(folder: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        fit(going_on(folder, houses(100, 4), **fields))
    assert message in str(caught.value)


def test_a_missing_column_is_told(folder: Path) -> None:
    with pytest.raises(PolytaskError, match=r"source 'new': 1 input column is missing: 'lot'\. Did you mean 'lots'\?"):
        fit(going_on(folder, houses(100, 4).rename(columns={"lot": "lots"})))
    source = Frame(houses(100, 4), inputs=("rooms", "suburb"), name="new")
    with pytest.raises(
        PolytaskError, match="column 'lot' is not among the inputs of its source, but it is an input of the ear"
    ):
        fit(going_on(folder, None, sources=[source]))


def test_nothing_to_train_is_told(folder: Path) -> None:
    with pytest.raises(PolytaskError, match=r"warm_start.freeze: nothing would be trained: all tasks are the earlier run's\. "):
        fit(going_on(folder, houses(100, 4), freeze="everything"))


def test_a_scheme_that_does_not_part_its_tasks_is_told(tmp_path: Path) -> None:
    parts = {"sharing": Sharing.coerce("two_branch")}
    fit(asked(None, Regression("price"), drop=["id", "age"], **parts), tmp_path / "run")
    rows = houses(100, 4)
    fit(going_on(tmp_path / "run", rows, Regression("age"), freeze="shared", **parts))
    fit(asked(None, Regression("price"), Binary("waterfront"), drop=["id", "age"], **parts), tmp_path / "both")
    turned = [Regression("age"), Regression("price"), Binary("waterfront")]
    with pytest.raises(PolytaskError, match="sharing two_branch: the answers of 'price', 'waterfront' depend on which other"):
        fit(going_on(tmp_path / "both", rows, *turned, freeze="everything", **parts))


def test_the_rows_of_the_run_split_otherwise_are_told(folder: Path) -> None:
    rows = houses(200)
    told = "the rows of 'new' are those of the earlier run, split otherwise"
    other = fit(going_on(folder, rows, *TASKS, Regression("age"), freeze="shared"))
    assert any(note.startswith(told) for note in other.record["notes"])
    alike = fit(going_on(folder, rows, *TASKS, Regression("age"), split={"stratify": ("price", "waterfront")}))
    assert not any("split otherwise" in note for note in alike.record["notes"])


# ------------------------------------------------------------------------------------------------- on disk, and afterwards


def stop_at(n_epochs: int) -> Any:
    def on_epoch(epoch: Epoch) -> None:
        if epoch.epoch == n_epochs:
            signal.raise_signal(signal.SIGTERM)

    return on_epoch


@pytest.mark.parametrize("freeze", FREEZES)
def test_a_stopped_one_goes_on_bit_for_bit(freeze: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    houses(200).to_csv(tmp_path / "houses.csv", index=False)
    houses(150, 4).to_csv(tmp_path / "new.csv", index=False)
    monkeypatch.chdir(tmp_path)
    fit(asked(CSV("houses.csv"), drop=["id", "age"]), "run")
    recipe = going_on(Path("run"), CSV("new.csv"), Regression("age"), freeze=freeze, balancer="dwa")
    whole = fit(recipe, "whole")
    with pytest.raises(Stopped):
        fit(recipe, "stopped", on_epoch=stop_at(1))
    monkeypatch.chdir("/")
    (tmp_path / "run").rename(tmp_path / "away")
    with pytest.raises(
        PolytaskError, match=r"warm_start, run .*run: no such run folder\. .* must be there until it is finished"
    ):
        resume(tmp_path / "stopped")
    fit(asked(CSV(tmp_path / "houses.csv"), drop=["id", "age"], seed=5), tmp_path / "run")
    with pytest.raises(PolytaskError, match=r"the data of '.*run' changed since this training began"):
        resume(tmp_path / "stopped")
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "away").rename(tmp_path / "run")
    again = resume(tmp_path / "stopped")
    assert all(torch.equal(value, weights(again)[key]) for key, value in weights(whole).items())
    assert again.record["warm_start"] == whole.record["warm_start"] == load(tmp_path / "whole").record["warm_start"]
    assert again.record["warm_start"]["run"] == str(tmp_path / "run")
    assert Recipe.from_yaml(tmp_path / "whole" / "recipe.yaml").warm_start == WarmStart(run=tmp_path / "run", freeze=freeze)


def test_it_may_take_the_place_of_the_run_it_began_from(tmp_path: Path) -> None:
    fit(asked(drop=["id", "age"]), tmp_path / "run")
    recipe = going_on(tmp_path / "run", houses(150, 4), Regression("age"), freeze="shared")
    with pytest.raises(Stopped):
        fit(recipe, tmp_path / "run", overwrite=True, on_epoch=stop_at(1))
    assert list(load(tmp_path / "run").bundle.tasks) == ["price", "waterfront"]
    resume(tmp_path / "run", recipe)
    assert list(load(tmp_path / "run").bundle.tasks) == ["price", "waterfront", "age"]


def test_it_is_not_compared_and_can_be_cross_validated(folder: Path) -> None:
    recipe = going_on(folder, houses(120, 4), *TASKS)
    with pytest.raises(PolytaskError, match=r"compare: a run that began with the weights of another cannot be compared"):
        fit(recipe).compare(1)
    scores = cross_validate(going_on(folder, houses(120, 4), Regression("age"), freeze="everything"), 2)
    assert list(scores.tasks) == ["age"]
