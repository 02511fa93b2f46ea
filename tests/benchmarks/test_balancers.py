from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import _trainings
from benchmarks import balancers as module
from benchmarks.balancers import fits, main, show
from benchmarks.balancing import balancers
from polytask.recipe import Recipe
from polytask.sources import Frame
from polytask.tasks import Multiclass, Regression
from tests.houses import houses

CHANGES = ["encoder={kind: table, width: 16}", "trainer.epochs=2"]


@pytest.fixture(autouse=True)
def _made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe() -> Recipe:
        return Recipe(sources=[Frame(houses(300))], tasks=[Regression("sqft_living"), Multiclass("condition")], drop=["id"])

    (tmp_path / "houses").mkdir()
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "SETS", {"houses": {"houses": recipe}})


def test_every_engine_trains_and_the_table_is_sorted(capsys: pytest.CaptureFixture[str]) -> None:
    asked = balancers(["equal", "fixed", "mgda"])
    results = list(zip(asked, fits("houses", asked, CHANGES, 2), strict=True))
    assert [[fit.seed for fit in found] for _, found in results] == [[0, 1]] * 4
    for balancer, found in results:
        assert all(fit.parts == {"balancer": balancer.to_dict()} for fit in found)
        assert all(0 < loss < 2 for fit in found for loss in fit.losses.values())
        assert found[0].losses != found[1].losses
    equal, fixed, exact, features = (found[0].losses for _, found in results)
    assert fixed == pytest.approx(equal, rel=1e-4)  # its weights are all alike
    assert exact != pytest.approx(equal, rel=1e-3)
    assert exact != pytest.approx(features, rel=1e-6)
    capsys.readouterr()
    show("houses", results)
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].startswith("| balancer | gradients | sqft_living | condition | mean | seconds | to equal |")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[5:]]
    assert sorted((row[0], row[1]) for row in rows) == [("equal", ""), ("fixed", ""), ("mgda", "exact"), ("mgda", "features")]
    means = [float(row[4].strip("*")) for row in rows]
    assert means == sorted(means)
    assert next(row for row in rows if row[0] == "equal")[-1] == "1.00"


def test_what_the_file_has_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, asked = tmp_path / "kept.jsonl", balancers(["equal"])
    (first,) = fits("houses", asked, CHANGES, 1, kept)
    assert len(kept.read_text().splitlines()) == 1
    (both,) = fits("houses", asked, CHANGES, 2, kept)
    assert both[0] == first[0]
    assert len(kept.read_text().splitlines()) == 2
    monkeypatch.setattr(_trainings, "train_bundle", None)  # would fail
    assert next(fits("houses", asked, CHANGES, 2, kept)) == both
    with pytest.raises(TypeError):
        next(fits("houses", asked, [*CHANGES, "trainer.clip=2.0"], 1, kept))


def test_the_command_prints_a_table_for_each_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["balancers", "--sets", "houses", "--kinds", "equal,dwa", "--quick", "--set", "encoder={kind: table, width: 8}"]
    monkeypatch.setattr("sys.argv", words)
    main()
    out = capsys.readouterr().out
    assert "trainer.epochs=1, encoder={kind: table, width: 8}" in out
    assert {line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| ")} == {"balancer", "equal", "dwa"}
    (tmp_path / "houses").rmdir()
    main()
    assert f"houses: not in {tmp_path}" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["balancers", "--sets", "house"])
    with pytest.raises(SystemExit):
        main()
    assert "no 'house'" in capsys.readouterr().err
