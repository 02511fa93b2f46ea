from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx as onnx_format
import onnxruntime
import pandas as pd
import pytest

from polytask import Frame, PolytaskError, Recipe, Run, Table, Trainer, fit
from polytask.export import agreement, exporting
from polytask.export.agreement import NEVER_SEEN, made_up_rows
from polytask.export.serving import ExportedModel
from polytask.task import Task
from tests.conftest import ROOT
from tests.export.conftest import TASKS, rows
from tests.houses import houses


def assert_same(answers: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(answers, expected, rtol=1e-5, atol=1e-5)


def test_every_task_answers_as_in_predict(run: Run, onnx: Path) -> None:
    assert len(run.bundle.manifest.snapshots) > 1  # networks of several epochs
    model, new = ExportedModel(onnx), rows(60, 5).assign(suburb=lambda frame: frame["suburb"].where(frame.index > 5, "moon"))
    assert_same(model.predict(new, probabilities=True), run.predict(new, probabilities=True))
    assert_same(model.predict(new[:1], ["price", "tags"]), run.predict(new[:1], ["price", "tags"]))
    assert len(model.predict(new[:0])) == 0


def test_what_is_written_says_that_it_agrees(run: Run, onnx: Path, tmp_path: Path) -> None:
    card = (onnx / "README.md").read_text()
    assert (
        "It agrees with predict on 1,000 made-up rows (some cells missing or unseen in training) and 150 rows of houses" in card
    )
    for task in TASKS:
        assert f"**{task.name}**" in card
    assert sorted(file.name for file in onnx.iterdir()) == ["README.md", "metadata.json", "model.onnx"]


def test_the_file_is_plain_onnx_with_named_outputs_for_any_number_of_rows(onnx: Path) -> None:
    network = onnx_format.load(onnx / "model.onnx")
    onnx_format.checker.check_model(network, full_check=True)
    session = onnxruntime.InferenceSession(onnx / "model.onnx")
    outputs = {item.name: item.shape for item in session.get_outputs()}
    assert list(outputs)[:4] == ["price:value", "sqft_living:value", "condition:label", "condition:probability"]
    assert outputs["no. of 'lots':quantiles"][1:] == [3]
    assert all(isinstance(shape[0], str) for shape in outputs.values())
    assert [item.name for item in session.get_inputs()] == ["numbers", "categories"]
    written = b"".join(file.read_bytes() for file in onnx.iterdir())
    assert str(ROOT).encode() not in written
    assert b"polytask/export" not in written


def test_some_tasks_alone_make_a_smaller_network(run: Run, onnx: Path, tmp_path: Path) -> None:
    run.export(tmp_path / "small", "torch", ["condition"])
    small = ExportedModel(tmp_path / "small")
    assert small.metadata.graphs[0].outputs == ("condition:label", "condition:probability")
    new = rows(20, 5)
    assert_same(small.predict(new, probabilities=True), run.predict(new, ["condition"], probabilities=True))
    assert "price" not in (tmp_path / "small" / "README.md").read_text().split("## Inputs")[0]
    with pytest.raises(PolytaskError, match=r"no task 'price' in this model\. There is: condition"):
        small.predict(new, ["price"])


def test_made_up_rows_have_holes_and_strangers_in_every_kind_of_column(run: Run) -> None:
    table = made_up_rows(run.bundle.manifest.inputs[0].codec, 1000)
    assert all(column.null_count > 50 for column in table.columns)
    assert NEVER_SEEN in table["suburb"].to_pylist()
    assert {str(field.type) for field in table.schema} == {"double", "string", "bool", "timestamp[us]"}


def test_what_does_not_agree_is_refused_and_nothing_is_left(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "TOLERANCE", 0.0)
    what = r"task '\w+': the exported network does not say what predict says, so nothing was written. Found: a \w+ is off by"
    with pytest.raises(PolytaskError, match=what):
        run.export(tmp_path / "model", "torch", ["price", "condition"])
    assert list(tmp_path.iterdir()) == []


def test_labels_may_differ_at_ties_only() -> None:
    near = agreement._near_tie
    probability = np.array([[0.4, 0.4 + 1e-7, 0.2], [0.6, 0.3, 0.1]])
    assert near(np.array([1, 1]), np.array([0, 0]), probability, (0.5,)).tolist() == [True, False]
    assert near(np.array([1, 1]), np.array([0, 0]), np.array([0.3 + 1e-7, 0.7]), (0.3,)).tolist() == [True, False]
    assert near(np.array([1]), np.array([0]), None, (0.5,)).tolist() == [False]


def test_a_task_whose_answer_is_no_column_is_refused(tmp_path: Path) -> None:
    ranking = Task.coerce({"kind": "ranking", "name": "price"})
    trainer = Trainer(epochs=1, device="cpu")
    asked = Recipe(sources=[Frame(houses(80))], tasks=[ranking, TASKS[2]], encoder=Table(width=8, depth=1), trainer=trainer)
    run = fit(asked)
    with pytest.raises(PolytaskError, match="task 'price': the answers of a ranking task are more than columns"):
        run.export(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_told(run: Run, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def complaint(*arguments: object, **options: object) -> str:
        with pytest.raises(PolytaskError) as caught:
            run.export(*arguments, **options)  # type: ignore[arg-type]
        return str(caught.value)

    assert complaint(tmp_path / "new", "onxn") == "export: cannot export to 'onxn'. Did you mean 'onnx'?"
    assert complaint(tmp_path / "new", tasks=["pirce"]) == "no task 'pirce' in this run. Did you mean 'price'?"
    assert "there is an exported model already" in complaint(onnx)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert "holds something else than an exported model" in complaint(tmp_path / "mine", overwrite=True)
    assert "is a file, not a folder for a model" in complaint(tmp_path / "mine" / "letter.txt")
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else find_spec(name))
    lacking = 'export: exporting to onnx needs onnxscript. Install them: pip install "polytask[onnx]".'
    assert complaint(tmp_path / "new") == lacking
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "written by a newer polytask"),
        ({"format": "one"}, "not of an exported model"),
        ({"target": "pickle"}, "the file cannot be used"),
        ({"graphs": []}, "the file cannot be used"),
        ({"file": "../other/model.onnx"}, "the file cannot be used"),
        ({"file": "model-2.onnx"}, "the network is missing or damaged. Found: no such file"),
        ({"inputs": ["numbers"]}, "the network is not the one that the metadata tell of"),
    ],
)
def test_damaged_metadata_are_told(onnx: Path, tmp_path: Path, change: dict[str, object], words: str) -> None:
    fields = json.loads((onnx / "metadata.json").read_text())
    (fields["graphs"][0] if change.keys() & {"file", "inputs"} else fields).update(change)
    (tmp_path / "metadata.json").write_text(json.dumps(fields))
    (tmp_path / "model.onnx").write_bytes((onnx / "model.onnx").read_bytes())
    with pytest.raises(PolytaskError, match=words):
        ExportedModel(tmp_path)


def test_a_damaged_network_is_told(onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(PolytaskError, match=r"it has no metadata\.json\. Give the folder that `polytask export` wrote"):
        ExportedModel(tmp_path)
    (tmp_path / "metadata.json").write_bytes((onnx / "metadata.json").read_bytes())
    (tmp_path / "model.onnx").write_bytes((onnx / "model.onnx").read_bytes()[:1000])
    with pytest.raises(PolytaskError, match="the network is missing or damaged"):
        ExportedModel(tmp_path)
