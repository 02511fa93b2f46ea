from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from polytask import PolytaskError, Run
from polytask.export.serving import ExportedModel
from tests.conftest import ROOT
from tests.export.conftest import rows

CLEAN = """
import json, sys
from polytask import ExportedModel

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "sklearn", "scipy", "torchmetrics", "onnx", "onnxscript"}:
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Forbidden())
answers = ExportedModel(sys.argv[1]).predict(json.loads(sys.argv[2]), probabilities=True)
assert "torch" not in sys.modules
print(json.dumps(answers))
"""


def test_onnx_is_served_where_there_is_no_torch(run: Run, onnx: Path) -> None:
    given = rows(3, 5).drop(columns=["price", "sold"]).assign(sold=["2014-05-13", None, "2015-01-02"])
    cells = json.loads(given.to_json(orient="records"))
    command = [sys.executable, "-W", "error", "-c", CLEAN, str(onnx), json.dumps(cells)]
    done = subprocess.run(command, cwd=ROOT / "src", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = run.predict(given, probabilities=True)
    pd.testing.assert_frame_equal(pd.DataFrame(json.loads(done.stdout)), expected, rtol=1e-5, check_dtype=False)


def test_rows_may_come_as_a_list_a_frame_arrays_or_a_file(run: Run, onnx: Path, tmp_path: Path) -> None:
    model, frame = ExportedModel(onnx), rows(12, 5)
    frame.to_csv(tmp_path / "new.csv", index=False)
    of_frame = model.predict(frame, ["price"])["price"].to_numpy()
    cells = [{name: None if pd.isna(cell) else cell for name, cell in row.items()} for row in frame.to_dict("records")]
    assert [answer["price"] for answer in model.predict(cells, ["price"])] == pytest.approx(of_frame)
    del cells[0]["age"], cells[0]["suburb"]  # missing, where others have them
    assert len(model.predict(cells)) == 12
    assert model.predict({name: frame[name].to_numpy() for name in frame}, ["price"])["price"] == pytest.approx(of_frame)
    of_file = model.predict(tmp_path / "new.csv", ["price"])
    assert of_file["price"].to_numpy() == pytest.approx(of_frame)


def test_sets_of_columns_have_a_network_each_and_files_are_read_as_in_training(
    apart: Run, programs: Path, tmp_path: Path
) -> None:
    model = ExportedModel(programs)
    assert [graph.file for graph in model.metadata.graphs] == ["model-1.pt2", "model-2.pt2"]
    assert str(tmp_path.parent) not in (programs / "metadata.json").read_text()  # no path of the training
    for labels, more in ((["price"], ["sqft_living"]), (["condition"], [])):
        new = rows(20, 7)[[*more, "age", "suburb"]]
        file = tmp_path / f"{labels[0]}.csv"
        new.to_csv(file, index=False, na_rep="?", sep=";")
        answers = model.predict(file, probabilities=True)
        expected = apart.predict(file, probabilities=True)
        assert answers.column_names == expected.column_names
        assert answers.column_names[0] == labels[0]
        pd.testing.assert_frame_equal(answers.to_pandas(), expected.to_pandas(), rtol=1e-5)
    with pytest.raises(PolytaskError, match="task 'price' is not answered for rows with these columns"):
        model.predict(rows(3, 7)[["age", "suburb"]], ["price"])


def test_mistakes_are_told(onnx: Path) -> None:
    model, frame = ExportedModel(onnx), rows(5, 5)
    with pytest.raises(PolytaskError, match="the new rows: 1 input column is missing: 'suburb'"):
        model.predict(frame.drop(columns="suburb"))
    with pytest.raises(PolytaskError, match="Found: 'old' in row 2 of the new rows"):
        model.predict([{**dict.fromkeys(frame), "age": age} for age in ("3", "old")])
    with pytest.raises(PolytaskError, match="a column mixes types"):
        model.predict([{**dict.fromkeys(frame), "age": age} for age in (3, "old")])
    with pytest.raises(PolytaskError, match=r"not rows\. Found: an empty list"):
        model.predict([])
    with pytest.raises(PolytaskError, match="no source 'flats' in this run"):
        model.predict(frame, source="flats")
