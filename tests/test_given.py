"""A task that is seen only where another says yes: its loss, its labels, its scores and its answers."""

from __future__ import annotations

from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional

from polytask import CSV, Binary, Frame, MultiTaskEstimator, PolytaskError, Recipe, Regression, Table, fit, load
from polytask.evaluation.trials import compare
from polytask.fitting import row_losses, train_bundle
from polytask.given import with_joint_labels
from polytask.gradients.graph import Graph
from polytask.model import build_model, mean_losses, outputs_on
from polytask.preparation import prepare
from polytask.sharing import module_key

N_ROWS = 200
QUICK = {"epochs": 2, "batch_size": 64, "device": "cpu"}
CLICK, CONVERSION = Binary("click"), Binary("conversion", given="click")


def rows(n: int = N_ROWS, seed: int = 0) -> pl.DataFrame:
    """A conversion only after a click."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, n))
    click = rng.random(n) < 1 / (1 + np.exp(-a))
    conversion = click & (rng.random(n) < 1 / (1 + np.exp(-b)))
    return pl.DataFrame({"a": a, "b": b, "click": click.astype(int), "conversion": conversion.astype(int)})


def recipe(table: pl.DataFrame, *tasks: Any, **fields: Any) -> Recipe:
    settings: dict[str, Any] = {"encoder": Table(width=8, depth=1, embedding="plain"), "trainer": QUICK, **fields}
    return Recipe(sources=[Frame(table, name="ads")], tasks=tasks or (CLICK, CONVERSION), **settings)


def test_the_loss_is_that_of_the_paper() -> None:
    """Equation 3: the loss of clicks, and of clicks with a conversion, whose probability is the product, over all rows."""
    asked = recipe(rows(), split={"validation": 0, "test": 0})
    prepared = prepare(asked)
    model = build_model(asked.encoder, asked.sharing, asked.head, [prepared.inputs[0].codec], prepared.tasks).eval()
    data = with_joint_labels(prepared.training, asked.tasks)
    outputs = model(data.inputs)
    p, q = (torch.sigmoid(outputs[task].double()[:, 0]) for task in ("click", "conversion"))
    y, z = (data.targets[task].double() for task in ("click", "conversion"))
    assert data.present["conversion"].all()
    assert torch.equal(z, torch.tensor(rows()["conversion"].to_list()).double())
    sums = {
        "click": functional.binary_cross_entropy(p, y),
        "conversion": functional.binary_cross_entropy(p * q, z),
    }
    rates = {"click": float(y.mean()), "conversion": float(z.mean())}
    losses = model.losses(data.batch(torch.arange(N_ROWS)))
    for task, rate in rates.items():
        constant = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
        assert losses[task].item() == pytest.approx(sums[task].item() / constant, rel=1e-5)
    parameters = dict(model.named_parameters())
    reached = Graph(losses, parameters.values()).reached
    head = [place for place, name in enumerate(parameters) if module_key("click") in name]
    assert reached[:, head].all()


@pytest.mark.parametrize("own", [-100.0, -1.0, 0.0, 30.0, 100.0])
@pytest.mark.parametrize("given", [-100.0, 2.0, 100.0])
def test_the_product_is_exact_for_large_logits(own: float, given: float) -> None:
    a, b = (torch.tensor([[value]], requires_grad=True) for value in (own, given))
    joint = CONVERSION.joint(a, b)
    with localcontext() as context:
        context.prec = 200
        odds = 1 / (Decimal(-own).exp() + Decimal(-given).exp() + Decimal(-own - given).exp())
        exact = {1: float((1 + 1 / odds).ln()), 0: float((1 + odds).ln())}
        p, q = (1 / (1 + Decimal(-value).exp()) for value in (own, given))
        slopes = {1: (float(p - 1), float(q - 1)), 0: (float(odds * (1 - p)), float(odds * (1 - q)))}
    for label, loss in exact.items():
        found = CONVERSION.row_losses(joint, torch.tensor([label]))
        assert found.item() == pytest.approx(loss, rel=1e-5, abs=1e-37)
        gradients = torch.autograd.grad(found.sum(), [a, b], retain_graph=True)
        assert [float(gradient) for gradient in gradients] == pytest.approx(slopes[label], rel=1e-4, abs=1e-37)


def test_labels_that_are_0_or_missing_without_a_click_are_the_same() -> None:
    table = rows()
    words = table.with_columns(pl.col("conversion").replace_strict({0: "no", 1: "yes"}))
    missing = table.with_columns(pl.when(pl.col("click") == 1).then(pl.col("conversion")))
    histories = [train_bundle(recipe(each), prepare(recipe(each)))[1] for each in (table, missing, words)]
    losses = [[epoch.validation for epoch in history] for history in histories]
    assert losses[0] == losses[1] == losses[2]


def test_rows_count_where_it_is_known_whether_both_are_so() -> None:
    table = rows().with_columns(
        click=pl.when(pl.int_range(N_ROWS) % 5 > 0).then(pl.col("click")),
        conversion=pl.when(pl.int_range(N_ROWS) % 7 > 0).then(pl.col("conversion")),
        weight=(pl.int_range(N_ROWS) % 3).cast(pl.Float64),
    )
    tasks = (CLICK, CONVERSION.model_copy(update={"weight_column": "weight"}))
    prepared = prepare(recipe(table, *tasks, split={"validation": 0, "test": 0}))
    joint = with_joint_labels(prepared.training, tasks)
    click, conversion, weight = (table[name].to_numpy() for name in ("click", "conversion", "weight"))
    labeled = ~np.isnan(click) | (~np.isnan(click) & ~np.isnan(conversion))
    known = ((click == 0) | ((click == 1) & ~np.isnan(conversion))) & (weight > 0)
    assert joint.present["conversion"].tolist() == known[labeled].tolist()
    assert joint.targets["conversion"][joint.present["conversion"]].sum() == np.nansum((conversion * (click == 1))[known])
    seen = (click == 1) & ~np.isnan(conversion) & (weight > 0)
    assert prepared.training.present["conversion"].tolist() == seen[labeled].tolist()
    lost = int((np.isnan(click) & ~np.isnan(conversion) & (weight > 0)).sum())
    assert f"{lost} labels of 'conversion' are not used: there is no label of 'click'" in prepared.notes[0]


def test_a_conversion_without_a_click_is_told_by_its_rows(tmp_path: Path) -> None:
    table = rows().with_columns(click=pl.when(pl.int_range(N_ROWS).is_in([3, 8])).then(0).otherwise("click"))
    table = table.with_columns(conversion=pl.when(pl.int_range(N_ROWS).is_in([3, 8])).then(1).otherwise("conversion"))
    table.write_csv(tmp_path / "ads.csv")
    message = r"2 labels are yes where the label of 'click' is no.* 1 in row 4 of ads, 1 in row 9 of ads"
    with pytest.raises(PolytaskError, match=message):
        prepare(recipe(rows()).model_copy(update={"sources": (CSV(tmp_path / "ads.csv"),)}))
    with pytest.raises(PolytaskError, match="are yes where the label of 'click' is no"):
        fit(recipe(rows())).evaluate(table)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ((Regression("a"), Binary("conversion", given="a")), "task 'conversion', given: 'a' is no yes or no"),
        ((CLICK, Binary("conversion", given="clicks")), "task 'conversion', given: no task 'clicks'. Did you mean 'click'"),
        ((Binary("click", given="conversion"), CONVERSION), "they read one another in a circle"),
    ],
)
def test_mistakes_are_told(tasks: Any, message: str) -> None:
    with pytest.raises(PolytaskError, match=message):
        recipe(rows(), *tasks)


def test_more_mistakes_are_told() -> None:
    with pytest.raises(PolytaskError, match="class_weights: its loss is of both tasks together"):
        Binary("conversion", given="click", class_weights="balanced")
    with pytest.raises(PolytaskError, match="would train 'click' too, and separate shares nothing"):
        recipe(rows(), sharing="separate")
    apart = (Frame(rows().drop("click"), name="one"), Frame(rows().drop("conversion"), name="two"))
    with pytest.raises(PolytaskError, match="no row has labels of both it and 'click'"):
        prepare(recipe(rows()).model_copy(update={"sources": apart}))


def test_it_is_scored_where_it_is_seen_and_answers_with_both(tmp_path: Path) -> None:
    run = fit(recipe(rows(), trainer={**QUICK, "epochs": 6, "best": "task"}), tmp_path / "run")
    new = rows(300, seed=1)
    scores = load(tmp_path / "run").evaluate(new)
    clicks = int(new["click"].sum())
    assert (scores["click"].n_rows, scores["conversion"].n_rows) == (300, clicks)
    assert set(run.evaluate(new.drop("conversion"))) == {"click"}
    with pytest.raises(PolytaskError, match=r"no label column.*Needed: click, conversion"):
        run.evaluate(new.drop("click"))
    answers = run.predict(new.select("a", "b"), probabilities=True)
    names = ["click", "click:0", "click:1", "conversion", "conversion:0", "conversion:1", "conversion:joint"]
    assert answers.columns == names
    np.testing.assert_allclose(answers["conversion:joint"], answers["click:1"] * answers["conversion:1"])
    only = run.predict(new.select("a", "b"), ["conversion"], probabilities=True)
    assert only.equals(answers.select(names[3:]))
    with pytest.raises(PolytaskError, match="it reads 'click', which would not be kept"):
        run.keep("conversion")


def test_an_estimator_scores_it_where_it_is_seen() -> None:
    table = rows().to_pandas()
    inputs, labels = table[["a", "b"]], table[["click", "conversion"]]
    estimator = MultiTaskEstimator([CLICK, CONVERSION], encoder=Table(width=8, depth=1), trainer=QUICK)
    answers = estimator.fit(inputs, labels).predict(inputs)
    clicked = labels["click"] == 1
    right = [(answers["click"] == labels["click"]).mean(), (answers["conversion"] == labels["conversion"])[clicked].mean()]
    assert estimator.score(inputs, labels) == pytest.approx(np.mean(right))
    assert [share.shape for share in estimator.predict_proba(inputs)] == [(N_ROWS, 2), (N_ROWS, 2)]


def test_a_chain_is_the_product_of_all() -> None:
    table = rows(400)
    paid = np.where(np.arange(400) % 3 == 0, 0, table["conversion"].to_numpy())
    tasks = (Binary("paid", given="conversion"), CONVERSION, CLICK)
    asked = recipe(table.with_columns(paid=pl.Series(paid)), *tasks, encoder="ensemble", balancer="upgrad")
    prepared = prepare(asked)
    assert prepared.notes == ()
    wrong = table.with_columns(paid=pl.Series(np.where(table["click"].to_numpy() == 0, 1, paid)))
    with pytest.raises(PolytaskError, match=r"task 'paid', .* yes where the label of 'conversion' is no"):
        prepare(recipe(wrong, *tasks))
    bundle, _ = train_bundle(asked, prepared)
    joint = with_joint_labels(prepared.training, tasks)
    assert joint.present["paid"].all()
    said = outputs_on(bundle.model, joint)
    shares = {name: torch.sigmoid(output.double()).squeeze(-1) for name, output in said.items()}
    product = (shares["paid"] * shares["conversion"] * shares["click"]).mean(1)  # members answer with their mean
    rate = joint.targets["paid"].double().mean()
    constant = functional.binary_cross_entropy(rate.expand(len(product)), joint.targets["paid"].double())
    loss = functional.binary_cross_entropy(product, joint.targets["paid"].double()) / constant
    assert mean_losses(bundle.model, joint)["paid"] == pytest.approx(float(loss), rel=1e-5)  # type: ignore[arg-type]


def test_alone_it_learns_from_the_rows_where_it_is_seen() -> None:
    asked = recipe(rows())
    prepared = prepare(asked)
    alone, _ = train_bundle(asked, prepared, tasks=["conversion"])
    assert alone.tasks["conversion"].task.seen_where is None
    clicks = int(prepared.test.present["conversion"].sum())
    assert len(row_losses(alone, prepared.test.select(["conversion"]))["conversion"]) == clicks
    verdicts = {task.task: task for task in compare(asked, prepared, 1, trees=False).comparison["run"].verdicts}
    assert 0.5 < verdicts["conversion"].alone < 2
    assert 0.5 < verdicts["conversion"].together < 2


def test_it_is_nearer_to_the_truth_than_learning_from_clicks_alone() -> None:
    """Clicks choose the good items, of which most conversions are; what is learned of clicks tells of the others too."""
    rng = np.random.default_rng(0)
    quality, item, x = rng.normal(size=60), rng.integers(60, size=4000), rng.normal(size=4000)
    click = rng.random(4000) < 1 / (1 + np.exp(1.5 - 1.5 * quality[item] - 0.5 * x))
    truth = 1 / (1 + np.exp(0.5 - 1.5 * quality[item] + x))
    conversion = click & (rng.random(4000) < truth)
    table = pl.DataFrame({"item": [f"i{i}" for i in item], "x": x, "click": click, "conversion": conversion})
    trainer = {"epochs": 12, "batch_size": 256, "device": "cpu", "optimizer": {"lr": 0.02}}
    encoder = Table(width=32, depth=1, embedding="plain")
    whole = fit(recipe(table, encoder=encoder, trainer=trainer))
    clicks = table.filter(pl.col("click")).drop("click")
    naive = fit(recipe(clicks, Binary("conversion"), encoder=encoder, trainer=trainer))
    found = [run.predict(table, probabilities=True)["conversion:true"].to_numpy() for run in (whole, naive)]
    errors = [float(np.mean((each - truth) ** 2)) for each in found]
    assert errors[0] < 0.6 * errors[1]
