"""Tasks that read tasks: what their heads are handed, what that trains, and where it goes with the networks."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from polytask import Frame, PolytaskError, Recipe, Stopped, Table, fit, load, resume
from polytask.batch import Batch
from polytask.evaluation.trials import compare
from polytask.fitting import train_bundle
from polytask.gradients.balance import Balance
from polytask.gradients.graph import Graph
from polytask.heads.mlp import MLP
from polytask.model import MultiTaskModel, Snapshots, build_model, mean_losses
from polytask.preparation import prepare
from polytask.reading import Reading
from polytask.recipe import changed
from polytask.sharing import module_key
from polytask.task import Task
from polytask.training import Epoch

N_ROWS = 96
QUICK = {"epochs": 2, "batch_size": 32, "device": "cpu"}
GRADE: dict[str, Any] = {"kind": "multiclass", "name": "grade"}
PRICE: dict[str, Any] = {"kind": "regression", "name": "price"}
SOLD: dict[str, Any] = {"kind": "binary", "name": "sold"}


def rows() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, N_ROWS))
    grade = np.where(a > 0.5, "high", np.where(a > -0.5, "middle", "low"))
    return pl.DataFrame({"a": a, "b": b, "c": c, "grade": grade, "price": 3 * a + b, "sold": (b > 0).astype(int)})


def recipe(*tasks: Any, table: pl.DataFrame | None = None, **fields: Any) -> Recipe:
    settings: dict[str, Any] = {"encoder": Table(width=8, depth=1, embedding="plain"), "trainer": QUICK, **fields}
    return Recipe(sources=[Frame(rows() if table is None else table, name="houses")], tasks=tasks, **settings)


def reading(task: Mapping[str, Any], depends_on: Any) -> dict[str, Any]:
    return {**task, "depends_on": depends_on}


def built(asked: Recipe) -> tuple[MultiTaskModel, Batch]:
    """A network with its initial weights, in evaluation mode, and a batch."""
    prepared = prepare(asked)
    codecs = [part.codec for part in prepared.inputs]
    model = build_model(asked.encoder, asked.sharing, asked.head, codecs, prepared.tasks).eval()
    return model, next(prepared.training.batches(16))


def nudged(model: MultiTaskModel, task: str) -> None:
    """Let a task say something else."""
    with torch.no_grad():
        for name, parameter in model.heads[module_key(task)].named_parameters():
            if name.endswith("bias"):
                parameter += torch.linspace(0.5, 1, parameter.numel()).view_as(parameter)


def test_it_is_written_in_three_ways() -> None:
    whole = {"grade": Reading(), "sold": Reading(what="state", gradient=True)}
    assert Task.coerce(reading(PRICE, "grade")).depends_on == {"grade": Reading()}
    assert Task.coerce(reading(PRICE, ["grade", "sold"])).depends_on == {"grade": Reading(), "sold": Reading()}
    longer = {"grade": None, "sold": {"what": "state", "gradient": True}}
    assert Task.coerce(reading(PRICE, longer)).depends_on == whole
    assert Task.coerce(Task.coerce(reading(PRICE, longer)).to_dict()).depends_on == whole
    fields = changed({"tasks": [GRADE, PRICE]}, ["tasks.price.depends_on=grade"])
    assert Task.coerce(fields["tasks"][1]).reads == ("grade",)
    fields = changed(fields, ["tasks.price.depends_on={grade: state}"])
    assert Task.coerce(fields["tasks"][1]).depends_on["grade"].what == "state"


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([GRADE, reading(PRICE, "grad")], "task 'price', depends_on: no task 'grad'. Did you mean 'grade'"),
        ([reading(PRICE, "price")], "task 'price', depends_on: a task cannot read itself"),
        (
            [reading(GRADE, "price"), reading(PRICE, "sold"), reading(SOLD, ["grade"])],
            "they read one another in a circle. Found: .*'grade' reads 'price' reads 'sold'",
        ),
        ([GRADE, reading(PRICE, 3)], "depends_on: not tasks that can be read. Found: 3. Write depends_on: "),
        ([GRADE, reading(PRICE, {"grade": "stat"})], "depends_on.what: .*'estimate' or 'state'. Found: 'stat'"),
        ([GRADE, reading(PRICE, {"grade": {"gradiant": True}})], "Reading has no field 'gradiant'. Did you mean 'gradient'"),
    ],
)
def test_mistakes_are_told(tasks: list[Any], message: str) -> None:
    with pytest.raises(PolytaskError, match=message):
        recipe(*tasks)


def test_the_head_reads_the_estimate_beside_its_features() -> None:
    model, batch = built(recipe(GRADE, reading(PRICE, "grade")))
    outputs = model(batch.inputs)
    features = model.trunk(batch.inputs, ["price"])["price"][-1].tensor
    layer: Any = model.heads[module_key("price")].get_submodule("network")
    torch.testing.assert_close(outputs["price"], layer(torch.cat([features, outputs["grade"].softmax(1)], 1)))
    torch.testing.assert_close(model(batch.inputs, ["price"])["price"], outputs["price"])


def test_a_state_is_what_the_last_layer_sees() -> None:
    for head, width in ((MLP(hidden=(5, 3)), 3), ("linear", 8), ("early_head", 8)):
        model, batch = built(recipe({**GRADE, "head": head}, reading(PRICE, {"grade": "state"})))
        features = model.trunk(batch.inputs, ["grade"])["grade"]
        state, read = features[-1].tensor, model.heads[module_key("grade")]
        if isinstance(head, MLP):
            layers: Any = read.get_submodule("network")
            state = layers[:-1](state)
        layer: Any = model.heads[module_key("price")].get_submodule("network")
        assert layer.in_features == 8 + width
        expected = layer(torch.cat([features[-1].tensor, state], 1))
        torch.testing.assert_close(model(batch.inputs)["price"], expected)


@pytest.mark.parametrize("encoder", [{"kind": "table", "width": 8}, "toy_conv", "toy_lstm", "ensemble", "series_ensemble"])
def test_any_head_on_any_features_reads(encoder: Any) -> None:
    series = np.random.default_rng(0).normal(size=(N_ROWS, 5))
    table = rows().select("grade", "price", "sold").with_columns(pl.Series(f"t{i}", series[:, i]) for i in range(5))
    for head in ("linear", "early_head", MLP(hidden=(16,))):
        tasks = [{**GRADE, "head": head}, {**reading(PRICE, {"grade": "state", "sold": None}), "head": head}, SOLD]
        asked = recipe(*tasks, table=table, encoder=encoder)
        model, batch = built(asked)
        before = model(batch.inputs)
        nudged(model, "sold")
        after = model(batch.inputs)
        assert torch.equal(before["grade"], after["grade"])
        assert (before["price"] != after["price"]).double().mean() > 0.5  # a ReLU may be dead
    assert fit(asked).history[-1]["training"]["price"] < 2


def assert_same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(value, right[key]) for key, value in left.items())


def test_chains_are_computed_in_their_order_and_answered_alone() -> None:
    run = fit(recipe(reading(SOLD, "price"), reading(PRICE, {"grade": None}), GRADE))
    table = rows()
    assert list(run.predict(table, ["sold"]).columns) == ["sold"]
    assert run.predict(table, ["sold"], probabilities=True).equals(
        run.predict(table, probabilities=True).select("sold", "sold:0", "sold:1")
    )


def test_without_a_gradient_the_task_that_is_read_learns_nothing_of_it() -> None:
    for gradient in (False, True):
        model, batch = built(recipe(GRADE, reading(PRICE, {"grade": {"gradient": gradient}}), SOLD))
        model.train()
        parameters = dict(model.named_parameters())
        reached = Graph(model.losses(batch), parameters.values()).reached
        mine = [place for place, name in enumerate(parameters) if module_key("grade") in name]
        assert reached[batch.tasks.index("price"), mine].all() == gradient
        assert not reached[batch.tasks.index("sold"), mine].any()
        balance = Balance(model, "upgrad")
        balance.survey(model.learned(batch.inputs))
        shared = {list(parameters)[key] for key in balance._reach.shared()}
        assert {name for name in parameters if module_key("grade") in name} <= shared or not gradient
        assert gradient or not any(module_key("grade") in name for name in shared)


@pytest.mark.parametrize("engine", ["exact", "features"])
@pytest.mark.parametrize("tasks", [(GRADE, PRICE), (GRADE, PRICE, SOLD)], ids=["two", "three"])
def test_a_read_head_is_weighted_as_what_is_shared(engine: str, tasks: tuple[Any, ...]) -> None:
    """The gradient is that of the weighted sum in all that two tasks reach, the head that is read among it."""
    grade, price, *rest = tasks
    model, batch = built(recipe(grade, reading(price, {"grade": {"gradient": True}}), *rest))
    named = dict(model.named_parameters())
    balance = Balance(model, {"kind": "upgrad", "gradients": engine})
    balance.backward(model.losses(batch))
    weights, losses = balance.weights, model.losses(batch)
    total = sum(weights[task] * loss for task, loss in losses.items())
    assert isinstance(total, Tensor)
    expected = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    both = [name for name in named if "trunk" in name or module_key("grade") in name]
    assert len({round(weight, 6) for weight in weights.values()}) > 1
    for (name, parameter), gradient in zip(named.items(), expected, strict=True):
        if name in both:
            torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("engine", ["exact", "features"])
def test_balancers_train_with_it(engine: str) -> None:
    asked = recipe(GRADE, reading(PRICE, {"grade": {"gradient": True}}), SOLD, balancer={"kind": "upgrad", "gradients": engine})
    assert fit(asked).scores()["price"].scores["r2"].value > -1


def hidden(table: pl.DataFrame, column: str) -> pl.DataFrame:
    return table.with_columns(pl.lit(None, table[column].dtype).alias(column))


def test_a_hidden_reader_changes_no_weight_and_a_hidden_task_is_read() -> None:
    reader = {**reading(SOLD, {"grade": {"gradient": True}}), "classes": [0, 1]}
    two = recipe(GRADE, PRICE, table=rows().drop("sold"))
    with_hidden = recipe(GRADE, PRICE, reader, table=hidden(rows(), "sold"), unlabeled="keep")
    alone, beside = (train_bundle(asked, prepare(asked))[0].model.state_dict() for asked in (two, with_hidden))
    assert_same(alone, {key: value for key, value in beside.items() if key in alone})
    asked = recipe(
        {**GRADE, "classes": ["low", "high"]}, reading(PRICE, "grade"), table=hidden(rows(), "grade"), unlabeled="keep"
    )
    assert fit(asked).history[-1]["training"].keys() == {"price"}


def test_a_task_is_read_in_rows_of_another_source() -> None:
    sources = [Frame(rows().drop("price"), name="one"), Frame(rows().drop("grade", "c"), name="two")]
    run = fit(recipe(GRADE, reading(PRICE, "grade"), SOLD).model_copy(update={"sources": tuple(sources)}))
    assert set(run.predict(rows().select("a", "b"), source="two").columns) == {"price", "sold"}


def test_weights_of_several_epochs_go_with_what_they_read(tmp_path: Path) -> None:
    trainer = {**QUICK, "epochs": 12, "best": "task", "optimizer": {"lr": 0.05}}
    asked = recipe(GRADE, reading(PRICE, {"grade": "state"}), reading(SOLD, "price"), trainer=trainer)
    prepared = prepare(asked)
    bundle, history = train_bundle(asked, prepared)
    assert isinstance(bundle.model, Snapshots)
    for network, own in zip(bundle.model.networks, bundle.manifest.snapshots, strict=True):
        for task, loss in mean_losses(network, prepared.validation.select(own.tasks)).items():  # type: ignore[arg-type]
            assert loss == pytest.approx(min(epoch.validation[task] for epoch in history), rel=1e-5)
    run = fit(asked, tmp_path / "run")
    table, again = rows(), load(tmp_path / "run")
    assert run.predict(table).equals(again.predict(table))
    assert again.recipe.tasks[2].depends_on == {"price": Reading()}
    with pytest.raises(PolytaskError, match=r"task 'sold': it reads 'price', which would not be kept\. Keep 'price' too"):
        again.keep("grade", "sold")
    kept = again.keep("grade", "price")
    assert kept.predict(table).equals(run.predict(table, ["grade", "price"]))
    kept.save(tmp_path / "kept")
    assert load(tmp_path / "kept").predict(table).equals(kept.predict(table))


def test_a_stopped_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    rows().write_csv(tmp_path / "houses.csv")
    tasks = [GRADE, reading(PRICE, {"grade": {"gradient": True}}), reading(SOLD, "price")]
    asked = Recipe(sources=[tmp_path / "houses.csv"], tasks=tasks, encoder=Table(width=8, dropout=0.2), trainer=QUICK)

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Stopped):
        fit(asked, tmp_path / "stopped", on_epoch=stop)
    whole, again = fit(asked, tmp_path / "whole"), resume(tmp_path / "stopped")
    assert_same(whole.bundle.model.state_dict(), again.bundle.model.state_dict())


def test_where_nothing_is_shared_tasks_end_with_what_they_read() -> None:
    trainer = {**QUICK, "epochs": 8, "optimizer": {"lr": 0.05}}
    asked = recipe(GRADE, reading(PRICE, "grade"), SOLD, sharing="separate", trainer=trainer)
    prepared = prepare(asked)
    bundle, history = train_bundle(asked, prepared)
    best = {task: epoch.epoch for epoch in history for task in epoch.best}
    assert best["grade"] == best["price"]
    assert isinstance(bundle.model, MultiTaskModel)
    for task, loss in mean_losses(bundle.model, prepared.validation).items():
        assert loss == pytest.approx(history[best[task] - 1].validation[task], rel=1e-5)
    without = recipe(GRADE, PRICE, SOLD, sharing="separate", trainer=trainer)
    alone = train_bundle(without, prepare(without))[0].model.state_dict()
    own = {key: value for key, value in bundle.model.state_dict().items() if module_key("sold") in key}
    assert_same(own, {key: value for key, value in alone.items() if module_key("sold") in key})
    with pytest.raises(PolytaskError, match="its loss would train 'grade' too, and separate shares nothing"):
        recipe(GRADE, reading(PRICE, {"grade": {"gradient": True}}), sharing="separate")


def test_alone_is_without_reading() -> None:
    asked = recipe(GRADE, reading(PRICE, "grade"))
    prepared = prepare(asked)
    alone, _ = train_bundle(asked, prepared, tasks=["price"])
    assert alone.tasks["price"].task.reads == ()
    plain = recipe(PRICE, table=rows().drop("grade"), split={"stratify": False})
    shapes = {key: value.shape for key, value in alone.model.state_dict().items()}
    assert shapes == {k: v.shape for k, v in train_bundle(plain, prepare(plain))[0].model.state_dict().items()}
    assert set(compare(asked, prepared, 1, trees=False).comparison.tasks) == {"grade", "price"}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose price reads grade."""
    place = tmp_path_factory.mktemp("first") / "run"
    fit(recipe(GRADE, reading(PRICE, "grade"), table=rows().drop("sold")), place)
    return place


