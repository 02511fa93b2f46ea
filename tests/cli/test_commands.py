"""Every command does what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from polytask import Recipe, __version__, fit, load
from polytask.cli.catalog import FAMILIES, summaries
from polytask.cli.commands import app
from polytask.cli.progress import CompareProgress
from polytask.evaluation.comparison import Comparison
from polytask.tuning.schema import searchable_schema
from tests.cli.command import LABELS, TASKS, done, fit_houses, mistake, polytask


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with houses.csv, new.csv and a run."""
    place = tmp_path_factory.mktemp("houses")
    (place / "said.txt").write_text(fit_houses(place), encoding="utf-8")
    return place


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_fit_says_what_it_guessed_how_it_went_and_what_comes_next() -> None:
    said = Path("said.txt").read_text(encoding="utf-8")
    for part in (
        "task 'price' is taken for regression: 160 different numbers from ",
        "Losses on the validation rows, divided by that of the best constant (1 knows nothing)\nepoch   1  mean ",
        "\nepoch   2  mean ",
        " of 2, ",
        "\nrows: 112 training, 24 validation, 24 test; ",
        "\nScores on the test rows\ntask        metric ",
        "\nsaved in run\nnext: polytask compare run\n      polytask predict run NEW.csv --out answers.csv\n",
    ):
        assert part in said, part
    assert "condition' is taken" not in said
    assert max(map(len, said.splitlines())) <= 100


def test_fit_saves_a_run_that_loads() -> None:
    run = load("run")
    assert [(task.name, task.kind) for task in run.recipe.tasks] == [
        ("price", "regression"),
        ("condition", "ordinal"),
        ("waterfront", "binary"),
    ]
    assert (run.recipe.drop, run.recipe.trainer.epochs, run.recipe.encoder.to_dict()["width"]) == (("id",), 2, 16)


def test_show_says_what_fit_said_and_how_far_the_gradients_agree() -> None:
    fitted, said = Path("said.txt").read_text(encoding="utf-8"), done("show", "run")
    scores = fitted[fitted.index("rows: ") : fitted.index("\nsaved in run")]
    assert said.startswith(scores)
    table = said.removeprefix(scores).strip().splitlines()
    assert table[0] == "Gradients of the shared parameters, mean over 1 look"
    assert [line.split()[0] for line in table[2:5]] == LABELS
    assert [len(line.split()) for line in table[2:6]] == [3, 3, 3, 5]
    assert float(table[2].split()[1]) == pytest.approx(load("run").conflicts().cosines["price", "condition"], abs=0.006)
    assert max(map(len, said.splitlines())) <= 100
    assert "Weights" not in said


def test_evaluate_prints_the_scores() -> None:
    said = done("evaluate", "run", "houses.csv")
    assert said.startswith("task        metric ")
    assert said.count("   160\n") == len(LABELS)


def test_predict_prints_csv_in_the_order_of_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    lines = done("predict", "run", "new.csv").splitlines() or capsys.readouterr().out.splitlines()
    assert lines[0] == "price,condition,waterfront"
    assert len(lines) == 21
    pd.read_csv("new.csv").iloc[::-1].to_csv("reversed.csv", index=False)
    backwards = done("predict", "run", "reversed.csv").splitlines()
    assert [line.split(",")[1:] for line in backwards[:0:-1]] == [line.split(",")[1:] for line in lines[1:]]


@pytest.mark.parametrize(("name", "read"), [("answers.csv", pd.read_csv), ("answers.parquet", pd.read_parquet)])
def test_predict_writes_a_file(name: str, read: Callable[[str], pd.DataFrame]) -> None:
    said = done("predict", "run", "new.csv", "--out", name)
    assert said == f"20 rows written to {name}: price, condition, waterfront\n"
    answers = read(name)
    pd.testing.assert_frame_equal(answers, load("run").predict(pd.read_csv("new.csv")), check_exact=False)
    Path(name).write_text("old", encoding="utf-8")
    done("predict", "run", "new.csv", "--out", name, "--overwrite", "--tasks", "condition", "--probabilities")
    columns = list(read(name).columns)
    assert columns[0] == "condition"
    assert all(column.startswith("condition:") for column in columns[1:])
    assert not list(Path().glob(".*.tmp"))


def test_compare_prints_and_saves_the_verdicts() -> None:
    said = done("compare", "run", "--seeds", "1")
    assert "training 1 of 3: boosted trees\ntraining 2 of 3: alone, seed 0\n" in said
    assert said.endswith("\nsaved in run/compare.json\n")
    saved = Comparison.from_dict(json.loads(Path("run/compare.json").read_text(encoding="utf-8")))
    assert list(saved.tasks) == LABELS
    assert str(saved) in said


