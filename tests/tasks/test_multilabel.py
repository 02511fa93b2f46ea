from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import log_loss
from torch.nn import functional

import polytask
from polytask.errors import PolytaskError
from polytask.fitted import FittedTask
from polytask.recipe import Recipe
from polytask.task import Task
from polytask.tasks.binary import Binary
from polytask.tasks.multilabel import Multilabel
from polytask.testing import check_task

TAGS = ["red, round", "round", None, "", "red", "big ,red"]


def fitted(labels: Sequence[object], **fields: object) -> FittedTask:
    return FittedTask.fit(Multilabel("tags", **fields), pa.array(labels))


def complaint(labels: Sequence[object], **fields: object) -> str:
    with pytest.raises(PolytaskError) as caught:
        fitted(labels, **fields)
    return str(caught.value)


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        (Multilabel("y"), TAGS),
        (Multilabel("y", separator=" "), TAGS),
        (Multilabel("y", labels=("round", "red", "big")), TAGS),
        (Multilabel("y", columns=("a", "b")), ["1,0", "0,1", None, "1,", ",0", "1,1"]),
        (Multilabel("y", columns=("a",)), ["1", "0", None, "1"]),
        (Multilabel("y", focal=2.0, class_weights="balanced", threshold="f1"), TAGS),
        (Multilabel("y", columns=("a", "b"), threshold="balanced_accuracy"), ["1,0", "0,1", None, "1,", ",0", "1,1"]),
    ],
)
def test_a_variant_keeps_the_contract(task: Task, labels: list[object]) -> None:
    check_task(task, labels)


def test_the_labels_of_a_text() -> None:
    task = fitted(TAGS)
    assert task.codec.labels == ("big", "red", "round")
    target, present = task.task.encode(pa.array(TAGS), task.codec)
    assert target.tolist() == [[0, 1, 1], [0, 0, 1], [-1, -1, -1], [0, 0, 0], [0, 1, 0], [1, 1, 0]]
    assert present.tolist() == [True, True, False, True, True, True]
    answer = task.task.answer(task.views(torch.tensor([[-1.0, 2.0, 2.0], [-1.0, -1.0, -1.0]])), task.codec, probabilities=True)
    assert answer["tags"].to_pylist() == ["red,round", ""]
    assert list(answer) == ["tags", "tags:big", "tags:red", "tags:round"]


def test_columns_of_zeros_and_ones_are_read_as_one() -> None:
    table = pa.table({"a": [1, 0, None, None], "b": [1.0, float("nan"), 0.0, None], "c": [True, False, True, None]})
    task = Multilabel("y", columns=("a", "b", "c"))
    column = task.labels_of(table)
    assert column.to_pylist() == ["1,1,1", "0,,0", ",0,1", None]
    target, present = task.encode(column, task.fit_target(column))
    assert target.tolist() == [[1, 1, 1], [0, -1, 0], [-1, 0, 1], [-1, -1, -1]]
    assert present.tolist() == [True, True, True, False]


def test_the_null_loss_is_the_mean_entropy_of_the_labels() -> None:
    target = np.array([[0, 1, 1], [0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 0]])
    entropies = [log_loss(column, [column.mean()] * 5) for column in target.T]
    assert fitted(TAGS).codec.null_loss == pytest.approx(np.mean(entropies), rel=1e-6)


def test_an_unknown_label_has_no_loss_and_no_gradient() -> None:
    output = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    losses = Multilabel("y").row_losses(output, torch.tensor([[1, -1, 0], [-1, 1, -1]]))
    (gradient,) = torch.autograd.grad(losses.sum(), output)
    assert gradient[[0, 1, 1], [1, 0, 2]].tolist() == [0, 0, 0]
    alone = functional.binary_cross_entropy_with_logits(output[1, 1], torch.tensor(1.0))
    assert losses[1].item() == pytest.approx(alone.item())


def test_lists_of_words_are_read() -> None:
    table = pa.table({"tags": [["red", "round"], None, [], ["red"]]})
    assert Multilabel("tags").labels_of(table).to_pylist() == ["red,round", None, "", "red"]


def test_balanced_rows_with_a_label_weigh_as_much_as_those_without() -> None:
    task = fitted(TAGS, class_weights="balanced")
    assert task.codec.class_weights == pytest.approx((4.0, 2 / 3, 1.5)), "of 5 rows 1, 3 and 2 have big, red and round"
    assert task.codec.start == pytest.approx((0.0, 0.0, 0.0), abs=1e-6), "so the best constant is undecided"
    target, _ = task.task.encode(pa.array(["big", ""]), task.codec)
    output = torch.tensor([[1.0, -2.0, 0.5], [1.0, -2.0, 0.5]])
    peer = functional.binary_cross_entropy_with_logits(
        output, target.float(), pos_weight=torch.tensor(task.codec.class_weights), reduction="none"
    )
    torch.testing.assert_close(task.losses(output, target), peer.mean(1))


