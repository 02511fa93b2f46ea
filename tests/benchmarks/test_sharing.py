from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import sharing as module
from benchmarks.sharing import main, nearest_width, schemes, with_budget
from polytask.recipe import Recipe
from polytask.sources import Frame
from polytask.tasks import Multiclass, Regression
from tests.houses import houses


def recipe() -> Recipe:
    return Recipe(sources=[Frame(houses(200))], tasks=[Regression("sqft_living"), Multiclass("condition")], drop=["id"])


def test_the_width_nearest_in_parameters_is_found() -> None:
    assert nearest_width(lambda width: width**2, 100**2) == 100
    assert nearest_width(lambda width: width**2, 101**2) == 100
    assert nearest_width(lambda width: width**2, 103**2) == 104
    assert nearest_width(lambda width: width, 0) == 4


def test_schemes_have_as_many_parameters_whatever_their_width() -> None:
    small, prepared, _ = with_budget(recipe(), 5)
    found = {scheme.name: scheme for scheme in schemes(small, prepared, ["hard", "separate", "mmoe", "tree"], 64)}
    assert list(found) == ["hard", "hard stages=1", "separate", "mmoe", "tree"]
    assert found["hard"].encoder.width == 64
    assert found["separate"].encoder.width < 64
    target = found["hard"].parameters
    assert all(abs(scheme.parameters / target - 1) < 0.1 for scheme in found.values())
    assert found["hard stages=1"].flops == pytest.approx(found["tree"].flops, rel=0.01), "of two tasks it is the same network"


def test_the_command_prints_a_table_with_the_baseline_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "houses").mkdir()
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "SETS", {"houses": {"houses": recipe}})
    words = ["sharing", "--schemes", "hard,separate", "--quick", "--width", "16", "--keep", str(tmp_path / "kept.jsonl")]
    monkeypatch.setattr("sys.argv", words)
    for _ in range(2):
        main()
        lines = [line for line in capsys.readouterr().out.splitlines() if "|" in line]
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
        assert rows[2][0] == "separate"
        assert sorted(row[0] for row in rows[3:]) == ["hard", "hard stages=1"]
        assert rows[2][4:6] == ["", ""]
        assert all(row[4].endswith("%") and 0 < float(row[1]) < 3 for row in rows[3:])
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 3, "the second time nothing was trained"