def test_compare_picks_a_run() -> None:
    others = "{sharing: {kind: hard, stages: 0}, balancer: dwa}"
    words = ["--with", others, "--no-trees", "--seeds", "1", "--pick", "best", "--out", "picked"]
    said = done("compare", "run", *words)
    assert "hard(stages=0) + balancer:dwa" in said
    assert said.splitlines()[-1] == "next: polytask predict picked NEW.csv --out answers.csv"
    picked = load("picked").record["picked"]
    assert list(picked) == LABELS
    assert said.count("Scores on the test rows") == 1
    assert done("predict", "picked", "new.csv").startswith("price,condition,waterfront\n")
    assert "picked by validation losses of 3 ways to learn, 1 training of each: " in " ".join(done("show", "picked").split())
    assert "this run was picked" in mistake("compare", "picked")


@pytest.mark.parametrize(
    ("after", "told"), [(2, "not all had a training yet, so nothing is compared"), (3, "of the 1 of 2 seeds")]
)
def test_an_interrupted_comparison_keeps_the_seeds_that_are_done(
    after: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = CompareProgress.__call__

    def interrupted(progress: CompareProgress, name: str, number: int, total: int) -> None:
        shown(progress, name, number, total)
        if number == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(CompareProgress, "__call__", interrupted)
    place = Path("run/compare.json")
    place.unlink(missing_ok=True)
    answer = polytask("compare", "run", "--seeds", "2", "--no-trees")
    assert answer.code == 130
    assert answer.err.startswith(f"interrupted in training {after} of 4, of ")
    assert told in answer.err
    assert place.exists() == ("seed 0: of each task alone" in " ".join(answer.out.split())) == (after == 3)
    if after == 3:
        place.write_text("earlier")
        again = polytask("compare", "run", "--seeds", "2", "--no-trees")
        assert "run/compare.json is of an earlier comparison and stays, which --overwrite would replace" in again.err
        assert place.read_text() == "earlier"
        polytask("compare", "run", "--seeds", "2", "--no-trees", "--overwrite")
        assert json.loads(place.read_text())["seeds"] == [0]


def test_init_without_tasks_lists_the_columns() -> None:
    answer = polytask("init", "houses.csv")
    lines = answer.out.splitlines()
    assert lines[0] == "houses: 160 rows, 10 columns"
    kinds = {words[0]: words[1:3] for words in (line.split() for line in lines[2:]) if len(words) > 3}
    assert kinds["suburb"] == ["category", "multiclass"]
    assert kinds["sold"] == ["date", "-"]
    assert kinds["price"] == ["number", "regression"]
    assert kinds["waterfront"] == ["number", "binary"]
    assert answer.err.startswith("Choose what to predict: --task COLUMN")
    assert max(map(len, lines)) <= 100


def test_init_writes_a_recipe_that_fit_takes() -> None:
    answer = polytask("init", "houses.csv", *TASKS, "--epochs", "1")
    assert answer.err.startswith("task 'price' is taken for regression: ")
    assert "# guessed: 160 different numbers" in answer.out
    assert "# One of several classes in an order." in answer.out
    Path("recipe.yaml").write_text(answer.out, encoding="utf-8")
    done("fit", "recipe.yaml", "--set", "encoder.width=8", "--balancer", "dwa", "--seed", "5", "--out", "from-recipe")
    fitted = load("from-recipe").recipe.to_dict()
    asked = Recipe.from_yaml("recipe.yaml", ["encoder.width=8", "balancer=dwa", "seed=5"]).to_dict()
    assert {**fitted, "sources": None} == {**asked, "sources": None}


def test_fit_without_out_says_that_nothing_is_kept() -> None:
    said = done("fit", "houses.csv", "--task", "price:regression", "--epochs", "1", "--set", "encoder.width=8")
    assert said.startswith("note: the run will not be saved; --out FOLDER keeps it\n")
    assert "saved in" not in said


def test_overwrite_replaces_a_run() -> None:
    words = ["fit", "houses.csv", "--task", "price", "--epochs", "1", "--set", "encoder.width=8", "--out", "twice"]
    done(*words)
    done(*words, "--seed", "9", "--overwrite")
    assert load("twice").recipe.seed == 9


def test_a_data_set_per_task() -> None:
    frame = pd.read_csv("houses.csv")
    frame.drop(columns="condition").to_csv("prices.csv", index=False)
    frame.drop(columns="price").to_csv("conditions.csv", index=False)
    tasks = ["--task", "cost=prices.csv:price:regression", "--task", "shape=conditions.csv:condition"]
    said = done("fit", *tasks, "--epochs", "1", "--set", "encoder.width=8", "--out", "two")
    assert "task 'shape' is taken for ordinal" in said
    assert done("predict", "two", "prices.csv", "--tasks", "cost").startswith("cost\n")
    assert "shape" in done("evaluate", "two", "houses.csv", "--source", "conditions")
    assert "shape" not in done("evaluate", "two", "houses.csv", "--source", "prices")


def test_a_file_without_a_header() -> None:
    frame = pd.read_csv("houses.csv")[["age", "suburb", "lot", "price"]]
    frame.loc[3, "suburb"] = "?"
    for name in ("main.txt", "held.txt"):
        frame.to_csv(name, index=False, header=False, sep="|")
    words = ["main.txt", "--names", "age, suburb,lot,price", "--delimiter", "|", "--missing", "?", "--test", "held.txt"]
    said = done("fit", *words, "--task", "price", "--epochs", "1", "--set", "encoder.width=8", "--out", "bare")
    assert "rows: 136 training, 24 validation, 160 test" in said
    assert done("predict", "bare", "held.txt").count("\n") == 161


def test_names_with_colons_and_blanks() -> None:
    frame = pd.read_csv("houses.csv").rename(columns={"price": "price: total", "condition": "a = b"})
    frame.to_csv("strange.csv", index=False)
    words = ["--task", '"price: total":regression', "--task", '"a = b"', "--drop", "waterfront", "--set", "encoder.width=8"]
    said = done("fit", "strange.csv", *words, "--epochs", "1", "--out", "strange run")
    assert "next: polytask compare 'strange run'\n" in said
    assert done("predict", "strange run", "strange.csv", "--tasks", "price: total").startswith("price: total\n")


@pytest.mark.parametrize("family", FAMILIES)
def test_list(family: str) -> None:
    assert summaries(family).keys() <= {line.split()[0] for line in done("list", family).splitlines()}
    assert done("list", family) in done("list")


def test_describe_takes_a_family_in_singular_and_plural() -> None:
    said = done("describe", "balancer", "uncertainty")
    assert said == done("describe", "balancers", "uncertainty")
    assert "weights sum to" in said


def test_schema_is_that_of_a_recipe_to_be_searched() -> None:
    assert json.loads(done("schema")) == searchable_schema()


def test_version() -> None:
    assert done("--version") == f"polytask {__version__}\n"


@pytest.mark.parametrize(
    "command", sorted(info.name or str(getattr(info.callback, "__name__", "")) for info in app.registered_commands)
)
def test_help_explains_every_option(command: str) -> None:
    assert f" {command} " in done("--help")
    said = done(command, "--help")
    assert f"Usage: polytask {command} " in said.replace("root", "polytask")
    options = [line for line in said.splitlines() if line.startswith("│ --")]
    assert all(len(line.strip("│ ").split()) > 2 for line in options)
    assert ": }" not in said, "brackets are not taken for markup"


def test_demo_leaves_a_run_and_rows_to_predict() -> None:
    small = ["--set", "trainer.epochs=1", "--set", "sources.0.rows=200"]
    said = done("demo", "--out", "demo", *small)
    for task in ("left", "right", "total", "same"):
        assert f"\n{task} " in said
    command = said.splitlines()[-2].removeprefix("next: polytask ").split()
    assert done(*command).splitlines()[0] == "left,right,total,same"
    assert not {"left", "right", "total", "same"} & set(pd.read_csv("demo/new.csv").columns)
    assert yaml.safe_load(Path("demo/recipe.yaml").read_text(encoding="utf-8"))["sources"][0]["kind"] == "two_digits"
    assert said.splitlines()[-1].split() == ["polytask", "compare", "demo", "--seeds", "1"]


def test_resume_goes_on_with_what_was_stopped(tmp_path: Path) -> None:
    class CrashError(Exception):
        """Something outside of polytask goes wrong in the middle of a training."""

    def crash(_: object) -> None:
        raise CrashError

    whole = load("run")
    recipe = whole.recipe.model_copy(update={"trainer": whole.recipe.trainer.model_copy(update={"checkpoint": 0})})
    with pytest.raises(CrashError):
        fit(recipe, tmp_path / "stopped", on_epoch=crash)
    said = done("resume", tmp_path / "stopped")
    assert "\nepoch   2  mean " in said
    assert "\nScores on the test rows\n" in said
    assert load(tmp_path / "stopped").scores().to_dict() == whole.scores().to_dict()
    assert done("resume", tmp_path / "stopped").startswith(f"the training in {tmp_path / 'stopped'} is finished already\n")
    assert mistake("resume", tmp_path / "nothing").endswith("no training to go on with. `polytask fit ... --out` begins one.")


def test_keep_says_how_many_parameters_are_left_and_what_is_kept_answers_alike(folder: Path) -> None:
    said = done("keep", "run", "--tasks", "condition,price", "--out", "small")
    whole, small = load("run"), load("small")
    left, before = small.record["parameters"], whole.record["parameters"]
    assert said == f"kept price, condition: {left:,} of {before:,} parameters are left\nsaved in small\n"
    assert left < before
    new = pd.read_csv("new.csv")
    pd.testing.assert_frame_equal(small.predict(new), whole.predict(new, tasks=["price", "condition"]), check_exact=True)
    assert done("keep", "run", "--tasks", "price", "--out", "small", "--overwrite").startswith("kept price: ")
    assert "small" in mistake("keep", "run", "--tasks", "price", "--out", "small")
    assert mistake("keep", "run", "--tasks", "pirce", "--out", "other") == "no task 'pirce' in this run. Did you mean 'price'?"
    assert not Path("other").exists()
