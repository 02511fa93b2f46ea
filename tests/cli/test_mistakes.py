"""No mistake of a user shows a traceback: each is told on one line that says how to mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from polytask.errors import PolytaskError
from tests.cli.command import fit_houses, mistake, polytask

FIT = ["fit", "houses.csv", "--task", "price:regression", "--epochs", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with houses.csv, new.csv, a run and some things that are none of these."""
    place = tmp_path_factory.mktemp("mistakes")
    fit_houses(place)
    (place / "recipe.yaml").write_text("sources: [houses.csv]\ntasks: [{kind: regression, name: price}]\n", encoding="utf-8")
    (place / "list.yaml").write_text("- 1\n", encoding="utf-8")
    (place / "broken.yaml").write_text("a: [\n", encoding="utf-8")
    (place / "less.csv").write_text("rooms,age\n1,2\n", encoding="utf-8")
    (place / "empty.csv").write_text("", encoding="utf-8")
    (place / "binary.csv").write_bytes(b"\xff\xfe\x00\x01" * 20)
    (place / "kept.csv").write_text("kept", encoding="utf-8")
    (place / "results").mkdir()
    (place / "results" / "mine.txt").write_text("mine", encoding="utf-8")
    return place


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit"], "no task is named. Say what to predict: --task COLUMN. `polytask init FILES` lists the columns."),
        (["fit", "houses.csv"], "no task is named"),
        (["fit", "--task", "price"], "no data file is named"),
        (["fit", "house.csv", "--task", "price"], "Did you mean 'houses.csv'?"),
        (["fit", "nowhere/houses.csv", "--task", "price"], "no folder 'nowhere'"),
        (["fit", "empty.csv", "--task", "price"], "empty.csv: the file is empty"),
        (["fit", "binary.csv", "--task", "price"], "binary.csv: the file is not utf-8 text"),
        (
            ["fit", "less.csv", "--task", "rooms"],
            "task 'rooms', column 'rooms': there is nothing to learn. Found: 1 in every row.",
        ),
        (["fit", "houses.csv", "--task", "pirce"], "task 'pirce': no column 'pirce' in houses. Did you mean 'price'?"),
        (
            ["fit", "houses.csv", "--task", "pirce:regression"],
            "task 'pirce': no column 'pirce' in houses. Did you mean 'price'?",
        ),
        (["fit", "houses.csv", "--task", "x=houses.csv:pirce"], "task 'x': no column 'pirce' in houses. Did you mean 'price'?"),
        (
            ["fit", "houses.csv", "--task", "price:regresion"],
            "task 'price': no kind of task 'regresion'. Did you mean 'regression'?",
        ),
        (["fit", "houses.csv", "--task", "a:b"], "quote it: --task '\"a:b\"'"),
        (["fit", "houses.csv", "--task", "sold"], "task 'sold', column 'sold': a column of timestamp[us] is no task"),
        (["fit", "houses.csv", "--task", "suburb:regression", "--epochs", "1"], "labels are not numbers. Found: '"),
        (["fit", "houses.csv", "--task", "age:binary", "--epochs", "1"], "a binary task has two classes"),
        (["fit", "houses.csv", "--task", "a:b:c"], "--task a:b:c: not a task. Write name, name:kind or name=file:column:kind"),
        (["fit", "nowhere.csv", "--task", '"a'], '--task "a: the quote " is never closed'),
        ([*FIT, "--task", "price:count"], "two tasks are called 'price'"),
        ([*FIT, "--drop", "idd"], "drop: no column 'idd'. Did you mean 'id'?"),
        ([*FIT, "--drop", "id,idd"], "drop: no column 'idd'. Did you mean 'id'?"),
        ([*FIT, "--column", "rooms"], "--column rooms: not a column and its kind"),
        ([*FIT, "--column", "rooms:categry"], "columns.rooms: "),
        ([*FIT, "--column", "suburb:number"], "column 'suburb'"),
        ([*FIT, "--inputs", "age,roms"], "no column 'roms'. Did you mean 'rooms'?"),
        ([*FIT, "--primary", "prize"], "primary: no task 'prize'. Did you mean 'price'?"),
        ([*FIT, "--group", "subrub"], "no column 'subrub'. Did you mean 'suburb'?"),
        ([*FIT, "--time", "solt"], "no column 'solt'. Did you mean 'sold'?"),
        ([*FIT, "--time", "sold", "--group", "suburb"], "a split by time has no room for group"),
        ([*FIT, "--test", "less.csv"], "the test part lacks 8 of the main part's 10 columns"),
        ([*FIT, "--test", "nowhere.csv"], "no file 'nowhere.csv'"),
        ([*FIT, "less.csv", "--test", "houses.csv"], "--test: it is not clear which of the 2 files this part belongs to"),
        ([*FIT, "--set", "trainer.epoch=3"], "Trainer has no field 'epoch'. Did you mean 'epochs'?"),
        ([*FIT, "--set", "trainer.epochs"], "--set: 'trainer.epochs' does not say what to set"),
        ([*FIT, "--set", "trainer.epochs=["], "--set trainer.epochs: cannot read the value '['"),
        ([*FIT, "--set", "trainr.epochs=3"], "Recipe has no field 'trainr'. Did you mean 'trainer'?"),
        ([*FIT, "--set", "tasks.prize.weight=3"], "--set: no 'prize' at 'tasks.prize'. Did you mean 'price'?"),
        ([*FIT, "--set", "encoder.wdth=3"], "encoder.wdth: TabM has no field 'wdth'. Did you mean 'width'?"),
        ([*FIT, "--set", "trainer.optimizer.name=Adm"], "Did you mean 'Adam'?"),
        ([*FIT, "--epochs", "0"], "epochs: Trainer: should be greater than or equal to 1. Found: 0."),
        ([*FIT, "--seed", "-1"], "seed: Recipe: should be greater than or equal to 0. Found: -1."),
        ([*FIT, "--balancer", "uncertanty"], "no balancer of kind 'uncertanty'. Did you mean 'uncertainty'?"),
        ([*FIT, "--encoder", "tabel"], "no encoder of kind 'tabel'. Did you mean 'table'?"),
        ([*FIT, "--delimiter", ";;"], "delimiter: CSV: "),
        ([*FIT, "--decimal", ";"], "decimal: CSV: "),
        ([*FIT, "--encoding", "utf-99"], "encoding: CSV: no such encoding"),
        ([*FIT, "--names", "a,b"], "houses.csv: 2 names for 10 columns"),
        (["fit", "t.arff", "--task", "y:binary", "--delimiter", ";"], "--delimiter: it does not go with arff files"),
        (["fit", "t.parquet", "--task", "y:binary", "--date-order", "ymd"], "--date-order: it does not go with parquet files"),
        ([*FIT, "--out", "run"], "run: there is a run already. Choose another folder, or --overwrite"),
        ([*FIT, "--out", "houses.csv"], "houses.csv: is a file, not a folder for a run"),
        ([*FIT, "--out", "results", "--overwrite"], "results: the folder holds something else than a run"),
        (["fit", "nowhere.yaml"], "nowhere.yaml: no file 'nowhere.yaml' in"),
        (["fit", "list.yaml"], "list.yaml: not a recipe"),
        (["fit", "broken.yaml"], "broken.yaml: not valid YAML"),
        (["fit", "recipe.yaml", "houses.csv"], "give one recipe, or data files, not both. Found: recipe.yaml, houses.csv."),
        (["fit", "recipe.yaml", "recipe.yaml"], "give one recipe, or data files, not both"),
        (["fit", "recipe.yaml", "--task", "price", "--drop", "id"], "recipe.yaml: a recipe says this already: --task, --drop."),
        (["fit", "recipe.yaml", "--names", "a"], "recipe.yaml: a recipe says this already: --names"),
        (["init"], "no data file is named"),
        (["init", "nowhere.csv"], "no file 'nowhere.csv'"),
        (["init", "recipe.yaml"], "recipe.yaml: this is a recipe already"),
        (["init", "houses.csv", "--task", "sold"], "a column of timestamp[us] is no task"),
        (["evaluate", "nowhere", "houses.csv"], "nowhere: no such run folder"),
        (["evaluate", "results", "houses.csv"], "not a polytask model: it has no manifest"),
        (["evaluate", "houses.csv", "houses.csv"], "houses.csv: no such run folder"),
        (["evaluate", "run", "nowhere.csv"], "no file 'nowhere.csv'"),
        (["evaluate", "run", "new.csv"], "evaluate: the rows have no label column"),
        (["evaluate", "run", "houses.csv", "--source", "huoses"], "no source 'huoses' in this run. Did you mean 'houses'?"),
        (["predict", "run", "less.csv"], "input columns are missing"),
        (["predict", "run", "houses.csv", "--tasks", "prize"], "no task 'prize' in this run. Did you mean 'price'?"),
        (["predict", "run", "houses.csv", "--out", "answers.txt"], "answers.txt: answers are written as .csv or .parquet"),
        (
            ["predict", "run", "houses.csv", "--out", "kept.csv"],
            "kept.csv: the file exists. Choose another name, or --overwrite.",
        ),
        (["predict", "run", "houses.csv", "--out", "nowhere/a.csv"], "nowhere/a.csv: no folder 'nowhere'"),
        (["predict", "nowhere", "houses.csv"], "nowhere: no such run folder"),
        (["compare", "nowhere"], "nowhere: no such run folder"),
        (["compare", "run", "--with", "mmoe,mmeo"], "compare, mmeo: no sharing of kind 'mmeo'. Did you mean 'mmoe'?"),
        (
            ["compare", "run", "--with", "cagrad"],
            "compare, cagrad: no sharing of kind 'cagrad'. Did you mean 'balancer:cagrad'?",
        ),
        (["compare", "run", "--with", "balancre:dwa"], "no part 'balancre' that can differ. Did you mean 'balancer'?"),
        (
            ["compare", "run", "--with", "balancer:fixed"],
            "Fixed needs 'weights'. Give 'weights'. With fields it is a mapping: {balancer: {kind: fixed, ...}}.",
        ),
        (["compare", "run", "--with", "separate"], "separate shares nothing: it is what the others are compared with."),
        (["compare", "run", "--with", "hard"], "compare, hard: this is what the run has already."),
        (["compare", "run", "--with", "mmoe,mmoe"], "compare, mmoe: this is the same as 'mmoe'."),
        (["compare", "run", "--with", "{sharing: mmoe"], "--with {sharing: mmoe: cannot be read."),
        (
            ["compare", "run", "--with", "{sharing: {kind: mmoe, expert: 2}}"],
            "MMoE has no field 'expert'. Did you mean 'experts'?",
        ),
        (["compare", "run", "--pick", "worst", "--out", "x"], "--pick: there is one way to pick. Found: worst."),
        (["compare", "run", "--pick", "best"], "--pick: a run that is picked is saved, and no other is."),
        (["compare", "run", "--pick", "best", "--out", "run"], "run: there is a run already."),
        (["list", "balancrs"], "there are no 'balancrs' to choose from. Did you mean 'balancers'?"),
        (["describe", "blancer", "dwa"], "there are no 'blancer' to choose from. Did you mean 'balancers'?"),
        (["describe", "balancer", "dwaa"], "no balancer of kind 'dwaa'. Did you mean 'dwa'?"),
        (["demo", "--out", "results"], "results: the folder holds something else than a run"),
        (["demo", "--out", "new-demo", "--set", "trainer.epohcs=1"], "Did you mean 'epochs'?"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    assert message in mistake(*words)
    assert Path("kept.csv").read_text(encoding="utf-8") == "kept"
    assert not Path("new-demo").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ftt"], "No such command 'ftt'. Did you mean 'fit'?"),
        ([*FIT, "--tsk", "price"], "No such option: --tsk (Possible options: "),
        ([*FIT, "--seed", "x"], "Invalid value for '--seed'"),
        (["describe", "balancer"], "Missing argument 'KIND'"),
        (["compare", "run", "--seeds", "0"], "Invalid value for '--seeds'"),
    ],
)
def test_usage(words: list[str], message: str) -> None:
    answer = polytask(*words)
    assert answer.code == 2
    assert message in " ".join(answer.err.split())


def test_data_that_changed_since_the_run_are_not_compared() -> None:
    fit_houses(Path.cwd(), "changed")
    text = Path("houses.csv").read_text(encoding="utf-8")
    Path("houses.csv").write_text(text + text.splitlines()[-1] + "\n", encoding="utf-8")
    assert "the data of 'houses' changed since this run. Fit again." in mistake("compare", "changed")
    Path("houses.csv").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("words", [["--debug", "list", "nothing"], ["list", "nothing", "--debug"]])
def test_debug_lets_the_traceback_through(words: list[str]) -> None:
    with pytest.raises(PolytaskError, match="to choose from"):
        polytask(*words)