def going_on(first: Path, *tasks: Any, freeze: str = "nothing", table: pl.DataFrame | None = None) -> Recipe:
    return recipe(*tasks, table=rows() if table is None else table, warm_start={"run": first, "freeze": freeze})


def test_a_reader_goes_on_with_what_it_reads(first: Path) -> None:
    table = rows().drop("sold")
    origin = prepare(going_on(first, GRADE, reading(PRICE, {"grade": {"gradient": True}}), table=table)).origin
    assert origin is not None
    assert origin.continued == {"grade", "price"}
    origin = prepare(going_on(first, GRADE, PRICE, table=table)).origin
    assert origin is not None
    assert origin.continued == {"grade"}
    other = {**GRADE, "class_weights": "balanced"}
    prepared = prepare(going_on(first, other, reading(PRICE, "grade"), table=table))
    assert prepared.origin is not None
    assert not prepared.origin.continued
    assert "task 'price' begins anew: it reads 'grade', which does" in prepared.notes
    fit(going_on(first, other, reading(PRICE, "grade"), table=table))


@pytest.mark.parametrize("freeze", ["shared", "everything"])
def test_a_new_task_reads_one_that_is_frozen(first: Path, freeze: str) -> None:
    run, before = fit(going_on(first, reading(SOLD, ["price", "grade"]), freeze=freeze)), load(first)
    table = rows()
    assert run.predict(table, ["grade", "price"]).equals(before.predict(table))
    assert run.history[-1]["training"].keys() == {"sold"}
    assert run.predict(table).columns == ["grade", "price", "sold"]
    with pytest.raises(PolytaskError, match=r"task 'sold', depends_on: no task 'prize'\. Did you mean 'price'"):
        prepare(going_on(first, reading(SOLD, "prize"), freeze=freeze))


def test_what_is_to_answer_as_before_reads_nothing_that_is_trained(first: Path) -> None:
    grade = {**GRADE, "name": "grade"}
    message = "task 'price' of the earlier run: it is to answer as before, and reads 'grade', which is trained"
    with pytest.raises(PolytaskError, match=message):
        prepare(going_on(first, grade, SOLD, freeze="shared"))
    fit(going_on(first, grade, SOLD, freeze="everything"))


def test_a_frozen_reader_of_another_epoch_answers_as_before(tmp_path: Path) -> None:
    trainer = {**QUICK, "epochs": 12, "best": "task", "optimizer": {"lr": 0.05}}
    table = rows()
    asked = recipe(GRADE, reading(PRICE, "grade"), table=table.drop("sold"), trainer=trainer)
    before = fit(asked, tmp_path / "run")
    assert len(before.bundle.manifest.snapshots) == 2
    run = fit(going_on(tmp_path / "run", reading(SOLD, "price"), freeze="everything"))
    assert run.predict(table, ["grade", "price"]).equals(before.predict(table))