def test_weights_of_labels_may_be_given() -> None:
    assert fitted(TAGS, class_weights={"red": 3}).codec.class_weights == (1.0, 3.0, 1.0)
    assert complaint(TAGS, class_weights={"rd": 3}) == "task 'tags', class_weights: no class 'rd'. Did you mean 'red'?"
    with pytest.raises(PolytaskError, match="a loss of your own gives one value"):
        Multilabel("y", class_weights="balanced", loss=lambda output, target: output.sum(1))


def test_the_focal_loss_of_one_label_is_that_of_a_binary_task() -> None:
    output, target = torch.tensor([[0.3], [-1.0], [2.0]]), torch.tensor([1, 1, 0])
    ours = Multilabel("y", focal=1.5).row_losses(output, target.unsqueeze(1))
    torch.testing.assert_close(ours, Binary("y", focal=1.5).row_losses(output, target))


def test_each_label_gets_the_threshold_that_is_best_for_it() -> None:
    task = fitted(["a", "b", "a, b", "", None], threshold="f1")
    assert task.codec.thresholds == (0.5, 0.5)
    probability = torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6], [0.9, 0.1]])
    target = torch.tensor([[0, 1], [0, 1], [1, 0], [1, 0], [-1, -1]])
    tuned = task.tuned(torch.logit(probability), target)
    assert tuned.codec.thresholds == pytest.approx((0.25, 0.75))
    said = tuned.views(torch.logit(probability[:4]))["label"]
    assert said.tolist() == target[:4].tolist()
    unknown = task.tuned(torch.logit(probability[4:]), target[4:])
    assert unknown.codec.thresholds == (0.5, 0.5), "no row tells"
    assert fitted(TAGS, threshold=0.2).codec.thresholds == (0.2, 0.2, 0.2)


def test_mistakes_are_told() -> None:
    where = "task 'tags', column 'tags': "
    assert complaint(["a", "a", None]).startswith(where + "every label is the same in all training rows")
    assert complaint(["", None]).startswith(where + "no label in the training rows")
    task = fitted(TAGS)
    with pytest.raises(PolytaskError) as caught:
        task.task.encode(pa.array(["red", "roud, red", "roud"]), task.codec)
    assert str(caught.value) == (
        "task 'tags', column 'tags': 2 labels are not among those of the training rows. Found: 'roud' in row 2. "
        "Did you mean 'round'? Mend or drop these rows, or give the task all its labels."
    )
    with pytest.raises(PolytaskError, match=r"1 label is neither 0 nor 1. Found: 2 in row 2"):
        Multilabel("y", columns=("a",)).labels_of(pa.table({"a": [1, 2]}))
    with pytest.raises(PolytaskError, match="columns are the labels already"):
        Multilabel("y", columns=("a",), labels=("b",))
    with pytest.raises(PolytaskError, match="twice"):
        Multilabel("y", columns=("a", "a"))


def test_it_is_learned_from_files_and_saved(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 400))
    marks = {"warm": x > 0, "wet": z > 0.5}
    tags = [";".join(name for name in marks if marks[name][i]) or "none" for i in range(400)]
    cells = {name: np.where(rng.random(400) < 0.2, "", values.astype(int).astype(str)) for name, values in marks.items()}
    rows = zip(x, z, cells["warm"], cells["wet"], tags, strict=True)
    lines = ["x,z,warm,wet,tags", *(f"{a:.4f},{b:.4f},{c},{d},{tag}" for a, b, c, d, tag in rows)]
    (tmp_path / "days.csv").write_text("\n".join(lines))
    tasks = [Multilabel("weather", columns=("warm", "wet"), metrics=("f1", "f1:*")), Multilabel("tags", separator=";")]
    recipe = Recipe(sources=[str(tmp_path / "days.csv")], tasks=tasks, trainer={"epochs": 8}, encoder={"kind": "table"})
    run = polytask.fit(Recipe.from_yaml_text(recipe.to_yaml()), tmp_path / "run")
    scores = run.scores()["weather"].scores
    assert list(scores) == ["f1", "f1:warm", "f1:wet"]
    assert min(score.value for score in scores.values()) > 0.85
    assert run.scores()["tags"].scores["roc_auc"].value > 0.9
    again = polytask.load(tmp_path / "run")
    answers = again.predict(pa.table({"x": [2.0, -2.0], "z": [-2.0, 2.0]}), probabilities=True)
    assert answers["weather"].to_pylist() == ["warm", "wet"]
    assert "weather:warm" in answers.column_names
    assert again.evaluate(str(tmp_path / "days.csv"))["weather"].n_rows == sum((cells["warm"] != "") | (cells["wet"] != ""))


def test_a_missing_column_of_several_is_named(tmp_path: Path) -> None:
    (tmp_path / "days.csv").write_text("x,warm\n1,0\n2,1\n")
    recipe = Recipe(sources=[str(tmp_path / "days.csv")], tasks=[Multilabel("weather", columns=("warm", "wet"))])
    with pytest.raises(PolytaskError, match="no column 'wet' in days"):
        polytask.fit(recipe)
