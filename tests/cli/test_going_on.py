"""`polytask fit --warm-start`: the words, what is said, and the mistakes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from polytask import Recipe, load
from tests.cli.command import LABELS, done, fit_houses, mistake, polytask
from tests.houses import houses

ADD = ["fit", "more.csv", "--task", "view:binary", "--epochs", "2", "--warm-start", "run"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and more.csv, whose rows have one more column to predict."""
    place = tmp_path_factory.mktemp("going-on")
    fit_houses(place)
    frame = houses(120, 3)
    frame.assign(view=(frame["lot"] > 700).astype(int)).to_csv(place / "more.csv", index=False)
    (place / "recipe.yaml").write_text(
        "sources: [more.csv]\ntasks: [{kind: binary, name: view}]\nencoder: {kind: tabm, width: 16}\n"
    )
    return place


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_a_task_is_added_with_the_encoder_of_the_run(folder: Path) -> None:
    said = " ".join(done(*ADD, "--freeze", "shared", "--out", "two").split())
    assert "tasks of the earlier run that answer as before, and have no scores here: 'price', 'condition', 'waterfront'" in said
    assert f"note: began with the weights of {folder / 'run'}; all before the heads stays as it was" in said
    two, one, new = load("two"), load("run"), pd.read_csv("new.csv")
    assert two.recipe.encoder == one.recipe.encoder
    assert two.recipe.encoder.to_dict()["width"] == 16
    assert list(two.scores()) == ["view"]
    pd.testing.assert_frame_equal(two.predict(new)[LABELS], one.predict(new), check_exact=True)
    assert done("predict", "two", "new.csv", "--tasks", "view").startswith("view\n")
    assert "cannot be compared" in mistake("compare", "two")


def test_without_tasks_it_goes_on_with_those_of_the_run_as_they_are_there(folder: Path) -> None:
    said = done("fit", "more.csv", "--warm-start", "run", "--epochs", "1", "--out", "again")
    assert "is taken for" not in said
    assert "begins anew" not in said
    assert "compare" not in said
    assert "next: polytask predict again NEW.csv" in said
    again, run = load("again"), load("run")
    assert [task.model_copy(update={"source": None}) for task in again.recipe.tasks] == list(run.recipe.tasks)
    one = done("fit", "more.csv", "--task", "condition", "--warm-start", "run", "--epochs", "1")
    assert "begins anew" not in one
    other = done("fit", "more.csv", "--task", "condition:regression", "--warm-start", "run", "--epochs", "1")
    assert "task 'condition' begins anew: its kind is 'regression', but 'ordinal' in the earlier run" in " ".join(other.split())


def test_a_recipe_begins_with_a_run(folder: Path) -> None:
    done("fit", "recipe.yaml", "--warm-start", "run", "--set", "trainer.epochs=1", "--out", "three")
    assert load("three").recipe.warm_start == load("three").recipe.warm_start.anchored()
    assert list(load("three").bundle.tasks) == ["view"]


def test_init_writes_it(folder: Path) -> None:
    drafted = polytask("init", "more.csv", "--task", "view:binary", "--warm-start", "run", "--freeze", "everything").out
    recipe = Recipe.from_yaml_text(drafted)
    assert (str(recipe.warm_start.run), recipe.warm_start.freeze) == ("run", "everything")
    assert recipe.encoder == load("run").recipe.encoder
    assert "warm_start: null" in polytask("init", "more.csv", "--task", "view:binary").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*ADD, "--freeze", "all"], "warm_start.freeze"),
        ([*ADD, "--encoder", "table"], "warm_start: encoder.kind is 'table', but 'tabm' in the earlier run. Give its encoder"),
        ([*ADD, "--set", "encoder.width=8"], "warm_start: encoder.width is 8, but 16 in the earlier run"),
        ([*ADD, "--task", "lot"], "source 'more': column 'lot' labels task 'lot', but it is an input of the earlier run"),
        (["fit", "more.csv", "--task", "view", "--warm-start", "rum"], "no such run folder"),
        (["fit", "more.csv", "--task", "view", "--warm-start", "more.csv"], "more.csv: no such run folder"),
        (["fit", "more.csv", "--task", "view:binary", "--freeze", "shared"], "warm_start: WarmStart needs 'run'. Give 'run'."),
        (["fit", "recipe.yaml", "--warm-start", "run", "--set", "encoder.width=9"], "encoder.width is 9, but 16"),
        (["fit", "houses.csv", "--task", "price", "--warm-start", "run", "--freeze", "everything"], "nothing would be trained"),
        (
            ["fit", "new.csv", "--task", "rooms", "--warm-start", "run"],
            "column 'rooms' labels task 'rooms', but it is an input",
        ),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    assert message in mistake(*words)
