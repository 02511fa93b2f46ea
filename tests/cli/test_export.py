"""`polytask export`: what it says, where it writes, and the mistakes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.command import done, fit_houses, mistake


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run."""
    place = tmp_path_factory.mktemp("export")
    fit_houses(place)
    return place


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_a_run_is_exported_beside_its_model_and_again(folder: Path) -> None:
    said = done("export", "run", "--to", "torch", "--tasks", "price")
    assert said.startswith(
        "agrees with predict on 1,000 made-up rows (some cells missing or unseen in training) and 160 rows of"
    )
    assert said.endswith(f"saved in {folder / 'run' / 'torch'}: README.md, metadata.json, model.pt2\n")
    assert "there is an exported model already" in mistake("export", "run", "--to", "torch")
    (folder / "houses.csv").rename(folder / "gone.csv")
    said = done("export", "run", "--to", "torch", "--tasks", "condition", "--overwrite")
    assert said.startswith("agrees with predict on 1,000 made-up rows (some cells missing or unseen in training), alone and")
    assert "run" in done("show", "run") or (folder / "run" / "run.json").is_file()


def test_mistakes_come_before_any_work(folder: Path) -> None:
    assert mistake("export", "run", "--to", "onxn") == "export: cannot export to 'onxn'. Did you mean 'onnx'?"
    assert "no such run folder" in mistake("export", "rum")
    assert mistake("export", "run", "--tasks", "pirce") == "no task 'pirce' in this run. Did you mean 'price'?"
    assert "holds something else than an exported model" in mistake("export", "run", "--out", "run", "--overwrite")
    shutil.copytree(folder / "run", folder / "damaged")
    (folder / "damaged" / "model" / "weights.safetensors").write_bytes(b"")
    assert "the weights are missing or damaged" in mistake("export", "damaged", "--out", "model")
    assert not (folder / "model").exists()
